"""What the runs of arms and study say when a study has ended, so that the plain MLflow table tells it."""

from __future__ import annotations

import statistics

from softnce_ray.report import Report, arm_metrics, build_report, findings, report_files, to_markdown
from softnce_ray.results import StudyResults, TrialKey, TrialResult
from softnce_ray.store import Store, only_launch
from softnce_ray.study.attempts import Attempts
from softnce_ray.study.patience import Trying, at_once
from softnce_ray.study.reporting import collect
from softnce_ray.tracking import Tracker, Unsent, expect_study, load_results

PATIENCE = 30.0
"""Seconds without a record going out after which a launch no longer waits for MLflow."""


def sum_up(tracker: Tracker, store: Store, study: str, trying: Trying = at_once) -> StudyResults:
    """Write means of arms, the report and the best models; return the results that they were made of.

    Numbers of arms and study are written once the study has ended: MLflow takes no point back, so those of a launch
    that was stopped would stay as further steps beside the final ones. The report has them at any time.

    Args:
      trying: calls what uses the storage of the checkpoints.

    Raises:
      TrackingError: the results cannot be read.
    """
    results = load_results(store, study)
    report = build_report(results)
    attempts = Attempts(store.checkpoints(study), trying)
    has_ended = results.status == "FINISHED"
    finished = [
        trial
        for trial in results.trials
        if (trial.phase, trial.status) == ("confirm", "FINISHED") and trial.seed in results.seeds_of(trial.language)
    ]
    for arm in results.arms:
        metrics = arm_metrics(report, arm)
        for language in results.languages:
            of_cell = [trial for trial in finished if (trial.arm, trial.language) == (arm, language)]
            metrics = {**_cell_metrics(language, of_cell), **metrics}
            if of_cell:
                best = max(of_cell, key=lambda trial: trial.metrics["best_valid_mrr"])
                with attempts.model_files(_key(best).training) as folder:
                    tracker.model(_key(best), folder)
        if has_ended:
            tracker.arm_summary(arm, metrics)
    failed = sum(trial.status == "FAILED" for trial in results.trials)
    counters = {"trials": len(results.trials), "failed": failed} if has_ended else {}
    tracker.study_summary(counters, _note(report))
    tracker.study_files(report_files(report, collect(store, results, report)))
    return results


def _note(report: Report) -> str:
    """What the study asked and found, in Markdown, for the page of its run."""
    asked = [f"**Asked:** {report.question}", ""] if report.question else []
    found = [f"- {sentence}" for sentence in findings(report)]
    return "\n".join([*asked, *(["**Found:**", "", *found, ""] if found else []), to_markdown(report)])


def sync(store: Store, study: str, *, patience: float = PATIENCE) -> Unsent:
    """Send what an earlier launch could not send to MLflow, and sum up; returns what is still unsent.

    Raises:
      StoreError: the study is being run: its launch sends its records itself.
      TrackingError: MLflow cannot be reached, or has not the study.
    """
    expect_study(store, study)  # before a folder is made for it
    with only_launch(store, study):
        tracker = Tracker.to_sync(store, study)
        try:
            if tracker.wait(patience):
                sum_up(tracker, store, study)
        finally:
            unsent = tracker.close(patience)
    return unsent


def _cell_metrics(language: str, trials: list[TrialResult]) -> dict[str, float]:
    """Mean and standard deviation over seeds of an arm in a language."""
    metrics: dict[str, float] = {}
    for name in ("test_mrr", "best_valid_mrr"):
        values = [trial.metrics[name] for trial in trials]
        if values:
            metrics[f"{language}_{name}"] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"{language}_{name}_std"] = statistics.stdev(values)
    return metrics


def _key(trial: TrialResult) -> TrialKey:
    return TrialKey(trial.arm, trial.language, trial.phase, trial.seed, trial.identity)
