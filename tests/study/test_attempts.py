"""Attempts of a trial: what a new one goes on from, whatever old ones still do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softnce_ray.checkpoint import CHECKPOINT_FILE, load_checkpoint
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.storage import Location
from softnce_ray.study.attempts import Attempt, Attempts

from .checkpoints import write_checkpoint

IDENTITY = "0123456789abcdef"


def begin(root: Path, launch: str = "one", identity: str = IDENTITY) -> Attempt:
    return Attempts(root).begin(identity, "soft-python-confirm", launch)


def epoch_of(root: Path, attempt: Attempt) -> int | None:
    place = Attempts(root).resumed(attempt)
    return None if place is None else load_checkpoint(Path(str(place))).progress.epoch


def test_a_first_attempt_begins_at_the_beginning(tmp_path) -> None:
    attempt = begin(tmp_path)
    assert attempt == Attempt(1, f"one/soft-python-confirm-{IDENTITY}-1", None, 0)
    assert epoch_of(tmp_path, attempt) is None


def test_a_further_attempt_goes_on_from_the_newest_whole_checkpoint(tmp_path) -> None:
    first = begin(tmp_path)
    for number, epoch in enumerate((1, 2, 10)):
        write_checkpoint(tmp_path / first.folder / f"checkpoint_{number:06d}", IDENTITY, epoch)
    damaged = tmp_path / first.folder / "checkpoint_000002" / CHECKPOINT_FILE
    damaged.write_bytes(damaged.read_bytes()[:-4])
    (tmp_path / first.folder / "checkpoint_000003").mkdir()  # a worker was killed before it wrote anything
    second = begin(tmp_path, "two")
    assert (second.number, second.epoch, epoch_of(tmp_path, second)) == (2, 2, 2)
    assert second.folder == f"two/soft-python-confirm-{IDENTITY}-2"


def test_an_attempt_that_came_no_further_hands_on_what_it_was_given(tmp_path) -> None:
    first = begin(tmp_path)
    write_checkpoint(tmp_path / first.folder / "checkpoint_000000", IDENTITY, 1)
    begin(tmp_path)
    third = begin(tmp_path)
    assert (third.number, epoch_of(tmp_path, third)) == (3, 1)


def test_what_a_replaced_attempt_still_writes_is_never_gone_on_from(tmp_path) -> None:
    """A worker that was cut off trains on in the folder of its own attempt."""
    first = begin(tmp_path)
    write_checkpoint(tmp_path / first.folder / "checkpoint_000000", IDENTITY, 1)
    begin(tmp_path)
    write_checkpoint(tmp_path / first.folder / "checkpoint_000001", IDENTITY, 2)
    third = begin(tmp_path)
    assert epoch_of(tmp_path, third) == 1
    write_model(tmp_path / first.folder / "checkpoint_000002")
    assert Attempts(tmp_path).model(IDENTITY) is None
    write_checkpoint(tmp_path / third.folder / "checkpoint_000000", IDENTITY, 3)
    assert epoch_of(tmp_path, begin(tmp_path)) == 3


def test_trials_know_nothing_of_one_another(tmp_path) -> None:
    first = begin(tmp_path)
    write_checkpoint(tmp_path / first.folder / "checkpoint_000000", IDENTITY, 1)
    assert begin(tmp_path, identity="f" * 16) == Attempt(1, f"one/soft-python-confirm-{'f' * 16}-1", None, 0)


@pytest.mark.parametrize("torn", ['{"number": 2, "fol', "\n\n", "rubbish\n"])
def test_a_line_that_a_crash_cut_off_is_passed_over(tmp_path, torn: str) -> None:
    begin(tmp_path)
    book = tmp_path / "attempts" / f"{IDENTITY}.jsonl"
    with book.open("a") as file:
        file.write(torn)
    assert begin(tmp_path).number == 2
    assert begin(tmp_path).number == 3


def test_checkpoints_that_are_gone_are_not_gone_on_from(tmp_path) -> None:
    first = begin(tmp_path)
    folder = tmp_path / first.folder / "checkpoint_000000"
    write_checkpoint(folder, IDENTITY, 1)
    second = begin(tmp_path)
    (folder / CHECKPOINT_FILE).unlink()
    assert second.resume is not None
    assert begin(tmp_path) == Attempt(3, second.folder[:-1] + "3", None, 0)


def write_model(checkpoint: Path) -> Path:
    model = checkpoint / MODEL_FOLDER
    model.mkdir(parents=True)
    (model / "settings.json").write_text(json.dumps({}))
    return model


def test_a_finished_trial_keeps_its_model_alone(tmp_path) -> None:
    attempts = Attempts(tmp_path)
    first, second = begin(tmp_path), begin(tmp_path)
    for attempt in (first, second):
        write_checkpoint(tmp_path / attempt.folder / "checkpoint_000000", IDENTITY, 1)
    model = write_model(tmp_path / second.folder / "checkpoint_000001")
    assert attempts.model(IDENTITY) == Location.at(model)
    attempts.tidy(IDENTITY)
    assert attempts.model(IDENTITY) == Location.at(model)
    assert [path.name for path in tmp_path.rglob("checkpoint_*")] == ["checkpoint_000001"]


def test_a_trial_without_a_model_leaves_nothing_but_its_attempts(tmp_path) -> None:
    first = begin(tmp_path)
    write_checkpoint(tmp_path / first.folder / "checkpoint_000000", IDENTITY, 1)
    Attempts(tmp_path).tidy(IDENTITY)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{IDENTITY}.jsonl"]
    assert Attempts(tmp_path).model(IDENTITY) is None
    Attempts(tmp_path).tidy("f" * 16)
