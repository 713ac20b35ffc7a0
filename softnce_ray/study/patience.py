"""Patience with an object store: one that is gone for seconds ends neither a trial nor a study."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from softnce_ray.errors import MachineError, UserError

SECONDS = 300.0
"""That an object store may be away."""

_STORES = re.compile(r"\bAWS Error\b|google::cloud::Status|\bAzure")
"""How pyarrow begins what object stores say. Errors of disks, and of other libraries, are none of theirs."""

_BUCKET = re.compile(r"\bin bucket '([^']+)'")
_HOST = re.compile(r"Failed to connect to (\S+) port (\d+)|Could not resolve host: (\S+)")
_CURL = re.compile(r"\bcurlCode: (\d+)")
_CODE = re.compile(r"\bAWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_CURL_SAYS = {
    "6": "no such host",
    "7": "no connection",
    "28": "no answer in time",
    "35": "no TLS connection",
    "52": "connection lost",
    "55": "connection lost",
    "56": "connection lost",
    "60": "its certificate is refused",
}
_LONGEST = 100
"""Characters of a reason of which nothing shorter is known."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_LOOK = 0.5

Result = TypeVar("Result")


class Trying(Protocol):
    """How often work is tried that uses an object store."""

    def __call__(self, work: Callable[[], Result]) -> Result: ...


class Tell(Protocol):
    """Takes a note for people, in a line, and what a library said in full, or an empty text."""

    def __call__(self, text: str, in_full: str, /) -> object: ...


class AwayError(MachineError, OSError):
    """An object store that stayed away for longer than anybody waits."""


def chain_of(error: BaseException) -> list[BaseException]:
    """An error and what it came from, the wrappers first."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def is_away(error: BaseException) -> bool:
    """Whether an error may be gone when the same is tried again: an object store gave no answer, or no good one. What
    was asked for and is not there is no trouble of the store's."""
    chain = chain_of(error)
    return any(map(_is_a_stores, chain)) and not any(isinstance(each, FileNotFoundError | AwayError) for each in chain)


def _is_a_stores(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, UserError) and _STORES.search(str(error)) is not None


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


class Patience:
    """Tries again what an object store did not do.

    Args:
      tell: told once when the store is away, and once when it is back.
      hurried: whether nobody wants to wait any more.
      seconds: that the store may be away, default `SECONDS`; after that it is not waited for until it has answered.
    """

    def __init__(
        self,
        tell: Tell = lambda text, in_full: None,
        *,
        hurried: Callable[[], bool] = lambda: False,
        seconds: float | None = None,
    ) -> None:
        self._tell, self._hurried, self._seconds = tell, hurried, SECONDS if seconds is None else seconds
        self._given_up = False

    def __call__(self, work: Callable[[], Result]) -> Result:
        """What `work` returns; it may be called several times.

        Raises:
          AwayError: the store stays away.
          Exception: what `work` raises of another kind.
        """
        since: float | None = None
        for pause in _pauses():
            try:
                result = work()
            except Exception as error:
                if not is_away(error):
                    raise
                now = time.monotonic()
                if since is None:
                    since = now
                    if not self._given_up:
                        self._tell(
                            f"the object store gives no answer ({reason(error)}): it is asked again for "
                            f"{how_long(self._seconds)}",
                            _in_full(error),
                        )
                if self._given_up or now - since >= self._seconds or self._hurried():
                    self._given_up = True
                    raise AwayError(
                        f"the object store gave no answer for {how_long(now - since)} ({reason(error)}): see that it "
                        "runs (AWS_ENDPOINT_URL)"
                    ) from error
                self._rest(min(pause, since + self._seconds - now))
            else:
                if since is not None:
                    self._tell("the object store answers again", "")
                self._given_up = False
                return result
        raise AssertionError("pauses never end")

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._hurried():
            time.sleep(min(left, _LOOK))


def at_once(work: Callable[[], Result]) -> Result:
    """No patience."""
    return work()


def reason(error: BaseException) -> str:
    """What an object store's library said, in a few words: which bucket, and what is wrong with which host."""
    said = next((each for each in chain_of(error) if _is_a_stores(each)), error)
    text = " ".join(str(said).split())
    bucket = f"s3://{found[1]}: " if (found := _BUCKET.search(text)) and "AWS Error" in text else ""
    return bucket + (_in_short(text) or text[:_LONGEST] or type(said).__name__)


def _in_short(text: str) -> str:
    """What went wrong, where it is known; pyarrow passes on what Amazon's library and curl say."""
    if curl := _CURL.search(text):
        says = _CURL_SAYS.get(curl[1], f"curl's error {curl[1]}")
        host = _HOST.search(text)
        return f"{says}, {host[3] or f'{host[1]}:{host[2]}'}" if host else says
    if code := _CODE.search(text):
        return f"HTTP {code[2]}" if code[2] else code[1].lower().replace("_", " ")
    return ""


def _in_full(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def how_long(seconds: float) -> str:
    """A time for people."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
