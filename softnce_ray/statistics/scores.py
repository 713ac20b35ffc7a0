"""Matrices of scores, checked, and which of their queries are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Elements of the largest temporary array (16 MB of float64): 2,000 resamples of 15,000 queries at once would
# be 240 MB.
BLOCK = 2_000_000
# Two seed averages of the same numbers in another order differ by rounding; that is no difference.
ROUNDING = 1e-12


def same_queries(names: Iterable[Iterable[Hashable]]) -> list[IntArray]:
    """The `units` of queries that are known by a name each, such as their text.

    Two pairs of one language with the same name stay two queries: the first is that of the first with this name in
    other languages, the second that of the second.

    Args:
        names: one sequence per language, in the order of the queries.

    Returns:
        one (Q_l,) array per language: numbers from 0, in the order in which the queries first come.
    """
    numbers: dict[tuple[Hashable, int], int] = {}
    units = []
    for of_language in names:
        seen: Counter[Hashable] = Counter()
        found = []
        for name in of_language:
            found.append(numbers.setdefault((name, seen[name]), len(numbers)))
            seen[name] += 1
        units.append(np.array(found, dtype=np.int64))
    return units


def matrix_of(scores: ArrayLike, name: str) -> FloatArray:
    """Scores as a matrix (S, Q).

    Raises:
        ValueError: a wrong shape, or a value that is not finite.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must have shape (seeds, queries), neither of them 0, got {matrix.shape}")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).sum())
        raise ValueError(f"{name} must be finite, got {bad} values that are not")
    return matrix


def pairs_of(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> list[tuple[FloatArray, FloatArray]]:
    """The matrices of two arms, language by language.

    Raises:
        ValueError: as of `matrix_of`; other languages, or other queries.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same languages, got {len(a)} and {len(b)}")
    check_languages(len(a))
    pairs = [(matrix_of(x, "a"), matrix_of(y, "b")) for x, y in zip(a, b, strict=True)]
    for x, y in pairs:
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"a and b must answer the same queries, got {x.shape[1]} and {y.shape[1]}")
    return pairs


def check_languages(count: int) -> None:
    if count == 0:
        raise ValueError("at least one language is needed, got none")


def numbered(widths: Sequence[int], units: Sequence[ArrayLike] | None) -> list[IntArray]:
    """Which query each column is, by whole numbers from 0 without gaps; without `units` all are different.

    Args:
        widths: Q_l of each language.

    Raises:
        ValueError: units of other languages or other numbers of queries, or one that a language has twice.
    """
    if units is None:
        ends = np.cumsum([0, *widths])
        return [np.arange(start, start + width) for start, width in zip(ends[:-1], widths, strict=True)]
    if len(units) != len(widths):
        raise ValueError(f"units must have one entry per language ({len(widths)}), got {len(units)}")
    given = [np.asarray(each, dtype=np.int64) for each in units]
    for i, (each, width) in enumerate(zip(given, widths, strict=True)):
        if each.shape != (width,):
            raise ValueError(f"units[{i}] must have shape ({width},), one for each query, got {each.shape}")
        if len(np.unique(each)) != width:
            raise ValueError(f"units[{i}] must not repeat within a language: a query that stands twice is two queries")
    numbers = np.unique(np.concatenate(given), return_inverse=True)[1]
    return np.split(numbers, np.cumsum(widths)[:-1])


def components(units: Sequence[IntArray]) -> list[list[int]]:
    """The languages, those together that share queries, directly or through others; in their order."""
    found: list[tuple[set[int], list[int]]] = []
    for language, numbers in enumerate(units):
        joined = (set(numbers.tolist()), [language])
        apart = []
        for each in found:
            if each[0].isdisjoint(joined[0]):
                apart.append(each)
            else:
                joined = (joined[0] | each[0], [*each[1], *joined[1]])
        found = [*apart, joined]
    return sorted(sorted(languages) for _, languages in found)
