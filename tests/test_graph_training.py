"""Training of an encoder that reads graphs, where its inputs leave the ordinary way: in several processes, in bf16."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import encoder_of, write_model
from servers import free_port
from torch import distributed, multiprocessing

from softnce_ray.config import TrialConfig
from softnce_ray.encoders import build_encoder
from softnce_ray.model import Model
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import TrainResult, train
from softnce_ray.workers import ALONE, Workers


@pytest.fixture(scope="module")
def model(tiny_pairs: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GraphCodeBERT without dropout, whose random numbers would be each process' own."""
    texts = [text for pair in tiny_pairs for text in (pair.query, pair.code)]
    folder = write_model(tmp_path_factory.mktemp("models") / "graph", "graphcodebert", texts)
    file = folder / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), **without}))
    return folder


def run(model: Path, corpus: Path, root: Path, workers: Workers, precision: str = "float32") -> TrainResult:
    config = TrialConfig.model_validate(
        {
            "language": "python",
            "seed": 0,
            "encoder": encoder_of("graphcodebert", model),
            "tokens": {"query_length": 12, "code_length": 40},
            "training": {"epochs": 1, "batch_size": 27, "learning_rate": 0.001, "precision": precision},
            "loss": {"name": "soft_infonce"},
            "estimator": {"name": "bm25"},
        }
    )
    data = open_data(prepare(config, corpus, "python", root), config, "python")
    return train(config, data, read_test=True, workers=workers)


def _member(rank: int, count: int, port: int, model: Path, corpus: Path, root: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=count)
    result = run(model, corpus, root, Workers(rank, count))
    if rank == 0:
        torch.save((result.model.encoder.state_dict(), result.metrics), root / "several.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_train_on_graphs_what_one_trains(model: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    alone = run(model, tiny_corpus, tmp_path, ALONE)
    multiprocessing.spawn(_member, (2, free_port(), model, tiny_corpus, tmp_path), nprocs=2)
    weights, metrics = torch.load(tmp_path / "several.pt", weights_only=False)
    for name, tensor in alone.model.encoder.state_dict().items():
        if not name.endswith("key.bias"):  # whose gradient is rounding, which AdamW makes steps of
            torch.testing.assert_close(weights[name], tensor, atol=5e-5, rtol=0, msg=name)
    assert metrics["test_mrr"] == pytest.approx(alone.metrics["test_mrr"], abs=0.02)


def test_bf16_trains_on_graphs_nearly_as_float32(model: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    exact, rough = (run(model, tiny_corpus, tmp_path, ALONE, precision) for precision in ("float32", "bf16"))
    assert rough.distributions and all(each.isfinite().all() for each in rough.model.encoder.state_dict().values())
    queries = ["Sort the price of every robot.", "Copy the name of every lamp."]
    vectors = [each.model.encode_queries(queries) for each in (exact, rough)]
    start = build_encoder(exact.model.config, exact.model.tokenizer.get_vocab_size()).eval()
    before = Model(start, exact.model.tokenizer, exact.model.config).encode_queries(queries)
    # Training moves vectors several times as far as the rounding of its steps does.
    assert np.abs(vectors[0] - vectors[1]).max() < 0.5 * np.abs(vectors[0] - before).max()
