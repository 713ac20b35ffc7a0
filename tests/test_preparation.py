"""What trials share is made once, and told apart by all that decides it."""

from __future__ import annotations

import numpy as np
import pytest

from softnce_ray.config import ArmConfig
from softnce_ray.corpus import Corpus, CorpusError
from softnce_ray.estimators import BM25, words
from softnce_ray.preparation import open_data, prepare

SETTINGS = {
    "encoder": {"kind": "bag", "width": 8},
    "tokens": {"vocabulary": 400, "query_length": 8, "code_length": 16},
    "training": {"batch_size": 16},
}
PLAIN = ArmConfig.model_validate(SETTINGS)


def soft(**estimator: object) -> ArmConfig:
    """An arm with BM25 of these settings."""
    return ArmConfig.model_validate(
        {**SETTINGS, "loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25", **estimator}}
    )


SOFT = soft()


def test_data_are_the_corpus(tiny_corpus, tmp_path):
    data = open_data(prepare(SOFT, tiny_corpus, "python", tmp_path), SOFT, "python")
    corpus = Corpus.open(tiny_corpus)
    for split in ("train", "valid", "test"):
        pairs = getattr(data, split)
        assert len(pairs.queries) == len(pairs.codes) == len(corpus.table("python", split)) > 0
    assert len(data.distractors) == len(corpus.table("python", "codebase")) == 20
    assert [len(part) for part in data.codebase] == [30, 30, 20]
    first = corpus.table("python", "test").column("code")[0].as_py()
    data.tokenizer.enable_truncation(16)
    assert data.test.codes.ids[: data.test.codes.offsets[1]].tolist() == data.tokenizer.encode(first).ids


def test_the_estimator_is_of_the_training_queries_in_their_order(tiny_corpus, tmp_path):
    data = open_data(prepare(SOFT, tiny_corpus, "python", tmp_path), SOFT, "python")
    queries = Corpus.open(tiny_corpus).table("python", "train").column("query").to_pylist()
    texts = [words(query) for query in queries]
    expected = BM25.fit(texts, texts, k1=1.5, b=0.75, epsilon=0.25)
    rows = np.array([5, 0, 99, 17])
    assert data.estimator is not None
    np.testing.assert_array_equal(data.estimator.similarity(rows), expected.similarity(rows))


def test_an_arm_without_estimator_has_none(tiny_corpus, tmp_path):
    prepared = prepare(PLAIN, tiny_corpus, "python", tmp_path)
    assert prepared.estimators == {}
    assert open_data(prepared, PLAIN, "python").estimator is None


def test_arms_share_what_is_equal(tiny_corpus, tmp_path):
    plain, weighted = (prepare(config, tiny_corpus, "python", tmp_path) for config in (PLAIN, SOFT))
    assert plain.tokens == weighted.tokens
    transformer = ArmConfig.model_validate({**SETTINGS, "encoder": {"kind": "transformer", "width": 16}})
    assert prepare(transformer, tiny_corpus, "python", tmp_path).tokens != plain.tokens
    assert len(made(tmp_path / "tokens")) == 2
    assert len(made(tmp_path / "estimators")) == 1


def test_what_is_there_is_not_made_again(tiny_corpus, tmp_path, monkeypatch):
    first = prepare(SOFT, tiny_corpus, "python", tmp_path)

    def fail(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("softnce_ray.preparation._make_estimator", fail)
    monkeypatch.setattr("softnce_ray.corpus.tokens._write_tokens", fail)
    assert prepare(SOFT, tiny_corpus, "python", tmp_path) == first


@pytest.mark.parametrize("change", [{"k1": 1.2}, {"b": 0.5}, {"epsilon": 0.5}, {"statistics": "batch"}])
def test_settings_of_an_estimator_have_folders_of_their_own(tiny_corpus, tmp_path, change):
    folders = [prepare(arm, tiny_corpus, "python", tmp_path).estimators["bm25"] for arm in (soft(), soft(**change))]
    assert folders[0] != folders[1]


def test_the_temperature_of_an_estimator_is_the_trials_own(tiny_corpus, tmp_path):
    arms = [soft(temperature=temperature) for temperature in (0.5, 1, 2)]
    assert len({prepare(arm, tiny_corpus, "python", tmp_path).estimators["bm25"] for arm in arms}) == 1


def test_a_trained_estimator_is_shared_by_arms_that_differ_in_loss_only(tiny_corpus, tmp_path):
    arms = [
        ArmConfig.model_validate({**SETTINGS, "loss": {"name": loss}, "estimator": {"name": "trained"}, **more})
        for loss, more in (("weighted_infonce", {}), ("bce", {}), ("bce", {"temperature": 0.2}))
    ]
    folders = [prepare(arm, tiny_corpus, "python", tmp_path).estimators["trained"] for arm in arms]
    assert folders[0] == folders[1]
    assert folders[0] != folders[2]  # another score temperature trains another model


def test_an_estimator_that_fails_leaves_nothing(tiny_corpus, tmp_path, monkeypatch):
    def fail(*arguments):
        (arguments[-1] / "half").write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("softnce_ray.preparation._make_estimator", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(SOFT, tiny_corpus, "python", tmp_path)
    assert made(tmp_path / "estimators") == []


def made(folder):
    """Names of what was made in a folder; locks are hidden."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_missing_corpus_and_an_unknown_language_are_errors(tiny_corpus, tmp_path):
    with pytest.raises(CorpusError, match="expected a corpus folder"):
        prepare(PLAIN, tmp_path / "nowhere", "python", tmp_path)
    with pytest.raises(CorpusError, match="expected a language of python"):
        prepare(SOFT, tiny_corpus, "cobol", tmp_path)
