"""Means and differences of means, with intervals and p from crossed random effects of seeds and queries.

Of one language the values are ``x[s, q] = mean + seed[s] + query[q] + interaction[s, q]``, all three drawn at random:
which seed trained the model, which query was asked, and how the two go together. With the mean squares of seeds,
queries and interaction (`MS_s`, `MS_q`, `MS_e`) the variance of the mean is ``(MS_s + MS_q - MS_e) / (S Q)``. It is
never taken below ``MS_s / (S Q)`` or ``MS_q / (S Q)``, which matters where one of the two happens to be smaller than
the interaction. The degrees of freedom are Satterthwaite's over the three, never fewer than the least of them has, so p
and interval are Student's: p lies under ``1 - level`` exactly where the interval leaves out 0.

Over languages the variances add. Queries that several languages ask are one draw, and so are seeds where one model
answers all languages.

Sources: Obuchowski & Rockette, *Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests*,
1995, and Hillis, *A comparison of denominator degrees of freedom methods for multiple observer ROC analysis*, 2007
(readers are our seeds, cases our queries); Baayen, Davidson & Bates, *Mixed-effects modeling with crossed random
effects for subjects and items*, 2008; Satterthwaite, *An approximate distribution of estimates of variance
components*, 1946.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from softnce_ray.statistics.scores import (
    FloatArray,
    IntArray,
    check_languages,
    components,
    matrix_of,
    numbered,
    pairs_of,
)

Scores = ArrayLike | Sequence[ArrayLike]
"""One (S, Q) matrix, or one for each language."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """How much of the luck is whose, in one language.

    Attributes:
        seeds, queries, interaction: variances of one seed's effect, of one query's, and of what is left of a single
            value; in squared units of the scores. `seeds` and `interaction` are None with one seed: then `queries`
            is the variance of a query's value, with all that is in it.
    """

    seeds: float | None
    queries: float
    interaction: float | None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean, low, high: in the units of the scores. Of one query the bounds are infinite: it says nothing of others.
        level: confidence level in (0, 1).
        standard_error: of the mean, in the same units; infinite of one query.
        df: degrees of freedom of the standard error; infinite where nothing varies.
        queries: number of different queries (of all languages together).
        seeds: number of seeds (of the language, or arm, that has fewest). At 1 the interval says nothing of another
            seed.
    """

    mean: float
    low: float
    high: float
    level: float
    standard_error: float
    df: float
    queries: int
    seeds: int

    def at(self, level: float) -> Self:
        """Return the same at another level.

        Raises:
            ValueError: a level that does not lie strictly between 0 and 1.
        """
        half = _half_width(self.standard_error, self.df, level)
        return replace(self, low=self.mean - half, high=self.mean + half, level=level)


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """A difference of two means, with its interval and p.

    Attributes:
        p: two-sided, of "there is no difference"; under ``1 - level`` exactly where the interval leaves out 0.
        seeds_paired: whether rows of equal number were trained with the same seed, in every language.
        components: of each language.
    """

    p: float
    seeds_paired: bool
    components: tuple[Components, ...]


def mean_interval(
    scores: Scores, *, units: Sequence[ArrayLike] | None = None, same_models: bool = False, level: float = 0.95
) -> Interval:
    """Return the mean over languages of the languages' means, with its interval for other seeds and other queries.

    All languages count the same, whatever their size.

    Args:
        scores: (S, Q), or one (S_l, Q_l) for each language; finite.
        units: which queries of the languages are the same; see :mod:`softnce_ray.statistics`. None: no query is shared.
        same_models: True where row i is of the same model in every language. Otherwise a seed trains another model in
            every language, so seeds of equal number in two languages have nothing in common.
        level: confidence level in (0, 1).

    Raises:
        ValueError: a wrong shape, a value that is not finite, units that fit no language, different numbers of seeds
            of the same models, or an impossible level.
    """
    matrices = _languages(scores, "scores")
    return _interval([[each] for each in matrices], units, same_models, level)


