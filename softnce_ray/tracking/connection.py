"""The MLflow store: reached with short retries, its errors in a line, its runs searched whole."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from softnce_ray.errors import UserError
from softnce_ray.store import Store

# A server that is down would otherwise block one call for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

_PAGE = 1000


class TrackingError(UserError, RuntimeError):
    """The tracking store cannot be reached, or has not what is asked for."""


def connect(store: Store, *, must_exist: bool = False) -> MlflowClient:
    database = Path(store.tracking_uri.removeprefix("sqlite:///"))
    if store.tracking_uri.startswith("sqlite:///"):
        if must_exist and not database.exists():
            raise TrackingError(
                f"no store at {database.parent}: launch a study first, or give the folder of one with --store"
            )
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(database) if store.artifact_root else contextlib.nullcontext():
            client = MlflowClient(tracking_uri=store.tracking_uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        shown = without_password(store.tracking_uri)
        reason = first_line(error).replace(store.tracking_uri, shown)
        raise TrackingError(f"MLflow store {shown} cannot be opened: {reason}") from error
    return client


@contextlib.contextmanager
def _alone(database: Path) -> Iterator[None]:
    """Open a database of ours one process at a time: two that make its tables at the same time break it."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a server's, or a store that can only be read
            lock = held.enter_context((database.parent / ".mlflow.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def experiment_of(client: MlflowClient, store: Store, study: str) -> str:
    found: Experiment | None = client.get_experiment_by_name(study)
    if found is None:
        location = f"{store.artifact_root}/{study}" if store.artifact_root else None
        return client.create_experiment(study, artifact_location=location, tags={"softnce_ray": "study"})
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {study!r} was deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or rename the study"
        )
    if found.tags.get("softnce_ray") != "study":
        raise TrackingError(f"the MLflow experiment {study!r} is not one of ours: rename the study")
    return found.experiment_id


def search_runs(client: MlflowClient, experiment: str, query: str) -> list[Run]:
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def without_password(uri: str) -> str:
    head, at, tail = uri.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else uri
