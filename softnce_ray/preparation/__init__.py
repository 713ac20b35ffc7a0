"""What trials share, made once: token ids and estimators. Trials get names of folders and map the files into memory."""

from softnce_ray.preparation.making import learns, prepare, to_learn
from softnce_ray.preparation.opening import Prepared, open_data, partners, with_answers
from softnce_ray.preparation.reading import content_of
from softnce_ray.preparation.vectors import infonce_trial

__all__ = [
    "Prepared",
    "content_of",
    "infonce_trial",
    "learns",
    "open_data",
    "partners",
    "prepare",
    "to_learn",
    "with_answers",
]
