"""Intervals, tests and corrections against numbers worked out by hand, SciPy, and simulated truth."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.statistics import (
    Difference,
    Interval,
    compare_arms,
    holm,
    overall_difference,
    overall_mean_interval,
    randomisation_p_values,
    same_queries,
)


def reciprocal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 1 / rng.integers(1, 20, size=shape)


def mean_interval(ranks: Any, **options: Any) -> Interval:
    """Of one language."""
    return overall_mean_interval([ranks], **options)


def paired_difference(a: Any, b: Any, *, seeds_paired: bool = True, **options: Any) -> Difference:
    """In one language."""
    return overall_difference([a], [b], seeds_paired=[seeds_paired], **options)


def randomisation_test(a: Any, b: Any, **options: Any) -> float:
    """Of two arms in one language."""
    return randomisation_p_values({"a": [a], "b": [b]}, "b", **options)["a"]


# --- means and intervals ---------------------------------------------------------------------------------


def test_mean_by_hand():
    interval = mean_interval([[1.0, 0.5, 0.25], [0.5, 0.5, 0.25]])
    assert interval.mean == pytest.approx((1 + 0.5 + 0.25 + 0.5 + 0.5 + 0.25) / 6)
    assert (interval.seeds, interval.queries, interval.resamples, interval.level) == (2, 3, 2000, 0.95)


def test_one_query_leaves_only_the_seeds_to_resample():
    # Two seeds, one query: a resample is 0.2, 0.6 or their mean, with chances 1/4, 1/4, 1/2.
    interval = mean_interval([[0.2], [0.6]])
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.2, 0.4, 0.6))
    half = mean_interval([[0.2], [0.6]], level=0.4)  # the middle 40 % lies within the middle half
    assert (half.low, half.high) == pytest.approx((0.4, 0.4))


def test_queries_are_shared_by_the_seeds_of_a_resample():
    # Query 0 is 0 and query 1 is 1 for both seeds. Shared draws of two queries give 0 with chance 1/4; draws
    # of each seed's own would give 0 with chance 1/16, inside a 70 % interval.
    interval = mean_interval([[0.0, 1.0], [0.0, 1.0]], level=0.7)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_one_seed_agrees_with_scipy_bootstrap():
    ranks = reciprocal(np.random.default_rng(1), 400)
    ours = mean_interval(ranks[np.newaxis], resamples=8000)
    reference = scipy.stats.bootstrap(
        (ranks,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = reference.high - reference.low
    assert ours.seeds == 1
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=0.05 * width)


def test_seed_noise_alone_agrees_with_scipy_bootstrap():
    # Queries of equal score: only the seeds vary, and SciPy can resample those.
    levels = np.random.default_rng(3).uniform(size=12)
    ours = mean_interval(np.repeat(levels[:, np.newaxis], 5, axis=1), resamples=8000)
    reference = scipy.stats.bootstrap(
        (levels,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    width = reference.high - reference.low
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=0.05 * width)


@pytest.mark.parametrize("seeds, query_sd, seed_sd", [(1, 0.3, 0.0), (3, 0.3, 0.01), (10, 0.1, 0.03)])
def test_interval_covers_the_truth(seeds: int, query_sd: float, seed_sd: float):
    truth, studies, covered = 0.4, 300, 0
    for study in range(studies):
        rng = np.random.default_rng([11, study])
        scores = (
            truth
            + query_sd * rng.normal(size=(1, 80))
            + seed_sd * rng.normal(size=(seeds, 1))
            + 0.02 * rng.normal(size=(seeds, 80))
        )
        interval = mean_interval(scores, resamples=300, seed=study)
        covered += interval.low <= truth <= interval.high
    assert 0.88 <= covered / studies <= 0.99


def test_seeds_widen_the_interval():
    queries = reciprocal(np.random.default_rng(5), 1, 500)
    shifts = np.array([[-0.1], [0.0], [0.1]])
    still, moving = mean_interval(np.repeat(queries, 3, axis=0)), mean_interval(queries + shifts)
    assert moving.high - moving.low > 2 * (still.high - still.low)


def test_overall_mean_counts_languages_not_queries():
    # Means 0.5 over 4 queries and 1.0 over 1 query: (0.5 + 1.0) / 2, not (4 * 0.5 + 1.0) / 5.
    overall = overall_mean_interval([[[0.5, 0.5, 0.5, 0.5]], [[1.0], [1.0]]])
    assert (overall.low, overall.mean, overall.high) == pytest.approx((0.75, 0.75, 0.75))
    assert (overall.queries, overall.seeds) == (5, 1)


def test_overall_interval_adds_the_variances_of_the_languages():
    # Variance of a mean of two independent means: (v1 + v2) / 4.
    rng = np.random.default_rng(6)
    languages = [reciprocal(rng, 1, 300), reciprocal(rng, 1, 900)]
    v1, v2 = (m.var() / m.size for m in languages)
    overall = overall_mean_interval(languages, resamples=8000)
    assert overall.high - overall.low == pytest.approx(2 * 1.96 * np.sqrt((v1 + v2) / 4), rel=0.05)


@pytest.mark.parametrize("shape", [(1, 400), (40, 1)], ids=["queries", "seeds"])
def test_languages_are_resampled_independently(shape: tuple[int, int]):
    # The mean of two independent means of equal variance is narrower by a factor of sqrt(2).
    ranks = reciprocal(np.random.default_rng(12), *shape)
    one, two = mean_interval(ranks, resamples=8000), overall_mean_interval([ranks, ranks], resamples=8000)
    assert (one.high - one.low) / (two.high - two.low) == pytest.approx(np.sqrt(2), rel=0.05)


# --- languages that share queries ------------------------------------------------------------------------


@pytest.mark.parametrize("same_models", [False, True])
def test_copies_of_a_language_have_the_interval_of_one(same_models: bool):
    """Three versions of one corpus that models answer alike hold no more queries than one of them. Models of a version
    each have seeds of their own, which here do not matter."""
    one = reciprocal(np.random.default_rng(13), 3, 200)
    one = one if same_models else np.repeat(one[:1], 3, axis=0)
    place = np.arange(200)
    options: dict[str, Any] = {"units": [place] * 3, "same_models": same_models}
    alone, copies = mean_interval(one), overall_mean_interval([one] * 3, **options)
    assert (copies.mean, copies.low, copies.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert copies.queries == 200
    apart = overall_mean_interval([one] * 3)
    assert (alone.high - alone.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(3), rel=0.1)
    assert apart.queries == 600
    other = np.clip(one - 0.1 + 0.2 * np.random.default_rng(14).random((1, 200)), 0, 1)
    alone_difference = paired_difference(other, one)
    difference = overall_difference([other] * 3, [one] * 3, seeds_paired=[True] * 3, **options)
    assert (difference.low, difference.high) == pytest.approx((alone_difference.low, alone_difference.high))
    p = randomisation_p_values({"a": [other] * 3, "b": [one] * 3}, "b", units=[place] * 3)
    assert p["a"] == randomisation_test(other, one)


def test_queries_are_the_same_by_their_number_whatever_their_place():
    one, order = reciprocal(np.random.default_rng(15), 1, 100), np.random.default_rng(16).permutation(100)
    alone = mean_interval(one)
    turned = overall_mean_interval([one, one[:, order]], units=[np.arange(100), np.arange(100)[order]])
    assert (turned.low, turned.high) == pytest.approx((alone.low, alone.high))


def test_an_interval_of_partly_shared_queries_agrees_with_the_bootstrap_of_clusters():
    """40 of the first language's 120 queries are among the 90 of the second; a loop draws the 170 different ones."""
    rng = np.random.default_rng(17)
    level = rng.normal(size=170)
    units = [np.arange(120), np.arange(80, 170)]
    languages = [(level[each] + 0.3 * rng.normal(size=len(each)))[np.newaxis] for each in units]
    values = []
    for _ in range(4000):
        times = np.bincount(rng.integers(0, 170, 170), minlength=170)
        means = [np.average(m[0], weights=times[each]) for m, each in zip(languages, units, strict=True)]
        values.append(np.mean(means))
    low, high = np.percentile(values, [2.5, 97.5])
    ours = overall_mean_interval(languages, units=units, resamples=8000)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    apart = overall_mean_interval(languages, resamples=8000)
    assert ours.high - ours.low > 1.05 * (apart.high - apart.low)


