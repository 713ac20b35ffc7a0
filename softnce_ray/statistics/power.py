"""What a comparison could see: power, the smallest difference that it detects, and the seeds or queries that it takes.

All follow from the variance components of a difference (`Components`, one for each language) as
:mod:`softnce_ray.statistics.random_effects` has them. The variance of the mean over L languages is
``Σ (seeds / S + queries / Q + interaction / (S Q)) / L²``; the degrees of freedom are Satterthwaite's, of the expected
mean squares; the power is that of the noncentral t.

Source: Hillis, Obuchowski & Berbaum, *Power estimation for multireader ROC methods: an updated and unified approach*,
2011 (readers are our seeds, cases our queries).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scipy.special

from softnce_ray.statistics.random_effects import Components

MOST_SEEDS, MOST_QUERIES = 1_000, 10_000_000
"""More is not looked for."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison of two arms, made or planned.

    Attributes:
        components: of the difference, one for each language.
        queries: number of queries of each language.
        seeds: number of seeds, the same in all languages.
        comparisons: number of differences in the family that this one belongs to: each is tested at Bonferroni's level.
        level: of the whole family, in (0, 1).
    """

    components: tuple[Components, ...]
    queries: tuple[int, ...]
    seeds: int
    comparisons: int = 1
    level: float = 0.95

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: impossible numbers, or other numbers of languages.
        """
        if not self.components or len(self.components) != len(self.queries):
            raise ValueError(
                f"expected components and queries of the same languages, got {len(self.components)} and "
                f"{len(self.queries)}"
            )
        if self.seeds < 1 or self.comparisons < 1 or min(self.queries) < 2:
            raise ValueError(
                f"expected at least 1 seed, 1 comparison and 2 queries, got {self.seeds}, {self.comparisons} and "
                f"{min(self.queries)}"
            )
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {self.level}; 95 % is 0.95")


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Parts of the variance of a mean difference, which add up to 1; `seeds` and `interaction` are 0 with one seed."""

    seeds: float
    queries: float
    interaction: float


def shares(design: Design) -> Shares | None:
    """Return how much of the variance of the mean is whose; None where nothing varies."""
    of_seeds = of_queries = of_rest = 0.0
    for each, queries in zip(design.components, design.queries, strict=True):
        of_seeds += (each.seeds or 0.0) / design.seeds
        of_queries += each.queries / queries
        of_rest += (each.interaction or 0.0) / (design.seeds * queries)
    whole = of_seeds + of_queries + of_rest
    if whole == 0:
        return None
    return Shares(seeds=of_seeds / whole, queries=of_queries / whole, interaction=of_rest / whole)


def standard_error(design: Design) -> tuple[float, float]:
    """Return the standard error of the mean difference, in the units of the scores, and its degrees of freedom."""
    languages, seeds = len(design.components), design.seeds
    variance = spread = 0.0
    for each, queries in zip(design.components, design.queries, strict=True):
        rest = (each.interaction or 0.0) / (seeds * queries)
        of_seeds = (each.seeds or 0.0) / seeds + rest
        of_queries = each.queries / queries + rest
        variance += of_seeds + of_queries - rest
        spread += of_queries**2 / (queries - 1)
        if seeds > 1:
            spread += of_seeds**2 / (seeds - 1) + rest**2 / ((seeds - 1) * (queries - 1))
    df = variance**2 / spread if spread > 0 else math.inf
    return math.sqrt(variance) / languages, df


def power_of(design: Design, effect: float) -> float:
    """Return the chance that the difference is called one, in its direction, if it is truly `effect`, in the units
    of the scores."""
    error, df = standard_error(design)
    if error == 0:
        return float(effect != 0)
    df = min(df, 1e6)  # the noncentral t is not computed beyond
    limit = float(scipy.special.stdtrit(df, 1 - (1 - design.level) / design.comparisons / 2))
    center = abs(effect) / error
    return 1 - float(scipy.special.nctdtr(df, center, limit))


def detectable(design: Design, power: float = 0.8) -> float:
    """Return the smallest difference that is called one with a chance of `power`, in (0, 1)."""
    _check_power(power)
    error, _ = standard_error(design)
    if error == 0:
        return 0.0
    low, high = 0.0, error
    while power_of(design, high) < power:
        high *= 2
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if power_of(design, middle) < power else (low, middle)
    return high


def seeds_needed(design: Design, effect: float, power: float = 0.8) -> int | None:
    """Return the least number of seeds with which `effect` is detected; None where even `MOST_SEEDS` do not, or the
    design's single seed does not say how much seeds vary.

    Args:
        design: its own number of seeds does not count.
        effect: in the units of the scores, not 0.
        power: in (0, 1).
    """
    _check(effect, power)
    if any(each.seeds is None for each in design.components):
        return None
    return _least(2, MOST_SEEDS, lambda seeds: power_of(_with(design, seeds=seeds), effect) >= power)


def queries_needed(design: Design, effect: float, power: float = 0.8) -> int | None:
    """Return the least number of queries of each language with which `effect` is detected; None where even
    `MOST_QUERIES` do not.

    Args:
        design: its own numbers of queries do not count.
        effect: in the units of the scores, not 0.
        power: in (0, 1).
    """
    _check(effect, power)
    count = len(design.queries)
    return _least(2, MOST_QUERIES, lambda queries: power_of(_with(design, queries=(queries,) * count), effect) >= power)


def _with(design: Design, *, seeds: int | None = None, queries: Sequence[int] | None = None) -> Design:
    return Design(
        components=design.components,
        queries=tuple(queries or design.queries),
        seeds=seeds or design.seeds,
        comparisons=design.comparisons,
        level=design.level,
    )


def _least(low: int, high: int, enough: Callable[[int], bool]) -> int | None:
    """Return the least number that is enough, by halving: more is never less."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _check(effect: float, power: float) -> None:
    if not (math.isfinite(effect) and effect != 0):
        raise ValueError(f"effect must be a number other than 0, got {effect}")
    _check_power(power)


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"power must lie strictly between 0 and 1, got {power}; 80 % is 0.8")
