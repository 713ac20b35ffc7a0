"""The workers of one trial: this process and actors beside it, in the places that Ray keeps for the trial."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed as dist

from softnce_ray.study.failures import Failure, failure_of, lost_worker
from softnce_ray.workers import ALONE, Workers

_PATIENCE = timedelta(minutes=30)
"""How long workers wait for one another: for processes to start and data to be fetched, or for the first to evaluate. A
lost one is noticed long before."""

_GRACE = 20.0
"""Seconds after the loss of a worker in which the first should notice by itself."""

_SPEAKING = 10.0
"""Seconds that the first has to tell of the loss before it ends."""

_ARRIVING = 3.0
"""Seconds in which the failure of another worker is heard of, where it made the first one fail."""

Work = Callable[[dict[str, Any], Workers], None]
"""What a worker beside the first runs, with the specification of the trial."""


class WorkerError(RuntimeError):
    """Another worker of the trial failed or was lost."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@contextlib.contextmanager
def gang(
    count: int, device: str, work: Work, spec: dict[str, Any], last_word: Callable[[Failure], object]
) -> Iterator[Workers]:
    """This process as the first of `count` workers; the others run `work`. They end with the context.

    The trial's placement group must have `count` bundles, of which this process has the first.

    Args:
      last_word: called, from another thread, with the failure of another worker before this process ends, where it
        waits for that worker in a call that nothing interrupts.

    Raises:
      WorkerError: instead of what else is raised, where another worker failed first.
    """
    if count == 1:
        yield ALONE
        return
    host = ray.util.get_node_ip_address()
    store = dist.TCPStore(host, 0, count, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
    group: Any = ray.util.get_current_placement_group()
    actor: Any = ray.remote(_Worker)
    others = [
        actor.options(scheduling_strategy=_place(group, rank), **_resources(group.bundle_specs[rank])).remote()
        for rank in range(1, count)
    ]
    tasks = [
        other.run.remote(work, spec, host, store.port, rank, count, device) for rank, other in enumerate(others, 1)
    ]
    watch = _Watch(tasks, last_word)
    watch.start()
    try:
        _join(store, 0, count, device)
        yield Workers(0, count)
    except Exception as error:
        if watch.noted.wait(_ARRIVING):
            raise WorkerError(watch.failure) from error
        raise
    finally:
        watch.over.set()
        for other in others:
            ray.kill(other)
        _leave()


class _Worker:
    """An actor beside the first worker."""

    def run(
        self, work: Work, spec: dict[str, Any], host: str, port: int, rank: int, count: int, device: str
    ) -> dict[str, Any] | None:
        """Do the work; returns why it failed, if it did."""
        try:
            store = dist.TCPStore(host, port, count, is_master=False, timeout=_PATIENCE)
            _join(store, rank, count, device)
            work(spec, Workers(rank, count))
        except Exception as error:
            return asdict(failure_of(error, traceback.format_exc()))
        finally:
            _leave()
        return None


def _join(store: dist.Store, rank: int, count: int, device: str) -> None:
    _meet_others(ray.util.get_node_ip_address())
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)


def _meet_others(address: str) -> None:
    """Make this process listen where Ray's other nodes reach it, unless the environment says where. By itself gloo
    takes the address that the host's name stands for, which often is one of the host alone, such as 127.0.1.1."""
    for interface, addresses in psutil.net_if_addrs().items():
        if address in (each.address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def _leave() -> None:
    if dist.is_initialized():
        with contextlib.suppress(Exception):  # of a group that others have left
            dist.destroy_process_group()


def _place(group: Any, rank: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)


def _resources(bundle: dict[str, float]) -> dict[str, Any]:
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {"num_cpus": 0, **{named[name]: count for name, count in bundle.items() if name in named}}


class _Watch(threading.Thread):
    """Notes the first worker that fails. On a GPU the others may wait for it for ever, in a call that nothing
    interrupts: then this process ends, after its last word, and the trial's next attempt goes on from its
    checkpoint."""

    def __init__(self, tasks: list[ray.ObjectRef], last_word: Callable[[Failure], object]) -> None:
        super().__init__(daemon=True)
        self._last_word = last_word
        self.failure = lost_worker("")
        self.noted, self.over = threading.Event(), threading.Event()
        self._waiting = tasks

    def run(self) -> None:
        while self._waiting and not self.over.is_set():
            ready, self._waiting = ray.wait(self._waiting, timeout=1.0)
            for task in ready:
                try:
                    told = ray.get(task)
                except ray.exceptions.RayError as error:
                    told = asdict(lost_worker(str(error)))
                if told is not None and not self.over.is_set():
                    self.failure = Failure(**told)
                    self.noted.set()
                    if not self.over.wait(_GRACE):
                        speaking = threading.Thread(target=self._last_word, args=(self.failure,), daemon=True)
                        speaking.start()
                        speaking.join(_SPEAKING)
                        os._exit(1)
                    return
