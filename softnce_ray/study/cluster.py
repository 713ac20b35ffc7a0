"""The machine side of a launch: Ray's session, slots, tasks and signals."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import services
from ray.autoscaler.sdk import request_resources

from softnce_ray.config import Resources
from softnce_ray.corpus.mining import Batch, MapChunks, Work
from softnce_ray.corpus.sources import Source
from softnce_ray.environment import unset, variables
from softnce_ray.errors import UserError
from softnce_ray.study import again, tokens
from softnce_ray.study.patience import how_long
from softnce_ray.temporary import sweep, temporary_folder

_OBJECT_STORE = 200_000_000
"""Bytes of Ray's object store on this machine: trials map files and pass no arrays."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # No files and tables of Tune's own, no snapshots that nobody restores from.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # Workers start side by side: how many trials there are at once, the driver says.
    "TUNE_MAX_PENDING_TRIALS_PG": "32",
}
"""Variables that Ray and Tune read in a session, unless a user has set them."""

_OURS = {"TUNE_DISABLE_SIGINT_HANDLER": "1"}
"""The same, whatever was set: a launch handles signals itself, see `signals`."""

_FOLDER = "snce-"
_BASE = 27
"""Characters of the path of the folder that has the folders of sessions: a socket's may have 107, of which Ray takes 64
for `/session_DATE_PID/sockets/plasma_store` and we 16 for the folder of one."""


_JOINING = 30.0
_SCALING = 900.0
"""Seconds that nodes of a remote cluster have to join before a study is refused that fits on none; the latter where
machines are only fetched for it."""


_SAYING = 60.0
"""Seconds after which it is said again that nodes are waited for."""


_RETURNING = 900.0
"""Seconds that a running study waits for a node when none that is left has room for a trial."""


_STARTING = 10.0
"""Seconds that the head of a remote cluster has to listen."""


class LaunchError(UserError, RuntimeError):
    """A study that cannot be started here."""


@contextlib.contextmanager
def session(
    resources: Resources,
    *,
    begun: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[int]:
    """A Ray session, the caller's or one for this launch only; yields the number of trials that run at once.

    Nodes of the cluster that RAY_ADDRESS names may still be joining: half a minute is waited until a trial fits, and a
    quarter of an hour where an autoscaler is to fetch them.

    Args:
      begun: called as soon as Ray runs, which takes signals for itself when it starts.
      say: told of what is waited for.

    Raises:
      LaunchError: Ray cannot be started or reached, or not one trial fits on any node.
    """
    with connected():
        begun()
        if ray.util.client.ray.is_connected():
            raise LaunchError(
                "expected a process on the cluster, got a client of it (ray://): launch with --address and the "
                "cluster's ray:// address, which runs the driver there, or submit the study"
            )
        _await_room(resources, say)
        yield _slots(resources, nodes())


def _await_room(resources: Resources, say: Callable[[str], None]) -> None:
    patience = _SCALING if resources.autoscale else _JOINING if os.environ.get("RAY_ADDRESS") else 0
    begun = time.monotonic()
    said, asked = -_SAYING, False
    try:
        while not trials_on(there := nodes(), resources) and (waited := time.monotonic() - begun) < patience:
            if resources.autoscale and not asked:
                request_resources(bundles=[_bundle(resources)] * resources.workers)
                asked = True
            if waited - said >= _SAYING:
                said = waited
                source = "one that the autoscaler adds" if resources.autoscale else "one that still joins"
                left = f"waiting {how_long(patience - waited)} at most for {source}; {again.giving_up()} gives up"
                say(f"note: {no_room(resources, there)}: {left}")
            time.sleep(0.5)
    finally:
        if asked:  # from here on trials that wait say what is wanted
            request_resources(bundles=[])


def _bundle(resources: Resources) -> dict[str, float]:
    return {name: count for name, count in resources.asked.items() if count}


@contextlib.contextmanager
def connected(**options: Any) -> Iterator[None]:
    """A Ray session: the caller's, the cluster of RAY_ADDRESS, or one of our own with these `options` of `ray.init`.

    The environment that Ray reads is put back at the end, and a session of our own leaves no files.

    Raises:
      LaunchError: Ray cannot be started or reached, or asks for a token that this process has not.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(variables(unset(_SETTINGS) | _OURS))
        if not ray.is_initialized():
            try:
                _start(os.environ.get("RAY_ADDRESS", ""), held, options)
            except LaunchError:
                raise
            except ray.exceptions.AuthenticationError as error:
                raise LaunchError(tokens.NONE_HERE) from error
            except Exception as error:  # Ray's own are of many kinds, some of them plain
                text = " ".join(str(error).split())[:500] or type(error).__name__
                raise LaunchError(f"Ray cannot be started or reached: {text}") from error
        yield


def _start(address: str, held: contextlib.ExitStack, options: Mapping[str, Any]) -> None:
    """Start a session of our own, or connect to the cluster at an address. What `held` gets outlives the session."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    place, client = _place(address)
    if not place:  # never a cluster that happens to run here
        held.enter_context(tokens.authentication(*tokens.of_our_own()))
        base = _ray_base()
        held.callback(sweep, base, _FOLDER)  # agents of a killed launch's Ray outlive it by a minute
        folder = held.enter_context(temporary_folder(base, prefix=_FOLDER))
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE, **options}
        held.callback(ray.shutdown)
        with _out_of_reach_of_signals():
            ray.init("local", _temp_dir=str(folder), **own, **quiet)
    else:
        _await_listener(place, address)
        held.enter_context(tokens.authentication(_agreed(place, client, _variables_of_tokens())))
        held.callback(ray.shutdown)
        ray.init(address if client else place, **quiet)


