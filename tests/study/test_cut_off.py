"""A node that is cut off and lives on: its worker comes back when its trial has long been restarted elsewhere."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from softnce_ray.store import Store
from softnce_ray.study import attempts

from .launching import Said, go, runs, scores

pytestmark = [pytest.mark.slow, pytest.mark.long]

EPOCHS = 6
SLOW = {"kind": "transformer", "width": 128, "layers": 2, "heads": 2}
"""An encoder whose epoch takes so long that it is cut off in the middle of one."""
_NOTICED = {  # a node that is silent for three seconds is lost
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def two_nodes() -> Iterator[None]:
    """A head without processors and two nodes with one each."""
    cluster = Cluster()
    node: dict[str, Any] = {"object_store_memory": 100_000_000, "include_dashboard": False}
    cluster.add_node(num_cpus=0, _system_config=_NOTICED, **node)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **node)
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield
    for process in stopped():
        process.send_signal(signal.SIGCONT)
    ray.shutdown()
    cluster.shutdown()


def stopped() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.status() == psutil.STATUS_STOPPED]


class CuttingOff(Said):
    """Stops the node of the trial in mid-epoch, and lets its worker, alone, go on when another has taken over."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: list[psutil.Process] = []
        self.epochs: list[int] = []
        self.back = float("inf")

    def epoch(self, key: Any, metrics: Any, epochs: int) -> None:
        self.epochs.append(int(metrics["epoch"]))
        if metrics["epoch"] == 2 and not self.cut:
            threading.Timer(0.1, self._cut).start()

    def say(self, text: str) -> None:
        super().say(text)
        if "tried again" in text:
            threading.Timer(1.0, self._come_back).start()

    def _cut(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "".join(process.cmdline()[:1]).startswith("ray::ImplicitFunc"):
                    raylet = process.parent()
                    assert raylet is not None
                    self.cut += [process, raylet]
        for process in self.cut:
            process.send_signal(signal.SIGSTOP)

    def _come_back(self) -> None:
        self.back = time.time()
        self.cut[0].send_signal(signal.SIGCONT)


def test_what_a_worker_does_that_was_cut_off_changes_nothing(
    two_nodes, plain_study, empty_store, tmp_path, monkeypatch
) -> None:
    study = plain_study(
        seeds=[1], arms={"infonce": {"encoder": SLOW, "training": {"epochs": EPOCHS, "batch_size": 16}}}
    )
    stores = []
    for name in ("undisturbed", "cut"):
        root = tmp_path / name
        shutil.copytree(empty_store, root)
        stores.append(Store(root, f"sqlite:///{root}/mlflow.db"))
    whole = go(study, stores[0])
    monkeypatch.setattr(attempts.Attempts, "tidy", lambda self, identity: None)  # to see what the worker left
    said = CuttingOff()
    done = go(study, stores[1], said)
    assert said.cut
    assert (done.ran, done.failed) == (1, 0)
    assert scores(done.results.trials) == scores(whole.results.trials)
    assert said.epochs == list(range(1, EPOCHS + 1))
    (run,) = runs(stores[1], "trial")
    assert (run.info.status, run.data.tags["attempts"]) == ("FINISHED", "2")
    client = MlflowClient(tracking_uri=stores[1].tracking_uri)
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]
    assert steps == list(range(1, EPOCHS + 1))

    # It did write: a checkpoint of an epoch that the new attempt had to make itself.
    deadline = time.monotonic() + 30
    late: list[Any] = []
    while not late and time.monotonic() < deadline:
        late = [
            folder
            for folder in (stores[1].ray("tiny")).glob("*/*-1/checkpoint_*")
            if (folder / "checkpoint.safetensors").exists() and folder.stat().st_mtime > said.back
        ]
        time.sleep(0.2)
    assert late
    book = attempts.Attempts(stores[1].ray("tiny"))
    third = book.begin(done.results.trials[0].identity, "infonce-python-confirm", "later")
    assert third.resume is not None
    assert late[0].name not in third.resume or "-2/" in third.resume
