"""Training on several languages together: what is trained on, what is tested on, and which numbers come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from softnce_ray import training
from softnce_ray.batching import random_batches
from softnce_ray.bm25_formulas import Formula
from softnce_ray.config import TrainingSet, TrialConfig, identity, trial_languages
from softnce_ray.corpus import Corpus
from softnce_ray.corpus.duplicates import normalise_code, normalise_query
from softnce_ray.corpus.ragged import concatenate
from softnce_ray.estimators import BM25, words
from softnce_ray.evaluation import ranks, reciprocal
from softnce_ray.model import encode
from softnce_ray.preparation import open_data, prepare
from softnce_ray.ranks_file import RANKS_FILE, read_ranks, write_ranks
from softnce_ray.training import TrainingError, TrainResult, train
from softnce_ray.training_data import TrainingData

BAG: dict[str, Any] = {
    "encoder": {"kind": "bag", "width": 16},
    "tokens": {"vocabulary": 400, "query_length": 16, "code_length": 32},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 0.02},
}
SOFT: dict[str, Any] = {**BAG, "loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
ARMS: dict[str, dict[str, Any]] = {
    "infonce": BAG,
    "bm25": SOFT,
    "bm25 of batches": {**SOFT, "estimator": {"name": "bm25", "statistics": "batch"}},
    "trained": {**SOFT, "estimator": {"name": "trained"}, "mask_duplicates": True},
    "simcse": {**SOFT, "estimator": {"name": "simcse", "epochs": 1}},
}
BOTH = TrainingSet.of_all(["python", "ruby"])
TO_RUBY = TrainingSet(name="to_ruby", train=("python",), test=("ruby",))


def trial(arm: dict[str, Any], languages: str | TrainingSet = BOTH, **training_settings: Any) -> TrialConfig:
    settings = {**arm, "training": {**arm["training"], **training_settings}}
    return TrialConfig.model_validate({**settings, **trial_languages(TrainingSet.of(languages)), "seed": 1})


@pytest.fixture(scope="module")
def data_of(two_languages, tmp_path_factory) -> Callable[..., TrainingData]:
    """The data of a trial, prepared once for all that share it."""
    root = tmp_path_factory.mktemp("prepared")

    def make(config: TrialConfig, corpus: Path = two_languages) -> TrainingData:
        return open_data(prepare(config, corpus, config.training_set, root), config, config.training_set)

    return make


def column(folder: Path, split: str, side: str, languages: tuple[str, ...] = ("python", "ruby")) -> list[str]:
    corpus = Corpus.open(folder)
    return [text for each in languages for text in corpus.table(each, split).column(side).to_pylist()]


def same_weights(one: TrainResult, other: TrainResult) -> bool:
    theirs = other.model.encoder.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.model.encoder.state_dict().items())


# --- identities ---


def test_a_language_alone_is_the_trial_that_it_was_before_there_were_training_sets():
    config = TrialConfig.model_validate(
        {"language": "python", "seed": 1, "loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
    )
    assert identity(config, "c0ffee") == "bbfb7dc2ae98b87a"
    assert "train_languages" not in config.model_dump()


def test_a_trial_is_told_apart_by_all_that_it_is_trained_and_tested_on_but_not_by_their_order():
    def of(name: str, train: tuple[str, ...], test: tuple[str, ...]) -> str:
        return identity(trial(BAG, TrainingSet(name=name, train=train, test=test)), "c")

    both = ("python", "ruby")
    assert of("x", both, both) == of("x", ("ruby", "python"), both)
    others = [of("x", both, both), of("x", both, ("ruby",)), of("x", ("ruby",), both), of("y", both, both)]
    assert len({*others, identity(trial(BAG, "python"), "c")}) == 5


def test_languages_of_a_trial_come_together():
    with pytest.raises(ValidationError, match="train_languages and test_languages together"):
        TrialConfig.model_validate({"language": "x", "seed": 1, "train_languages": ["python"]})


# --- what is trained on ---


@pytest.mark.parametrize("arm", ARMS)
def test_all_languages_of_a_corpus_that_has_one_are_that_language_bit_for_bit(arm, tiny_corpus, data_of):
    configs = [trial(ARMS[arm], languages, epochs=2) for languages in ("python", TrainingSet.of_all(["python"]))]
    one, other = (train(config, data_of(config, tiny_corpus), read_test=True) for config in configs)
    assert same_weights(one, other)
    assert one.metrics == other.metrics
    assert one.reciprocal_ranks.keys() == other.reciprocal_ranks.keys() == {"valid", "test"}
    for split, values in one.reciprocal_ranks.items():
        np.testing.assert_array_equal(values, other.reciprocal_ranks[split])


def test_training_pairs_are_those_of_each_language_one_after_another(data_of, two_languages):
    config = trial(BAG)
    data = data_of(config)
    data.tokenizer.enable_truncation(16)
    texts = column(two_languages, "train", "query")
    assert len(data.train.queries) == len(data.train.codes) == len(texts)
    for row in (0, 100, len(texts) - 1):
        assert data.train.queries.take(np.array([row])).ids.tolist() == data.tokenizer.encode(texts[row]).ids
    python = len(column(two_languages, "train", "query", ("python",)))
    batches = list(random_batches(len(texts), 32, seed=1, epoch=1))
    assert all((rows < python).any() and (rows >= python).any() for rows in batches)


def test_bm25_counts_the_queries_of_all_languages_together(data_of, two_languages):
    texts = [words(query) for query in column(two_languages, "train", "query")]
    expected = BM25.fit(texts, texts, Formula(k1=1.5, b=0.75))
    rows = np.array([5, len(texts) - 3, 99, 250])
    estimator = data_of(trial(SOFT)).estimator
    assert estimator is not None
    np.testing.assert_array_equal(estimator.similarity(rows), expected.similarity(rows))


def test_the_same_query_or_code_in_two_languages_is_the_same(data_of, two_languages):
    data = data_of(trial(BAG))
    queries = [normalise_query(text) for text in column(two_languages, "train", "query")]
    codes = [normalise_code(text) for text in column(two_languages, "train", "code")]
    rows = np.random.default_rng(0).permutation(len(queries))
    expected = [[queries[i] == queries[j] or codes[i] == codes[j] for j in rows] for i in rows]
    np.testing.assert_array_equal(data.same(rows, rows), expected)
    assert 0 < len(set(queries)) < len(queries)  # each language alone has no duplicate


@pytest.mark.parametrize("arm", ARMS)
def test_every_estimator_weighs_the_negatives_of_several_languages(arm, data_of):
    config = trial({**ARMS[arm], "mask_duplicates": True}, epochs=1)
    data = data_of(config)
    result = train(config, data)
    assert 0 < result.metrics["valid_mrr"] <= 1
    if data.estimator is not None:
        last = len(data.train.queries) - 1
        assert np.isfinite(data.estimator.similarity(np.array([0, last]))).all()


def test_estimators_of_other_training_languages_are_others(two_languages, tmp_path):
    sets: list[str | TrainingSet] = ["python", "ruby", BOTH]
    folders = [prepare(trial(SOFT, each), two_languages, each, tmp_path).estimators["bm25"] for each in sets]
    assert len(set(folders)) == 3
    # what it is tested on says nothing of BM25
    assert prepare(trial(SOFT, TO_RUBY), two_languages, TO_RUBY, tmp_path).estimators["bm25"] == folders[0]


# --- what is tested on ---


def test_each_language_is_ranked_among_its_own_codebase_and_the_mean_is_over_languages(data_of):
    config = trial(BAG)
    data = data_of(config)
    result = train(config, data, read_test=True)
    assert list(data.evaluated) == ["python", "ruby"]
    assert set(result.reciprocal_ranks) == {"valid/python", "valid/ruby", "test/python", "test/ruby"}
    means = []
    for language, texts in data.evaluated.items():
        codes = encode(result.model.encoder, concatenate(texts.codebase))
        queries = encode(result.model.encoder, texts.test.queries)
        first = len(texts.valid.codes)
        expected = reciprocal(ranks(queries, codes, torch.arange(first, first + len(queries))))
        np.testing.assert_array_equal(result.reciprocal_ranks[f"test/{language}"], expected)
        assert result.metrics[f"test_mrr/{language}"] == expected.mean()
        assert result.metrics[f"test_codebase/{language}"] == len(codes)
        means.append(expected.mean())
    assert result.metrics["test_mrr"] == np.mean(means)
    for name in ("valid_mrr", "test_recall@1", "valid_ndcg@10"):
        assert result.metrics[name] == np.mean([result.metrics[f"{name}/{each}"] for each in ("python", "ruby")])
    assert "test_codebase" not in result.metrics


def test_the_best_epoch_is_the_best_by_the_mean_over_languages(data_of, monkeypatch):
    """Of python the first epoch is best, of ruby the third, of both the second."""
    by_call = iter([1.25, 10, 2, 2, 10, 1.25, 2, 2])  # ranks: python, ruby, …; in the end those of the best epoch
    honest = training._evaluate

    def ranked(encoder, texts, split, workers):
        found = honest(encoder, texts, split, workers)
        return replace(found, ranks=np.full_like(found.ranks, next(by_call)))

    monkeypatch.setattr(training, "_evaluate", ranked)
    epochs: list[dict[str, float]] = []
    config = trial(BAG)
    # (0.8 + 0.1) / 2, then (0.5 + 0.5) / 2, then (0.1 + 0.8) / 2
    result = train(config, data_of(config), lambda metrics, checkpoint: epochs.append(metrics))
    assert [each["valid_mrr"] for each in epochs] == pytest.approx([0.45, 0.5, 0.45])
    assert [each["valid_mrr/ruby"] for each in epochs] == pytest.approx([0.1, 0.5, 0.8])
    assert result.metrics["best_epoch"] == 2
    assert result.metrics["best_valid_mrr"] == pytest.approx(0.5)


def test_a_transfer_is_trained_on_some_languages_and_tested_on_others(data_of):
    config, plain = trial(BAG, TO_RUBY, epochs=1), trial(BAG, "python", epochs=1)
    data, ours = data_of(config), data_of(plain)
    result, other = train(config, data, read_test=True), train(plain, ours, read_test=True)
    assert same_weights(result, other)  # of one epoch, whatever it is tested on
    assert list(data.evaluated) == ["ruby"]
    ruby = train(config, replace(ours, evaluated=data_of(trial(BAG, "ruby")).evaluated), read_test=True)
    codebase = sum(map(len, data.evaluated["ruby"].codebase))
    assert result.metrics.items() >= {"test_mrr": ruby.metrics["test_mrr"], "test_codebase": codebase}.items()
    assert set(result.reciprocal_ranks) == {"valid", "test"}
    assert not any("/" in name for name in result.metrics)


def test_a_language_without_pairs_to_test_on_is_named_before_any_epoch(data_of):
    config = trial(BAG)
    data = data_of(config)
    texts = data.evaluated["ruby"]
    nothing = replace(texts, valid=replace(texts.valid, queries=texts.valid.queries.take(np.empty(0, int))))
    with pytest.raises(TrainingError, match="expected valid pairs to evaluate on, got none of ruby"):
        train(config, replace(data, evaluated={**data.evaluated, "ruby": nothing}))


def test_graded_ndcg_is_of_the_languages_whose_meanings_are_known(data_of):
    config = trial(BAG, epochs=1)
    data = data_of(config)
    texts = data.evaluated["ruby"]
    partners = {split: tuple(np.array([50]) for _ in range(22)) for split in ("valid", "test")}
    known = {**data.evaluated, "ruby": replace(texts, partners=partners)}
    result = train(config, replace(data, evaluated=known), read_test=True)
    assert set(result.graded_ndcg) == {"valid/ruby", "test/ruby"}
    assert "test_graded_ndcg" not in result.metrics  # a mean of one of two languages is the mean of neither


# --- what is kept of every query ---


def test_ranks_of_several_languages_come_back_by_language(tmp_path):
    ids = {"valid/python": ["d", "a"], "valid/ruby": ["a"], "test/python": ["z", "b"], "test/ruby": ["y", "z"]}
    ranks_of = {
        "valid/python": np.array([0.5, 0.25]),
        "valid/ruby": np.array([1.0]),
        "test/python": np.array([0.125, 0.5]),
        "test/ruby": np.array([0.25, 1.0]),
    }
    graded = {"test/ruby": np.array([0.75, 0.5])}  # python's corpus knows no meanings
    measures: dict[str, dict[str, np.ndarray]] = {"reciprocal_rank": ranks_of, "graded_ndcg": graded}
    write_ranks(tmp_path / RANKS_FILE, ids, measures)
    found = read_ranks(tmp_path / RANKS_FILE)
    assert {name: {split: values.tolist() for split, values in each.items()} for name, each in found.items()} == {
        name: {split: values.tolist() for split, values in each.items()} for name, each in measures.items()
    }
