"""Asking all nodes of a Ray cluster for their facts; one that does not answer is waited for, but not for ever."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from softnce_ray import storage
from softnce_ray.storage import Location
from softnce_ray.study.doctor.facts import NodeFacts, Questions, facts_here

PATIENCE = 30.0
"""Seconds that the nodes have to answer."""

_GPUS_PATIENCE = 40.0
"""More, where torch must be imported."""


@dataclass(frozen=True)
class Node:
    """A node and its answer.

    Attributes:
      name: for people.
      cpus, gpus: what Ray may give away there.
      facts: None: it did not answer.
      silence: why it did not.
      clock_off: seconds by which its clock is certainly ahead of this process' (or behind, negative).
      answer_seen: whether the file that it left in the store was seen here.
      memory: bytes that Ray may give away there.
    """

    name: str
    cpus: float
    gpus: float
    facts: NodeFacts | None
    silence: str = ""
    clock_off: float = 0.0
    answer_seen: bool = True
    memory: float = math.inf

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}


def ask(questions: Questions, *, patience: float = PATIENCE) -> list[Node]:
    """Facts of all nodes of the running Ray session that can be given work, by name.

    One node that this process is on too is asked without Ray: a worker would need seconds to start.
    """
    patience += _GPUS_PATIENCE if questions.cuda else 0
    alive = sorted(
        (node for node in ray.nodes() if node["Alive"] and _is_used(node)), key=lambda node: node["NodeManagerAddress"]
    )
    names = _names(alive)
    with _token(questions) as asked:
        if _is_here(alive):
            return [_node(alive[0], names[alive[0]["NodeID"]], facts_here(_asked_of(alive[0], asked)))]
        return _ask_all(alive, names, asked, patience)


def elsewhere() -> bool:
    """Whether a launch would run trials on other machines than this, as far as can be told before Ray is started."""
    if ray.is_initialized():
        return not _is_here([node for node in ray.nodes() if node["Alive"]])
    return bool(os.environ.get("RAY_ADDRESS"))


def _is_used(node: Mapping[str, Any]) -> bool:
    """A head without CPUs and GPUs runs nothing of a study."""
    return node["Resources"].get("CPU", 0) > 0 or node["Resources"].get("GPU", 0) > 0


def _is_here(nodes: list[dict[str, Any]]) -> bool:
    """Whether the only node is this machine, with this process' Python: what RAY_ADDRESS names may have another."""
    if len(nodes) != 1 or os.environ.get("RAY_ADDRESS") or ray.util.client.ray.is_connected():
        return False
    return nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id()


def _names(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Addresses, with the start of the node's id where several nodes share one."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return {
        node["NodeID"]: address if addresses.count(address) == 1 else f"{address} ({node['NodeID'][:8]})"
        for node, address in zip(nodes, addresses, strict=True)
    }


def _node(node: Mapping[str, Any], name: str, facts: NodeFacts | None, **more: Any) -> Node:
    resources = node["Resources"]
    more["memory"] = resources.get("memory", 0.0)
    return Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0), facts, **more)


@contextlib.contextmanager
def _token(questions: Questions) -> Iterator[Questions]:
    """The questions, with a file in the store while they are asked; a store that takes none is a node's finding."""
    token = f".softnce-doctor-{secrets.token_hex(8)}"
    file = Location.at(questions.folder) / token
    try:
        with contextlib.suppress(OSError):
            storage.write(file, token.encode())
        yield replace(questions, token=token)
    finally:
        with contextlib.suppress(OSError):
            storage.remove(file)


def _ask_all(nodes: list[dict[str, Any]], names: dict[str, str], asked: Questions, patience: float) -> list[Node]:
    found: dict[str, Node] = {}
    sent, end = time.time(), time.monotonic() + patience
    tasks = {_start(node, facts_here, _asked_of(node, asked), _answer(asked, node)): node for node in nodes}
    waiting = list(tasks)
    while waiting and (rest := end - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, timeout=rest)
        for task in ready:
            node = tasks[task]
            try:
                facts = ray.get(task)
            except Exception as error:  # of any kind: Ray raises what the task raised
                found[node["NodeID"]] = _node(node, names[node["NodeID"]], None, silence=_reason(error))
                continue
            off = facts.clock - min(max(facts.clock, sent), time.time())
            answer = Location.at(asked.folder) / _answer(asked, node)
            seen = _take(answer)
            if facts.same_storage and not seen:  # what it wrote lies where only it can see it
                _start(node, storage.remove, answer)
            found[node["NodeID"]] = _node(node, names[node["NodeID"]], facts, clock_off=off, answer_seen=seen)
    for task in waiting:  # never cancelled, see `cluster.wait_all`; without the token it leaves nothing
        node = tasks[task]
        found[node["NodeID"]] = _node(node, names[node["NodeID"]], None, silence=f"no answer in {patience:.0f} seconds")
    return [found[node["NodeID"]] for node in nodes]


def _start(node: Mapping[str, Any], function: Any, *arguments: Any) -> ray.ObjectRef:
    """A task on one node that takes none of its CPUs, so that a busy one answers too."""
    pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task: Any = ray.remote(function)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=pinned).remote(*arguments)


def _asked_of(node: Mapping[str, Any], asked: Questions) -> Questions:
    """The questions for one node."""
    return replace(asked, cuda=asked.cuda and node["Resources"].get("GPU", 0) > 0)


def _answer(asked: Questions, node: Mapping[str, Any]) -> str:
    return f"{asked.token}-{node['NodeID'][:16]}"


def _take(file: Location) -> bool:
    """Delete a file; whether it was there."""
    try:
        there = storage.read(file) is not None
        storage.remove(file)
    except OSError:
        return False
    return there


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"[:300]
