"""The MLflow store: reached with short retries, its errors in a line, its runs searched whole."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from softnce_ray.commands import command
from softnce_ray.config.settings import NAME
from softnce_ray.environment import unset
from softnce_ray.errors import UserError
from softnce_ray.folders import lock_file
from softnce_ray.store import Store
from softnce_ray.tracking.credentials import masked, without_password
from softnce_ray.tracking.faults import reason
from softnce_ray.tracking.moved import expect_here
from softnce_ray.tracking.schema import misfit

# A server that is down would otherwise block one call for minutes. Retries are few because they repeat what was
# perhaps done already; whoever must not give up tries again himself.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # it may say an hour
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "10",
}
"""Variables that MLflow and its drivers read at every request, unless a user has set them."""

P = ParamSpec("P")
T = TypeVar("T")

_PAGE = 1000
_SERVER_SECONDS = 15.0
_DATABASE_SECONDS = 120.0  # the first to open it makes its tables
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(UserError, RuntimeError):
    """The tracking store cannot be reached, or has not what is asked for."""


def connect(store: Store, *, must_exist: bool = False) -> MlflowClient:
    """A client of the store's database or server, which has answered.

    Raises:
      TrackingError: it cannot be opened, is of another version of MLflow, or does not answer within some 15 seconds.
    """
    _settle()
    database, shown = store.database, without_password(store.tracking_uri)
    if database is not None:
        if must_exist and not os.path.lexists(database):
            raise TrackingError(
                f"no store at {database.parent}: launch a study first, or give the folder of one with --store"
            )
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrackingError(f"MLflow store {shown} cannot be opened: {error.strerror or error}") from error
        answer = _open(store, must_exist)
    elif store.artifact_root is None:
        answer = _within(_SERVER_SECONDS, lambda: _open(store, must_exist))
    else:
        answer = _listening(store.tracking_uri) or _within(_DATABASE_SECONDS, lambda: _open(store, must_exist))
    if isinstance(answer, UserError):
        raise TrackingError(str(answer)) from answer
    if isinstance(answer, BaseException):
        why = masked(reason(answer), store)
        raise TrackingError(f"MLflow store {shown} cannot be opened: {why}{_remedy(answer, store)}") from answer
    return answer


def _settle() -> None:
    """Make MLflow of this process answer soon and quietly, from our first use of it on: a client has threads."""
    os.environ.update(unset(_SETTINGS))
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for noisy in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # they tell each try of what is tried again
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def _open(store: Store, must_exist: bool) -> MlflowClient | Exception:
    try:
        with _alone(store) if store.artifact_root else contextlib.nullcontext():
            # Alone, for while a database is made it fits no version.
            if store.artifact_root and (wrong := misfit(store, must_exist=must_exist)):
                return TrackingError(f"{wrong.text}: {wrong.remedy}")
            client = MlflowClient(tracking_uri=store.tracking_uri)
            client.search_experiments(max_results=1)
        return client
    except Exception as error:
        return error


def _within(seconds: float, work: Callable[[], MlflowClient | Exception]) -> MlflowClient | Exception:
    """What work returns, if it does so in time; a thread that hangs in a request cannot be ended, and is left."""
    answers: queue.SimpleQueue[MlflowClient | Exception] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(work()), name="mlflow-open", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer within {seconds:.0f} s")


def _listening(uri: str) -> Exception | None:
    """What keeps us from a database's port: MLflow itself would try for minutes."""
    try:
        url = sqlalchemy.engine.make_url(uri)
        port = url.port or _PORTS.get(url.get_backend_name())
        if url.host and port and "," not in url.host:
            socket.create_connection((url.host, port), timeout=10).close()
    except sqlalchemy.exc.ArgumentError:
        return None  # MLflow's to judge
    except ValueError:  # of a port that is none, whose text may be a part of a password
        return ValueError("expected USER:PASSWORD@HOST:PORT in it, with %3A and %40 for : and @ of a password")
    except OSError as error:
        return error
    return None


def _remedy(error: BaseException, store: Store) -> str:
    text = str(error)
    if any(code in text for code in ("error code 401", "error code 403", "not authenticated", "Permission denied")):
        return (
            ": set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) to an account "
            "that may write there"
        )
    if store.database is not None:
        return ""
    return ": see that it runs and can be reached from here, or give another with --tracking-uri"


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Open a database of ours one process at a time: two that make its tables at the same time break it."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, sqlalchemy.exc.SQLAlchemyError):  # a store that can only be read
            if store.database is not None:
                lock = held.enter_context(lock_file(store.database.parent / ".mlflow.lock"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            elif store.tracking_uri.startswith("postgresql"):  # may be opened from several machines
                engine = sqlalchemy.create_engine(
                    store.tracking_uri, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT"
                )
                held.enter_context(engine.connect()).execute(sqlalchemy.text("SELECT pg_advisory_lock(2310)"))
        yield


def experiment_of(client: MlflowClient, store: Store, study: str) -> str:
    """The identifier of a study's experiment, which is made if there is none.

    Raises:
      TrackingError: it was deleted, or is not ours.
    """
    found: Experiment | None = client.get_experiment_by_name(study)
    if found is None:
        location = f"{store.artifact_root}/{study}" if store.artifact_root else None
        try:
            return client.create_experiment(study, artifact_location=location, tags={"softnce_ray": "study"})
        except MlflowException:
            if client.get_experiment_by_name(study) is None:
                raise
            # made, though the answer was lost
    return existing_experiment(client, store, study)


def existing_experiment(client: MlflowClient, store: Store, study: str) -> str:
    """The identifier of a study's experiment.

    Raises:
      TrackingError: there is none, it was deleted, or it is not ours.
      StoreError: its files lie in another store.
    """
    found: Experiment | None = client.get_experiment_by_name(study)
    if found is None:
        raise TrackingError(not_begun(store, study) or f"no study {study!r} in the MLflow store: launch it first")
    if found.lifecycle_stage != "active":
        raise TrackingError(deleted(store, found))
    if found.tags.get("softnce_ray") != "study":
        raise TrackingError(f"the MLflow experiment {study!r} is not one of ours: rename the study")
    expect_here(store, found.artifact_location or "", writes=True)
    return found.experiment_id


def not_begun(store: Store, study: str) -> str:
    """Return what is told of a study that was launched and is not in MLflow, which gets it with its first trial; "" of
    others."""
    if re.fullmatch(NAME, study) is None or not store.study_file(study).exists():
        return ""
    return (
        f"study {study!r} was launched, and none of its trials has started yet: wait, or where it was interrupted go "
        f"on with `{store.command('resume', study)}`"
    )


def deleted(store: Store, found: Experiment) -> str:
    """Return what is told of a study whose experiment was deleted."""
    restore = command("mlflow", "experiments", "restore", "--experiment-id", found.experiment_id)
    return (
        f"the MLflow experiment {found.name!r} was deleted: restore it with "
        f"`MLFLOW_TRACKING_URI={store.tracking_word} {restore}`, or rename the study"
    )


def readable(function: Callable[P, T]) -> Callable[P, T]:
    """Let what MLflow refuses to read be an error in a line; the function's first argument is the store."""

    @functools.wraps(function)
    def reading(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except (MlflowException, requests.RequestException) as error:
            store = arguments[0]
            assert isinstance(store, Store)
            shown, why = without_password(store.tracking_uri), masked(reason(error), store)
            raise TrackingError(f"the MLflow store {shown} cannot be read: {why}") from error

    return reading


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
