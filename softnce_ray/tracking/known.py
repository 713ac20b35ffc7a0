"""What MLflow says of a run: what it is of, whether it has ended, and which of several counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run

from softnce_ray.results import TrialKey
from softnce_ray.tracking.records import Record


@dataclass
class KnownRun:
    """A run as it was last read or written."""

    run_id: str
    tags: set[str] = field(default_factory=set)
    params: set[str] = field(default_factory=set)
    times: dict[int, int] | None = None  # milliseconds by epoch; None: to be asked for
    status: str = "RUNNING"
    ended: int = 0  # milliseconds

    def ended_since(self, record: Record) -> bool:
        """Return True where the run ended after the record was made: the record was sent before, or is of a copy of
        the store that went on with the same server."""
        return self.status != "RUNNING" and self.ended > record.at


def key_of(run: Run) -> TrialKey:
    """Which trial a run is of."""
    tags = run.data.tags
    return TrialKey(tags["arm"], tags["language"], tags["phase"], int(tags["seed"]), tags["identity"])


def best_of_each(runs: Iterable[Run]) -> list[Run]:
    """Runs of trials, of each trial one: the finished, else the one with most in it, else the earliest."""
    found: dict[TrialKey, Run] = {}
    for run in sorted(runs, key=rank):
        found.setdefault(key_of(run), run)
    return list(found.values())


def rank(run: Run) -> tuple[Any, ...]:
    """Of runs of the same thing the least is the one that counts."""
    data = run.data
    return (
        run.info.status != "FINISHED",
        -data.metrics.get("epoch", 0),
        -len(data.params),
        run.info.start_time,
        run.info.run_id,
    )


def arm_of(run: Run) -> tuple[str, str]:
    return run.data.tags["arm"], run.data.tags.get("settings", "")


def seen(run: Run) -> KnownRun:
    info = run.info
    return KnownRun(info.run_id, set(run.data.tags), set(run.data.params), None, info.status, info.end_time or 0)
