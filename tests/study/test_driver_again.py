"""The driver where a training was done before for another arm, and where files of its store vanish."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.config import StudyConfig
from softnce_ray.preparation import Prepared
from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.store import Store
from softnce_ray.study.finished import RESULT_FILE, write_finished
from softnce_ray.study.watch import VanishedError, Watch

from .test_driver import ONCE, RESULT, Stopping, after, begin, drive, failure


def alike(study: StudyConfig) -> StudyConfig:
    """The study with two arms of the same settings, which searches may come to."""
    return study.model_copy(update={"arms": dict.fromkeys(("infonce", "same"), study.arms["infonce"])})


def leave_result(root: Path, key: Any, attempt: int = 1) -> Path:
    """Write what a worker leaves of a trial at its end; returns its folder."""
    folder = root / "ray" / "now" / f"{key.arm}-python-{key.phase}-{key.identity}-{attempt}" / "checkpoint_000002"
    (folder / MODEL_FOLDER).mkdir(parents=True)
    (folder / RANKS_FILE).write_bytes(b"ranks")
    (folder / MODEL_FOLDER / "settings.json").write_text("{}")
    write_finished(folder, key.identity, RESULT, [after(1), after(2)])
    return folder


def test_one_training_serves_the_trials_of_all_arms_with_its_settings(tiny_study, tmp_path) -> None:
    run, tracker, show = drive(alike(tiny_study(seeds=[1])), tmp_path)
    key, attempt = begin(run)
    assert run.next_spec() is None and not run.finished()
    run.reported(key, attempt, [after(1), after(2)])
    files = leave_result(tmp_path, key)
    run.ended(key, attempt, RESULT, files.name)
    assert run.next_spec() is None  # no worker is asked for the other
    assert run.finished()
    assert (run.ran, run.failures) == (2, 0)

    def recorded(arm: str) -> list[Any]:
        return [
            (name, args[1:], options) for name, args, options in tracker.calls if getattr(args[0], "arm", None) == arm
        ]

    assert [name for name, _, _ in recorded("same")] == ["trial_started", "epoch", "epoch", "trial_ended"]
    assert recorded("same") == recorded("infonce")
    assert recorded("same")[-1][2]["ranks"] == files / RANKS_FILE
    assert files.exists()
    assert show.of("ended")[-1][0][1] == "finished: trained before with the same settings"


@pytest.mark.parametrize("damage", ["cut", "flipped", "of another", "ranks", "model", "no object"])
def test_a_result_that_is_not_whole_is_not_taken(tiny_study, tmp_path, damage: str) -> None:
    first, _, _ = drive(alike(tiny_study(seeds=[1])), tmp_path)
    key, _ = begin(first)
    files = leave_result(tmp_path, key)
    result = files / RESULT_FILE
    text = result.read_text()
    match damage:
        case "cut":
            result.write_text(text[:-20])
        case "flipped":
            result.write_text(text.replace('"test_mrr": 0.3', '"test_mrr": 0.4'))
        case "of another":
            write_finished(files, "f" * 16, RESULT, [])
        case "ranks":
            (files / RANKS_FILE).write_bytes(b"ronks")
        case "model":
            (files / MODEL_FOLDER / "settings.json").unlink()
        case "no object":
            result.write_text(json.dumps([1]))
    again, tracker, _ = drive(alike(tiny_study(seeds=[1])), tmp_path)
    assert begin(again) == (key, 2)
    assert not tracker.of("trial_ended")


def test_a_search_trial_that_the_machine_failed_is_recorded_and_answers_nothing(tiny_study, tmp_path) -> None:
    search = Stopping()
    study = tiny_study(search={"trials": 1, "seed": 9}, arms={"infonce": {}}, **ONCE)
    run, tracker, _ = drive(study, tmp_path, search=search)
    run.failed(*begin(run), failure("disk"))
    assert run.next_spec() is None and run.finished() and run.planner.halted
    assert [args[1] for args, _ in tracker.of("trial_ended")] == ["FAILED"]
    assert (run.failures, search.told) == (1, [])


# --- files that vanish ---

LAUNCH = "20260101-000000"


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Watch, Path]:
    """A store as a launch has it, and the watch over it."""
    root = tmp_path / "store"
    for name in (
        "mlflow.db",
        "optuna.db",
        "artifacts/tiny/x",
        "spool/tiny/journal.jsonl",
        "studies/tiny.yaml",
        "prepared/tokens-1/ids",
        "prepared/estimators/bm25-1/answered",
        "ray/tiny/lock",
        "ray/tiny/attempts/c0ffee.jsonl",
        f"ray/tiny/{LAUNCH}/.validate_storage_marker",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("some text")
    prepared = Prepared(str(root / "prepared"), "tokens-1", {"bm25": "estimators/bm25-1"})
    return Watch(Store(root, f"sqlite:///{root}/mlflow.db"), "tiny", LAUNCH, [prepared]), root


@pytest.mark.parametrize(
    ("gone", "named", "of_tracking"),
    [
        ("ray", "ray/tiny/lock and 2 more", False),
        (f"ray/tiny/{LAUNCH}", f"ray/tiny/{LAUNCH}/.validate_storage_marker", False),
        ("ray/tiny/attempts", "ray/tiny/attempts", False),
        ("spool/tiny", "spool/tiny/journal.jsonl", False),
        ("prepared", "prepared/tokens-1 and 1 more", False),
        ("prepared/estimators/bm25-1", "prepared/estimators/bm25-1", False),
        ("optuna.db", "optuna.db", False),
        ("artifacts", "artifacts", False),
        ("mlflow.db", "mlflow.db", True),
        ("", "", True),
    ],
)
def test_what_vanishes_is_named_with_the_command_that_goes_on(
    watched, monkeypatch, gone: str, named: str, of_tracking: bool
) -> None:
    watch, root = watched
    watch.look()
    place = root / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    monkeypatch.setenv("SOFTNCE_AGAIN", "softnce-ray resume tiny")
    with pytest.raises(VanishedError) as caught:
        watch.look()
    how = "softnce-ray resume tiny" if gone else "launching the study's file again"
    text = str(caught.value)
    assert text.startswith(f"{root}{f'/{named}' if named else ''}: expected to stay") and f"{how} goes on" in text
    assert caught.value.of_tracking == of_tracking


def test_a_database_that_was_made_anew_has_vanished_and_one_that_grows_has_not(watched) -> None:
    watch, root = watched
    (root / "optuna.db").write_text("some text, and more of it")
    watch.look()
    (root / "new").write_text("")
    (root / "new").replace(root / "optuna.db")  # as a connection makes one that finds none
    with pytest.raises(VanishedError, match=r"optuna\.db: expected to stay"):
        watch.look()


def test_what_vanished_ends_a_launch_before_its_trials_are_blamed(tiny_study, tmp_path, watched) -> None:
    run, tracker, _ = drive(tiny_study(), tmp_path)
    run._watch, root = watched
    key, attempt = begin(run)
    shutil.rmtree(root / "ray")
    for act in (
        lambda: run.failed(key, attempt, failure("error", "Unable to set up cluster storage")),
        lambda: run.ended(key, attempt, RESULT, "checkpoint_000002"),
        run.next_spec,
        run.look_around,
    ):
        with pytest.raises(VanishedError):
            act()
    assert not tracker.of("trial_ended")
