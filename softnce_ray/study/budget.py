"""A budget of hours or trials: it ends searches while there is enough of it for every confirmation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection

from softnce_ray.config import Budget, StudyConfig
from softnce_ray.study.estimate import how_long
from softnce_ray.study.pace import Left, Pace

MARGIN = 1.1
"""Confirmations are given so much more time than they are expected to take: trials of one arm differ by some percent,
and a launch ends some seconds after its last trial."""


class Limit:
    """Keep count of a study's budget. Hours are those of all its launches, from their beginnings to their ends."""

    def __init__(
        self, budget: Budget, pace: Pace, *, spent: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with a launch, of a study whose earlier launches took `spent` seconds."""
        self.budget, self.pace = budget, pace
        self._spent, self._clock, self._began = spent, clock, clock()

    @property
    def seconds(self) -> float:
        """Seconds of the study's launches so far."""
        return self._spent + self._clock() - self._began

    def allows(self, left: Left, counted: int) -> bool:
        """Return True if there is enough for these trials, which are still to be handed out, beside the `counted` ones
        that have ended or run. Nothing is refused for its time before any trial was timed: all of them run at once
        then."""
        if self.budget.trials is not None and counted + _count(left) > self.budget.trials:
            return False
        needed = None if self.budget.hours is None else self.pace.left(left)
        return needed is None or self.seconds + MARGIN * needed <= 3600 * (self.budget.hours or 0)

    def within(self, seconds: float | None) -> float | None:
        """Return at most the seconds that are left."""
        if seconds is None or self.budget.hours is None:
            return seconds
        return min(seconds, max(0.0, 3600 * self.budget.hours - self.seconds))


def is_larger(budget: Budget, before: str) -> bool:
    """Return True if a budget goes on where another, as `budget_text` has it, ended the searches. One of trials is
    counted anew."""
    hours = json.loads(before).get("hours") if before else None
    return hours is None or budget.hours is None or budget.hours > hours


def budget_text(budget: Budget) -> str:
    """Return a budget as a tag of a study's run."""
    return budget.model_dump_json(exclude_none=True)


def rounds_within(trials: int, searches: int, confirmations: int) -> int:
    """Return how many search trials each of several searches has within a budget of trials: at least one."""
    return max(1, (trials - confirmations) // searches) if searches else 0


def searched_within(study: StudyConfig) -> int:
    """Return the search trials of each cell that is searched, as far as a budget of trials lets it."""
    asked = study.search.trials if study.search else 0
    if study.budget is None or study.budget.trials is None:
        return asked
    return min(asked, rounds_within(study.budget.trials, study.searches, study.confirmations))


def budget_left(study: StudyConfig, begun: Collection[int], spent: float, ended: str) -> str:
    """Return what earlier launches left of a study's budget, for people; "" for nothing to say.

    Args:
      begun: search trials of each search that have ended.
      spent: seconds of the launches of a budget of hours.
      ended: the budget that ended the searches, as `budget_text` has it; "" for none.
    """
    budget, trials = study.budget, study.search.trials if study.search else 0
    if budget is None or not any(begun):
        return ""
    seconds = None if budget.hours is None else 3600 * budget.hours - spent
    is_used_up = seconds is not None and (seconds <= 0 or not is_larger(budget, ended))
    if is_used_up or (budget.trials is not None and min(begun) >= searched_within(study)):
        return left_out(budget, [min(trials, max(1, each)) for each in begun], trials)
    return "" if seconds is None else f"of the budget of {budget} {how_long(seconds)} is left"


def left_out(budget: Budget, asked: Collection[int], trials: int) -> str:
    """Return what a budget left out of searches that had handed out so many of their trials; "" for nothing."""
    missing = sum(trials - each for each in asked)
    if not missing:
        return ""
    few, most = min(asked), max(asked)
    reached = f"{few}" if few == most else f"{few} to {most}"
    return (
        f"the budget of {budget} ended the searches after {reached} of {trials} trials of each cell, and {missing} "
        f"search trial{'s were' if missing > 1 else ' was'} left out: a larger budget, or none, goes on with them"
    )


def _count(left: Left) -> int:
    return sum(search + confirm for _, search, confirm in left)
