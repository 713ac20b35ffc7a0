"""Signals to launches from a terminal: processes of their own, with a Ray of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from softnce_ray.store import Store
from softnce_ray.study.attempts import Attempts
from softnce_ray.tracking import studies

from .launching import statuses

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def launched(study: dict[str, Any], store: Store, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A launch in a process group of its own."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    with started(["launch", str(folder / "study.yaml"), "--store", str(store.root)]) as process:
        yield process


@contextlib.contextmanager
def started(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "softnce_ray", *words],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


@pytest.mark.long
def test_sigterm_while_training_is_as_clean_as_ctrl_c(plain_study, store, tmp_path) -> None:
    """Ray takes SIGTERM for itself when it starts; clusters and schedulers send it, and to all processes of a group."""
    study = plain_study(arms={"infonce": {"training": {"epochs": 500, "batch_size": 16}}}, seeds=[1])
    with launched(study, store, tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/" in line:
                break
        os.killpg(process.pid, signal.SIGTERM)
        out, error = process.communicate()
    assert process.returncode == 143, error
    assert "stopping after the last checkpoints" in error
    assert "go on with  softnce-ray resume tiny" in error
    assert "Traceback" not in error
    told = re.findall(r"seed 1: stopped in the middle, epoch (\d+)/500 is kept: goes on after it", error)
    (book,) = store.ray("tiny").glob("attempts/*.jsonl")
    assert told == [str(Attempts(store.ray("tiny")).kept(book.stem))]
    assert out == "tiny: 0 trials run, 0 were there already, 0 failed, 1 stopped in the middle\n"
    assert statuses(store) == {"study": {"KILLED"}, "arm": {"KILLED"}, "trial": {"KILLED"}}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_who_waits_for_nodes_is_told_so_and_can_give_up_with_a_signal(plain_study, store, tmp_path, number) -> None:
    study = plain_study(resources={"cpus": 64, "autoscale": True, "max_concurrent": 2})
    with launched(study, store, tmp_path) as process:
        assert process.stderr is not None
        note = process.stderr.readline()
        process.send_signal(number)
        _, error = process.communicate()
    assert "note: expected a node with room for a trial of 64 CPUs" in note
    assert "waiting 15 minutes at most for one that the autoscaler adds; Ctrl-C gives up" in note
    assert process.returncode == 128 + number, error
    assert error.splitlines()[-1].startswith("interrupted: go on with  softnce-ray resume tiny")
    assert len(error.splitlines()) == 2, error
    assert studies(store) == []
    if number == signal.SIGINT:
        more = shlex.split(error.splitlines()[-1].partition("with  softnce-ray ")[2])
        with started(more) as process:
            assert process.stderr is not None
            assert "expected a node with room for a trial of 64 CPUs" in process.stderr.readline()
            process.send_signal(number)
            process.communicate()
