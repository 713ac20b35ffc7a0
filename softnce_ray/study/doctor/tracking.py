"""Whether MLflow can be reached, within seconds, and what to do where it cannot."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from socket import gaierror

from softnce_ray.commands import command
from softnce_ray.databases import DatabaseError
from softnce_ray.environment import variables
from softnce_ray.store import Store
from softnce_ray.study.doctor.finding import Finding

_SECONDS = 10
"""That a server has to answer. A launch waits longer; it would be a slow study."""

_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or write them to "
    "~/.mlflow/credentials"
)
_STATUS = re.compile(r"failed with error code (\d{3})|too many (\d{3}) error responses")
_DATABASES = ("postgresql", "mysql", "mssql")


def tracking(store: Store) -> list[Finding]:
    """Try the store's MLflow. A database that is not there yet is not made."""
    uri = store.tracking_uri
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if (database := store.database) is not None:
        return [_sqlite(store, database)]
    if scheme in ("http", "https"):
        return [_client(store)]
    if scheme in _DATABASES:
        return [_database(store)]
    got = f"{scheme}://" if scheme else uri
    return [
        Finding(
            "mlflow",
            "error",
            f"expected a tracking URI of http, https, sqlite, {', '.join(_DATABASES)}, got {got}",
            "give --tracking-uri (or MLFLOW_TRACKING_URI) as http://HOST:5000, or leave it away for a database in the "
            "store",
        )
    ]


def _sqlite(store: Store, path: Path) -> Finding:
    """Read only, and without MLflow, which would make what is not there."""
    from softnce_ray.tracking.schema import misfit

    if not os.path.lexists(path):
        return Finding("mlflow", "ok", f"{path} would be made")
    try:
        wrong = misfit(store, must_exist=False)
    except DatabaseError as error:
        text, _, remedy = str(error).rpartition(": ")
        return Finding("mlflow", "error", text, remedy)
    if wrong is not None:
        return Finding("mlflow", "error", wrong.text, wrong.remedy)
    if not os.access(path, os.W_OK):
        aside = "move it away, or choose another folder with --store"
        return Finding("mlflow", "error", f"{path} cannot be written", f"mend its permissions; or {aside}")
    return Finding("mlflow", "ok", str(path))


def _database(store: Store) -> Finding:
    """A database server: first whether it answers, for MLflow would try for minutes, and make tables where there are
    none."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(store.tracking_uri, connect_args={"connect_timeout": _SECONDS})
        with contextlib.closing(engine.connect()) as connection:
            made = sqlalchemy.inspect(connection).has_table("experiments")
        engine.dispose()
    except ImportError as error:
        install = command("pip", "install", "psycopg[binary]")
        return Finding("mlflow", "error", f"a driver is missing: {error}", f"install it, as in `{install}`")
    except Exception as error:  # of SQLAlchemy's and of the driver's own kinds
        return _database_problem(store, error)
    return _client(store) if made else Finding("mlflow", "ok", f"{_shown(store)} answers; its tables would be made")


def _database_problem(store: Store, error: Exception) -> Finding:
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    for given in (store.tracking_uri, _password(store.tracking_uri)):
        reason = reason.replace(given, "…") if given else reason
    remedy = "start the database server, or correct host and port in --tracking-uri (or MLFLOW_TRACKING_URI)"
    if any(word in reason for word in ("authentication", "password", "Access denied", "role")):
        remedy = "correct user and password in MLFLOW_TRACKING_URI"
    elif "does not exist" in reason or "Unknown database" in reason:
        remedy = "create the database, or correct its name in the tracking URI"
    return Finding("mlflow", "error", f"{_shown(store)} cannot be reached: {reason[:300]}", remedy)


def _password(uri: str) -> str:
    return uri.partition("://")[2].rpartition("@")[0].partition(":")[2]


def _client(store: Store) -> Finding:
    from softnce_ray.tracking.connection import TrackingError, connect

    try:
        # MLflow reads these at every request.
        with variables({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_SECONDS)}):
            connect(store, must_exist=True)
    except TrackingError as error:
        text, remedy = _problem(error)
        return Finding("mlflow", "error", f"{_shown(store)} {text}", remedy)
    return Finding("mlflow", "ok", f"{_shown(store)} answers")


def _problem(error: BaseException) -> tuple[str, str]:
    """What a failed request says, and the remedy."""
    address = "correct --tracking-uri (or MLFLOW_TRACKING_URI)"
    causes = list(_causes(error))
    said = " ".join(" ".join(map(str, causes)).split())
    for cause in causes:
        match cause:
            case ConnectionRefusedError():
                return "refuses connections", f"start the server there, or {address}"
            case gaierror():
                return "is at no known host", address
            case TimeoutError():
                return f"does not answer in {_SECONDS} seconds", f"look whether the server is well, or {address}"
            case ssl.SSLError():
                return (
                    f"does not speak TLS as expected ({cause.reason})",
                    f"{address}: http or https, and whose certificate",
                )
    status = _status(said)
    if status == 401:
        return "wants a login, and got none or a wrong one (401)", _LOGIN
    if status == 403:
        return (
            "refuses what was asked (403)",
            f"ask its owner for rights, or {_LOGIN}; a server that was started without the name in the URI among "
            "its --allowed-hosts refuses too",
        )
    if status in (301, 302, 307, 308, 404, 405) or "not in a valid JSON format" in said:
        return "answers, and is no MLflow server", f"{address}, with the path under which MLflow is served"
    if status == 429 or status >= 500:
        return "is an MLflow server, or stands before one, that fails now", "look at its log, or try again later"
    return f"cannot be used: {' '.join(str(error).split()).rpartition('cannot be opened: ')[2][:300]}", address


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(said: str) -> int:
    """The HTTP status in MLflow's messages, which have it nowhere else for certain; 0: there is none."""
    found = _STATUS.search(said)
    return int(found.group(1) or found.group(2)) if found else 0


def _shown(store: Store) -> str:
    """The address without what gives access: user, password, query."""
    scheme, _, rest = store.tracking_uri.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
