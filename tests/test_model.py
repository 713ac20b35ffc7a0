"""Models: what is stored gives the same vectors, and a text's vector depends on nothing but the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from softnce_ray.config import ArmConfig, BagEncoder, TokenSettings, TransformerEncoder
from softnce_ray.corpus.ragged import Ragged
from softnce_ray.corpus.tokens import train_tokenizer
from softnce_ray.encoders import build_encoder
from softnce_ray.model import Model, encode, load_model, save_model

KINDS = {
    "bag": BagEncoder(width=8),
    "mean": TransformerEncoder(width=16, layers=1, heads=2, pooling="mean"),
    "first": TransformerEncoder(width=16, layers=1, heads=2, pooling="first"),
    "pooler": TransformerEncoder(width=16, layers=1, heads=2, pooling="pooler"),
}


@pytest.fixture(scope="module")
def texts(tiny_pairs) -> list[str]:
    """Of very different lengths, in no order of them, with an empty one."""
    made = [pair.query if number % 3 else pair.code for number, pair in enumerate(tiny_pairs[:25])]
    return [*made, "", "x", made[0] * 3]


def a_model(kind: str, texts: list[str], **changes) -> Model:
    config = ArmConfig(
        encoder=KINDS[kind], tokens=TokenSettings(vocabulary=400, query_length=12, code_length=40), **changes
    )
    tokenizer = train_tokenizer(iter([texts]), config.tokens, kind != "bag")
    torch.manual_seed(0)
    encoder = build_encoder(config, tokenizer.get_vocab_size())
    if kind == "bag":
        with torch.no_grad():
            encoder.tower.log_weight.normal_()  # type: ignore[union-attr, operator]
    return Model(encoder.eval(), tokenizer, config)


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_stored_model_gives_the_same_vectors(kind, similarity, texts, tmp_path):
    model = a_model(kind, texts, similarity=similarity)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    np.testing.assert_array_equal(again.encode_codes(texts), model.encode_codes(texts))
    np.testing.assert_array_equal(again.encode_queries(texts), model.encode_queries(texts))


@every_kind
def test_saving_changes_nothing_and_loading_does_not_depend_on_earlier_use(kind, texts, tmp_path):
    model = a_model(kind, texts)
    before = model.encode_queries(texts)  # leaves the tokenizer cutting queries
    save_model(model, tmp_path)
    np.testing.assert_array_equal(model.encode_queries(texts), before)
    np.testing.assert_array_equal(load_model(tmp_path).encode_codes(texts), model.encode_codes(texts))


def test_the_stored_tokenizer_cuts_nothing(texts, tmp_path):
    model = a_model("bag", texts)
    model.encode_queries(texts)
    save_model(model, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).truncation is None


@every_kind
def test_vectors_are_float32_with_a_row_per_text_in_order(kind, texts):
    model = a_model(kind, texts)
    together = model.encode_codes(texts)
    assert together.dtype == np.float32
    assert together.shape == (len(texts), 8 if kind == "bag" else 16)
    assert np.isfinite(together).all()
    for vector, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(vector, model.encode_codes([text])[0], rtol=1e-5, atol=1e-6)
    backwards = model.encode_codes(texts[::-1])
    np.testing.assert_allclose(backwards[::-1], together, rtol=1e-5, atol=1e-6)


@every_kind
def test_no_texts_have_no_vectors_of_the_right_width(kind, texts):
    model = a_model(kind, texts)
    assert model.encode_codes([]).shape == (0, 8 if kind == "bag" else 16)


@every_kind
def test_only_empty_texts_have_finite_vectors(kind, texts):
    assert np.isfinite(a_model(kind, texts).encode_codes(["", ""])).all()


def test_queries_and_codes_are_cut_at_their_own_length(texts):
    model = a_model("bag", texts)
    long = " ".join(["customer", "date"] * 50)
    tokens = [model.tokenizer.encode(long).ids[:length] for length in (12, 40)]
    assert [len(ids) for ids in tokens] == [12, 40]
    for found, ids in zip((model.encode_queries([long]), model.encode_codes([long])), tokens, strict=True):
        expected = encode(model.encoder, Ragged(np.array(ids), np.array([0, len(ids)]))).numpy()
        np.testing.assert_array_equal(found, expected)


@every_kind
@pytest.mark.parametrize("chunk_tokens", [1, 7, 100, 10**9])
def test_chunks_do_not_matter(kind, texts, chunk_tokens):
    model = a_model(kind, texts)
    model.tokenizer.enable_truncation(40)
    ids = [model.tokenizer.encode(text).ids for text in texts]
    ragged = Ragged(np.array([token for each in ids for token in each]), np.cumsum([0, *map(len, ids)]))
    found = encode(model.encoder, ragged, chunk_tokens=chunk_tokens).numpy()
    np.testing.assert_allclose(found, model.encode_codes(texts), rtol=1e-5, atol=1e-6)


def test_chunks_bound_the_tokens_of_a_batch(texts):
    model = a_model("bag", texts)
    sizes: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    lengths = np.array([5, 9, 1, 0, 7, 9, 2, 8, 9, 3])
    ragged = Ragged(np.full(lengths.sum(), 7), np.concatenate([[0], np.cumsum(lengths)]))
    encode(model.encoder, ragged, chunk_tokens=10)
    assert sum(sizes) == lengths.sum()
    assert max(sizes) < 10 + 9


def test_encoding_is_without_dropout_and_leaves_the_encoder_as_it_was(texts):
    model = a_model("mean", texts)
    model.encoder.train()
    first, second = model.encode_codes(texts), model.encode_codes(texts)
    np.testing.assert_array_equal(first, second)
    assert model.encoder.training
    model.encoder.eval()
    np.testing.assert_array_equal(model.encode_codes(texts), first)
    assert not model.encoder.training


# --- what cannot be loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["settings.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_an_error(name, texts, tmp_path):
    save_model(a_model("bag", texts), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"got no {name}"):
        load_model(tmp_path)
    (tmp_path / "sha256.json").unlink()  # as models of earlier versions
    with pytest.raises(OSError, match=name):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["settings.json", "tokenizer.json", "model.safetensors", "transformer.json"])
def test_a_damaged_file_is_a_value_error(name, texts, tmp_path):
    save_model(a_model("mean", texts), tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    with pytest.raises(ValueError, match=f"got another {name}"):
        load_model(tmp_path)
    (tmp_path / "sha256.json").unlink()  # as models of earlier versions
    with pytest.raises(ValueError):
        load_model(tmp_path)


def test_weights_of_another_model_are_a_value_error(texts, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    save_model(a_model("bag", texts), tmp_path)
    save_model(a_model("mean", texts), other)
    (other / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_model(tmp_path)
