"""The bag against plain loops, EmbeddingBag and dense autograd; transformers against the model called directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from softnce_ray.config import ArmConfig, BagEncoder, TokenSettings, TransformerEncoder
from softnce_ray.encoders import Bag, DualEncoder, EncoderError, Transformer, build_encoder

VOCABULARY = 60


def ragged(*texts: list[int]) -> tuple[Tensor, Tensor]:
    ids = [token for text in texts for token in text]
    ends = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    return torch.tensor(ids, dtype=torch.int64), torch.cat([torch.zeros(1, dtype=torch.int64), ends])


def random_texts(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def bag(width: int = 8, seed: int = 0) -> Bag:
    """In float64, with weights that are not all one."""
    torch.manual_seed(seed)
    made = Bag(VOCABULARY, width).double()
    with torch.no_grad():
        made.log_weight.normal_()
    return made


def plain(table: Tensor, log_weight: Tensor, texts: list[list[int]]) -> Tensor:
    """Mean of weighted rows, text by text."""
    rows = []
    for text in texts:
        total = torch.zeros(table.shape[1], dtype=table.dtype)
        for token in text:
            total = total + table[token] * log_weight[token].exp()
        rows.append(total / max(1, len(text)))
    return torch.stack(rows)


TEXTS: list[list[int]] = [[3, 4, 5], [7], [], [3, 3, 3, 9], [59, 0, 59], []]


# --- bag -------------------------------------------------------------------------------------------------


def test_a_bag_is_the_mean_of_its_tokens_by_hand():
    made = Bag(3, 2)
    with torch.no_grad():
        made.table.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        made.log_weight.copy_(torch.tensor([0.0, 2.0, 0.5])[:, None].log().clamp_min(-1e9))
    # weights 0, 2 and 1/2 of tokens 0, 1, 2; the text has token 1 twice
    expected = torch.tensor([[(0 * 1 + 2 * 3 + 2 * 3 + 0.5 * 5) / 4, (0 * 2 + 2 * 4 + 2 * 4 + 0.5 * 6) / 4]])
    torch.testing.assert_close(made(*ragged([0, 1, 1, 2])), expected)


def test_a_bag_is_a_plain_loop():
    made = bag()
    torch.testing.assert_close(made(*ragged(*TEXTS)), plain(made.table, made.log_weight, TEXTS))


def test_a_bag_is_an_embedding_bag_with_weights():
    made = bag()
    ids, offsets = ragged(*TEXTS)
    reference = nn.EmbeddingBag(VOCABULARY, 8, mode="sum", include_last_offset=True, _weight=made.table.detach())
    sums = reference(ids, offsets, per_sample_weights=made.log_weight.detach().exp()[ids, 0])
    torch.testing.assert_close(made(ids, offsets), sums / offsets.diff().clamp_min(1)[:, None])


@given(texts=st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=12), max_size=12).filter(any))
def test_gradients_of_a_bag_are_those_of_dense_autograd(texts):
    made = bag()
    target = torch.randn(len(texts), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    table, log_weight = (p.detach().clone().requires_grad_() for p in (made.table, made.log_weight))
    expected, found = plain(table, log_weight, texts), made(*ragged(*texts))
    torch.testing.assert_close(found, expected)
    (expected * target).sin().sum().backward()
    (found * target).sin().sum().backward()
    for ours, theirs in ((made.table, table), (made.log_weight, log_weight)):
        assert ours.grad is not None
        reference = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(ours.grad.to_dense(), reference)


def test_the_gradient_of_a_bag_is_sparse_with_one_row_per_distinct_token():
    made = bag()
    made(*ragged(*TEXTS)).sum().backward()
    for parameter in (made.table, made.log_weight):
        assert parameter.grad is not None
        assert parameter.grad.is_sparse
        assert parameter.grad._indices()[0].tolist() == sorted({token for text in TEXTS for token in text})
        assert parameter.grad.shape == parameter.shape


def test_an_empty_text_is_the_zero_vector():
    assert not bag()(*ragged([], [5], []))[[0, 2]].any()
    assert bag()(*ragged([], [])).tolist() == [[0.0] * 8] * 2
    assert bag()(*ragged()).shape == (0, 8)


def test_the_plain_mean_of_the_folded_table_is_the_bag():
    made = bag()
    folded = made.folded()
    assert folded.shape == (VOCABULARY, 8)
    assert not folded.requires_grad
    expected = torch.stack([folded[text].sum(dim=0) / max(1, len(text)) for text in TEXTS])
    torch.testing.assert_close(made(*ragged(*TEXTS)).detach(), expected)


def test_a_bag_under_autocast_stays_in_float32():
    made = bag().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = made(*ragged(*TEXTS))
    found.sum().backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, made(*ragged(*TEXTS)))


# --- transformer -----------------------------------------------------------------------------------------


def arm(**encoder: Any) -> ArmConfig:
    small = {"width": 16, "layers": 2, "heads": 2} if encoder.get("model") is None else {}
    return ArmConfig(
        encoder=TransformerEncoder(**{**small, **encoder}),
        tokens=TokenSettings(query_length=16, code_length=32),
    )


def small(pooling: str = "mean", **encoder: Any) -> Transformer:
    torch.manual_seed(0)
    tower = build_encoder(arm(pooling=pooling, **encoder), VOCABULARY).eval().tower
    assert isinstance(tower, Transformer)
    return tower


every_pooling = pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])


@every_pooling
def test_pooling_is_that_of_the_model_called_directly(pooling):
    tower = small(pooling)
    texts = random_texts(3, 9, 32)
    found = tower(*ragged(*texts))
    for vector, text in zip(found, texts, strict=True):
        output = tower.model(input_ids=torch.tensor([text]))
        expected = {
            "mean": output.last_hidden_state[0].mean(dim=0),
            "first": output.last_hidden_state[0, 0],
            "pooler": output.pooler_output[0] if pooling == "pooler" else None,
        }[pooling]
        torch.testing.assert_close(vector, expected, rtol=1e-5, atol=1e-6)


@every_pooling
def test_the_vector_of_a_text_does_not_depend_on_its_batch(pooling):
    tower = small(pooling)
    texts = random_texts(9, 2, 32, 1, 10, 11, 9, 31, 12)
    together = tower(*ragged(*texts))
    for vector, text in zip(together, texts, strict=True):
        torch.testing.assert_close(vector, tower(*ragged(text))[0], rtol=1e-5, atol=1e-6)


@every_pooling
def test_empty_texts_do_not_disturb_the_others(pooling):
    tower = small(pooling)
    texts = [[], *random_texts(5, 20), []]
    found = tower(*ragged(*texts))
    assert found.isfinite().all()
    torch.testing.assert_close(found[1], tower(*ragged(texts[1]))[0], rtol=1e-5, atol=1e-6)
    if pooling == "mean":
        assert not found[[0, 3]].any()


def test_only_empty_texts_and_no_texts_at_all():
    tower = small()
    assert tower(*ragged([], [])).tolist() == [[0.0] * 16] * 2
    assert tower(*ragged()).shape[0] == 0


def test_texts_are_read_in_one_row_without_padding():
    tower, shapes = small(), []
    tower.model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    tower(*ragged(*random_texts(32, 4, 31, 5, 4)))
    assert shapes == [(1, 32 + 4 + 31 + 5 + 4)]


def test_in_training_attention_drops_weights_with_the_probability_of_the_settings(monkeypatch):
    from softnce_ray.encoders import dropout

    drawn, kept = [], dropout.kept

    def watched(shape: torch.Size, parts: int) -> Tensor:
        drawn.append((*shape, parts))
        return kept(shape, parts)

    monkeypatch.setattr(dropout, "kept", watched)
    tower = small(dropout=0.25).train()
    texts = ragged(*random_texts(4, 32, 31))
    once, again = tower(*texts), tower(*texts)
    assert not torch.allclose(once, again)
    attention, hidden = (2, 4, 4, 1 << 14), (1, 67, 16, 1 << 14)  # (texts · heads, length, length), (1, tokens, width)
    assert drawn.count(attention) == 2 * 2 and drawn.count((4, 32, 32, 1 << 14)) == 2 * 2  # layers, times
    assert drawn.count(hidden) == 2 * (1 + 2 * 2)  # the embeddings, and twice in each layer


def test_a_network_whose_attention_is_not_told_of_its_texts_is_an_error(monkeypatch):
    tower = small()
    forward = tower.model.forward
    monkeypatch.setattr(tower.model, "forward", lambda packed, **given: forward(**given))
    with pytest.raises(RuntimeError, match=r"hands `packed` on"):
        tower(*ragged(*random_texts(4, 9)))


def test_texts_may_be_as_long_as_the_settings_say():
    assert small()(*ragged(*random_texts(32))).isfinite().all()


def test_gradients_flow_through_padding_alike():
    tower = small()
    texts = random_texts(4, 30, 9)
    tower(*ragged(*texts)).square().sum().backward()
    together = [p.grad.clone() for p in tower.parameters() if p.grad is not None]
    tower.zero_grad()
    for text in texts:
        tower(*ragged(text)).square().sum().backward()
    alone = [p.grad for p in tower.parameters() if p.grad is not None]
    assert len(alone) == len(together) > 10
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# --- dual encoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [BagEncoder(width=8), TransformerEncoder(width=16, layers=1)])
def test_cosine_has_vectors_of_length_one_and_dot_leaves_them(encoder):
    texts = ragged(*random_texts(3, 9, 1))
    for similarity in ("cosine", "dot"):
        torch.manual_seed(0)
        settings = ArmConfig(encoder=encoder, similarity=similarity)
        dual = build_encoder(settings, VOCABULARY).eval()
        vectors = dual(*texts)
        assert vectors.dtype == torch.float32
        if similarity == "cosine":
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
            torch.testing.assert_close(vectors, F.normalize(dual.tower(*texts)))
        else:
            assert torch.equal(vectors, dual.tower(*texts))


def test_an_empty_text_has_no_direction_and_no_nan():
    dual = DualEncoder(Bag(VOCABULARY, 4), "cosine")
    vectors = dual(*ragged([], [4, 5]))
    (vectors[0] @ vectors[1] + vectors.sum()).backward()
    assert not vectors[0].any()
    assert dual.tower.table.grad is not None  # type: ignore[union-attr]
    assert dual.tower.table.grad.to_dense().isfinite().all()  # type: ignore[union-attr, operator]


def test_equal_seeds_give_equal_encoders():
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(build_encoder(arm(), VOCABULARY).state_dict())
    one, same, other = states
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_small_transformer_has_the_sizes_of_its_settings():
    encoder = build_encoder(arm(width=24, layers=3, heads=4, dropout=0.25), 77)
    config: Any = encoder.tower.model.config  # type: ignore[union-attr]
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (24, 3, 4)
    assert (config.intermediate_size, config.vocab_size) == (96, 77)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.25


# --- named models ----------------------------------------------------------------------------------------


def named_folder(folder: Path, kind: str = "Bert", *, dtype: torch.dtype = torch.float32, positions: int = 40) -> str:
    """A folder with a tiny model of random weights, as transformers writes it."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    settings = {"vocab_size": VOCABULARY, "max_position_embeddings": positions, **sizes}
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**settings)
    getattr(transformers, f"{kind}Model")(config).to(dtype).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Camembert", "XLMRoberta", "DistilBert"])
