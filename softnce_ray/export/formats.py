"""The formats of an export: what writes each, and the few lines of Python that read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from softnce_ray.export import hf, mlflow_model, onnx_graph, sentence_modules
from softnce_ray.model import Model


@dataclass(frozen=True)
class Format:
    """A format of an export.

    Attributes:
      write: puts a model's files into an existing folder.
      recipe: Python that defines `encode(texts, side)` of the folder named in `folder`. The card shows it, and the
        check after writing runs it.
      problem: why a model cannot have this format, or None.
      library: as the card's header names it.
      searchable: `softnce-ray search` can use the folder.
    """

    write: Callable[[Model, Path], None]
    recipe: Callable[[Model], str]
    problem: Callable[[Model], str | None]
    library: str
    searchable: bool


FORMATS = {
    "hf": Format(hf.write, hf.recipe, hf.problem, "transformers", True),
    "sentence-transformers": Format(
        sentence_modules.write,
        sentence_modules.recipe,
        sentence_modules.problem,
        "sentence-transformers",
        True,
    ),
    "onnx": Format(onnx_graph.write, onnx_graph.recipe, onnx_graph.problem, "onnx", False),
    "mlflow": Format(mlflow_model.write, mlflow_model.recipe, mlflow_model.problem, "mlflow", False),
}

DEFAULT = ("sentence-transformers",)
