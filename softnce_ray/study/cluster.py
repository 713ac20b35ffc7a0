"""The machine side of a launch: Ray's session, slots, tasks and signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray

from softnce_ray.config import Resources
from softnce_ray.corpus.mining import Batch, MapChunks, Work
from softnce_ray.corpus.sources import Source
from softnce_ray.errors import UserError

_OBJECT_STORE = 200_000_000
"""Bytes of Ray's object store on this machine: trials map files and pass no arrays."""


class LaunchError(UserError, RuntimeError):
    """A study that cannot be started here."""


@contextlib.contextmanager
def session(resources: Resources) -> Iterator[int]:
    """A Ray session, the caller's or one for this launch only; yields the number of trials that fit at once.

    Raises:
      LaunchError: not one trial fits.
    """
    ours = not ray.is_initialized()
    if ours:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if os.environ.get("RAY_ADDRESS"):
                ray.init(**quiet)
            else:  # never a cluster that happens to run here
                ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LaunchError(f"Ray cannot be started or reached: {' '.join(str(error).split())[:500]}") from error
    try:
        yield _slots(resources, ray.cluster_resources())
    finally:
        if ours:
            ray.shutdown()


def _slots(resources: Resources, available: Mapping[str, float]) -> int:
    fitting = [
        int(available.get(name, 0) / asked + 1e-9)  # 2 // 0.1 is 19
        for name, asked in (("CPU", resources.cpus), ("GPU", resources.gpus))
        if asked
    ]
    if min(fitting) < 1:
        raise LaunchError(
            f"expected room for a trial of {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, got "
            f"{available.get('CPU', 0):g} CPUs and {available.get('GPU', 0):g} GPUs in the cluster: lower "
            "resources.cpus or resources.gpus in the study"
        )
    return min([*fitting, resources.max_concurrent or min(fitting)])


@contextlib.contextmanager
def chunk_mapper() -> Iterator[MapChunks]:
    """Mining as Ray tasks: on the caller's session, the cluster of RAY_ADDRESS, or a session of its own.

    All nodes must see the source files under the same paths. As many chunks are on their way as twice the CPUs.

    Raises:
      LaunchError: Ray cannot be started or reached.
    """
    with session(Resources(cpus=1)) as slots:

        def map_chunks(work: Work, chunks: Iterable[Sequence[Source]]) -> Iterator[list[Batch]]:
            def mine(chunk: Sequence[Source]) -> list[Batch]:  # Ray takes functions only, and `work` may be a partial
                return work(chunk)

            task: Any = ray.remote(num_cpus=1)(mine)
            waiting: deque[ray.ObjectRef] = deque()
            for chunk in chunks:
                waiting.append(task.remote(chunk))
                if len(waiting) == 2 * slots:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())

        yield map_chunks


def start_all(function: Callable[..., Any], calls: Mapping[Any, tuple[Any, ...]]) -> dict[Any, ray.ObjectRef]:
    """Start `function(*arguments)` for each key as a Ray task."""
    task = ray.remote(function)
    return {key: task.remote(*arguments) for key, arguments in calls.items()}


def wait_all(
    started: Mapping[Any, ray.ObjectRef], what: str, finished: Callable[[Any], None] = lambda key: None
) -> dict[Any, Any]:
    """What the tasks returned, by key; `finished` is called with each key as its task ends. The first that fails ends
    the wait; the others end with the session.

    They are not cancelled: `ray.cancel` of a task whose reply is on its way ends the process that called it, with
    exit status 1 and no word (a failed check in Ray's task manager; seen in 6 of 36 runs of tests on a busy machine).
    In a session of the caller's they run on and leave what they made where the next launch finds it.

    Raises:
      UserError: as a task raised it.
      LaunchError: a task failed otherwise; the message says `what` of which key, and why.
    """
    done: dict[Any, Any] = {}
    keys = {task: key for key, task in started.items()}
    while waiting := [task for task, key in keys.items() if key not in done]:
        (task, *_), _ = ray.wait(waiting)
        key = keys[task]
        try:
            done[key] = ray.get(task)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, UserError):
                raise cause from None
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:500]
            raise LaunchError(f"{what} failed for {key}: {reason}") from error
        finished(key)
    return done


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does: Tune stops its trials and returns. Outside of Tune, both raise
    KeyboardInterrupt. Handlers are put back afterwards, those that Tune leaves behind too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)  # Tune's, while it runs
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
