"""MLflow on a real SQLite store: what is written, what is read back, and what happens when it cannot be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from remedies import printed, typed

from softnce_ray.config import TrainingSet
from softnce_ray.ranks_file import RANKS_FILE, read_ranks, write_ranks
from softnce_ray.report import build_report
from softnce_ray.results import MODEL_FOLDER, StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker, TrackingError, Unsent, download_model, load_results, studies
from softnce_ray.tracking.history import load_query_ids
from softnce_ray.tracking.long_tags import LONGEST, from_pieces, in_pieces
from softnce_ray.tracking.selecting import load_validation

_numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One fresh store for all tests here: making a database takes seconds. Each test has a study of its own."""
    root = tmp_path_factory.mktemp("store")
    return Store(root, f"sqlite:///{root}/mlflow.db")


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(tracking_uri=store.tracking_uri)


@pytest.fixture
def study() -> str:
    return f"study{next(_numbers)}"


def record(study: str, **changes: Any) -> StudyRecord:
    values: dict[str, Any] = {
        "study": study,
        "question": "why?",
        "baseline": "one",
        "arms": ("one", "two"),
        "languages": ("python",),
        "seeds": (1, 2),
        "corpus": "corpora/c",
        "corpus_fingerprint": "c0ffee",
        "text": "study: text\n",
    }
    return StudyRecord(**{**values, **changes})


@pytest.fixture
def open_tracker(store: Store, study: str) -> Iterator[Callable[..., Tracker]]:
    """A function that opens the test's study, as each launch does: after the one before was closed or killed. What
    could not be written fails the test."""
    opened: list[Tracker] = []

    def make(**changes: Any) -> Tracker:
        if opened:
            kill(opened.pop())
        tracker = Tracker(store, record(study, **changes), versions={"version.softnce_ray": "0.0"})
        opened.append(tracker)
        for arm in changes.get("arms", ("one", "two")):
            tracker.arm_started(arm, {"loss.name": "infonce", "estimator": None, "training.epochs": 2})
        return tracker

    yield make
    for tracker in opened:
        assert tracker.close() == Unsent()


def kill(tracker: Tracker) -> None:
    """As if its process had been killed when everything was sent: nothing is closed, its lock is gone."""
    tracker.wait()
    tracker.abandon()


def key(arm: str = "one", phase: str = "confirm", seed: int = 1, identity: str = "abcdef0123456789") -> TrialKey:
    return TrialKey(arm, "python", phase, seed, identity)


def metrics(epoch: int, **more: float) -> dict[str, float]:
    return {"epoch": epoch, "train_loss": 1 / epoch, "valid_mrr": epoch / 10, "best_valid_mrr": epoch / 10, **more}


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    """A file of ranks whose ids are in no order and whose values name their place."""
    values = np.array([0.5, 0.125, 1.0, 0.25])
    path = tmp_path / RANKS_FILE
    ids = {"valid": ["d", "a"], "test": ["z", "b", "y", "a"]}
    write_ranks(path, ids, {"reciprocal_rank": {"valid": values[:2], "test": values}, "graded_ndcg": {}})
    return path


def test_measures_of_queries_are_kept_beside_one_another(tmp_path) -> None:
    ids = {"valid": ["d", "a"], "test": ["z", "b", "y"]}
    ranks = {"valid": np.array([0.5, 0.125]), "test": np.array([1.0, 0.25, 0.5])}
    graded = {"valid": np.array([0.75, 0.5]), "test": np.array([0.125, 1.0, 0.0625])}
    both: dict[str, dict[str, np.ndarray]] = {"reciprocal_rank": ranks, "graded_ndcg": graded, "recall@5": graded}
    one: dict[str, dict[str, np.ndarray]] = {"reciprocal_rank": ranks}
    for measures in (both, one):
        write_ranks(tmp_path / RANKS_FILE, ids, measures)
        found = read_ranks(tmp_path / RANKS_FILE)
        assert {name: {split: values.tolist() for split, values in each.items()} for name, each in found.items()} == {
            name: {split: values.tolist() for split, values in each.items()} for name, each in measures.items()
        }


