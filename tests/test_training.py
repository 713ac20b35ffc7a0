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

from softnce_ray import objective, training
from softnce_ray.batching import random_batches
from softnce_ray.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Corpus, Pair, build_corpus
from softnce_ray.corpus.duplicates import normalise_code, normalise_query
from softnce_ray.corpus.ragged import concatenate
from softnce_ray.determinism import deterministic_algorithms
from softnce_ray.encoders import build_encoder
from softnce_ray.errors import UserError
from softnce_ray.estimators import negative_distribution
from softnce_ray.evaluation import DivergedError, ranks, reciprocal
from softnce_ray.losses import (
    LOSSES,
    Loss,
    cancel_top_k,
    hard_negative,
    infonce,
    positive_equal,
    soft_infonce,
)
from softnce_ray.model import encode
from softnce_ray.objective import Batch, batch_loss, loss_options
from softnce_ray.objective import prepared as batches_of
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import TrainingError, TrainResult, hash_seed, train
from softnce_ray.training_data import TrainingData

BAG: dict[str, Any] = {
    "encoder": {"kind": "bag", "width": 32},
    "training": {"epochs": 4, "batch_size": 32, "learning_rate": 0.02},
}
TRANSFORMER: dict[str, Any] = {
    "encoder": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.2},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 0.005},
}
SOFT: dict[str, Any] = {**BAG, "loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
DRAWN: dict[str, Any] = {**BAG, "loss": {"name": "subsampled_infonce", "k": 8}}
ARMS = {"bag": BAG, "transformer": TRANSFORMER, "soft": SOFT, "drawn": DRAWN}
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
        clock = ("at", "train_seconds", "pairs_per_second")
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
        if epoch < config.training.epochs:  # the last checkpoint tells of all epochs, with those before as they were
            assert log.checkpoint(config.training.epochs).history[:epoch] == whole_log.metrics[:epoch]
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
    first = [rows.tolist() for rows in random_batches(103, 10, seed=1, epoch=1)]
    assert [len(rows) for rows in first] == [10] * 10  # the last three are left out
    seen = [row for rows in first for row in rows]
    assert len(set(seen)) == 100
    assert set(seen) <= set(range(103))
    assert first == [rows.tolist() for rows in random_batches(103, 10, seed=1, epoch=1)]
    assert first != [rows.tolist() for rows in random_batches(103, 10, seed=1, epoch=2)]
    assert first != [rows.tolist() for rows in random_batches(103, 10, seed=2, epoch=1)]
    whole = [row for rows in random_batches(100, 10, seed=1, epoch=1) for row in rows.tolist()]
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
    with pytest.raises(CheckpointError, match="expected a checkpoint of trial other, got one of mine"):
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
    texts = data.evaluated["python"]
    empty = replace(texts.valid, queries=texts.valid.queries.take(np.empty(0, int)))
    reports: list[dict[str, float]] = []
    with pytest.raises(TrainingError, match=f"expected {split} pairs to evaluate on, got none"):
        train(
            config,
            replace(data, evaluated={"python": replace(texts, **{split: empty})}),
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
    with pytest.raises(UserError, match=rf"{message}.*lower training.learning_rate.* or raise temperature"):
        train(config, prepared(config))


def test_a_loss_that_is_no_number_is_an_error_that_names_the_epoch(prepared, monkeypatch):
    config = trial(BAG)
    monkeypatch.setitem(objective.LOSSES, "infonce", Loss(lambda scores: scores.sum() * torch.inf))
    with pytest.raises(DivergedError, match="the loss of epoch 1 is"):
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

    def second_is_best(encoder, data, split, workers):
        calls.append(split)
        found = honest(encoder, data, split, workers)
        return replace(found, ranks=np.ones_like(found.ranks)) if len(calls) == 2 else found

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
    honest = training._evaluate

    def level(encoder, data, split, workers):
        found = honest(encoder, data, split, workers)
        return replace(found, ranks=np.full_like(found.ranks, 2.0))

    monkeypatch.setattr(training, "_evaluate", level)
    config = trial(BAG)
    assert train(config, prepared(config)).metrics["best_epoch"] == 1


def test_without_read_test_there_are_no_test_numbers(prepared, monkeypatch):
    config = trial(BAG, epochs=1)
    splits: list[str] = []
    honest = training._evaluate

    def watched(encoder, data, split, workers):
        splits.append(split)
        return honest(encoder, data, split, workers)

    monkeypatch.setattr(training, "_evaluate", watched)
    result = train(config, prepared(config))
    assert set(splits) == {"valid"}
    assert set(result.reciprocal_ranks) == {"valid"}
    assert not any("test" in name for name in result.metrics)
    assert "test_mrr" in train(config, prepared(config), read_test=True).metrics


def test_the_result_is_the_ranking_of_its_own_model_among_the_whole_codebase(prepared):
    config = trial(BAG, epochs=2)
    data = prepared(config).evaluated["python"]
    result = train(config, prepared(config), read_test=True)
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
            result.model.encode_codes(texts),
            encode(result.model.encoder, data.evaluated["python"].valid.codes).numpy(),
            atol=1e-6,
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
    honest, seen = objective.LOSSES["soft_infonce"], []

    def watched(scores, *, negatives, **options):
        seen.append((scores.detach(), negatives, options))
        return honest.function(scores, negatives=negatives, **options)

    monkeypatch.setitem(objective.LOSSES, "soft_infonce", replace(honest, function=watched))
    train(config, data)
    scores, negatives, options = seen[0]

    rows = next(random_batches(len(data.train.queries), 32, config.seed, 1))
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


# --- the loss of a batch ---------------------------------------------------------------------------------

LOSS_SETTINGS: dict[str, dict[str, Any]] = {
    "subsampled_infonce": {"k": 8},
    "cancel_top_k": {"k": 3},
}


def arm_of(loss: str, **settings: Any) -> dict[str, Any]:
    """A bag with a loss, and an estimator where it needs one."""
    estimated = LOSSES[loss].needs & {"negatives", "similarity"}
    estimator = {"estimator": {"name": "bm25"}} if estimated else {}
    return {**BAG, "loss": {"name": loss, **LOSS_SETTINGS.get(loss, {})}, **estimator, **settings}


class Fixed:
    """An estimator of four pairs that is not symmetric: query i is to pair j what pair j is not to query i."""

    matrix = np.array([[9, 1, 2, 0], [3, 8, 0, 1], [0, 2, 7, 4], [5, 0, 1, 9]], np.float32)

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        return self.matrix[rows][:, rows]


# Pairs 0 and 2 share their query, 1 and 3 their code.
GROUPS = np.array([[0, 1, 0, 2], [0, 1, 2, 1]], np.int32)
TWINS = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
ROWS = np.arange(4)


def loss_of(scores: torch.Tensor, rows: np.ndarray, config: TrialConfig, data: TrainingData) -> torch.Tensor:
    return batch_loss(scores, next(batches_of(iter([(rows, rows)]), config, data)), config)


@pytest.fixture
def four(prepared) -> TrainingData:
    return replace(prepared(trial(BAG)), groups=GROUPS, estimator=Fixed())


def some_scores() -> torch.Tensor:
    return 3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def p_of(similarity: torch.Tensor) -> torch.Tensor:
    return negative_distribution(similarity, temperature=2.0)


@pytest.mark.parametrize("mask", [False, True])
def test_a_symmetric_loss_is_the_mean_of_both_directions(four, mask):
    scores, similarity = some_scores(), torch.from_numpy(Fixed.matrix)
    masked: dict[str, Any] = {"mask_duplicates": mask, "training": {**BAG["training"], "batch_size": 4}}
    given: dict[str, Any] = {"hidden": TWINS if mask else None}
    estimator = {"name": "bm25", "temperature": 2.0}
    soft: dict[str, Any] = {"alpha": 0.6, "beta": 1.4}
    hard: dict[str, Any] = {"concentration": 0.5, "tau_plus": 0.1}
    expected = {
        "infonce": [infonce(scores, **given), infonce(scores.T, **given)],
        "soft_infonce": [
            soft_infonce(scores, negatives=p_of(similarity), **soft, **given),
            soft_infonce(scores.T, negatives=p_of(similarity.T), **soft, **given),
        ],
        "cancel_top_k": [
            cancel_top_k(scores, similarity=similarity, k=1, **given),
            cancel_top_k(scores.T, similarity=similarity.T, k=1, **given),
        ],
        "hard_negative": [
            hard_negative(scores, temperature=0.2, **hard, **given),
            hard_negative(scores.T, temperature=0.2, **hard, **given),
        ],
    }
    settings: dict[str, Any] = {"soft_infonce": soft, "cancel_top_k": {"k": 1}, "hard_negative": hard}
    for loss, (there, back) in expected.items():
        assert there != back
        arm = {**arm_of(loss, **masked), "loss": {"name": loss, **settings.get(loss, {})}, "temperature": 0.2}
        if "estimator" in arm:
            arm["estimator"] = estimator
        for symmetric, value in ((False, there), (True, (there + back) / 2)):
            found = loss_of(scores, ROWS, trial({**arm, "symmetric": symmetric}), four)
            torch.testing.assert_close(found, value)


def test_masking_hides_the_pairs_that_share_query_or_code_with_the_right_answer_and_no_other(four):
    for loss in sorted(set(LOSSES) - {"positive_equal"}):
        arm = {**arm_of(loss, mask_duplicates=True), "training": {**BAG["training"], "batch_size": 4}}
        small = {"cancel_top_k": {"k": 0}, "subsampled_infonce": {"k": 3}, "cancel_threshold": {"ratio": 10}}
        if loss in small:
            arm["loss"] = {"name": loss, **small[loss]}
        if loss == "soft_infonce":
            arm["loss"] = {"name": loss, "alpha": 0.6}
        for mask in (True, False):
            scores = (some_scores() / 10).requires_grad_()
            loss_of(scores, ROWS, trial({**arm, "mask_duplicates": mask}), four).backward()
            assert scores.grad is not None
            assert torch.equal(scores.grad == 0, TWINS if mask else torch.zeros_like(TWINS)), loss


def test_the_rows_of_a_batch_say_which_pairs_it_holds(four):
    order = np.array([3, 0, 2, 1])
    np.testing.assert_array_equal(four.same(ROWS, ROWS), TWINS.numpy() | np.eye(4, dtype=bool))
    np.testing.assert_array_equal(four.same(order, order), four.same(ROWS, ROWS)[order][:, order])
    arm = {**arm_of("soft_infonce", mask_duplicates=True), "training": {**BAG["training"], "batch_size": 4}}
    config = trial({**arm, "loss": {"name": "soft_infonce", "alpha": 0.6}})
    there = torch.from_numpy(order)
    scores = some_scores()
    torch.testing.assert_close(
        loss_of(scores[there][:, there], order, config, four), loss_of(scores, ROWS, config, four)
    )


@pytest.mark.parametrize("loss", [name for name in LOSSES if "generator" in LOSSES[name].needs])
def test_what_a_loss_draws_comes_from_seed_epoch_and_step_alone(loss, prepared):
    arm = {**arm_of(loss, symmetric=True), "training": {**BAG["training"], "batch_size": 16}}
    data = prepared(trial(arm))
    rows = np.arange(16)
    scores = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))

    def drawn(seed: int, epoch: int, step: int) -> float:
        config = trial(arm, seed=seed)
        batches = list(batches_of(iter([(rows, rows)] * (step + 1)), config, data, epoch=epoch))
        return batch_loss(scores, batches[step], config).item()

    places = [(seed, epoch, step) for seed in (1, 2) for epoch in (1, 2) for step in (0, 1, 20)]
    torch.manual_seed(0)
    first = [drawn(*place) for place in places]
    torch.rand(3)  # as a worker's dropout would
    assert [drawn(*place) for place in places] == first
    assert len(set(first)) == len(places)


