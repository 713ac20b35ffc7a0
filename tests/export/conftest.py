"""Small trained models, and a store that keeps one of them as a study's best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.config import TrialConfig, identity
from softnce_ray.corpus import Corpus
from softnce_ray.model import Model, save_model
from softnce_ray.preparation import open_data, prepare
from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker
from softnce_ray.training import TrainResult, train

ENCODERS: dict[str, dict[str, Any]] = {
    "bag": {"kind": "bag", "width": 12},
    "mean": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "mean"},
    "first": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "first"},
    "pooler": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "pooler"},
}


def config_of(encoder: dict[str, Any], similarity: str = "cosine") -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "language": "python",
            "seed": 0,
            "encoder": encoder,
            "similarity": similarity,
            "tokens": {"vocabulary": 400, "query_length": 4, "code_length": 40},
            "training": {"epochs": 1, "batch_size": 32},
        }
    )


@pytest.fixture(scope="session")
def train_one(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrialConfig], TrainResult]:
    """A function that trains for one epoch and tests."""
    root = tmp_path_factory.mktemp("prepared")

    def run(config: TrialConfig) -> TrainResult:
        data = open_data(prepare(config, tiny_corpus, "python", root), config, "python")
        return train(config, data, read_test=True)

    return run


@pytest.fixture(scope="session")
def trained(train_one: Callable[[TrialConfig], TrainResult]) -> Callable[..., Model]:
    """A function that trains a model of the given encoder for one epoch; queries longer than 4 tokens are cut."""

    def make(encoder: dict[str, Any] | str, similarity: str = "cosine") -> Model:
        settings = ENCODERS[encoder] if isinstance(encoder, str) else encoder
        return train_one(config_of(settings, similarity)).model

    return make


@dataclass(frozen=True)
class Kept:
    """A store with studies `bags` and `attention`, of one finished trial each that keeps its model."""

    store: Store
    corpus: Path
    runs: dict[str, str]
    results: dict[str, TrainResult]


@pytest.fixture(scope="session")
def kept(
    train_one: Callable[[TrialConfig], TrainResult], tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Kept:
    root = tmp_path_factory.mktemp("kept")
    store = Store(root, f"sqlite:///{root}/mlflow.db")
    runs, results = {}, {}
    for study, encoder in (("bags", "bag"), ("attention", "mean")):
        config = config_of(ENCODERS[encoder])
        result = train_one(config)
        runs[study] = _keep(store, study, config, result, tiny_corpus, root / study)
        results[study] = result
    return Kept(store, tiny_corpus, runs, results)


def _keep(store: Store, study: str, config: TrialConfig, result: TrainResult, folder: Path, work: Path) -> str:
    """What a launch writes: the study, its arm, two trials, and the model of the first."""
    corpus = Corpus.open(folder)
    record = StudyRecord(
        study=study,
        question="why?",
        baseline="plain",
        arms=("plain",),
        languages=("python",),
        seeds=(0, 1),
        corpus=str(folder),
        corpus_fingerprint=corpus.fingerprint,
        text="study: text\n",
        definitions={"plain": "meaning"},
    )
    (work / "model").mkdir(parents=True)
    save_model(result.model, work / "model")
    ids = {split: corpus.table("python", split, columns=["id"]).column("id").to_pylist() for split in ("valid", "test")}
    write_ranks(work / RANKS_FILE, ids, {"reciprocal_rank": result.reciprocal_ranks})
    tracker = Tracker(store, record, versions={})
    tracker.arm_started("plain", {"loss.name": "infonce"})
    for seed in (0, 1):
        key = TrialKey("plain", "python", "confirm", seed, identity(config, corpus.fingerprint)[:15] + str(seed))
        tracker.trial_started(key, {"loss.name": "infonce", "seed": seed})
        metrics = {**result.metrics, "best_valid_mrr": result.metrics["best_valid_mrr"] - seed / 100}
        tracker.trial_ended(key, "FINISHED", metrics=metrics, ranks=work / RANKS_FILE)
        if seed == 0:
            tracker.model(key, work / "model")
    tracker.study_ended("FINISHED")
    tracker.wait()
    (run_id,) = [known.run_id for key, known in tracker.known().items() if key.seed == 0]
    assert not tracker.close()
    return run_id