def test_another_name_type_or_value_of_a_column_is_found_by_the_digest(ranks: Path) -> None:
    """The checksums of Parquet's pages are right in a file that was written again."""
    table = pq.read_table(ranks)
    names = table.column_names
    changed = {
        "name": table.rename_columns(["key" if name == "split" else name for name in names]),
        "order": table.rename_columns([names[1], names[0], *names[2:]]),
        "type": table.set_column(2, "reciprocal_rank", table.column(2).cast("float32")),
        "value": table.set_column(2, "reciprocal_rank", pc.multiply(table.column(2), 0.5)),
        "null": table.set_column(2, "reciprocal_rank", pc.if_else(pc.less(table.column(2), 1), table.column(2), None)),
        "fewer": table.slice(1),
    }
    for other in changed.values():
        pq.write_table(other.replace_schema_metadata(table.schema.metadata), ranks)
        with pytest.raises(ValueError, match="digest"):
            read_ranks(ranks)
    pq.write_table(table, ranks, row_group_size=1, compression="none")
    assert set(read_ranks(ranks)) == {"reciprocal_rank"}


def test_what_is_longer_than_a_tag_of_mlflow_comes_back_whole(open_tracker, client, study, store, ranks) -> None:
    """Hundreds of arms, languages and seeds: the definitions alone are some 40,000 characters."""
    definitions = {f"arm {number}/python": f"{number:016x}" for number in range(1000)} | {"one/python": "meaning"}
    languages, seeds = ("python", *(f"language {number}" for number in range(1000))), tuple(range(10**8, 10**8 + 1000))
    tracker = open_tracker(definitions=definitions, languages=languages, seeds=seeds, family="language")
    finish(tracker, key(), ranks)
    tracker.study_ended("FINISHED")
    tracker.study_summary({}, "a line of the report\n" * 1000)
    assert tracker.close() == Unsent()
    (parent,) = runs(client, study, "study")
    assert max(map(len, parent.data.tags.values())) <= 8000  # PostgreSQL refuses more, other stores cut it
    note = parent.data.tags["mlflow.note.content"]
    assert note.endswith("a line of the report\n\n(the report has the rest)")
    assert [trial.arm for trial in load_results(store, study).trials] == ["one"]
    results = load_results(store, study)
    assert (results.languages, results.seeds, results.family) == (languages, seeds, "language")
    shorter = open_tracker(definitions={"one/python": "meaning"})  # pieces of before are left over
    assert shorter.close() == Unsent()
    assert [trial.arm for trial in load_results(store, study).trials] == ["one"]


@given(st.text(max_size=30), st.integers(0, 2000))
def test_pieces_make_the_value_again(text, times) -> None:
    value = text * times
    assert from_pieces("x", {**in_pieces("x", "z" * 20_000), **in_pieces("x", value)}, "none") == value
    assert from_pieces("x", {"x": value}, "none") == value  # of an earlier version
    assert from_pieces("x", {}, "none") == "none"
    assert all(len(piece) < LONGEST for piece in in_pieces("x", value).values())


def finish(tracker: Tracker, which: TrialKey, ranks: Path, **more: float) -> None:
    tracker.trial_started(which, {"training.epochs": 2, "temperature": 0.05, "estimator": None})
    for epoch in (1, 2):
        tracker.epoch(which, metrics(epoch))
    tracker.trial_ended(which, "FINISHED", metrics={**metrics(2), "test_mrr": 0.46875, **more}, ranks=ranks)


def runs(client: MlflowClient, study: str, role: str) -> list[Run]:
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.role = '{role}'"))


def test_runs_nest_as_study_arm_trial(open_tracker, client, study, ranks) -> None:
    tracker = open_tracker()
    finish(tracker, key(), ranks)
    tracker.wait()
    (parent,) = runs(client, study, "study")
    arms = {run.data.tags["arm"]: run for run in runs(client, study, "arm")}
    (trial,) = runs(client, study, "trial")
    assert set(arms) == {"one", "two"}
    assert parent.info.run_id == tracker.parent_run_id
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in arms.values())
    assert trial.data.tags["mlflow.parentRunId"] == arms["one"].info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags


def test_the_experiment_is_the_study_and_its_artifacts_lie_in_the_store(open_tracker, client, store, study) -> None:
    open_tracker()
    experiment = client.get_experiment_by_name(study)
    assert experiment.artifact_location == f"{store.artifact_root}/{study}"
    assert studies(store)[0] == study
    assert (store.root / "artifacts" / study).is_dir()


