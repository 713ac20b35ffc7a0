"""What MLflow's own pages live on: how runs nest, are named, found and charted, and what arms and study say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from softnce_ray.config import ArmConfig, StudyConfig, TrialConfig, arm_settings, flatten, resolved
from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.study.attempts import Attempts
from softnce_ray.study.saved import study_text
from softnce_ray.study.summary import sum_up
from softnce_ray.tracking import Tracker, Unsent
from softnce_ray.tracking.params import params_of

STUDY, ARMS, LANGUAGES, SEEDS, QUERIES = "seen", ("infonce", "soft"), ("python", "ruby"), (1, 2), 40
CONFIRM = [
    TrialKey(arm, language, "confirm", seed, f"{arm[:2]}{language[:2]}{seed}")
    for arm in ARMS
    for language in LANGUAGES
    for seed in SEEDS
]
PLACE = ("language", "seed")
SEARCH = TrialKey("soft", "ruby", "search", 0, "0123456789abcdef")


def ranks_of(key: TrialKey) -> np.ndarray:
    """(QUERIES,): 1/4 everywhere, but soft in python has every other query right: the mean is (1/4 + 1) / 2 = 5/8."""
    ranks = np.full(QUERIES, 0.25)
    if (key.arm, key.language) == ("soft", "python"):
        ranks[::2] = 1.0
    return ranks


def open_study(store: Store) -> Tracker:
    definitions = {f"{arm}/{language}": "same" for arm in ARMS for language in LANGUAGES}
    record = StudyRecord(STUDY, "Is it so?", "infonce", ARMS, LANGUAGES, SEEDS, "nowhere", "c0", "x: 1\n", definitions)
    tracker = Tracker(store, record, versions={})
    for arm in ARMS:
        tracker.arm_started(arm, {"loss.name": arm})
    return tracker


def record_epoch(tracker: Tracker, key: TrialKey, epoch: int) -> None:
    tracker.epoch(key, {"epoch": epoch, "train_loss": 1 / epoch, "valid_mrr": 0.1 * epoch, "best_valid_mrr": 0.3})


def record_end(tracker: Tracker, store: Store, key: TrialKey, folder: Path) -> None:
    """As the driver does: the end adds only what epochs do not have; the model lies in the trial's last attempt."""
    path = folder / key.identity / RANKS_FILE
    path.parent.mkdir(parents=True)
    ranks = ranks_of(key)
    write_ranks(path, {"test": [f"q{number}" for number in range(QUERIES)]}, {"reciprocal_rank": {"test": ranks}})
    attempts = Attempts(store.ray(STUDY))
    model = store.ray(STUDY) / attempts.begin(key.identity, "trial", "first").folder / "checkpoint_000001" / "model"
    model.mkdir(parents=True)
    (model / "settings.json").write_text("{}", encoding="utf-8")
    tracker.trial_ended(key, "FINISHED", metrics={"test_mrr": float(ranks.mean()), "test_codebase": 80.0}, ranks=path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A study that was launched twice: the first launch was cut off within a trial, whose second epoch the second
    did again; then it ended and was summed up."""
    folder = tmp_path_factory.mktemp("views")
    store = Store.at(folder, f"sqlite:///{folder / 'mlflow.db'}")
    first = open_study(store)
    for key in (SEARCH, *CONFIRM):
        first.trial_started(key, {"loss.name": key.arm, "seed": key.seed})
        for epoch in (1, 2):
            record_epoch(first, key, epoch)
    assert first.close() == Unsent()
    second = open_study(store)
    for key in (SEARCH, *CONFIRM):
        second.trial_started(key, {"loss.name": key.arm, "seed": key.seed}, attempt=2)
        for epoch in (2, 3):
            record_epoch(second, key, epoch)
    second.trial_ended(SEARCH, "FINISHED", stopped_early=True)
    for key in CONFIRM:
        record_end(second, store, key, folder / "ranks")
    second.study_ended("FINISHED")
    second.wait()
    sum_up(second, store, STUDY)
    assert second.close() == Unsent()
    return store


@pytest.fixture(scope="module")
def client(store: Store) -> MlflowClient:
    return MlflowClient(tracking_uri=store.tracking_uri)


def found(client: MlflowClient, query: str = "") -> dict[str, Run]:
    """Runs by name, as the search box of the runs page finds them."""
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], query)
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs)  # no two runs are called the same
    return named


def test_every_trial_lies_below_its_arm_and_every_arm_below_the_study(client) -> None:
    runs = found(client)
    names = {run.info.run_id: name for name, run in runs.items()}
    parents = {name: names.get(run.data.tags.get("mlflow.parentRunId", "")) for name, run in runs.items()}
    trials = {f"{key.arm}/{key.language}/confirm-{key.seed}": key.arm for key in CONFIRM}
    arms = dict.fromkeys(ARMS, STUDY)
    assert parents == {STUDY: None, **arms, **trials, "soft/ruby/search-012345": "soft"}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("tags.arm = 'soft' and tags.language = 'python'", {"soft/python/confirm-1", "soft/python/confirm-2"}),
        ("tags.seed = '2' and tags.language = 'ruby'", {"soft/ruby/confirm-2", "infonce/ruby/confirm-2"}),
        ("tags.phase = 'search'", {"soft/ruby/search-012345"}),
        ("tags.role = 'arm'", {"infonce", "soft"}),
        ("tags.study = 'seen' and tags.role = 'study'", {"seen"}),
        ("tags.study = 'another'", set()),
        ("params.seed = '2' and tags.arm = 'infonce'", {"infonce/python/confirm-2", "infonce/ruby/confirm-2"}),
    ],
)
def test_the_search_box_finds_runs_by_their_place_in_the_study(client, query, names) -> None:
    assert set(found(client, query)) == names


def test_a_metric_of_a_trial_has_one_value_for_each_epoch_or_one_at_step_0_for_a_bar(client) -> None:
    for name, run in found(client, "tags.role = 'trial'").items():
        steps = {
            metric: [point.step for point in client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
        }
        epochs = {"epoch", "train_loss", "valid_mrr", "best_valid_mrr"}
        at_the_end = set() if "search" in name else {"test_mrr", "test_codebase"}
        assert steps == {each: [1, 2, 3] for each in epochs} | {each: [0] for each in at_the_end}


def test_runs_of_arms_have_means_intervals_and_differences_for_the_compare_page(client) -> None:
    runs = found(client, "tags.role = 'arm'")
    baseline, soft = runs["infonce"].data.metrics, runs["soft"].data.metrics
    same = {f"{each}_test_mrr{end}": 0.25 for each in LANGUAGES for end in ("", "_low", "_high")}
    assert baseline.items() >= same.items()
    assert not [name for name in baseline if name.endswith(("_difference", "_p"))]
    assert soft["python_test_mrr"] == 0.625 and soft["python_test_mrr_difference"] == 0.375
    assert 0.25 < soft["python_test_mrr_low"] < 0.625 < soft["python_test_mrr_high"] < 1
    assert soft["python_test_mrr_p"] < 0.001  # 20 of 40 queries are better, none is worse
    assert soft["ruby_test_mrr_difference"] == 0 and soft["ruby_test_mrr_p"] == 1
    assert soft["overall_test_mrr"] == (0.625 + 0.25) / 2
    assert soft["python_best_valid_mrr"] == pytest.approx(0.3)


def test_what_arms_say_is_at_step_0(client) -> None:
    """MLflow draws bars where all values are of step 0, and lines elsewhere."""
    for run in found(client, "tags.role = 'arm'").values():
        for metric in run.data.metrics:
            assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [0]


def test_the_study_says_what_it_asked_and_found_and_has_its_reports(client) -> None:
    run = found(client)[STUDY]
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("**Asked:** Is it so?\n\n**Found:**\n\n- soft, python: is better than infonce (+0.3750 [")
    assert "- soft, ruby: does not differ from infonce beyond chance" in note
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"study.yaml", "report.html", "report.md", "report.tex", "report.json"}
    assert run.data.metrics == {"trials": 9, "failed": 0}


def test_a_study_that_is_summed_up_again_says_nothing_twice(store, client) -> None:
    """The second sum-up reads what the first read, and finds it all said."""
    tracker = Tracker.to_sync(store, STUDY)
    sum_up(tracker, store, STUDY)
    assert tracker.close() == Unsent()
    for run in found(client, "tags.role != 'trial'").values():
        for metric in run.data.metrics:
            assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [0], metric


def test_a_launch_that_was_stopped_leaves_no_step_of_its_own(tmp_path: Path) -> None:
    """Its numbers would stay beside the final ones: 1 trial at step 0, 2 at step 1."""
    store = Store.at(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient(tracking_uri=store.tracking_uri)

    def launch(key: TrialKey, status: str) -> dict[str, Run]:
        tracker = open_study(store)
        tracker.trial_started(key, {"loss.name": key.arm})
        record_epoch(tracker, key, 1)
        record_end(tracker, store, key, tmp_path / "ranks")
        tracker.study_ended(status)
        tracker.wait()
        sum_up(tracker, store, STUDY)
        assert tracker.close() == Unsent()
        return found(client, "tags.role != 'trial'")

    stopped = launch(CONFIRM[0], "KILLED")
    assert "**Asked:**" in stopped[STUDY].data.tags["mlflow.note.content"]
    assert not [name for run in stopped.values() for name in run.data.metrics]
    ended = launch(CONFIRM[1], "FINISHED")
    assert ended[STUDY].data.metrics == {"trials": 2, "failed": 0}
    assert "python_test_mrr" in ended[CONFIRM[0].arm].data.metrics
    for run in ended.values():
        for metric in run.data.metrics:
            assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [0], metric


def arm_params_of(store: Store, study: StudyConfig) -> dict[str, dict[str, str]]:
    """Arm -> parameters of its run, once its study is opened as a launch opens it."""
    names = tuple(study.arms)
    record = StudyRecord(
        study.study, "", study.baseline, names, study.language_names, study.seeds, "c", "c0", study_text(study)
    )
    tracker = Tracker(store, record, versions={})
    for name, arm in study.arms.items():
        tracker.arm_started(name, flatten(arm_settings(arm)))
    assert tracker.close() == Unsent()
    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name(study.study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.role = 'arm'", order_by=["attributes.start_time"])
    return {run.info.run_name: run.data.params for run in runs}


def test_arms_have_the_parameters_that_their_trials_share_and_say_what_is_searched(store) -> None:
    asked: dict[str, Any] = {
        "study": "params",
        "corpus": "c",
        "languages": ["python"],
        "seeds": [1],
        "arms": {
            "infonce": {},
            "soft": {
                "loss": {"name": "soft_infonce"},
                "estimator": {"name": "bm25"},
                "search": {"loss.alpha": {"low": 0.2, "high": 1.8}},
            },
            "batch": {
                "loss": {"name": "soft_infonce", "alpha": 1.5},
                "estimator": {"name": "bm25", "statistics": "batch"},
                "search": {"estimator.statistics": {"choices": ["corpus", "batch"]}},
            },
            "dot": {"similarity": "dot", "search": {"temperature": {"low": 0.5, "high": 2.0}}},
        },
        "search": {"trials": 2, "space": {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}},
    }
    found = arm_params_of(store, StudyConfig.model_validate(asked))
    infonce, soft, batch, dot = (found[name] for name in asked["arms"])
    wanted = {"estimator.name": "none", "loss.name": "infonce", "temperature": "0.05", "similarity": "cosine"}
    assert wanted.items() <= infonce.items() and "estimator" not in infonce
    assert {params["training.learning_rate"] for params in found.values()} == {"searched"}
    # beta is 2 - alpha: what follows from a searched setting is not the same in all trials either.
    wanted = {"loss.alpha": "searched", "loss.beta": "searched", "loss.floor": "0.1", "estimator.k1": "1.5"}
    assert wanted.items() <= soft.items()
    wanted = {"loss.alpha": "1.5", "loss.beta": "0.5", "estimator.k1": "searched", "estimator.statistics": "searched"}
    assert wanted.items() <= batch.items()
    assert dot["temperature"] == "searched" and dot["similarity"] == "dot"
    assert "none" not in {value for params in (soft, batch) for value in params.values()}
    del asked["search"], asked["arms"]["soft"]["search"], asked["arms"]["batch"], asked["arms"]["dot"]
    found = arm_params_of(store, StudyConfig.model_validate(asked))
    assert (found["soft"]["loss.alpha"], found["soft"]["loss.beta"]) == ("1.5", "0.5")  # another run of this name
    trial = TrialConfig.model_validate({**arm_settings(StudyConfig.model_validate(asked).arms["soft"]),
                                        "language": "python", "seed": 1})  # fmt: skip
    shared = {name: value for name, value in params_of(flatten(resolved(trial))).items() if name not in PLACE}
    assert found["soft"] == shared


@pytest.mark.parametrize("loss", ["infonce", "soft_infonce", "kl_regularised", "cancel_top_k", "hard_negative"])
@pytest.mark.parametrize("estimator", ["bm25", "trained", "simcse"])
@pytest.mark.parametrize("encoder", ["bag", "transformer"])
def test_names_of_parameters_are_those_of_the_study_file_and_short(loss, estimator, encoder) -> None:
    settings: dict[str, Any] = {"encoder": {"kind": encoder}, "loss": {"name": loss}}
    if loss not in ("infonce", "hard_negative"):
        settings["estimator"] = {"name": estimator}
    names = set(params_of(flatten(resolved(ArmConfig.model_validate(settings)))))
    assert max(map(len, names)) <= 30  # what a column of the runs page shows when it is made wider
    assert {
        "encoder.kind",
        "loss.name",
        "estimator.name",
        "temperature",
        "training.learning_rate",
        "tokens.vocabulary",
    } <= names
    assert {name.partition(".")[0] for name in names} == {
        *("encoder", "estimator", "loss", "mask_duplicates"),
        *("similarity", "symmetric", "temperature", "tokens", "training"),
    }
