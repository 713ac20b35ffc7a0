"""Means and differences of means, with bootstrap intervals over queries and seeds.

Two things vary: which queries were asked and which seed trained the model. They are crossed (every seed
answers every query), so both are resampled, each as a whole: one draw of queries serves all rows of a
resample. SciPy's ``bootstrap`` resamples one axis only, which is why it is the tests' reference here and not
the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from softnce_ray.statistics.scores import (
    BLOCK,
    FloatArray,
    IntArray,
    check_languages,
    components,
    matrix_of,
    numbered,
    pairs_of,
)


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap percentile interval.

    Attributes:
        mean, low, high: in the units of the scores.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        queries: number of different queries (of all languages together).
        seeds: number of seeds (of the language that has fewest). At 1 only queries were resampled, and the
            interval says nothing about another seed.
    """

    mean: float
    low: float
    high: float
    level: float
    resamples: int
    queries: int
    seeds: int


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two means, with its interval; ``seeds`` is that of the arm that has fewest.

    Attributes:
        seeds_paired: whether the two arms were trained with the same seeds and these were drawn together (in
            every language). Otherwise each arm's seeds were drawn on their own.
    """

    seeds_paired: bool


def overall_mean_interval(
    ranks: Sequence[ArrayLike],
    *,
    units: Sequence[ArrayLike] | None = None,
    same_models: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over languages of the languages' means, with an interval that resamples queries and seeds: all languages
    count the same, whatever their size.

    Args:
        ranks: one (S_l, Q_l) matrix per language, S >= 1, Q >= 1, finite.
        units: which queries of the languages are the same; see :mod:`softnce_ray.statistics`. These are drawn
            together, those of other languages on their own. None: no query is shared.
        same_models: True when row i is of the same model in every language: one draw of seeds serves all. Otherwise
            seeds are drawn within each language: a seed trains another model in every language, so seeds of equal
            number in two languages have nothing in common.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples, >= 1.
        seed: of the resampling; equal seeds give equal intervals.

    With few seeds the interval is too narrow where seeds vary more than queries do: it cannot reach beyond
    the seeds seen, so that three of them cover at most about 75 % then, whatever the level.

    Raises:
        ValueError: a wrong shape, a value that is not finite, units that fit no language, different numbers of seeds
            of the same models, or an impossible level or number of resamples.
    """
    matrices = [matrix_of(r, f"ranks[{i}]") for i, r in enumerate(ranks)]
    check_languages(len(matrices))
    numbers = numbered([m.shape[1] for m in matrices], units)
    resampled = query_means(matrices, numbers, resamples, seed)
    return interval_of(matrices, resampled, numbers, same_models, level, seed)


