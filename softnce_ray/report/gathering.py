"""From a study's results, and what else is at hand of it, to what a page shows beside the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from softnce_ray.distributions import Distributions, together
from softnce_ray.ranks_file import place
from softnce_ray.report.cells import Cells, finished_cells, measured_by, tables_of, values_of
from softnce_ray.report.evidence import (
    DIAGNOSTICS,
    CellSearch,
    Change,
    Cost,
    Curve,
    Duel,
    Evidence,
    Searched,
    Spread,
    Text,
)
from softnce_ray.report.factoring import COLUMN_SETTINGS
from softnce_ray.report.values import Report, Row, row_name
from softnce_ray.results import StudyResults, TrialResult, state_of
from softnce_ray.yaml_text import YamlError, load

History = Sequence[tuple[int, float]]
Histories = Mapping[str, Mapping[str, History]]  # run id -> metric -> (epoch, value), ascending
QueryIds = Mapping[tuple[str, str], Sequence[str]]  # (arm's training set or language as the study has it, language)

SHOWN_QUERIES = 5
_EQUAL = 1e-12  # of two seed averages of the same numbers in another order
_MOST_HISTORIES = 2_000


def wanted_histories(results: StudyResults) -> dict[str, list[str]]:
    """Run id -> metrics whose values by epoch the page draws: validation of all confirm trials, diagnostics where they
    were recorded, of so many trials that reading them takes seconds."""
    trials = [trial for trial in results.trials if trial.phase == "confirm" and trial.status in ("FINISHED", "RUNNING")]
    wanted = {}
    for trial in trials:
        several = results.training_set(trial.language).test
        names = [place("valid_mrr", language if len(several) > 1 else None) for language in several]
        wanted[trial.run_id] = [name for name in names if name in trial.metrics]
    first: dict[tuple[str, str], int] = {}
    room = _MOST_HISTORIES - sum(map(len, wanted.values()))
    # A seed of every arm first, then another of every arm, as far as there is room.
    turns: dict[int, list[TrialResult]] = {}
    for trial in trials:
        turn = first.get((trial.arm, trial.language), 0)
        first[trial.arm, trial.language] = turn + 1
        turns.setdefault(turn, []).append(trial)
    for turn in sorted(turns):
        names_of = {trial.run_id: [name for name in DIAGNOSTICS if name in trial.metrics] for trial in turns[turn]}
        needed = sum(map(len, names_of.values()))
        if needed > room:
            break
        room -= needed
        for run_id, names in names_of.items():
            wanted[run_id] += names
    return wanted


def gather(
    results: StudyResults,
    report: Report,
    *,
    histories: Histories,
    distributions: Mapping[str, Distributions] | None = None,
    study_text: str = "",
    importances: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
    query_ids: QueryIds | None = None,
    lacking: Mapping[str, str] | None = None,
) -> Evidence:
    """Evidence beside a report.

    Args:
        results: those that the report was made of.
        histories: of the metrics that `wanted_histories` names.
        distributions: run id -> how scores and p are distributed.
        study_text: the study as YAML: which settings were searched, and how; "" if unknown.
        importances: (arm, language of the study) -> setting -> share.
        query_ids: (language of the study, language) -> ids of the queries of the report's split.
        lacking: part -> why it could not be read.
    """
    measured = measured_by(results, report.measure)
    cells, _ = finished_cells(measured, report.split)
    missing = dict(lacking or {})
    curves = _curves(results, cells, histories)
    spreads = tuple(
        Spread(arm, language, len(found), together(found))
        for (arm, language), trials in cells.items()
        if (found := [each for trial in trials if (each := (distributions or {}).get(trial.run_id))])
    )
    searches = _searches(results, study_text, importances or {})
    duels = tuple(_duels(measured, report, cells, query_ids or {}))
    recorded = {curve.metric for curve in curves}
    if not recorded & set(DIAGNOSTICS):
        missing.setdefault(
            "diagnostics", "No diagnostics by epoch are recorded: the trials ran before they were, or none has begun."
        )
    if "valid_mrr" not in recorded:
        missing.setdefault("curves", "No validation by epoch is recorded yet.")
    if not spreads:
        missing.setdefault(
            "distributions",
            "No distributions of scores and of the estimators' p are recorded: the trials ran before they were, or "
            "none has finished.",
        )
    if not searches:
        missing.setdefault("search", "Nothing was searched: the arms were trained as written.")
    if not duels:
        missing.setdefault(
            "queries", "No two arms can be compared query by query yet: that takes the baseline and another one."
        )
    return Evidence(curves, spreads, searches, duels, _costs(results, cells), missing)


def _curves(results: StudyResults, cells: Cells, histories: Histories) -> tuple[Curve, ...]:
    curves = []
    runs = {key: _with_running(results, key, cell) for key, cell in cells.items()}
    for table in tables_of(results):
        if len(table.languages) > 1:
            continue
        (language,) = table.languages
        for training_set, (name,) in table.sets.items():
            for arm in results.arms:
                several = len(results.training_set(name).test) > 1
                found = [
                    history
                    for trial in runs[arm, name]
                    if (
                        history := histories.get(trial.run_id, {}).get(
                            place("valid_mrr", language if several else None)
                        )
                    )
                ]
                if found:
                    curves.append(_curve("valid_mrr", arm, row_name(arm, training_set), language, found))
    for metric in DIAGNOSTICS:
        for (arm, name), trials in runs.items():
            found = [each for trial in trials if (each := histories.get(trial.run_id, {}).get(metric))]
            if found:
                curves.append(_curve(metric, arm, arm, name, found))
    return tuple(curves)


def _with_running(results: StudyResults, key: tuple[str, str], cell: Sequence[TrialResult]) -> list[TrialResult]:
    """The finished trials of a cell, and for seeds without one those that run."""
    done = {trial.seed for trial in cell}
    running = {
        trial.seed: trial
        for trial in results.trials
        if (trial.arm, trial.language) == key
        and (trial.phase, trial.status) == ("confirm", "RUNNING")
        and trial.seed not in done
    }
    return [*cell, *running.values()]


def _curve(metric: str, arm: str, name: str, language: str, histories: Sequence[History]) -> Curve:
    by_epoch: dict[int, list[float]] = {}
    for history in histories:
        for epoch, value in history:
            if np.isfinite(value):
                by_epoch.setdefault(epoch, []).append(value)
    epochs = tuple(sorted(by_epoch))
    values = [by_epoch[epoch] for epoch in epochs]
    return Curve(
        metric,
        arm,
        name,
        language,
        epochs,
        tuple(float(np.mean(each)) for each in values),
        tuple(map(min, values)),
        tuple(map(max, values)),
        tuple(map(len, values)),
    )


def _searches(
    results: StudyResults,
    text: str,
    importances: Mapping[tuple[str, str], Mapping[str, float]],
) -> tuple[CellSearch, ...]:
    by_cell: dict[tuple[str, str], list[TrialResult]] = {}
    chosen: dict[tuple[str, str], Mapping[str, str]] = {}
    for trial in results.trials:
        if trial.phase == "search":
            by_cell.setdefault((trial.arm, trial.language), []).append(trial)
        else:
            chosen.setdefault((trial.arm, trial.language), trial.settings)
    spaces = _spaces(text)
    found = []
    for arm in results.arms:
        for language in results.languages:
            trials = by_cell.get((arm, language), [])
            keys = [
                key for key in spaces.get(arm) or _varying(trials) if any(key in trial.settings for trial in trials)
            ]
            if not trials or not keys:
                continue
            shares = dict(importances.get((arm, language), {}))
            keys.sort(key=lambda key: -shares.get(key, 0.0))
            settings = chosen.get((arm, language), {})
            found.append(
                CellSearch(
                    arm,
                    language,
                    tuple(keys),
                    frozenset(key for key in keys if spaces.get(arm, {}).get(key)),
                    tuple(_searched(trial, keys) for trial in trials),
                    shares,
                    {key: settings[key] for key in keys if key in settings},
                )
            )
    return tuple(found)


def _searched(trial: TrialResult, keys: Sequence[str]) -> Searched:
    value = trial.metrics.get("best_valid_mrr")
    settings = {key: trial.settings[key] for key in keys if key in trial.settings}
    return Searched(
        trial.run_id, state_of(trial.outcome), value if value is not None and np.isfinite(value) else None, settings
    )


def _spaces(text: str) -> dict[str, dict[str, bool]]:
    """Arm -> searched setting -> whether on a logarithmic scale, from the study's YAML; nothing where it has none."""
    try:
        study: Any = load(text) or {}
        common = (study.get("search") or {}).get("space") or {}
        return {
            arm: {
                key: bool(isinstance(space, dict) and space.get("log"))
                for key, space in {**common, **((settings or {}).get("search") or {})}.items()
            }
            for arm, settings in (study.get("arms") or {}).items()
        }
    except (YamlError, AttributeError):
        return {}


