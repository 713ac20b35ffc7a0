"""Records outlive the machine's end, and being sent again changes nothing: not when the note of what was sent is lost,
damaged or of another time than MLflow's database."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from softnce_ray.folders import sync, sync_tree
from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import MODEL_FOLDER, StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker, Unsent, load_results, unsent_records

RECORD = StudyRecord("study", "why?", "one", ("one",), ("python",), (1, 2), "c", "c0ffee", "study: text\n")


def key(seed: int) -> TrialKey:
    return TrialKey("one", "python", "confirm", seed, f"{seed:016}")


def opened(store: Store) -> Tracker:
    tracker = Tracker(store, RECORD, versions={})
    tracker.arm_started("one", {"loss.name": "infonce"})
    return tracker


def finish(tracker: Tracker, seed: int, work: Path) -> None:
    tracker.trial_started(key(seed), {"training.epochs": 1})
    tracker.epoch(key(seed), {"epoch": 1, "best_valid_mrr": 0.5}, at=seed)
    values = {"reciprocal_rank": {"test": np.array([1 / seed])}, "graded_ndcg": {}}
    write_ranks(work / RANKS_FILE, {"test": ["a"]}, values)  # type: ignore[arg-type]
    tracker.trial_ended(key(seed), "FINISHED", metrics={"best_valid_mrr": 0.5}, ranks=work / RANKS_FILE)
    (work / RANKS_FILE).unlink()  # as a trial's checkpoints go when its end is recorded


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    MlflowClient(Store.at(root).tracking_uri).search_experiments()
    return root


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Store:
    return Store.at(shutil.copytree(empty, tmp_path / "store"))


def killed(tracker: Tracker) -> None:
    tracker.wait()
    tracker.abandon()


def state(store: Store) -> dict[str, Any]:
    """All that MLflow says of the study, but for how far the journal is."""
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    return {
        run.info.run_id: (
            run.info.status,
            run.info.end_time,
            {name: value for name, value in run.data.tags.items() if name != "journal"},
            [
                (point.key, point.step, point.value)
                for name in sorted(run.data.metrics)
                for point in client.get_metric_history(run.info.run_id, name)
            ],
            [(file.path, file.file_size) for file in client.list_artifacts(run.info.run_id)],
        )
        for run in client.search_runs([experiment.experiment_id])
    }


NOTES = {
    "lost": lambda note: None,
    "torn": lambda note: note[: len(note) // 2],
    "zeroed": lambda note: "\0" * len(note),
    "of nothing": lambda note: json.dumps({**json.loads(note), "bytes": 0}),
    "too far": lambda note: json.dumps({**json.loads(note), "bytes": 10**9}),
    "within a line": lambda note: json.dumps({**json.loads(note), "bytes": json.loads(note)["bytes"] - 9}),
}


@pytest.mark.parametrize("told", [True, False], ids=["MLflow knows", "of an earlier version"])
@pytest.mark.parametrize("note", NOTES)
def test_a_note_of_what_was_sent_that_is_damaged_changes_nothing(store, tmp_path, note: str, told: bool) -> None:
    tracker = opened(store)
    finish(tracker, 1, tmp_path)
    tracker.trial_started(key(2), {})
    tracker.trial_ended(key(2), "FAILED", failure="why", kind="memory", traceback="text")
    tracker.arm_summary("one", {"test_mrr": 0.5})
    tracker.study_ended("FINISHED")
    killed(tracker)
    before = state(store)
    sent = store.spool("study") / "sent"
    text = NOTES[note](sent.read_text())
    sent.unlink()
    if text is not None:
        sent.write_text(text)
    if not told:
        with sqlite3.connect(store.root / "mlflow.db") as base:
            assert base.execute("DELETE FROM tags WHERE key = 'journal'").rowcount == 1
    again = Tracker.to_sync(store, "study")
    assert again.wait()
    assert again.close() == Unsent()
    assert state(store) == before
    assert unsent_records(store, "study") == 0


def test_a_journal_of_before_its_database_neither_reopens_runs_nor_swallows_what_comes_then(store, tmp_path) -> None:
    """As a store that is copied while it is written has it: `spool` before, `mlflow.db` after."""
    tracker = opened(store)
    tracker.trial_started(key(1), {"training.epochs": 1})
    tracker.wait()
    shutil.copytree(store.spool("study"), tmp_path / "spool")
    finish(tracker, 1, tmp_path)
    tracker.study_ended("FINISHED")
    killed(tracker)
    before = state(store)
    shutil.rmtree(store.spool("study"))
    shutil.copytree(tmp_path / "spool", store.spool("study"))
    (store.spool("study") / "sent").unlink()
    again = Tracker.to_sync(store, "study")
    assert state(store) == before
    again.arm_summary("one", {"test_mrr": 0.5})
    again.abandon()  # before it goes out, as a killed process leaves it
    last = Tracker.to_sync(store, "study")
    last.wait()
    assert last.close() == Unsent()
    assert [dict((name, value) for name, _, value in run[3]).get("test_mrr") for run in state(store).values()].count(
        0.5
    ) == 1


@pytest.mark.parametrize("own", [1, 40], ids=["fewer bytes of its own", "more bytes of its own"])
@pytest.mark.parametrize("told", [True, False], ids=["", "of an earlier version"])
def test_a_copy_that_goes_on_with_the_same_server_sends_its_own_and_takes_nothing_back(
    store, tmp_path, own: int, told: bool
) -> None:
    """It is copied with records that were not sent; then the original sends more of the same journal than it had."""
    copy = Store(tmp_path / "copy", store.tracking_uri)
    tracker = opened(store)
    tracker.wait()
    assert tracker._sender is not None
    tracker._sender.stop()
    tracker.trial_started(key(1), {"training.epochs": 1})
    shutil.copytree(store.spool("study"), copy.spool("study"))
    tracker.abandon()
    theirs = Tracker.to_sync(store, "study")
    finish(theirs, 1, tmp_path)
    theirs.study_ended("FINISHED")
    killed(theirs)
    if not told:
        with sqlite3.connect(store.root / "mlflow.db") as base:
            base.execute("UPDATE tags SET value = rtrim(value, '0123456789abcdef') WHERE key = 'journal'")
            base.execute("UPDATE tags SET value = rtrim(value, ':') WHERE key = 'journal'")
    before = state(store)

    ours = Tracker.to_sync(copy, "study")
    assert ours._sender is not None
    ours._sender.stop()
    for number in range(own):
        ours.arm_summary("one", {f"metric{number}": 0.25})
    ours.abandon()
    assert unsent_records(copy, "study") >= own
    again = Tracker.to_sync(copy, "study")
    again.wait()
    assert again.close() == Unsent()
    summed = {name for run in state(store).values() for name, _, _ in run[3] if name.startswith("metric")}
    assert summed == {f"metric{number}" for number in range(own)}
    unchanged = {run: [each[:3], each[4]] for run, each in state(store).items()}
    assert unchanged == {run: [each[:3], each[4]] for run, each in before.items()}


class Disk:
    """A disk that loses all that was not synced when the power goes, except that what was removed is gone.

    A file is what it was when it was last synced, a folder has the names that it had then.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._sync = root, os.fsync
        self._files: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []
        self.cuts: list[Path] = []
        monkeypatch.setattr(os, "fsync", self._synced)

    def _synced(self, file: int) -> None:
        self._sync(file)
        self._held.append(os.dup(file))  # else its number would be given to another file when it is gone
        number, path = os.fstat(file).st_ino, Path(f"/proc/self/fd/{file}")
        if path.is_dir():
            self._names[number] = {each.name: each.inode() for each in os.scandir(file)}
        else:
            self._files[number] = path.read_bytes()

    def cut(self, into: Path) -> None:
        """Write what is on the disk now into a folder."""
        self._put(self._root.stat().st_ino, self._root, into)
        with sqlite3.connect(self._root / "mlflow.db") as live, sqlite3.connect(into / "mlflow.db") as kept:
            live.backup(kept)  # SQLite syncs what it says that it has written

    def _put(self, number: int, live: Path, target: Path) -> None:
        target.mkdir()
        for name, child in self._names.get(number, {}).items():
            if child in self._names or (live / name).is_dir():
                if (live / name).exists():
                    self._put(child, live / name, target / name)
            elif (live / name).exists() and name != "mlflow.db":
                (target / name).write_bytes(self._files.get(child, b""))

    def close(self) -> None:
        for file in self._held:
            os.close(file)


