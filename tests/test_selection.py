"""Selection: the arm, the seed, the rules and limits; and that nothing of the test split decides."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.config import ArmConfig, TrainingSet
from softnce_ray.corpus.tokens import SPECIAL, train_tokenizer
from softnce_ray.encoders import build_encoder
from softnce_ray.model import Model, save_model
from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import StudyRecord, StudyResults, TrialKey, TrialResult
from softnce_ray.selection import (
    Choice,
    Cost,
    Scales,
    SelectionError,
    as_plain,
    best,
    best_trial,
    choose,
    recorded,
)
from softnce_ray.selection.choosing import as_recorded
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker, TrackingError, load_results
from softnce_ray.tracking.selecting import kept_bytes, load_validation

SEEDS = (1, 2, 3)
QUERIES = 40


def ranks(*values: float) -> np.ndarray:
    """Reciprocal ranks of which each value takes an equal share."""
    return np.repeat(values, QUERIES // len(values))


def trial(arm: str, seed: int, valid: np.ndarray, **changes: Any) -> TrialResult:
    values: dict[str, Any] = {
        "run_id": f"{arm}-{seed}",
        "arm": arm,
        "language": "python",
        "seed": seed,
        "phase": "confirm",
        "status": "FINISHED",
        "identity": arm,
        "metrics": {"best_valid_mrr": float(valid.mean())},
        "reciprocal_ranks": {"valid": valid},
    }
    return TrialResult(**{**values, **changes})


def study(*trials: TrialResult, **changes: Any) -> StudyResults:
    arms = tuple(dict.fromkeys(each.arm for each in trials))
    values: dict[str, Any] = {
        "study": "s",
        "question": "",
        "baseline": arms[0],
        "arms": arms,
        "languages": ("python",),
        "seeds": SEEDS,
        "corpus_fingerprint": "f",
        "trials": trials,
        "status": "FINISHED",
    }
    return StudyResults(**{**values, **changes})


def arm(name: str, *values: np.ndarray, **changes: Any) -> list[TrialResult]:
    return [trial(name, seed, valid, **changes) for seed, valid in zip(SEEDS, values, strict=True)]


# Means of the seeds: steady 0.5, 0.5, 0.5; lucky 0.9, 0.1, 0.2; so the best single trial is of the worse arm.
STEADY = arm("steady", ranks(0.5), ranks(0.4, 0.5), ranks(0.5, 0.6))
LUCKY = arm("lucky", ranks(0.9), ranks(0.1), ranks(0.2))


def test_the_arm_with_the_best_mean_is_chosen_and_then_its_best_seed() -> None:
    choice = choose(study(*LUCKY, *STEADY))
    assert (choice.chosen.arm, choice.trial.seed) == ("steady", 3)
    assert choice.chosen.mean.mean == pytest.approx((0.5 + 0.45 + 0.55) / 3)
    assert choice.runner_up is not None and choice.runner_up.arm == "lucky"
    assert choice.difference is not None
    assert choice.difference.mean == pytest.approx(0.5 - 0.4)
    assert choice.difference.low < choice.difference.mean < choice.difference.high


def test_export_s_choice_without_ranks_is_the_same() -> None:
    results = study(*LUCKY, *STEADY)
    assert best_trial(results).run_id == choose(results).trial.run_id == "steady-3"
    assert best_trial(results, arm="lucky").run_id == "lucky-1"


def test_an_arm_without_all_its_seeds_and_search_trials_are_left_out() -> None:
    short = [trial("short", 1, ranks(1.0)), trial("short", 2, ranks(1.0), status="FAILED")]
    searched = arm("searched", ranks(1.0), ranks(1.0), ranks(1.0), phase="search")
    choice = choose(study(*short, *searched, *STEADY))
    assert choice.chosen.arm == "steady"
    assert choice.left_out == {"short": "1 of 3 seeds finished", "searched": "0 of 3 seeds finished"}
    assert choice.runner_up is None and choice.difference is None
    with pytest.raises(SelectionError, match=r"no arm to choose in python \(short: 1 of 3 seeds finished\)"):
        choose(study(*short))


def test_metrics_come_from_the_ranks() -> None:
    first = arm("first", *[ranks(1.0, 0.05)] * 3)  # ranks 1 and 20: MRR 0.525, recall@5 0.5
    second = arm("second", *[ranks(0.4, 0.4)] * 3)  # rank 2.5: MRR 0.4, recall@5 1
    results = study(*first, *second)
    assert choose(results, metric="mrr").chosen.arm == "first"
    assert choose(results, metric="recall@1").chosen.mean.mean == pytest.approx(0.5)
    choice = choose(results, metric="recall@5")
    assert (choice.chosen.arm, choice.chosen.mean.mean) == ("second", 1.0)
    assert choose(results, metric="ndcg@10").chosen.mean.mean == pytest.approx(1 / np.log2(3.5))
    with pytest.raises(SelectionError, match="graded_ndcg"):
        choose(results, metric="graded_ndcg")


def test_metrics_that_do_not_follow_from_the_ranks_are_those_that_were_kept() -> None:
    # Queries with several right codes: what is first says nothing of the share among the first five.
    kept = {"recall@5": {"valid": ranks(0.25, 0.75)}}
    results = study(*arm("first", *[ranks(1.0, 1.0)] * 3, cut_off=kept), *arm("second", *[ranks(0.5, 0.25)] * 3))
    choice = choose(results, metric="recall@5")
    assert (choice.chosen.arm, choice.chosen.mean.mean) == ("second", 1.0)
    assert choose(results, metric="recall@5", arm="first").chosen.mean.mean == pytest.approx(0.5)
    assert choose(results, metric="recall@1").chosen.arm == "first"


def test_languages_of_a_training_set_count_the_same() -> None:
    both = {"name": "both", "train": ["go", "ruby"], "test": ["go", "ruby"]}
    sets = {"both": TrainingSet.model_validate(both)}

    def made(name: str, go: float, ruby: float) -> list[TrialResult]:
        valid = {"valid/go": np.full(30, go), "valid/ruby": np.full(10, ruby)}
        return arm(name, *[ranks(0.5)] * 3, language="both", reciprocal_ranks=valid)

    choice = choose(study(*made("a", 0.6, 0.2), *made("b", 0.4, 0.5), languages=("both",), training_sets=sets))
    assert choice.chosen.arm == "b"
    assert [each.mean.mean for each in choice.candidates] == pytest.approx([0.45, 0.4])


def test_a_language_must_be_named_where_there_are_several() -> None:
    results = study(*STEADY, languages=("python", "go"))
    with pytest.raises(SelectionError, match=r"--language; possible: python, go"):
        choose(results)
    with pytest.raises(SelectionError, match="'ruby'; possible: python, go"):
        choose(results, language="ruby")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.2, 0.2, QUERIES)


# A little worse than best, within the noise of 40 queries; far worse; and as good as it in every query but slower.
BEST = arm("best", *[0.5 + noise(0) + 0.004] * 3)
CLOSE = arm("close", *[0.5 + noise(1) - noise(1).mean() + noise(0).mean()] * 3)
FAR = arm("far", *[0.5 + noise(0) - 0.1] * 3)


def scales(costs: dict[str, Cost]) -> Scales:
    return Scales(
        lambda each: costs[each.arm].bytes if each.arm in costs and each.seed == 2 else None,
        lambda each: costs[each.arm],
    )


def test_one_standard_error_takes_the_cheaper_arm_within_the_noise_only() -> None:
    costs = {"best": Cost(90, 9, 1.0), "close": Cost(50, 5, 2.0), "far": Cost(10, 1, 0.1)}
    results = study(*BEST, *CLOSE, *FAR)
    assert choose(results).chosen.arm == "best"
    choice = choose(results, rule="one-standard-error", scales=scales(costs))
    assert choice.chosen.arm == "close"
    assert choice.runner_up is not None and choice.runner_up.arm == "best"
    assert choice.difference is not None and choice.difference.mean == pytest.approx(-0.004)


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    candidates = {each.arm: each for each in choose(study(*BEST, *CLOSE, *FAR)).candidates}
    differences = BEST[0].reciprocal_ranks["valid"] - CLOSE[0].reciprocal_ranks["valid"]
    by_formula = differences.std(ddof=1) / np.sqrt(QUERIES)
    behind = candidates["close"].behind
    assert behind is not None and behind.standard_error == pytest.approx(by_formula, rel=0.05)
    assert candidates["best"].behind is None
    far = candidates["far"].behind
    assert far is not None and far.standard_error == pytest.approx(0, abs=1e-9)  # worse by the same in every query


def test_of_equally_large_arms_the_faster_is_taken_unless_it_is_only_a_little_faster() -> None:
    results = study(*BEST, *CLOSE)
    faster = {"best": Cost(1, 5, 1.0), "close": Cost(1, 5, 0.5)}
    assert choose(results, rule="one-standard-error", scales=scales(faster)).chosen.arm == "close"
    hardly = {"best": Cost(1, 5, 1.0), "close": Cost(1, 5, 0.95)}
    assert choose(results, rule="one-standard-error", scales=scales(hardly)).chosen.arm == "best"


def test_limits_take_out_what_is_too_large_or_too_slow_or_keeps_no_model() -> None:
    costs = {"best": Cost(9_000_000, 9, 1.0), "close": Cost(2_000_000, 5, 30.0)}
    results, kept = study(*BEST, *CLOSE, *FAR), scales(costs)
    choice = choose(results, max_size_mb=5, scales=kept)
    assert choice.chosen.arm == "close"
    assert choice.left_out["best"] == "9.00 MB, over 5"
    assert "keeps no model" in choice.left_out["far"]
    assert choose(results, max_latency_ms=2, scales=kept).chosen.arm == "best"
    with pytest.raises(SelectionError, match=r"30\.00 ms, over 2"):
        choose(results, max_size_mb=5, max_latency_ms=2, scales=kept)


def test_only_what_passes_the_size_is_timed() -> None:
    timed: list[str] = []

    def speed(each: TrialResult) -> Cost:
        timed.append(each.arm)
        return Cost(1, 1, 1.0)

    sizes = {"best": 9_000_000, "close": 1_000, "far": 1_000}
    choose(
        study(*BEST, *CLOSE, *FAR),
        max_size_mb=1,
        max_latency_ms=5,
        scales=Scales(lambda each: sizes[each.arm], speed),
    )
    assert sorted(timed) == ["close", "far"]


def test_other_queries_in_an_arm_are_refused() -> None:
    with pytest.raises(SelectionError, match="same validation queries"):
        choose(study(*STEADY, *arm("other", *[np.full(QUERIES + 1, 0.5)] * 3)))


def test_one_arm_alone_is_chosen_without_a_runner_up() -> None:
    choice = choose(study(*STEADY))
    assert (choice.chosen.arm, choice.runner_up, choice.difference) == ("steady", None, None)


def test_why_nothing_can_be_chosen_says_what_to_do() -> None:
    with pytest.raises(SelectionError, match=r"0 of 3 seeds finished\): an arm can be chosen when all its seeds have"):
        best_trial(study(*arm("a", *[ranks(1.0)] * 3, status="RUNNING")))
    costs = {"steady": Cost(9_000_000, 9, 1.0)}
    with pytest.raises(SelectionError, match=r"9\.00 MB, over 5\): allow more, or launch"):
        choose(study(*STEADY), max_size_mb=5, scales=scales(costs))


def plain(choice: Choice) -> Any:
    return json.loads(json.dumps(as_plain(choice)))


def test_a_recorded_choice_counts_while_the_same_trials_can_be_chosen() -> None:
    results = study(*LUCKY, *STEADY)
    record = plain(choose(results, metric="recall@1"))
    found = as_recorded(results, "python", record)
    assert found is not None and found.trial is not None
    assert (found.arm, found.metric, found.rule, found.limits) == (record["arm"], "recall@1", "best", {})
    assert found.current and found.trial.run_id == record["run_id"]
    searching = arm("searching", ranks(1.0), ranks(1.0), ranks(1.0), phase="search")
    unfinished = [trial("short", 1, ranks(1.0))]
    for more, current in ((searching, True), (unfinished, True), (arm("late", *[ranks(0.1)] * 3), False)):
        again = as_recorded(study(*LUCKY, *STEADY, *more), "python", record)
        assert again is not None and again.current is current
    other_runs = [replace(each, run_id=each.run_id + "'") for each in (*LUCKY, *STEADY)]
    gone = as_recorded(study(*other_runs), "python", record)
    assert gone is not None and (gone.trial, gone.current) == (None, False)
    fewer = as_recorded(study(*STEADY, seeds=SEEDS[:2]), "python", record)  # another number of seeds: other trials
    assert fewer is not None and not fewer.current


def test_a_record_of_before_or_of_nobody_is_no_current_choice() -> None:
    results = study(*LUCKY, *STEADY)
    record = plain(choose(results))
    del record["considered"]
    old = as_recorded(results, "python", record)
    assert old is not None and old.trial is not None and not old.current
    assert as_recorded(results, "python", None) is None
    assert as_recorded(results, "python", {"arm": "steady"}) is None


# --- in a store ---


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained model."""
    config = ArmConfig.model_validate({"encoder": {"kind": "bag", "width": 4}, "tokens": {"vocabulary": 300}})
    tokenizer = train_tokenizer(iter([["parse a date", "def parse(date): return date"]] * 2), config.tokens, False)
    assert tokenizer.get_vocab_size() > len(SPECIAL)
    folder = tmp_path_factory.mktemp("kept")
    save_model(Model(build_encoder(config, tokenizer.get_vocab_size()), tokenizer, config), folder)
    return folder


