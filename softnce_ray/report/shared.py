"""Which languages of a study ask the same queries: versions of one corpus do, and their values are no independent ones.

Runs keep a query's pair by an identifier that its language is part of, so that MLflow alone does not say it. The values
do: a query that is hard in one version is hard in the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from softnce_ray.report.cells import Cells, tables_of, values_of
from softnce_ray.report.values import SharedQueries
from softnce_ray.results import StudyResults
from softnce_ray.statistics import same_queries

_ERRORS = 4
"""Standard errors (1/√Q) by which the correlation of two languages must exceed zero. Of different queries it does once
in 30,000 pairs of languages; planted versions of 500 queries have 0.9, which is 20."""


def shared_queries(results: StudyResults, cells: Cells, split: str) -> tuple[SharedQueries, ...]:
    """Groups of languages with equally many queries whose values, averaged over all that was evaluated, go together."""
    means = {language: values for language, values in _means(results, cells, split) if np.ptp(values) > 0}
    groups: list[tuple[list[str], float]] = []
    for language in means:
        group, least = [language], 1.0
        apart = []
        for members, correlation in groups:
            found = [r for each in members if (r := _correlation(means[each], means[language])) is not None]
            if found:
                group, least = [*members, *group], min(least, correlation, *found)
            else:
                apart.append((members, correlation))
        groups = [*apart, (group, least)]
    order = list(means)
    return tuple(
        SharedQueries(tuple(sorted(members, key=order.index)), least) for members, least in groups if len(members) > 1
    )


def units_of(languages: Sequence[str], sizes: Mapping[str, int], shared: Iterable[SharedQueries]) -> list[np.ndarray]:
    """Which queries of the languages are the same, as :mod:`softnce_ray.statistics` takes it: those of one place in
    languages of one group."""
    group_of = {language: number for number, group in enumerate(shared) for language in group.languages}
    names = (itertools.product([group_of.get(language, language)], range(sizes[language])) for language in languages)
    return list(same_queries(names))


def _means(results: StudyResults, cells: Cells, split: str) -> Iterable[tuple[str, np.ndarray]]:
    for table in tables_of(results):
        if len(table.languages) > 1:
            continue
        (language,) = table.languages
        trials = [trial for name in table.sets.values() for arm in results.arms for trial in cells[arm, name[0]]]
        if trials:
            yield language, np.mean([values_of(trial, split, language) for trial in trials], axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Of two languages' values, place by place; None where these may well be of different queries."""
    if len(a) != len(b):
        return None
    found = float(np.corrcoef(a, b)[0, 1])
    return found if found > _ERRORS / math.sqrt(len(a)) else None