def test_positive_equal_takes_pairs_that_share_query_or_code_as_positives(four):
    scores = some_scores()
    own = torch.eye(4, dtype=torch.bool)
    there, back = (positive_equal(each, positives=TWINS | own) for each in (scores, scores.T))
    assert there != infonce(scores)
    for symmetric, value in ((False, there), (True, (there + back) / 2)):
        config = trial(arm_of("positive_equal", symmetric=symmetric))
        torch.testing.assert_close(loss_of(scores, ROWS, config, four), value)


@pytest.fixture(scope="module")
def repeating(tiny_pairs, tmp_path_factory) -> Path:
    """A corpus where a quarter of the training pairs has another's query, a quarter another's code, but for layout."""
    pairs: list[Pair] = []
    for number, pair in enumerate(tiny_pairs[:160]):
        if number % 4 == 1:
            pair = replace(pair, query=pairs[-1].query.upper().replace(" ", "  ").replace(".", "!"))
        elif number % 4 == 3:
            pair = replace(pair, code=pairs[-1].code.replace(" = ", "  =  "))
        pairs.append(pair)
    folder = tmp_path_factory.mktemp("corpora") / "repeating"
    build_corpus({"train": pairs, "valid": tiny_pairs[200:220]}, folder, near_duplicate=None)
    return folder