def _ray_base() -> Path:
    """Return the folder for Ray's files of a session of our own, which others cannot read.

    Raises:
      LaunchError: RAY_TMPDIR is too long for Ray.
    """
    given = os.environ.get("RAY_TMPDIR")
    if given and len(given) > _BASE:
        raise LaunchError(
            f"RAY_TMPDIR: expected a path of at most {_BASE} characters, since the system limits names of sockets, got "
            f"{len(given)}, {given}: set it to a shorter one"
        )
    usual = tempfile.gettempdir()
    return Path(given or (usual if len(usual) <= _BASE else "/tmp"))


@contextlib.contextmanager
def _out_of_reach_of_signals() -> Iterator[None]:
    """Ray's processes that start meanwhile are in groups of their own. Terminals, batch schedulers and `timeout` send
    their signals to the whole group of a launch; Ray keeps Ctrl-C from its processes, but with SIGTERM they would end
    before the launch, which needs them to stop in order. They still end when the launch does, however it ends."""
    starting: Any = services
    plain = starting.ConsolePopen
    starting.ConsolePopen = functools.partial(plain, process_group=0)
    try:
        yield
    finally:
        starting.ConsolePopen = plain


def check_token() -> None:
    """Raise LaunchError where the cluster of RAY_ADDRESS refuses our token; where none answers, that is told later.

    A launch asks when it begins, since what it needs besides Ray takes a while to import.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    with contextlib.suppress(OSError):
        place, client = _place(address)
        if place:
            _connect(place, seconds=2)
            _agreed(place, client, _variables_of_tokens())


def _await_listener(place: str, address: str) -> None:
    """Raise ConnectionError where nobody listens at a cluster's address: Ray itself tries for a minute at least."""
    end = time.monotonic() + _STARTING
    while True:
        try:
            return _connect(place, seconds=5)
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"nobody answers at {address} ({error.strerror or error}): start Ray there, or correct RAY_ADDRESS"
                ) from error
        time.sleep(0.5)


def _place(address: str) -> tuple[str, bool]:
    """The place that an address names, as HOST:PORT, and whether it is one of Ray Client's server; empty where a Ray is
    to be started."""
    if address in ("", "local"):
        return "", False
    if address == "auto":
        return services.canonicalize_bootstrap_address(address) or "", False
    scheme, _, place = address.rpartition("://")
    host, _, port = place.partition("/")[0].rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdecimal() or int(port) > 65535:
        missing = place and ":" not in place and scheme in ("", "ray")
        example = f"{'ray://' if scheme else ''}{place}:{10001 if scheme else 6379}"
        raise LaunchError(
            f"--address (RAY_ADDRESS): expected auto, HOST:PORT or ray://HOST:PORT, got {address!r}"
            + (f", which has no port: Ray's own would be {example}" if missing else "")
        )
    return f"{host}:{port}", bool(scheme)


def _connect(place: str, seconds: float) -> None:
    host, _, port = place.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


@functools.cache
def _agreed(place: str, client: bool, depends_on: tuple[str | None, ...]) -> str:
    """A place that agreed is not asked again, while the variables that its answer `depends_on` stay."""
    try:
        shown = f"the cluster at {'ray://' if client else ''}{place}"
        return tokens.agreed(place, shown, client=client, here=_is_here(place))
    except tokens.TokenError as error:
        raise LaunchError(str(error)) from error


def _is_here(place: str) -> bool:
    """Return True where a place is one of this machine."""
    ours = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    try:
        return socket.gethostbyname(place.rpartition(":")[0].strip("[]")) in ours
    except OSError:
        return False


def _variables_of_tokens() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"))