def _varying(trials: Sequence[TrialResult]) -> list[str]:
    values: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.settings.items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1 and key.rpartition(".")[2] not in COLUMN_SETTINGS]


def _duels(results: StudyResults, report: Report, cells: Cells, query_ids: QueryIds) -> Iterable[Duel]:
    for table in tables_of(results):
        if len(table.languages) > 1:
            continue
        (language,) = table.languages
        rows = [row for row in report.rows if row.language == language and row.mean]
        pair = _pair(rows, report.baseline)
        if pair is None:
            continue
        ours, theirs = pair
        name = table.sets[ours.training_set][0]
        sides = [
            np.mean([values_of(trial, report.split, language) for trial in cells[row.arm, name]], axis=0)
            for row in pair
        ]
        differences = sides[0] - sides[1]
        differences[np.abs(differences) < _EQUAL] = 0.0
        order = np.argsort(-differences, kind="stable")
        ids = query_ids.get((name, language), ())

        def changes(positions: Iterable[int], ids=ids, sides=sides) -> tuple[Change, ...]:
            return tuple(
                Change(ids[at], float(sides[0][at]), float(sides[1][at]), None)
                for at in positions
                if len(ids) == len(sides[0])
            )

        yield Duel(
            language,
            ours.name,
            theirs.name,
            int((differences > 0).sum()),
            int((differences < 0).sum()),
            int((differences == 0).sum()),
            tuple(differences[order].tolist()),
            changes(at for at in order[:SHOWN_QUERIES].tolist() if differences[at] > 0),
            changes(at for at in order[::-1][:SHOWN_QUERIES].tolist() if differences[at] < 0),
        )


