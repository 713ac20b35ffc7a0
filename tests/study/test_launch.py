"""Launches from end to end: real Ray, real Optuna, real MLflow on SQLite, a tiny encoder on a tiny corpus."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from encoder_kinds import write_model
from mlflow import MlflowClient
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sentence_transformer.modules import Transformer as Network

from softnce_ray.corpus import Corpus
from softnce_ray.export import export
from softnce_ray.report import build_report, to_markdown
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.retrieval import evaluate_corpus
from softnce_ray.selection.choosing import choose
from softnce_ray.store import Store, StoreError, only_launch
from softnce_ray.study import run as running
from softnce_ray.study.cluster import LaunchError
from softnce_ray.study.costs import costs
from softnce_ray.study.run import Launch
from softnce_ray.tracking import load_results, studies
from softnce_ray.tracking.selecting import load_validation

from .launching import SEARCH, Said, go, runs, scores, statuses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def undisturbed(empty_store, plain_study, tmp_path_factory) -> tuple[dict[str, Any], Store, Launch, Said]:
    """A study of two arms, two seeds and a search, run to its end."""
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(empty_store, root)
    store, said = Store(root, f"sqlite:///{root}/mlflow.db"), Said()
    arms = plain_study()["arms"]
    arms["soft"]["search"] = {"loss.alpha": {"low": 0.2, "high": 1.5}}
    # whom early stopping ends depends on who reports first: numbers of two launches would differ
    study = plain_study(arms=arms, search={**SEARCH, "early_stopping": None})
    return study, store, go(study, store, said), said


def test_a_study_runs_to_its_end(undisturbed) -> None:
    _, _, done, said = undisturbed
    assert (done.ran, done.already_done, done.failed, done.interrupted) == (7, 0, 0, False)
    assert (done.problems, done.unsent) == ((), ())
    assert said.counts[0] == (0, 7)
    assert said.counts[-1] == (7, 7)
    assert said.said[0].startswith("tiny: 2 cells on 1 slot; preparing")


def test_mlflow_holds_a_study_its_arms_and_their_trials_all_finished(undisturbed) -> None:
    _, store, _, _ = undisturbed
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}
    (parent,) = runs(store, "study")
    arms = {run.info.run_id: run.data.tags["arm"] for run in runs(store, "arm")}
    assert sorted(arms.values()) == ["infonce", "soft"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(store, "arm")} == {parent.info.run_id}
    children = [(arms[run.data.tags["mlflow.parentRunId"]], run.data.tags["phase"]) for run in runs(store, "trial")]
    assert sorted(children) == [
        ("infonce", "confirm"),
        ("infonce", "confirm"),
        ("soft", "confirm"),
        ("soft", "confirm"),
        ("soft", "search"),
        ("soft", "search"),
        ("soft", "search"),
    ]
    assert parent.data.metrics == {"trials": 7.0, "failed": 0.0}
    assert "| soft" in parent.data.tags["mlflow.note.content"]


def test_every_epoch_of_a_trial_is_recorded_once(undisturbed) -> None:
    _, store, _, _ = undisturbed
    client = MlflowClient(tracking_uri=store.tracking_uri)
    for run in runs(store, "trial"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]
        assert steps == [1, 2]
        assert run.data.params["training.epochs"] == "2"


def test_confirmation_uses_the_best_values_of_the_search(undisturbed) -> None:
    _, _, done, _ = undisturbed
    soft = [trial for trial in done.results.trials if trial.arm == "soft"]
    complete = [trial for trial in soft if trial.phase == "search" and "valid_codebase" in trial.metrics]
    best = max(complete, key=lambda trial: trial.metrics["best_valid_mrr"])
    confirmed = {trial.settings["loss.alpha"] for trial in soft if trial.phase == "confirm"}
    assert confirmed == {best.settings["loss.alpha"]}
    assert len({trial.settings["loss.alpha"] for trial in soft}) > 1


def test_only_confirmed_trials_have_read_the_test_split(undisturbed) -> None:
    _, _, done, _ = undisturbed
    for trial in done.results.trials:
        assert ("test_mrr" in trial.metrics) == (trial.phase == "confirm")
        assert len(trial.reciprocal_ranks.get("test", [])) == (30 if trial.phase == "confirm" else 0)


def test_the_best_of_each_cell_keeps_its_model(undisturbed) -> None:
    _, store, done, _ = undisturbed
    client = MlflowClient(tracking_uri=store.tracking_uri)
    kept = {run.info.run_id for run in runs(store, "trial") if client.list_artifacts(run.info.run_id, MODEL_FOLDER)}
    best = {
        max(cell, key=lambda trial: trial.metrics["best_valid_mrr"]).run_id
        for arm in ("infonce", "soft")
        if (cell := [trial for trial in done.results.trials if (trial.arm, trial.phase) == (arm, "confirm")])
    }
    assert kept == best


def test_a_report_can_be_made_of_the_store_alone(undisturbed) -> None:
    _, store, _, _ = undisturbed
    text = to_markdown(build_report(load_results(store, "tiny")))
    assert "infonce" in text
    assert "soft" in text


def test_of_queries_that_share_codes_and_have_several_all_say_the_same(
    several_right, plain_study, store, tmp_path
) -> None:
    go(plain_study(corpus=str(several_right), seeds=[1], arms={"infonce": {}}), store)
    results = load_results(store, "tiny")
    (trial,) = results.trials
    assert trial.metrics["test_codebase"] == 70
    assert trial.reciprocal_ranks["test"].mean() == pytest.approx(trial.metrics["test_mrr"])
    (row,) = (report := build_report(results)).rows
    assert row.mean is not None
    assert row.mean.mean == pytest.approx(trial.metrics["test_mrr"])
    assert (report.queries["python"], report.codebase["python"]) == (30, 70)
    chosen = choose(load_validation(store, "tiny"), metric="recall@5").chosen
    assert chosen.mean.mean == pytest.approx(trial.metrics["valid_recall@5"])
    # The export's own check refuses other ranks than those that the run stored.
    (checked,) = export("tiny", tmp_path / "best", store=store, corpus=several_right).checked.values()
    assert (checked.queries, checked.other_ranks, checked.mrr) == (30, 0, checked.stored_mrr)
    found = evaluate_corpus(tmp_path / "best", several_right).lines[0].metrics
    assert {f"test_{name}": value.mean for name, value in found.items()} == pytest.approx(
        {f"test_{name}": trial.metrics[f"test_{name}"] for name in found}
    )


def test_a_second_launch_runs_nothing_and_says_so(undisturbed) -> None:
    study, store, done, _ = undisturbed
    said = Said()
    again = go(study, store, said)
    assert (again.ran, again.already_done, again.failed, again.interrupted) == (0, 7, 0, False)
    assert said.said == []  # nothing was prepared: no Ray was needed
    assert scores(again.results.trials) == scores(done.results.trials)
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}
    assert {trial.run_id for trial in again.results.trials} == {trial.run_id for trial in done.results.trials}


def test_an_estimate_counts_what_is_missing_by_the_trials_that_ran(undisturbed, tiny_study) -> None:
    study, store, _, _ = undisturbed
    corpus = Corpus.open(study["corpus"])
    assert costs(tiny_study(**study), corpus, store) == ["nothing to do: all 7 trials are there"]
    told = "\n".join(costs(tiny_study(**{**study, "seeds": [1, 2, 3]}), corpus, store))
    assert re.fullmatch("2 trials.*\ninfonce/python, soft/python: .* a trial, by 2 to 5 trials of the same arm", told)


def test_added_seeds_and_trials_run_alone_and_a_seed_left_out_counts_no_more(undisturbed, tmp_path) -> None:
    study, whole, done, _ = undisturbed
    root = tmp_path / "store"
    shutil.copytree(whole.root, root)
    store = Store(root, f"sqlite:///{root}/mlflow.db")
    more = go({**study, "seeds": [1, 3], "arms": {"infonce": {}}}, store)
    assert (more.ran, more.already_done) == (1, 1)
    assert sorted(trial.seed for trial in more.results.trials) == [1, 3]
    back = go({**study, "seeds": [1, 2, 3], "arms": {"infonce": {}}}, store)
    assert (back.ran, back.already_done) == (0, 3)
    assert sorted(trial.seed for trial in back.results.trials) == [1, 2, 3]
    before, after = scores(done.results.trials), scores(back.results.trials)
    assert [after[key] for key in before if key in after] == [before[key] for key in before if key in after]


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_others_go_on(two_arms, store, monkeypatch) -> None:
    monkeypatch.setattr("softnce_ray.study.file.corpus_problems", lambda *_: ())  # which would find it first
    study = two_arms(seeds=[1])
    study["arms"]["soft"]["training"] = {"batch_size": 5000}
    done = go(study, store)
    assert (done.ran, done.failed, done.interrupted) == (1, 3, False)
    assert done.problems == ("soft/python: no search trial ran to its end, so there is nothing to confirm",)
    failed = [run for run in runs(store, "trial") if run.info.status == "FAILED"]
    assert len(failed) == 3
    for run in failed:
        assert run.data.tags["failure"].startswith("expected at least batch_size 5000 training pairs, got ")
        assert "\n" not in run.data.tags["failure"]
        client = MlflowClient(tracking_uri=store.tracking_uri)
        assert "TrainingError" in Path(client.download_artifacts(run.info.run_id, "traceback.txt")).read_text()
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED", "FAILED"}}
    assert "3" in to_markdown(build_report(done.results))

    again = go(study, store)  # settings that cannot work have answered the search
    assert (again.ran, again.already_done, again.failed, again.failed_before) == (0, 1, 0, 3)
    assert again.problems == done.problems


# --- launches that cannot be ---


def test_a_study_that_runs_is_not_started_beside_itself(plain_study, store) -> None:
    with only_launch(store, "tiny"), pytest.raises(StoreError, match="is being run by another process"):
        go(plain_study(), store)


def test_more_processors_than_there_are_is_an_error_at_once(plain_study, store) -> None:
    with pytest.raises(LaunchError, match="room for a trial of 1000 CPUs and 0 GPUs, got 1 of 1 CPUs"):
        go(plain_study(resources={"cpus": 1000}), store)


def test_a_corpus_that_vanishes_is_one_line_and_leaves_nothing_running(
    plain_study, store, tiny_corpus, tmp_path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)

    class Vanishing(Said):
        def say(self, text: str) -> None:
            if "preparing" in text:
                shutil.rmtree(corpus)

    with pytest.raises(
        LaunchError, match="nothing of the study can be prepared: expected a corpus folder at"
    ) as caught:
        go(plain_study(corpus=str(corpus)), store, Vanishing())
    assert "\n" not in str(caught.value)
    assert studies(store) == []


def test_what_is_refused_leaves_nothing_in_mlflow_and_what_was_there_as_it_was(undisturbed, plain_study, store) -> None:
    with pytest.raises(LaunchError, match="room for a trial of 64 CPUs"):
        go(plain_study(resources={"cpus": 64}), store)
    assert studies(store) == []
    _, whole, _, _ = undisturbed

    def ends() -> list[tuple[Any, ...]]:
        found = (run.info for run in runs(whole, "study") + runs(whole, "arm"))
        return [(info.run_id, info.status, info.end_time) for info in found]

    before = ends()
    with pytest.raises(LaunchError, match="room for a trial of 64 CPUs"):
        go(plain_study(seeds=[1, 2, 8], resources={"cpus": 64}), whole)
    assert ends() == before


def test_a_model_in_a_folder_is_found_from_where_the_study_was_launched_and_is_what_its_files_say(
    plain_study, store, tiny_corpus, tiny_pairs, tmp_path, monkeypatch
) -> None:
    mini = write_model(tmp_path / "models" / "mini", "codebert", (pair.code for pair in tiny_pairs), layers=1)
    own = SentenceTransformer(modules=[Network(str(mini), max_seq_length=30), Pooling(24, "cls")], device="cpu")
    own.prompts = {"query": "Represent this query: ", "document": "def "}
    own.save_pretrained(str(tmp_path / "models" / "own"), create_model_card=False)
    monkeypatch.chdir(tmp_path)
    untrained = {"training": {"epochs": 0}}
    arms = {
        "infonce": {"encoder": {"kind": "codebert", "model": "models/mini"}},
        "own": {"encoder": {"kind": "transformer", "model": "models/own"}, **untrained},
        "otherwise": {"encoder": {"kind": "transformer", "model": "models/own", "pooling": "mean"}, **untrained},
    }
    said, defaults = Said(), {"training": {"epochs": 1, "batch_size": 64}}
    done = go(plain_study(arms=arms, seeds=[1], defaults=defaults), store, said)
    assert (done.ran, done.failed, done.problems) == (3, 0, ())
    (note,) = [text for text in said.said if "encoder.pooling" in text]
    assert note.startswith("note: models: arm otherwise: encoder.pooling is 'mean', and 'models/own' has 'first'")
    found = {run.data.tags["arm"]: run.data for run in runs(store, "trial")}
    assert found["infonce"].params["encoder.model"] == "models/mini"
    assert found["infonce"].params["training.learning_rate"] == "2e-05"
    assert found["own"].params["encoder.pooling"] == "first"
    assert found["own"].params["encoder.query_prompt"] == "Represent this query: "
    assert found["own"].params["tokens.query_length"] == "30"
    (model,) = [line for line in evaluate_corpus("models/own", tiny_corpus).lines if line.system == "model"]
    assert found["own"].metrics["test_mrr"] == pytest.approx(model.metrics["mrr"].mean, abs=1e-6)
    assert abs(found["own"].metrics["test_mrr"] - found["otherwise"].metrics["test_mrr"]) > 1e-3
    # As it was launched, with what was read then, nothing is left to do.
    assert running.resume("tiny", store=store, display=Said()).ran == 0


def test_an_arm_whose_model_cannot_be_loaded_fails_and_the_others_go_on(plain_study, store, tmp_path) -> None:
    (tmp_path / "no-model").mkdir()
    (tmp_path / "no-model" / "config.json").write_text("{}")
    (tmp_path / "no-model" / "model.safetensors").write_bytes(b"")
    arms = {"infonce": {}, "large": {"encoder": {"kind": "transformer", "model": str(tmp_path / "no-model")}}}
    done = go(plain_study(arms=arms, seeds=[1]), store)
    assert (done.ran, done.failed) == (1, 1)
    assert done.problems[0].startswith("large/python: nothing of it was run: ")
    assert "no-model" in done.problems[0]
    (failed,) = [run for run in runs(store, "trial") if run.info.status == "FAILED"]
    assert (failed.data.tags["arm"], failed.data.tags["failure_kind"]) == ("large", "files")
    assert "\n" not in failed.data.tags["failure"]
    assert "| large" in to_markdown(build_report(done.results))


def test_an_interrupt_while_preparing_ends_the_launch_as_interrupted(plain_study, store) -> None:
    class Interrupting(Said):
        def say(self, text: str) -> None:
            if "preparing" in text:
                os.kill(os.getpid(), signal.SIGTERM)

    done = go(plain_study(), store, Interrupting())
    assert (done.ran, done.interrupted, done.summed_up, done.results.trials) == (0, True, True, ())
    assert studies(store) == []


def test_an_error_of_the_run_itself_is_raised_after_all_is_closed(plain_study, store, monkeypatch) -> None:
    def broken(driver: Any, **options: Any) -> None:
        key, spec, _ = driver.next_spec()
        driver.started(key, spec.attempt)
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr(running, "run_tune", broken)
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        go(plain_study(), store)
    assert statuses(store) == {"study": {"FAILED"}, "arm": {"FAILED"}, "trial": {"KILLED"}}


def test_a_summary_that_fails_closes_the_runs_and_is_told(plain_study, store, monkeypatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no such table")

    monkeypatch.setattr(running, "sum_up", broken)
    monkeypatch.setattr(running, "run_tune", lambda driver, **options: None)
    done = go(plain_study(), store)
    assert done.unsent == ("summary: no such table",)
    assert statuses(store)["study"] == statuses(store)["arm"] == {"KILLED"}


# --- interrupts of a process of its own ---

_LAUNCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
from softnce_ray.study.run import launch

if __name__ == "__main__":
    done = launch(sys.argv[1], store=sys.argv[2])
    print("interrupted" if done.interrupted else "ended", done.ran, done.unsent)
"""


def test_an_interrupted_study_is_closed_and_ends_with_the_numbers_of_an_undisturbed_one(
    undisturbed, store, tmp_path
) -> None:
    study, _, done, _ = undisturbed
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    (tmp_path / "launch.py").write_text(_LAUNCH)
    command = [sys.executable, str(tmp_path / "launch.py"), str(tmp_path / "study.yaml"), str(store.root)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONUNBUFFERED": "1", "HOME": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "epoch 1/" in line:
                break
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    assert process.returncode == 0, "".join(lines) + error
    assert out.startswith("interrupted")
    assert out.rstrip().endswith("()"), out
    assert "Traceback" not in error
    assert not (tmp_path / ".ray").exists()  # no token of Ray's in the user's home
    left = statuses(store)
    assert left["study"] == left["arm"] == {"KILLED"}
    assert left["trial"] <= {"KILLED", "FINISHED"}

    again = go(study, store)
    assert not again.interrupted
    assert again.ran + again.already_done == 7
    assert scores(again.results.trials) == scores(done.results.trials)
    assert statuses(store) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}
