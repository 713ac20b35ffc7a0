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
from softnce_ray.study.patience import AwayError, Patience, at_once, is_away


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


def test_a_store_that_is_away_for_a_moment_is_waited_for_and_told_of_once(place: Location, wire: Wire) -> None:
    said: list[str] = []
    attempts = Attempts(place, Patience(said.append))
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

    Patience(said.append)(once)
    assert attempts.begin("abc", "one", "launch").number == 2
    assert len(said) == 2
    assert said[0].startswith("the object store gives no answer (") and "asked again for 5 minutes" in said[0]
    assert said[1] == "the object store answers again"


def test_a_store_that_fails_is_waited_for_too(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.endpoint) as proxy:
        place = Location(f"s3://{s3_server.bucket()}/file?endpoint_override={proxy.uri}")
        proxy.fail_with(503)
        said: list[str] = []

        def tell(text: str) -> None:
            said.append(text)
            proxy.pass_on()

        assert Patience(tell)(lambda: storage.read(place)) is None
    assert len(said) == 2


GONE = StorageError("expected a storage that can be read")
GONE.__cause__ = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7")


class Gone:
    """Work that an object store does not do; counts how often it is tried."""

    calls = 0

    def __call__(self) -> None:
        self.calls += 1
        raise GONE


def test_a_store_that_stays_away_is_given_up_in_a_line_and_then_not_waited_for() -> None:
    said: list[str] = []
    trying = Patience(said.append, seconds=0.1)
    with pytest.raises(AwayError, match=r"^the object store gave no answer for .* \(AWS Error .*\): see that it"):
        trying(Gone())
    again = Gone()
    with pytest.raises(AwayError):
        trying(again)
    assert (again.calls, len(said)) == (1, 1)
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
        Patience(lambda text: pytest.fail(text))(missing)
    for error in (OSError(errno.EIO, "Input/output error"), OSError("Can't load tokenizer"), ValueError("AWS Error")):
        assert not is_away(error)
