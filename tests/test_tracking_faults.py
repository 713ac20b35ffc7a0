"""What errors mean, and that no credential is in what is shown of them."""

from __future__ import annotations

import errno
import shutil

import pytest
import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos import databricks_pb2 as codes

from softnce_ray.store import Store
from softnce_ray.tracking.credentials import masked, without_password
from softnce_ray.tracking.faults import Refused, fault_of, reason

_NO_ANSWER = "API request to http://host/api/2.0/mlflow/runs/create failed with exception HTTPConnectionPool(...): "


def caused(error: MlflowException, cause: BaseException) -> MlflowException:
    error.__cause__ = cause
    return error


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} error", response=response)


TRANSIENT = {
    "refused": MlflowException(f"{_NO_ANSWER}Connection refused"),
    "hanging": MlflowException(f"{_NO_ANSWER}Read timed out. (read timeout=30)"),
    "503": MlflowException(f"{_NO_ANSWER}too many 503 error responses"),
    "429": MlflowException(f"{_NO_ANSWER}too many 429 error responses"),
    "401": MlflowException("API request to endpoint /x failed with error code 401 != 200. Response body: ''"),
    "403": RestException({"error_code": "PERMISSION_DENIED", "message": "no"}),
    "locked": MlflowException("database is locked", error_code=codes.TEMPORARILY_UNAVAILABLE),
    "restarting": caused(
        MlflowException("x", error_code=codes.BAD_REQUEST), sqlalchemy.exc.InterfaceError("s", {}, Exception("gone"))
    ),
    "restarting, behind a server": RestException(
        {"error_code": "BAD_REQUEST", "message": "(psycopg2.InterfaceError) connection already closed sqlalche.me"}
    ),
    "full disk": OSError(errno.ENOSPC, "No space left on device"),
    "artifacts gone": requests.ConnectionError("reset"),
    "artifacts 503": http_error(503),
}
REFUSED = {
    "400": RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "bad name"}),
    "gone": MlflowException("no such run", error_code=codes.RESOURCE_DOES_NOT_EXIST),
    "ours": Refused("its ranks are gone"),
    "a fault of ours": KeyError("epoch"),
    "artifacts 400": http_error(400),
    "a folder in a file's place": IsADirectoryError(errno.EISDIR, "Is a directory"),
    "a pipe in a file's place": shutil.SpecialFileError("`a` is a named pipe"),
}
UNCLEAR = {
    "500": MlflowException(f"{_NO_ANSWER}too many 500 error responses"),
    "integrity": MlflowException("(IntegrityError) see https://sqlalche.me/e/20", error_code=codes.BAD_REQUEST),
    "S3": RuntimeError("An error occurred (SlowDown)"),
    "not ours": PermissionError(errno.EACCES, "Permission denied"),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_passes_is_tried_again(name: str) -> None:
    assert fault_of(TRANSIENT[name]) == "transient"


@pytest.mark.parametrize("name", REFUSED)
def test_what_never_will_be_is_given_up(name: str) -> None:
    assert fault_of(REFUSED[name]) == "refused"


@pytest.mark.parametrize("name", UNCLEAR)
def test_of_the_rest_only_trying_tells(name: str) -> None:
    assert fault_of(UNCLEAR[name]) == "unclear"


def test_reasons_are_a_few_words() -> None:
    assert reason(TRANSIENT["refused"]) == "connection refused"
    assert reason(TRANSIENT["hanging"]) == "no answer in time"
    assert reason(TRANSIENT["429"]) == "HTTP status 429"
    assert reason(TRANSIENT["401"]) == "HTTP status 401"
    assert reason(REFUSED["400"]).endswith("bad name")
    assert reason(ValueError("")) == "ValueError"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://…@host:5432/db"),
        ("https://me:s/ecr@et@host/x", "https://…@host/x"),
        ("https://me:secret?x@host/x", "https://…@host/x"),
        ("https://secret@host", "https://…@host"),
        ("https://host/x?token=secret&a=b", "https://host/x?token=…&a=b"),
        ("https://host/?access_token=secret;api-key=secret", "https://host/?access_token=…;api-key=…"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=…"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_credentials(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_a_text_is_shown_without_any_credential(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-of-mine")
    store = Store(tmp_path, "postgresql://me:p%40ss/word@host/db")
    text = (
        "psycopg: postgresql://me:p%40ss/word@host/db said p%40ss/word is wrong; GET https://a:b@s3/x?X-Amz-Signature="
        "abcdef01 with Authorization: Basic bWU6c2VjcmV0 and t0ken-of-mine; mail me@example.org, see http://host/docs"
    )
    shown = masked(text, store)
    for secret in ("p%40ss", "a:b", "abcdef01", "bWU6c2VjcmV0", "t0ken"):
        assert secret not in shown
    assert shown.startswith("psycopg: postgresql://…@host/db said ")
    assert shown.endswith("mail me@example.org, see http://host/docs")