def test_a_trial_has_its_settings_as_parameters_and_its_place_as_tags(open_tracker, client, study, ranks) -> None:
    tracker = open_tracker()
    finish(tracker, key(), ranks)
    tracker.wait()
    (trial,) = runs(client, study, "trial")
    assert trial.data.params == {"training.epochs": "2", "temperature": "0.05", "estimator.name": "none"}
    wanted = {"study": study, "arm": "one", "language": "python", "phase": "confirm", "seed": "1"}
    wanted |= {"identity": key().identity, "corpus_fingerprint": "c0ffee", "version.softnce_ray": "0.0"}
    assert wanted.items() <= trial.data.tags.items()
    assert trial.info.run_name == "one/python/confirm-1"


def test_metrics_of_epochs_have_their_steps(open_tracker, client, study, ranks) -> None:
    tracker = open_tracker()
    finish(tracker, key(), ranks)
    tracker.wait()
    (trial,) = runs(client, study, "trial")
    history = client.get_metric_history(trial.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history[:2]] == [(1, 1.0), (2, 0.5)]
    assert [point.step for point in client.get_metric_history(trial.info.run_id, "epoch")] == [1, 2]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_trial_ends_with_its_status(open_tracker, client, study, status: str) -> None:
    tracker = open_tracker()
    tracker.trial_started(key(), {})
    tracker.trial_ended(key(), status, failure="out of memory" if status == "FAILED" else "", traceback="Trace\nback")
    tracker.wait()
    (trial,) = runs(client, study, "trial")
    assert trial.info.status == status
    assert trial.info.end_time is not None
    assert trial.data.tags.get("failure") == ("out of memory" if status == "FAILED" else None)
    assert Path(client.download_artifacts(trial.info.run_id, "traceback.txt")).read_text() == "Trace\nback"


def test_arms_and_study_end_with_status_metrics_and_note(open_tracker, client, study) -> None:
    tracker = open_tracker()
    tracker.study_ended("FINISHED")
    tracker.arm_summary("one", {"python_test_mrr": 0.5})
    tracker.study_summary({"trials": 3}, "# table")
    tracker.wait()
    (parent,) = runs(client, study, "study")
    assert (parent.info.status, parent.data.metrics, parent.data.tags["mlflow.note.content"]) == (
        "FINISHED",
        {"trials": 3.0},
        "# table",
    )
    arms = {run.data.tags["arm"]: run for run in runs(client, study, "arm")}
    assert {name: (run.info.status, run.data.metrics) for name, run in arms.items()} == {
        "one": ("FINISHED", {"python_test_mrr": 0.5}),
        "two": ("FINISHED", {}),
    }
    assert Path(client.download_artifacts(parent.info.run_id, "study.yaml")).read_text() == "study: text\n"


def test_trials_of_an_arm_s_earlier_meaning_do_not_count_until_it_has_it_again(
    open_tracker, store, study, ranks
) -> None:
    first = open_tracker(definitions={"one": "before", "two": "same"})
    for arm in ("one", "two"):
        first.trial_started(key(arm), {})
        finish(first, key(arm), ranks)
    first.wait()
    changed = open_tracker(definitions={"one": "after", "two": "same"})
    changed.wait()
    assert [trial.arm for trial in load_results(store, study).trials] == ["two"]
    back = open_tracker(definitions={"one": "before", "two": "same"})
    back.wait()
    assert {trial.arm for trial in load_results(store, study).trials} == {"one", "two"}


def test_a_trial_that_an_arm_comes_to_by_another_search_counts_as_it_is(open_tracker, store, study, ranks) -> None:
    first = open_tracker(definitions={"one": "before"})
    first.trial_started(key(), {})
    finish(first, key(), ranks)
    first.wait()
    second = open_tracker(definitions={"one": "after"})
    second.known()
    second.supersede("one", "python", [key().identity])
    second.wait()
    assert len(load_results(store, study).trials) == 1


