"""A study whose worker, driver and MLflow server are killed ends as the undisturbed one: see `killing`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killing
import pytest
from killed_study import larger_corpus
from killing import Bench, bench, table_row
from moments import Kill, checkpoint, last_epoch
from outcomes import broken_laws, differences

ROUNDS = int(os.environ.get("SOFTNCE_KILLS", "0"))
"""Rounds of the long form, which takes about a minute for each; 0: the short form alone."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(larger_corpus(tmp_path_factory.mktemp("corpus"))) as made:
        yield made


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_study_whose_server_worker_and_driver_are_killed_ends_with_the_same_runs_and_numbers(made: Bench) -> None:
    # The driver dies while MLflow is away: what it had not sent yet must be on disk.
    server = Kill("server", *checkpoint(4, 0.0), pause=2.0)
    worker = Kill("worker", *checkpoint(8, 0.1))
    driver = Kill("driver", *last_epoch(4, 0.0))
    played = made.play([server, worker, driver])
    assert not played.faults, table_row(1, played)
    assert played.landed == (server, worker, driver)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_study_whose_files_vanish_and_whose_store_is_copied_ends_with_the_same_runs_and_numbers(made: Bench) -> None:
    vanished = Kill("folder", *checkpoint(6, 0.0), what="ray/killed")
    copied = Kill("fork", *checkpoint(12, 0.0))
    played = made.play([vanished, copied])
    assert not played.faults, table_row(1, played)
    assert played.landed == (vanished, copied)


@pytest.mark.skipif(not ROUNDS, reason="SOFTNCE_KILLS=40 asks for the long form: over a minute for each round")
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_study_killed_and_damaged_at_random_points_ends_with_the_same_runs_and_numbers() -> None:
    # In a process of its own, since it mounts disks that nobody else may see.
    command = [sys.executable, killing.__file__, "--rounds", str(ROUNDS)]
    path = os.pathsep.join([str(Path(killing.__file__).parent), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_what_differs_between_two_outcomes_is_told_by_its_place() -> None:
    undisturbed = {"runs": {"a": {"status": "FINISHED", "steps": [1, 2]}, "b": {}}}
    disturbed = {"runs": {"a": {"status": "RUNNING", "steps": [1, 2]}, "c": {}}}
    assert differences(undisturbed, disturbed) == [
        "/runs/a/status: expected 'FINISHED', got 'RUNNING'",
        "/runs: b is missing",
        "/runs: c is too much: {}",
    ]
    assert differences(undisturbed, undisturbed) == []


def test_an_outcome_with_an_open_run_a_failure_or_an_epoch_twice_breaks_the_laws() -> None:
    def told(status: str = "FINISHED", tags: dict[str, str] | None = None, epochs: tuple[int, ...] = (1, 2)) -> Any:
        trial = {"status": status, "tags": tags or {}, "history of train_loss": [(epoch, 0.5) for epoch in epochs]}
        return {"runs": {"trial a": trial}, "searches": {"s": [[[], "COMPLETE", [0.5], []]]}}

    assert broken_laws(told(), 2) == []
    assert broken_laws(told(status="RUNNING"), 2) == ["trial a: expected FINISHED, got RUNNING"]
    assert broken_laws(told(tags={"failure": "lost"}), 2) == ["trial a: failure: lost"]
    assert broken_laws(told(epochs=(1, 2, 2)), 2) == ["trial a: expected every epoch once, got [1, 2, 2]"]
