"""How long a study will take, by trials that were timed. Plain Python: it reads no store."""

from __future__ import annotations

import heapq
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from softnce_ray.results import TimedTrial

SEARCHED = "searched"
"""Stands among the settings of planned trials for a value that is searched."""

_LEVELS = (
    ("of the same arm", 1.2),
    ("with the same encoder and batches", 1.3),
    ("of a calibration just now", 2.0),
    ("with the same encoder and batches on other data, scaled by pairs", 2.0),
    ("with the same kind of encoder, scaled by pairs", 3.0),
    ("of simcse with the same encoder, scaled by queries", 2.0),
    ("of simcse with the same kind of encoder, scaled by queries", 3.0),
    ("with the same encoder, a query taken for a pair", 3.0),
    ("with the same kind of encoder, a query taken for a pair", 4.0),
)
"""Likeness of timed trials to planned ones, the most alike first, and the least factor that the estimate may be off by:
trials of one launch are more alike than launches are."""

SIMCSE = "simcse"
"""Phase of the training of an estimator's sentence encoder, which no trial is like in its texts."""

MEASURED = 2
"""The level of trials of a calibration; those that are less alike are scaled by pairs."""

_LONE = 1.5
"""The least factor where one trial alone was timed: it says nothing of a spread."""

_MOST = 20
"""Trials that an estimate is made of: the latest, since machines and their load change."""

_MOST_SIMULATED = 2_000
"""Trials whose order is played through; of more, slots that wait in the end are a small part."""

_DATA = ("language", "train_languages", "test_languages")
_NOT_THE_ARM = (*_DATA, "seed", "training.epochs")
_ENCODED = ("encoder.", "tokens.")
_STEP = (*_ENCODED, "hard_negatives.")
_STEP_TOO = ("training.batch_size", "training.batch_tokens", "training.length_buckets", "training.precision")


@dataclass(frozen=True)
class Planned:
    """Trials of a cell that are missing, or the training of a model that preparing an arm needs: one confirm trial.

    Attributes:
      settings: of its trials, flat, as the store has them; `SEARCHED` for those that are searched.
      corpus: its fingerprint.
      pairs: training pairs of an epoch; for `simcse` queries.
      search, confirm: numbers of trials.
      stops: whether search trials may stop early.
      begun: search trials that are not missing.
      later: confirm trials of seeds that may be added, one after another.
      model: name of the estimator that the model is for, or of the model that it names; "" for trials.
      workers: of a trial that is as alike, whose work one process does alone.
    """

    arm: str
    language: str
    settings: Mapping[str, str]
    corpus: str
    pairs: int
    epochs: float
    search: int
    confirm: int
    resources: str = ""
    stops: bool = True
    begun: int = 0
    later: int = 0
    model: str = ""
    workers: int = 1

    @property
    def is_named(self) -> bool:
        """Whether it is a named model, which is run alone and not trained: nothing that was timed is like it."""
        return bool(self.model) and not self.settings

    def __str__(self) -> str:
        return f"{self.model} of {self.arm}/{self.language}" if self.model else f"{self.arm}/{self.language}"

    def searches(self, rounds_left_out: int = 0) -> int:
        """Return the missing search trials where a budget leaves out so many of each cell; the first is never one."""
        return max(min(self.search, int(not self.begun)), self.search - rounds_left_out)


@dataclass(frozen=True)
class CellTime:
    """Seconds of each missing trial of a cell, what they were estimated from, and the factor they may be off by.
    `start` is what the first trial of a process takes longer."""

    planned: Planned
    search_seconds: float
    confirm_seconds: float
    start: float
    factor: float
    basis: str
    timed: int

    def work(self, factor: float = 1.0, rounds_left_out: int = 0) -> Work:
        """Return its missing trials, each `factor` times as long, without those that a budget leaves out."""
        return Work(
            self.planned.searches(rounds_left_out),
            self.search_seconds * factor,
            self.planned.confirm,
            self.confirm_seconds * factor,
        )


@dataclass(frozen=True)
class Work:
    """Trials of a cell, and the seconds that each takes."""

    search: int
    search_seconds: float
    confirm: int
    confirm_seconds: float

    @property
    def seconds(self) -> float:
        """Of all its trials, one after another."""
        return self.search * self.search_seconds + self.confirm * self.confirm_seconds


@dataclass(frozen=True)
class Running:
    """A trial that runs: its cell's place in the list of cells, its phase and the seconds that it still takes."""

    cell: int
    search: bool
    seconds: float


