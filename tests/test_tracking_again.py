"""What was written once and is written again: duplicates, runs that were left half done, results that were lost."""

from __future__ import annotations

import itertools
import threading
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from softnce_ray.config import StudyConfig
from softnce_ray.distributions import DISTRIBUTIONS_FILE
from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import MODEL_FOLDER, StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.study.saved import save_study
from softnce_ray.tracking import Tracker, TrackingError, Unsent, load_results, sending
from softnce_ray.tracking.connection import search_runs
from softnce_ray.tracking.history import load_distributions
from softnce_ray.tracking.journal import Journal
from softnce_ray.tracking.records import Record

_numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store")
    return Store(root, f"sqlite:///{root}/mlflow.db")


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(tracking_uri=store.tracking_uri)


@pytest.fixture
def study() -> str:
    return f"again{next(_numbers)}"


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    path = tmp_path / RANKS_FILE
    values = {"reciprocal_rank": {"test": np.array([0.5, 1.0])}, "graded_ndcg": {}}
    write_ranks(path, {"test": ["a", "b"]}, values)  # type: ignore[arg-type]
    return path


def opened(store: Store, study: str) -> Tracker:
    record = StudyRecord(study, "why?", "one", ("one",), ("python",), (1, 2), "c", "c0ffee", "study: text\n")
    tracker = Tracker(store, record, versions={})
    tracker.arm_started("one", {"loss.name": "infonce"})
    return tracker


def key(seed: int = 1) -> TrialKey:
    return TrialKey("one", "python", "confirm", seed, f"{seed:016}")


def runs(client: MlflowClient, study: str, role: str = "trial") -> list[Run]:
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    return search_runs(client, experiment.experiment_id, f"tags.role = '{role}'")


def finish(tracker: Tracker, which: TrialKey, ranks: Path) -> None:
    tracker.trial_started(which, {"training.epochs": 1})
    tracker.epoch(which, {"epoch": 1, "best_valid_mrr": 0.5})
    tracker.trial_ended(which, "FINISHED", metrics={"epoch": 1, "test_mrr": 0.5}, ranks=ranks)


def twin(client: MlflowClient, run: Run) -> str:
    """A run of the same thing, as a request makes whose first answer was lost."""
    return client.create_run(
        run.info.experiment_id, start_time=run.info.start_time - 1, tags=dict(run.data.tags)
    ).info.run_id


@pytest.mark.parametrize("when", ["opening", "end"])
def test_of_runs_of_the_same_thing_the_one_that_counts_stays(client, store, study, ranks, when: str) -> None:
    tracker = opened(store, study)
    finish(tracker, key(), ranks)
    tracker.wait()
    (trial,), (arm,), (parent,) = (runs(client, study, role) for role in ("trial", "arm", "study"))
    for run in (trial, arm, parent) if when == "opening" else (trial, arm):
        twin(client, run)
    assert len(runs(client, study)) == 2
    assert [each.run_id for each in load_results(store, study).trials] == [trial.info.run_id]
    assert tracker.known()[key()].run_id == trial.info.run_id
    if when == "opening":
        tracker.close()
        tracker = opened(store, study)
    else:
        tracker.study_ended("FINISHED")
    assert tracker.close() == Unsent()
    for role, kept in (("trial", trial), ("arm", arm), ("study", parent)):
        assert [run.info.run_id for run in runs(client, study, role)] == [kept.info.run_id]


def test_a_run_that_was_made_and_not_filled_gets_its_parameters(client, store, study) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(1), {"temperature": 0.05})
    tracker.wait()
    (first,) = runs(client, study)
    tags = {**first.data.tags, "seed": "2", "identity": key(2).identity}
    empty = client.create_run(first.info.experiment_id, tags=tags).info.run_id
    tracker.close()
    tracker = opened(store, study)
    for seed in (1, 2):
        tracker.trial_started(key(seed), {"temperature": 0.05})
    assert tracker.close() == Unsent()
    assert {run.info.run_id: run.data.params for run in runs(client, study)} == {
        first.info.run_id: {"temperature": "0.05"},
        empty: {"temperature": "0.05"},
    }


