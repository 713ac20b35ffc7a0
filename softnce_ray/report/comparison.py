"""Which arm wins, and is that luck? Counted and computed once; a rendering only writes down what it finds.

Only finished ``confirm`` trials are compared: the best of many search trials is biased upward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softnce_ray.config.settings import Family
from softnce_ray.ranks_file import Measure
from softnce_ray.report.cells import (
    agreed_sizes,
    codebase_of,
    finished_cells,
    measured_by,
    of_language,
    tables_of,
    values_of,
)
from softnce_ray.report.factoring import factored
from softnce_ray.report.notes import notes_on, problems_of, title_of
from softnce_ray.report.paper import beside_paper
from softnce_ray.report.shared import shared_queries, units_of
from softnce_ray.report.values import Report, ReportError, Row, family_of, row_name
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.statistics import ArmComparison, Inference, compare_arms, holm, simultaneous_levels


@dataclass(frozen=True)
class _Contestant:
    """An arm with what it was trained on: the cells of one row."""

    arm: str
    training_set: str | None
    cells: tuple[tuple[TrialResult, ...], ...]

    @property
    def name(self) -> str:
        return row_name(self.arm, self.training_set)


def build_report(
    results: StudyResults,
    *,
    baseline: str | None = None,
    split: str = "test",
    measure: Measure = "reciprocal_rank",
    level: float = 0.95,
    inference: Inference = "seeds-and-queries",
    permutations: int = 10_000,
    seed: int = 0,
    versus_paper: bool = False,
) -> Report:
    """Compare the arms of a study by the mean of a measure over the queries, of their finished ``confirm`` trials.

    Args:
        results: the study, finished or not.
        baseline: the arm to compare with; the study's own by default.
        split: whose queries are compared.
        measure: what of each query: its reciprocal rank, or its graded nDCG where the corpus knows partners.
        level: of the intervals, and of the tests that go with them.
        inference: what p and intervals speak of, see :func:`softnce_ray.statistics.compare_arms`.
        permutations, seed: of the sign-flip test of `these-models`.
        versus_paper: also look up what was published, see :mod:`softnce_ray.report.paper`.

    Raises:
        ReportError: an unknown baseline; a measure that no trial has; arms of a language with different numbers of
            queries or different codebases; several different finished runs of one arm, language and seed.

    Differences are taken from the baseline with the same training set. All of them, or those of each language, as the
    study says, are one family: p is corrected over it, and intervals that hold together go with it.
    """
    baseline = results.baseline if baseline is None else baseline
    if baseline not in results.arms:
        raise ReportError(
            f"baseline must be an arm of study {results.study!r}, got {baseline!r}; "
            f"its arms are {', '.join(results.arms) or 'none'}"
        )
    results = measured_by(results, measure)
    cells, unusable = finished_cells(results, split)
    queries = agreed_sizes(results, cells, "queries", lambda t, language: len(values_of(t, split, language)))
    codebase = agreed_sizes(results, cells, "codes", lambda t, language: codebase_of(t, split, language))
    shared = shared_queries(results, cells, split)
    problems = problems_of(results, cells, unusable)
    settings, common = factored(results)

    options = {"level": level, "inference": inference, "permutations": permutations, "seed": seed}
    rows: list[Row] = []
    for table in tables_of(results):
        contestants = [
            _Contestant(arm, training_set, tuple(cells[arm, name] for name in names))
            for training_set, names in table.sets.items()
            for arm in results.arms
            if all(results.is_asked(arm, name) for name in names)
        ]
        finished = [each for each in contestants if all(each.cells)]
        units = units_of(table.languages, queries, shared) if finished else None
        comparisons = _compared(finished, table.languages, baseline, split, {**options, "units": units})
        single = table.languages[0] if len(table.languages) == 1 else None
        for each in contestants:
            names = table.sets[each.training_set]
            compared = comparisons.get(each.name)
            counts = [(len(cell), len(results.seeds_of(name))) for cell, name in zip(each.cells, names, strict=True)]
            done, asked = min(counts, key=lambda count: (count[0], -count[1]))
            rows.append(
                Row(
                    arm=each.arm,
                    language=single,
                    training_set=each.training_set,
                    languages=table.languages,
                    seeds_done=done,
                    seeds_asked=asked,
                    mean=compared.mean if compared else None,
                    spread=_spread(each.cells, split, table.languages),
                    difference=compared.difference if compared else None,
                    behind=compared.behind if compared else None,
                    is_best=compared is not None and compared.behind is None and len(finished) > 1,
                    failures=_count(results, "FAILED", each.arm, names),
                    stopped=_count(results, "KILLED", each.arm, names),
                    settings={} if single is None else settings.get((each.arm, names[0]), {}),
                    metrics={} if single is None else _mean_metrics(each.cells[0], single),
                )
            )
    report = Report(
        title=title_of(results, cells),
        study=results.study,
        question=results.question,
        status=results.status,
        baseline=baseline,
        split=split,
        measure=measure,
        corpus_fingerprint=results.corpus_fingerprint,
        level=level,
        inference=inference,
        permutations=permutations,
        random_seed=seed,
        family=results.family,
        rows=_corrected(rows, level, results.family),
        training_sets={name: each.train for name, each in results.training_sets.items()},
        common_settings=common,
        queries=queries,
        codebase=codebase,
        shared=shared,
        seeds=results.seeds,
        counts=_counts(results),
        problems=problems,
        notes=notes_on(rows, baseline, results),
    )
    return replace(report, paper=beside_paper(report)) if versus_paper else report


def _count(results: StudyResults, status: str, arm: str, languages: Sequence[str]) -> int:
    return sum((t.status, t.arm) == (status, arm) and t.language in languages for t in results.trials)


def _counts(results: StudyResults) -> dict[str, dict[str, int]]:
    return {
        phase: dict(Counter(trial.outcome for trial in results.trials if trial.phase == phase))
        for phase in ("search", "confirm")
    }


def _compared(
    contestants: Sequence[_Contestant], languages: Sequence[str], baseline: str, split: str, options: Mapping[str, Any]
) -> dict[str, ArmComparison]:
    """Return the comparison of each, by name: means and the best among all, differences from the baseline with the same
    training set. The models of a training set are the same in all languages."""

    def compare(these: Sequence[_Contestant], reference: str | None) -> dict[str, ArmComparison]:
        return compare_arms(
            {
                each.name: [_ranks(c, split, lang) for c, lang in zip(each.cells, languages, strict=True)]
                for each in these
            },
            {each.name: [[trial.seed for trial in cell] for cell in each.cells] for each in these},
            reference,
            same_models=all(each.training_set is not None for each in these),
            **options,
        )

    by_set: dict[str | None, list[_Contestant]] = {}
    for each in contestants:
        by_set.setdefault(each.training_set, []).append(each)
    parts: dict[str, ArmComparison] = {}
    for these in by_set.values():
        parts |= compare(these, next((each.name for each in these if each.arm == baseline), None))
    if len(by_set) < 2:
        return parts
    whole = compare(contestants, None)
    return {name: replace(part, behind=whole[name].behind) for name, part in parts.items()}


def _corrected(rows: Sequence[Row], level: float, family: Family) -> tuple[Row, ...]:
    """Give rows what depends on how many were compared together."""
    families: dict[tuple[str, ...], dict[int, Row]] = {}
    for i, row in enumerate(rows):
        families.setdefault(family_of(row.languages, family), {})[i] = row
    found: dict[int, Row] = {}
    for these in families.values():
        found |= _corrected_together(these, level)
    return tuple(found[i] for i in range(len(rows)))


def _corrected_together(rows: Mapping[int, Row], level: float) -> dict[int, Row]:
    """Correct the rows of one family: differences from the baseline for one another, those from the best of their
    language for one another."""
    compared = {i: row.difference for i, row in rows.items() if row.difference}
    behind = {i: row.behind.p for i, row in rows.items() if row.behind}
    p_values = [each.p for each in compared.values()]
    p_holm = dict(zip(compared, holm(p_values).tolist(), strict=True))
    levels = dict(zip(compared, simultaneous_levels(p_values, level).tolist(), strict=True))
    together = {i: each.at(levels[i]) for i, each in compared.items()}
    p_best = dict(zip(behind, holm(list(behind.values())).tolist(), strict=True))
    return {
        i: replace(row, p_holm=p_holm.get(i), together=together.get(i), ties_best=p_best.get(i, 0.0) >= 1 - level)
        for i, row in rows.items()
    }


def _ranks(trials: Sequence[TrialResult], split: str, language: str) -> np.ndarray:
    return np.stack([values_of(t, split, language) for t in trials])


def _spread(trials: Sequence[Sequence[TrialResult]], split: str, languages: Sequence[str]) -> float | None:
    seeds = {tuple(t.seed for t in cell) for cell in trials}
    if len(seeds) > 1 or len(trials[0]) < 2:
        return None
    means = [_ranks(cell, split, each).mean(axis=1) for cell, each in zip(trials, languages, strict=True)]
    return float(np.mean(means, axis=0).std(ddof=1))


def _mean_metrics(trials: Sequence[TrialResult], language: str) -> dict[str, float]:
    metrics = [of_language(trial.metrics, language) for trial in trials]
    shared = set.intersection(*map(set, metrics)) if metrics else set()
    return {name: float(np.mean([each[name] for each in metrics])) for name in sorted(shared)}
