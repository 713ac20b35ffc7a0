"""An object store that goes away and comes back: a real one, on a wire that is cut."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import S3, FaultyProxy, Wire

from softnce_ray import storage
from softnce_ray.storage import Location, StorageError
from softnce_ray.study.attempts import Attempts
from softnce_ray.study.patience import AwayError, Patience, at_once, is_away, reason


@pytest.fixture
def wire(s3_server: S3) -> Iterator[Wire]:
    with Wire(s3_server.endpoint) as wire:
        yield wire


@pytest.fixture
def place(wire: Wire, s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An empty bucket on the wire."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return Location(f"s3://{s3_server.bucket()}/shared?endpoint_override={wire.uri}")


class Told:
    """Keeps notes, and what is kept of them in full."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.in_full: list[str] = []

    def __call__(self, text: str, in_full: str) -> None:
        self.said.append(text)
        self.in_full.append(in_full)


def test_a_store_that_is_away_for_a_moment_is_waited_for_and_told_of_once(place: Location, wire: Wire) -> None:
    told = Told()
    attempts = Attempts(place, Patience(told))
    attempts.begin("abc", "one", "launch")
    wire.cut()
    with pytest.raises(StorageError) as caught:
        Attempts(place, at_once).begin("abc", "one", "launch")
    assert is_away(caught.value)
    failed: list[BaseException] = []

    def once() -> None:  # cut off for certain, however long a library tries by itself
        if not failed:
            failed.append(caught.value)
            wire.mend()
            raise caught.value

    Patience(told)(once)
    assert attempts.begin("abc", "one", "launch").number == 2
    bucket, host = place.text.partition("/shared")[0], wire.uri.removeprefix("http://")
    assert told.said == [
        f"the object store gives no answer ({bucket}: no connection, {host}): it is asked again for 5 minutes",
        "the object store answers again",
    ]
    assert "curlCode: 7" in told.in_full[0] and told.in_full[1] == ""


def test_a_store_that_fails_is_waited_for_too(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.endpoint) as proxy:
        place = Location(f"s3://{s3_server.bucket()}/file?endpoint_override={proxy.uri}")
        proxy.fail_with(503)
        said: list[str] = []

        def tell(text: str, in_full: str) -> None:
            said.append(text)
            proxy.pass_on()

        assert Patience(tell)(lambda: storage.read(place)) is None
    assert len(said) == 2
    assert "HTTP 503" in said[0]


GONE = StorageError("expected a storage that can be read")
GONE.__cause__ = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7")


@pytest.mark.parametrize(
    ("said", "short"),
    [
        (
            "When reading information for key 'a/b' in bucket 'mine': AWS Error NETWORK_CONNECTION during HeadObject "
            "operation: curlCode: 6, Could not resolve hostname; Details: Could not resolve host: store.invalid",
            "s3://mine: no such host, store.invalid",
        ),
        (
            "When initiating multiple part upload for key 'a' in bucket 'mine': AWS Error NETWORK_CONNECTION during "
            "CreateMultipartUpload operation: curlCode: 28, Timeout was reached",
            "s3://mine: no answer in time",
        ),
        (
            "When initiating multiple part upload for key 'a' in bucket 'mine': AWS Error SLOW_DOWN during "
            "CreateMultipartUpload operation: ",
            "s3://mine: slow down",
        ),
        (
            "When reading information for key 'a' in bucket 'mine': AWS Error UNKNOWN (HTTP status 500) during "
            "HeadObject operation: No response body.",
            "s3://mine: HTTP 500",
        ),
        ("google::cloud::Status(UNAVAILABLE: " + "x" * 500, "google::cloud::Status(UNAVAILABLE: " + "x" * 65),
    ],
)
def test_what_a_store_said_is_told_in_a_few_words(said: str, short: str) -> None:
    assert reason(OSError(said)) == short


class Gone:
    """Work that an object store does not do; counts how often it is tried."""

    calls = 0

    def __call__(self) -> None:
        self.calls += 1
        raise GONE


def test_a_store_that_stays_away_is_given_up_in_a_line_and_then_not_waited_for() -> None:
    told = Told()
    trying = Patience(told, seconds=0.1)
    with pytest.raises(AwayError, match=r"^the object store gave no answer for .* \(no connection\): see that it"):
        trying(Gone())
    again = Gone()
    with pytest.raises(AwayError):
        trying(again)
    assert (again.calls, len(told.said)) == (1, 1)
    assert trying(lambda: 5) == 5


def test_nobody_waits_who_was_interrupted() -> None:
    work = Gone()
    with pytest.raises(AwayError):
        Patience(hurried=lambda: True)(work)
    assert work.calls == 1


def test_what_is_not_there_and_what_disks_and_others_say_is_not_waited_for(place: Location, tmp_path: Path) -> None:
    def missing() -> None:
        storage.download(place, tmp_path, ["nothing"])

    with pytest.raises(StorageError, match="it was deleted"):
        Patience(lambda text, in_full: pytest.fail(text))(missing)
    for error in (OSError(errno.EIO, "Input/output error"), OSError("Can't load tokenizer"), ValueError("AWS Error")):
        assert not is_away(error)