def _pair(rows: Sequence[Row], baseline: str) -> tuple[Row, Row] | None:
    """The best row that is not the baseline's and has one to be compared with, and the baseline's row."""
    bases = {row.training_set: row for row in rows if row.arm == baseline}
    others = [row for row in rows if row.arm != baseline and row.training_set in bases and row.mean]
    if not others:
        return None
    best = max(others, key=lambda row: row.mean.mean if row.mean else 0.0)
    return best, bases[best.training_set]


def _costs(results: StudyResults, cells: Cells) -> tuple[Cost, ...]:
    costs = []
    for (arm, language), trials in cells.items():
        seconds = [trial.metrics["train_seconds"] for trial in trials if "train_seconds" in trial.metrics]
        if not seconds:
            continue
        pairs = [trial.metrics["pairs_per_second"] for trial in trials if "pairs_per_second" in trial.metrics]
        epochs = [trial.metrics.get("epoch", 1.0) for trial in trials]
        searched = [
            trial for trial in results.trials if (trial.arm, trial.language, trial.phase) == (arm, language, "search")
        ]
        costs.append(
            Cost(
                arm,
                language,
                len(trials),
                float(np.mean(seconds)),
                min(seconds),
                max(seconds),
                float(np.mean(pairs)) if pairs else None,
                float(np.mean(epochs)),
                len(searched),
                float(sum(t.metrics.get("epoch", 0.0) * t.metrics.get("train_seconds", 0.0) for t in searched)),
            )
        )
    return tuple(costs)


def shown_queries(evidence: Evidence) -> dict[str, set[str]]:
    """Language -> ids of the queries that the page shows with their code."""
    found: dict[str, set[str]] = {}
    for duel in evidence.duels:
        found.setdefault(duel.language, set()).update(change.id for change in (*duel.gained, *duel.lost))
    return found


def with_texts(evidence: Evidence, texts: Mapping[str, Text], problem: str = "") -> Evidence:
    """The evidence with the texts of its queries, by id; `problem` says why some have none."""

    def told(changes: Sequence[Change]) -> tuple[Change, ...]:
        return tuple(replace(change, text=texts.get(change.id)) for change in changes)

    duels = tuple(replace(duel, gained=told(duel.gained), lost=told(duel.lost)) for duel in evidence.duels)
    lacking = {**evidence.lacking, "texts": problem} if problem else evidence.lacking
    return replace(evidence, duels=duels, lacking=lacking)
