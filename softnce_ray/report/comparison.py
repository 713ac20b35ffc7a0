"""Which arm wins, and is that luck? One frozen value, several renderings.

:func:`build_report` does all the counting and computing; a rendering only writes down what it finds in the
:class:`Report`. Only finished ``confirm`` trials are compared: the best of many search trials is biased
upward.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from softnce_ray.errors import UserError
from softnce_ray.ranks_file import Measure, place
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.statistics import ArmComparison, Difference, Interval, compare_arms, holm

ProblemKind = Literal["failed", "killed", "running", "missing", "unusable"]

OVERALL = "overall"
"""What stands in place of a language for the mean over languages."""

# Settings that a row's own columns, or the line beneath the table, already say.
_COLUMN_SETTINGS = {"arm", "language", "seed", "train_languages", "test_languages"}


class ReportError(UserError, ValueError):
    """A study that cannot be reported on as asked; the message says what is possible."""


@dataclass(frozen=True)
class Problem:
    """Trials of one arm and language that have no place in the table, and why.

    Attributes:
        language: as the study has it: a language, or the name of a training set.
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
    """One arm evaluated in one language, or in several.

    Attributes:
        language: the queries' language; None for the mean over languages.
        training_set: name of what it was trained on; None where that is the language itself, by a model of its own.
        languages: those whose queries count: one, or those of the mean.
        seeds_done, seeds_asked: seeds that entered, and that should have; over languages: of the one with
            fewest.
        mean: of the measure, with its interval; None when nothing finished (over languages: not in all of them).
        spread: standard deviation (n - 1) of the seeds' means; None for one seed, and over languages unless the
            same seeds finished in all of them.
        difference: from the baseline with the same training set; None for the baseline, and where either has no mean.
        p_value, p_holm: of that difference, as computed and corrected over all rows of this language.
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
    training_set: str | None
    languages: tuple[str, ...]
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
    def name(self) -> str:
        """The arm, with what it was trained on where that is not the language itself: `soft_bm25 [all]`."""
        return _name(self.arm, self.training_set)

    @property
    def label(self) -> str:
        """The row's name in a sentence."""
        return f"{self.name}, {self.language or OVERALL}"