VALUES = {
    ("a", 1): ranks(0.5), ("a", 2): ranks(2 / 3), ("a", 3): ranks(0.4),
    ("b", 1): ranks(0.25), ("b", 2): ranks(2 / 3), ("b", 3): ranks(0.2),
}  # fmt: skip


def write_study(root: Path, tiny_model: Path, languages: tuple[str, ...] = ("python",)) -> Store:
    """A store of a study of two arms; on test the other arm is the better one. Only in python have they finished."""
    record = StudyRecord("s", "", "a", ("a", "b"), languages, SEEDS, "corpus", "f", "study: s")
    tracker = Tracker(Store.at(root), record, versions={})
    for name in ("a", "b"):
        tracker.arm_started(name, {"encoder.kind": "bag"})
    for (name, seed), valid in VALUES.items():
        key = TrialKey(name, "python", "confirm", seed, name)
        tracker.trial_started(key, {"encoder.kind": "bag"})
        folder = root / f"{name}-{seed}"
        folder.mkdir()
        ids = [str(row) for row in range(QUERIES)]
        both = {"valid": valid, "test": 1 - valid}
        write_ranks(folder / RANKS_FILE, {"valid": ids, "test": ids}, {"reciprocal_rank": both})
        metrics = {"epoch": 1, "best_valid_mrr": float(valid.mean()), "test_mrr": float(1 - valid.mean())}
        tracker.trial_ended(key, "FINISHED", metrics=metrics, ranks=folder / RANKS_FILE)
    for name, seed in (("a", 2), ("b", 2)):
        tracker.model(TrialKey(name, "python", "confirm", seed, name), tiny_model)
    assert not tracker.close()
    return Store.at(root)


