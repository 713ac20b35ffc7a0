"""What the store tells of how long trials took, and of which have ended."""

from __future__ import annotations

import dataclasses
import time

import pytest
from mlflow import MlflowClient

from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker
from softnce_ray.tracking.durations import load_ended, load_timed

RECORD = StudyRecord("timed", "", "plain", ("plain",), ("python",), (1, 2), "c", "fingerprint", "", {"plain": "d"})
BAG = {"encoder.kind": "bag", "training.epochs": 3}


def key(seed: int, phase: str = "confirm") -> TrialKey:
    return TrialKey("plain", "python", phase, seed, f"{phase}{seed}")


def write(tracker: Tracker, of: TrialKey, apart: int = 4, *, before: int = 0, **ending: object) -> None:
    """A trial of three epochs that end `apart` milliseconds after one another, the first `before` its start."""
    tracker.trial_started(of, BAG, attempt=int(ending.pop("attempt", 1)))  # type: ignore[call-overload]
    started = round(time.time() * 1000)
    for epoch in (1, 2, 3):
        at = started - before + epoch * apart
        metrics = {"epoch": epoch, "train_seconds": 0.5, "pairs_per_second": 100.0, "best_valid_mrr": 0.5}
        tracker.epoch(of, metrics, at=at)
    time.sleep(0.02)  # until the last of them is over
    tracker.trial_ended(of, **{"status": "FINISHED", **ending})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("durations")
    store = Store.at(folder, f"sqlite:///{folder / 'mlflow.db'}")
    tracker = Tracker(store, RECORD, versions={"resources": "1 CPUs"})
    tracker.known()
    tracker.arm_started("plain", {"encoder.kind": "bag"})
    write(tracker, key(1))
    write(tracker, key(2), attempt=2)  # was interrupted
    write(tracker, key(3), before=60_000)  # took the epochs of another trial
    write(tracker, key(0, "search"), stopped_early=True)
    write(tracker, key(4, "search"), status="FAILED", failure="no number", kind="diverged")
    write(tracker, key(5, "search"), status="FAILED", failure="killed", kind="worker")
    assert not tracker.close()
    return store


def test_a_trial_is_timed_from_its_start_to_its_end_and_its_epochs_from_one_to_the_next(store: Store) -> None:
    stopped, plain = load_timed(store, ["bag"], "fingerprint")
    assert [stopped.phase, plain.phase] == ["search", "confirm"]
    client = MlflowClient(store.tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'timed'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.phase = 'confirm' and tags.seed = '1'")
    assert plain.seconds == (run.info.end_time - run.info.start_time) / 1000
    assert (plain.epochs, plain.epoch_seconds, plain.pairs) == (3, 0.004, 50)
    assert (plain.corpus, plain.resources) == ("fingerprint", "1 CPUs")
    assert plain.settings == {"encoder.kind": "bag", "training.epochs": "3"}


def test_trials_of_other_corpora_are_told_too_and_other_encoders_are_not(store: Store) -> None:
    assert [trial.corpus for trial in load_timed(store, ["bag"], "other")] == ["fingerprint"] * 2
    assert load_timed(store, ["minilm"], "fingerprint") == []


def test_what_a_launch_would_not_run_again_has_ended(store: Store) -> None:
    """Three confirmations, and of the search what finished and what its settings made fail."""
    found = load_ended(store, "timed", {"plain": "d"})
    assert found == {
        **{("plain", "python", "confirm", seed): 1 for seed in (1, 2, 3)},
        **{("plain", "python", "search", seed): 1 for seed in (0, 4)},
    }
    assert not load_ended(store, "timed", {"plain": "another meaning"})
    assert not load_ended(store, "another study", {})


def test_a_confirmation_that_another_choice_replaced_has_not_ended(store: Store) -> None:
    tracker = Tracker(store, dataclasses.replace(RECORD, seeds=(1,)), versions={})
    tracker.supersede("plain", "python", ["confirm1"])
    assert not tracker.close()
    assert [seed for (_, _, phase, seed) in load_ended(store, "timed", {"plain": "d"}) if phase == "confirm"] == [1]