def test_a_language_of_one_query_is_in_every_resample():
    few = overall_mean_interval([[[0.5]], [[0.5, 0.5, 0.5]]], units=[[2], [0, 1, 2]])
    assert (few.low, few.high, few.queries) == (0.5, 0.5, 3)


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


def test_seeds_of_the_same_models_are_drawn_together():
    # Two seeds, constant over queries: a resample of a language is 0.2, 0.4 or 0.6, with chances 1/4, 1/2, 1/4. Two
    # languages with models of their own are both at 0.2 with chance 1/16 only, which a 70 % interval leaves out.
    rows = [[0.2] * 4, [0.6] * 4]
    together = overall_mean_interval([rows, rows], same_models=True, level=0.4)
    assert (together.low, together.high) == pytest.approx((0.4, 0.4))
    wide = overall_mean_interval([rows, rows], same_models=True, level=0.7)
    assert (wide.low, wide.high) == pytest.approx((0.2, 0.6))
    own = overall_mean_interval([rows, rows], level=0.7)
    assert (own.low, own.high) == pytest.approx((0.3, 0.5))


def test_names_say_which_queries_are_the_same():
    # The second "read" of a language is that of the second in another.
    units = same_queries([["read", "write", "read"], ["close", "read"], []])
    assert [each.tolist() for each in units] == [[0, 1, 2], [3, 0], []]