def test_a_trial_that_has_ended_stays_ended_wherever_the_power_goes(store, tmp_path, monkeypatch) -> None:
    disk = Disk(store.root, monkeypatch)
    sync_tree(store.root)
    sync(store.root.parent)
    ended: list[tuple[Path, tuple[int, ...]]] = []

    def cut(*seeds: int) -> None:
        ended.append((tmp_path / f"cut{len(ended)}", seeds))
        disk.cut(ended[-1][0])
        (ended[-1][0] / "artifacts" / "study").mkdir(parents=True, exist_ok=True)  # it is looked at in another place

    work = tmp_path / "work"
    (work / MODEL_FOLDER).mkdir(parents=True)
    (work / MODEL_FOLDER / "weights").write_text("weights")
    tracker = opened(store)
    assert tracker._sender is not None
    for seed in (1, 2):
        sent = tracker._sender._done
        monkeypatch.setattr(tracker._sender, "_done", lambda window: None)  # not yet sent, then sent and not noted
        finish(tracker, seed, work)
        cut(*range(1, seed + 1))
        monkeypatch.setattr(tracker._sender, "_done", sent)
        tracker.wait()
        cut(*range(1, seed + 1))
    tracker.model(key(1), work / MODEL_FOLDER)
    tracker.wait()
    cut(1, 2)
    tracker.close()
    cut(1, 2)
    disk.close()
    for place, seeds in ended:
        kept = Store.at(place)
        assert opened(kept).close() == Unsent()
        found = {trial.seed: trial for trial in load_results(kept, "study").trials}
        assert {seed: found[seed].status for seed in seeds} == dict.fromkeys(seeds, "FINISHED")
        assert {seed: found[seed].reciprocal_ranks["test"].tolist() for seed in seeds} == {
            seed: [1 / seed] for seed in seeds
        }
