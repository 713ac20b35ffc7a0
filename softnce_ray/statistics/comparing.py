"""All arms of a study beside one another, and the correction for how many were compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from softnce_ray.statistics.random_effects import Difference, Interval, difference, mean_interval
from softnce_ray.statistics.scores import FloatArray, matrix_of
from softnce_ray.statistics.sign_flips import randomisation_p_values

Inference = Literal["seeds-and-queries", "these-models"]
"""What p and intervals speak of: arms trained with other seeds, on other queries; or these trained models, on other
queries."""
INFERENCES: tuple[Inference, ...] = get_args(Inference)


@dataclass(frozen=True, kw_only=True)
class ArmComparison:
    """One arm beside a reference arm and beside the best one.

    Attributes:
        mean: the arm's own.
        difference: from the reference; None for the reference itself, or without one.
        behind: from the arm of the highest mean; None for that arm.
    """

    mean: Interval
    difference: Difference | None
    behind: Difference | None


def compare_arms(
    ranks: Mapping[str, Sequence[ArrayLike]],
    seeds: Mapping[str, Sequence[Sequence[int]]],
    reference: str | None,
    *,
    units: Sequence[ArrayLike] | None = None,
    same_models: bool = False,
    level: float = 0.95,
    inference: Inference = "seeds-and-queries",
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, ArmComparison]:
    """Compare all arms with a reference and with the best one; nothing is corrected for their number.

    Args:
        ranks: arm -> one (S, Q_l) matrix per language; the arms may have different S, not different Q_l.
        seeds: arm -> per language the seeds of the rows. Equal sequences are paired.
        reference: the arm to compare with; None: none.
        units, same_models, level: as in :func:`difference`.
        inference: `these-models` takes the trained models as given: values are averaged over seeds, the interval is
            that of the queries alone, and p is that of :func:`randomisation_p_values`.
        permutations, seed: of that test.

    Raises:
        ValueError: as there; or an unknown reference.
    """
    matrices = {arm: [matrix_of(r, f"ranks of {arm!r}") for r in rows] for arm, rows in ranks.items()}
    if not matrices:
        return {}
    _check(matrices)
    if reference is not None and reference not in matrices:
        raise ValueError(f"reference must be one of {', '.join(matrices)}, got {reference!r}")
    given = inference == "these-models"
    compared = {arm: [m.mean(axis=0, keepdims=True) for m in of] for arm, of in matrices.items()} if given else matrices

    def differences(against: str) -> dict[str, Difference]:
        found = {
            arm: difference(
                compared[arm],
                compared[against],
                seeds_paired=given or [list(x) == list(y) for x, y in zip(seeds[arm], seeds[against], strict=True)],
                units=units,
                same_models=same_models,
                level=level,
            )
            for arm in compared
            if arm != against
        }
        if not given:
            return found
        flipped = randomisation_p_values(compared, against, units=units, permutations=permutations, seed=seed)
        return {arm: replace(each, p=flipped[arm]) for arm, each in found.items()}

    means = {arm: mean_interval(of, units=units, same_models=same_models, level=level) for arm, of in compared.items()}
    best = max(means, key=lambda arm: means[arm].mean)
    from_reference = {} if reference is None else differences(reference)
    from_best = from_reference if best == reference else differences(best)
    return {
        arm: ArmComparison(mean=means[arm], difference=from_reference.get(arm), behind=from_best.get(arm))
        for arm in matrices
    }


def _check(matrices: Mapping[str, Sequence[FloatArray]]) -> None:
    languages = {len(rows) for rows in matrices.values()}
    if len(languages) > 1:
        raise ValueError(f"every arm must have the same number of languages, got {sorted(languages)}")
    for i in range(languages.pop()):
        widths = {arm: m[i].shape[1] for arm, m in matrices.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"arms must answer the same queries, got these numbers of queries: {widths}")


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


def simultaneous_levels(p_values: ArrayLike, level: float = 0.95) -> FloatArray:
    """Levels of intervals that agree with Holm's correction.

    All are Bonferroni's, ``1 - (1 - level) / K``, under which all K intervals hold their values at once; where Holm
    calls a difference one that this interval does not, it is the level at which Holm tested it.

    Args:
        p_values: (K,) in [0, 1], each of an interval that leaves out 0 exactly where its level is under 1 - p.
        level: of all together, in (0, 1).

    Returns:
        (K,): an interval of this level leaves out 0 exactly where `holm` gives less than 1 - level.
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = holm(p)
    count, alpha = len(p), 1 - level
    levels = np.full(count, 1 - alpha / max(1, count))
    order = np.argsort(p, kind="stable")
    for place, i in enumerate(order):
        if corrected[i] < alpha <= p[i] * count:
            levels[i] = 1 - alpha / (count - place)
    return levels
