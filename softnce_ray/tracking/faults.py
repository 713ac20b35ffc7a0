"""What an error of MLflow means for a record: try again, give it up, or unclear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from shutil import SpecialFileError
from typing import Literal

import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException

Fault = Literal["transient", "refused", "unclear"]


class Refused(Exception):
    """A record that cannot be written, however often it is tried."""


_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
_PASSING = {401, 403, 408, 409, 425, 429, 502, 503, 504}
# MLflow tells a database's troubles as a bad request, from its server too.
_OF_DATABASE = re.compile(
    r"OperationalError|InterfaceError|DisconnectionError|PendingRollbackError|AdminShutdown|CannotConnectNow"
    r"|database is locked|server closed the connection|terminating connection|connection is closed|QueuePool limit"
)
_NO_SPACE = re.compile(r"No space left on device|database or disk is full|Disk quota exceeded")
_SEVERAL = "The following failures occurred while downloading"
"""Begins what MLflow says of files that it cannot fetch; the last line says why."""
_STATUS = re.compile(
    r"too many (\d{3}) error responses|failed with error code (\d{3})|^(\d{3}) (?:Client|Server) Error"
)


def fault_of(error: BaseException) -> Fault:
    """`transient`: it passes, or somebody mends it; `refused`: it never will; `unclear`: only trying tells."""
    if isinstance(error, Refused):
        return "refused"
    text = str(error)
    if _NO_SPACE.search(text) or _OF_DATABASE.search(text) or any(_of_database(each) for each in _causes(error)):
        return "transient"
    status = _status(error)
    if status in _PASSING:
        return "transient"
    if isinstance(error, MlflowException):
        if status is None and text.startswith("API request to") and " failed with " in text:  # no answer at all
            return "transient"
        if error.error_code in _REFUSALS:  # a database's other errors are bad requests too
            return "unclear" if "sqlalche.me" in text else "refused"
        return "unclear"
    if isinstance(error, requests.HTTPError):
        return "refused" if status in (400, 413, 422) else "unclear"
    if isinstance(error, requests.RequestException | ConnectionError | TimeoutError):
        return "transient"
    if isinstance(error, IsADirectoryError | NotADirectoryError | SpecialFileError):  # in a file's or a folder's place
        return "refused"
    return "refused" if isinstance(error, ArithmeticError | LookupError | TypeError | ValueError) else "unclear"


def reason(error: BaseException) -> str:
    """What went wrong, in a few words. May hold credentials: see `masked`."""
    text = str(error)
    if "Connection refused" in text:
        return "connection refused"
    if "timed out" in text or isinstance(error, TimeoutError):
        return "no answer in time"
    status = _status(error)
    if isinstance(error, MlflowException) and status is not None and _STATUS.search(text):
        return f"HTTP status {status}"
    lines = text.strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[-1] if lines[0].startswith(_SEVERAL) else lines[0]


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer; None where there was none."""
    response = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):
        return int(response.status_code)
    if found := _STATUS.search(str(error)):
        return int(next(filter(None, found.groups())))
    if isinstance(error, MlflowException) and error.error_code != "INTERNAL_ERROR":
        return int(error.get_http_status_code())
    return None


def _of_database(error: BaseException) -> bool:
    return isinstance(
        error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError | sqlalchemy.exc.TimeoutError
    ) or (isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
