"""Why trials fail, in a word and a line, and whether another attempt is made."""

from __future__ import annotations

import errno
from collections.abc import Hashable
from dataclasses import dataclass

from softnce_ray.config import Failures
from softnce_ray.config.study import FailureKind
from softnce_ray.errors import UserError
from softnce_ray.evaluation import DivergedError
from softnce_ray.storage import StorageError
from softnce_ray.study.patience import AwayError, chain_of

_LONGEST = 500
"""Characters of a reason: it stands in tables."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate")
_DISK = ("no space left on device", "disk is full", "disk quota exceeded")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Failure:
    """What ended an attempt of a trial; `reason` is one line."""

    kind: FailureKind
    reason: str
    traceback: str = ""


def failure_of(error: BaseException, traceback: str) -> Failure:
    """An exception, classified. Libraries wrap what happened, so causes are looked at before wrappers; but what we
    ourselves said of a cause says more than the cause, unless memory or disk were full."""
    chain = chain_of(error)
    for each in reversed(chain):
        if (kind := _kind_of(each)) in ("memory", "disk"):
            return Failure(kind, _line(each, kind), traceback)
    for each in chain:
        if isinstance(each, UserError):
            kind = "files" if isinstance(each, StorageError | AwayError) else _kind_of(each)
            return Failure(kind, _line(each, kind), traceback)
    for each in reversed(chain):
        if (kind := _kind_of(each)) != "error":
            return Failure(kind, _line(each, kind), traceback)
    return Failure("error", _line(error, "error"), traceback)


def user_error_in(error: BaseException) -> UserError | None:
    """What a user is told of an error that others may have wrapped."""
    return next((each for each in chain_of(error) if isinstance(each, UserError)), None)


def lost_worker(reason: str) -> Failure:
    """The failure of a worker that died without a word."""
    return Failure("worker", "its worker was killed or its node was lost", reason)


def _kind_of(error: BaseException) -> FailureKind:
    text = str(error).lower()
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, UserError):
        return "settings"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(each in text for each in _NO_MEMORY)):
        return "memory"
    if (isinstance(error, OSError) and error.errno in _NO_SPACE) or any(each in text for each in _DISK):
        return "disk"
    if isinstance(error, OSError):
        return "files"
    return "error"


def _line(error: BaseException, kind: FailureKind) -> str:
    text = " ".join(str(error).split())
    if kind == "memory":
        text = f"no memory left ({text}): lower training.batch_size or the number of trials at once"
    elif kind == "disk":
        text = f"no disk space left ({text}): free some where the store is, then launch again"
    elif not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return text[:_LONGEST]


class Retries:
    """Counts the attempts of each trial and says whether there is another.

    An attempt that came a checkpoint further than those before it starts the count anew: on machines that are taken
    away now and then a long trial ends all the same, and one that always fails at the same place does not go on
    for ever.
    """

    def __init__(self, rules: Failures) -> None:
        self._rules = rules
        self._failed: dict[Hashable, int] = {}
        self._reached: dict[Hashable, int] = {}

    def again(self, trial: Hashable, kind: FailureKind, epoch: int) -> bool:
        """Whether a trial that failed after `epoch` epochs is tried again."""
        if epoch > self._reached.get(trial, 0):
            self._failed.pop(trial, None)
        self._reached[trial] = max(epoch, self._reached.get(trial, 0))
        self._failed[trial] = self._failed.get(trial, 0) + 1
        return kind in self._rules.retry and self._failed[trial] <= self._rules.retries
