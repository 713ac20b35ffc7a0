"""A study whose worker, driver and MLflow server are killed ends as the undisturbed one: see `killing`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from killing import KINDS, Bench, Kill, bench, checkpoint, larger_corpus, last_epoch, rounds, table_row
from outcomes import broken_laws, differences

KILLS = int(os.environ.get("SOFTNCE_KILLS", "0"))
"""Kills of the long form, which takes about a minute for each; 0: the short form alone."""


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


@pytest.mark.skipif(not KILLS, reason="SOFTNCE_KILLS=20 asks for the long form: about a minute for each kill")
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_study_killed_at_random_points_ends_with_the_same_runs_and_numbers(made: Bench) -> None:
    played = list(rounds(KILLS, 7, made))
    rows = [table_row(number, each) for number, each in enumerate(played, 1) if each.faults]
    assert not rows, "\n".join(rows)
    assert {kill.kind for each in played for kill in each.landed} == set(KINDS)


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