def nodes() -> list[Mapping[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def workers_on(node: Mapping[str, float], resources: Resources) -> int:
    """How many workers of trials fit on a node: one that two nodes could hold together runs on neither."""
    return min(
        int(node.get(name, 0) / asked + 1e-9)  # 2 // 0.1 is 19
        for name, asked in resources.asked.items()
        if asked
    )


def trials_on(nodes: Iterable[Mapping[str, float]], resources: Resources) -> int:
    """How many trials fit on some nodes at once; the workers of one may lie on several."""
    return sum(workers_on(node, resources) for node in nodes) // resources.workers


def _slots(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    fitting = trials_on(nodes, resources)
    if fitting < 1:
        raise LaunchError(f"{no_room(resources, nodes)}: {MAKE_ROOM}")
    if resources.autoscale and resources.max_concurrent:
        return resources.max_concurrent
    return min(fitting, resources.max_concurrent or fitting)


MAKE_ROOM = (
    "lower resources.cpus, gpus, memory or workers in the study, or add such a node (resources.autoscale: true waits "
    "for one that is added by itself)"
)


def no_room(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> str:
    """What is said where a trial fits on no node."""

    def size(cpus: float, gpus: float, memory: float) -> str:
        asked = f" and {memory:.4g} GB of memory" if resources.memory else ""
        return f"{cpus:g} CPUs and {gpus:g} GPUs{asked}"

    kinds = Counter(
        size(node.get("CPU", 0), node.get("GPU", 0), node.get("memory", 0) / 1e9)
        for node in sorted(nodes, key=lambda node: (node.get("CPU", 0), node.get("GPU", 0), node.get("memory", 0)))
    )
    got = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    trial = f"a trial of {size(resources.cpus, resources.gpus, resources.memory)}"
    if resources.workers > 1:
        trial = f"the {resources.workers} workers of {trial} each"
    return f"expected {'nodes' if resources.workers > 1 else 'a node'} with room for {trial}, got {got or 'no node'}"


class Room:
    """Whether the nodes that are alive still have room for a trial of a running study; Ray itself waits for ever."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._without: float | None = None

    def look(self) -> str | None:
        """What is to be told, once, when no node has room any more.

        Raises:
          LaunchError: none has had for a quarter of an hour, or no node is left at all.
        """
        left = nodes()
        kept = f"what was done is kept: {again.command()} goes on"
        if not left:
            raise LaunchError(f"the only node of the Ray session was lost, so nothing can go on; {kept}")
        if trials_on(left, self._resources):
            self._without = None
            return None
        now = time.monotonic()
        if self._without is None:
            self._without = now
            return f"{no_room(self._resources, left)}: waiting {_RETURNING / 60:.0f} minutes for a node"
        if now - self._without > _RETURNING:
            raise LaunchError(f"{no_room(self._resources, left)}, and no node has joined; {kept}")
        return None


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


@dataclass(frozen=True)
class Outcome:
    """What tasks came to, by key: what they returned, or why they failed."""

    done: dict[Any, Any]
    failed: dict[Any, BaseException]


def run_all(
    function: Callable[..., Any],
    calls: Mapping[Any, tuple[Any, ...]],
    finished: Callable[[Any, Any], None] = lambda key, result: None,
    *,
    at_once: int | None = None,
    options: Callable[[Any], dict[str, Any]] = lambda key: {},
    meanwhile: Callable[[], None] | None = None,
    fresh: bool = False,
) -> Outcome:
    """Run `function(*arguments)` for each key as a Ray task, at most `at_once` of them at one time, and wait for all.

    They are never cancelled: `ray.cancel` of a task whose reply is on its way ends the process that called it, with
    exit status 1 and no word (a failed check in Ray's task manager; seen in 6 of 36 runs of tests on a busy machine).
    In a session of the caller's they run on and leave what they made where the next launch finds it.

    Args:
      finished: called as each task ends, with its key and what it returned, None where it failed.
      options: those of each key's task.
      meanwhile: called every second while tasks run, and when one has ended.
      fresh: each task has a process of its own. One that is used again keeps its memory of a GPU.
    """
    outcome = Outcome({}, {})
    remote = ray.remote(max_calls=1)(function) if fresh else ray.remote(function)
    left: deque[Any] = deque(calls)
    running: dict[ray.ObjectRef, Any] = {}
    while left or running:
        while left and len(running) < (at_once or len(calls)):
            key = left.popleft()
            running[remote.options(**options(key)).remote(*calls[key])] = key
        ended, _ = ray.wait(list(running), timeout=None if meanwhile is None else 1.0)
        if meanwhile is not None:
            meanwhile()
        for task in ended:
            key = running.pop(task)
            try:
                outcome.done[key] = ray.get(task)
            except ray.exceptions.RayError as error:
                outcome.failed[key] = getattr(error, "cause", None) or error
            finished(key, outcome.done.get(key))
    return outcome