def difference(
    a: Scores,
    b: Scores,
    *,
    seeds_paired: bool | Sequence[bool] = True,
    units: Sequence[ArrayLike] | None = None,
    same_models: bool = False,
    level: float = 0.95,
) -> Difference:
    """Return the mean over languages of the differences of means a - b, with interval, p and components.

    Args:
        a: (S_a, Q), or one for each language; finite.
        b: (S_b, Q), or one for each language: the same queries in the same order.
        seeds_paired: True where row i of both was trained with the same seed, so that they share what the seed fixes
            (initial weights, order of the data); False where the sets of seeds differ. One for all languages, or one
            for each.
        units, same_models, level: as in :func:`mean_interval`.

    With one seed on both sides only queries vary, and the result says nothing of another seed. Where one side alone has
    one seed, its seeds are taken to vary as the other's do.

    Raises:
        ValueError: as :func:`mean_interval`; or different queries; or paired seeds with S_a != S_b.
    """
    pairs = pairs_of(_languages(a, "a"), _languages(b, "b"))
    paired = [seeds_paired] * len(pairs) if isinstance(seeds_paired, bool) else list(seeds_paired)
    if len(paired) != len(pairs):
        raise ValueError(f"seeds_paired must have one entry per language ({len(pairs)}), got {len(paired)}")
    sides = []
    for (x, y), together in zip(pairs, paired, strict=True):
        if together and len(x) != len(y):
            raise ValueError(
                f"paired seeds need equally many rows, got {len(x)} and {len(y)}; "
                "pass seeds_paired=False when the arms were trained with different seeds"
            )
        sides.append([x - y] if together else [x, -y])
    found = _interval(sides, units, same_models, level)
    return Difference(
        **vars(found),
        p=_p(found),
        seeds_paired=all(paired),
        components=tuple(map(_components, sides)),
    )


# --- the model ---


_Parts = list[tuple[float, float]]
"""Estimated variances that are added up, each with its degrees of freedom."""


def _interval(
    sides: Sequence[Sequence[FloatArray]], units: Sequence[ArrayLike] | None, same_models: bool, level: float
) -> Interval:
    """Make an interval.

    Args:
        sides: for each language the matrices whose means are added: one, or two of different seeds.
    """
    numbers = numbered([of_language[0].shape[1] for of_language in sides], units)
    mean = float(np.mean([sum(float(each.mean()) for each in of_language) for of_language in sides]))
    error, df = _error(sides, numbers, same_models)
    half = _half_width(error, df, level)
    return Interval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        level=level,
        standard_error=error,
        df=df,
        queries=len(np.unique(np.concatenate(numbers))),
        seeds=min(len(each) for of_language in sides for each in of_language),
    )


def _half_width(error: float, df: float, level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}; 95 % is 0.95")
    return float(scipy.special.stdtrit(df, (1 + level) / 2)) * error if 0 < error < math.inf else error


def _p(found: Interval) -> float:
    if found.standard_error == 0:
        return float(found.mean == 0)
    return float(2 * scipy.special.stdtr(found.df, -abs(found.mean) / found.standard_error))


def _error(
    sides: Sequence[Sequence[FloatArray]], numbers: Sequence[IntArray], same_models: bool
) -> tuple[float, float]:
    """Return the standard error of the mean and its degrees of freedom."""
    seeds = _of_seeds(sides, same_models)
    queries = _of_queries(sides, numbers)
    rest = _of_interaction(sides, numbers, same_models)
    if any(df == 0 for _, df in queries):
        return math.inf, 1.0
    of_seeds, of_queries, of_rest = (sum(part for part, _ in parts) for parts in (seeds, queries, rest))
    variance = max(of_seeds + of_queries - of_rest, of_seeds, of_queries)
    parts = (*seeds, *queries, *rest)
    spread = sum(part**2 / df for part, df in parts)
    # The interaction is subtracted: where little is left, Satterthwaite's ratio can fall below those of every part.
    return math.sqrt(variance), max(variance**2 / spread, min(df for _, df in parts)) if spread > 0 else math.inf


