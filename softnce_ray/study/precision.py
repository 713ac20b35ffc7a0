"""How many seeds a language takes: as many as make its differences as certain as the study asks.

The width of intervals alone decides, never where they lie: whether a difference is called one has no part in it. Every
launch decides anew from the first seeds upwards, from ranks alone, so that a study that was killed stops where an
undisturbed one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from softnce_ray.config import Precision
from softnce_ray.ranks_file import only, place, read_ranks
from softnce_ray.report import planned_comparisons
from softnce_ray.results import SeedsAsked, StudyResults, TrialKey
from softnce_ray.statistics import Difference, Interval, difference, mean_interval, simultaneous_levels

LEVEL = 0.95

_TestRanks = Mapping[str, np.ndarray]  # `test` or, of several languages, `test/ruby` and so on -> (Q,)


class SeedsByWidth:
    """Decides whether a language takes another seed; given to the planner as `more_seeds`.

    Args:
      study: the study without trials; it has a precision.
      precision: of the study.
      stored: test ranks of trials that finished in earlier launches.
      tell: called with a language and what was decided on it.
    """

    def __init__(
        self,
        study: StudyResults,
        precision: Precision,
        stored: Mapping[TrialKey, _TestRanks],
        tell: Callable[[str, SeedsAsked], None],
    ) -> None:
        self._study, self._precision, self._tell = study, precision, tell
        self._ranks: dict[TrialKey, _TestRanks] = dict(stored)

    def learn(self, key: TrialKey, ranks: Path) -> None:
        """Take in the file of ranks of a trial that has finished. One that cannot be read counts as none: the report
        will say so."""
        if key.phase == "confirm":
            try:
                self._ranks[key] = only("test", read_ranks(ranks)["reciprocal_rank"])
            except (OSError, ValueError, pa.ArrowException):
                self._ranks.pop(key, None)

    def __call__(self, language: str, trials: Mapping[str, Sequence[TrialKey]]) -> bool:
        """Return True where the language takes another seed.

        Args:
          trials: of each arm, those of the seeds so far; all have ended.
        """
        count = max(map(len, trials.values()), default=self._precision.at_least)
        width = self._widest(language, trials)
        why = ""
        if width is None:
            why = "nothing to compare"
        elif width <= self._precision.half_width:
            why = "narrow enough"
        elif count >= self._precision.at_most:
            why = "at_most reached"
        self._tell(language, SeedsAsked(count if why else count + 1, width, why))
        if why:
            self._ranks = {key: ranks for key, ranks in self._ranks.items() if key.language != language}
        return not why

    def _widest(self, language: str, trials: Mapping[str, Sequence[TrialKey]]) -> float | None:
        """Return the half-width of the widest difference from the baseline, on the queries of any language that is
        tested on; of the baseline's mean where it is the only arm.

        It is infinite where fewer than two seeds of an arm finished, which say nothing of others, and None where
        nothing can be compared. Means over the languages of a training set are hardly ever wider than the widest.
        """
        finished: dict[str, dict[int, _TestRanks]] = {
            arm: {key.seed: ranks for key in keys if (ranks := self._ranks.get(key)) is not None}
            for arm, keys in trials.items()
        }
        baseline = finished.get(self._study.baseline)
        if not baseline:
            return None
        others = [each for arm, each in finished.items() if arm != self._study.baseline and each]
        tests = self._study.training_set(language).test
        if len(self._study.arms) == 1:
            found: list[Interval] = [mean_interval(_matrix(baseline, test), level=LEVEL) for test in tests]
        else:
            found = [self._difference(each, baseline, test) for each in others for test in tests]
        return max((math.inf if each.seeds < 2 else each.high - each.mean for each in found), default=None)

    def _difference(self, arm: Mapping[int, _TestRanks], baseline: Mapping[int, _TestRanks], test: str) -> Difference:
        # Bonferroni's, whatever p are: those of Holm's steps depend on what is called a difference.
        level = float(simultaneous_levels(np.ones(planned_comparisons(self._study, test)), LEVEL)[0])
        paired = list(arm) == list(baseline)
        return difference(_matrix(arm, test), _matrix(baseline, test), seeds_paired=paired, level=level)


def _matrix(trials: Mapping[int, _TestRanks], test: str) -> np.ndarray:
    """(seeds, queries) of a language."""
    return np.stack([each.get(place("test", test), each.get("test", np.empty(0))) for each in trials.values()])
