"""What trials share, made once: token ids and estimators. Trials get names of folders and map the files into memory."""

from softnce_ray.preparation.making import learns, prepare
from softnce_ray.preparation.opening import Prepared, open_data, partners, with_answers

__all__ = ["Prepared", "learns", "open_data", "partners", "prepare", "with_answers"]