def test_training_sets_are_read_as_they_were_written_and_their_trials_count_by_a_meaning_of_their_own(
    open_tracker, store, study, ranks
) -> None:
    def changes(meaning: str, **languages: TrainingSet) -> dict[str, Any]:
        names = ("python", *languages)
        return {
            "languages": names,
            "training_sets": languages,
            "definitions": {"one": "plain", "two": "plain", "one/all": meaning},
        }

    both = TrainingSet.of_all(["python", "ruby"])
    several = TrialKey("one", "all", "confirm", 1, "b" * 16)
    first = open_tracker(**changes("of both", all=both))
    finish(first, key(), ranks)
    finish(first, several, ranks, **{"test_mrr/ruby": 0.5, "test_recall@1/ruby": 0.25})
    first.wait()
    results = load_results(store, study)
    assert (results.languages, dict(results.training_sets)) == (("python", "all"), {"all": both})
    (trial,) = [trial for trial in results.trials if trial.language == "all"]
    assert (trial.metrics["test_mrr/ruby"], trial.metrics["test_recall@1/ruby"]) == (0.5, 0.25)
    more = TrainingSet.of_all(["go", "python", "ruby"])
    open_tracker(**changes("of three", all=more)).wait()
    assert [trial.language for trial in load_results(store, study).trials] == ["python"]
    open_tracker(**changes("of both", all=both)).wait()
    assert sorted(trial.language for trial in load_results(store, study).trials) == ["all", "python"]
    open_tracker(**changes("of none")).wait()
    assert dict(load_results(store, study).training_sets) == {}


def test_reading_a_study_leaves_no_copies_of_its_files(
    open_tracker, store, study, ranks, tmp_path, monkeypatch
) -> None:
    tracker = open_tracker()
    tracker.trial_started(key(), {})
    finish(tracker, key(), ranks)
    tracker.wait()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (trial,) = load_results(store, study).trials
    assert len(trial.reciprocal_ranks["test"]) == 4
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_reopened_trial_keeps_its_run_and_repeats_no_epoch(open_tracker, client, study, ranks) -> None:
    first = open_tracker()
    first.trial_started(key(), {"training.epochs": 3})
    first.epoch(key(), metrics(1))
    first.epoch(key(), metrics(2))
    first.trial_ended(key(), "FAILED", failure="worker died")
    first.wait()

    second = open_tracker()
    known = second.known()[key()]
    assert (known.status, known.epochs, known.best_valid_mrr, known.failure) == ("FAILED", 2, 0.2, "worker died")
    second.trial_started(key(), {"training.epochs": 3})
    second.wait()
    (trial,) = runs(client, study, "trial")
    assert trial.info.status == "RUNNING"
    assert "failure" not in trial.data.tags
    for epoch in (2, 3):  # from the checkpoint after epoch 1
        second.epoch(key(), metrics(epoch))
    second.trial_ended(key(), "FINISHED", ranks=ranks)
    second.wait()
    (trial,) = runs(client, study, "trial")
    assert trial.info.run_id == known.run_id
    assert [point.step for point in client.get_metric_history(trial.info.run_id, "valid_mrr")] == [1, 2, 3]
    assert trial.info.status == "FINISHED"


def test_a_later_launch_continues_parent_and_arms(open_tracker, client, study) -> None:
    first = open_tracker()
    first.study_ended("KILLED")
    first.wait()
    second = open_tracker(question="why not?", seeds=(1, 2, 3))
    second.wait()
    assert second.parent_run_id == first.parent_run_id
    (parent,) = runs(client, study, "study")
    assert parent.info.status == "RUNNING"
    assert (parent.data.tags["question"], parent.data.tags["seeds"]) == ("why not?", "[1, 2, 3]")
    assert len(runs(client, study, "arm")) == 2


def test_an_arm_with_other_settings_is_another_run_of_the_same_name(open_tracker, client, study) -> None:
    tracker = open_tracker()
    tracker.arm_started("one", {"loss.name": "infonce", "training.epochs": 9})
    tracker.wait()
    ones = [run for run in runs(client, study, "arm") if run.data.tags["arm"] == "one"]
    assert sorted(run.data.params["training.epochs"] for run in ones) == ["2", "9"]


def test_what_a_killed_driver_left_running_is_closed_by_the_next_launch(open_tracker, client, study) -> None:
    dead = open_tracker()
    for seed in (1, 2):
        dead.trial_started(key(seed=seed), {})
    dead.arm_started("one", {"training.epochs": 9})
    dead.wait()
    alive = open_tracker()
    assert {known.status for known in alive.known().values()} == {"KILLED"}
    alive.trial_started(key(seed=1), {})
    alive.wait()
    assert {run.data.tags["seed"]: run.info.status for run in runs(client, study, "trial")} == {
        "1": "RUNNING",
        "2": "KILLED",
    }
    epochs = {run.data.params["training.epochs"]: run.info.status for run in runs(client, study, "arm")}
    assert epochs == {"2": "RUNNING", "9": "KILLED"}


