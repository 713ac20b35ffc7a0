"""What all that is missing of a study takes together: preparing, searches within a budget, and confirmations of as many
seeds as there may be. Plain Python, as `estimate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from softnce_ray.results import TimedTrial
from softnce_ray.study.budget import MARGIN
from softnce_ray.study.estimate import CellTime, Planned, Work, cell_time, wall_seconds

_WORKER = 10.0
"""Seconds until a worker's process has its libraries: 8 idle, 16 on a busy machine with two cores."""

_POWERS = (0, -1, 1)
"""Of the factor that an estimate may be off by: as it is, and its bounds."""

ItemT = TypeVar("ItemT")

Batches = Sequence[Sequence[Sequence[ItemT]]]
"""What each cell has, in batches of cells that are prepared one after another."""


class Span(NamedTuple):
    """A number as it is estimated, and the bounds of what it may be."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Times of what is missing of a study, in seconds.

    Attributes:
      cells: those that something alike was timed for.
      models: the same of models that preparation trains.
      unknown: cells and models for which nothing alike was timed.
      slots: trials that run at once.
      preparing: the training of `models`, from the start of workers.
      wall: from the start of workers to the last trial's end, with `preparing` and without `unknown`.
      most: the same with all seeds that may be added; None: none may.
      left_out: search trials that the budget is expected to leave out, so many `rounds_left_out` of a cell at most.
    """

    cells: tuple[CellTime, ...]
    models: tuple[CellTime, ...]
    unknown: tuple[Planned, ...]
    slots: int
    preparing: Span
    wall: Span
    most: Span | None
    left_out: Span
    rounds_left_out: int

    @property
    def trials(self) -> int:
        """Trials that are missing, without those that may be added or are expected to be left out."""
        planned = (*(cell.planned for cell in self.cells), *(each for each in self.unknown if not each.model))
        return sum(each.search + each.confirm for each in planned) - round(self.left_out.middle)

    @property
    def later(self) -> int:
        """Trials of seeds that may be added."""
        return sum(each.later for each in (*(cell.planned for cell in self.cells), *self.unknown))

    def seconds(self, *, later: bool = False, workers: int = 1) -> float:
        """Return those of all models and of all workers of trials, one after another, on request with seeds that may be
        added."""
        trials = sum(
            each.work(rounds_left_out=self.rounds_left_out).seconds + later * each.planned.later * each.confirm_seconds
            for each in self.cells
        )
        return trials * workers + sum(each.confirm_seconds for each in self.models)


def estimate(
    planned: Iterable[Planned],
    timed: Sequence[TimedTrial],
    slots: int,
    *,
    models: Batches[Planned] = (),
    seconds_left: float | None = None,
) -> Estimate:
    """Estimate the times of missing trials from those that were timed, the latest first.

    Args:
      models: that preparation trains.
      seconds_left: of a budget of hours; None: there is none.
    """
    found = [(each, cell_time(each, timed)) for each in planned if each.search or each.confirm or each.later]
    cells = [cell for _, cell in found if cell is not None]
    unknown = [each for each, cell in found if cell is None]
    times = [[[cell_time(each, timed) for each in cell] for cell in batch] for batch in models]
    training = [[[time for time in cell if time is not None] for cell in batch] for batch in times]
    of_models = zip(_flat(models), _flat(times), strict=True)
    unknown += [each for each, time in of_models if time is None]
    whole = [_Whole(cells, training, slots, power) for power in _POWERS]
    most = max((cell.planned.search for cell in cells), default=0)
    rounds = [each.rounds_left_out(most, seconds_left) for each in whole]
    left_out = [
        sum(cell.planned.search - cell.planned.searches(count) for cell in cells) if count else 0 for count in rounds
    ]
    fewest = [each.seconds(count) for each, count in zip(whole, rounds, strict=True)]
    added = [each.added() for each in whole]
    return Estimate(
        tuple(cells),
        tuple(_flat(training)),
        tuple(unknown),
        slots,
        Span(*(each.preparing for each in whole)),
        Span(*fewest),
        Span(*(few + more for few, more in zip(fewest, added, strict=True))) if any(added) else None,
        Span(*map(float, left_out)),
        rounds[0],
    )


class _Whole:
    """A study of which each trial takes as long as estimated, or as it takes at least or at most."""

    def __init__(self, cells: Sequence[CellTime], training: Batches[CellTime], slots: int, power: int) -> None:
        self._cells, self._slots, self._power = cells, slots, power
        batches = [[Work(0, 0.0, 1, sum(map(self._confirm, cell))) for cell in batch] for batch in training]
        start = _WORKER if any(_flat(training)) else 0.0  # its workers are others than those of trials
        self.preparing = start + sum(wall_seconds(batch, slots) for batch in batches)
        trials = any(cell.planned.search or cell.planned.confirm for cell in cells)
        self._start = _WORKER + max((cell.start for cell in cells), default=0.0) if trials else 0.0

    def seconds(self, rounds_left_out: int = 0) -> float:
        """Return those until the trials of the seeds that are sure have ended."""
        work = [cell.work(cell.factor**self._power, rounds_left_out) for cell in self._cells]
        return self.preparing + self._start + wall_seconds(work, self._slots)

    def added(self) -> float:
        """Return the seconds of the seeds that may be added: the next one begins when all arms have ended one."""
        count = max((cell.planned.later for cell in self._cells), default=0)
        return sum(
            wall_seconds(
                [Work(0, 0.0, 1, self._confirm(cell)) for cell in self._cells if cell.planned.later > number],
                self._slots,
            )
            for number in range(count)
        )

    def rounds_left_out(self, most: int, seconds_left: float | None) -> int:
        """Return how many of `most` search trials of a cell a budget leaves out: it opens a round where that and all
        confirmations, with their margin, still fit."""
        if seconds_left is None or not most:
            return 0
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            if self._needed(middle) <= seconds_left:
                high = middle
            else:
                low = middle + 1
        return low

    def _needed(self, rounds_left_out: int) -> float:
        last = [
            Work(min(1, work.search), work.search_seconds, work.confirm, work.confirm_seconds)
            for work in self._work(rounds_left_out)
        ]
        whole = wall_seconds(self._work(rounds_left_out), self._slots)
        return self.preparing + self._start + whole + (MARGIN - 1) * wall_seconds(last, self._slots)

    def _work(self, rounds_left_out: int) -> list[Work]:
        """Return all that a budget counts: seeds that may be added, too."""
        return [
            Work(each.search, each.search_seconds, each.confirm + cell.planned.later, each.confirm_seconds)
            for cell in self._cells
            for each in [cell.work(cell.factor**self._power, rounds_left_out)]
        ]

    def _confirm(self, cell: CellTime) -> float:
        return cell.confirm_seconds * cell.factor**self._power


def _flat(batches: Batches[ItemT]) -> Iterator[ItemT]:
    return (each for batch in batches for cell in batch for each in cell)
