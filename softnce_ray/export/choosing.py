"""The trial that is to be exported: of a run, as it was recorded for the study, or the best by validation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from softnce_ray.model import ExportError
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.selection import Recorded, best_trial, language_of, recorded
from softnce_ray.store import Store

Rule = Literal["recorded", "best"]
RULES: Sequence[Rule] = ("recorded", "best")

_LIMITS = {"size_mb": "at most {:g} MB", "latency_ms": "at most {:g} ms for a query"}
_RUN = re.compile(r"[0-9a-f]{32}")


def is_run(name: str) -> bool:
    """Whether a name is the id of a run, and not a study's."""
    return _RUN.fullmatch(name) is not None


def trial_of_run(results: StudyResults, run_id: str) -> TrialResult:
    """The finished trial of a run.

    Raises:
      ExportError: it has not finished, or no longer counts.
    """
    found = [trial for trial in results.trials if trial.run_id == run_id]
    if not found:
        raise ExportError(
            f"expected a trial that counts in study {results.study}, got {run_id}, whose settings, corpus or search "
            "were replaced by a later launch: give another run, or the study's name for its best model"
        )
    if found[0].status != "FINISHED":
        raise ExportError(
            f"expected a finished trial, got {run_id}, which is {found[0].status}: launch the study again"
        )
    return found[0]


@dataclass(frozen=True)
class Chosen:
    """A trial and why it: `how` for who exports it, with how to get another; `why` for who gets the model."""

    trial: TrialResult
    how: str
    why: str


def trial_of_study(
    store: Store, results: StudyResults, *, arm: str | None, language: str | None, rule: Rule | None
) -> Chosen:
    """The trial of a study that is exported: the one that `best` recorded, if it was chosen of the very
    trials that there are now, else the best seed of the arm with the best mean validation MRR.

    Args:
      arm: only this one; what is recorded then does not count.
      language: needed when there are several.
      rule: `recorded`: a choice must be recorded; `best`: whatever is recorded.

    Raises:
      ExportError: an unknown rule, or no recorded choice that can be exported where one is wanted.
      SelectionError: unknown arm or language, or no arm all of whose seeds have finished.
      TrackingError: the store does not answer.
    """
    if rule is not None and rule not in RULES:
        raise ExportError(f"--rule: expected {' or '.join(RULES)}, got {rule!r}")
    if rule == "recorded" and arm is not None:
        raise ExportError("--rule recorded takes the arm that was chosen among all: give no --arm with it")
    name = language_of(results, language)
    known = recorded(store, results, name) if arm is None and rule != "best" else None
    of_language = ("--language", name) if len(results.languages) > 1 else ()
    again = store.command("best", results.study, *of_language)
    if known is not None and known.current:
        return _as_recorded(store, results, known)
    if rule == "recorded":
        got = "none" if known is None else f"one that was made of other trials than there are now ({_rule_of(known)})"
        raise ExportError(
            f"expected a choice that is recorded for {name} of study {results.study}, got {got}: `{again}`"
        )
    trial = best_trial(results, arm=arm, language=name)
    among = f"the finished confirm trials of study `{results.study}`"
    if arm is not None:
        how = f"the best seed of arm {arm} by validation MRR, as --arm says"
        among += " of this arm, which was asked for"
    else:
        how = "the best seed of the arm with the best mean validation MRR"
        if rule is not None:
            how += ", as --rule says; without it the choice that best has recorded counts"
        elif known is None:
            other = store.command("best", results.study, *of_language, "--rule", "one-standard-error")
            how += f"; `{other}` records another choice"
        else:
            how += (
                f"; the recorded choice ({known.arm}, {_rule_of(known)}) was made of other trials than there are now: "
                f"`{again}` chooses again"
            )
    return Chosen(trial, _line(trial, how), f"Chosen by validation MRR among {among}; test was not looked at.")


def _as_recorded(store: Store, results: StudyResults, known: Recorded) -> Chosen:
    from softnce_ray.tracking.selecting import kept_bytes

    trial = known.trial
    assert trial is not None
    if kept_bytes(store, trial.run_id) is None:
        raise ExportError(
            f"the recorded choice is {trial.arm} seed {trial.seed} ({_rule_of(known)}), whose run {trial.run_id} keeps "
            "no model: only the trial with the best validation MRR of each arm and language does; --rule best takes "
            f"the best by that, --arm {trial.arm} that of this arm"
        )
    return Chosen(
        trial,
        _line(trial, f"as best has recorded ({_rule_of(known)}); --rule best takes the best mean MRR"),
        f"Chosen by validation alone ({_rule_of(known)}) among the finished confirm trials of study "
        f"`{results.study}`; test was not looked at.",
    )


def _rule_of(known: Recorded) -> str:
    limits = [_LIMITS[name].format(value) for name, value in known.limits.items() if name in _LIMITS]
    return ", ".join([f"rule {known.rule}", f"metric {known.metric}", *limits])


def _line(trial: TrialResult, how: str) -> str:
    return f"{trial.arm}/{trial.language} seed {trial.seed}: {how}"
