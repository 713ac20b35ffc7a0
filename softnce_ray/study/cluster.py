"""The machine side of a launch: Ray's session, slots, tasks and signals."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from softnce_ray.config import Resources
from softnce_ray.corpus.mining import Batch, MapChunks, Work
from softnce_ray.corpus.sources import Source
from softnce_ray.errors import UserError

_OBJECT_STORE = 200_000_000
"""Bytes of Ray's object store on this machine: trials map files and pass no arrays."""


_JOINING = 30.0
"""Seconds that nodes of a remote cluster have to join before a study is refused that fits on none."""


_STARTING = 10.0
"""Seconds that the head of a remote cluster has to listen."""


class LaunchError(UserError, RuntimeError):
    """A study that cannot be started here."""


@contextlib.contextmanager
def session(resources: Resources) -> Iterator[int]:
    """A Ray session, the caller's or one for this launch only; yields the number of trials that fit at once.

    Nodes of the cluster that RAY_ADDRESS names may still be joining: half a minute is waited for one that a trial fits
    on.

    Raises:
      LaunchError: Ray cannot be started or reached, or not one trial fits on any node.
    """
    with connected():
        end = time.monotonic() + (_JOINING if os.environ.get("RAY_ADDRESS") else 0)
        while not any(trials_on(node, resources) for node in nodes()) and time.monotonic() < end:
            time.sleep(0.5)
        yield _slots(resources, nodes())


@contextlib.contextmanager
def connected(**options: Any) -> Iterator[None]:
    """A Ray session: the caller's, the cluster of RAY_ADDRESS, or one of our own with these `options` of `ray.init`.

    Raises:
      LaunchError: Ray cannot be started or reached.
    """
    ours = not ray.is_initialized()
    if ours:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE, **options}
        try:
            if address := os.environ.get("RAY_ADDRESS"):
                _reach(address)
                ray.init(**quiet)
            else:  # never a cluster that happens to run here
                ray.init("local", **own, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LaunchError(f"Ray cannot be started or reached: {' '.join(str(error).split())[:500]}") from error
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raise ConnectionError where nobody listens at a cluster's address: Ray itself tries for more than ten minutes."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdigit():  # "auto" and "local": Ray's to judge
        return
    end = time.monotonic() + _STARTING
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"nobody answers at {address} ({error.strerror or error}): start Ray there, or correct RAY_ADDRESS"
                ) from error
        time.sleep(0.5)


def nodes() -> list[Mapping[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def trials_on(node: Mapping[str, float], resources: Resources) -> int:
    """How many trials fit on a node: one that two nodes could hold together runs on neither."""
    return min(
        int(node.get(name, 0) / asked + 1e-9)  # 2 // 0.1 is 19
        for name, asked in (("CPU", resources.cpus), ("GPU", resources.gpus))
        if asked
    )


def _slots(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    fitting = sum(trials_on(node, resources) for node in nodes)
    if fitting < 1:
        raise LaunchError(f"{no_room(resources, nodes)}: {MAKE_ROOM}")
    return min(fitting, resources.max_concurrent or fitting)


MAKE_ROOM = "lower resources.cpus or resources.gpus in the study, or add such a node"


def no_room(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> str:
    """What is said where a trial fits on no node."""
    kinds = Counter((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
    got = ", ".join(f"{count} of {cpus:g} CPUs and {gpus:g} GPUs" for (cpus, gpus), count in sorted(kinds.items()))
    return (
        f"expected a node with room for a trial of {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, got "
        f"{got or 'no node'}"
    )


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


@dataclass(frozen=True)
class Outcome:
    """What tasks came to, by key: what they returned, or why they failed."""

    done: dict[Any, Any]
    failed: dict[Any, BaseException]


def wait_all(started: Mapping[Any, ray.ObjectRef], finished: Callable[[Any], None] = lambda key: None) -> Outcome:
    """Wait for all tasks; `finished` is called with each key as its task ends.

    They are never cancelled: `ray.cancel` of a task whose reply is on its way ends the process that called it, with
    exit status 1 and no word (a failed check in Ray's task manager; seen in 6 of 36 runs of tests on a busy machine).
    In a session of the caller's they run on and leave what they made where the next launch finds it.
    """
    outcome = Outcome({}, {})
    keys = {task: key for key, task in started.items()}
    waiting = list(keys)
    while waiting:
        (task, *_), waiting = ray.wait(waiting)
        try:
            outcome.done[keys[task]] = ray.get(task)
        except ray.exceptions.RayError as error:
            outcome.failed[keys[task]] = getattr(error, "cause", None) or error
        finished(keys[task])
    return outcome