def test_pairs_are_the_same_where_a_normalised_query_or_code_is(repeating, tmp_path):
    config = trial(BAG)
    data = open_data(prepare(config, repeating, "python", tmp_path), config, "python")
    table = Corpus.open(repeating).table("python", "train")
    queries = [normalise_query(text) for text in table.column("query").to_pylist()]
    codes = [normalise_code(text) for text in table.column("code").to_pylist()]
    rows = np.random.default_rng(0).permutation(len(queries))
    expected = [[queries[i] == queries[j] or codes[i] == codes[j] for j in rows] for i in rows]
    np.testing.assert_array_equal(data.same(rows, rows), expected)
    assert 0 < len(set(queries)) < len(queries)
    assert 0 < len(set(codes)) < len(codes)


@pytest.mark.parametrize("change", [{"mask_duplicates": True}, {"loss": {"name": "positive_equal"}}])
def test_a_run_on_a_corpus_with_duplicates_treats_them_as_its_arm_says(repeating, change, tmp_path):
    results = []
    for arm in (BAG, {**BAG, **change}):
        config = trial(arm, epochs=2)
        data = open_data(prepare(config, repeating, "python", tmp_path), config, "python")
        results.append(train(config, data))
    assert not same_weights(*results)


@pytest.mark.parametrize("change", [{"mask_duplicates": True}, {"loss": {"name": "positive_equal"}}])
def test_without_duplicates_what_is_done_with_them_changes_nothing(prepared, change):
    plain, changed = (trial(arm, epochs=1) for arm in (BAG, {**BAG, **change}))
    one, other = (train(config, prepared(config)) for config in (plain, changed))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_an_epoch_and_learns(loss, symmetric, prepared, tmp_path):
    config = trial(arm_of(loss, symmetric=symmetric), epochs=2)
    log = Log(tmp_path)
    train(config, prepared(config), log)
    losses = [each["train_loss"] for each in log.metrics]
    assert all(np.isfinite(losses))
    assert losses[1] < losses[0]


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


