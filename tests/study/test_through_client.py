"""Launches through Ray Client: a real cluster with a client server, and a terminal that is not on it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from heads import ray_head

from softnce_ray.store import Store
from softnce_ray.tracking import load_results

from .launching import go, runs, scores, statuses

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SOFTNCE_", "MLFLOW_"))}
    programs = Path(sys.executable).parent
    return {**kept, "RAY_AUTH_MODE": "disabled", "PATH": f"{programs}:{kept['PATH']}"}


@pytest.fixture(scope="module")
def address(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node, which runs trials."""
    log = tmp_path_factory.mktemp("head") / "log"
    with ray_head(log, cpus=1, object_store=100_000_000, environment=lambda _: environment) as head:
        yield head.client


def _wait(ready: Callable[[], Any], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def terminal(
    address: str, environment: dict[str, str], plain_study: Callable[..., dict[str, Any]], store: Store, tmp_path: Path
) -> Callable[..., subprocess.Popen[str]]:
    """A function that launches a study of one arm from elsewhere."""

    def begin(epochs: int) -> subprocess.Popen[str]:
        study = plain_study(arms={"infonce": {"training": {"epochs": epochs, "batch_size": 16}}}, seeds=[1])
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        options = ["--address", address, "--store", str(store.root)]
        return subprocess.Popen(
            [sys.executable, "-m", "softnce_ray", "launch", "study.yaml", *options],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return begin


def _until(process: subprocess.Popen[str], word: str) -> list[str]:
    """Lines up to the first with a word."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError("".join(lines))


def test_a_study_ends_on_the_cluster_and_its_lines_are_seen_here(terminal, store, plain_study, tmp_path) -> None:
    with terminal(2) as process:
        out, error = process.communicate()
    assert process.returncode == 0, error
    assert out == ""
    assert "tiny: 1 trials run, 0 were there already, 0 failed" in error
    here = Store(tmp_path / "here", f"sqlite:///{tmp_path}/here/mlflow.db")
    alone = go(plain_study(arms={"infonce": {"training": {"epochs": 2, "batch_size": 16}}}, seeds=[1]), here)
    assert scores(load_results(store, "tiny").trials) == scores(alone.results.trials)


def test_ctrl_c_here_stops_it_there_at_its_last_checkpoint(terminal, store) -> None:
    with terminal(500) as process:
        _until(process, "epoch 1/")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130, error
    options = process.args[-4:]  # type: ignore[index]
    assert f"go on with  {shlex.join(['softnce-ray', 'launch', 'study.yaml', *options])}\n" in error
    assert "Traceback" not in error
    assert statuses(store) == {"study": {"KILLED"}, "arm": {"KILLED"}, "trial": {"KILLED"}}


def test_a_terminal_that_is_lost_ends_it_and_launching_again_goes_on(terminal, store) -> None:
    with terminal(5000) as process:
        _until(process, "epoch 1/")
        os.killpg(process.pid, signal.SIGKILL)
    _wait(lambda: not _launches(store), 120)
    with terminal(5000) as process:
        _until(process, "epoch ")
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert statuses(store) == {"study": {"KILLED"}, "arm": {"KILLED"}, "trial": {"KILLED"}}
    (run,) = runs(store, "trial")
    assert run.data.tags["attempts"] == "2"


def _launches(store: Store) -> list[psutil.Process]:
    """Launches of a store, on whatever node of this machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            if "launch" in command and process.environ().get("SOFTNCE_STORE") == str(store.root):
                found.append(process)
    return found
