"""Models as MLflow keeps them: written as its own kind of folder, and registered under a name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, connect, first_line, readable, without_password
from softnce_ray.tracking.moved import at_home, expect_here
from softnce_ray.tracking.parent import parent_of

CHAMPION = "champion"
"""The alias of the version that is to be served."""

_CODE = Path(__file__).with_name("served_model.py")
_NEEDED = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")
_OURS = "softnce_ray"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model that the alias now names, and the one that it named before, if any."""

    name: str
    version: str
    before: str | None


def study_of_run(store: Store, run_id: str) -> str:
    """The study that a trial's run belongs to.

    Raises:
      TrackingError: no such store or run, or the run is no trial.
    """
    client = connect(store, must_exist=True)
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise TrackingError(
            f"no run {run_id} in {without_password(store.tracking_uri)}: give the id of a trial's run, or a study"
        ) from None
    if run.data.tags.get("role") != "trial" or run.info.lifecycle_stage != "active":
        what = (
            "deleted" if run.info.lifecycle_stage != "active" else f"the run of {run.data.tags.get('role', 'no study')}"
        )
        raise TrackingError(
            f"expected the run of a trial, got {run_id}, which is {what}: give a trial's run or a study"
        )
    return client.get_experiment(run.info.experiment_id).name


@readable
def corpus_of_study(store: Store, study: str) -> str:
    """The corpus folder as the study's last launch named it; it may be relative to where that was.

    Raises:
      TrackingError: no such store or study.
    """
    return parent_of(connect(store, must_exist=True), store, study).data.tags["corpus"]


def write_served(folder: Path, encoder: Path, *, example: str) -> None:
    """Make `folder`, an MLflow model around an exported ONNX folder.

    Its input is texts: a list, an array, a series, or a frame with a column `text`; its output (n, width) float32; the
    parameter `side`, `query` or `code`, says how many tokens of a text are read.
    """
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),  # without a name: MLflow refuses lists where columns have one
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        params=ParamSchema([ParamSpec("side", DataType.string, "code")]),
    )
    with _quiet():
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(_CODE),
            artifacts={"encoder": encoder.absolute().as_uri()},
            signature=signature,
            input_example=([example], {"side": "query"}),
            pip_requirements=[f"{name}=={version(name)}" for name in _NEEDED],
        )


def check_name(store: Store, name: str) -> None:
    """Refuse a name that another's registered model has, before any work is done for it.

    Raises:
      TrackingError: the name is taken, or the store has no registry.
    """
    _taken(connect(store, must_exist=True), name)


def register(store: Store, folder: Path, name: str, *, run_id: str, tags: Mapping[str, str]) -> Registered:
    """Keep an MLflow model in the store as a model of a run and as the next version of `name`, and let the alias
    `champion` name it. What fails is taken back.

    Raises:
      TrackingError: the name is taken by what is not of this system, or the store refuses.
      StoreError: the study's files lie in another store.
    """
    client = connect(store, must_exist=True)
    with at_home(store):
        known, model_id, named, made = _taken(client, name), None, False, None
        try:
            experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
            expect_here(store, experiment.artifact_location, writes=True)
            kept = client.create_logged_model(experiment.experiment_id, name="encoder", source_run_id=run_id)
            model_id = kept.model_id
            client.log_model_artifacts(model_id, str(folder))
            client.finalize_logged_model(model_id, "READY")
            if known is None:
                client.create_registered_model(name, tags={_OURS: "encoder"})
                named = True
            # Not `models:/ID`: MLflow looks that up in the process' default store, whatever store this client is of.
            made = client.create_model_version(name, kept.artifact_location, run_id, dict(tags), model_id=model_id)
            client.set_registered_model_alias(name, CHAMPION, made.version)
        except BaseException as error:
            with contextlib.suppress(Exception):
                if made is not None:
                    client.delete_model_version(name, made.version)
                if named:
                    client.delete_registered_model(name)
            with contextlib.suppress(Exception):
                if model_id is not None:
                    client.delete_logged_model(model_id)
            if isinstance(error, MlflowException):
                raise TrackingError(f"the MLflow store refuses to register {name!r}: {first_line(error)}") from error
            raise
    return Registered(name, str(made.version), known or None)


def _taken(client: MlflowClient, name: str) -> str | None:
    """The version of our registered model that is champion, "" for none; None where the name is free."""
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise TrackingError(f"{name!r} cannot be registered: {first_line(error)}; give another --register") from error
    if found.tags.get(_OURS) != "encoder":
        raise TrackingError(f"the registered model {name!r} is not one of ours: give another --register")
    return str(found.aliases.get(CHAMPION, ""))


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Without what MLflow says of a model that it writes."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.models.model", "mlflow.pyfunc")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