def _of_seeds(sides: Sequence[Sequence[FloatArray]], same_models: bool) -> _Parts:
    if same_models and len({tuple(map(len, each)) for each in sides}) > 1:
        counts = [[len(each) for each in of_language] for of_language in sides]
        raise ValueError(f"the same models need equally many rows in every language, got {counts}")
    languages = len(sides)
    rows = [[each.mean(axis=1) / languages for each in of_language] for of_language in sides]
    if same_models:
        rows = [[np.sum(each, axis=0) for each in zip(*rows, strict=True)]]
    parts = []
    for of_language in rows:
        known = [each for each in of_language if len(each) > 1]
        for each in of_language:
            if known:
                source = each if len(each) > 1 else known[0]
                parts.append((float(source.var(ddof=1)) / len(each), len(source) - 1.0))
    return parts


def _of_queries(sides: Sequence[Sequence[FloatArray]], numbers: Sequence[IntArray]) -> _Parts:
    columns = [sum(each.mean(axis=0) for each in of_language) for of_language in sides]
    parts = []
    for together in components(numbers):
        terms = _by_query(
            [columns[i] - columns[i].mean() for i in together], [numbers[i] for i in together], len(sides)
        )
        count = terms.shape[1]
        parts.append((float((terms**2).sum()) * count / max(1, count - 1), count - 1.0))
    return parts


def _of_interaction(sides: Sequence[Sequence[FloatArray]], numbers: Sequence[IntArray], same_models: bool) -> _Parts:
    """What single values add to the parts of both seeds and queries, and so is counted twice in their sum."""
    if not same_models:
        alone = [np.arange(len(each)) for each in numbers]
        return [
            part
            for i in range(len(sides))
            for matrix in sides[i]
            for part in _interaction_of([_centred(matrix)], [alone[i]], len(sides))
        ]
    return [
        part
        for together in components(numbers)
        for side in range(len(sides[0]))
        for part in _interaction_of(
            [_centred(sides[i][side]) for i in together], [numbers[i] for i in together], len(sides)
        )
    ]


def _interaction_of(residuals: Sequence[FloatArray], numbers: Sequence[IntArray], languages: int) -> _Parts:
    terms = _by_query(residuals, numbers, languages)
    seeds, queries = terms.shape
    if seeds == 1 or queries == 1:
        return []
    variance = float((terms**2).sum()) / ((seeds - 1) * seeds) * queries / (queries - 1)
    return [(variance, float((seeds - 1) * (queries - 1)))]


def _by_query(values: Sequence[FloatArray], numbers: Sequence[IntArray], languages: int) -> FloatArray:
    """(K, Q_l) values of some languages -> (K, Q) of their different queries: what each adds to the mean over all."""
    inverse = np.unique(np.concatenate(numbers), return_inverse=True)[1]
    rows = np.concatenate([np.atleast_2d(each) / (languages * each.shape[-1]) for each in values], axis=1)
    if len(values) == 1:
        return rows
    summed = np.zeros((len(rows), int(inverse.max()) + 1))
    for row, into in zip(rows, summed, strict=True):
        into += np.bincount(inverse, weights=row)
    return summed


def _components(of_language: Sequence[FloatArray]) -> Components:
    queries = of_language[0].shape[1]
    columns = sum(each.mean(axis=0) for each in of_language)
    of_queries = float(np.var(columns, ddof=1)) if queries > 1 else math.nan
    several = [each for each in of_language if len(each) > 1]
    if not several or queries == 1:
        return Components(seeds=None, queries=of_queries, interaction=None)
    rest = [float((_centred(each) ** 2).sum()) / ((len(each) - 1) * (queries - 1)) for each in several]
    of_seeds = [
        max(0.0, float(each.mean(axis=1).var(ddof=1)) - part / queries)
        for each, part in zip(several, rest, strict=True)
    ]
    shared = sum(part / len(each) for each, part in zip(several, rest, strict=True))
    return Components(seeds=sum(of_seeds), queries=max(0.0, of_queries - shared), interaction=sum(rest))


def _centred(matrix: FloatArray) -> FloatArray:
    centred = matrix - matrix.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0, keepdims=True)
    return centred


def _languages(scores: Scores, name: str) -> list[FloatArray]:
    if isinstance(scores, np.ndarray) and scores.ndim == 2:
        return [matrix_of(scores, name)]
    given: list[Any] = list(scores)  # type: ignore[arg-type]
    if given and np.ndim(given[0]) == 1:
        return [matrix_of(given, name)]
    check_languages(len(given))
    return [matrix_of(each, f"{name}[{i}]") for i, each in enumerate(given)]