# --- differences -----------------------------------------------------------------------------------------


def test_constant_difference_has_no_width():
    # The hard and easy queries cancel, because both arms see the same resampled ones.
    b = reciprocal(np.random.default_rng(7), 3, 200)
    difference = paired_difference(b + 0.125, b)
    assert (difference.low, difference.mean, difference.high) == pytest.approx((0.125, 0.125, 0.125))
    assert difference.seeds_paired


def test_paired_seeds_cancel_what_they_share():
    shared = np.array([[0.0], [0.3]]) + np.zeros((2, 4))
    paired = paired_difference(shared + 0.1, shared)
    own = paired_difference(shared + 0.1, shared, seeds_paired=False)
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))
    # Seeds drawn apart: a's mean in {0.1, 0.25, 0.4} minus b's in {0, 0.15, 0.3}, extremes with chance 1/16.
    assert (own.low, own.high) == pytest.approx((0.1 - 0.3, 0.1 + 0.3))
    assert not own.seeds_paired


def test_overall_difference_by_hand():
    overall = overall_difference([[[0.5, 0.5]], [[1.0]]], [[[0.25, 0.25]], [[0.0], [0.5]]], seeds_paired=[True, False])
    # ((0.5 - 0.25) + (1 - 0.25)) / 2; the second language's baseline is 0, 0.25 or 0.5.
    assert overall.mean == pytest.approx(0.5)
    assert (overall.low, overall.high) == pytest.approx(((0.25 + 0.5) / 2, (0.25 + 1.0) / 2))
    assert not overall.seeds_paired


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
def test_difference_is_antisymmetric_and_p_symmetric(pair: tuple[np.ndarray, np.ndarray]):
    a, b = pair
    ab, ba = paired_difference(a, b, resamples=200), paired_difference(b, a, resamples=200)
    assert (ab.mean, ab.low, ab.high) == pytest.approx((-ba.mean, -ba.high, -ba.low), abs=1e-12)
    assert ab.low <= ab.high
    p = randomisation_test(a, b, permutations=200)
    assert p == randomisation_test(b, a, permutations=200)
    assert 0 < p <= 1


@settings(max_examples=20, deadline=None)
@given(matrices)
def test_identical_arms_do_not_differ(pair: tuple[np.ndarray, np.ndarray]):
    a, _ = pair
    difference = paired_difference(a, a, resamples=100)
    assert (difference.low, difference.mean, difference.high) == pytest.approx((0, 0, 0), abs=1e-15)
    # The same numbers from seeds in another order: averages that differ by rounding only.
    assert randomisation_test(a, a[::-1], permutations=100) == 1.0


