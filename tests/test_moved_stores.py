"""Stores that were moved or copied: all that is read and written lies in the store that was named, and the original is
as it was, whether it is still there, in use or gone."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from remedies import printed, typed

from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import MODEL_FOLDER, StudyRecord, TrialKey
from softnce_ray.store import Store, StoreError
from softnce_ray.tracking import Tracker, download_model, load_results, serving
from softnce_ray.tracking.history import load_background, load_query_ids
from softnce_ray.tracking.models import register
from softnce_ray.tracking.moved import at_home
from softnce_ray.tracking.selecting import kept_bytes, load_validation, record_choice

RECORD = StudyRecord("study", "why?", "one", ("one",), ("python",), (1, 2), "c", "c0ffee", "study: text\n")


def key(seed: int) -> TrialKey:
    return TrialKey("one", "python", "confirm", seed, f"{seed:016}")


def end(tracker: Tracker, seed: int, work: Path) -> None:
    """End a trial with a rank that is its seed's."""
    values = {"reciprocal_rank": {"valid": np.array([1 / seed]), "test": np.array([1 / seed])}, "graded_ndcg": {}}
    write_ranks(work / RANKS_FILE, {"valid": ["a"], "test": ["b"]}, values)  # type: ignore[arg-type]
    tracker.trial_ended(key(seed), "FINISHED", metrics={"best_valid_mrr": 1 / seed}, ranks=work / RANKS_FILE)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in mid-study, in a folder whose name URIs would read otherwise: a trial has ended and keeps a model, and
    another runs."""
    root, work = tmp_path_factory.mktemp("begun") / "job%20a?b#c", tmp_path_factory.mktemp("work")
    tracker = Tracker(Store.at(root), RECORD, versions={})
    tracker.arm_started("one", {"loss.name": "infonce"})
    for seed in (1, 2):
        tracker.trial_started(key(seed), {"training.epochs": 2})
        tracker.epoch(key(seed), {"epoch": 1, "best_valid_mrr": 0.5}, at=seed)
    end(tracker, 1, work)
    (work / MODEL_FOLDER).mkdir()
    (work / MODEL_FOLDER / "weights").write_text("weights")
    tracker.model(key(1), work / MODEL_FOLDER)
    tracker.wait()
    tracker.close()
    return root


@pytest.fixture
def original(begun: Path, tmp_path: Path) -> Store:
    """The store in a place of its own, where it says that it was made."""
    store = Store.at(tmp_path / "original" / begun.name)
    shutil.copytree(begun, store.root)
    with at_home(store):
        pass
    return store


@pytest.fixture(params=["there", "gone"])
def copied(request: pytest.FixtureRequest, original: Store, tmp_path: Path) -> Iterator[Store]:
    """A copy of the store: of one that is there and stays as it is, or of one that is gone."""
    copy = Store.at(tmp_path / "copy{d}%2F")
    shutil.copytree(original.root, copy.root)
    before = snapshot(original.root)
    if request.param == "gone":
        shutil.rmtree(original.root.parent)
    yield copy
    if request.param == "gone":
        assert not original.root.parent.exists()
    else:
        assert snapshot(original.root) == before


def snapshot(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """All that lies below a folder: inode, size, time and content."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_ino,
            path.stat().st_size if path.is_file() else 0,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in root.rglob("*")
    }


def content(store: Store) -> bytes:
    """All values of the database: its file keeps pages that were freed."""
    with sqlite3.connect(store.root / "mlflow.db") as base:
        return "\n".join(base.iterdump()).encode()


def trial(store: Store, seed: int) -> str:
    (run,) = [each.run_id for each in load_results(store, "study", ranks=False).trials if each.seed == seed]
    return run


def test_a_copy_is_read_as_the_original_was_and_not_changed(copied, tmp_path) -> None:
    before = content(copied)
    (ended,) = [each for each in load_results(copied, "study").trials if each.status == "FINISHED"]
    assert ended.reciprocal_ranks["test"].tolist() == [1.0]
    assert load_background(copied, "study").text == "study: text\n"
    assert load_query_ids(copied, ended.run_id) == {"valid": ("a",), "test": ("b",)}
    assert (download_model(copied, ended.run_id, tmp_path) / "weights").read_text() == "weights"
    assert kept_bytes(copied, ended.run_id) == len("weights")
    assert load_validation(copied, "study").trials[0].reciprocal_ranks["valid"].tolist() == [1.0]
    record_choice(copied, "study", "python", ended.run_id, "{}")
    assert str(copied.root).encode() not in before
    assert content(copied).count(b"original") == before.count(b"original")


