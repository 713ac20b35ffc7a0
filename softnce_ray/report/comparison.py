"""Which arm wins, and is that luck? One frozen value, several renderings.

:func:`build_report` does all the counting and computing; a rendering only writes down what it finds in the
:class:`Report`. Only finished ``confirm`` trials are compared: the best of many search trials is biased
upward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from softnce_ray.errors import UserError
from softnce_ray.ranks_file import Measure
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.statistics import Difference, Interval, compare_arms

ProblemKind = Literal["failed", "killed", "running", "missing", "unusable"]

OVERALL = "overall"
"""What stands in place of a language for the mean over languages."""

# Settings that a row's own columns already say.
_COLUMN_SETTINGS = {"arm", "language", "seed"}


class ReportError(UserError, ValueError):
    """A study that cannot be reported on as asked; the message says what is possible."""


@dataclass(frozen=True)
class Problem:
    """Trials of one arm and language that have no place in the table, and why.

    Attributes:
        kind: ``failed``, ``killed`` or ``running`` as the run says; ``missing``: asked for, never started;
            ``unusable``: finished, but not comparable.
        seeds, run_ids: of these trials, in the same order; ``run_ids`` is empty for missing ones.
        phase: ``search`` or ``confirm``.
        reason: one line, or "".
    """

    arm: str
    language: str
    kind: ProblemKind
    phase: str
    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Row:
    """One arm in one language, or in all of them.

    Attributes:
        language: None for the mean over languages.
        seeds_done, seeds_asked: seeds that entered, and that should have; over languages: of the one with
            fewest.
        mean: of the measure, with its interval; None when nothing finished (over languages: not in all of them).
        spread: standard deviation (n - 1) of the seeds' means; None for one seed, and over languages unless the
            same seeds finished in all of them.
        difference: from the baseline; None for the baseline, and where either has no mean.
        p_value, p_holm: of that difference, as computed and corrected over the arms of this language.
        is_best: highest mean of its language, among two or more.
        ties_best: not the best, and not significantly different from it (Holm's p over the arms >= 1 -
            level).
        failures: failed or killed runs, of both phases.
        settings: full key -> value, where it is not common to all arms; seeds that differ are joined by " |
            ".
        metrics: mean over the seeds that entered, of the metrics that all of them have; empty over languages.
    """

    arm: str
    language: str | None
    seeds_done: int
    seeds_asked: int
    mean: Interval | None
    spread: float | None
    difference: Difference | None
    p_value: float | None
    p_holm: float | None
    is_best: bool
    ties_best: bool
    failures: int
    settings: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def label(self) -> str:
        """The row's name in a sentence."""
        return f"{self.arm}, {self.language or OVERALL}"


@dataclass(frozen=True)
class Report:
    """Everything that a rendering needs.

    Attributes:
        rows: language by language in the study's order, then over languages (where there are several).
        common_settings: full key -> value, of the settings on which all ``confirm`` trials agree.
        key_names: full key -> shortest ending that is unambiguous among the settings.
        queries, codebase: language -> number of queries, and of codes that each was ranked against (if
            known).
        measure: what of each query is averaged; the means and differences are of it.
        problems: failed, killed, running, missing and unusable trials.
        notes: whole sentences that a reader must know.
    """

    title: str
    study: str
    question: str
    status: str
    baseline: str
    split: str
    measure: Measure
    corpus_fingerprint: str
    level: float
    resamples: int
    permutations: int
    random_seed: int
    rows: tuple[Row, ...]
    common_settings: Mapping[str, str]
    key_names: Mapping[str, str]
    queries: Mapping[str, int]
    codebase: Mapping[str, int]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


Cells = Mapping[tuple[str, str], tuple[TrialResult, ...]]  # (arm, language) -> finished trials, one a seed


