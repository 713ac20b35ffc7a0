"""Small trained models, and a store that keeps one of them as a study's best."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Corpus
from softnce_ray.model import Model, save_model
from softnce_ray.preparation import open_data, prepare
from softnce_ray.ranks_file import RANKS_FILE, write_ranks
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker
from softnce_ray.training import TrainResult, train

PROMPTS = {"query_prompt": "of ", "code_prompt": "def: "}
ENCODERS: dict[str, dict[str, Any]] = {
    "bag": {"kind": "bag", "width": 12},
    "mean": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "mean", **PROMPTS},
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
    """A store with studies `bags` and `attention`, of one arm whose best trial keeps its model, and `both`, of two such
    arms: `bag`, and `mean`, which is larger and has the better validation MRR. `runs` has the runs that keep a model,
    of `both` by `both/ARM`."""

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
    bag, mean = (train_one(config_of(ENCODERS[name])) for name in ("bag", "mean"))
    runs = {
        "bags": keep(store, "bags", {"plain": bag}, tiny_corpus)["plain"],
        "attention": keep(store, "attention", {"plain": mean}, tiny_corpus)["plain"],
        **{f"both/{arm}": run for arm, run in keep(store, "both", {"bag": bag, "mean": mean}, tiny_corpus).items()},
    }
    results = {"bags": bag, "attention": mean, "both/bag": bag, "both/mean": mean}
    return Kept(store, tiny_corpus, runs, results)


def keep(store: Store, study: str, results: Mapping[str, TrainResult], folder: Path | str) -> dict[str, str]:
    """What a launch writes: the study, its arms with two trials each, and the model of the first; a later arm has the
    better validation MRR. Returns arm → the run that keeps a model."""
    corpus = Corpus.open(folder)
    record = StudyRecord(
        study=study,
        question="why?",
        baseline=next(iter(results)),
        arms=tuple(results),
        languages=("python",),
        seeds=(0, 1),
        corpus=str(folder),
        corpus_fingerprint=corpus.fingerprint,
        text="study: text\n",
        definitions=dict.fromkeys(results, "meaning"),
    )
    ids = {split: corpus.table("python", split, columns=["id"]).column("id").to_pylist() for split in ("valid", "test")}
    tracker = Tracker(store, record, versions={})
    with tempfile.TemporaryDirectory() as work:
        for number, (arm, result) in enumerate(results.items()):
            place = Path(work) / arm
            (place / "model").mkdir(parents=True)
            save_model(result.model, place / "model")
            write_ranks(place / RANKS_FILE, ids, {"reciprocal_rank": result.reciprocal_ranks})
            tracker.arm_started(arm, {"loss.name": "infonce"})
            for seed in (0, 1):
                key = TrialKey(arm, "python", "confirm", seed, f"{arm}-{seed}-{corpus.fingerprint[:8]}")
                tracker.trial_started(key, {"loss.name": "infonce", "seed": seed})
                best = (number + 1) / 10 - seed / 100
                tracker.trial_ended(
                    key,
                    "FINISHED",
                    metrics={**result.metrics, "best_valid_mrr": best},
                    ranks=place / RANKS_FILE,
                )
                if seed == 0:
                    tracker.model(key, place / "model")
        tracker.study_ended("FINISHED")
        tracker.wait()
        runs = {key.arm: known.run_id for key, known in tracker.known().items() if key.seed == 0}
        assert not tracker.close()
    return runs
