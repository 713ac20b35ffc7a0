"""Training: the same bits twice, resumed or not; what it refuses; what it keeps; that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from softnce_ray import training
from softnce_ray.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Corpus
from softnce_ray.corpus.tokens import concatenate
from softnce_ray.encoders import build_encoder
from softnce_ray.errors import UserError
from softnce_ray.evaluation import ranks, reciprocal
from softnce_ray.model import encode
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import (
    TrainingData,
    TrainingError,
    TrainResult,
    epoch_batches,
    hash_seed,
    loss_options,
    train,
)

BAG: dict[str, Any] = {
    "encoder": {"kind": "bag", "width": 32},
    "training": {"epochs": 4, "batch_size": 32, "learning_rate": 0.02},
}
TRANSFORMER: dict[str, Any] = {
    "encoder": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.2},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 0.005},
}
SOFT: dict[str, Any] = {**BAG, "loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
ARMS = {"bag": BAG, "transformer": TRANSFORMER, "soft": SOFT}
TOKENS = {"vocabulary": 400, "query_length": 16, "code_length": 32}


def trial(arm: dict[str, Any], seed: int = 1, **training_settings: Any) -> TrialConfig:
    settings = {**arm, "training": {**arm["training"], **training_settings}}
    return TrialConfig.model_validate({"tokens": TOKENS, "language": "python", "seed": seed, **settings})


@pytest.fixture(scope="module")
def prepared(tiny_corpus, tmp_path_factory):
    """Data of a trial; made once for all that share it."""
    root = tmp_path_factory.mktemp("prepared")

    def data(config: TrialConfig) -> TrainingData:
        return open_data(prepare(config, tiny_corpus, "python", root), config, "python")

    return data


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return result.model.encoder.state_dict()


def same_weights(one: TrainResult, other: TrainResult) -> bool:
    return weights(one).keys() == weights(other).keys() and all(
        torch.equal(value, weights(other)[name]) for name, value in weights(one).items()
    )


class Log:
    """A report that keeps each epoch's metrics, and its checkpoint in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: list[dict[str, float]] = []

    def __call__(self, metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        self.metrics.append(metrics)
        place = self.folder / str(metrics["epoch"])
        place.mkdir(parents=True)
        save_checkpoint(checkpoint, place)

    def checkpoint(self, epoch: int) -> Checkpoint:
        return load_checkpoint(self.folder / str(epoch))

    def numbers(self) -> list[dict[str, float]]:
        """The metrics that do not depend on the clock."""
        clock = ("train_seconds", "pairs_per_second")
        return [{name: value for name, value in each.items() if name not in clock} for each in self.metrics]


# --- the same bits ---------------------------------------------------------------------------------------

every_arm = pytest.mark.parametrize("arm", ARMS)


@every_arm
def test_two_equal_trainings_give_equal_bits_and_another_seed_does_not(arm, prepared, tmp_path):
    config = trial(ARMS[arm])
    logs = [Log(tmp_path / str(number)) for number in range(2)]
    one, other = (train(config, prepared(config), log, read_test=True) for log in logs)
    assert same_weights(one, other)
    assert one.metrics == other.metrics
    assert logs[0].numbers() == logs[1].numbers()
    for split in ("valid", "test"):
        np.testing.assert_array_equal(one.reciprocal_ranks[split], other.reciprocal_ranks[split])
    assert not same_weights(one, train(trial(ARMS[arm], seed=2), prepared(config)))


@every_arm
def test_a_run_resumed_after_any_epoch_is_the_run_that_was_not_interrupted(arm, prepared, tmp_path):
    config = trial(ARMS[arm])
    data = prepared(config)
    whole_log = Log(tmp_path / "whole")
    whole = train(config, data, whole_log, identity="a", read_test=True)
    for epoch in range(1, config.training.epochs + 1):
        log = Log(tmp_path / f"after {epoch}")
        torch.manual_seed(99)  # what ran before in this process does not count
        resumed = train(config, data, log, identity="a", resume=whole_log.checkpoint(epoch), read_test=True)
        assert same_weights(resumed, whole)
        assert resumed.metrics == whole.metrics
        assert log.numbers() == whole_log.numbers()[epoch:]
        for split in ("valid", "test"):
            np.testing.assert_array_equal(resumed.reciprocal_ranks[split], whole.reciprocal_ranks[split])
        if epoch < config.training.epochs:
            last = config.training.epochs
            assert log.checkpoint(last).progress == whole_log.checkpoint(last).progress
            for name, value in whole_log.checkpoint(last).encoder.items():
                assert torch.equal(log.checkpoint(last).encoder[name], value)


def test_resuming_leaves_the_checkpoint_as_it_was(prepared, tmp_path):
    config = trial(TRANSFORMER)
    log = Log(tmp_path)
    train(config, prepared(config), log)
    checkpoint = log.checkpoint(1)
    results = [train(config, prepared(config), resume=checkpoint) for _ in range(2)]
    assert same_weights(*results)


def test_a_batch_is_what_its_seed_and_epoch_say():
    first = [rows.tolist() for rows in epoch_batches(103, 10, seed=1, epoch=1)]
    assert [len(rows) for rows in first] == [10] * 10  # the last three are left out
    seen = [row for rows in first for row in rows]
    assert len(set(seen)) == 100
    assert set(seen) <= set(range(103))
    assert first == [rows.tolist() for rows in epoch_batches(103, 10, seed=1, epoch=1)]
    assert first != [rows.tolist() for rows in epoch_batches(103, 10, seed=1, epoch=2)]
    assert first != [rows.tolist() for rows in epoch_batches(103, 10, seed=2, epoch=1)]
    whole = [row for rows in epoch_batches(100, 10, seed=1, epoch=1) for row in rows.tolist()]
    assert sorted(whole) == list(range(100))


def test_the_learning_rate_goes_over_the_whole_run(prepared, tmp_path, monkeypatch):
    steps: list[tuple[int, int]] = []
    honest = training.learning_rate

    def watched(step, total, settings):
        steps.append((step, total))
        return honest(step, total, settings)

    monkeypatch.setattr(training, "learning_rate", watched)
    config = trial(BAG)
    log = Log(tmp_path)
    train(config, prepared(config), log)
    total = 4 * (216 // 32)
    assert steps == [(step, total) for step in range(total)]
    del steps[:]
    train(config, prepared(config), resume=log.checkpoint(3))
    assert steps == [(step, total) for step in range(total * 3 // 4, total)]


def test_every_epoch_of_a_run_has_its_own_seed():
    seeds = {hash_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


# --- what is refused -------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_trial_is_refused(prepared, tmp_path):
    config = trial(BAG, epochs=1)
    log = Log(tmp_path)
    train(config, prepared(config), log, identity="mine")
    with pytest.raises(TrainingError, match="expected a checkpoint of trial other, got one of mine"):
        train(config, prepared(config), identity="other", resume=log.checkpoint(1))


def test_fewer_pairs_than_a_batch_are_refused(prepared):
    data = prepared(trial(BAG))
    pairs = len(data.train.queries)
    with pytest.raises(TrainingError, match=rf"batch_size {pairs + 1} training pairs, got {pairs}: lower"):
        train(trial(BAG, batch_size=pairs + 1), data)
    assert train(trial(BAG, batch_size=pairs, epochs=1), data).metrics["epoch"] == 1


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_that_will_be_missing_is_refused_before_any_epoch(split, prepared):
    config = trial(BAG)
    data = prepared(config)
    empty = replace(data.valid, queries=data.valid.queries.take(np.empty(0, int)))
    reports: list[dict[str, float]] = []
    with pytest.raises(TrainingError, match=f"expected {split} pairs to evaluate on, got none"):
        train(
            config,
            replace(data, **{split: empty}),
            lambda metrics, checkpoint: reports.append(metrics),
            read_test=True,
        )
    assert reports == []


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (32, "the loss of epoch . is nan"),
        (200, "expected finite vectors"),  # one batch an epoch: its loss was a number, its step was not
    ],
)
def test_a_run_that_diverges_is_an_error_that_a_user_can_mend(batch_size, message, prepared):
    config = trial(BAG, learning_rate=10, epochs=100, batch_size=batch_size, warmup=0)
    with pytest.raises(UserError, match=rf"{message}.* lower training.learning_rate.* or raise temperature"):
        train(config, prepared(config))


def test_a_loss_that_is_no_number_is_an_error_that_names_the_epoch(prepared, monkeypatch):
    config = trial(BAG)
    monkeypatch.setitem(training.LOSSES, "infonce", lambda scores, negatives: scores.sum() * torch.inf)
    with pytest.raises(TrainingError, match="the loss of epoch 1 is"):
        train(config, prepared(config))


def test_a_report_may_stop_the_run(prepared):
    config = trial(BAG)
    epochs: list[float] = []

    class Stopped(Exception):
        pass

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        epochs.append(metrics["epoch"])
        if len(epochs) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, prepared(config), report)
    assert epochs == [1, 2]


# --- what is kept ----------------------------------------------------------------------------------------


def test_the_weights_of_the_best_epoch_are_kept_not_the_last(prepared, tmp_path, monkeypatch):
    config = trial(BAG)
    data = prepared(config)
    honest, calls = training._evaluate, []

    def second_is_best(encoder, data, split):
        calls.append(split)
        found = honest(encoder, data, split)
        return np.ones_like(found) if len(calls) == 2 else found

    monkeypatch.setattr(training, "_evaluate", second_is_best)
    log = Log(tmp_path)
    result = train(config, data, log)
    assert [each["best_epoch"] for each in log.metrics] == [1, 2, 2, 2]
    assert log.metrics[-1]["best_valid_mrr"] == result.metrics["best_valid_mrr"] == 1.0
    assert result.metrics["best_epoch"] == 2
    last = log.checkpoint(4)
    for name, value in weights(result).items():
        assert torch.equal(value, log.checkpoint(2).encoder[name])
        assert torch.equal(value, last.best[name])
    assert not torch.equal(last.best["tower.table"], last.encoder["tower.table"])


def test_of_equal_epochs_the_first_is_best(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_evaluate", lambda encoder, data, split: np.full(7, 2.0))
    config = trial(BAG)
    assert train(config, prepared(config)).metrics["best_epoch"] == 1


def test_without_read_test_there_are_no_test_numbers(prepared, monkeypatch):
    config = trial(BAG, epochs=1)
    splits: list[str] = []
    honest = training._evaluate

    def watched(encoder, data, split):
        splits.append(split)
        return honest(encoder, data, split)

    monkeypatch.setattr(training, "_evaluate", watched)
    result = train(config, prepared(config))
    assert set(splits) == {"valid"}
    assert set(result.reciprocal_ranks) == {"valid"}
    assert not any("test" in name for name in result.metrics)
    assert "test_mrr" in train(config, prepared(config), read_test=True).metrics


def test_the_result_is_the_ranking_of_its_own_model_among_the_whole_codebase(prepared):
    config = trial(BAG, epochs=2)
    data = prepared(config)
    result = train(config, data, read_test=True)
    codes = encode(result.model.encoder, concatenate([data.valid.codes, data.test.codes, data.distractors]))
    assert len(codes) == result.metrics["test_codebase"] == 30 + 30 + 20
    for split, first in (("valid", 0), ("test", 30)):
        queries = encode(result.model.encoder, getattr(data, split).queries)
        expected = reciprocal(ranks(queries, codes, torch.arange(first, first + 30)))
        np.testing.assert_array_equal(result.reciprocal_ranks[split], expected)
        assert result.metrics[f"{split}_mrr"] == expected.mean()


def test_the_result_encodes_texts_as_training_did(prepared, tiny_corpus):
    for arm in (BAG, TRANSFORMER):
        config = trial(arm, epochs=1)
        data = prepared(config)
        result = train(config, data)
        texts = Corpus.open(tiny_corpus).table("python", "valid").column("code").to_pylist()
        np.testing.assert_allclose(
            result.model.encode_codes(texts), encode(result.model.encoder, data.valid.codes).numpy(), atol=1e-6
        )


def test_an_epoch_reports_its_numbers(prepared, tmp_path):
    config = trial(BAG, epochs=2)
    log = Log(tmp_path)
    train(config, prepared(config), log)
    for epoch, found in enumerate(log.metrics, start=1):
        assert found["epoch"] == epoch
        assert {"train_loss", "valid_mrr", "valid_recall@1", "valid_recall@10", "valid_ndcg@10"} <= set(found)
        assert found["train_seconds"] > 0
        assert found["pairs_per_second"] > 0
        assert all(np.isfinite(value) for value in found.values())
    assert log.metrics[1]["train_loss"] < log.metrics[0]["train_loss"]


def test_the_first_loss_of_a_fresh_encoder_is_about_that_of_guessing(prepared, tmp_path):
    config = trial(BAG, epochs=1, learning_rate=1e-9).model_copy(update={"temperature": 1.0})
    log = Log(tmp_path)
    train(config, prepared(config), log)
    assert log.metrics[0]["train_loss"] == pytest.approx(np.log(32), rel=0.05)


# --- that it learns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "settings", "least"),
    [
        (BAG, {"epochs": 10}, 0.9),
        (SOFT, {"epochs": 10}, 0.9),
        ({**BAG, "similarity": "dot"}, {"epochs": 10}, 0.8),
        ({**BAG, "training": {**BAG["training"], "precision": "bf16"}}, {"epochs": 10}, 0.9),
        (TRANSFORMER, {"epochs": 12, "learning_rate": 0.01}, 0.7),
    ],
    ids=["bag", "soft", "dot", "bf16", "transformer"],
)
def test_training_finds_functions_of_packages_that_it_never_saw(arm, settings, least, prepared):
    config = trial(arm, **settings)
    result = train(config, prepared(config), read_test=True)
    chance = sum(1 / rank for rank in range(1, 81)) / 80
    assert chance < 0.07
    for split in ("valid", "test"):
        assert result.metrics[f"{split}_mrr"] > least


def test_a_step_gives_the_loss_the_scores_and_negatives_of_its_batch(prepared, monkeypatch):
    config = trial({**SOFT, "temperature": 0.2, "estimator": {"name": "bm25", "temperature": 3.0}}, epochs=1)
    data = prepared(config)
    honest, seen = training.LOSSES["soft_infonce"], []

    def watched(scores, negatives, **options):
        seen.append((scores.detach(), negatives, options))
        return honest(scores, negatives, **options)

    monkeypatch.setitem(training.LOSSES, "soft_infonce", watched)
    train(config, data)
    scores, negatives, options = seen[0]

    rows = next(epoch_batches(len(data.train.queries), 32, config.seed, 1))
    torch.manual_seed(config.seed)
    encoder = build_encoder(config, data.tokenizer.get_vocab_size())
    queries, codes = (encode(encoder, side.take(rows)) for side in (data.train.queries, data.train.codes))
    torch.testing.assert_close(scores, queries @ codes.T / 0.2, rtol=1e-5, atol=1e-5)
    assert data.estimator is not None
    similarity = data.estimator.similarity(rows).astype(float)
    likeness = np.exp(similarity / 3.0)
    np.fill_diagonal(likeness, 0)
    np.testing.assert_allclose(negatives.numpy(), likeness / likeness.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7)
    assert options == {"alpha": 1.5, "beta": 0.5, "floor": 0.1}


def test_soft_infonce_weighs_by_its_estimator(prepared):
    config = trial(SOFT)
    assert loss_options(config) == {"alpha": 1.5, "beta": 0.5, "floor": 0.1}
    soft = train(config, prepared(config))
    plain = train(trial(BAG), prepared(trial(BAG)))
    uniform = trial({**SOFT, "estimator": {"name": "uniform"}})
    unweighted = train(uniform, prepared(uniform))
    assert not same_weights(soft, plain)
    # uniform p is InfoNCE but for rounding
    for name, value in weights(unweighted).items():
        torch.testing.assert_close(value, weights(plain)[name], rtol=0.01, atol=0.01)
    assert (weights(soft)["tower.table"] - weights(plain)["tower.table"]).abs().max() > 0.01


def test_a_transformer_in_bf16_keeps_float32_weights(prepared, tmp_path):
    config = trial(TRANSFORMER, precision="bf16", epochs=1)
    log = Log(tmp_path)
    result = train(config, prepared(config), log)
    assert {value.dtype for value in weights(result).values()} == {torch.float32}
    assert np.isfinite(log.metrics[0]["train_loss"])
    single = train(trial(TRANSFORMER, epochs=1), prepared(config))
    assert not same_weights(result, single)


def named_folder(folder: Path, corpus: Path) -> str:
    """A tiny model with a tokenizer of the corpus' words, as transformers writes them."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    table = Corpus.open(corpus).table("python", "train")
    texts = [text.replace("_", " ") for side in ("query", "code") for text in table.column(side).to_pylist()]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>"]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(5)
    BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=32, **sizes)).save_pretrained(
        folder
    )
    return str(folder)


def test_a_named_model_is_trained_from_its_weights_with_its_dropout(tiny_corpus, prepared, tmp_path, monkeypatch):
    name = named_folder(tmp_path / "named", tiny_corpus)
    config = trial({**TRANSFORMER, "encoder": {"kind": "transformer", "model": name}}, epochs=2)
    honest = training._step
    modes: list[bool] = []

    def watched(encoder, *rest):
        modes.extend(module.training for module in encoder.modules())
        return honest(encoder, *rest)

    monkeypatch.setattr(training, "_step", watched)
    log = Log(tmp_path / "log")
    whole = train(config, prepared(config), log)
    assert all(modes)
    assert log.metrics[1]["train_loss"] < log.metrics[0]["train_loss"]
    assert not any("pooler" in key for key in weights(whole))
    assert same_weights(whole, train(config, prepared(config), resume=log.checkpoint(1)))
    idle = train(
        trial({**TRANSFORMER, "encoder": {"kind": "transformer", "model": name}}, epochs=1, learning_rate=1e-12),
        prepared(config),
    )
    stored = AutoModel.from_pretrained(name).state_dict()
    for key, value in weights(idle).items():
        torch.testing.assert_close(value, stored[key.removeprefix("tower.model.")], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_arm
def test_a_gpu_learns_the_same(arm, prepared, tmp_path):
    config = trial(ARMS[arm])
    log = Log(tmp_path)
    there = train(config, prepared(config), log, device="cuda", read_test=True)
    assert {value.device.type for value in weights(there).values()} == {"cpu"}
    here = train(config, prepared(config), resume=log.checkpoint(config.training.epochs), read_test=True)
    np.testing.assert_allclose(here.reciprocal_ranks["test"], there.reciprocal_ranks["test"], atol=0.51)
    resumed = train(config, prepared(config), device="cuda", resume=log.checkpoint(1))
    assert resumed.metrics["epoch"] == config.training.epochs