def test_an_epoch_is_one_point_however_often_it_is_told(client, store, study) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(), {})
    tracker.epoch(key(), {"epoch": 1, "loss": 0.5}, at=1000)
    tracker.epoch(key(), {"epoch": 1, "loss": 0.5}, at=1000)
    tracker.epoch(key(), {"epoch": 1, "loss": 0.25}, at=2000)
    tracker.close()
    tracker = opened(store, study)
    tracker.trial_started(key(), {})
    tracker.epoch(key(), {"epoch": 1, "loss": 0.5}, at=1000)
    tracker.epoch(key(), {"epoch": 1, "loss": 0.125}, at=3000)
    tracker.epoch(key(), {"epoch": 2, "loss": 0.25}, at=4000)
    assert tracker.close() == Unsent()
    (run,) = runs(client, study)
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.timestamp, point.value) for point in points] == [(1, 1000, 0.5), (2, 4000, 0.25)]


def test_a_failure_has_a_kind_until_its_trial_starts_again(client, store, study) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(), {})
    tracker.trial_ended(key(), "FAILED", failure="no memory", kind="memory", traceback="Trace")
    tracker.wait()
    (run,) = runs(client, study)
    tags = ("failure", "failure_kind", "attempts")
    assert [run.data.tags.get(name) for name in tags] == ["no memory", "memory", "1"]
    tracker.trial_started(key(), {}, attempt=2)
    assert tracker.close() == Unsent()
    (run,) = runs(client, study)
    assert [run.data.tags.get(name) for name in tags] == [None, None, "2"]
    assert run.info.status == "RUNNING"


def test_a_finished_trial_that_lost_its_ranks_has_to_run_again(client, store, study, ranks) -> None:
    tracker = opened(store, study)
    for seed in (1, 2):
        finish(tracker, key(seed), ranks)
    tracker.wait()
    lost = next(run for run in runs(client, study) if run.data.tags["seed"] == "1")
    (store.root / "artifacts" / study / lost.info.run_id / "artifacts" / RANKS_FILE).unlink()
    known = tracker.known()
    assert (known[key(1)].status, known[key(1)].failure) == ("KILLED", "its ranks are gone")
    assert (known[key(2)].status, known[key(2)].failure) == ("FINISHED", "")
    finish(tracker, key(1), ranks)
    tracker.wait()
    assert {each.status for each in tracker.known().values()} == {"FINISHED"}
    assert tracker.close() == Unsent()
    assert len(load_results(store, study).trials) == 2


def test_what_fails_while_all_else_goes_is_given_up_and_not_finished(client, store, study, ranks, monkeypatch) -> None:
    monkeypatch.setattr(sending, "_FIRST_PAUSE", 0.001)
    tracker = opened(store, study)
    tracker.trial_started(key(1), {})
    tracker.wait()
    (run,) = runs(client, study)
    place = store.root / "artifacts" / study / run.info.run_id
    place.mkdir(exist_ok=True)
    for empty in place.iterdir():
        empty.rmdir()
    (place / "artifacts").write_text("a file where a folder should be")
    tracker.trial_ended(key(1), "FINISHED", ranks=ranks)
    finish(tracker, key(2), ranks)
    unsent = tracker.close()
    assert (unsent.records, len(unsent.refused), bool(unsent)) == (0, 1, True)
    assert {run.data.tags["seed"]: run.info.status for run in runs(client, study)} == {"1": "FAILED", "2": "FINISHED"}
    assert next((store.spool(study) / "files").rglob(RANKS_FILE)).read_bytes() == ranks.read_bytes()


def test_a_model_that_was_cut_off_is_kept_whole(client, store, study, ranks, tmp_path) -> None:
    model = tmp_path / "trained"
    model.mkdir()
    for name in ("settings", "weights"):
        (model / name).write_text(name)
    tracker = opened(store, study)
    finish(tracker, key(), ranks)
    tracker.wait()
    (run,) = runs(client, study)
    client.log_artifact(run.info.run_id, str(model / "settings"), MODEL_FOLDER)
    tracker.model(key(), model)
    assert tracker.close() == Unsent()
    kept = {file.path for file in client.list_artifacts(run.info.run_id, MODEL_FOLDER)}
    assert kept == {f"{MODEL_FOLDER}/settings", f"{MODEL_FOLDER}/weights"}


def test_no_run_stays_open_when_a_study_has_ended(client, store, study) -> None:
    tracker = opened(store, study)
    tracker.trial_started(key(), {})
    tracker.study_ended("FINISHED")
    assert tracker.close() == Unsent()
    statuses = {role: [run.info.status for run in runs(client, study, role)] for role in ("study", "arm", "trial")}
    assert statuses == {"study": ["FINISHED"], "arm": ["FINISHED"], "trial": ["KILLED"]}