@pytest.fixture(scope="module")
def opened(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_study(tmp_path_factory.mktemp("selection") / "store", tiny_model)


def trial_runs(store: Store) -> list[Any]:
    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.role = 'trial'"))


def poison(store: Store, value: float) -> None:
    """Put a value that no rank can have into all that the store knows of test."""
    client = MlflowClient(tracking_uri=store.tracking_uri)
    for run in trial_runs(store):
        with tempfile.TemporaryDirectory() as folder:
            table = pq.read_table(client.download_artifacts(run.info.run_id, RANKS_FILE, folder))
            is_test = pc.equal(table.column("split"), "test")
            column = pc.if_else(is_test, pa.scalar(value), table.column("reciprocal_rank"))
            place = table.schema.get_field_index("reciprocal_rank")
            changed = Path(folder) / RANKS_FILE
            poisoned = table.set_column(place, "reciprocal_rank", column)
            pq.write_table(poisoned.replace_schema_metadata(None), changed)  # else its digest would tell everybody
            client.log_artifact(run.info.run_id, str(changed))
        client.log_metric(run.info.run_id, "test_mrr", value, step=99)


@pytest.mark.slow
def test_a_store_whose_test_columns_are_poisoned_gives_the_same_choice(tiny_model: Path, tmp_path: Path) -> None:
    store = write_study(tmp_path / "store", tiny_model)
    (before,) = best("s", store=store)
    poison(store, 77.0)
    read = [trial for trial in load_results(store, "s").trials if trial.phase == "confirm"]
    assert {bool(trial.reciprocal_ranks) for trial in read} == {False}  # whoever reads test, finds it
    assert all("are not from 0 to 1" in trial.failure for trial in read if trial.status == "FINISHED")
    (after,) = best("s", store=store)
    assert as_plain(after) == as_plain(before)
    assert after.chosen.arm == "a"


def test_what_is_loaded_has_nothing_of_test(opened: Store) -> None:
    for each in load_validation(opened, "s").trials:
        assert set(each.reciprocal_ranks) == {"valid"}
        assert not [name for name in each.metrics if "test" in name]
        np.testing.assert_array_equal(each.reciprocal_ranks["valid"], VALUES[each.arm, each.seed])


def test_the_choice_is_recorded_in_the_parent_and_in_the_chosen_run_and_a_new_one_replaces_it(opened: Store) -> None:
    (first,) = best("s", store=opened)
    assert (first.chosen.arm, first.trial.seed) == ("a", 2)
    tags = {run.info.run_id: run.data.tags.get("selected") for run in trial_runs(opened)}
    assert [run for run, text in tags.items() if text] == [first.trial.run_id]
    assert json.loads(tags[first.trial.run_id]) == json.loads(json.dumps(as_plain(first)))
    (second,) = best("s", store=opened, metric="recall@1")  # nobody's is above 0: the first of all
    assert (second.chosen.arm, second.trial.seed) == ("a", 1)
    assert "keeps no model" in second.notes[0]
    client = MlflowClient(tracking_uri=opened.tracking_uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.role = 'study'")
    recorded = json.loads(parent.data.tags["selection.python"])
    assert (recorded["metric"], recorded["split"], recorded["run_id"]) == ("recall@1", "valid", second.trial.run_id)
    selected = [run.info.run_id for run in trial_runs(opened) if "selected" in run.data.tags]
    assert selected == [second.trial.run_id]


def test_size_and_speed_are_measured_on_the_kept_model(opened: Store, tiny_model: Path) -> None:
    (choice,) = best("s", store=opened, rule="one-standard-error", max_size_mb=1, max_latency_ms=10_000)
    size = sum(path.stat().st_size for path in tiny_model.iterdir())
    cost = choice.chosen.cost
    assert cost is not None and cost.milliseconds is not None
    assert cost.bytes == size == kept_bytes(opened, choice.trial.run_id)
    assert cost.parameters is not None and cost.parameters % 5 == 0  # width 4 and a weight for each token
    assert cost.milliseconds > 0
    with pytest.raises(SelectionError, match=r"over 0\.001"):
        best("s", store=opened, max_size_mb=0.001)


def test_a_run_without_a_model_is_said_to_keep_none(opened: Store) -> None:
    runs = {(run.data.tags["arm"], run.data.tags["seed"]): run.info.run_id for run in trial_runs(opened)}
    assert kept_bytes(opened, runs["a", "1"]) is None


def test_no_such_study_is_said(opened: Store) -> None:
    with pytest.raises(TrackingError, match="no study 'other'"):
        best("other", store=opened)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_language_in_which_nothing_has_finished_does_not_keep_the_others_from_a_choice(
    tiny_model: Path, tmp_path: Path
) -> None:
    store = write_study(tmp_path / "store", tiny_model, ("go", "python", "ruby"))
    told: list[str] = []
    (choice,) = best("s", store=store, say=told.append)
    assert (choice.language, choice.chosen.arm) == ("python", "a")
    assert [line.split(" (")[0] for line in told] == [
        f"study s has no arm to choose in {language}" for language in ("go", "ruby")
    ]
    done = command("best", "s", "--store", store.root)
    assert done.exit_code == 0 and done.stdout.startswith("python: a, seed 2")
    assert "no arm to choose in ruby (a: 0 of 3 seeds finished; b: 0 of 3" in done.stderr
    refused = command("best", "s", "--store", store.root, "--language", "go")
    assert isinstance(refused.exception, SelectionError)
    with pytest.raises(SelectionError, match=r"in go .*; study s has no arm to choose in python .* over .*in ruby"):
        best("s", store=store, max_size_mb=1e-6)
    found = recorded(store, load_results(store, "s"), "python")
    assert found is not None and found.current
    assert recorded(store, load_results(store, "s"), "go") is None


def test_the_command_says_that_there_is_no_runner_up(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    only = choose(study(*STEADY))
    monkeypatch.setattr("softnce_ray.selection.best", lambda *arguments, **options: [only])
    assert "Runner-up: none: no other arm could be chosen." in command("best", "s", "--store", opened.root).stdout
