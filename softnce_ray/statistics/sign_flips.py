"""Paired randomisation tests: would the difference be as large if it were chance which arm answers a query better?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softnce_ray.statistics.scores import BLOCK, ROUNDING, FloatArray, numbered, pairs_of


def randomisation_p_values(
    ranks: Mapping[str, Sequence[ArrayLike]],
    reference: str,
    *,
    units: Sequence[ArrayLike] | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Two-sided p of "this arm and the reference answer every query equally well", of every other arm, uncorrected, by
    flipping signs of per-query differences; the statistic is the mean over languages of the mean differences.

    The scores are averaged over seeds first, so the p speaks of *these* trained models and of queries like
    these; how far another seed would move them is the interval's part (:func:`overall_difference`). All arms see the
    same sign vectors, drawn once; each p is what the arm alone would get.

    Args:
        ranks: arm -> one (S, Q_l) matrix per language; the same queries in the same order in all arms.
        reference: the arm that the others are compared with.
        units: which queries of the languages are the same; their signs are flipped together. See
            :mod:`softnce_ray.statistics`.
        permutations: number of random sign vectors, >= 1.
        seed: of the sign vectors.

    Returns:
        arm -> (1 + #{|flipped mean| >= |observed mean|}) / (1 + permutations). Where all sign vectors are no more
        than ``permutations`` they are enumerated instead, and p is the exact share. Queries without a
        difference take no part in either. Identical arms: 1.

    Raises:
        ValueError: an unknown reference; a wrong shape, a value that is not finite, different queries or languages,
            units that fit no language, or no permutation.
    """
    if reference not in ranks:
        raise ValueError(f"reference must be one of {', '.join(ranks) or 'no arms'}, got {reference!r}")
    others = [arm for arm in ranks if arm != reference]
    if not others:
        return {}
    rows = np.stack([_terms(pairs_of(ranks[arm], ranks[reference]), units) for arm in others])
    return dict(zip(others, _flip_p_values(rows, permutations, seed).tolist(), strict=True))


def _terms(pairs: Sequence[tuple[FloatArray, FloatArray]], units: Sequence[ArrayLike] | None) -> FloatArray:
    """What each query adds to the statistic, in all of its languages together."""
    numbers = numbered([x.shape[1] for x, _ in pairs], units)
    parts = []
    for a, b in pairs:
        difference = a.mean(axis=0) - b.mean(axis=0)
        difference[np.abs(difference) < ROUNDING] = 0.0
        parts.append(difference / (len(pairs) * len(difference)))
    terms: FloatArray = np.bincount(np.concatenate(numbers), weights=np.concatenate(parts)).astype(np.float64)
    # What a query gains in one language and loses in another may cancel but for rounding.
    terms[np.abs(terms) < ROUNDING / (len(pairs) * max(map(len, parts)))] = 0.0
    return terms


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
    block = max(1, BLOCK // queries)
    counts = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        # One random bit per sign: drawing numbers instead would cost more than everything else here.
        packed = rng.integers(0, 256, size=(size, -(-queries // 8)), dtype=np.uint8)
        flipped = np.unpackbits(packed, axis=1, count=queries).astype(np.float64)
        statistics = rows.sum(axis=1) - 2 * (flipped @ rows.T)
        counts += _as_extreme(statistics, rows).sum(axis=0)
    return (1 + counts) / (1 + permutations)


def _as_extreme(statistics: FloatArray, rows: FloatArray) -> NDArray[np.bool_]:
    # Reciprocal ranks are small fractions: sums tie exactly, and rounding must not decide such a tie.
    slack = ROUNDING * np.abs(rows).sum(axis=1)
    return np.abs(statistics) >= np.abs(rows.sum(axis=1)) - slack