def test_results_are_read_as_they_were_written(open_tracker, store, study, ranks) -> None:
    tracker = open_tracker()
    finish(tracker, key(), ranks, **{"test_recall@1": 0.25, "test_ndcg@10": 0.5})
    tracker.trial_started(key(phase="search", seed=0, identity="s" * 16), {})
    tracker.trial_ended(key(phase="search", seed=0, identity="s" * 16), "FINISHED", stopped_early=True)
    tracker.study_ended("FINISHED")
    tracker.wait()
    results = load_results(store, study)
    assert (results.study, results.question, results.baseline) == (study, "why?", "one")
    assert (results.arms, results.languages, results.seeds) == (("one", "two"), ("python",), (1, 2))
    assert (results.status, results.corpus_fingerprint) == ("FINISHED", "c0ffee")
    confirm, search = results.trials
    assert (confirm.arm, confirm.phase, confirm.seed, confirm.status) == ("one", "confirm", 1, "FINISHED")
    assert (confirm.metrics["test_recall@1"], confirm.metrics["test_ndcg@10"]) == (0.25, 0.5)
    assert confirm.settings["temperature"] == "0.05"
    assert (search.phase, dict(search.reciprocal_ranks)) == ("search", {})
    assert tracker.known()[key(phase="search", seed=0, identity="s" * 16)].stopped_early


def test_reciprocal_ranks_come_back_in_their_order(open_tracker, store, study, ranks) -> None:
    finish(tracker := open_tracker(), key(), ranks)
    tracker.wait()
    (trial,) = load_results(store, study).trials
    assert {split: values.tolist() for split, values in trial.reciprocal_ranks.items()} == {
        "valid": [0.5, 0.125],
        "test": [0.5, 0.125, 1.0, 0.25],
    }
    assert dict(load_results(store, study, ranks=False).trials[0].reciprocal_ranks) == {}


def test_superseded_trials_are_left_out_and_count_again_when_asked_for(open_tracker, store, study, ranks) -> None:
    tracker = open_tracker()
    old, new, other = key(identity="old"), key(seed=2, identity="new"), key(arm="two", identity="other")
    search = key(phase="search", seed=0, identity="search")
    for each in (old, new, other, search):
        finish(tracker, each, ranks)

    def counted() -> set[str]:
        tracker.wait()
        return {trial.identity for trial in load_results(store, study).trials}

    tracker.supersede("one", "python", ["new"])
    assert counted() == {"new", "other", "search"}
    again = open_tracker()
    again.known()
    again.supersede("one", "python", ["old", "new"])
    again.wait()
    assert counted() == {"old", "new", "other", "search"}


def test_trials_of_an_arm_that_is_no_longer_in_the_study_are_left_out(open_tracker, store, study, ranks) -> None:
    finish(tracker := open_tracker(), key(arm="two"), ranks)
    tracker.wait()
    open_tracker(arms=("one",))
    assert load_results(store, study).trials == ()


def test_the_model_of_the_best_is_kept_once_and_marked(open_tracker, client, store, study, ranks, tmp_path) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "settings.json").write_text("first")
    tracker = open_tracker()
    for seed in (1, 2):
        finish(tracker, key(seed=seed, identity=str(seed)), ranks)
    tracker.model(key(seed=1, identity="1"), folder)
    tracker.wait()
    (folder / "settings.json").write_text("later")
    tracker.model(key(seed=1, identity="1"), folder)
    tracker.model(key(seed=1, identity="1"), None)  # its checkpoints may be gone by then
    tracker.wait()
    by_seed = {run.data.tags["seed"]: run for run in runs(client, study, "trial")}
    kept = download_model(store, by_seed["1"].info.run_id, tmp_path)
    assert kept.name == MODEL_FOLDER
    assert (kept / "settings.json").read_text() == "first"
    with pytest.raises(TrackingError, match="keeps no model"):
        download_model(store, by_seed["2"].info.run_id, tmp_path)

    tracker.model(key(seed=2, identity="2"), folder)
    tracker.wait()
    marked = [run.data.tags["seed"] for run in runs(client, study, "trial") if "best_of_cell" in run.data.tags]
    assert marked == ["2"]


