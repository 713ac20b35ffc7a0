"""Which trial's model is exported."""

from __future__ import annotations

import re

from softnce_ray.model import ExportError
from softnce_ray.results import StudyResults, TrialResult

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


def best_trial(results: StudyResults, *, arm: str | None = None, language: str | None = None) -> TrialResult:
    """The finished confirm trial with the best validation MRR; test results are not looked at.

    Raises:
      ExportError: unknown arm or language, several languages and none named, or no finished trial.
    """
    for what, got, possible in (("arm", arm, results.arms), ("language", language, results.languages)):
        if got is not None and got not in possible:
            raise ExportError(
                f"expected an {what} of study {results.study}, got {got!r}; possible: {', '.join(possible)}"
            )
    if language is None and len(results.languages) > 1:
        raise ExportError(
            f"study {results.study} has a model for each language: give --language; possible: "
            f"{', '.join(results.languages)}"
        )
    eligible = [
        trial
        for trial in results.trials
        if trial.phase == "confirm"
        and trial.status == "FINISHED"
        and arm in (None, trial.arm)
        and language in (None, trial.language)
    ]
    if not eligible:
        raise ExportError(f"study {results.study} has no finished confirm trial to export: launch it to its end")
    return max(eligible, key=lambda trial: trial.metrics["best_valid_mrr"])