def test_a_named_model_is_the_model_of_its_folder(tmp_path, kind):
    from transformers import AutoModel

    name = named_folder(tmp_path / "model", kind)
    encoder = build_encoder(arm(model=name), VOCABULARY).eval()
    theirs = AutoModel.from_pretrained(name).eval()
    texts = random_texts(3, 12)
    found = encoder(*ragged(*texts))
    for vector, text in zip(found, texts, strict=True):
        expected = theirs(input_ids=torch.tensor([text])).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(vector, F.normalize(expected, dim=0), rtol=1e-5, atol=1e-6)
    assert encoder.tower.pad_id == theirs.config.pad_token_id  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Camembert", "XLMRoberta", "DistilBert"])
def test_gradients_of_a_named_model_are_those_of_its_padded_batch(tmp_path, kind):
    tower = build_encoder(arm(model=named_folder(tmp_path / "model", kind)), VOCABULARY).eval().tower
    assert isinstance(tower, Transformer)
    texts = random_texts(3, 12, 11, 30)
    tower(*ragged(*texts)).square().sum().backward()
    found = {name: p.grad.clone() for name, p in tower.model.named_parameters() if p.grad is not None}
    tower.zero_grad()
    longest = max(map(len, texts))
    ids = torch.tensor([text + [tower.pad_id] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    hidden = tower.model(input_ids=ids, attention_mask=mask).last_hidden_state
    ((hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1)[:, None]).square().sum().backward()
    expected = {name: p.grad for name, p in tower.model.named_parameters() if p.grad is not None}
    assert len(found) > 10 and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_other_models_pad_texts_of_similar_length_together(tmp_path):
    tower, shapes = build_encoder(arm(model=named_folder(tmp_path / "model", "DistilBert")), VOCABULARY).tower, []
    tower.model.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    tower(*ragged(*random_texts(32, 4, 31, 5, 4)))
    assert sorted(shapes) == [(2, 32), (3, 5)]


def test_a_named_model_is_trained_in_float32_whatever_its_files_hold(tmp_path):
    name = named_folder(tmp_path / "model", dtype=torch.float16)
    assert {p.dtype for p in build_encoder(arm(model=name), VOCABULARY).parameters()} == {torch.float32}


def test_a_pooler_that_is_not_asked_is_left_out(tmp_path):
    name = named_folder(tmp_path / "model")
    for model in (None, name):
        for pooling in ("mean", "first", "pooler"):
            encoder = build_encoder(arm(model=model, pooling=pooling), VOCABULARY)
            assert any("pooler" in key for key in encoder.state_dict()) == (pooling == "pooler")


def test_a_pooler_that_a_model_does_not_have_is_an_error(tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    DistilBertModel(
        DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"encoder\.pooling: .* has no pooler"):
        build_encoder(arm(model=str(tmp_path), pooling="pooler"), VOCABULARY)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./no-such-folder"])
def test_a_model_that_is_not_there_is_an_error_that_names_it(name):
    with pytest.raises(EncoderError, match=rf"encoder\.model: no transformers model under the name '{name}'"):
        build_encoder(arm(model=name), VOCABULARY)


def test_a_folder_without_a_model_is_an_error_that_names_it(tmp_path):
    with pytest.raises(EncoderError, match=f"no transformers model under the folder '{tmp_path}'"):
        build_encoder(arm(model=str(tmp_path)), VOCABULARY)


def test_a_tokenizer_with_more_tokens_than_the_model_is_an_error(tmp_path):
    name = named_folder(tmp_path / "model")
    with pytest.raises(EncoderError, match=f"knows {VOCABULARY} tokens, its tokenizer makes {VOCABULARY + 1}"):
        build_encoder(arm(model=name), VOCABULARY + 1)


@pytest.mark.parametrize(("kind", "least"), [("Bert", 32), ("Roberta", 34)])  # RoBERTa counts from padding's id + 1
def test_texts_longer_than_a_named_model_reads_are_an_error(tmp_path, kind, least):
    enough = named_folder(tmp_path / "enough", kind, positions=least)
    assert build_encoder(arm(model=enough), VOCABULARY)(*ragged(*random_texts(32))).isfinite().all()
    short = named_folder(tmp_path / "short", kind, positions=least - 1)
    with pytest.raises(EncoderError, match=r"reads 31 tokens, .*tokens.code_length 32"):
        build_encoder(arm(model=short), VOCABULARY)


def test_a_stored_network_is_built_again_without_its_weights(tmp_path):
    name = named_folder(tmp_path / "model")
    encoder = build_encoder(arm(model=name), VOCABULARY)
    network = encoder.tower.model.config.to_dict()  # type: ignore[union-attr, operator]
    again = build_encoder(arm(model="gone/away"), VOCABULARY, network=network)
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (encoder, again)]
    assert shapes[0] == shapes[1]
    again.load_state_dict(encoder.state_dict())
    texts = ragged(*random_texts(4, 7))
    assert torch.equal(encoder.eval()(*texts), again.eval()(*texts))
