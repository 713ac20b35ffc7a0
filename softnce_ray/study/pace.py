"""How fast the trials of a launch go, and when it will have ended."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from softnce_ray.results import TrialKey
from softnce_ray.study.cells import Cell
from softnce_ray.study.estimate import Running, Work, wall_seconds

Left = Sequence[tuple[Cell, int, int]]
"""Search and confirm trials of each cell that are still to be handed out."""


class Pace:
    """Times of the trials of one launch, as it sees them start and end."""

    slots: int = 1
    """Trials that run at once."""

    def __init__(
        self,
        expected: Mapping[tuple[Cell, str], float] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the `expected` seconds of trials by cell and phase, which the launch's own replace."""
        self._expected, self._clock = dict(expected or {}), clock
        self._began: dict[TrialKey, float] = {}
        self._took: dict[tuple[Cell, str], list[tuple[float, float]]] = {}  # (seconds, share of its epochs)

    def began(self, key: TrialKey) -> None:
        """Take note of a trial that starts; one that is tried again starts anew."""
        self._began[key] = self._clock()

    def ended(self, key: TrialKey, share: float | None) -> None:
        """Take note of a trial that ended after this `share` of its epochs; None: its time says nothing of others."""
        began = self._began.pop(key, None)
        if began is not None and share:
            self._took.setdefault((Cell(key.arm, key.language), key.phase), []).append((self._clock() - began, share))

    def seconds(self, cell: Cell, phase: str) -> float | None:
        """Return the expected seconds of a trial: by those of its cell and phase, of its cell, those that were expected
        at first, or those of the study; None where there are none."""
        if phase == "search" and (own := self._took.get((cell, phase))):
            return statistics.fmean(seconds for seconds, _ in own)  # of which some stop early, as others will
        for where in ((cell, phase), (cell, "search"), (cell, "confirm")):
            if where in self._took:
                return _whole(self._took[where])
        if (cell, phase) in self._expected:
            return self._expected[cell, phase]
        return _whole(each for took in self._took.values() for each in took) if self._took else None

    def left(self, left: Left) -> float | None:
        """Return the seconds until these trials and those that run have ended; None while that is unknown."""
        live = {(Cell(key.arm, key.language), key.phase) for key in self._began}
        phases = {(cell, "search") for cell, search, _ in left if search} | {
            (cell, "confirm") for cell, _, confirm in left if confirm
        }
        if any(self.seconds(*each) is None for each in live | phases):
            return None
        place = {cell: number for number, (cell, _, _) in enumerate(left)}
        work = [
            Work(search, self.seconds(cell, "search") or 0.0, confirm, self.seconds(cell, "confirm") or 0.0)
            for cell, search, confirm in left
        ]
        running = [
            Running(place[cell], key.phase == "search", max(0.0, (self.seconds(cell, key.phase) or 0.0) - since))
            for key, began in self._began.items()
            for cell, since in [(Cell(key.arm, key.language), self._clock() - began)]
        ]
        return wall_seconds(work, self.slots, running)


def _whole(took: Iterable[tuple[float, float]]) -> float:
    """Mean seconds of trials with all their epochs."""
    return statistics.fmean(seconds / share for seconds, share in took)
