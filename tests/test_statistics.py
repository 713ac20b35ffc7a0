"""Tests, corrections and comparisons of arms against numbers worked out by hand, SciPy, and simulated truth."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.statistics import (
    compare_arms,
    difference,
    holm,
    mean_interval,
    randomisation_p_values,
    same_queries,
    simultaneous_levels,
)


def reciprocal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 1 / rng.integers(1, 20, size=shape)


def randomisation_test(a: Any, b: Any, **options: Any) -> float:
    """Of two arms in one language."""
    return randomisation_p_values({"a": [a], "b": [b]}, "b", **options)["a"]


# --- randomisation test ----------------------------------------------------------------------------------


def test_signs_of_a_shared_query_flip_together():
    # Differences 0.3 and -0.1 of one query in two languages: it adds 0.15 - 0.05; the second language's other query
    # adds nothing. One sign: both of its vectors reach the observed 0.1.
    a, b = [[[0.8]], [[0.4, 0.5]]], [[[0.5]], [[0.5, 0.5]]]
    assert randomisation_p_values({"a": a, "b": b}, "b", units=[[7], [7, 9]]) == {"a": 1.0}
    # Three languages of the same two queries, 0.1 and 0.2 better: 2 of 4 sign vectors, where 6 terms give 2 of 64.
    better, worse = [[[0.6, 0.7]]] * 3, [[[0.5, 0.5]]] * 3
    assert randomisation_p_values({"a": better, "b": worse}, "b", units=[[0, 1]] * 3) == {"a": 2 / 4}
    assert randomisation_p_values({"a": better, "b": worse}, "b") == {"a": 2 / 64}
    # What a query gains in one language it loses in another: no difference at all.
    assert randomisation_p_values({"a": [[[0.6]], [[0.4]]], "b": [[[0.5]]] * 2}, "b", units=[[0], [0]]) == {"a": 1.0}


def test_names_say_which_queries_are_the_same():
    # The second "read" of a language is that of the second in another.
    units = same_queries([["read", "write", "read"], ["close", "read"], []])
    assert [each.tolist() for each in units] == [[0, 1, 2], [3, 0], []]


matrices = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.integers(1, 4), st.integers(1, 30)).map(
        lambda shape: (
            reciprocal(np.random.default_rng([seed, 0]), *shape),
            reciprocal(np.random.default_rng([seed, 1]), *shape),
        )
    )
)


@settings(max_examples=40, deadline=None)
@given(matrices)
def test_p_is_symmetric_and_one_for_identical_arms(pair: tuple[np.ndarray, np.ndarray]):
    a, b = pair
    p = randomisation_test(a, b, permutations=200)
    assert p == randomisation_test(b, a, permutations=200)
    assert 0 < p <= 1
    # The same numbers from seeds in another order: averages that differ by rounding only.
    assert randomisation_test(a, a[::-1], permutations=100) == 1.0


def test_exact_p_by_hand():
    # Differences 0.1, 0.2, 0.3: of 8 sign vectors only +++ and --- reach |0.6|.
    assert randomisation_test([[0.6, 0.7, 0.8]], [[0.5, 0.5, 0.5]]) == 2 / 8
    # 0.3, -0.1: |0.2| is reached by all four of ++ (0.4), +- (0.2), -+ (-0.2), -- (-0.4).
    assert randomisation_test([[0.8, 0.4]], [[0.5, 0.5]]) == 1.0
    # A query without a difference changes nothing.
    assert randomisation_test([[0.6, 0.7, 0.8, 0.5]], [[0.5, 0.5, 0.5, 0.5]]) == 2 / 8


def test_seeds_are_averaged_before_signs_flip():
    a, b = [[0.9, 0.1], [0.1, 0.9]], [[0.4, 0.4], [0.4, 0.4]]  # seed averages 0.5, 0.5 against 0.4, 0.4
    assert randomisation_test(a, b) == 2 / 4


def test_smallest_sampled_p_is_never_zero():
    a = np.full((1, 200), 0.9)
    assert randomisation_test(a, a - 0.5, permutations=999) == 1 / 1000


def difference_statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return np.mean(x - y, axis=axis)


@pytest.mark.parametrize("queries, tolerance", [(8, 1e-12), (300, 0.02)])
def test_agrees_with_scipy_permutation_test(queries: int, tolerance: float):
    for study in range(4):
        rng = np.random.default_rng([21, study])
        a, b = reciprocal(rng, queries) + 0.01 * study, reciprocal(rng, queries)
        reference = scipy.stats.permutation_test(
            (a, b),
            difference_statistic,
            permutation_type="samples",
            vectorized=True,
            n_resamples=10_000,
            batch=1000,
            rng=np.random.default_rng(5),
        ).pvalue
        ours = randomisation_test(a[np.newaxis], b[np.newaxis])
        assert ours == pytest.approx(reference, abs=tolerance)


def test_sampled_and_exact_p_agree():
    rng = np.random.default_rng(8)
    a, b = reciprocal(rng, 2, 13), reciprocal(rng, 2, 13)
    assert np.count_nonzero(a.mean(0) - b.mean(0)) == 13
    exact = randomisation_test(a, b, permutations=2**13)
    sampled = randomisation_test(a, b, permutations=2**13 - 1)
    assert exact != sampled
    assert sampled == pytest.approx(exact, abs=0.03)


def test_p_is_uniform_without_an_effect():
    p_values = []
    for study in range(200):
        rng = np.random.default_rng([31, study])
        a, b = reciprocal(rng, 3, 60), reciprocal(rng, 3, 60)
        p_values.append(randomisation_test(a, b, permutations=400, seed=study))
    assert np.mean(np.array(p_values) < 0.05) <= 0.1
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_overall_p_weighs_languages_equally():
    # Differences 0.3 in the first language; -0.4, 0.1 in the second. Terms of the mean of means:
    # 0.3 / 2 = 0.15; -0.4 / (2 * 2) = -0.1; 0.1 / (2 * 2) = 0.025; observed 0.075. The 8 sign vectors give
    # 0.275, 0.225, 0.075, 0.025 and their negatives: 6 of 8 reach it. Queries of equal weight would sum to 0.
    a, b = [[[0.8]], [[0.1, 0.6]]], [[[0.5]], [[0.5, 0.5]]]
    assert randomisation_p_values({"a": a, "b": b}, "b") == {"a": 6 / 8}


# --- Holm ------------------------------------------------------------------------------------------------


p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04, 0.3 times 4, 3, 2, 1 = 0.04, 0.06, 0.08, 0.3.
    assert holm([0.04, 0.01, 0.3, 0.02]).tolist() == pytest.approx([0.08, 0.04, 0.3, 0.06])
    # 0.03 * 2 = 0.06 and 0.04 * 1, which may not fall below 0.06; 0.6 * 2 is clipped.
    assert holm([0.03, 0.04]).tolist() == pytest.approx([0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(p_lists)
def test_holm_keeps_the_order_and_never_helps(p_values: list[float]):
    p, corrected = np.array(p_values), holm(p_values)
    assert np.all(corrected >= p) and np.all(corrected <= 1)
    assert np.all(np.diff(corrected[np.argsort(p, kind="stable")]) >= 0)
    assert np.all(corrected <= np.minimum(1, p * len(p)))  # Bonferroni is never sharper
    raised = holm(np.minimum(1, p + 0.1))
    assert np.all(raised >= corrected)


@pytest.mark.parametrize("bad", [[0.5, 1.5], [-0.1], [float("nan")], [[0.1]]])
def test_holm_rejects_what_is_no_p(bad: list):
    with pytest.raises(ValueError, match=r"one-dimensional and in \[0, 1\]"):
        holm(bad)


@given(p_lists, st.floats(0.5, 0.999))
def test_intervals_that_hold_together_agree_with_holm(p_values: list[float], level: float):
    """An interval leaves out 0 exactly where its level is under 1 - p."""
    levels = simultaneous_levels(p_values, level)
    left_out = np.array(p_values) < 1 - levels
    near = np.isclose(np.array(p_values), 1 - levels) | np.isclose(holm(p_values), 1 - level)
    assert ((holm(p_values) < 1 - level) == left_out)[~near].all()
    assert (levels >= level - 1e-12).all() and (levels <= 1 - (1 - level) / len(p_values) + 1e-12).all()


def test_levels_by_hand():
    # Of three, .001 · 3 and .02 · 2 are under .05, .3 is not: Bonferroni's 1 - .05/3 says so of the first and the
    # third; the second was tested at .05/2.
    assert simultaneous_levels([0.02, 0.3, 0.001]).tolist() == pytest.approx([1 - 0.05 / 2, 1 - 0.05 / 3, 1 - 0.05 / 3])
    assert simultaneous_levels([0.2]).tolist() == [0.95]
    assert simultaneous_levels([]).tolist() == []


def test_intervals_hold_together_in_nineteen_of_twenty_families():
    """Of six differences, two of which are none: all six intervals hold their values at once."""
    rng, held, families = np.random.default_rng(11), 0, 600
    truth = np.array([0, 0, 0.1, 0.2, 0.3, 0.5])
    for _ in range(families):
        found = [difference(rng.normal(mean, 1, size=(1, 200)), np.zeros((1, 200))) for mean in truth]
        levels = simultaneous_levels([each.p for each in found])
        bounds = [each.at(level) for each, level in zip(found, levels, strict=True)]
        held += all(each.low <= mean <= each.high for each, mean in zip(bounds, truth, strict=True))
    assert held / families >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / families)


# --- all arms at once ------------------------------------------------------------------------------------


def test_comparing_arms_at_once_equals_one_by_one():
    rng = np.random.default_rng(9)
    sizes = {"x": 3, "y": 3, "z": 2}
    ranks = {arm: [reciprocal(rng, s, 40), reciprocal(rng, s, 70)] for arm, s in sizes.items()}
    seeds = {"x": [[1, 2, 3]] * 2, "y": [[1, 2, 3]] * 2, "z": [[1, 2]] * 2}
    compared = compare_arms(ranks, seeds, "x")
    assert {arm: each.mean for arm, each in compared.items()} == {a: mean_interval(r) for a, r in ranks.items()}
    assert compared["x"].difference is None
    for arm, paired in (("y", True), ("z", False)):
        assert compared[arm].difference == difference(ranks[arm], ranks["x"], seeds_paired=paired)
    best = max(compared, key=lambda arm: compared[arm].mean.mean)
    assert [arm for arm in compared if compared[arm].behind is None] == [best]


def test_these_models_are_taken_as_given():
    """Their seeds say nothing: values are averaged first, and p is that of sign flips."""
    rng = np.random.default_rng(10)
    ranks = {arm: [reciprocal(rng, 3, 60)] for arm in ("x", "y")}
    seeds = {arm: [[1, 2, 3]] for arm in ranks}
    compared = compare_arms(ranks, seeds, "x", inference="these-models", permutations=300, seed=4)
    means = {arm: [rows[0].mean(axis=0, keepdims=True)] for arm, rows in ranks.items()}
    found = compared["y"].difference
    expected = difference(means["y"], means["x"])
    assert found is not None
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.p == randomisation_p_values(ranks, "x", permutations=300, seed=4)["y"]
    assert compared["y"].mean == mean_interval(means["y"])


def test_comparing_without_a_reference_gives_means_only():
    compared = compare_arms({"x": [[[0.5, 0.25]]]}, {"x": [[1]]}, None)
    assert compared["x"].mean.mean == 0.375
    assert compared["x"].difference is None
    assert compare_arms({}, {}, None) == {}


def test_many_queries_stay_within_memory():
    ranks = reciprocal(np.random.default_rng(10), 3, 15_000)
    tracemalloc.start()
    randomisation_test(ranks, ranks[:, ::-1], permutations=800)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# --- errors ----------------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong():
    good = [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"shape \(seeds, queries\).*got \(\)"):
        mean_interval([0.5, 0.5])
    with pytest.raises(ValueError, match=r"neither of them 0, got \(0, 3\)"):
        mean_interval(np.empty((0, 3)))
    with pytest.raises(ValueError, match="finite, got 1 values"):
        mean_interval([[0.5, float("nan")]])
    with pytest.raises(ValueError, match=r"95 % is 0\.95"):
        mean_interval(good, level=95)
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        randomisation_test(good, good, permutations=0)
    with pytest.raises(ValueError, match="same queries, got 2 and 3"):
        difference(good, [[0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match="pass seeds_paired=False"):
        difference(good, [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="at least one language"):
        mean_interval([])
    with pytest.raises(ValueError, match="same languages, got 2 and 1"):
        difference([good, good], [good])
    with pytest.raises(ValueError, match=r"one entry per language \(1\), got 2"):
        difference([good], [good], seeds_paired=[True, True])
    with pytest.raises(ValueError, match=r"units must have one entry per language \(1\), got 2"):
        mean_interval([good], units=[[0, 1]] * 2)
    with pytest.raises(ValueError, match=r"units\[0\] must have shape \(2,\), one for each query, got \(1,\)"):
        mean_interval([good], units=[[0]])
    with pytest.raises(ValueError, match="must not repeat within a language"):
        mean_interval([good], units=[[0, 0]])
    with pytest.raises(ValueError, match=r"equally many rows in every language, got \[\[1\], \[2\]\]"):
        mean_interval([good, good * 2], same_models=True)
    with pytest.raises(ValueError, match="reference must be one of x, got 'y'"):
        randomisation_p_values({"x": [good]}, "y")
    with pytest.raises(ValueError, match="reference must be one of x, got 'y'"):
        compare_arms({"x": [good]}, {"x": [[1]]}, "y")
    with pytest.raises(ValueError, match=r"numbers of queries: \{'x': 2, 'y': 1\}"):
        compare_arms({"x": [good], "y": [[[0.5]]]}, {"x": [[1]], "y": [[1]]}, "x")
    with pytest.raises(ValueError, match=r"same number of languages, got \[1, 2\]"):
        compare_arms({"x": [good], "y": [good, good]}, {"x": [[1]], "y": [[1], [1]]}, "x")