def cell_time(planned: Planned, timed: Sequence[TimedTrial]) -> CellTime | None:
    """Estimate the seconds of a cell's trials; None where nothing alike was timed.

    A trial takes what its like took beside their epochs, and for each of its own epochs what theirs took. Epochs on
    other data take longer by as many pairs as there are more. The first trial of a process takes longer beside its
    epochs than those that follow; so the lower of the two in the middle counts, and the rest once.
    """
    levels = [(level, trial) for trial in timed if (level := likeness(planned, trial)) is not None]
    if not levels:
        return None
    best = min(level for level, _ in levels)
    like = [trial for level, trial in levels if level == best][:_MOST]
    basis, least = _LEVELS[best]
    searching = [trial for trial in like if trial.phase == "search"]
    confirming = [trial for trial in like if trial.phase == "confirm"]
    reached = [min(1.0, trial.epochs / asked) for trial in searching if (asked := _epochs(trial))]
    share = statistics.fmean(reached) if reached and planned.stops else 1.0
    each = [
        trial.epoch_seconds
        * (planned.pairs / trial.pairs if best > MEASURED and trial.epochs else 1)
        * (planned.workers if trial.phase in ("search", "confirm") else 1)
        for trial in like
    ]
    whole = [_beside(like) + planned.epochs * seconds for seconds in each]
    return CellTime(
        planned,
        _beside(searching or like) + share * planned.epochs * statistics.fmean(each),
        _beside(confirming or like) + planned.epochs * statistics.fmean(each),
        max(map(_beside_epochs, like)) - _beside(like),
        max(least, math.exp(2 * _spread(whole)) if len(whole) > 1 else _LONE),
        basis,
        len(like),
    )


def likeness(planned: Planned, trial: TimedTrial) -> int | None:
    """Return how like a timed trial is to planned ones, from 0, the same arm on the same data; None: it is not."""
    of, to = trial.settings, planned.settings
    if trial.phase.endswith(SIMCSE) and planned.model != SIMCSE:
        return None
    if of.get("encoder.kind") != to.get("encoder.kind") or (planned.epochs and not trial.epochs):
        return None
    if trial.resources and planned.resources and trial.resources != planned.resources:
        return None
    differ = {name for name in {*of, *to} if of.get(name) != to.get(name) and to.get(name) != SEARCHED}
    if planned.model == SIMCSE:
        return _likeness_of_queries(trial, any(name.startswith(_ENCODED) for name in differ))
    if any(name.startswith(_STEP) or name in _STEP_TOO for name in differ):
        return 4 if trial.pairs else None
    if trial.corpus != planned.corpus or differ & set(_DATA):
        return 3 if trial.pairs else None
    if trial.phase == "measured":
        return MEASURED
    return 1 if planned.model or differ - set(_NOT_THE_ARM) else 0


def _likeness_of_queries(trial: TimedTrial, other_encoder: bool) -> int | None:
    """Return the likeness to the training of a sentence encoder, which has two views of a query where trials have a
    query and a code."""
    if trial.phase == f"measured {SIMCSE}":
        return MEASURED
    if trial.phase == "measured" or not trial.pairs:
        return None
    return (5 if trial.phase == SIMCSE else 7) + other_encoder


def wall_seconds(cells: Sequence[Work], slots: int, running: Sequence[Running] = ()) -> float:
    """Return the seconds until all trials have ended, in the order that the planner hands them out: cells take turns,
    and a cell's confirmations wait for the last trial of its search.

    Args:
      running: trials that run already, which are in no cell's numbers.
    """
    slots = max(1, slots)
    if sum(cell.search + cell.confirm for cell in cells) > _MOST_SIMULATED:
        return (sum(cell.seconds for cell in cells) + sum(trial.seconds for trial in running)) / slots
    search, confirm = [cell.search for cell in cells], [cell.confirm for cell in cells]
    live = [sum(trial.search and trial.cell == number for trial in running) for number in range(len(cells))]
    ends = [(trial.seconds, trial.cell, trial.search) for trial in running]
    heapq.heapify(ends)
    turns, now = deque(range(len(cells))), 0.0

    def start() -> bool:
        for _ in range(len(turns)):
            cell = turns[0]
            turns.rotate(-1)
            if search[cell]:
                search[cell] -= 1
                live[cell] += 1
                heapq.heappush(ends, (now + cells[cell].search_seconds, cell, True))
                return True
            if confirm[cell] and not live[cell]:
                confirm[cell] -= 1
                heapq.heappush(ends, (now + cells[cell].confirm_seconds, cell, False))
                return True
        return False

    while True:
        while len(ends) < slots and start():
            pass
        if not ends:
            return now
        now, cell, searched = heapq.heappop(ends)
        live[cell] -= searched


def how_long(seconds: float) -> str:
    """A time for people: two figures are enough for an estimate."""
    for unit, length in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            count = seconds / length
            return f"{count:.1f} {unit}" if count < 9.95 and unit != "min" else f"{count:.0f} {unit}"
    return f"{seconds:.0f} s"


def _epochs(trial: TimedTrial) -> float:
    """Number of epochs that a trial's settings ask for."""
    return float(trial.settings.get("training.epochs", 0))


def _beside_epochs(trial: TimedTrial) -> float:
    """Seconds of a trial before, between and after its epochs; none where a machine was slower in between."""
    return max(0.0, trial.seconds - trial.epochs * trial.epoch_seconds)


def _beside(trials: Sequence[TimedTrial]) -> float:
    return statistics.median_low(map(_beside_epochs, trials))


def _spread(seconds: Sequence[float]) -> float:
    """Standard deviation of logarithms."""
    return statistics.stdev(math.log(max(each, 1e-3)) for each in seconds)
