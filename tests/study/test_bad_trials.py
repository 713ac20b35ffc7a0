"""Trials that go wrong for real: each fails with a reason, the others go on, and no number of it is believed."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from softnce_ray.report import build_report, to_markdown
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.store import Store
from softnce_ray.study.cluster import LaunchError

from .launching import SEARCH, Meddling, Said, actors, go, runs, scores, statuses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_loss_that_is_no_number_fails_its_trial_at_once_and_is_not_told_to_optuna(plain_study, store) -> None:
    arms = {
        "infonce": {},
        # A step takes eight times the weights from them: soon they are beyond float32.
        "diverging": {
            "encoder": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2},
            "training": {"epochs": 2, "batch_size": 4, "weight_decay": 1, "warmup": 0},
            "search": {"training.learning_rate": {"low": 9, "high": 10}},
        },
    }
    done = go(plain_study(arms=arms, search=SEARCH, seeds=[1]), store)
    assert (done.ran, done.failed, done.failed_before, done.interrupted) == (1, 3, 0, False)
    failed = [run for run in runs(store, "trial") if run.info.status == "FAILED"]
    assert {run.data.tags["failure_kind"] for run in failed} == {"diverged"}
    assert {run.data.tags["attempts"] for run in failed} == {"1"}  # another would only repeat it
    client = MlflowClient(tracking_uri=store.tracking_uri)
    for run in failed:
        assert "the loss of epoch 1 is nan" in run.data.tags["failure"]
        assert "DivergedError" in Path(client.download_artifacts(run.info.run_id, "traceback.txt")).read_text()
    (name,) = optuna.get_all_study_names(storage=store.optuna_url)
    told = optuna.load_study(study_name=name, storage=store.optuna_url).trials
    assert [trial.state for trial in told] == [TrialState.FAIL] * 3
    assert not any(trial.intermediate_values for trial in told)
    shown = to_markdown(build_report(done.results))
    assert "diverging" in shown


def test_a_prepared_file_that_vanishes_ends_the_launch_and_is_made_again(plain_study, store) -> None:
    def vanish() -> None:
        for folder in (store.root / "prepared").rglob("*bm25*"):
            shutil.rmtree(folder, ignore_errors=True)

    study = plain_study(seeds=[1], failures={"retries": 1}, resources={"max_concurrent": 1})
    with pytest.raises(LaunchError, match=r"prepared/estimators/bm25-\S+: expected to stay .* goes on"):
        go(study, store, Meddling("epoch infonce 1", vanish))
    assert statuses(store) == {"study": {"FAILED"}, "arm": {"FAILED"}, "trial": {"KILLED"}}
    again = go(study, store)  # which prepares it anew
    assert (again.ran, again.failed) == (2, 0)
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}


@pytest.mark.long
def test_a_search_that_files_or_workers_fail_comes_to_what_it_would_have_come_to(
    plain_study, store, empty_store, tmp_path
) -> None:
    """Its checkpoints are deleted; then, in the next launch, a worker is killed; the third launch ends it."""
    study = plain_study(
        seeds=[1],
        arms={"infonce": {"training": {"epochs": 8, "batch_size": 8}}},
        search={"trials": 4, "space": {"training.learning_rate": {"low": 0.001, "high": 0.03, "log": True}}},
        resources={"max_concurrent": 1},
        failures={"retries": 0},
    )
    root = tmp_path / "undisturbed"
    shutil.copytree(empty_store, root)
    whole = Store(root, f"sqlite:///{root}/mlflow.db")
    expected = go(study, whole)

    def kill() -> None:
        for worker in actors():
            worker.send_signal(signal.SIGKILL)

    with pytest.raises(LaunchError, match=r"ray/tiny/\S+ and \d more: expected to stay .* goes on"):
        go(study, store, Meddling("epoch infonce 3", lambda: shutil.rmtree(store.ray("tiny"))))
    said = Meddling("epoch infonce 5", lambda: threading.Timer(0.05, kill).start())
    killed = go(study, store, said)
    assert (killed.ran, killed.failed, killed.interrupted) == (0, 1, False)
    assert killed.problems[0].startswith("infonce/python: its search waits for a trial that failed")
    assert statuses(store)["study"] == {"FAILED"}
    done = go(study, store)
    assert (done.ran, done.failed, done.failed_before, done.problems) == (5, 0, 0, ())
    assert scores(done.results.trials) == scores(expected.results.trials)
    assert searched(store) == searched(whole)
    client = MlflowClient(tracking_uri=store.tracking_uri)
    for run in runs(store, "trial"):
        assert "traceback.txt" not in [file.path for file in client.list_artifacts(run.info.run_id)]


def searched(store: Store) -> list[tuple[Any, ...]]:
    """What Optuna has of the only search of a store."""
    (name,) = optuna.get_all_study_names(storage=store.optuna_url)
    trials = optuna.load_study(study_name=name, storage=store.optuna_url).trials
    return [(trial.number, trial.state, trial.params, trial.values, trial.intermediate_values) for trial in trials]


def test_a_worker_that_is_killed_in_mid_epoch_costs_nothing(plain_study, store, empty_store, tmp_path) -> None:
    study = plain_study(seeds=[1], arms={"infonce": {"training": {"epochs": 30, "batch_size": 16}}})
    root = tmp_path / "undisturbed"
    shutil.copytree(empty_store, root)
    whole = go(study, Store(root, f"sqlite:///{root}/mlflow.db"))

    killed: list[int] = []

    def kill() -> None:
        for worker in actors():
            worker.send_signal(signal.SIGKILL)
            killed.append(worker.pid)

    # From another thread, some epochs later: while the driver listens, the worker waits.
    said = Meddling("epoch infonce 5", lambda: threading.Timer(0.1, kill).start())
    done = go(study, store, said)
    assert killed
    assert any("its worker was killed or its node was lost: tried again" in line for line in said.said)
    assert (done.ran, done.failed) == (1, 0)
    assert scores(done.results.trials) == scores(whole.results.trials)
    (run,) = runs(store, "trial")
    assert (run.info.status, run.data.tags["attempts"]) == ("FINISHED", "2")
    client = MlflowClient(tracking_uri=store.tracking_uri)
    for name in ("train_loss", "valid_mrr", "alignment"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == list(range(1, 31))


def test_arms_that_search_for_the_same_settings_have_them_trained_once(plain_study, store) -> None:
    arms: dict[str, Any] = {"infonce": {}}
    for name, path, values in (("rate", "training.learning_rate", [0.01, 1e-9]), ("rounds", "training.epochs", [2, 0])):
        arms[name] = {"search": {path: {"choices": values}}}
    defaults = {**plain_study()["defaults"], "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}}
    study = plain_study(arms=arms, defaults=defaults, search={"trials": 8, "early_stopping": None})
    said = Said()
    done = go(study, store, said)
    assert (done.ran, done.failed, done.problems, done.unsent) == (len(done.results.trials), 0, (), ())
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}
    more = go({**study, "seeds": [1, 2, 3]}, store, said)  # in another launch
    assert (more.ran, more.failed, more.unsent) == (3, 0, ())
    taken = "finished: trained before with the same settings"
    assert said.outcomes.count(taken) >= 6
    client = MlflowClient(tracking_uri=store.tracking_uri)
    of_arms: dict[str, list[Any]] = {name: [] for name in arms}
    for run in sorted(runs(store, "trial"), key=lambda run: run.data.tags["seed"]):
        if run.data.tags["phase"] == "confirm":
            history = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "valid_mrr")]
            model = [file.path for file in client.list_artifacts(run.info.run_id, MODEL_FOLDER)]
            of_arms[run.data.tags["arm"]].append((run.data.tags["identity"], run.data.metrics, history, model))
    assert of_arms["infonce"] == of_arms["rate"] == of_arms["rounds"]
    assert len(of_arms["infonce"]) == 3 and [bool(model) for *_, model in of_arms["infonce"]].count(True) >= 1
    assert len({trial.reciprocal_ranks["test"].tobytes() for trial in more.results.trials if trial.seed == 3}) == 1


# --- a full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 MB: a launch refuses to begin with less than some 200 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system is not permitted here")
    yield place
    # Lazily: a worker that has ended a trial there may still stand in its folder.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.long
def test_a_disk_that_is_full_is_a_line_and_the_study_goes_on_when_there_is_room(
    plain_study, small_disk, empty_store
) -> None:
    root = small_disk / "store"
    shutil.copytree(empty_store, root)
    store = Store(root, f"sqlite:///{root}/mlflow.db")
    ballast = small_disk / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            for size in (2**20, 2**12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    arms = {"infonce": {"encoder": {"kind": "bag", "width": 64}, "training": {"epochs": 6, "batch_size": 16}}}
    study = plain_study(arms=arms, seeds=[1, 2], failures={"retries": 0})
    said = Meddling("epoch infonce 2", fill)
    try:
        done = go(study, store, said)
        assert done.failed > 0
        assert all("no disk space left" in outcome for outcome in said.outcomes if outcome.startswith("failed"))
        assert any("full" in line or "bytes could be written" in line for line in done.unsent)
    except LaunchError as error:  # the driver's own writes failed first
        assert "no disk space left" in str(error)
    ballast.unlink()
    again = go(study, store)
    assert (again.failed, again.ran + again.already_done) == (0, 2)
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}
    assert all(math.isfinite(run.data.metrics["test_mrr"]) for run in runs(store, "trial"))
