"""All arms of a study beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from softnce_ray.statistics.intervals import Difference, Interval, difference_of, interval_of, query_means
from softnce_ray.statistics.scores import FloatArray, matrix_of, numbered
from softnce_ray.statistics.sign_flips import randomisation_p_values


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


def compare_arms(
    ranks: Mapping[str, Sequence[ArrayLike]],
    seeds: Mapping[str, Sequence[Sequence[int]]],
    reference: str | None,
    *,
    units: Sequence[ArrayLike] | None = None,
    same_models: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, ArmComparison]:
    """Means of all arms and their differences from a reference, p corrected over the arms (Holm).

    The same numbers as `overall_mean_interval`, `overall_difference` and `randomisation_p_values` give arm by arm; the
    resampled queries are drawn once for all arms, which is what makes a table of hundreds of arms quick.

    Args:
        ranks: arm -> one (S, Q_l) matrix per language; the arms may have different S, not different Q_l.
        seeds: arm -> per language the seeds of the rows. Equal sequences are drawn together.
        reference: the arm to compare with; None: means only.
        units, same_models, level, resamples, permutations, seed: as there.

    Raises:
        ValueError: as there; or an unknown reference.
    """
    matrices = {arm: [matrix_of(r, f"ranks of {arm!r}") for r in rows] for arm, rows in ranks.items()}
    if not matrices:
        return {}
    languages = {len(rows) for rows in matrices.values()}
    if len(languages) > 1:
        raise ValueError(f"every arm must have the same number of languages, got {sorted(languages)}")
    stacked, ends = [], []
    for i in range(languages.pop()):
        rows = [matrices[arm][i] for arm in matrices]
        if len({r.shape[1] for r in rows}) > 1:
            widths = {arm: m[i].shape[1] for arm, m in matrices.items()}
            raise ValueError(f"arms must answer the same queries, got these numbers of queries: {widths}")
        stacked.append(np.concatenate(rows))
        ends.append(np.cumsum([len(r) for r in rows])[:-1])
    numbers = numbered([rows.shape[1] for rows in stacked], units)
    resampled: dict[str, list[FloatArray]] = {arm: [] for arm in matrices}
    for means_of_all, end in zip(query_means(stacked, numbers, resamples, seed), ends, strict=True):
        for arm, part in zip(matrices, np.split(means_of_all, end, axis=1), strict=True):
            resampled[arm].append(part)

    def tests(against: str) -> dict[str, float]:
        return randomisation_p_values(matrices, against, units=units, permutations=permutations, seed=seed)

    means = {arm: interval_of(matrices[arm], resampled[arm], numbers, same_models, level, seed) for arm in matrices}
    p_values = {} if reference is None else tests(reference)
    p_holm = _holm_by_arm(p_values)
    best = max(means, key=lambda arm: means[arm].mean)
    p_best = p_holm if best == reference else _holm_by_arm(tests(best))
    comparisons = {}
    for arm in matrices:
        difference = None
        if reference is not None and arm != reference:
            paired = [list(x) == list(y) for x, y in zip(seeds[arm], seeds[reference], strict=True)]
            difference = difference_of(
                matrices[arm],
                matrices[reference],
                resampled[arm],
                resampled[reference],
                numbers,
                paired,
                same_models,
                level,
                seed,
            )
        comparisons[arm] = ArmComparison(means[arm], difference, p_values.get(arm), p_holm.get(arm), p_best.get(arm))
    return comparisons


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


def _holm_by_arm(p_values: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
