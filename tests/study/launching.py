"""Launches in tests: what they are told, and what they leave in MLflow."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import psutil
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from softnce_ray.results import TrialResult
from softnce_ray.store import Store
from softnce_ray.study.cluster import connected
from softnce_ray.study.run import Launch, launch

SEARCH: dict[str, Any] = {"trials": 3, "seed": 9}


def small_cluster(cpus: int) -> AbstractContextManager[Any]:
    """A Ray of this test's own; each trial that runs at once takes seconds of processor time to start."""
    return connected(
        num_cpus=cpus, object_store_memory=100_000_000, _system_config={"prestart_worker_first_driver": False}
    )


class Said:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.outcomes: list[str] = []
        self.running: set[Any] = set()
        self.at_once = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: int, total: int, seconds_left: float | None = None) -> None:
        self.counts.append((done, total))

    def started(self, key: Any) -> None:
        self.running.add(key)
        self.at_once = max(self.at_once, len(self.running))

    def epoch(self, key: Any, metrics: Any, epochs: int) -> None: ...

    def ended(self, key: Any, outcome: str, metrics: Any) -> None:
        self.outcomes.append(outcome)
        self.running.discard(key)

    def close(self) -> None: ...


class Meddling(Said):
    """A display that does something once, when it hears a word."""

    def __init__(self, word: str, act: Any) -> None:
        super().__init__()
        self._word, self._act, self.acted = word, act, False

    def say(self, text: str) -> None:
        super().say(text)
        self._meddle(text)

    def epoch(self, key: Any, metrics: Any, epochs: int) -> None:
        self._meddle(f"epoch {key.arm} {metrics['epoch']:.0f}")

    def _meddle(self, text: str) -> None:
        if self._word in text and not self.acted:
            self.acted = True
            self._act()


def go(study: dict[str, Any], store: Store, display: Any = None) -> Launch:
    path = store.root.parent / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return launch(path, store=store, display=display or Said())


def runs(store: Store, role: str, study: str = "tiny") -> list[Run]:
    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.role = '{role}'"))


def statuses(store: Store) -> dict[str, set[str]]:
    return {role: {run.info.status for run in runs(store, role)} for role in ("study", "arm", "trial")}


def scores(trials: tuple[TrialResult, ...]) -> dict[tuple[str, str, int, str], tuple[Any, ...]]:
    """Final numbers by trial: metrics that are no durations, and every reciprocal rank."""
    return {
        (trial.arm, trial.phase, trial.seed, trial.identity): (
            trial.status,
            trial.metrics.get("best_valid_mrr"),
            trial.metrics.get("test_mrr"),
            *(ranks.tolist() for _, ranks in sorted(trial.reciprocal_ranks.items())),
        )
        for trial in trials
    }


def actors() -> list[psutil.Process]:
    """Processes of this test's Ray session that trials run in."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()[:1]).startswith("ray::ImplicitFunc"):
                found.append(process)
    return found