# --- randomisation test ----------------------------------------------------------------------------------


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


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04, 0.3 times 4, 3, 2, 1 = 0.04, 0.06, 0.08, 0.3.
    assert holm([0.04, 0.01, 0.3, 0.02]).tolist() == pytest.approx([0.08, 0.04, 0.3, 0.06])
    # 0.03 * 2 = 0.06 and 0.04 * 1, which may not fall below 0.06; 0.6 * 2 is clipped.
    assert holm([0.03, 0.04]).tolist() == pytest.approx([0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
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


# --- all arms at once ------------------------------------------------------------------------------------


def test_comparing_arms_at_once_equals_one_by_one():
    rng = np.random.default_rng(9)
    sizes = {"x": 3, "y": 3, "z": 2}
    ranks = {arm: [reciprocal(rng, s, 40), reciprocal(rng, s, 70)] for arm, s in sizes.items()}
    seeds = {"x": [[1, 2, 3]] * 2, "y": [[1, 2, 3]] * 2, "z": [[1, 2]] * 2}
    options: dict[str, Any] = {"resamples": 200, "seed": 4}
    compared = compare_arms(ranks, seeds, "x", permutations=300, **options)
    for arm, rows in ranks.items():
        mean = overall_mean_interval(rows, **options)
        assert vars(compared[arm].mean) == pytest.approx(vars(mean), abs=1e-12)
    assert compared["x"].difference is None and compared["x"].p_holm is None
    for arm, paired in (("y", True), ("z", False)):
        alone = overall_difference(ranks[arm], ranks["x"], seeds_paired=[paired] * 2, **options)
        assert vars(compared[arm].difference) == pytest.approx(vars(alone), abs=1e-12)
        p = randomisation_p_values({arm: ranks[arm], "x": ranks["x"]}, "x", permutations=300, seed=4)
        assert compared[arm].p_value == p[arm]
    raw = np.array([compared[arm].p_value for arm in ("y", "z")], dtype=float)
    assert [compared[arm].p_holm for arm in ("y", "z")] == pytest.approx(holm(raw).tolist())
    best = max(compared, key=lambda arm: compared[arm].mean.mean)
    assert [arm for arm in compared if compared[arm].p_best is None] == [best]


def test_comparing_without_a_reference_gives_means_only():
    compared = compare_arms({"x": [[[0.5, 0.25]]]}, {"x": [[1]]}, None)
    assert compared["x"].mean.mean == 0.375
    assert compared["x"].difference is None
    assert compare_arms({}, {}, None) == {}


def test_many_queries_stay_within_memory():
    ranks = reciprocal(np.random.default_rng(10), 3, 15_000)
    tracemalloc.start()
    mean_interval(ranks, resamples=400)
    randomisation_test(ranks, ranks[:, ::-1], permutations=800)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# --- errors ----------------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong():
    good = [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"shape \(seeds, queries\).*got \(2,\)"):
        mean_interval([0.5, 0.5])
    with pytest.raises(ValueError, match=r"neither of them 0, got \(0, 3\)"):
        mean_interval(np.empty((0, 3)))
    with pytest.raises(ValueError, match="finite, got 1 values"):
        mean_interval([[0.5, float("nan")]])
    with pytest.raises(ValueError, match=r"95 % is 0\.95"):
        mean_interval(good, level=95)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        mean_interval(good, resamples=0)
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        randomisation_test(good, good, permutations=0)
    with pytest.raises(ValueError, match="same queries, got 2 and 3"):
        paired_difference(good, [[0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match="pass seeds_paired=False"):
        paired_difference(good, [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="at least one language"):
        overall_mean_interval([])
    with pytest.raises(ValueError, match="same languages, got 2 and 1"):
        overall_difference([good, good], [good], seeds_paired=[True, True])
    with pytest.raises(ValueError, match=r"one entry per language \(1\), got 2"):
        overall_difference([good], [good], seeds_paired=[True, True])
    with pytest.raises(ValueError, match=r"units must have one entry per language \(1\), got 2"):
        overall_mean_interval([good], units=[[0, 1]] * 2)
    with pytest.raises(ValueError, match=r"units\[0\] must have shape \(2,\), one for each query, got \(1,\)"):
        overall_mean_interval([good], units=[[0]])
    with pytest.raises(ValueError, match="must not repeat within a language"):
        overall_mean_interval([good], units=[[0, 0]])
    with pytest.raises(ValueError, match=r"equally many rows in every language, got \[1, 2\]"):
        overall_mean_interval([good, good * 2], same_models=True)
    with pytest.raises(ValueError, match="reference must be one of x, got 'y'"):
        randomisation_p_values({"x": [good]}, "y")
    with pytest.raises(ValueError, match=r"numbers of queries: \{'x': 2, 'y': 1\}"):
        compare_arms({"x": [good], "y": [[[0.5]]]}, {"x": [[1]], "y": [[1]]}, "x")
    with pytest.raises(ValueError, match=r"same number of languages, got \[1, 2\]"):
        compare_arms({"x": [good], "y": [good, good]}, {"x": [[1]], "y": [[1], [1]]}, "x")