def overall_difference(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    *,
    seeds_paired: Sequence[bool],
    units: Sequence[ArrayLike] | None = None,
    same_models: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Mean over languages of the differences of means a - b; the same resampled queries are used for both arms.

    Args:
        a: one (S_a, Q) matrix per language.
        b: one (S_b, Q) matrix per language, the same queries in the same order.
        seeds_paired: per language, True when row i of both arms was trained with the same seed: the arms then share
            what the seed fixes (initial weights, order of the data), and one draw of seeds serves both. False when
            the sets of seeds differ: each arm's seeds are drawn on their own.

    The other arguments are those of :func:`overall_mean_interval`.

    Raises:
        ValueError: as :func:`overall_mean_interval`; or different queries; or paired seeds with S_a != S_b.
    """
    pairs = pairs_of(a, b)
    numbers = numbered([x.shape[1] for x, _ in pairs], units)
    resampled = query_means([np.concatenate(pair) for pair in pairs], numbers, resamples, seed)
    return difference_of(
        [x for x, _ in pairs],
        [y for _, y in pairs],
        [means[:, : len(x)] for means, (x, _) in zip(resampled, pairs, strict=True)],
        [means[:, len(x) :] for means, (x, _) in zip(resampled, pairs, strict=True)],
        numbers,
        seeds_paired,
        same_models,
        level,
        seed,
    )


def query_means(
    matrices: Sequence[FloatArray], numbers: Sequence[IntArray], resamples: int, seed: int
) -> list[FloatArray]:
    """One (K_l, Q_l) matrix per language -> one (resamples, K_l): the mean of every row over resampled queries.

    Of languages that share queries, as many of their different queries are drawn as there are; the mean of a language
    is over those of them that it asks, however often they were drawn.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    found: dict[int, FloatArray] = {}
    for languages in components(numbers):
        found |= _means_of_component(matrices, numbers, languages, resamples, seed)
    return [found[language] for language in range(len(matrices))]


def _means_of_component(
    matrices: Sequence[FloatArray], numbers: Sequence[IntArray], languages: Sequence[int], resamples: int, seed: int
) -> dict[int, FloatArray]:
    inverse = np.unique(np.concatenate([numbers[i] for i in languages]), return_inverse=True)[1]
    columns = np.split(inverse, np.cumsum([len(numbers[i]) for i in languages])[:-1])
    queries = int(inverse.max()) + 1
    rng = np.random.default_rng([seed, languages[0], 0])
    # The block depends on the queries alone, so that an arm's numbers do not depend on which it is computed with.
    block = max(1, BLOCK // queries)
    means = {i: np.empty((resamples, len(matrices[i]))) for i in languages}
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        counts = _counts(rng, size, columns, queries)
        of_languages = [counts] if len(languages) == 1 else [counts[:, each] for each in columns]
        for i, drawn in zip(languages, of_languages, strict=True):
            means[i][start : start + size] = (drawn @ matrices[i].T) / drawn.sum(axis=1, keepdims=True)
    return means


def _counts(rng: np.random.Generator, size: int, columns: Sequence[IntArray], queries: int) -> FloatArray:
    """(size, queries): how often each query comes in each of `size` resamples."""
    drawn = rng.integers(0, queries, size=(size, queries))
    drawn += queries * np.arange(size)[:, np.newaxis]
    counts = np.bincount(drawn.ravel(), minlength=size * queries).reshape(size, queries).astype(np.float64)
    # A language of very few queries may have got none: such a resample says nothing of it, and is drawn again.
    if len(columns) > 1 and (empty := np.any([counts[:, each].sum(axis=1) == 0 for each in columns], axis=0)).any():
        counts[empty] = _counts(rng, int(empty.sum()), columns, queries)
    return counts


def interval_of(
    matrices: Sequence[FloatArray],
    resampled: Sequence[FloatArray],
    numbers: Sequence[IntArray],
    same_models: bool,
    level: float,
    seed: int,
) -> Interval:
    """The interval of an arm from its rows' means over resampled queries."""
    _check_models(matrices, same_models)
    values = np.zeros(len(resampled[0]))
    for i, means in enumerate(resampled):
        weights = _seed_weights(_generator(seed, i, same_models), *means.shape)
        values += (weights * means).sum(axis=1) / len(resampled)
    low, high = _percentiles(values, level)
    return Interval(
        mean=float(np.mean([m.mean() for m in matrices])),
        low=low,
        high=high,
        level=level,
        resamples=len(values),
        queries=len(np.unique(np.concatenate(numbers))),
        seeds=min(len(m) for m in matrices),
    )


def difference_of(
    a: Sequence[FloatArray],
    b: Sequence[FloatArray],
    resampled_a: Sequence[FloatArray],
    resampled_b: Sequence[FloatArray],
    numbers: Sequence[IntArray],
    seeds_paired: Sequence[bool],
    same_models: bool,
    level: float,
    seed: int,
) -> Difference:
    """The difference of two arms from their rows' means over the same resampled queries."""
    if len(seeds_paired) != len(a):
        raise ValueError(f"seeds_paired must have one entry per language ({len(a)}), got {len(seeds_paired)}")
    _check_models(a, same_models)
    _check_models(b, same_models)
    values = np.zeros(len(resampled_a[0]))
    for i, (means_a, means_b) in enumerate(zip(resampled_a, resampled_b, strict=True)):
        if seeds_paired[i] and means_a.shape != means_b.shape:
            raise ValueError(
                f"paired seeds need equally many rows, got {means_a.shape[1]} and {means_b.shape[1]}; "
                "pass seeds_paired=False when the arms were trained with different seeds"
            )
        rng = _generator(seed, i, same_models)
        weights_a = _seed_weights(rng, *means_a.shape)
        weights_b = weights_a if seeds_paired[i] else _seed_weights(rng, *means_b.shape)
        values += ((weights_a * means_a).sum(axis=1) - (weights_b * means_b).sum(axis=1)) / len(a)
    low, high = _percentiles(values, level)
    return Difference(
        mean=float(np.mean([x.mean() - y.mean() for x, y in zip(a, b, strict=True)])),
        low=low,
        high=high,
        level=level,
        resamples=len(values),
        queries=len(np.unique(np.concatenate(numbers))),
        seeds=min(len(m) for m in (*a, *b)),
        seeds_paired=all(seeds_paired),
    )


def _check_models(matrices: Sequence[FloatArray], same_models: bool) -> None:
    if same_models and len({len(m) for m in matrices}) > 1:
        raise ValueError(f"the same models need equally many rows in every language, got {[len(m) for m in matrices]}")


def _generator(seed: int, language: int, same_models: bool) -> np.random.Generator:
    """Of the draws of seeds of a language: the same for all where these are of the same models."""
    return np.random.default_rng([seed, 0 if same_models else language, 1])


def _seed_weights(rng: np.random.Generator, resamples: int, seeds: int) -> FloatArray:
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds


def _percentiles(values: FloatArray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}; 95 % is 0.95")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