@dataclass(frozen=True)
class Report:
    """Everything that a rendering needs.

    Attributes:
        rows: language by language in the study's order, then over languages (where there are several); within a
            language training set by training set.
        training_sets: name -> languages that it is trained on, of those that are not just a language.
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
    training_sets: Mapping[str, tuple[str, ...]]
    common_settings: Mapping[str, str]
    key_names: Mapping[str, str]
    queries: Mapping[str, int]
    codebase: Mapping[str, int]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


Cells = Mapping[tuple[str, str], tuple[TrialResult, ...]]  # (arm, language of the study) -> finished trials, one a seed


@dataclass(frozen=True)
class _Table:
    """What is compared as one: `sets` has, for each training set (None: a model for each language), the cells'
    languages, one for each of `languages`."""

    languages: tuple[str, ...]
    sets: Mapping[str | None, tuple[str, ...]]


@dataclass(frozen=True)
class _Contestant:
    """An arm with what it was trained on: the cells of one row."""

    arm: str
    training_set: str | None
    cells: tuple[tuple[TrialResult, ...], ...]

    @property
    def name(self) -> str:
        return _name(self.arm, self.training_set)


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

    Differences are taken from the baseline with the same training set, corrected over all of a language's rows.
    """
    baseline = results.baseline if baseline is None else baseline
    if baseline not in results.arms:
        raise ReportError(
            f"baseline must be an arm of study {results.study!r}, got {baseline!r}; "
            f"its arms are {', '.join(results.arms) or 'none'}"
        )
    results = _measured(results, measure)
    cells, unusable = _finished_cells(results, split)
    queries = _agreed(results, cells, "queries", lambda t, language: len(_values(t, split, language)))
    codebase = _agreed(results, cells, "codes", lambda t, language: _codebase(t, split, language))
    problems = _problems(results, cells, unusable)
    settings, common = _settings(results)

    options = {"level": level, "resamples": resamples, "permutations": permutations, "seed": seed}
    rows: list[Row] = []
    for table in _tables(results):
        contestants = [
            _Contestant(arm, training_set, tuple(cells[arm, name] for name in names))
            for training_set, names in table.sets.items()
            for arm in results.arms
        ]
        finished = [each for each in contestants if all(each.cells)]
        comparisons = _compared(finished, table.languages, baseline, split, options)
        single = table.languages[0] if len(table.languages) == 1 else None
        for each in contestants:
            names = table.sets[each.training_set]
            compared = comparisons.get(each.name)
            rows.append(
                Row(
                    arm=each.arm,
                    language=single,
                    training_set=each.training_set,
                    languages=table.languages,
                    seeds_done=min(map(len, each.cells)),
                    seeds_asked=len(results.seeds),
                    mean=compared.mean if compared else None,
                    spread=_spread(each.cells, split, table.languages),
                    difference=compared.difference if compared else None,
                    p_value=compared.p_value if compared else None,
                    p_holm=compared.p_holm if compared else None,
                    is_best=compared is not None and compared.p_best is None and len(finished) > 1,
                    ties_best=compared is not None and (compared.p_best or 0.0) >= 1 - level,
                    failures=sum(
                        t.status in ("FAILED", "KILLED") and t.arm == each.arm and t.language in names
                        for t in results.trials
                    ),
                    settings={} if single is None else settings.get((each.arm, names[0]), {}),
                    metrics={} if single is None else _mean_metrics(each.cells[0], single),
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
        training_sets={name: each.train for name, each in results.training_sets.items()},
        common_settings=common,
        key_names=_short_names(keys),
        queries=queries,
        codebase=codebase,
        problems=problems,
        notes=_notes(rows, baseline, results),
    )


def _name(arm: str, training_set: str | None) -> str:
    return arm if training_set is None else f"{arm} [{training_set}]"


def _tables(results: StudyResults) -> list[_Table]:
    """A table for each language that anything is tested on, then one for each selection of languages over which there
    are means. Languages in the order in which the study comes to them."""
    tested = {name: results.training_set(name).test for name in results.languages}
    alone = [name for name in results.languages if results.training_set(name).is_language]
    tables = [
        _Table((language,), {None if name in alone else name: (name,) for name in tested if language in tested[name]})
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
        tables.append(_Table(ordered, {name: ordered if name is None else names for name, names in sets.items()}))
    return tables


def _compared(
    contestants: Sequence[_Contestant], languages: Sequence[str], baseline: str, split: str, options: Mapping[str, Any]
) -> dict[str, ArmComparison]:
    """The comparison of each, by name: means and ties with the best among all, differences from the baseline with the
    same training set, p corrected over all of them."""

    def compare(these: Sequence[_Contestant], reference: str | None) -> dict[str, ArmComparison]:
        return compare_arms(
            {
                each.name: [_ranks(c, split, lang) for c, lang in zip(each.cells, languages, strict=True)]
                for each in these
            },
            {each.name: [[trial.seed for trial in cell] for cell in each.cells] for each in these},
            reference,
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
    p_values = {name: part.p_value for name, part in parts.items() if part.p_value is not None}
    p_holm = dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
    whole = compare(contestants, None)
    return {name: replace(part, p_holm=p_holm.get(name), p_best=whole[name].p_best) for name, part in parts.items()}


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
        elif not all(len(_values(trial, split, each)) for each in results.training_set(trial.language).test):
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
    ordered = {key: tuple(cell[seed] for seed in results.seeds if seed in cell) for key, cell in cells.items()}
    return ordered, unusable


def _agreed(
    results: StudyResults, cells: Cells, what: str, size: Callable[[TrialResult, str], int | None]
) -> dict[str, int]:
    """Language -> the size on which all compared trials agree; left out where none knows it."""
    agreed = {}
    for table in _tables(results):
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


def _values(trial: TrialResult, split: str, language: str) -> np.ndarray:
    """(Q,) of the queries of a language; empty where there are none."""
    ranks = trial.reciprocal_ranks
    return ranks.get(place(split, language), ranks.get(split, np.empty(0)))


def _of_language(metrics: Mapping[str, float], language: str) -> dict[str, float]:
    """A trial's metrics as those of one of its languages: by their plain names, those of the others left out."""
    own = {name.removesuffix(f"/{language}"): value for name, value in metrics.items() if name.endswith(f"/{language}")}
    return {name: value for name, value in metrics.items() if "/" not in name} | own


def _codebase(trial: TrialResult, split: str, language: str) -> int | None:
    size = _of_language(trial.metrics, language).get(f"{split}_codebase", math.nan)
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
    order = {key: i for i, key in enumerate(cells)}
    return tuple(sorted(problems, key=lambda p: order[p.arm, p.language]))


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
        at: {key: " | ".join(found) for key, found in cell.items() if key not in common} for at, cell in values.items()
    }
    return differing, common


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    endings = {key: [".".join(key.split(".")[i:]) for i in range(key.count(".") + 1)][::-1] for key in keys}
    uses = Counter(ending for key in endings for ending in endings[key])
    return {key: next((e for e in endings[key] if uses[e] == 1), key) for key in sorted(endings)}


def _ranks(trials: Sequence[TrialResult], split: str, language: str) -> np.ndarray:
    return np.stack([_values(t, split, language) for t in trials])


def _spread(trials: Sequence[Sequence[TrialResult]], split: str, languages: Sequence[str]) -> float | None:
    seeds = {tuple(t.seed for t in cell) for cell in trials}
    if len(seeds) > 1 or len(trials[0]) < 2:
        return None
    means = [_ranks(cell, split, each).mean(axis=1) for cell, each in zip(trials, languages, strict=True)]
    return float(np.mean(means, axis=0).std(ddof=1))


def _mean_metrics(trials: Sequence[TrialResult], language: str) -> dict[str, float]:
    metrics = [_of_language(trial.metrics, language) for trial in trials]
    shared = set.intersection(*map(set, metrics)) if metrics else set()
    return {name: float(np.mean([each[name] for each in metrics])) for name in sorted(shared)}


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
    if bare := [
        _name(str(row.language), row.training_set) for row in single if row.arm == baseline and not row.mean and done
    ]:
        notes.append(f"Without a finished trial of the baseline, no differences: {_listed(bare)}.")
    if part := [row.name for row in rows if row.language is None and not row.mean]:
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
