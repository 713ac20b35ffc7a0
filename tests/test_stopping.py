"""Intervals after seeds were added until they were narrow: do they hold the truth as often as they say?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from stopping import AT_MOST, SEED_SDS, Looks, drawn, half_widths, looks, simulated, stopped

from softnce_ray.statistics import difference


def test_looks_are_those_of_difference() -> None:
    sets = 1 / np.random.default_rng(1).integers(1, 20, size=(5, 4, 30))
    for level in (0.95, 0.99):
        found = looks(sets, level)
        for number, values in enumerate(sets):
            for seeds in (2, 3, 4):
                expected = difference(values[:seeds], np.zeros((seeds, 30)), level=level)
                assert found.means[number, seeds - 1] == pytest.approx(expected.mean)
                assert found.halves[number, seeds - 1] == pytest.approx(expected.high - expected.mean)


def test_a_set_stops_at_the_first_look_that_is_narrow_enough_or_at_the_last() -> None:
    found = Looks(np.array([[0, 9, 0, 0], [0, 0, 0, 9]]), np.array([[9, 1, 3, 1], [9, 5, 5, 5]]))
    # The first set stops with two seeds, at a mean of 9 ± 1, or with at least three at 0 ± 1; the other never: 9 ± 5.
    assert stopped(found, 2, 2.0) == (0.0, 3.0)
    assert stopped(found, 3, 2.0) == (0.5, 4.0)


@pytest.mark.parametrize(
    ("seeds_differ", "queries", "at_least"),
    [("none", 300, 3), ("as measured", 300, 3), ("as measured", 1000, 3), ("thrice that", 300, 6), ("alone", 20, 6)],
)
def test_intervals_after_stopping_hold_the_truth_in_93_of_100(seeds_differ: str, queries: int, at_least: int) -> None:
    """Whatever the half-width that is asked for. With seeds alone it takes six at least: three hold in 90."""
    repetitions = 3000
    found = drawn(simulated(queries, SEED_SDS[seeds_differ]), repetitions, np.random.default_rng(queries))
    error = math.sqrt(0.93 * 0.07 / repetitions)  # Monte Carlo
    came = [stopped(found, at_least, each) for each in half_widths(found, at_least)]
    assert min(held for held, _ in came) >= 0.93 - 2 * error
    assert min(seeds for _, seeds in came) < (at_least + AT_MOST) / 2 < max(seeds for _, seeds in came)