SPACE = {"alignment", "uniformity_queries", "uniformity_codes"}


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (BAG, {"information"}),
        (SOFT, {"information", "kl_negatives", "weight_entropy", "floor_share"}),
        ({**SOFT, "mask_duplicates": True}, {"information", "kl_negatives", "weight_entropy", "floor_share"}),
        (
            {**BAG, "loss": {"name": "weighted_infonce"}, "estimator": {"name": "bm25"}},
            {"information", "kl_negatives", "weight_entropy"},
        ),
    ],
)
def test_every_epoch_has_the_diagnostics_that_its_arm_can_have(arm, expected, prepared, tmp_path):
    config = trial(arm, epochs=2)
    log = Log(tmp_path)
    train(config, prepared(config), log)
    every = {"information", "kl_negatives", "weight_entropy", "floor_share"} | SPACE
    for found in log.metrics:
        assert set(found) & every == expected | SPACE
        assert all(np.isfinite(found[name]) for name in expected | SPACE)
        assert found["information"] <= np.log(32) + 1e-5
        assert 0 <= found["alignment"] <= 4
        assert -8 <= found["uniformity_codes"] <= 0
        assert 0 <= found.get("weight_entropy", 0) <= np.log(31) + 1e-5
        assert 0 <= found.get("floor_share", 0) <= 1
    assert log.metrics[1]["information"] > log.metrics[0]["information"]