def test_two_studies_of_a_store_do_not_see_each_other(open_tracker, store, study, ranks) -> None:
    finish(tracker := open_tracker(), key(), ranks)
    tracker.wait()
    other = Tracker(store, record(f"{study}-other"), versions={})
    assert other.known() == {}
    assert other.close() == Unsent()
    assert load_results(store, f"{study}-other").trials == ()
    assert len(load_results(store, study).trials) == 1
    assert set(studies(store)[:2]) == {study, f"{study}-other"}


def test_results_of_a_store_that_is_not_there_are_an_error(tmp_path) -> None:
    absent = Store(tmp_path / "none", f"sqlite:///{tmp_path}/none/mlflow.db")
    with pytest.raises(TrackingError, match=r"no store at .*none: launch a study first"):
        load_results(absent, "study")
    assert not absent.root.exists()


def test_an_unknown_study_is_an_error_that_names_the_known(open_tracker, client, store, study) -> None:
    open_tracker()
    client.create_experiment("somebody-else", tags={"other": "yes"})
    with pytest.raises(TrackingError, match=f"no study 'nothing' .*; possible: {study}, ") as caught:
        load_results(store, "nothing")
    assert "somebody-else" not in str(caught.value)
    with pytest.raises(TrackingError, match="no study 'somebody-else'"):
        load_results(store, "somebody-else")


def test_an_unknown_baseline_is_an_error_before_any_trial_is_read(open_tracker, store, study, ranks) -> None:
    finish(tracker := open_tracker(), key(), ranks)
    tracker.wait()
    for file in (store.root / "artifacts" / study).rglob(RANKS_FILE):
        file.unlink()  # to read it would be another error
    with pytest.raises(TrackingError, match=f"baseline must be an arm of study '{study}', got 'tow'; .* one, two"):
        load_results(store, study, baseline="tow")
    assert load_results(store, study, baseline="two").trials[0].failure


def test_a_summary_that_is_made_again_adds_what_changed_at_the_next_step(open_tracker, client, study) -> None:
    tracker = open_tracker()
    for mrr, p in ((0.5, float("nan")), (0.5, float("nan")), (0.625, float("nan")), (0.5, 0.25)):
        tracker.arm_summary("one", {"python_test_mrr": mrr, "python_test_mrr_p": p})
        tracker.study_summary({"trials": 6 if mrr == 0.5 else 9, "failed": 0}, "a note")
    tracker.arm_summary("one", {"python_test_mrr": 0.5 + 1e-13, "ruby_test_mrr": 0.75})
    tracker.wait()

    def points(run: Run, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]

    (arm,) = [run for run in runs(client, study, "arm") if run.data.tags["arm"] == "one"]
    assert points(arm, "python_test_mrr") == [(0, 0.5), (1, 0.625), (2, 0.5)]
    assert [step for step, _ in points(arm, "python_test_mrr_p")] == [0, 1]
    assert points(arm, "ruby_test_mrr") == [(0, 0.75)]
    assert arm.data.metrics["python_test_mrr"] == 0.5 and arm.data.metrics["python_test_mrr_p"] == 0.25
    (parent,) = runs(client, study, "study")
    assert points(parent, "trials") == [(0, 6), (1, 9), (2, 6)]
    assert points(parent, "failed") == [(0, 0)]


def test_parameters_of_a_run_from_before_are_read_by_the_names_that_they_have_now(
    open_tracker, client, store, study, ranks
) -> None:
    finish(tracker := open_tracker(), key(), ranks)
    tracker.wait()
    (run,) = runs(client, study, "trial")
    before = {name.replace("estimator.name", "estimator"): value for name, value in run.data.params.items()}
    client.delete_run(run.info.run_id)
    old = client.create_run(run.info.experiment_id, tags={k: v for k, v in run.data.tags.items() if k[:6] != "mlflow"})
    for name, value in before.items():
        client.log_param(old.info.run_id, name, value)
    (trial,) = load_results(store, study).trials
    assert trial.settings == run.data.params


def test_an_experiment_of_somebody_else_is_not_written_to(client, store, study) -> None:
    client.create_experiment(study)
    with pytest.raises(TrackingError, match="is not one of ours: rename the study"):
        Tracker(store, record(study), versions={})
    assert not store.spool(study).exists()


