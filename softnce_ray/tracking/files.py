"""Files of a run, fetched to be read; one that is damaged is told with what makes it anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from softnce_ray.commands import command
from softnce_ray.store import Store
from softnce_ray.temporary import temporary_folder
from softnce_ray.tracking.connection import TrackingError
from softnce_ray.tracking.credentials import masked
from softnce_ray.tracking.faults import fault_of, reason
from softnce_ray.tracking.moved import files_of


class DamagedError(TrackingError):
    """A file of a run that is missing, damaged, or another's."""


@contextlib.contextmanager
def fetched(store: Store, run: Run, name: str) -> Iterator[Path]:
    """A copy of a run's file, which goes with the context: MLflow would leave it lying about.

    Raises:
      OSError, MlflowException: it is not there, or cannot be fetched.
    """
    with temporary_folder() as folder:
        yield Path(files_of(store, run).download_artifacts(name, str(folder)))


@contextlib.contextmanager
def undamaged(store: Store, run: Run, name: str) -> Iterator[Path]:
    """A copy of a run's file; an error of reading it is told as the run's damage.

    Raises:
      DamagedError: it is not there, or could not be read in the context.
      TrackingError: the files cannot be reached now.
    """
    try:
        with fetched(store, run, name) as file:
            yield file
    except (OSError, MlflowException, pa.ArrowException, ValueError, LookupError) as error:
        what, why = f"{name} of run {run.info.run_id} ({run.info.run_name})", masked(reason(error), store)
        if fault_of(error) == "transient":
            raise TrackingError(f"{what} cannot be fetched: {why}: try again when its storage answers") from error
        remedy = f"MLFLOW_TRACKING_URI={store.tracking_word} {command('mlflow', 'runs', 'delete', '--run-id')}"
        raise DamagedError(
            f"expected {what} as it was written, got: {why}: put a copy of the file back, or take the run out with "
            f"`{remedy} {run.info.run_id}` and launch the study again"
        ) from error
