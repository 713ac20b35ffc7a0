"""The trial of a run that is to be exported."""

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
