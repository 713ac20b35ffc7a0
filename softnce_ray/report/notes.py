"""What stands beside a table: the study's state, trials that are not in it, and what a reader must know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from softnce_ray.report.cells import Cells
from softnce_ray.report.values import Problem, ProblemKind, Row, row_name
from softnce_ray.results import StudyResults, TrialResult, state_of


def problems_of(results: StudyResults, cells: Cells, unusable: Mapping[str, str]) -> tuple[Problem, ...]:
    found: dict[tuple[str, str, ProblemKind, str, str], list[TrialResult | int]] = {}
    kinds: dict[str, ProblemKind] = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running"}
    for trial in results.trials:
        kind = "unusable" if trial.run_id in unusable else kinds.get(trial.status)
        if kind is None:
            continue
        done = [t.run_id for t in cells[trial.arm, trial.language] if t.seed == trial.seed]
        again = bool(done) and trial.phase == "confirm" and kind != "unusable"
        unexplained = {"running": "", "stopped": "" if again else "the next launch goes on with it"}
        reason = unusable.get(trial.run_id, trial.failure or unexplained.get(kind, "no reason recorded"))
        if again:
            reason = "; ".join(filter(None, [reason, f"finished in run {done[0]}"]))
        found.setdefault((trial.arm, trial.language, kind, trial.phase, reason), []).append(trial)
    started = {(t.arm, t.language, t.seed) for t in results.trials if t.phase == "confirm"}
    reason = "not started yet" if results.status == "RUNNING" else "never started"
    for arm, language in cells:
        for seed in results.seeds_of(language) if results.is_asked(arm, language) else ():
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


def title_of(results: StudyResults, cells: Cells) -> str:
    state = {"FINISHED": "", "RUNNING": "still running"}.get(results.status, state_of(results.status))
    if not state:
        return results.study
    asked = sum(len(results.seeds_of(language)) for arm, language in cells if results.is_asked(arm, language))
    running = sum(trial.status == "RUNNING" for trial in results.trials)
    now = f", {running} trial{'s' if running > 1 else ''} running" if running else ""
    return f"{results.study} ({state}: {sum(map(len, cells.values()))} of {asked} confirm trials finished{now})"


def notes_on(rows: Sequence[Row], baseline: str, results: StudyResults) -> tuple[str, ...]:
    notes = []
    single = [row for row in rows if row.language is not None]
    done = [row for row in single if row.mean]
    if not done:
        notes.append("No confirm trial has finished: there is nothing to compare.")
    if few := [row.label for row in done if row.seeds_done < 3]:
        notes.append(
            f"Fewer than 3 seeds finished ({_listed(few)}): how much seeds vary is hardly known there, "
            "and with one seed interval and p speak of other queries only."
        )
    if one := sorted({str(row.language) for row in done if row.mean and row.mean.queries == 1}):
        notes.append(f"1 query alone ({_listed(one)}): it gives no interval, and no difference beyond chance.")
    if own := [row.label for row in done if row.difference and not row.difference.seeds_paired]:
        notes.append(
            f"Not the same seeds as the baseline's finished ({_listed(own)}): the seeds of the two arms count as "
            "independent."
        )
    if bare := [
        row_name(str(row.language), row.training_set) for row in single if row.arm == baseline and not row.mean and done
    ]:
        notes.append(f"Without a finished trial of the baseline, no differences: {_listed(bare)}.")
    if part := [row.name for row in rows if row.language is None and not row.mean]:
        notes.append(f"No overall row for {_listed(part)}: nothing finished in at least one language.")
    notes += _seeds_notes(results)
    searched = Counter(t.outcome for t in results.trials if t.phase == "search")
    if searched:
        states = ", ".join(f"{n} {state_of(outcome)}" for outcome, n in sorted(searched.items()))
        notes.append(f"{searched.total()} search trials ({states}) chose the settings; they do not enter the table.")
        if results.is_joint:
            notes.append(_joint_note(results))
    if results.left_out:
        notes.append(f"{results.left_out[0].upper()}{results.left_out[1:]}.")
    return tuple(notes)


def _joint_note(results: StudyResults) -> str:
    """Say what a table after a joint search may claim, and what not."""
    counts = Counter(trial.arm for trial in results.trials if trial.phase == "search")
    shown = ", ".join(f"{arm} {counts[arm]}" for arm in results.arms)
    return (
        "One search chose among all arms and gave most trials to those that did well "
        f"({shown}): the table says how good the configurations are that it found, trained anew on other seeds, and "
        "not which arm is better when all are given the same number of trials."
    )


def _seeds_notes(results: StudyResults) -> list[str]:
    """Say of a study that asks for precision how many seeds each language has got, and why no more."""
    if results.precision is None:
        return []
    what = f"every difference from {results.baseline}" if len(results.arms) > 1 else f"the mean of {results.baseline}"
    whose = "all other differences" if results.family == "study" else "the others of its language"
    together = f", together with {whose}" if len(results.arms) > 1 else ""
    told = []
    for language in results.languages:
        text = f"{language} {len(results.seeds_of(language))} seeds"
        asked = results.asked.get(language)
        if asked is None or not asked.why or results.status != "FINISHED":  # a launch decides anew
            told.append(f"{text} so far")
        elif asked.half_width is None or math.isinf(asked.half_width):
            told.append(f"{text} ({asked.why})")
        else:
            told.append(f"{text}, ± {asked.half_width:.2g} ({asked.why})")
    return [
        f"Seeds were added until {what} was known to ± {results.precision.half_width:g} (95 %{together}), "
        f"{results.precision.at_least} at least and {results.precision.at_most} at most: {'; '.join(told)}."
    ]


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names)