def test_synchronising_opens_nothing_and_a_study_that_is_not_there_is_an_error(client, store, study) -> None:
    tracker = opened(store, study)
    tracker.study_ended("FINISHED")
    tracker.close()
    syncing = Tracker.to_sync(store, study)
    syncing.arm_summary("one", {"test_mrr": 0.5})
    assert syncing.close() == Unsent()
    assert {run.info.status for role in ("study", "arm") for run in runs(client, study, role)} == {"FINISHED"}
    assert runs(client, study, "arm")[0].data.metrics == {"test_mrr": 0.5}
    with pytest.raises(TrackingError, match="no study 'nothing' in the MLflow store"):
        Tracker.to_sync(store, "nothing")


def test_a_study_that_was_interrupted_before_its_first_trial_is_told_with_how_it_goes_on(client, store, study) -> None:
    config = {"study": study, "corpus": "c", "languages": ["python"], "seeds": [1], "arms": {"infonce": {}}}
    save_study(store, StudyConfig.model_validate(config))
    for read in (load_results, Tracker.to_sync):
        with pytest.raises(
            TrackingError, match=f"none of its trials has started .*`softnce-ray resume {study} --store"
        ):
            read(store, study)
    tracker = opened(store, study)
    tracker.close()
    assert load_results(store, study).trials == ()


def test_where_no_journal_can_be_kept_records_go_out_from_memory(client, store, study, ranks) -> None:
    store.spool("x").parent.mkdir(exist_ok=True)
    store.spool(study).write_text("a file where the folder should be")
    tracker = opened(store, study)
    finish(tracker, key(), ranks)
    unsent = tracker.close()
    assert (unsent.records, unsent.refused, bool(unsent)) == (0, (), False)
    assert len(unsent.problems) == 1
    assert unsent.problems[0].startswith("records are kept in memory only")
    assert [run.info.status for run in runs(client, study)] == ["FINISHED"]


def test_a_closed_tracker_takes_nothing(store, study) -> None:
    tracker = opened(store, study)
    assert tracker.close() == tracker.close() == Unsent()
    with pytest.raises(RuntimeError, match="is closed"):
        tracker.study_ended("FINISHED")


@pytest.mark.parametrize("journal", [True, False])
def test_distributions_are_logged_with_the_ranks_after_their_file_has_gone(
    client, store, study, ranks, journal, monkeypatch
) -> None:
    """Without a journal the file itself is read: the trial ends without what is gone by then."""
    if not journal:
        monkeypatch.setattr(Journal, "keep", full)
    beside = ranks.with_name(DISTRIBUTIONS_FILE)
    beside.write_text("{}")
    tracker = opened(store, study)
    tracker.trial_started(key(), {})
    assert tracker.wait()
    held = threading.Event()
    log = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *args, **rest: held.wait(10) and log(*args, **rest))
    tracker.trial_ended(key(), "FINISHED", ranks=ranks, distributions=beside)
    beside.unlink()
    held.set()
    tracker.close()
    (run,) = runs(client, study)
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert (run.info.status, kept) == ("FINISHED", {RANKS_FILE} | ({DISTRIBUTIONS_FILE} if journal else set()))
    assert run.data.tags.get("distributions") == ("yes" if journal else None)
    found, problem = load_distributions(store, study, [run.info.run_id])
    assert found == {} and ("damaged" in problem) == journal
    assert load_distributions(store, study, []) == ({}, "")


def full(*_: object) -> str:
    raise OSError("no room")


def test_a_trial_of_an_older_journal_or_without_distributions_ends_as_before(client, store, study, ranks) -> None:
    tracker = opened(store, study)
    finish(tracker, key(1), ranks)
    tracker.trial_started(key(2), {})
    tracker.trial_ended(key(2), "FINISHED", ranks=ranks, distributions=ranks.with_name("nowhere.json"))
    tracker.wait()
    old = {"key": list(astuple(key(1))), "status": "FINISHED", "metrics": {}, "stopped_early": False, "failure": ""}
    old |= {"failure_kind": "", "traceback": "", "source": str(ranks)}
    tracker._runs.apply([Record("trial_ended", 1, old, None)])
    assert tracker.close() == Unsent()
    for run in runs(client, study):
        assert run.info.status == "FINISHED"
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == [RANKS_FILE]
