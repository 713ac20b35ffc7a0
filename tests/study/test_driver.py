"""The driver of a launch: what it hands to slots, and what it records and shows of what comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from softnce_ray.config import StudyConfig, TrialConfig, arm_settings
from softnce_ray.config.study import FailureKind
from softnce_ray.corpus.store import Corpus
from softnce_ray.distributions import DISTRIBUTIONS_FILE
from softnce_ray.encoders import Bag
from softnce_ray.preparation import Prepared, open_data, prepare
from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.results import TrialKey
from softnce_ray.storage import StorageError
from softnce_ray.study.attempts import Attempts
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.details import Details
from softnce_ray.study.display import title
from softnce_ray.study.driver import StudyRun
from softnce_ray.study.failures import Failure, failure_of
from softnce_ray.study.planner import Planner
from softnce_ray.training import train

from .checkpoints import write_checkpoint

RESULT = {"epoch": 2, "best_valid_mrr": 0.5, "valid_mrr": 0.4, "test_mrr": 0.3, "train_loss": 1}


def after(epoch: int, **more: float) -> dict[str, float]:
    """What a worker tells after an epoch."""
    return {**RESULT, "epoch": epoch, "at": 1000 + epoch, "alignment": 0.25, **more}


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

    def answers(self) -> list[Any]:
        return []

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


def drive(
    study: StudyConfig, tmp_path: Path, *, slots: int = 2, search: Any = None, details: Details | None = None
) -> tuple[StudyRun, Noted, Noted]:
    searches = {Cell("infonce", "python"): search} if search else {}
    tracker, show = Noted(), Noted()
    planner = Planner(study, "c0ffee", {}, searches)
    prepared = {cell: Prepared(str(tmp_path), "tokens", {}) for cell in cells(study)}
    attempts = Attempts(tmp_path / "ray")
    corpus = Corpus.open(study.corpus)
    more: dict[str, Any] = {"launch": "now", "slots": slots, "details": details}
    run = StudyRun(study, corpus, planner, tracker, prepared, attempts, show, **more)  # type: ignore[arg-type]
    return run, tracker, show


def begin(run: StudyRun) -> tuple[TrialKey, int]:
    """Start the next trial; returns its key and the number of its attempt."""
    proposal = run.next_spec()
    assert proposal is not None
    key, spec, _ = proposal
    run.started(key, spec.attempt)
    return key, spec.attempt


def failure(kind: FailureKind = "error", reason: str = "x") -> Failure:
    return Failure(kind, reason, "trace")


ONCE: dict[str, Any] = {"failures": {"retries": 0}}


def test_no_more_trials_are_handed_out_than_there_are_slots(tiny_study, tmp_path) -> None:
    run, _, _ = drive(tiny_study(seeds=[1, 2, 3], **ONCE), tmp_path, slots=2)
    first = begin(run)
    begin(run)
    assert run.next_spec() is None
    assert not run.finished()
    run.failed(*first, failure())
    assert run.next_spec() is not None
    assert run.next_spec() is None


def test_a_specification_is_plain_and_names_absolute_places(tiny_study, tmp_path) -> None:
    run, _, _ = drive(tiny_study(resources={"threads": 3, "device": "auto", "gpus": 0}), tmp_path)
    key, spec, folder = run.next_spec()  # type: ignore[misc]
    assert (spec.arm, spec.phase, spec.identity) == ("infonce", "confirm", key.identity)
    assert (spec.config["seed"], spec.config["language"], spec.threads, spec.device) == (1, "python", 3, "cpu")
    assert Path(spec.corpus).is_absolute()
    assert (spec.prepared["estimators"], spec.attempt, spec.resume) == ({}, 1, None)
    assert folder == f"infonce-python-confirm-{key.identity}-1"


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (4, 4), (2.5, 2), (0.5, 1)])
def test_a_trial_uses_the_processors_that_it_reserves(tiny_study, tmp_path, cpus, threads) -> None:
    run, _, _ = drive(tiny_study(resources={"cpus": cpus}), tmp_path)
    _, spec, _ = run.next_spec()  # type: ignore[misc]
    assert spec.threads == threads


def test_a_specification_has_what_saves_memory(tiny_study, tmp_path) -> None:
    run, _, _ = drive(tiny_study(resources={"chunk_size": 5, "gradient_checkpointing": True}), tmp_path)
    _, spec, _ = run.next_spec()  # type: ignore[misc]
    assert (spec.chunk_size, spec.gradient_checkpointing, spec.deterministic) == (5, True, False)


def test_determinism_is_no_setting_of_the_method(tiny_study, tmp_path) -> None:
    run, _, _ = drive(tiny_study(resources={"deterministic": True}), tmp_path / "one")
    key, spec, _ = run.next_spec()  # type: ignore[misc]
    other, _, _ = drive(tiny_study(), tmp_path / "other")
    assert spec.deterministic
    assert key.identity == other.next_spec()[0].identity  # type: ignore[index]
    assert "deterministic" not in tiny_study().resources.model_dump()


def test_all_that_an_epoch_measured_is_recorded_with_its_own_time(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    key, attempt = begin(run)
    assert not run.reported(key, attempt, [after(1, kl_negatives=2.5)])
    ((args, options),) = tracker.of("epoch")
    assert options == {"at": 1001}
    assert args[0] == key
    assert {"alignment": 0.25, "kl_negatives": 2.5, "epoch": 1}.items() <= args[1].items()
    assert "at" not in args[1]
    assert len(show.of("epoch")) == 1


def test_a_finished_trial_is_recorded_with_its_metrics_and_ranks(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    key, attempt = begin(run)
    run.reported(key, attempt, [after(1)])
    run.ended(key, attempt, {**RESULT, "valid_recall@1": 0.2, "valid_codebase": 80}, "checkpoint_000002")
    ((args, options),) = tracker.of("trial_ended")
    assert args == (key, "FINISHED")
    files = tmp_path / "ray" / "now" / f"infonce-python-confirm-{key.identity}-1" / "checkpoint_000002"
    assert options["ranks"] == files / RANKS_FILE
    assert options["distributions"] == files / DISTRIBUTIONS_FILE
    # no name that the epochs have: each has one value a step
    assert options["metrics"] == {"test_mrr": 0.3, "train_loss": 1, "best_valid_recall@1": 0.2, "valid_codebase": 80}
    assert (run.ran, run.failures) == (1, 0)
    done, total, left = [args for args, _ in show.of("progress")][-1]
    assert (done, total) == (1, 4)
    assert left > 0  # three more of what this one took


def test_a_trial_stopped_early_is_finished_without_a_result(tiny_study, tmp_path) -> None:
    search = Stopping()
    run, tracker, show = drive(tiny_study(search={"trials": 1, "seed": 9}), tmp_path, search=search)
    key, attempt = begin(run)
    assert run.reported(key, attempt, [after(1)])
    run.ended(key, attempt, None, None)
    ((args, options),) = tracker.of("trial_ended")
    assert args == (key, "FINISHED")
    assert (options["stopped_early"], options.get("ranks"), options["metrics"]) == (True, None, {})
    assert "distributions" not in options
    assert search.told == [(0.5, True)]
    assert show.of("ended")[0][0][1] == "stopped early"


def test_a_worker_that_is_lost_when_its_trial_was_stopped_early_is_no_failure(tiny_study, tmp_path) -> None:
    search = Stopping()
    run, tracker, _ = drive(tiny_study(search={"trials": 1, "seed": 9}), tmp_path, search=search)
    key, attempt = begin(run)
    assert run.reported(key, attempt, [after(1)])
    run.failed(key, attempt, failure("worker"))
    ((args, options),) = tracker.of("trial_ended")
    assert (args[1], options["stopped_early"], run.failures) == ("FINISHED", True, 0)


def test_a_trial_that_ends_without_a_result_has_failed(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(**ONCE), tmp_path)
    key, attempt = begin(run)
    run.ended(key, attempt, None, None)
    ((args, options),) = tracker.of("trial_ended")
    assert (args, options["failure"]) == ((key, "FAILED"), "the worker ended without a result")
    assert (run.ran, run.failures) == (0, 1)


def test_a_trial_that_never_came_up_is_recorded_as_failed_with_a_run_of_its_own(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(**ONCE), tmp_path)
    key, spec, _ = run.next_spec()  # type: ignore[misc]
    run.failed(key, spec.attempt, failure("worker", "no worker"))
    assert [call[0] for call in tracker.calls] == ["trial_started", "trial_ended"]
    assert tracker.of("trial_ended")[0][1] == {"failure": "no worker", "kind": "worker", "traceback": "trace"}


def test_an_interrupt_closes_the_runs_of_trials_that_had_begun(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(failures={"retries": 1, "retry": ["worker"]}), tmp_path, slots=3)
    done, live, waiting = begin(run), begin(run), begin(run)
    run.failed(*done, failure())
    run.failed(*waiting, failure("worker"))
    run.close_live("KILLED")
    ended = {args for args, _ in tracker.of("trial_ended")}
    assert ended == {(done[0], "FAILED"), (live[0], "KILLED"), (waiting[0], "KILLED")}


def test_an_interrupt_tells_the_epoch_that_is_kept_of_each_trial_though_nobody_heard_of_it(
    tiny_study, tmp_path
) -> None:
    run, _, show = drive(tiny_study(failures={"retries": 1, "retry": ["worker"]}), tmp_path, slots=3)
    (first, attempt), (second, _), third = begin(run), begin(run), begin(run)
    run.reported(first, attempt, [after(1)])
    for key, epochs in ((first, (1, 2)), (third[0], (1,))):
        for epoch in epochs:
            name = f"{key.arm}-python-confirm-{key.identity}-1"
            write_checkpoint(tmp_path / "ray" / "now" / name / f"checkpoint_{epoch:06}", key.identity, epoch)
    run.failed(*third, failure("worker"))
    assert run.close_live("KILLED") == 3
    assert [args[0] for args, _ in show.of("say")][1:] == [
        f"{title(third[0])}: stopped in the middle, epoch 1/2 is kept: goes on after it",
        f"{title(first)}: stopped in the middle, epoch 2/2 is kept: goes on after it",
        f"{title(second)}: stopped in the middle, before its first checkpoint: begins anew",
    ]


def test_checkpoints_that_cannot_be_read_at_an_interrupt_hide_nothing_else(tiny_study, tmp_path, monkeypatch) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    begin(run)

    def away(identity: str) -> int:
        raise StorageError("away")

    monkeypatch.setattr(run._attempts, "kept", away)
    assert run.close_live("KILLED") == 1
    assert len(tracker.of("trial_ended")) == 1
    assert show.of("say")[0][0][0].endswith(f"and its checkpoints in {tmp_path / 'ray'} cannot be read now")
    assert run.close_live("KILLED", look=False) == 1
    assert len(show.of("say")) == 1


def test_a_note_is_short_and_a_file_has_it_in_full(tiny_study, tmp_path) -> None:
    run, _, show = drive(tiny_study(), tmp_path, details=Details(tmp_path / "ray" / "log"))
    key, _ = begin(run)
    run.note("the store is away", key, "curl says much")
    run.note("it is back", key)
    assert [args[0] for args, _ in show.of("say")] == [
        f"note: {title(key)}: the store is away; in full in {tmp_path / 'ray' / 'log'}",
        f"note: {title(key)}: it is back",
    ]
    (line,) = (tmp_path / "ray" / "log").read_text().splitlines()
    assert line.endswith(" curl says much")


def test_a_trial_that_failed_is_tried_again_before_any_other(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    first, second = begin(run), begin(run)
    run.failed(*first, failure("worker"))
    assert not run.finished()
    again = begin(run)
    assert again == (first[0], 2)
    assert run.next_spec() is None
    run.ended(*again, RESULT, "checkpoint_000002")
    run.ended(*second, RESULT, "checkpoint_000002")
    assert (run.ran, run.failures) == (2, 0)
    assert [args[0] for args, _ in tracker.of("trial_ended")] == [first[0], second[0]]
    assert [options["attempt"] for _, options in tracker.of("trial_started")] == [1, 1, 2]
    assert [args[:2] for args, _ in show.of("progress")][-1] == (2, 4)


@pytest.mark.parametrize(("gpus", "attempts"), [(1, 1), (0.5, 2), (0, 3)])
def test_a_gpu_that_is_full_is_tried_again_only_where_another_trial_may_have_filled_it(
    tiny_study, tmp_path, tiny_corpus, monkeypatch, gpus, attempts
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.") if gpus else MemoryError

    monkeypatch.setattr(Bag, "forward", full)
    study = tiny_study(seeds=[1], arms={"infonce": {}}, resources={"gpus": gpus})
    run, tracker, show = drive(study, tmp_path)
    key, attempt = begin(run)
    trial = TrialConfig(**arm_settings(study.arms["infonce"]), language="python", seed=1)
    data = open_data(prepare(trial, tiny_corpus, "python", tmp_path / "made"), trial, "python")
    with pytest.raises((torch.OutOfMemoryError, MemoryError)) as raised:
        train(trial, data)
    run.failed(key, attempt, failure_of(raised.value, "trace"))
    while not run.finished():
        run.failed(*begin(run), failure_of(raised.value, "trace"))
    ((args, options),) = tracker.of("trial_ended")
    assert (args, options["kind"]) == ((key, "FAILED"), "memory")
    assert "try in this order: resources.chunk_size: 8 (now a batch of 16); " in options["failure"]
    assert [options["attempt"] for _, options in tracker.of("trial_started")] == list(range(1, attempts + 1))
    assert all("resources.chunk_size: 8" in args[0] for args, _ in show.of("say"))


def test_what_an_attempt_says_that_has_been_replaced_is_refused(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(), tmp_path)
    key, old = begin(run)
    run.failed(key, old, failure("worker"))  # cut off, as far as anybody can see
    between = list(tracker.calls)
    assert not run.reported(key, old, [after(1)])
    run.ended(key, old, RESULT, "checkpoint_000002")
    run.failed(key, old, failure())
    _, new = begin(run)
    begun = list(tracker.calls)
    assert not run.reported(key, old, [after(1)])
    run.started(key, old)
    run.ended(key, old, RESULT, "checkpoint_000002")
    run.failed(key, old, failure())
    assert tracker.calls == begun
    assert len(begun) == len(between) + 1
    run.ended(key, new, RESULT, "checkpoint_000002")
    run.ended(key, new, RESULT, "checkpoint_000002")  # told twice
    assert (run.ran, run.failures, len(tracker.of("trial_ended"))) == (1, 0, 1)


def test_a_trial_that_is_started_again_is_one_trial(tiny_study, tmp_path) -> None:
    run, tracker, _ = drive(tiny_study(), tmp_path)
    key, attempt = begin(run)
    run.started(key, attempt)
    assert len(tracker.of("trial_started")) == 1


def test_epochs_that_are_told_again_are_recorded_but_not_shown(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(tiny_study(), tmp_path)
    key, attempt = begin(run)
    folder = tmp_path / "ray" / "now" / f"infonce-python-confirm-{key.identity}-1" / "checkpoint_000000"
    write_checkpoint(folder, key.identity, 1)
    run.failed(key, attempt, failure("worker"))
    proposal = run.next_spec()
    assert proposal is not None
    assert proposal[1].resume == str(folder)
    run.reported(key, 2, [after(1)])
    run.reported(key, 2, [after(2)])
    assert [args[1]["epoch"] for args, _ in tracker.of("epoch")] == [1, 2]
    assert [args[1]["epoch"] for args, _ in show.of("epoch")] == [2]


def test_a_cell_that_cannot_run_is_recorded_as_failed_trials_and_the_rest_goes_on(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(tiny_study(search={"trials": 1, "seed": 9}), tmp_path, search=Stopping())
    run.give_up(Cell("infonce", "python"), failure("settings", "no such model"))
    assert [(args[0].arm, args[0].phase, args[0].seed, args[1]) for args, _ in tracker.of("trial_ended")] == [
        ("infonce", "confirm", 1, "FAILED"),
        ("infonce", "confirm", 2, "FAILED"),
    ]
    assert run.failures == 2
    assert run.planner.problems == ["infonce/python: nothing of it was run: no such model"]
    for _ in range(2):
        key, attempt = begin(run)
        assert key.arm == "soft"
        run.ended(key, attempt, RESULT, "checkpoint_000002")
    assert run.next_spec() is None
    assert run.finished() and show.of("progress")[-1][0][:2] == (4, 4)


def test_a_cell_that_cannot_run_hands_out_no_trial_that_was_taken_back(tiny_study, tmp_path) -> None:
    """A launch takes the first trial back, which it only asks for to see whether there is any."""
    run, _, _ = drive(tiny_study(seeds=[1]), tmp_path)
    first = run.planner.next()
    assert first is not None and first.key.arm == "infonce"
    run.planner.again(first)
    run.give_up(Cell("infonce", "python"), failure("settings", "no such model"))
    key, attempt = begin(run)
    assert key.arm == "soft"
    run.ended(key, attempt, RESULT, "checkpoint_000002")
    assert run.next_spec() is None
    assert run.finished()
