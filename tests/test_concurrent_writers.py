"""Eight writers at once, in processes of their own, on fresh SQLite and PostgreSQL databases and through a server.

Run as a program, this file is the writers: a process for each, which all start to write at the same time.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from servers import MlflowServer, Postgres

from softnce_ray.config import ArmConfig, Range, Search, SearchSpace
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.study.search import CellSearch
from softnce_ray.study.storage import open_storage
from softnce_ray.tracking import Tracker

WRITERS, TRIALS, EPOCHS = 8, 2, 4
SETTINGS = {"loss.name": "soft_infonce", "loss.alpha": 1.5, "training.epochs": EPOCHS, "estimator": None}

pytestmark = pytest.mark.slow


# --- the writers ---


def write_study(root: str, uri: str, study: str) -> None:
    """One study as a launch writes it: an arm, trials whose epochs come by turns, their ends."""
    tracker, keys = opened(root, uri, study, TRIALS)
    for key in keys:
        tracker.trial_started(key, {**SETTINGS, "seed": key.seed})
    for epoch in range(1, EPOCHS + 1):
        for key in keys:
            tracker.epoch(key, epoch_metrics(key.seed, epoch))
    for key in keys:
        tracker.trial_ended(key, "FINISHED", metrics={"epoch": EPOCHS, "test_mrr": key.seed / 100})
    finish(tracker)


def write_at_once(root: str, uri: str, study: str) -> None:
    """One study whose eight trials are reported by eight threads, through the one tracker that a launch has."""
    tracker, keys = opened(root, uri, study, WRITERS)
    together = threading.Barrier(WRITERS)

    def report(key: TrialKey) -> None:
        together.wait()
        tracker.trial_started(key, {**SETTINGS, "seed": key.seed})
        for epoch in range(1, EPOCHS + 1):
            tracker.epoch(key, epoch_metrics(key.seed, epoch))
        tracker.trial_ended(key, "FINISHED", metrics={"epoch": EPOCHS, "test_mrr": key.seed / 100})

    threads = [threading.Thread(target=report, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish(tracker)


def search(root: str, uri: str, study: str) -> None:
    """One search in Optuna's storage, as the planner runs it."""
    space: SearchSpace = {"temperature": Range(low=0.03, high=0.15, log=True)}
    cell = CellSearch(open_storage(uri), study, ArmConfig(), space, Search(trials=TRIALS, seed=1, early_stopping=None))
    while (proposal := cell.ask()) is not None:
        for epoch in range(1, EPOCHS + 1):
            cell.report(proposal.number, epoch, epoch / 10)
        cell.tell(proposal.number, EPOCHS / 10)


def opened(root: str, uri: str, study: str, trials: int) -> tuple[Tracker, list[TrialKey]]:
    """A tracker of a new study and the keys of its trials."""
    record = StudyRecord(
        study=study,
        question="",
        baseline="one",
        arms=("one",),
        languages=("python",),
        seeds=tuple(range(trials)),
        corpus="corpora/c",
        corpus_fingerprint="c0ffee",
        text="study: text\n",
    )
    tracker = Tracker(Store(Path(root), uri), record, versions={"version.softnce_ray": "0"})
    tracker.arm_started("one", SETTINGS)
    return tracker, [TrialKey("one", "python", "confirm", seed, f"{seed:016x}") for seed in range(trials)]


def finish(tracker: Tracker) -> None:
    tracker.arm_summary("one", {"valid_mrr": 0.5})
    tracker.study_summary({"trials": 1.0}, "a note")
    tracker.study_ended("FINISHED")
    unsent = tracker.close()
    if unsent:
        sys.exit(f"unsent: {unsent}")


def epoch_metrics(seed: int, epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "train_loss": seed + 1 / epoch, "valid_mrr": epoch / 10}


WAYS = {function.__name__: function for function in (write_study, write_at_once, search)}