def test_a_file_that_a_copy_lacks_is_not_taken_from_the_original(original, tmp_path) -> None:
    copy = Store.at(tmp_path / "copy")
    shutil.copytree(original.root, copy.root)
    load_results(original, "study")  # what this process knows of a run is of its store
    (ranks,) = copy.root.rglob(RANKS_FILE)
    values = {"reciprocal_rank": {"test": np.array([0.25])}, "graded_ndcg": {}}
    write_ranks(ranks, {"test": ["b"]}, values)  # type: ignore[arg-type]
    finished = [each for each in load_results(copy, "study").trials if each.status == "FINISHED"]
    assert finished[0].reciprocal_ranks["test"].tolist() == [0.25]
    ranks.unlink()
    (damaged,) = [each for each in load_results(copy, "study").trials if each.status == "FINISHED"]
    assert "as it was written" in damaged.failure and not damaged.reciprocal_ranks
    assert load_results(original, "study").trials


def test_a_copy_is_gone_on_with_and_registers_models_in_itself(copied, tmp_path) -> None:
    tracker = Tracker(copied, RECORD, versions={})
    assert {each.seed: known.status for each, known in tracker.known().items()} == {1: "FINISHED", 2: "KILLED"}
    tracker.arm_started("one", {"loss.name": "infonce"})
    tracker.trial_started(key(2), {"training.epochs": 2}, attempt=2)
    end(tracker, 2, tmp_path)
    tracker.trial_started(key(3), {"training.epochs": 2})  # one that is made here
    end(tracker, 3, tmp_path)
    (tmp_path / MODEL_FOLDER).mkdir()
    (tmp_path / MODEL_FOLDER / "weights").write_text("others")
    tracker.model(key(3), tmp_path / MODEL_FOLDER)
    tracker.study_files({"report.html": "a page"})
    tracker.study_ended("FINISHED")
    assert tracker.wait()
    assert not tracker.close()
    assert {each.seed: each.status for each in load_results(copied, "study").trials} == dict.fromkeys(
        (1, 2, 3), "FINISHED"
    )
    register(copied, tmp_path / MODEL_FOLDER, "name", run_id=trial(copied, 3), tags={})
    client = MlflowClient(copied.tracking_uri)  # what knows nothing of us finds it too
    source = client.get_model_version_by_alias("name", "champion").source
    assert source is not None and source.startswith(f"{copied.artifact_root}/study/")
    for seed, text in ((1, "weights"), (3, "others")):
        folder = Path(client.download_artifacts(trial(copied, seed), MODEL_FOLDER, str(tmp_path / MODEL_FOLDER)))
        assert (folder / "weights").read_text() == text
    assert b"/original/" not in content(copied)


def test_a_copy_that_was_killed_sends_what_it_has_and_opens_in_a_browser(copied, tmp_path, monkeypatch) -> None:
    """What lay in the original's folder when there was no room to keep it lies in the copy's."""
    tracker = Tracker(copied, RECORD, versions={})
    tracker.arm_started("one", {"loss.name": "infonce"})
    tracker.trial_started(key(2), {"training.epochs": 2}, attempt=2)
    tracker.wait()
    assert tracker._sender is not None and tracker._journal is not None
    tracker._sender.stop()
    monkeypatch.setattr(tracker._journal, "keep", no_room)
    checkpoint = copied.root / "ray" / "study" / "launch" / "trial"
    checkpoint.mkdir(parents=True)
    end(tracker, 2, checkpoint)
    tracker.abandon()  # as a killed process leaves it
    again = Store.at(tmp_path / "again")
    shutil.copytree(copied.root, again.root)
    before = snapshot(copied.root)
    tracker = Tracker.to_sync(again, "study")
    assert tracker.wait()
    assert not tracker.close()
    finished = {each.seed: each for each in load_results(again, "study").trials}
    assert finished[2].reciprocal_ranks["test"].tolist() == [0.5]
    called: list[list[str]] = []
    monkeypatch.setattr(serving.os, "execv", lambda program, command: called.append(command))
    serving.serve(again, host="127.0.0.1", port=0)
    assert again.artifact_root in called[0]
    assert b"/original/" not in content(again)
    assert snapshot(copied.root) == before


