"""Export of a study's best model: folders that other libraries load, each read by a fresh process before it appears."""

from softnce_ray.export.checking import TOLERANCE
from softnce_ray.export.exporting import Exported, export, write_export
from softnce_ray.export.formats import FORMATS
from softnce_ray.model import ExportError, load_export

__all__ = ["FORMATS", "TOLERANCE", "ExportError", "Exported", "export", "load_export", "write_export"]
