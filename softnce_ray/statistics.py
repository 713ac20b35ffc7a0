"""Is one arm better than another, or was it luck? Intervals, paired tests, corrections; numpy only.

The data of an arm is a matrix of per-query scores (reciprocal ranks, or any other score that is averaged over
queries), shape (S, Q): one row per seed, one column per query. Column i is the same query in every arm.

Two things vary: which queries were asked and which seed trained the model. They are crossed (every seed
answers every query), so both are resampled, each as a whole: one draw of queries serves all rows of a
resample. SciPy's ``bootstrap`` resamples one axis only, which is why it is the tests' reference here and not
the engine.

Sources: Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993 (percentile interval); Owen, *The
pigeonhole bootstrap*, 2007 (crossed factors); Smucker, Allan & Carterette, *A comparison of statistical
significance tests for information retrieval evaluation*, CIKM 2007 (randomisation test); Phipson & Smyth,
*Permutation p-values should never be zero*, 2010; Holm, *A simple sequentially rejective multiple test
procedure*, 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Elements of the largest temporary array (16 MB of float64): 2,000 resamples of 15,000 queries at once would
# be 240 MB.
_BLOCK = 2_000_000
# Two seed averages of the same numbers in another order differ by rounding; that is no difference.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap percentile interval.

    Attributes:
        mean, low, high: in the units of the scores.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        queries: number of queries (of all languages together).
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


@dataclass(frozen=True)
class ArmComparison:
    """One arm beside a reference arm and beside the best one.

    Attributes:
        mean: the arm's own.
        difference, p_value, p_holm: from the reference; None for the reference itself, or without one.
        p_best: corrected p of the difference from the arm of the highest mean; None for that arm.
    """

    mean: Interval
    difference: Difference | None
    p_value: float | None
    p_holm: float | None
    p_best: float | None


def mean_interval(ranks: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over seeds and queries, with an interval that resamples both.

    Args:
        ranks: (S, Q), S >= 1, Q >= 1, finite.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples, >= 1.
        seed: of the resampling; equal seeds give equal intervals.

    With few seeds the interval is too narrow where seeds vary more than queries do: it cannot reach beyond
    the seeds seen, so that three of them cover at most about 75 % then, whatever the level.

    Raises:
        ValueError: a wrong shape, a value that is not finite, or an impossible level or number of resamples.
    """
    return overall_mean_interval([ranks], level=level, resamples=resamples, seed=seed)


