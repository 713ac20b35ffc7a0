"""Intervals and p of crossed random effects: by hand, beside SciPy, and simulated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.statistics import difference, mean_interval


def normal(rng: np.random.Generator, seeds: int, queries: int, *, seed: float, query: float, rest: float) -> np.ndarray:
    """(seeds, queries) differences without an effect; the three are standard deviations."""
    drawn = seed * rng.normal(size=(seeds, 1)) + query * rng.normal(size=(1, queries))
    return drawn + rest * rng.normal(size=(seeds, queries))


def of(values: Any, **options: Any) -> Any:
    """The difference of one language or several from an arm that is 0 everywhere."""
    several = isinstance(values, list)
    return difference(values, [0 * np.asarray(v) for v in values] if several else 0 * np.asarray(values), **options)


# --- by hand, and beside others ---


def test_two_seeds_and_two_queries_by_hand() -> None:
    # Rows 1, 2 and 5, 8: mean 4; seeds 1.5, 6.5; queries 3, 5; interaction ±0.5.
    # MS_s = 2 (2.5² + 2.5²) = 25; MS_q = 2 (1 + 1) = 4; MS_e = 4 · 0.25 = 1. Over S Q = 4: 6.25, 1, 0.25.
    found = of([[1.0, 2.0], [5.0, 8.0]])
    assert found.mean == 4
    variance = 6.25 + 1 - 0.25
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    assert found.df == pytest.approx(variance**2 / (6.25**2 + 1**2 + 0.25**2))
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(4 / math.sqrt(variance), found.df))
    half = scipy.stats.t.ppf(0.975, found.df) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))
    (parts,) = found.components
    # Seeds: (25 - 1) / 2; queries: (4 - 1) / 2.
    assert (parts.seeds, parts.queries, parts.interaction) == pytest.approx((12, 1.5, 1))
    assert (found.seeds, found.queries, found.seeds_paired) == (2, 2, True)


def test_one_seed_is_the_t_test_over_queries() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 50)
    found, expected = of(values[None]), scipy.stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high, found.df) == pytest.approx((interval.low, interval.high, 49))
    assert found.components[0].seeds is None and found.components[0].interaction is None


def test_queries_that_do_not_differ_leave_the_t_test_over_seeds() -> None:
    means = np.random.default_rng(2).normal(0.1, 1, 6)
    found, expected = of(np.repeat(means[:, None], 40, axis=1)), scipy.stats.ttest_1samp(means, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.df == pytest.approx(5)
    assert found.components[0].seeds == pytest.approx(means.var(ddof=1))


def test_a_variance_below_that_of_the_seeds_or_of_the_queries_alone_is_raised_to_it() -> None:
    # Queries whose means agree better than chance: rows 1, 3 and 3, 1 have MS_q = 0, MS_s = 0, MS_e = 4.
    assert of([[1.0, 3.0], [3.0, 1.0]]).standard_error == 0
    # Rows 1, 3, 2 and 4, 2, 3: MS_s = 1.5, MS_q = 0, MS_e = 2: the sum would be negative.
    assert of([[1.0, 3.0, 2.0], [4.0, 2.0, 3.0]]).standard_error == pytest.approx(math.sqrt(1.5 / 6))


def test_unpaired_seeds_add_up_arm_by_arm() -> None:
    rng = np.random.default_rng(3)
    a, b = normal(rng, 4, 60, seed=1, query=1, rest=1), normal(rng, 3, 60, seed=1, query=1, rest=1)
    found = difference(a, b, seeds_paired=False)
    # By hand: the seeds' part of each arm, the queries' of the difference of means by query, less both interactions.
    seeds = [x.mean(axis=1).var(ddof=1) / len(x) for x in (a, b)]
    queries = (a.mean(axis=0) - b.mean(axis=0)).var(ddof=1) / 60
    rest = []
    for x in (a, b):
        centred = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
        rest.append((centred**2).sum() / ((len(x) - 1) * 59) / x.size)
    variance = sum(seeds) + queries - sum(rest)
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    spread = seeds[0] ** 2 / 3 + seeds[1] ** 2 / 2 + queries**2 / 59 + rest[0] ** 2 / (3 * 59) + rest[1] ** 2 / (2 * 59)
    assert found.df == pytest.approx(variance**2 / spread)
    assert not found.seeds_paired


def test_an_arm_of_one_seed_is_taken_to_vary_as_the_other_does() -> None:
    rng = np.random.default_rng(4)
    a = 0.2 + np.repeat(rng.normal(size=(5, 1)), 30, axis=1)
    found = difference(a, np.zeros((1, 30)), seeds_paired=False)
    variance = a.mean(axis=1).var(ddof=1)
    assert found.standard_error == pytest.approx(math.sqrt(variance / 5 + variance))
    assert found.seeds == 1


def test_variances_of_languages_add_up() -> None:
    rng = np.random.default_rng(5)
    values = [normal(rng, 3, 50 + 10 * i, seed=1, query=1, rest=1) for i in range(4)]
    apart = [of(each) for each in values]
    assert min(part.seeds or 0 for each in apart for part in each.components) > 0  # no floor is reached
    together = of(values)
    assert together.mean == pytest.approx(np.mean([each.mean for each in apart]))
    assert together.standard_error**2 == pytest.approx(sum(each.standard_error**2 for each in apart) / 16)
    assert together.components == tuple(each.components[0] for each in apart)
    assert together.queries == 50 + 60 + 70 + 80


def test_languages_count_the_same_whatever_their_size() -> None:
    assert mean_interval([np.full((1, 4), 0.5), np.full((2, 3), 1.0)]).mean == 0.75


LMER = {
    1: (
        (4, 30, 0.05, 0.1, 0.15, 0.06),
        (0.0348947071, 6.63367213, 0.232776121),
        (0.0027203782, 0.0125270809, 0.0143972001),
    ),
    2: (
        (6, 25, 0.02, 0.2, 0.1, 0.03),
        (0.0380393635, 26.263596, 0.608150755),
        (0.00075612449, 0.03150302447, 0.00912771686),
    ),
}
"""Of two sets of drawn values: seeds, queries, standard deviations of seed, query and rest, effect. Then standard
error, degrees of freedom and p, and the variances of seeds, queries and interaction, of R's `lmer(y ~ 1 + (1 | seed) +
(1 | query))` by REML with Satterthwaite's degrees of freedom (R 4.2.2, lme4 1.1.31, lmerTest 3.1.3). Where all
components are positive they are those of the analysis of variance."""


@pytest.mark.parametrize("number", LMER)
def test_a_mixed_model_of_another_program_finds_the_same(number: int) -> None:
    (seeds, queries, seed, query, rest, effect), test, components = LMER[number]
    drawn = normal(np.random.default_rng(number), seeds, queries, seed=seed, query=query, rest=rest)
    found = of((effect + drawn).round(3))
    assert (found.standard_error, found.df, found.p) == pytest.approx(test, rel=1e-4)
    (parts,) = found.components
    assert (parts.seeds, parts.queries, parts.interaction) == pytest.approx(components, rel=1e-4)


# --- shared queries, shared models ---


@pytest.mark.parametrize("turned", [False, True], ids=["in order", "in another order"])
def test_copies_of_a_language_have_the_interval_of_one(turned: bool) -> None:
    """Three versions of a corpus that the same models answer alike hold no more than one of them."""
    rng = np.random.default_rng(6)
    one = normal(rng, 3, 200, seed=0.1, query=1, rest=1)
    order = rng.permutation(200) if turned else np.arange(200)
    units = [np.arange(200), order, np.arange(200)]
    alone = of(one)
    copies = of([one, one[:, order], one], units=units, same_models=True)
    assert (copies.low, copies.high, copies.p, copies.df) == pytest.approx((alone.low, alone.high, alone.p, alone.df))
    assert copies.queries == 200
    assert of([one] * 3).queries == 600
    assert of([one] * 3).standard_error < 0.7 * alone.standard_error


def test_partly_shared_queries_agree_with_a_bootstrap_of_queries() -> None:
    """40 of the first language's 120 queries are among the 90 of the second; a loop draws the 170 different ones."""
    rng = np.random.default_rng(17)
    level = rng.normal(size=170)
    units = [np.arange(120), np.arange(80, 170)]
    languages = [(level[each] + 0.3 * rng.normal(size=len(each)))[None] for each in units]
    values = []
    for _ in range(4000):
        times = np.bincount(rng.integers(0, 170, 170), minlength=170)
        means = [np.average(m[0], weights=times[each]) for m, each in zip(languages, units, strict=True)]
        values.append(np.mean(means))
    ours = mean_interval(languages, units=units)
    assert ours.standard_error == pytest.approx(np.std(values), rel=0.06)
    assert ours.standard_error > 1.05 * mean_interval(languages).standard_error


def test_seeds_of_the_same_models_count_once() -> None:
    rows = np.repeat([[0.2], [0.6], [0.7]], 4, axis=1)
    alone = mean_interval(rows)
    assert mean_interval([rows, rows], same_models=True).standard_error == pytest.approx(alone.standard_error)
    assert mean_interval([rows, rows]).standard_error == pytest.approx(alone.standard_error / math.sqrt(2))


# --- laws ---


matrices = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.integers(1, 4), st.integers(2, 30)).map(
        lambda shape: tuple(1 / np.random.default_rng([seed, i]).integers(1, 20, size=shape) for i in range(2))
    )
)


@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(0.5, 0.999), st.floats(-0.5, 0.5))
def test_p_is_small_exactly_where_the_interval_leaves_out_nothing(pair: Any, level: float, shift: float) -> None:
    a, b = pair
    found = difference(a + shift, b, level=level)
    assert (found.p < 1 - level) == (not found.low <= 0 <= found.high)
    narrower = found.at(0.4)
    assert found.low - 1e-12 <= narrower.low <= narrower.high <= found.high + 1e-12
    assert (narrower.p < 0.6) == (not narrower.low <= 0 <= narrower.high)


@settings(max_examples=40, deadline=None)
@given(matrices, st.floats(0.1, 10))
def test_other_signs_units_and_orders_change_what_they_should(pair: Any, factor: float) -> None:
    a, b = pair
    ab, ba = difference(a, b), difference(b, a)
    assert (ab.mean, ab.low, ab.high, ab.p) == pytest.approx((-ba.mean, -ba.high, -ba.low, ba.p), abs=1e-12)
    scaled = difference(factor * a, factor * b)
    assert (scaled.low, scaled.high) == pytest.approx((factor * ab.low, factor * ab.high), rel=1e-6, abs=1e-9)
    order = np.random.default_rng(0).permutation(a.shape[1])
    mixed = difference(a[::-1][:, order], b[::-1][:, order])
    assert (mixed.low, mixed.high) == pytest.approx((ab.low, ab.high), abs=1e-12)


def test_arms_that_are_equal_or_apart_by_a_constant_have_no_width() -> None:
    a = 1 / np.random.default_rng(7).integers(1, 20, size=(3, 50))
    same, shifted = difference(a, a), difference(a + 0.125, a)
    assert (same.low, same.high, same.p) == (0, 0, 1)
    assert (shifted.low, shifted.high) == pytest.approx((0.125, 0.125))
    assert shifted.p < 1e-6


def test_degrees_of_freedom_never_fall_below_those_of_every_part() -> None:
    """Two seeds by two queries know one degree of freedom each; Satterthwaite's ratio alone would be 0.07 here."""
    found = difference(1 / np.array([[16, 2], [4, 5]]), 1 / np.array([[19, 5], [12, 8]]))
    assert found.df == 1
    half = math.tan(0.475 * math.pi) * found.standard_error  # Student's quantile with one degree: Cauchy's
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_one_query_says_nothing_of_others() -> None:
    found = of([[0.2], [0.6]])
    assert (found.low, found.high, found.p, found.queries) == (-math.inf, math.inf, 1.0, 1)
    assert mean_interval([np.full((1, 1), 0.5), np.full((1, 3), 0.5)]).high == math.inf


# --- does it hold? ---


def false_positives(repetitions: int, seeds: int, queries: int, seed: float, languages: int) -> float:
    """Share of p < .05 without an effect, as measured on real ranks but for the seeds' standard deviation."""
    rng = np.random.default_rng([seeds, queries, round(1e6 * seed), languages])
    found = 0
    for _ in range(repetitions):
        values = [normal(rng, seeds, queries, seed=seed, query=0.05, rest=0.2) for _ in range(languages)]
        found += of(values).p < 0.05
    return found / repetitions


@pytest.mark.parametrize("seed", [0.0, 0.003, 0.009])
def test_false_positives_of_three_seeds_are_at_most_seven_in_a_hundred(seed: float) -> None:
    repetitions = 1500
    error = math.sqrt(0.07 * 0.93 / repetitions)  # Monte Carlo
    assert false_positives(repetitions, 3, 300, seed, 1) <= 0.07 + 2 * error


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("languages", [1, 6])
@pytest.mark.parametrize("queries", [300, 1000, 15_000])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_false_positives_and_coverage_hold_in_all_settings(seeds: int, queries: int, languages: int) -> None:
    """The interval misses the truth exactly where p calls it an effect, so one count serves both."""
    repetitions = 400 if queries * languages > 10_000 else 1500
    error = math.sqrt(0.07 * 0.93 / repetitions)
    for seed in (0.0, 0.003, 0.009):
        assert false_positives(repetitions, seeds, queries, seed, languages) <= 0.07 + 2 * error
