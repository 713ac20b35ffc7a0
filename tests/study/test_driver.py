"""The driver of a launch: what it hands to slots, and what it records and shows of what comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.config import StudyConfig
from softnce_ray.preparation import Prepared
from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.store import Store
from softnce_ray.study.driver import StudyRun
from softnce_ray.study.planner import Cell, Planner, cells

RESULT = {
    "epoch": 2,
    "best_valid_mrr": 0.5,
    "valid_mrr": 0.4,
    "test_mrr": 0.3,
    "train_loss": 1,
    "time_total_s": 3,
    "pid": 1,
}


class Noted:
    """Stands for tracker and display: keeps each call as (name, first argument, rest)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: self.calls.append((name, args, options))

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, options) for called, args, options in self.calls if called == name]


class Stopping:
    """A search of one proposal that stops its trial at its first report."""

    def __init__(self) -> None:
        self.told: list[tuple[float | None, bool]] = []
        self.asked = False

    @property
    def finished(self) -> bool:
        return bool(self.told)

    @property
    def answered(self) -> int:
        return len(self.told)

    def ask(self) -> Any:
        from softnce_ray.study.search import Proposal

        self.asked, before = True, self.asked
        return None if before else Proposal(0, {"temperature": 0.5})

    def report(self, number: int, epoch: int, value: float) -> bool:
        return True

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None:
        self.told.append((value, stopped_early))

    def best(self) -> dict[str, Any] | None:
        return None


def drive(study: StudyConfig, tmp_path: Path, *, slots: int = 2, search: Any = None) -> tuple[StudyRun, Noted, Noted]:
    searches = {Cell("infonce", "python"): search} if search else {}
    tracker, show = Noted(), Noted()
    planner = Planner(study, "c0ffee", {}, searches)
    prepared = {cell: Prepared(tmp_path / "tokens", {}) for cell in cells(study)}
    run = StudyRun(study, Store.at(tmp_path), planner, tracker, prepared, show, slots=slots)  # type: ignore[arg-type]
    return run, tracker, show


def begin(run: StudyRun) -> Any:
    """Start the next trial; returns its key."""
    proposal = run.next_spec()
    assert proposal is not None
    run.started(proposal[0])
    return proposal[0]


def test_no_more_trials_are_handed_out_than_there_are_slots(tiny_study, tmp_path) -> None:
    run, _, _ = drive(tiny_study(seeds=[1, 2, 3]), tmp_path, slots=2)
    first = begin(run)
    begin(run)
    assert run.next_spec() is None
    assert not run.finished()
    run.failed(first, "out of memory", "")
    assert run.next_spec() is not None
    assert run.next_spec() is None


def test_a_specification_is_plain_and_names_absolute_places(tiny_study, tmp_path) -> None:
    run, _, _ = drive(tiny_study(resources={"threads": 3, "device": "auto", "gpus": 0}), tmp_path)
    key, spec = run.next_spec()  # type: ignore[misc]
    assert (spec.arm, spec.phase, spec.identity) == ("infonce", "confirm", key.identity)
    assert (spec.config["seed"], spec.config["language"], spec.threads, spec.device) == (1, "python", 3, "cpu")
    assert Path(spec.corpus).is_absolute()
    assert Path(spec.checkpoints).is_absolute()
    assert spec.estimators == {}


def test_a_finished_trial_is_recorded_with_its_metrics_and_ranks(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    key = begin(run)
    run.reported(key, {**RESULT, "epoch": 1})
    run.ended(key, {**RESULT, "ended": True}, tmp_path)
    ((args, options),) = tracker.of("trial_ended")
    assert args == (key, "FINISHED")
    assert options["ranks"] == tmp_path / RANKS_FILE
    assert "time_total_s" not in options["metrics"]
    assert "pid" not in options["metrics"]
    assert options["metrics"]["test_mrr"] == 0.3
    assert (run.ran, run.failures) == (1, 0)
    assert [args for args, _ in show.of("progress")][-1] == (1, 4)


def test_a_trial_stopped_early_is_finished_without_a_result(tiny_study, tmp_path) -> None:
    search = Stopping()
    run, tracker, show = drive(tiny_study(search={"trials": 1, "seed": 9}), tmp_path, search=search)
    key = begin(run)
    assert run.reported(key, {**RESULT, "epoch": 1})
    run.ended(key, RESULT, None)
    ((args, options),) = tracker.of("trial_ended")
    assert args == (key, "FINISHED")
    assert (options["stopped_early"], options["ranks"], options["metrics"]) == (True, None, {})
    assert search.told == [(0.5, True)]
    assert show.of("ended")[0][0][1] == "stopped early"


def test_a_trial_that_ends_without_a_result_has_failed(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(), tmp_path)
    key = begin(run)
    run.ended(key, {}, None)
    ((args, options),) = tracker.of("trial_ended")
    assert (args, options["failure"]) == ((key, "FAILED"), "the worker ended without a result")
    assert (run.ran, run.failures) == (0, 1)


def test_a_trial_that_never_came_up_is_recorded_as_failed_with_a_run_of_its_own(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(), tmp_path)
    key, _ = run.next_spec()  # type: ignore[misc]
    run.failed(key, "no worker", "trace")
    assert [call[0] for call in tracker.calls] == ["trial_started", "trial_ended"]


def test_an_interrupt_closes_the_runs_of_trials_that_had_begun(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(), tmp_path, slots=3)
    done, live = begin(run), begin(run)
    run.next_spec()  # waits for a worker
    run.failed(done, "x", "")
    run.close_live("KILLED")
    assert [args for args, _ in tracker.of("trial_ended")] == [(done, "FAILED"), (live, "KILLED")]


@pytest.mark.parametrize("retries", [1, 2])
def test_a_trial_that_is_started_again_is_one_trial(tiny_study, tmp_path, retries: int) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    key = begin(run)
    for _ in range(retries):
        run.started(key)
    run.ended(key, {**RESULT, "ended": True}, tmp_path)
    assert run.ran == 1
    assert len(tracker.of("trial_ended")) == 1
    assert [args for args, _ in show.of("progress")][-1] == (1, 4)