def test_diagnostics_read_the_batches_and_change_nothing(prepared, monkeypatch):
    config = trial(SOFT, epochs=1)
    plain = train(config, prepared(config))
    seen: list[tuple[torch.Tensor, Batch]] = []

    def nothing(scores, batch, config):
        seen.append((scores, batch))
        return {"information": torch.zeros(())}

    monkeypatch.setattr(training, "observe", nothing)
    assert same_weights(train(config, prepared(config)), plain)
    assert all(scores.shape == (32, 32) and not scores.requires_grad for scores, _ in seen)
    monkeypatch.setattr(training, "_APART", 1)
    seen.clear()
    train(config, prepared(config))
    pairs = len(prepared(config).train.queries)
    assert [batch.rows.tolist() for _, batch in seen] == [rows.tolist() for rows in random_batches(pairs, 32, 1, 1)]


@pytest.mark.parametrize(("arm", "estimator"), [(BAG, False), (SOFT, True), ({**SOFT, "similarity": "dot"}, True)])
def test_the_end_has_the_distributions_of_the_best_weights(arm, estimator, prepared):
    config = trial(arm, epochs=2)
    data = prepared(config)
    result = train(config, data)
    found = result.distributions
    assert (found.batch_size, found.batches) == (32, 1)  # a short run: of one batch
    assert (found.negatives.total, found.positives.total) == (32 * 31, 32)
    assert (found.relative is not None) == estimator
    rows = next(random_batches(len(data.train.queries), 32, config.seed, 0))
    q, c = (encode(result.model.encoder, side.take(rows)).double() for side in (data.train.queries, data.train.codes))
    cosines = (q @ c.T / q.norm(dim=1)[:, None] / c.norm(dim=1)).numpy()
    expected = np.histogram(np.diag(cosines).clip(-1, 1), found.positives.edges)[0]
    assert np.abs(np.cumsum(expected) - np.cumsum(found.positives.counts)).max() <= 1  # one may lie on an edge


def test_distributions_are_of_more_batches_in_a_longer_run(prepared):
    config = trial(BAG)
    assert len(prepared(config).train.queries) // 32 == 6
    assert train(trial(BAG, epochs=17), prepared(config)).distributions.batches == 2


