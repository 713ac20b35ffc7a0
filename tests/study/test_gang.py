"""Trials of several workers, in a real Ray: what they train, and what comes of a worker that fails or is killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from ray import tune

from softnce_ray.config import Resources
from softnce_ray.errors import UserError
from softnce_ray.results import TrialKey
from softnce_ray.store import Store
from softnce_ray.study import gang, trainable, tuning
from softnce_ray.study.cluster import Room
from softnce_ray.study.failures import Failure
from softnce_ray.workers import Workers

from .launching import Meddling, actors, go, runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_slots")]

NETWORK = {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
TWO = {"workers": 2, "max_concurrent": 1}


@pytest.fixture
def study(plain_study: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A function that gives a study of one trial of a tiny transformer."""

    def make(epochs: int = 2, **changes: Any) -> dict[str, Any]:
        arm = {
            "encoder": NETWORK,
            "training": {"epochs": epochs, "batch_size": 30, "learning_rate": 0.003},
            "loss": {"name": "soft_infonce"},
            "estimator": {"name": "bm25"},
        }
        return plain_study(arms={"soft": arm}, defaults={"tokens": {"vocabulary": 400}}, baseline="soft", **changes)

    return make


def others() -> list[psutil.Process]:
    """Processes of workers beside the first."""
    return [each for each in psutil.Process().children(recursive=True) if "_Worker" in _title(each)]


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.Error:  # it has ended since, or waits for its parent to take note
        return ""


def assert_alone() -> None:
    """No worker is left; Ray takes a moment to end one."""
    end = time.monotonic() + 30
    while others() and time.monotonic() < end:
        time.sleep(0.2)
    assert not others()


def test_a_trial_of_two_workers_is_the_trial_of_one(study, store, tmp_path) -> None:
    done = go(study(seeds=[1], resources={**TWO, "deterministic": True}), store)
    assert (done.ran, done.failed) == (1, 0)
    (two,) = done.results.trials
    other = Store(tmp_path / "one", f"sqlite:///{tmp_path}/one/mlflow.db")
    (one,) = go(study(seeds=[1]), other).results.trials
    assert two.identity == one.identity  # the number of workers is no setting of the method
    assert two.metrics["train_loss"] == pytest.approx(one.metrics["train_loss"], rel=1e-5)
    assert two.metrics["test_mrr"] == pytest.approx(one.metrics["test_mrr"], abs=0.02)
    assert_alone()
    assert go(study(seeds=[1]), store).already_done == 1


@pytest.mark.long
def test_a_worker_that_is_killed_costs_an_attempt_and_nothing_else(study, store) -> None:
    killed: list[int] = []

    def kill() -> None:
        for process in others():
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    said = Meddling("epoch soft 2", lambda: threading.Timer(0.1, kill).start())
    done = go(study(epochs=12, seeds=[1], resources=TWO), store, said)
    assert len(killed) == 1
    assert any("its worker was killed or its node was lost: tried again" in line for line in said.said)
    assert (done.ran, done.failed) == (1, 0)
    (run,) = runs(store, "trial")
    assert run.data.tags["attempts"] == "2"
    assert_alone()


@pytest.mark.long
def test_a_first_worker_that_is_killed_takes_the_others_with_it(study, store) -> None:
    def kill() -> None:
        for process in actors():
            process.send_signal(signal.SIGKILL)

    said = Meddling("epoch soft 2", lambda: threading.Timer(0.1, kill).start())
    done = go(study(epochs=12, seeds=[1], resources=TWO), store, said)
    assert (done.ran, done.failed) == (1, 0)
    assert_alone()


@pytest.mark.long
def test_a_trial_of_two_workers_fails_as_one_of_one_does(study, store) -> None:
    broken = study(seeds=[1], resources=TWO)
    beyond = {"batch_size": 4, "learning_rate": 10, "weight_decay": 1, "warmup": 0}  # of float32, after a few steps
    broken["arms"]["soft"]["training"] |= beyond
    broken["arms"]["soft"]["loss"]["alpha"] = 1
    assert go(broken, store).failed == 1
    (run,) = runs(store, "trial")
    assert "the loss of epoch 1 is nan" in run.data.tags["failure"]
    assert (run.data.tags["failure_kind"], run.data.tags["attempts"]) == ("diverged", "1")
    assert_alone()


def test_why_another_worker_failed_is_told_though_the_first_hangs_and_has_to_end(tmp_path) -> None:
    """As on a GPU, where nothing interrupts a first worker that waits for one that has failed."""
    failed: list[Failure] = []

    def full(spec: dict[str, Any], workers: Workers) -> None:
        dist.barrier()  # one that leaves while the first still joins ends that one's joining, not its waiting
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    def hanging(config: dict[str, str]) -> None:
        gang._GRACE = 0.1  # type: ignore[attr-defined]  # in the process of the trial
        with gang.gang(2, "cpu", full, {}, trainable._fail):
            dist.barrier()
            time.sleep(600)

    class Driver:
        def failed(self, key: TrialKey, attempt: int, failure: Failure) -> None:
            failed.append(failure)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *arguments: None

    driver: Any = Driver()
    key = TrialKey("a", "python", "confirm", 1, "c0ffee")
    tune.Tuner(
        tune.with_resources(hanging, tune.PlacementGroupFactory([{"CPU": 1}] * 2)),
        param_space={"key": json.dumps(asdict(key)), "spec": json.dumps({"attempt": 1})},
        run_config=tune.RunConfig(
            storage_path=str(tmp_path), verbose=0, callbacks=[tuning.Recorder(driver, Room(Resources()))]
        ),
    ).fit()
    (failure,) = failed
    assert (failure.kind, failure.of_gpu) == ("memory", True)
    assert "Tried to allocate 2 GiB" in failure.reason
    assert_alone()


@pytest.mark.parametrize(
    ("arm", "workers", "message"),
    [
        ({}, 2, "expected 1 with a bag of embeddings (arm infonce), got 2"),
        ({"encoder": NETWORK, "training": {"batch_size": 4}}, 8, "expected at most the batch size 4 of arm infonce"),
    ],
)
def test_what_several_workers_cannot_train_is_refused_before(plain_study, store, arm, workers, message) -> None:
    with pytest.raises(UserError) as caught:
        go(plain_study(arms={"infonce": arm}, resources={"workers": workers}), store)
    assert message in str(caught.value)
