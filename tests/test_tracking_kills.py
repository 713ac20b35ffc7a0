"""The process that writes is killed with SIGKILL, again and again: what is in MLflow at the end is what an undisturbed
one writes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import MODEL_FOLDER, StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker, Unsent, final_status, unsent_records
from softnce_ray.tracking.connection import search_runs
from softnce_ray.tracking.journal import Journal

pytestmark = [pytest.mark.slow, pytest.mark.long]

_EPOCHS = 3
_TRIALS = [
    TrialKey("one", "python", "search", 0, "a" * 16),
    TrialKey("one", "python", "confirm", 1, "b" * 16),
    TrialKey("two", "python", "confirm", 1, "c" * 16),
]
_STEPS: list[tuple[type, str]] = [
    *((MlflowClient, name) for name in ("create_run", "update_run", "log_batch", "set_terminated", "delete_tag")),
    *((MlflowClient, name) for name in ("log_artifact", "log_artifacts", "log_text", "create_experiment")),
    *((Journal, name) for name in ("append", "note", "drop", "keep", "begin_anew", "close")),
]


def record(study: str) -> StudyRecord:
    return StudyRecord(study, "why?", "one", ("one", "two"), ("python",), (1,), "c", "c0ffee", "study: text\n")


def launch(store: Store, study: str, folder: Path) -> Unsent:
    """A small study, as a driver writes it: what is finished is left out, what is not is done from its beginning, and
    an epoch is as old as the worker said."""
    tracker = Tracker(store, record(study), versions={"version.softnce_ray": "0.0"})
    for arm in ("one", "two"):
        tracker.arm_started(arm, {"loss.name": "infonce"})
    known = tracker.known()
    for number, key in enumerate(_TRIALS):
        if key in known and known[key].status == "FINISHED":
            continue
        tracker.trial_started(key, {"temperature": 0.05, "training.epochs": _EPOCHS})
        for epoch in range(1, _EPOCHS + 1):
            at = 1_700_000_000_000 + 1000 * epoch + number
            tracker.epoch(key, {"epoch": epoch, "valid_mrr": epoch / 10, "best_valid_mrr": epoch / 10}, at=at)
        ranks = None
        if key.phase == "confirm":
            ranks = folder / f"{os.getpid()}-{number}" / RANKS_FILE
            ranks.parent.mkdir()
            values = np.array([0.5, 1.0])
            write_ranks(ranks, {"test": ["a", "b"]}, {"reciprocal_rank": {"test": values}, "graded_ndcg": {}})
        tracker.trial_ended(key, "FINISHED", metrics={"epoch": _EPOCHS, "test_mrr": 0.75}, ranks=ranks)
        if ranks is not None:
            ranks.unlink()
    tracker.study_ended("FINISHED")
    tracker.arm_summary("one", {"python_test_mrr": 0.75})
    model = folder / f"{os.getpid()}-model"
    model.mkdir()
    (model / "weights").write_text("w")
    tracker.model(_TRIALS[1], model)
    tracker.study_summary({"trials": 3}, "# table")
    return tracker.close()


def process(store: Store, study: str, folder: Path, kill_at: int | None, told: Any) -> None:
    """In a process of its own: the study, killed at a step of its many; `told` gets how many there were."""
    done = 0

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            for moment in ("before", "after"):
                done += 1
                if done == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if moment == "before":
                    result = call(*args, **kwargs)
            return result

        return wrapped

    for owner, name in _STEPS:
        setattr(owner, name, killing(getattr(owner, name)))
    assert launch(store, study, folder) == Unsent()
    told.send(done)


class Processes:
    """Starts processes that have imported MLflow already: that takes seconds."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["softnce_ray.tracking", "mlflow.store.tracking.sqlalchemy_store", "mlflow.data"]
        )

    def run(self, study: str, kill_at: int | None) -> int | None:
        """How many steps the process took; None if it was killed."""
        ours, its = self._context.Pipe(duplex=False)
        child = self._context.Process(target=process, args=(self._store, study, self._folder, kill_at, its))
        child.start()
        its.close()
        child.join(120)
        assert child.exitcode in (0, -signal.SIGKILL), "it failed by itself"
        return ours.recv() if child.exitcode == 0 else None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store")
    return Store(root, f"sqlite:///{root}/mlflow.db")


def written(store: Store, study: str) -> dict[str, Any]:
    """All that is in MLflow of a study, by the names of its runs, without what differs from launch to launch."""
    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = search_runs(client, experiment.experiment_id, "")
    names = {run.info.run_id: run.info.run_name for run in runs}
    assert len(set(names.values())) == len(runs), "a run was made twice"

    def content(run: Run) -> dict[str, Any]:
        tags = run.data.tags
        steps: dict[str, Any] = dict(run.data.metrics)
        if tags["role"] == "trial":
            steps = {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
        return {
            "status": run.info.status,
            "tags": {name: tags[name] for name in tags if name not in ("opened", "mlflow.parentRunId")},
            "above": names.get(tags.get("mlflow.parentRunId", "")),
            "params": dict(run.data.params),
            "metrics": steps,
            "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }

    return {run.info.run_name.replace(study, "study"): content(run) for run in runs}


def without_names(content: dict[str, Any], study: str) -> str:
    return repr(sorted(content.items())).replace(study, "STUDY")


def test_a_writer_that_is_killed_anywhere_leaves_the_same_runs(store, tmp_path) -> None:
    processes = Processes(store, tmp_path)
    steps = processes.run("calm", None)
    assert steps is not None
    assert steps > 100
    wanted = without_names(written(store, "calm"), "calm")
    assert "[(1, 0.1), (2, 0.2), (3, 0.3)]" in wanted
    assert MODEL_FOLDER in wanted
    chance = random.Random(0)
    kills = 0
    for number in range(3):
        study = f"storm{number}"
        while processes.run(study, chance.randint(1, steps)) is None:
            kills += 1
        assert without_names(written(store, study), study) == wanted, f"{study}, after {kills} kills"
        assert (unsent_records(store, study), final_status(store, study)) == (0, None)
        assert [path.name for path in store.spool(study).rglob("*")] == ["lock"]
    assert kills >= 3
