"""Several processes that train one model must train what one process trains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from servers import free_port
from torch import Tensor, distributed, multiprocessing

from softnce_ray.checkpoint import Checkpoint
from softnce_ray.config import Loss, TrialConfig
from softnce_ray.encoders import build_encoder
from softnce_ray.losses import LOSSES
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import TrainingError, TrainResult, train
from softnce_ray.workers import ALONE, Workers

SETTINGS: dict[str, Any] = {
    "encoder": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0},
    "tokens": {"vocabulary": 300, "query_length": 8, "code_length": 16},
    "training": {"batch_size": 26, "epochs": 2, "learning_rate": 0.003},
    "language": "python",
    "seed": 3,
}
ARMS: dict[str, dict[str, Any]] = {
    "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}},
    "both ways": {
        "loss": {"name": "soft_infonce"},
        "estimator": {"name": "bm25"},
        "symmetric": True,
        "mask_duplicates": True,
    },
    "hard negatives of batches of a budget": {
        "loss": {"name": "soft_infonce"},
        "estimator": {"name": "bm25"},
        "hard_negatives": {"name": "bm25_code", "count": 2, "depth": 5},
        "training": {**SETTINGS["training"], "batch_tokens": 400, "length_buckets": 2},
    },
    "kl": {"loss": {"name": "kl_regularised"}, "estimator": {"name": "bm25_code"}, "similarity": "dot"},
}


def _of_loss(name: str) -> dict[str, Any]:
    settings = next(each for each in get_args(get_args(Loss)[0]) if each.model_fields["name"].default == name)
    required = {key: 3 for key, field in settings.model_fields.items() if field.is_required()}
    estimated = LOSSES[name].needs & {"negatives", "similarity"}
    return {
        "loss": {"name": name, **required},
        **({"estimator": {"name": "bm25"}} if estimated else {}),
        "training": {**SETTINGS["training"], "epochs": 1},
    }


LOSS_ARMS = {name: _of_loss(name) for name in LOSSES}


def config(arm: str, **training: Any) -> TrialConfig:
    settings = {**SETTINGS, **(ARMS | LOSS_ARMS)[arm]}
    return TrialConfig.model_validate({**settings, "training": {**settings["training"], **training}})


def run(arm: str, corpus: Path, root: Path, workers: Workers) -> tuple[list[dict[str, float]], TrainResult]:
    settings, told = config(arm), []

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        told.append(metrics)

    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    return told, train(settings, data, report, read_test=True, workers=workers)


def _member(rank: int, ports: tuple[int, int], corpus: Path, root: Path) -> None:
    torch.set_num_threads(1)
    _train_together(list(ARMS), rank, 3, ports[0], corpus, root)
    if rank < 2:
        _train_together(list(LOSS_ARMS), rank, 2, ports[1], corpus, root)


def _train_together(arms: list[str], rank: int, count: int, port: int, corpus: Path, root: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=count)
    for arm in arms:
        told, result = run(arm, corpus, root, Workers(rank, count))
        if rank == 0:
            weights = result.model.encoder.state_dict()
            torch.save((told, weights, result.reciprocal_ranks, result.metrics), root / f"{arm}.{count}.pt")
        else:
            assert told == []
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_several(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what three processes made of every arm, and two of every loss; a batch of 26 gives two of three a pair
    more than the first."""
    root = tmp_path_factory.mktemp("several")
    for arm in ARMS | LOSS_ARMS:
        prepare(config(arm), tiny_corpus, "python", root)
    multiprocessing.spawn(_member, ((free_port(), free_port()), tiny_corpus, root), nprocs=3)
    return root


def agree(weights: dict[str, Tensor], alone: dict[str, Tensor]) -> None:
    """The sums of several processes differ from one's by rounding, some 1e-7 of a gradient. Adam divides a gradient by
    its size, so that rounding moves a weight whose gradient is near zero by as much as a whole step, 3e-3 here, at
    worst: 7e-5 was seen. Another draw of negatives moves them by 7e-3."""
    for name, tensor in alone.items():
        torch.testing.assert_close(weights[name], tensor, atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_three_workers_train_what_one_trains(arm: str, of_several: Path, tiny_corpus: Path) -> None:
    told, result = run(arm, tiny_corpus, of_several, ALONE)
    epochs, weights, ranks, metrics = torch.load(of_several / f"{arm}.3.pt", weights_only=False)
    assert len(epochs) == len(told) == 2
    for mine, theirs in zip(told, epochs, strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("train_loss", "information"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-5), name
    alone = result.model.encoder.state_dict()
    moved = max(float((alone[name] - start).abs().max()) for name, start in fresh(arm, result).items())
    agree(weights, alone)
    assert moved > 0.01  # the weights that agree have been trained
    assert metrics["test_mrr"] == pytest.approx(result.metrics["test_mrr"], abs=0.02)
    assert {key: value.shape for key, value in ranks.items()} == {
        key: value.shape for key, value in result.reciprocal_ranks.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_two_workers_train_what_one_trains_with_every_loss(loss: str, of_several: Path, tiny_corpus: Path) -> None:
    (alone,), result = run(loss, tiny_corpus, of_several, ALONE)
    (epoch,), weights, *_ = torch.load(of_several / f"{loss}.2.pt", weights_only=False)
    assert epoch["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    agree(weights, result.model.encoder.state_dict())


def fresh(arm: str, result: TrainResult) -> dict[str, Tensor]:
    """The weights that training began with."""
    torch.manual_seed(SETTINGS["seed"])
    return dict(build_encoder(config(arm), result.model.tokenizer.get_vocab_size()).state_dict())


def test_shares_cover_a_batch_once_and_are_even() -> None:
    for total in (1, 4, 5, 26, 27):
        for count in (1, 2, 3, 4):
            shares = [Workers(rank, count).share(total) for rank in range(count)]
            covered = np.concatenate([np.arange(total)[share] for share in shares])
            assert covered.tolist() == list(range(total))
            sizes = [share.stop - share.start for share in shares]
            assert max(sizes) - min(sizes) <= 1


def test_one_worker_changes_nothing() -> None:
    vectors = torch.ones(3, 2, requires_grad=True)
    module = torch.nn.Linear(2, 2)
    assert ALONE.gather(vectors, 3) is vectors
    assert ALONE.together(module) is module
    assert ALONE.scaled(vectors) is vectors


def test_more_workers_than_pairs_of_a_batch_are_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    settings = config("soft", batch_size=5)
    data = open_data(prepare(settings, tiny_corpus, "python", tmp_path), settings, "python")
    with pytest.raises(TrainingError, match="expected at most as many workers as a batch has pairs, 5, got 6"):
        train(settings, data, workers=Workers(0, 6))