def build_report(
    results: StudyResults,
    *,
    baseline: str | None = None,
    split: str = "test",
    measure: Measure = "reciprocal_rank",
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Report:
    """Compare the arms of a study by the mean of a measure over the queries, of their finished ``confirm`` trials.

    Args:
        results: the study, finished or not.
        baseline: the arm to compare with; the study's own by default.
        split: whose queries are compared.
        measure: what of each query: its reciprocal rank, or its graded nDCG where the corpus knows partners.
        level, resamples, permutations, seed: of the intervals and tests, see :mod:`softnce_ray.statistics`.

    Raises:
        ReportError: an unknown baseline; a measure that no trial has; arms of a language with different numbers of
            queries or different codebases; several different finished runs of one arm, language and seed.
    """
    baseline = results.baseline if baseline is None else baseline
    if baseline not in results.arms:
        raise ReportError(
            f"baseline must be an arm of study {results.study!r}, got {baseline!r}; "
            f"its arms are {', '.join(results.arms) or 'none'}"
        )
    results = _measured(results, measure)
    cells, unusable = _finished_cells(results, split)
    queries = _agreed(results, cells, "queries", lambda t: len(t.reciprocal_ranks[split]))
    codebase = _agreed(results, cells, "codes", lambda t: _codebase(t, split))
    problems = _problems(results, cells, unusable)
    settings, common = _settings(results)

    scopes: list[tuple[str, ...]] = [(language,) for language in results.languages]
    if len(results.languages) > 1:
        scopes.append(results.languages)
    rows: list[Row] = []
    for languages in scopes:
        arms = [arm for arm in results.arms if all(cells[arm, language] for language in languages)]
        comparisons = compare_arms(
            {arm: [_ranks(cells[arm, language], split) for language in languages] for arm in arms},
            {arm: [[t.seed for t in cells[arm, language]] for language in languages] for arm in arms},
            baseline if baseline in arms else None,
            level=level,
            resamples=resamples,
            permutations=permutations,
            seed=seed,
        )
        for arm in results.arms:
            trials = [cells[arm, language] for language in languages]
            compared = comparisons.get(arm)
            rows.append(
                Row(
                    arm=arm,
                    language=languages[0] if len(languages) == 1 else None,
                    seeds_done=min(len(t) for t in trials),
                    seeds_asked=len(results.seeds),
                    mean=compared.mean if compared else None,
                    spread=_spread(trials, split),
                    difference=compared.difference if compared else None,
                    p_value=compared.p_value if compared else None,
                    p_holm=compared.p_holm if compared else None,
                    is_best=compared is not None and compared.p_best is None and len(arms) > 1,
                    ties_best=compared is not None and (compared.p_best or 0.0) >= 1 - level,
                    failures=sum(
                        t.status in ("FAILED", "KILLED") and t.arm == arm and t.language in languages
                        for t in results.trials
                    ),
                    settings=settings.get((arm, languages[0]), {}) if len(languages) == 1 else {},
                    metrics=_mean_metrics(trials[0]) if len(languages) == 1 else {},
                )
            )
    keys = set(common).union(*settings.values())
    return Report(
        title=_title(results, cells),
        study=results.study,
        question=results.question,
        status=results.status,
        baseline=baseline,
        split=split,
        measure=measure,
        corpus_fingerprint=results.corpus_fingerprint,
        level=level,
        resamples=resamples,
        permutations=permutations,
        random_seed=seed,
        rows=tuple(rows),
        common_settings=common,
        key_names=_short_names(keys),
        queries=queries,
        codebase=codebase,
        problems=problems,
        notes=_notes(rows, baseline, results),
    )


def _measured(results: StudyResults, measure: Measure) -> StudyResults:
    """The results with another measure in the place of the reciprocal ranks."""
    if measure == "reciprocal_rank":
        return results
    finished = [trial for trial in results.trials if trial.phase == "confirm" and trial.status == "FINISHED"]
    if finished and not any(trial.graded_ndcg for trial in finished):
        raise ReportError(
            f"study {results.study!r} has no graded nDCG: its corpus does not know which codes share a meaning, as one "
            "made by `softnce-ray corpus plant` does; leave the measure out"
        )
    return replace(
        results, trials=tuple(replace(trial, reciprocal_ranks=trial.graded_ndcg) for trial in results.trials)
    )


def _finished_cells(results: StudyResults, split: str) -> tuple[Cells, dict[str, str]]:
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
        if trial.seed not in results.seeds:
            unusable[trial.run_id] = "the study does not ask for this seed"
        elif not len(trial.reciprocal_ranks.get(split, ())):
            unusable[trial.run_id] = f"no values of the queries of split {split!r} were stored"
        elif twin is None:
            cell[trial.seed] = trial
        elif twin.identity == trial.identity:
            unusable[trial.run_id] = f"the same trial as run {twin.run_id}"
        else:
            raise ReportError(
                f"{trial.arm}, {trial.language}, seed {trial.seed} must be one trial, got two with different "
                f"configurations: runs {twin.run_id} and {trial.run_id}; delete the one that is out of date"
            )
    ordered = {place: tuple(cell[seed] for seed in results.seeds if seed in cell) for place, cell in cells.items()}
    return ordered, unusable


def _agreed(
    results: StudyResults, cells: Cells, what: str, size: Callable[[TrialResult], int | None]
) -> dict[str, int]:
    """Language -> the size on which all compared trials agree; left out where none knows it."""
    agreed = {}
    for language in results.languages:
        runs: dict[int, list[str]] = {}
        for arm in results.arms:
            for trial in cells[arm, language]:
                if (n := size(trial)) is not None:
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


def _codebase(trial: TrialResult, split: str) -> int | None:
    size = trial.metrics.get(f"{split}_codebase", math.nan)
    return int(size) if math.isfinite(size) else None


def _problems(results: StudyResults, cells: Cells, unusable: Mapping[str, str]) -> tuple[Problem, ...]:
    found: dict[tuple[str, str, ProblemKind, str, str], list[TrialResult | int]] = {}
    kinds: dict[str, ProblemKind] = {"FAILED": "failed", "KILLED": "killed", "RUNNING": "running"}
    for trial in results.trials:
        kind = "unusable" if trial.run_id in unusable else kinds.get(trial.status)
        if kind is None:
            continue
        unexplained = "" if kind == "running" else "no reason recorded"
        reason = unusable.get(trial.run_id, trial.failure or unexplained)
        done = [t.run_id for t in cells[trial.arm, trial.language] if t.seed == trial.seed]
        if done and trial.phase == "confirm" and kind != "unusable":
            reason = "; ".join(filter(None, [reason, f"finished in run {done[0]}"]))
        found.setdefault((trial.arm, trial.language, kind, trial.phase, reason), []).append(trial)
    started = {(t.arm, t.language, t.seed) for t in results.trials if t.phase == "confirm"}
    reason = "not started yet" if results.status == "RUNNING" else "never started"
    for arm, language in cells:
        for seed in results.seeds:
            if (arm, language, seed) not in started:
                found.setdefault((arm, language, "missing", "confirm", reason), []).append(seed)
    problems = [
        Problem(
            arm,
            language,
            kind,
            phase,
            tuple(t if isinstance(t, int) else t.seed for t in trials),
            tuple(t.run_id for t in trials if not isinstance(t, int)),
            reason,
        )
        for (arm, language, kind, phase, reason), trials in found.items()
    ]
    place = {key: i for i, key in enumerate(cells)}
    return tuple(sorted(problems, key=lambda p: place[p.arm, p.language]))


def _settings(results: StudyResults) -> tuple[dict[tuple[str, str], dict[str, str]], dict[str, str]]:
    """(arm, language) -> what differs, and what all ``confirm`` trials have in common."""
    values: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    trials = [t for t in results.trials if t.phase == "confirm"]
    for trial in trials:
        cell = values.setdefault((trial.arm, trial.language), {})
        for key, value in trial.settings.items():
            if key.rpartition(".")[2] not in _COLUMN_SETTINGS:
                cell.setdefault(key, {})[value] = None
    agreements = Counter(item for trial in trials for item in trial.settings.items())
    common = {
        key: value
        for (key, value), count in agreements.items()
        if count == len(trials) and key.rpartition(".")[2] not in _COLUMN_SETTINGS
    }
    differing = {
        place: {key: " | ".join(found) for key, found in cell.items() if key not in common}
        for place, cell in values.items()
    }
    return differing, common


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    endings = {key: [".".join(key.split(".")[i:]) for i in range(key.count(".") + 1)][::-1] for key in keys}
    uses = Counter(ending for key in endings for ending in endings[key])
    return {key: next((e for e in endings[key] if uses[e] == 1), key) for key in sorted(endings)}


def _ranks(trials: Sequence[TrialResult], split: str) -> np.ndarray:
    return np.stack([t.reciprocal_ranks[split] for t in trials])


def _spread(trials: Sequence[Sequence[TrialResult]], split: str) -> float | None:
    seeds = {tuple(t.seed for t in cell) for cell in trials}
    if len(seeds) > 1 or len(trials[0]) < 2:
        return None
    means = [_ranks(cell, split).mean(axis=1) for cell in trials]
    return float(np.mean(means, axis=0).std(ddof=1))


def _mean_metrics(trials: Sequence[TrialResult]) -> dict[str, float]:
    shared = set.intersection(*(set(t.metrics) for t in trials)) if trials else set()
    return {name: float(np.mean([t.metrics[name] for t in trials])) for name in sorted(shared)}


def _title(results: StudyResults, cells: Cells) -> str:
    state = {"FINISHED": "", "RUNNING": "still running"}.get(results.status, results.status.lower())
    if not state:
        return results.study
    asked = len(cells) * len(results.seeds)
    return f"{results.study} ({state}: {sum(map(len, cells.values()))} of {asked} confirm trials finished)"


def _notes(rows: Sequence[Row], baseline: str, results: StudyResults) -> tuple[str, ...]:
    notes = []
    single = [row for row in rows if row.language is not None]
    done = [row for row in single if row.mean]
    if not done:
        notes.append("No confirm trial has finished: there is nothing to compare.")
    if few := [row.label for row in done if row.seeds_done < 3]:
        notes.append(
            f"Fewer than 3 seeds finished ({_listed(few)}): how much seeds vary is hardly known there, "
            "and with one seed the interval covers the queries only."
        )
    if own := [row.label for row in done if row.difference and not row.difference.seeds_paired]:
        notes.append(
            f"Not the same seeds as the baseline's finished ({_listed(own)}): the seeds of the two arms "
            "were resampled each on their own."
        )
    if bare := [str(row.language) for row in single if row.arm == baseline and not row.mean and done]:
        notes.append(f"Without a finished trial of the baseline, no differences: {_listed(bare)}.")
    if part := [row.arm for row in rows if row.language is None and not row.mean]:
        notes.append(f"No overall row for {_listed(part)}: nothing finished in at least one language.")
    searched = Counter(t.status for t in results.trials if t.phase == "search")
    if searched:
        notes.append(
            f"{searched.total()} search trials ({searched['FINISHED']} finished) chose the settings; they do "
            "not enter the table."
        )
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names)
