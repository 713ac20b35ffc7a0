"""Gradients chunk by chunk against those of one pass, for every loss and every estimator."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import write_model
from torch import Tensor

from softnce_ray.config import TrialConfig
from softnce_ray.corpus.ragged import concatenate
from softnce_ray.encoders import DualEncoder, build_encoder, recompute, tensors_of
from softnce_ray.gradients import backward
from softnce_ray.losses import LOSSES
from softnce_ray.objective import batch_loss, prepared
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import train
from softnce_ray.training_data import TrainingData

PAIRS = 10
SETTINGS: dict[str, Any] = {
    "encoder": {"kind": "transformer", "width": 8, "layers": 1, "heads": 2, "dropout": 0.0},
    "tokens": {"vocabulary": 300, "query_length": 8, "code_length": 16},
    "training": {"batch_size": PAIRS, "epochs": 1},
    "language": "python",
    "seed": 3,
}
MIX = {"name": "mix", "mix": {"bm25": 0.5, "uniform": 0.5}}
ESTIMATORS = [{"name": name} for name in ("bm25", "bm25_code", "uniform", "trained", "simcse")] + [MIX]
ARMS: dict[str, dict[str, Any]] = {
    **{
        f"loss {name}": {
            "loss": {"name": name, **({"k": 3} if name == "subsampled_infonce" else {})},
            **({"estimator": {"name": "bm25"}} if {"negatives", "similarity"} & set(entry.needs) else {}),
        }
        for name, entry in LOSSES.items()
    },
    **{f"estimator {each['name']}": {"loss": {"name": "soft_infonce"}, "estimator": each} for each in ESTIMATORS},
    "both ways": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}, "symmetric": True},
    "no duplicates": {"mask_duplicates": True},
    "dot": {"similarity": "dot"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


def _config(**changes: Any) -> TrialConfig:
    return TrialConfig.model_validate({**SETTINGS, **changes})


def _data(config: TrialConfig, corpus: Path, root: Path) -> TrainingData:
    return open_data(prepare(config, corpus, "python", root), config, "python")


def _encoder(config: TrialConfig, data: TrainingData) -> DualEncoder:
    torch.manual_seed(0)
    return build_encoder(config, data.tokenizer.get_vocab_size()).double()


def _gradients(
    config: TrialConfig, data: TrainingData, encoder: DualEncoder, chunk_size: int | None, extra: int = 0
) -> tuple[dict[str, Tensor], Tensor, list[int]]:
    """Gradients of a batch by parameter, its loss, and how many texts were encoded at a time; `extra` codes are hard
    negatives."""
    rows = np.arange(5, 5 + PAIRS)
    columns = np.concatenate([rows, np.arange(60, 60 + extra)])
    (batch,) = prepared(iter([(rows, columns)]), config, data)
    texts = concatenate([data.train.queries.take(rows), data.train.codes.take(columns)])
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(2)  # a loss may draw negatives
    sizes: list[int] = []

    def encode(numbers: np.ndarray) -> Tensor:
        sizes.append(len(numbers))
        return encoder(*tensors_of(texts.take(numbers), "cpu"))

    def loss_of(vectors: Tensor) -> tuple[Tensor, Tensor]:
        scores = vectors[:PAIRS] @ vectors[PAIRS:].T / config.resolved_temperature
        loss = batch_loss(scores, batch, config)
        return loss, loss.detach()

    loss = backward(encode, PAIRS, len(columns), loss_of, chunk_size=chunk_size)
    return {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}, loss, sizes


@pytest.mark.parametrize("arm", ARMS)
def test_gradients_of_chunks_are_those_of_one_pass(arm: str, tiny_corpus: Path, root: Path) -> None:
    config = _config(**ARMS[arm])
    data = _data(config, tiny_corpus, root)
    encoder = _encoder(config, data)
    whole, loss, sizes = _gradients(config, data, encoder, None)
    assert sizes == [2 * PAIRS]
    assert max(float(each.abs().max()) for each in whole.values()) > 1e-4
    for chunk_size in (1, 4, 5):
        parts, same, sizes = _gradients(config, data, encoder, chunk_size)
        assert max(sizes) == 2 * chunk_size
        assert torch.equal(same, loss) or abs(float(same - loss)) < 1e-12
        assert parts.keys() == whole.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(parts[name], expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("arm", ARMS)
def test_gradients_of_chunks_are_those_of_one_pass_with_hard_negatives_too(
    arm: str, tiny_corpus: Path, root: Path
) -> None:
    config = _config(**ARMS[arm])
    data = _data(config, tiny_corpus, root)
    encoder = _encoder(config, data)
    whole, loss, sizes = _gradients(config, data, encoder, None, extra=7)
    assert sizes == [2 * PAIRS + 7]
    parts, same, sizes = _gradients(config, data, encoder, 4, extra=7)
    assert sizes[: len(sizes) // 2] == [8, 8, 6, 4, 1]  # the last have no queries left
    assert torch.equal(same, loss) or abs(float(same - loss)) < 1e-12
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("part", ["frozen", "lora"])
def test_gradients_of_chunks_and_of_layers_computed_twice_are_those_of_one_pass_where_a_part_is_trained(
    part: str, tiny_pairs: list[Any], tiny_corpus: Path, root: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS["encoder"], "layers": 2, "freeze": {"embeddings": True, "layers": 1}}
    if part == "lora":
        calm: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = write_model(tmp_path / "model", "codebert", [pair.code for pair in tiny_pairs], **calm)
        settings = {"kind": "codebert", "model": str(model), "lora": {"rank": 2}}
    config = _config(encoder=settings)
    data = _data(config, tiny_corpus, root)
    encoder = _encoder(config, data)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if ".lora_B." in name:  # as long as it is zero, A has no gradient
                parameter.normal_()
    whole, loss, _ = _gradients(config, data, encoder, None)
    assert whole.keys() == {name for name, each in encoder.named_parameters() if each.requires_grad}
    assert len(whole) < len(list(encoder.parameters()))
    recompute(encoder.train())
    for chunk_size in (None, 4):
        parts, same, _ = _gradients(config, data, encoder, chunk_size)
        assert abs(float(same - loss)) < 1e-12
        assert parts.keys() == whole.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(parts[name], expected, rtol=1e-9, atol=1e-13)


def test_a_chunk_that_is_no_smaller_than_the_batch_is_one_pass(tiny_corpus: Path, root: Path) -> None:
    config = _config()
    data = _data(config, tiny_corpus, root)
    assert _gradients(config, data, _encoder(config, data), PAIRS)[2] == [2 * PAIRS]


def test_dropout_is_the_same_in_both_passes(tiny_corpus: Path, root: Path) -> None:
    """With another mask in the second pass, the gradients would be those of vectors that no loss has seen."""
    config = _config(encoder={**SETTINGS["encoder"], "dropout": 0.5})
    data = _data(config, tiny_corpus, root)
    encoder = _encoder(config, data)
    rows = np.arange(PAIRS)
    texts = concatenate([data.train.queries.take(rows), data.train.codes.take(rows)])
    seen: list[Tensor] = []

    def encode(numbers: np.ndarray) -> Tensor:
        vectors = encoder(*tensors_of(texts.take(numbers), "cpu"))
        seen.append(vectors.detach())
        return vectors

    torch.manual_seed(1)
    backward(encode, PAIRS, PAIRS, lambda vectors: (vectors.square().sum(), vectors), chunk_size=4)
    first, second = seen[:3], seen[3:]
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before, after)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    for chunk in (np.arange(4), np.arange(4, 8), np.arange(8, 10)):
        encode(np.concatenate([chunk, chunk + PAIRS]))
    assert torch.equal(drawn, torch.rand(1))  # the generator goes on as after one pass


def test_all_chunks_but_the_last_are_added_up_unsynced() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    inside: list[bool] = []
    open_now: list[bool] = []

    @contextmanager
    def unsynced():
        open_now.append(True)
        yield
        open_now.pop()

    def encode(numbers: np.ndarray) -> Tensor:
        if torch.is_grad_enabled():
            inside.append(bool(open_now))
        return torch.ones(len(numbers), 2) @ weight

    backward(encode, 7, 7, lambda vectors: (vectors.sum(), vectors), chunk_size=3, unsynced=unsynced)
    assert inside == [True, True, False]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[14.0] * 3] * 2


def test_a_run_in_chunks_learns_what_a_run_in_one_pass_learns(tiny_corpus: Path, root: Path) -> None:
    config = _config(training={"batch_size": 30, "epochs": 2, "learning_rate": 0.003})
    data = _data(config, tiny_corpus, root)
    whole = train(config, data)
    parts = train(config, data, chunk_size=7)
    assert parts.metrics["best_valid_mrr"] == pytest.approx(whole.metrics["best_valid_mrr"], abs=0.02)
    for name, tensor in whole.model.encoder.state_dict().items():
        torch.testing.assert_close(parts.model.encoder.state_dict()[name], tensor, atol=5e-5, rtol=0)