def test_distributions_change_no_number_and_are_the_same_after_an_interrupt(prepared, tmp_path, monkeypatch):
    config = trial(TRANSFORMER | {"loss": SOFT["loss"], "estimator": SOFT["estimator"]})
    log = Log(tmp_path)
    whole = train(config, prepared(config), log, read_test=True)
    for epoch in (1, 3):  # 3: all that was left to do was the end
        again = train(config, prepared(config), resume=log.checkpoint(epoch), read_test=True)
        assert again.distributions == whole.distributions
    before = torch.get_rng_state()
    data = prepared(config)
    training._distributions(whole.model.encoder, config, data, data.lengths, 5, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batches", [0, 1, 15, 16, 17, 40])
def test_what_is_known_of_a_batch_is_of_the_batch_that_it_comes_with(batches, four):
    class Rows:
        def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
            return np.subtract.outer(rows, 2 * rows).astype(np.float32)

    data = replace(four, estimator=Rows())
    chance = np.random.default_rng(0)
    chosen = [chance.permutation(4)[:3] for _ in range(batches)]
    arm = {**arm_of("soft_infonce", symmetric=True), "training": {**BAG["training"], "batch_size": 3}}
    config = trial({**arm, "loss": {"name": "soft_infonce", "alpha": 0.6}})
    found = list(batches_of(iter([(each, each) for each in chosen]), config, data))
    assert [batch.rows.tolist() for batch in found] == [rows.tolist() for rows in chosen]
    for batch in found:
        similarity = torch.from_numpy(np.subtract.outer(batch.rows, 2 * batch.rows).astype(np.float32))
        torch.testing.assert_close(batch.similarity, similarity)
        torch.testing.assert_close(batch.negatives, negative_distribution(similarity, temperature=1.0))
        torch.testing.assert_close(batch.turned, negative_distribution(similarity.T, temperature=1.0))
        assert batch.same is None
    masked = trial({**BAG, "mask_duplicates": True})
    for batch in batches_of(iter([(each, each) for each in chosen]), masked, data):
        assert batch.same is not None
        np.testing.assert_array_equal(batch.same.numpy(), data.same(batch.rows, batch.rows))
        assert batch.similarity is None
        assert batch.negatives is None


def test_partners_are_ranked_with_their_query(prepared):
    """Of a query with three partners, the graded nDCG by its definition: a full sort of all codes."""
    config = trial(BAG, epochs=1)
    data = prepared(config)
    distractors = tuple(np.array([60 + row % 20, 60 + (row + 7) % 20, 60 + (row + 9) % 20]) for row in range(30))
    partners = {"valid": distractors, "test": distractors}
    texts = data.evaluated["python"]
    known = replace(data, evaluated={"python": replace(texts, partners=partners)})
    plain, graded = train(config, data, read_test=True), train(config, known, read_test=True)
    assert same_weights(plain, graded)
    assert plain.graded_ndcg == {}
    assert {name: graded.metrics[name] for name in plain.metrics} == plain.metrics
    vectors = encode(graded.model.encoder, concatenate(texts.codebase)).double()
    queries = encode(graded.model.encoder, texts.test.queries).double()
    for row in range(30):
        order = (vectors @ queries[row]).argsort(descending=True).tolist()
        gains = {30 + row: 3.0, **dict.fromkeys(partners["test"][row].tolist(), 1.0)}
        found = sum(gain / np.log2(2 + order.index(code)) for code, gain in gains.items())
        ideal = sum(gain / np.log2(2 + place) for place, gain in enumerate(sorted(gains.values(), reverse=True)))
        assert graded.graded_ndcg["test"][row] == pytest.approx(found / ideal, abs=1e-3)
    assert graded.metrics["test_graded_ndcg"] == pytest.approx(graded.graded_ndcg["test"].mean())
    assert set(graded.graded_ndcg) == {"valid", "test"}


@every_arm
def test_deterministic_algorithms_train_the_same_on_processors(arm, prepared):
    config = trial(ARMS[arm], epochs=1)
    plain = train(config, prepared(config), read_test=True)
    with deterministic_algorithms(True):
        fixed = train(config, prepared(config), read_test=True)
    assert same_weights(plain, fixed)
    assert plain.metrics == fixed.metrics


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("encoder", ["bag", "transformer"])
def test_deterministic_algorithms_give_the_same_bits_again_on_a_gpu(loss, encoder, prepared):
    arm = {**arm_of(loss, symmetric=True), "encoder": ARMS[encoder]["encoder"]}
    config = trial(arm, epochs=2, learning_rate=0.005)
    with deterministic_algorithms(True):
        one, other = (train(config, prepared(config), device="cuda", read_test=True) for _ in range(2))
    assert same_weights(one, other)


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
