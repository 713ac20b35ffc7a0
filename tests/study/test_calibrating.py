"""Calibrations: a few steps and evaluations of each encoder, and what trials are expected to take by them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.config import StudyConfig
from softnce_ray.corpus import Corpus
from softnce_ray.preparation import to_learn
from softnce_ray.storage import Location
from softnce_ray.store import Store
from softnce_ray.study import calibrating
from softnce_ray.study.calibrating import Speed, calibrated
from softnce_ray.study.costs import Known, costs, job_costs, planned_cells
from softnce_ray.study.estimate import cell_time
from softnce_ray.study.jobs import submission
from softnce_ray.study.jobs.sending import estimate_there
from softnce_ray.study.models_to_train import models_to_train


def three_arms(tiny_study, **more) -> StudyConfig:
    """Two arms of the same encoder, one of them with hard negatives, and one of another; and `more`."""
    arms = {
        "infonce": {},
        "hard": {"hard_negatives": {"name": "bm25_code", "count": 2}},
        "wide": {"encoder": {"kind": "bag", "width": 16}, "training": {"batch_size": 8}},
        **more,
    }
    return tiny_study(arms=arms, baseline="infonce")


def test_each_encoder_is_measured_once_and_every_cell_has_a_time(
    tiny_study, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial of 2 epochs of 240 pairs at 0.1 s and 110 texts at 0.01 s takes 2 x (24 + 1.1) s, and 2.2 s in the end.
    Two hard negatives of each pair are as many texts again."""
    study, corpus = three_arms(tiny_study), Corpus.open(tiny_corpus)
    counts = corpus.manifest.languages["python"].pairs
    texts = 2 * counts["valid"] + counts["test"] + counts["codebase"]
    asked: list[int] = []

    def measure(config, corpus, resources, steps, *, of_queries) -> Speed:
        asked.append(config.encoder.width)
        return Speed(0.1, 0.01)

    monkeypatch.setattr(calibrating, "measure", measure)
    planned = list(planned_cells(study, corpus.manifest, corpus.fingerprint, Known()))
    trials = calibrated(study, corpus, planned)
    assert asked == [8, 16]  # a step of 16 pairs takes longer than half a second: not measured in more of them
    seconds = [found.confirm_seconds for each in planned if (found := cell_time(each, trials))]
    train, evaluation = 0.1 * counts["train"], 0.01 * texts
    assert seconds == pytest.approx([2 * (each + evaluation) + 2 * evaluation for each in (train, 2 * train, train)])