def overall_mean_interval(
    ranks: Sequence[ArrayLike], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over languages of the languages' means: all languages count the same, whatever their size.

    Args:
        ranks: one (S_l, Q_l) matrix per language. Queries and seeds are drawn within each language: a seed
            trains another model in every language, so seeds of equal number in two languages have nothing in
            common.

    The other arguments and errors are those of :func:`mean_interval`.
    """
    matrices = [_matrix(r, f"ranks[{i}]") for i, r in enumerate(ranks)]
    _check_languages(len(matrices))
    resampled = [_query_means(m, resamples, seed, i) for i, m in enumerate(matrices)]
    return _interval(matrices, resampled, level, seed)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seeds_paired: bool = True,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference of means a - b; the same resampled queries are used for both arms.

    Args:
        a: (S_a, Q).
        b: (S_b, Q), the same queries in the same order.
        seeds_paired: True when row i of both arms was trained with the same seed: the arms then share what
            the seed fixes (initial weights, order of the data), and one draw of seeds serves both. False when
            the sets of seeds differ: each arm's seeds are drawn on their own.

    The other arguments are those of :func:`mean_interval`.

    Raises:
        ValueError: as :func:`mean_interval`; or different queries; or paired seeds with S_a != S_b.
    """
    return overall_difference([a], [b], seeds_paired=[seeds_paired], level=level, resamples=resamples, seed=seed)


def overall_difference(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    *,
    seeds_paired: Sequence[bool],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Mean over languages of the differences a - b; one entry per language in every argument.

    Arguments and errors as :func:`paired_difference`; queries and seeds are drawn within each language.
    """
    pairs = _pairs(a, b)
    resampled = [_query_means(np.concatenate(pair), resamples, seed, i) for i, pair in enumerate(pairs)]
    return _difference(
        [x for x, _ in pairs],
        [y for _, y in pairs],
        [means[:, : len(x)] for means, (x, _) in zip(resampled, pairs, strict=True)],
        [means[:, len(x) :] for means, (x, _) in zip(resampled, pairs, strict=True)],
        seeds_paired,
        level,
        seed,
    )


def paired_randomisation_test(a: ArrayLike, b: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of "the arms answer every query equally well", by flipping signs of per-query differences.

    The scores are averaged over seeds first, so the p speaks of *these* trained models and of queries like
    these; how far another seed would move them is the interval's part (:func:`paired_difference`).

    Args:
        a: (S_a, Q).
        b: (S_b, Q), the same queries in the same order.
        permutations: number of random sign vectors, >= 1.
        seed: of the sign vectors.

    Returns:
        (1 + #{|flipped mean| >= |observed mean|}) / (1 + permutations). Where all sign vectors are no more
        than ``permutations`` they are enumerated instead, and p is the exact share. Queries without a
        difference take no part in either. Identical arms: 1.

    Raises:
        ValueError: as :func:`mean_interval`; or different queries.
    """
    return overall_randomisation_test([a], [b], permutations=permutations, seed=seed)


def overall_randomisation_test(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike], *, permutations: int = 10_000, seed: int = 0
) -> float:
    """As :func:`paired_randomisation_test` for the mean over languages of the languages' mean differences."""
    row = _weighted_differences(_pairs(a, b))
    return float(_flip_p_values(row[np.newaxis], permutations, seed)[0])


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down correction: controls the chance of any false positive among the tests.

    Args:
        p_values: (K,) in [0, 1], K >= 0.

    Returns:
        (K,) corrected, in the order given: the i-th smallest (i from 0) times K - i, never below a smaller
        one's, never above 1.

    Raises:
        ValueError: a wrong shape or a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not bool(np.all((p >= 0) & (p <= 1))):
        raise ValueError(f"p_values must be one-dimensional and in [0, 1], got {p_values!r}")
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def compare_arms(
    ranks: Mapping[str, Sequence[ArrayLike]],
    seeds: Mapping[str, Sequence[Sequence[int]]],
    reference: str | None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, ArmComparison]:
    """Means of all arms and their differences from a reference, p corrected over the arms (Holm).

    The same numbers as the functions above give arm by arm; the resampled queries are drawn once for all
    arms, which is what makes a table of hundreds of arms quick.

    Args:
        ranks: arm -> one (S, Q_l) matrix per language; the arms may have different S, not different Q_l.
        seeds: arm -> per language the seeds of the rows. Equal sequences are drawn together.
        reference: the arm to compare with; None: means only.

    Raises:
        ValueError: as :func:`paired_difference`; or an unknown reference.
    """
    matrices = {arm: [_matrix(r, f"ranks of {arm!r}") for r in rows] for arm, rows in ranks.items()}
    languages = {len(rows) for rows in matrices.values()}
    if len(languages) > 1:
        raise ValueError(f"every arm must have the same number of languages, got {sorted(languages)}")
    resampled: dict[str, list[FloatArray]] = {arm: [] for arm in matrices}
    for i in range(max(languages, default=0)):
        rows = [matrices[arm][i] for arm in matrices]
        if len({r.shape[1] for r in rows}) > 1:
            widths = {arm: m[i].shape[1] for arm, m in matrices.items()}
            raise ValueError(f"arms must answer the same queries, got these numbers of queries: {widths}")
        ends = np.cumsum([len(r) for r in rows])[:-1]
        parts = np.split(_query_means(np.concatenate(rows), resamples, seed, i), ends, axis=1)
        for arm, part in zip(matrices, parts, strict=True):
            resampled[arm].append(part)

    def tests(against: str) -> dict[str, float]:
        return randomisation_p_values(matrices, against, permutations=permutations, seed=seed)

    means = {arm: _interval(matrices[arm], resampled[arm], level, seed) for arm in matrices}
    p_values = {} if reference is None else tests(reference)
    p_holm = _holm_by_arm(p_values)
    best = max(means, key=lambda arm: means[arm].mean, default=None)
    p_best = p_holm if best == reference else {} if best is None else _holm_by_arm(tests(best))
    comparisons = {}
    for arm in matrices:
        difference = None
        if reference is not None and arm != reference:
            paired = [list(x) == list(y) for x, y in zip(seeds[arm], seeds[reference], strict=True)]
            difference = _difference(
                matrices[arm], matrices[reference], resampled[arm], resampled[reference], paired, level, seed
            )
        comparisons[arm] = ArmComparison(means[arm], difference, p_values.get(arm), p_holm.get(arm), p_best.get(arm))
    return comparisons


def randomisation_p_values(
    ranks: Mapping[str, Sequence[ArrayLike]], reference: str, *, permutations: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """:func:`overall_randomisation_test` of every other arm against ``reference``, uncorrected.

    All arms see the same sign vectors, drawn once; each p is what the arm alone would get.

    Raises:
        ValueError: as :func:`paired_randomisation_test`; or an unknown reference.
    """
    if reference not in ranks:
        raise ValueError(f"reference must be one of {', '.join(ranks) or 'no arms'}, got {reference!r}")
    others = [arm for arm in ranks if arm != reference]
    if not others:
        return {}
    rows = np.stack([_weighted_differences(_pairs(ranks[arm], ranks[reference])) for arm in others])
    return dict(zip(others, _flip_p_values(rows, permutations, seed).tolist(), strict=True))


def _holm_by_arm(p_values: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))


def _matrix(ranks: ArrayLike, name: str) -> FloatArray:
    matrix = np.asarray(ranks, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must have shape (seeds, queries), neither of them 0, got {matrix.shape}")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).sum())
        raise ValueError(f"{name} must be finite, got {bad} values that are not")
    return matrix


def _check_languages(count: int) -> None:
    if count == 0:
        raise ValueError("at least one language is needed, got none")


def _pairs(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> list[tuple[FloatArray, FloatArray]]:
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same languages, got {len(a)} and {len(b)}")
    _check_languages(len(a))
    pairs = [(_matrix(x, "a"), _matrix(y, "b")) for x, y in zip(a, b, strict=True)]
    for x, y in pairs:
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"a and b must answer the same queries, got {x.shape[1]} and {y.shape[1]}")
    return pairs


def _query_means(rows: FloatArray, resamples: int, seed: int, language: int) -> FloatArray:
    """(K, Q) -> (resamples, K): the mean of every row over the same resampled queries."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    queries = rows.shape[1]
    rng = np.random.default_rng([seed, language, 0])
    # The block depends on Q alone, so that an arm's numbers do not depend on which arms it is computed with.
    block = max(1, _BLOCK // queries)
    means = np.empty((resamples, len(rows)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, queries, size=(size, queries))
        drawn += queries * np.arange(size)[:, np.newaxis]
        counts = np.bincount(drawn.ravel(), minlength=size * queries).reshape(size, queries)
        means[start : start + size] = counts.astype(np.float64) @ rows.T
    return means / queries


def _seed_weights(rng: np.random.Generator, resamples: int, seeds: int) -> FloatArray:
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds


def _interval(matrices: Sequence[FloatArray], resampled: Sequence[FloatArray], level: float, seed: int) -> Interval:
    values = np.zeros(len(resampled[0]))
    for i, means in enumerate(resampled):
        weights = _seed_weights(np.random.default_rng([seed, i, 1]), *means.shape)
        values += (weights * means).sum(axis=1) / len(resampled)
    low, high = _percentiles(values, level)
    return Interval(
        mean=float(np.mean([m.mean() for m in matrices])),
        low=low,
        high=high,
        level=level,
        resamples=len(values),
        queries=sum(m.shape[1] for m in matrices),
        seeds=min(len(m) for m in matrices),
    )


def _difference(
    a: Sequence[FloatArray],
    b: Sequence[FloatArray],
    resampled_a: Sequence[FloatArray],
    resampled_b: Sequence[FloatArray],
    seeds_paired: Sequence[bool],
    level: float,
    seed: int,
) -> Difference:
    if len(seeds_paired) != len(a):
        raise ValueError(f"seeds_paired must have one entry per language ({len(a)}), got {len(seeds_paired)}")
    values = np.zeros(len(resampled_a[0]))
    for i, (means_a, means_b) in enumerate(zip(resampled_a, resampled_b, strict=True)):
        if seeds_paired[i] and means_a.shape != means_b.shape:
            raise ValueError(
                f"paired seeds need equally many rows, got {means_a.shape[1]} and {means_b.shape[1]}; "
                "pass seeds_paired=False when the arms were trained with different seeds"
            )
        rng = np.random.default_rng([seed, i, 1])
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
        queries=sum(m.shape[1] for m in a),
        seeds=min(len(m) for m in (*a, *b)),
        seeds_paired=all(seeds_paired),
    )


def _percentiles(values: FloatArray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}; 95 % is 0.95")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _weighted_differences(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Per-query differences of seed averages, all languages in one row, weighted to sum to the statistic."""
    parts = []
    for a, b in pairs:
        difference = a.mean(axis=0) - b.mean(axis=0)
        difference[np.abs(difference) < _ROUNDING] = 0.0
        parts.append(difference / (len(pairs) * len(difference)))
    return np.concatenate(parts)


def _flip_p_values(rows: FloatArray, permutations: int, seed: int) -> FloatArray:
    """(K, Q) terms of K statistics -> (K,) two-sided p under independent sign flips of the columns."""
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    p_values = np.empty(len(rows))
    sampled = []
    for k, row in enumerate(rows):
        terms = row[row != 0]
        if len(terms) < permutations.bit_length():  # 2**len(terms) <= permutations
            signs = 1 - 2 * ((np.arange(2 ** len(terms))[:, np.newaxis] >> np.arange(len(terms))) & 1)
            p_values[k] = np.mean(_as_extreme(signs @ terms, terms[np.newaxis]))
        else:
            sampled.append(k)
    if sampled:
        p_values[sampled] = _sampled_flips(rows[sampled], permutations, seed)
    return p_values


def _sampled_flips(rows: FloatArray, permutations: int, seed: int) -> FloatArray:
    queries = rows.shape[1]
    rng = np.random.default_rng([seed, 2])
    block = max(1, _BLOCK // queries)
    counts = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        # One random bit per sign: drawing numbers instead would cost more than everything else here.
        packed = rng.integers(0, 256, size=(size, -(-queries // 8)), dtype=np.uint8)
        flipped = np.unpackbits(packed, axis=1, count=queries).astype(np.float64)
        statistics = rows.sum(axis=1) - 2 * (flipped @ rows.T)
        counts += _as_extreme(statistics, rows).sum(axis=0)
    return (1 + counts) / (1 + permutations)


def _as_extreme(statistics: NDArray[np.float64], rows: FloatArray) -> NDArray[np.bool_]:
    # Reciprocal ranks are small fractions: sums tie exactly, and rounding must not decide such a tie.
    slack = _ROUNDING * np.abs(rows).sum(axis=1)
    return np.abs(statistics) >= np.abs(rows.sum(axis=1)) - slack
