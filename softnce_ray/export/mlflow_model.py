"""MLflow: a model of any Python code (pyfunc) around the ONNX graph, so that serving needs neither torch nor this
package: mlflow, onnxruntime and tokenizers suffice."""

from __future__ import annotations

import shutil
from pathlib import Path

from softnce_ray.digests import write_digests
from softnce_ray.export import onnx_graph
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.model import Model, settings_json
from softnce_ray.temporary import temporary_folder

_RECIPE = """\
import mlflow

model = mlflow.pyfunc.load_model(folder)


def encode(texts, side="code"):
    return model.predict(texts, params={"side": side})
"""

problem = onnx_graph.problem


def write(model: Model, folder: Path) -> None:
    """Write the files into an existing folder."""
    from softnce_ray.tracking.models import write_served

    with temporary_folder() as work:
        graph, made = work / "encoder", work / "model"
        graph.mkdir()
        onnx_graph.write(model, graph)
        (graph / EXPORT_SETTINGS).write_text(settings_json(model.config))
        write_digests(graph)  # which the served code compares
        write_served(made, graph, example="parse a date string")
        shutil.copytree(made, folder, dirs_exist_ok=True)


def recipe(model: Model) -> str:
    return _RECIPE