def test_a_deleted_experiment_is_named_with_the_way_back(open_tracker, client, store, study) -> None:
    open_tracker().close()
    client.delete_experiment(client.get_experiment_by_name(study).experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        Tracker(store, record(study), versions={})


def test_a_store_that_cannot_be_opened_is_an_error_without_its_password(tmp_path) -> None:
    broken = Store(tmp_path, "nonsense://user:secret@host/db")
    with pytest.raises(TrackingError, match="cannot be opened") as caught:
        Tracker(broken, record("study"), versions={})
    assert "secret" not in str(caught.value)


def test_what_cannot_be_written_is_counted_and_named_and_the_rest_is_written(client, store, study, ranks) -> None:
    tracker = Tracker(store, record(study), versions={})
    tracker.arm_started("one", {})
    tracker.epoch(key(identity="never-started"), metrics(1))
    tracker.trial_ended(key(identity="never-started"), "KILLED")
    finish(tracker, key(), ranks)
    tracker.model(key(), None)
    unsent = tracker.close()
    assert (unsent.records, len(unsent.refused), unsent.problems, bool(unsent)) == (0, 3, (), True)
    assert unsent.refused[0].startswith("epoch one/python confirm seed 1 (never-started): the trial has no run")
    assert unsent.refused[2].endswith("its model cannot be kept: the next launch trains it again")
    (trial,) = runs(client, study, "trial")
    assert trial.info.status == "FINISHED"


def test_a_trial_whose_ranks_cannot_be_kept_does_not_pass_for_finished(client, store, study, tmp_path) -> None:
    tracker = Tracker(store, record(study), versions={})
    tracker.arm_started("one", {})
    finish(tracker, key(), tmp_path / "vanished.parquet")
    assert len(tracker.close().refused) == 1
    (trial,) = runs(client, study, "trial")
    assert trial.info.status == "FAILED"
    assert load_results(store, study).trials[0].status == "FAILED"


DAMAGE = {
    "gone": lambda file, others: file.unlink(),
    "empty": lambda file, others: file.write_bytes(b""),
    "half": lambda file, others: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "text": lambda file, others: file.write_text("no table"),
    "a folder": lambda file, others: (file.unlink(), file.mkdir()),
    "another's": lambda file, others: write_ranks(file, {"test": ["z", "b"]}, others([0.5, 0.25])),
    "no reciprocals": lambda file, others: write_ranks(file, {"test": ["z", "b"]}, others([2.0, -1.0625])),
    "without its columns": lambda file, others: pq.write_table(pa.table({"id": ["z"], "split": ["test"]}), file),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_finished_trial_whose_ranks_are_damaged_is_a_named_gap_of_the_report(
    open_tracker, client, store, study, ranks, tmp_path, damage: str
) -> None:
    tracker = open_tracker(arms=("one",))
    for seed in (1, 2):
        finish(tracker, key(seed=seed), ranks)
    tracker.close()
    hurt, whole = sorted(runs(client, study, "trial"), key=lambda run: run.data.tags["seed"])
    (file,) = (store.root / "artifacts" / study / hurt.info.run_id).rglob(RANKS_FILE)
    DAMAGE[damage](file, lambda values: {"reciprocal_rank": {"test": np.array(values)}, "graded_ndcg": {}})
    report = build_report(load_results(store, study))
    assert [(row.seeds_done, row.seeds_asked) for row in report.rows] == [(1, 2)]
    assert report.rows[0].mean is not None and report.rows[0].mean.mean == 0.46875
    (problem,) = report.problems
    assert (problem.kind, problem.run_ids) == ("unusable", (hurt.info.run_id,))
    assert problem.reason.startswith(f"expected {RANKS_FILE} of run {hurt.info.run_id} (one/python/confirm-1) as")
    with pytest.raises(TrackingError, match=hurt.info.run_id):
        load_validation(store, study)
    if damage not in ("another's", "no reciprocals"):
        with pytest.raises(TrackingError, match=hurt.info.run_id):
            load_query_ids(store, hurt.info.run_id)
    if damage == "half":
        (remedy,) = printed(problem.reason)
        typed(remedy, tmp_path)
        assert [run.info.run_id for run in runs(client, study, "trial")] == [whole.info.run_id]


def test_nothing_is_written_outside_the_store(open_tracker, study, ranks, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path / "..")
    before = set(Path.cwd().iterdir())
    finish(tracker := open_tracker(), key(), ranks)
    tracker.wait()
    assert set(Path.cwd().iterdir()) == before