def no_room(*files: Path) -> str:
    raise OSError(28, "No space left on device")


# --- what is refused ---


def refused(act: Callable[[], object], match: str) -> None:
    with pytest.raises(StoreError, match=match):
        act()


def test_a_database_that_was_copied_alone_is_refused(original, tmp_path) -> None:
    copy = Store.at(tmp_path / "copy")
    copy.root.mkdir()
    shutil.copy(original.root / "mlflow.db", copy.root)
    before = snapshot(original.root)
    match = (
        r"expected the files of study study at .*/copy/artifacts/study, .* got .*/original/.*: copy them with `mkdir"
    )
    refused(lambda: load_results(copy, "study"), match)
    refused(lambda: Tracker(copy, RECORD, versions={}), match)
    assert snapshot(original.root) == before
    named = Store.at(original.root, copy.tracking_uri)  # as the line says
    assert load_results(named, "study").trials
    with pytest.raises(StoreError) as caught:
        load_results(copy, "study")
    typed(" && ".join(printed(str(caught.value))), tmp_path)  # or so
    assert load_results(copy, "study").trials


def test_a_copied_link_to_the_originals_files_is_refused_and_one_to_a_moved_store_is_not(original, tmp_path) -> None:
    copy = Store.at(tmp_path / "copy")
    shutil.copytree(original.root, copy.root, ignore=shutil.ignore_patterns("artifacts"))
    (copy.root / "artifacts").symlink_to(original.root / "artifacts")
    assert load_results(copy, "study").trials
    before = snapshot(original.root)
    with pytest.raises(StoreError, match=r"expected files of its own in the store .*, got a link") as caught:
        Tracker(copy, RECORD, versions={})
    typed(" && ".join(printed(str(caught.value))), tmp_path)
    Tracker(copy, RECORD, versions={}).close()
    assert snapshot(original.root) == before
    moved = Store.at(tmp_path / "moved")
    original.root.rename(moved.root)
    original.root.symlink_to(moved.root)
    Tracker(moved, RECORD, versions={}).close()


def test_a_copy_of_a_database_in_mid_write_is_refused(original, tmp_path) -> None:
    copy = Store.at(tmp_path / "copy")
    shutil.copytree(original.root, copy.root)
    with (copy.root / "mlflow.db").open("r+b") as file:
        file.seek(-4096 * 3, 2)
        file.write(b"\0" * 4096)
    refused(lambda: at_home(copy).__enter__(), r"mlflow.db is damaged .*: it was copied while it was written")


def test_a_store_is_not_moved_under_a_launch_that_knows_it_by_another_path(original, tmp_path) -> None:
    """As a container and its host see one folder."""
    here = Store.at(tmp_path / "here")
    shutil.copytree(original.root, here.root)
    with at_home(here):
        with at_home(here):  # another study's launch from the same place
            pass
        there = "file:///there/artifacts"
        with sqlite3.connect(here.root / "mlflow.db") as base:  # as the other place's launch had it
            base.execute("UPDATE experiments SET artifact_location = ? || '/study' WHERE name = 'study'", (there,))
        refused(lambda: at_home(here).__enter__(), "expected nobody to write the store .* from another place")
    with at_home(here):
        pass


def test_files_of_a_server_or_in_another_storage_are_left_where_they_are(original, tmp_path) -> None:
    copy = Store.at(tmp_path / "copy")
    shutil.copytree(original.root, copy.root)
    with sqlite3.connect(copy.root / "mlflow.db") as base:
        base.execute("UPDATE experiments SET artifact_location = 's3://bucket/artifacts/study' WHERE name = 'study'")
    before = content(copy)
    with at_home(copy), at_home(Store.at(copy.root, "http://server")):
        assert content(copy) == before
