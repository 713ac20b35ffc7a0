"""Why trials fail, in a word and a line, and whether another attempt is made."""

from __future__ import annotations

import errno
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

import ray
import torch

from softnce_ray.config import ArmConfig, Failures, Resources
from softnce_ray.config.study import OF_THE_SETTINGS, FailureKind
from softnce_ray.errors import MachineError, ResourcesError, UserError
from softnce_ray.evaluation import DivergedError
from softnce_ray.study.patience import chain_of

_LONGEST = 500
"""Characters of a reason: it stands in tables."""

_SAID = 160
"""Characters of what a library says of memory: torch goes on with figures and advice, and remedies stand after it."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate")
_NO_GPU_MEMORY = ("cublas_status_alloc_failed", "cudnn_status_alloc_failed")
_DISK = ("no space left on device", "disk is full", "disk quota exceeded")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Failure:
    """The end of an attempt of a trial; `reason` is one line. `of_gpu`: the memory that was full is a GPU's.
    `of_resources`: other resources would do, and leave the trial the same."""

    kind: FailureKind
    reason: str
    traceback: str = ""
    of_gpu: bool = False
    of_resources: bool = False

    @property
    def answers(self) -> bool:
        """Return True where no attempt of the trial can succeed, whatever the machine: it answers a search."""
        return self.kind in OF_THE_SETTINGS and not self.of_resources


def failure_of(error: BaseException, traceback: str) -> Failure:
    """An exception, classified. Libraries wrap what happened, so causes are looked at before wrappers; but what we
    ourselves said of a cause says more than the cause, unless memory or disk were full."""
    chain = chain_of(error)
    for each in reversed(chain):
        if (kind := _kind_of(each)) in ("memory", "disk"):
            return Failure(kind, _line(each, kind), traceback, kind == "memory" and _is_of_gpu(each))
    for each in chain:
        if isinstance(each, UserError):
            of_resources = isinstance(each, ResourcesError)
            return Failure(kind := _kind_of(each), _line(each, kind), traceback, of_resources=of_resources)
    for each in reversed(chain):
        if (kind := _kind_of(each)) != "error":
            return Failure(kind, _line(each, kind), traceback)
    return Failure("error", _line(error, "error"), traceback)


def failure_in_ray(error: BaseException | None) -> Failure:
    """Return the failure of a trial or a task that ended without a word of its own, from Ray's error."""
    if error is None:
        return lost_worker("")
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return Failure(
            "memory", "Ray ended its worker before the machine ran out of memory (see the traceback)", str(cause)
        )
    if isinstance(cause, ray.exceptions.RayError):
        return lost_worker(str(cause))
    return failure_of(cause, str(error))


def user_error_in(error: BaseException) -> UserError | None:
    """What a user is told of an error that others may have wrapped."""
    return next((each for each in chain_of(error) if isinstance(each, UserError)), None)


def lost_worker(reason: str) -> Failure:
    """The failure of a worker that died without a word."""
    return Failure("worker", "its worker was killed or its node was lost", reason)


def with_remedies(failure: Failure, resources: Resources, arm: ArmConfig) -> Failure:
    """The failure; where memory was full, its reason says what to change: first what leaves results as they are."""
    if failure.kind != "memory":
        return failure
    remedies = "; ".join(_remedies(failure, resources, arm))
    return replace(failure, reason=f"{failure.reason}: try in this order: {remedies}"[:_LONGEST])


def _remedies(failure: Failure, resources: Resources, arm: ArmConfig) -> Iterator[str]:
    share = math.ceil(arm.training.batch_size / resources.workers)
    encoded = min(share, resources.chunk_size or share)
    if encoded > 1:
        yield f"resources.chunk_size: {encoded // 2} (now {resources.chunk_size or f'a batch of {share}'})"
    if not resources.gradient_checkpointing and arm.encoder.kind != "bag":
        yield "resources.gradient_checkpointing: true"
    yield f"a lower training.batch_size (now {arm.training.batch_size}) or tokens.code_length"
    if not failure.of_gpu:
        yield "fewer trials at once (resources.max_concurrent)"
    elif 0 < resources.gpus < 1:
        yield f"fewer trials on a GPU (resources.gpus: 1, now {resources.gpus:g})"


def _kind_of(error: BaseException) -> FailureKind:
    text = str(error).lower()
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, UserError):
        return "files" if isinstance(error, MachineError) else "settings"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(each in text for each in (*_NO_MEMORY, *_NO_GPU_MEMORY))
    ):
        return "memory"
    if (isinstance(error, OSError) and error.errno in _NO_SPACE) or any(each in text for each in _DISK):
        return "disk"
    if isinstance(error, OSError):
        return "files"
    return "error"


def _is_of_gpu(error: BaseException) -> bool:
    """Return True where memory of a GPU, and not of the machine, was full."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        each in str(error).lower() for each in ("cuda", "nccl", *_NO_GPU_MEMORY)
    )


def _line(error: BaseException, kind: FailureKind) -> str:
    text = " ".join(str(error).split())
    if kind == "memory":
        where = " on the GPU" if _is_of_gpu(error) else ""
        text = f"no memory left{where} ({_short(text) or type(error).__name__})"
    elif kind == "disk":
        text = f"no disk space left ({text}): free some where the store is, then launch again"
    elif not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return text[:_LONGEST]


def _short(text: str) -> str:
    return text if len(text) <= _SAID else f"{text[:_SAID]}…"


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

    def again(self, trial: Hashable, kind: FailureKind, epoch: int, *, most: int | None = None) -> bool:
        """Return True if a trial that failed after `epoch` epochs is to be tried again, `most` times at most."""
        if epoch > self._reached.get(trial, 0):
            self._failed.pop(trial, None)
        self._reached[trial] = max(epoch, self._reached.get(trial, 0))
        self._failed[trial] = self._failed.get(trial, 0) + 1
        retries = self._rules.retries if most is None else min(most, self._rules.retries)
        return kind in self._rules.retry and self._failed[trial] <= retries
