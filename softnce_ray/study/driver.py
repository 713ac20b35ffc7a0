"""The driver of one launch: joins plan, records and display. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softnce_ray.config import StudyConfig, flatten, resolved
from softnce_ray.preparation import Prepared
from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.results import TrialKey
from softnce_ray.store import Store
from softnce_ray.study.display import Display
from softnce_ray.study.planner import Cell, Planner, Trial
from softnce_ray.study.trainable import TrialSpec, device_for
from softnce_ray.tracking import Tracker


class StudyRun:
    """Hands out specifications of trials and takes in what comes of them."""

    def __init__(
        self,
        study: StudyConfig,
        store: Store,
        planner: Planner,
        tracker: Tracker,
        prepared: Mapping[Cell, Prepared],
        show: Display,
        *,
        slots: int,
    ) -> None:
        self.planner, self.ran, self.failures = planner, 0, 0
        self._study, self._store, self._tracker, self._prepared, self._show = study, store, tracker, prepared, show
        self._slots = slots
        self._trials: dict[TrialKey, Trial] = {}
        self._started: set[TrialKey] = set()

    def next_spec(self) -> tuple[TrialKey, TrialSpec] | None:
        """The next trial for a free slot."""
        if len(self.planner.live()) >= self._slots:
            return None
        trial = self.planner.next()
        self._show.progress(self.planner.done(), self.planner.total())
        if trial is None:
            return None
        self._trials[trial.key] = trial
        prepared = self._prepared[Cell(trial.key.arm, trial.key.language)]
        resources = self._study.resources
        spec = TrialSpec(
            config=trial.config.model_dump(mode="json"),
            arm=trial.key.arm,
            phase=trial.key.phase,
            identity=trial.key.identity,
            corpus=str(Path(self._study.corpus).absolute()),
            tokens=str(prepared.tokens),
            estimators={name: str(folder) for name, folder in prepared.estimators.items()},
            groups=None if prepared.groups is None else str(prepared.groups),
            checkpoints=str(self._store.ray(self._study.study)),
            threads=resources.threads,
            device=device_for(resources.device, resources.gpus),
        )
        return trial.key, spec

    def finished(self) -> bool:
        return self.planner.finished

    def started(self, key: TrialKey) -> None:
        self._started.add(key)
        self._tracker.trial_started(key, flatten(resolved(self._trials[key].config)))
        self._show.started(key)

    def reported(self, key: TrialKey, result: Mapping[str, Any]) -> bool:
        """Record an epoch; True when the trial should stop."""
        metrics = _numbers(result)
        self._tracker.epoch(key, metrics)
        self._show.epoch(key, metrics, self._trials[key].config.training.epochs)
        return self.planner.report(key, int(metrics["epoch"]), metrics["valid_mrr"])

    def ended(self, key: TrialKey, result: Mapping[str, Any], files: Path | None) -> None:
        """Record a trial that ran to its end or was stopped early."""
        metrics = _numbers(result)
        early = self.planner.stopped_early(key)
        if not early and files is None:
            self.failed(key, "the worker ended without a result", "")
            return
        self.ran += 1
        value = metrics["best_valid_mrr"]
        self._tracker.trial_ended(
            key,
            "FINISHED",
            metrics={} if early else metrics,
            stopped_early=early,
            ranks=None if early or files is None else files / RANKS_FILE,
        )
        self._planned(key, value)
        self._show.ended(key, "stopped early" if early else "finished", metrics)

    def failed(self, key: TrialKey, reason: str, traceback: str) -> None:
        """Record a trial that failed for good."""
        self.failures += 1
        if key not in self._started:  # its worker never came up
            self.started(key)
        self._tracker.trial_ended(key, "FAILED", failure=reason, traceback=traceback)
        self._planned(key, None)
        self._show.ended(key, f"failed: {reason}", {})

    def close_live(self, status: str) -> None:
        """Close the runs of trials that an interrupt cut off. Their proposals stay open: the next launch goes on."""
        for key in self.planner.live():
            if key in self._started:
                self._tracker.trial_ended(key, status)

    def _planned(self, key: TrialKey, value: float | None) -> None:
        self.planner.ended(key, value)
        self._show.progress(self.planner.done(), self.planner.total())


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among what Tune reports: ours, not its own."""
    own = ("epoch", "train_loss", "train_seconds", "pairs_per_second", "best_epoch", "best_valid_mrr")
    return {name: float(value) for name, value in result.items() if name in own or name.startswith(("valid_", "test_"))}