def write_all(calls: Sequence[tuple[str, str, str, str]]) -> bool:
    """Call functions of `WAYS`, each in a process; whether all ended well."""
    context = multiprocessing.get_context("fork")  # what is imported is imported once
    together = context.Barrier(len(calls))

    def write(function: Callable[..., None], arguments: Sequence[str]) -> None:
        together.wait()
        function(*arguments)

    processes = [context.Process(target=write, args=(WAYS[name], arguments)) for name, *arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes)


# --- what is expected of them ---


def run_at_once(calls: Sequence[tuple[str, Path, str, str]]) -> None:
    """Run this file as a program; every process must end well and say nothing: no traceback, no warning."""
    told = json.dumps([[str(each) for each in call] for call in calls])
    done = subprocess.run([sys.executable, __file__, told], capture_output=True, text=True, timeout=280)
    assert "locked" not in done.stderr
    assert done.stderr[-2000:] == ""
    assert done.returncode == 0


def trials_of(uri: str, study: str) -> list[tuple[dict[str, str], Counter[tuple[str, int, float]]]]:
    """Parameters and all points of all metrics of each trial of a study; its runs must be complete and ended."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    roles = Counter(run.data.tags["role"] for run in runs)
    trials = [run for run in runs if run.data.tags["role"] == "trial"]
    assert roles == {"study": 1, "arm": 1, "trial": len(trials)}
    return [
        (
            dict(run.data.params),
            Counter(
                (name, point.step, point.value)
                for name in run.data.metrics
                for point in client.get_metric_history(run.info.run_id, name)
            ),
        )
        for run in sorted(trials, key=lambda run: int(run.data.tags["seed"]))
    ]


def expected(trials: int) -> list[tuple[dict[str, str], Counter[tuple[str, int, float]]]]:
    settings = {"loss.name": "soft_infonce", "loss.alpha": "1.5", "training.epochs": "4", "estimator.name": "none"}
    return [
        (
            {**settings, "seed": str(seed)},
            Counter(
                [
                    *(
                        point
                        for epoch in (1, 2, 3, 4)
                        for point in (
                            ("epoch", epoch, epoch),
                            ("train_loss", epoch, seed + 1 / epoch),
                            ("valid_mrr", epoch, epoch / 10),
                        )
                    ),
                    ("test_mrr", 4, seed / 100),
                ]
            ),
        )
        for seed in range(trials)
    ]


def check_eight(uri: str, roots: Sequence[Path], name: str) -> None:
    """Eight studies at once, one of them with eight trials at once: every value of each is there, and once."""
    calls = [("write_study", root, uri, f"{name}-{number}") for number, root in enumerate(roots)]
    calls[-1] = ("write_at_once", *calls[-1][1:])
    run_at_once(calls)
    for way, _, _, study in calls:
        assert trials_of(uri, study) == expected(WRITERS if way == "write_at_once" else TRIALS)


def test_eight_writers_to_a_fresh_sqlite_database_lose_nothing(tmp_path: Path) -> None:
    check_eight(f"sqlite:///{tmp_path / 'mlflow.db'}", [tmp_path] * WRITERS, "eight")


@pytest.mark.long
def test_eight_writers_to_a_fresh_postgresql_database_lose_nothing(postgres_server: Postgres, tmp_path: Path) -> None:
    """Of stores of their own, as those on several machines are."""
    check_eight(postgres_server.database(), [tmp_path / f"{number}" for number in range(WRITERS)], "eight")


@pytest.mark.long
def test_eight_writers_to_a_server_lose_nothing(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    check_eight(mlflow_server.uri, [tmp_path] * WRITERS, "eight writers")


def test_eight_searches_in_a_fresh_storage_lose_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'optuna.db'}"
    run_at_once([("search", tmp_path, uri, f"search{number}") for number in range(WRITERS)])
    for number in range(WRITERS):
        found = optuna.load_study(study_name=f"search{number}", storage=uri).trials
        assert [(trial.number, trial.value) for trial in found] == [(0, 0.4), (1, 0.4)]
        assert all(trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4} for trial in found)
        assert all(list(trial.params) == ["temperature"] for trial in found)


if __name__ == "__main__":
    sys.exit(0 if write_all(json.loads(sys.argv[1])) else "a writer failed")