def test_a_model_that_preparing_trains_is_measured_of_what_it_trains_on(
    tiny_study, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs take 0.1 s, queries with themselves 0.02 s and a text of an evaluation 0.01 s. `trained` takes 2 1/3 epochs
    as a trial has, `simcse` 3 epochs of all queries, and both are evaluated twice in the end."""
    arms = {
        "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "trained"}},
        "alike": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse", "epochs": 3, "batch_size": 64}},
    }
    study, corpus = tiny_study(arms=arms, baseline="soft"), Corpus.open(tiny_corpus)
    asked: list[tuple[int, bool]] = []

    def measure(config, corpus, resources, steps, *, of_queries) -> Speed:
        asked.append((config.training.batch_size, of_queries))
        return Speed(0.02, 99) if of_queries else Speed(0.1, 0.01)

    monkeypatch.setattr(calibrating, "measure", measure)
    models = [
        each for batch in models_to_train(study, corpus, Location(str(tmp_path))) for cell in batch for each in cell
    ]
    trials = calibrated(study, corpus, models)
    assert asked == [(16, False), (64, True)]
    found = [time for each in models if (time := cell_time(each, trials))]
    counts = corpus.manifest.languages["python"].pairs
    evaluation = 0.01 * (2 * counts["valid"] + counts["test"] + counts["codebase"])
    expected = [
        (2 + 1 / 3) * (0.1 * counts["train"] + evaluation) + 2 * evaluation,
        3 * (0.02 * counts["train"] + evaluation) + 2 * evaluation,
    ]
    assert [each.confirm_seconds for each in found] == pytest.approx(expected)
    assert {each.factor for each in found} == {2.0}


def test_a_named_model_is_run_unless_its_vectors_are_there_and_is_not_measured(
    tiny_study, tiny_corpus: Path, tmp_path: Path
) -> None:
    arm = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse", "model": "org/mini"}}
    study, corpus = tiny_study(arms={"soft": arm}, baseline="soft"), Corpus.open(tiny_corpus)
    told: list[str] = []
    found = costs(study, corpus, Store.at(tmp_path), calibrate=True, say=told.append)
    assert "without org/mini of soft/python;" in found[0]
    assert found[-1].startswith("preparing computes vectors with org/mini of soft/python: ")
    assert told == ["calibrating the encoder of soft/python"]
    (name,) = to_learn(study.arms["soft"], corpus, study.training_set("python"), Location(str(tmp_path)))
    (tmp_path / name).mkdir(parents=True)
    assert models_to_train(study, corpus, Location(str(tmp_path))) == [[[]], []]


def test_real_steps_are_measured_and_nothing_is_left(tiny_study, tiny_corpus: Path, tmp_path: Path) -> None:
    told: list[str] = []
    place = Store(tmp_path / "store", f"sqlite:///{tmp_path}/store/mlflow.db")
    study = three_arms(tiny_study, alike={"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse"}})
    found = costs(study, Corpus.open(tiny_corpus), place, calibrate=True, say=told.append)
    cells = ("infonce/python", "wide/python", "simcse of alike/python")
    assert told == [f"calibrating the encoder of {each}" for each in cells]
    assert found[0].startswith("8 trials to run, ")
    assert "simcse of alike/python: " in found[1]
    assert found[1].endswith(" a model, by 1 training of a calibration just now")
    assert "infonce/python, hard/python, wide/python, alike/python: " in found[2]
    assert found[2].endswith("trials of a calibration just now")
    assert len(found) == 3
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_measured_is_told_and_left_out(tiny_study, tiny_corpus: Path, tmp_path: Path) -> None:
    told: list[str] = []
    study = tiny_study(arms={"infonce": {"training": {"batch_size": 200}}}, baseline="infonce")
    corpus = Corpus.open(tiny_corpus)
    study = study.model_copy(
        update={
            "arms": {
                "infonce": study.arms["infonce"].model_copy(
                    update={"training": study.arms["infonce"].training.model_copy(update={"batch_size": 5000})}
                )
            }
        }
    )
    found = costs(study, corpus, Store.at(tmp_path), calibrate=True, say=told.append)
    assert told[1].startswith("infonce/python cannot be calibrated: expected at least batch_size 5000 training pairs")
    assert found[1].startswith("nothing that was timed is like infonce/python")


def test_a_study_that_is_sent_names_what_calibrates_on_the_cluster(
    plain_study, tiny_study, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my study.yaml"
    path.write_text(yaml.safe_dump(plain_study()))
    made = submission(path, "http://head:8265", {"SOFTNCE_STORE": "/runs", "MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    typed = "`softnce-ray launch 'my study.yaml' --dry-run --calibrate --store /runs --tracking-uri http://mlflow:5000`"
    assert estimate_there(made).endswith(f"the job prints it before it trains; on the head, {typed} prints it now")
    monkeypatch.setenv("SOFTNCE_STORE", str(tmp_path / "runs"))  # as in the job
    told = job_costs(tiny_study(), Corpus.open(tiny_corpus), Store.at(), 3)
    assert told[0].startswith("4 trials to run, 3 at a time; about ")
    typed = f"`softnce-ray launch STUDY.yaml --dry-run --calibrate --store {tmp_path}/runs` on the cluster's head"
    assert told[1].endswith(f"soft/python: {typed} measures some steps and an evaluation")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "STUDY.yaml").write_text(yaml.safe_dump(plain_study(), sort_keys=False))
    printed = typed.split("`")[1]
    done = CliRunner().invoke(app, shlex.split(printed)[1:])
    assert done.exit_code == 0, done.output
    assert "a calibration" in done.stderr


def test_a_launch_is_not_calibrated() -> None:
    done = CliRunner().invoke(app, ["launch", "study.yaml", "--calibrate"])
    assert "--calibrate: expected --dry-run beside it" in str(done.exception or done.output)
