"""Calibrations: a few steps and evaluations of each encoder, and what trials are expected to take by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.config import StudyConfig
from softnce_ray.corpus import Corpus
from softnce_ray.store import Store
from softnce_ray.study import calibrating
from softnce_ray.study.calibrating import Speed, calibrated
from softnce_ray.study.costs import Known, costs, planned_cells
from softnce_ray.study.estimate import cell_time


def three_arms(tiny_study, **changes) -> StudyConfig:
    """Two arms of the same encoder, one of them with hard negatives, and one of another."""
    arms = {
        "infonce": {},
        "hard": {"hard_negatives": {"name": "bm25_code", "count": 2}},
        "wide": {"encoder": {"kind": "bag", "width": 16}, "training": {"batch_size": 8}},
    }
    return tiny_study(arms=arms, baseline="infonce", **changes)


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


def test_real_steps_are_measured_and_nothing_is_left(tiny_study, tiny_corpus: Path, tmp_path: Path) -> None:
    told: list[str] = []
    place = Store(tmp_path / "store", f"sqlite:///{tmp_path}/store/mlflow.db")
    found = costs(three_arms(tiny_study), Corpus.open(tiny_corpus), place, calibrate=True, say=told.append)
    assert told == ["calibrating the encoder of infonce/python", "calibrating the encoder of wide/python"]
    assert found[0].startswith("6 trials to run, ")
    assert "infonce/python, hard/python, wide/python: " in found[1]
    assert found[1].endswith("trial of a calibration just now") or "trials of a calibration just now" in found[1]
    assert len(found) == 2
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


def test_a_launch_is_not_calibrated() -> None:
    done = CliRunner().invoke(app, ["launch", "study.yaml", "--calibrate"])
    assert "--calibrate: expected --dry-run beside it" in str(done.exception or done.output)
