"""Folders of models that a study names: another content under the same name is another model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from softnce_ray.config import ArmConfig, Resources, SimCSEEstimator, StudyConfig, TrainedEstimator, TrainingSet
from softnce_ray.corpus import Corpus
from softnce_ray.preparation import Prepared
from softnce_ray.preparation.making import _decides_learned
from softnce_ray.preparation.vectors import Sources
from softnce_ray.store import Store
from softnce_ray.study.cells import Cell
from softnce_ray.study.model_contents import ModelContents, model_contents
from softnce_ray.study.record import cell_content, definitions, record_of
from softnce_ray.tracking import Tracker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_text("first")
    return place


def launched(study: StudyConfig, corpus: Corpus, store: Store) -> ModelContents:
    """What a launch finds, which it then records."""
    found = model_contents(study, store)
    tracker = Tracker(store, record_of(study, corpus, found), versions={})
    tracker.study_ended("FINISHED")
    tracker.wait()
    tracker.close()
    return found


@pytest.mark.parametrize("where", ["encoder", "estimator", "hard_negatives"])
def test_a_changed_folder_is_another_model_until_it_is_put_back(
    folder: Path, where: str, tiny_study: Callable[..., StudyConfig], tiny_corpus: Path, store: Store
) -> None:
    naming = {
        "encoder": {"encoder": {"kind": "transformer", "model": str(folder)}},
        "estimator": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "trained", "model": str(folder)}},
        "hard_negatives": {"hard_negatives": {"name": "trained", "model": str(folder)}},
    }
    study = tiny_study(arms={"infonce": {}, "named": naming[where]})
    corpus, named, plain = Corpus.open(tiny_corpus), Cell("named", "python"), Cell("infonce", "python")

    def contents(models: ModelContents) -> tuple[str, str]:
        assert cell_content(study, corpus, plain, models) == corpus.fingerprint
        return cell_content(study, corpus, named, models), definitions(study, corpus, models)["infonce"]

    before = contents(launched(study, corpus, store))
    assert before[0] == corpus.fingerprint  # as trials of before were known
    shutil.copytree(folder, folder.with_name("kept"))
    (folder / "model.safetensors").write_text("second")
    other = contents(launched(study, corpus, store))
    assert other[0].startswith(f"{corpus.fingerprint}+models:")
    assert other[1] == before[1]
    (folder / "model.safetensors").write_text("third")
    assert contents(launched(study, corpus, store))[0] not in (before[0], other[0])
    shutil.rmtree(folder)
    folder.with_name("kept").rename(folder)
    assert contents(launched(study, corpus, store)) == before


def test_a_study_without_folders_asks_mlflow_nothing(tiny_study: Callable[..., StudyConfig], tmp_path: Path) -> None:
    store = Store.at(tmp_path / "none")
    assert model_contents(tiny_study(), store) == ModelContents()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("estimator", [TrainedEstimator(), SimCSEEstimator()])
def test_what_an_estimator_learns_from_a_folder_is_kept_by_its_content(
    folder: Path, estimator: TrainedEstimator | SimCSEEstimator, tiny_corpus: Path
) -> None:
    def key(encoder: dict[str, str]) -> object:
        arm = ArmConfig.model_validate({"encoder": encoder})
        corpus, prepared = Corpus.open(tiny_corpus), Prepared("", "tokens/key", {})
        sources = Sources(arm, corpus, TrainingSet.of("python"), prepared, "cpu", Resources(), print)
        return _decides_learned(estimator, sources)

    named = {"kind": "transformer", "model": str(folder)}
    first, small = key(named), key({"kind": "bag"})
    (folder / "model.safetensors").write_text("second")
    assert key(named) != first
    (folder / "model.safetensors").write_text("first")
    assert key(named) == first
    assert key({"kind": "bag"}) == small
