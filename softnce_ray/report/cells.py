"""Which trials of a study are compared with which: finished `confirm` trials, by arm and language."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from softnce_ray.ranks_file import Measure, place
from softnce_ray.report.values import ReportError, family_of
from softnce_ray.results import StudyResults, TrialResult

Cells = Mapping[tuple[str, str], tuple[TrialResult, ...]]  # (arm, language of the study) -> finished trials, one a seed


@dataclass(frozen=True)
class Table:
    """What is compared as one: `sets` has, for each training set (None: a model for each language), the cells'
    languages, one for each of `languages`."""

    languages: tuple[str, ...]
    sets: Mapping[str | None, tuple[str, ...]]


def tables_of(results: StudyResults) -> list[Table]:
    """A table for each language that anything is tested on, then one for each selection of languages over which there
    are means. Languages in the order in which the study comes to them."""
    tested = {name: results.training_set(name).test for name in results.languages}
    alone = [name for name in results.languages if results.training_set(name).is_language]
    tables = [
        Table((language,), {None if name in alone else name: (name,) for name in tested if language in tested[name]})
        for language in dict.fromkeys(language for languages in tested.values() for language in languages)
    ]
    means: dict[frozenset[str], dict[str | None, tuple[str, ...]]] = {}
    if len(alone) > 1:
        means[frozenset(alone)] = {None: tuple(alone)}
    for name, languages in tested.items():
        if name not in alone and len(languages) > 1:
            means.setdefault(frozenset(languages), {})[name] = (name,) * len(languages)
    order = [table.languages[0] for table in tables]
    for selection, sets in means.items():
        ordered = tuple(language for language in order if language in selection)
        tables.append(Table(ordered, {name: ordered if name is None else names for name, names in sets.items()}))
    return tables


def planned_comparisons(results: StudyResults, language: str) -> int:
    """Return how many differences from the baseline are corrected for together with those on the queries of a language,
    where every arm has a finished trial."""
    own = family_of((language,), results.family)
    tables = [table for table in tables_of(results) if family_of(table.languages, results.family) == own]
    return sum(
        all(results.is_asked(arm, name) for name in names)
        for table in tables
        for names in table.sets.values()
        for arm in results.arms
        if arm != results.baseline
    )


def measured_by(results: StudyResults, measure: Measure) -> StudyResults:
    """The results with another measure in the place of the reciprocal ranks."""
    if measure == "reciprocal_rank":
        return results
    finished = [trial for trial in results.trials if trial.phase == "confirm" and trial.status == "FINISHED"]
    if finished and not any(trial.graded_ndcg for trial in finished):
        raise ReportError(
            f"study {results.study!r} has no graded nDCG: its corpus does not know which codes share a meaning, as one "
            "made by `corpus plant` does; leave the measure out"
        )
    return replace(
        results, trials=tuple(replace(trial, reciprocal_ranks=trial.graded_ndcg) for trial in results.trials)
    )


def finished_cells(results: StudyResults, split: str) -> tuple[Cells, dict[str, str]]:
    """The trials that are compared, and run id -> reason for finished ones that cannot be."""
    cells: dict[tuple[str, str], dict[int, TrialResult]] = {
        (arm, language): {} for arm in results.arms for language in results.languages
    }
    unusable: dict[str, str] = {}
    for trial in results.trials:
        if trial.phase != "confirm" or trial.status != "FINISHED":
            continue
        cell = cells[trial.arm, trial.language]
        twin = cell.get(trial.seed)
        if trial.seed not in results.seeds_of(trial.language):
            unusable[trial.run_id] = "the study does not ask for this seed"
        elif not all(len(values_of(trial, split, each)) for each in results.training_set(trial.language).test):
            unusable[trial.run_id] = trial.failure or f"no values of the queries of split {split!r} were stored"
        elif twin is None:
            cell[trial.seed] = trial
        elif twin.identity == trial.identity:
            unusable[trial.run_id] = f"the same trial as run {twin.run_id}"
        else:
            raise ReportError(
                f"{trial.arm}, {trial.language}, seed {trial.seed} must be one trial, got two with different "
                f"configurations: runs {twin.run_id} and {trial.run_id}; delete the one that is out of date"
            )
    ordered = {
        key: tuple(cell[seed] for seed in results.seeds_of(key[1]) if seed in cell) for key, cell in cells.items()
    }
    return ordered, unusable


def agreed_sizes(
    results: StudyResults, cells: Cells, what: str, size: Callable[[TrialResult, str], int | None]
) -> dict[str, int]:
    """Language -> the size on which all compared trials agree; left out where none knows it."""
    agreed = {}
    for table in tables_of(results):
        if len(table.languages) > 1:
            continue
        (language,) = table.languages
        runs: dict[int, list[str]] = {}
        for arm, (name,) in itertools.product(results.arms, table.sets.values()):
            for trial in cells[arm, name]:
                if (n := size(trial, language)) is not None:
                    runs.setdefault(n, []).append(f"{trial.run_id} ({arm}, seed {trial.seed})")
        if len(runs) > 1:
            found = "; ".join(f"{n} {what} in run {', '.join(names)}" for n, names in runs.items())
            raise ReportError(
                f"{language}: trials must be evaluated on the same {what} to be compared, got {found}; "
                "run those of the older corpus anew"
            )
        if runs:
            agreed[language] = next(iter(runs))
    return agreed


def values_of(trial: TrialResult, split: str, language: str) -> np.ndarray:
    """(Q,) of the queries of a language; empty where there are none."""
    ranks = trial.reciprocal_ranks
    return ranks.get(place(split, language), ranks.get(split, np.empty(0)))


def of_language(metrics: Mapping[str, float], language: str) -> dict[str, float]:
    """A trial's metrics as those of one of its languages: by their plain names, those of the others left out."""
    own = {name.removesuffix(f"/{language}"): value for name, value in metrics.items() if name.endswith(f"/{language}")}
    return {name: value for name, value in metrics.items() if "/" not in name} | own


def codebase_of(trial: TrialResult, split: str, language: str) -> int | None:
    size = of_language(trial.metrics, language).get(f"{split}_codebase", math.nan)
    return int(size) if math.isfinite(size) else None
