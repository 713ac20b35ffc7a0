"""Encoders from their settings: fresh, from a model's files, or as a store keeps them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softnce_ray.config import (
    ArmConfig,
    BagEncoder,
    GraphCodeBERTEncoder,
    MiniLMEncoder,
    TransformerEncoder,
    how_to_get,
)
from softnce_ray.encoders.adapting import EncoderError, MissingError, adapt
from softnce_ray.encoders.bag import Bag
from softnce_ray.encoders.dual import DualEncoder
from softnce_ray.encoders.transformer import PAD_ID, GraphTransformer, Transformer
from softnce_ray.exported import changed_export
from softnce_ray.named import located


def build_encoder(config: ArmConfig, vocabulary: int, *, network: dict[str, Any] | None = None) -> DualEncoder:
    """A fresh encoder; its random weights come from torch's generator, which the caller seeds.

    Args:
      vocabulary: number of token ids of the tokenizer in use.
      network: a transformer's stored configuration: the network is built from it, with random weights, whole and
        without adapters, and no pretrained weights are looked for.

    Raises:
      EncoderError: a named model cannot be loaded, has no pooler where one is asked, knows fewer tokens than
        `vocabulary`, reads shorter texts than the settings say, is of another architecture than its kind, or cannot be
        frozen or adapted as the settings say.
    """
    settings = config.encoder
    if isinstance(settings, BagEncoder):
        return DualEncoder(Bag(vocabulary, settings.width), config.similarity)
    if network is not None:
        model: Any = _stored_network(network)
    elif settings.model:
        model = _named_model(config, settings.model, vocabulary)
    else:
        assert isinstance(settings, TransformerEncoder)
        model = _small_roberta(config, settings, vocabulary)
    if settings.pooling != "pooler" and getattr(model, "pooler", None) is not None:
        model.pooler = None  # it would be trained by nothing and yet be kept
    if settings.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise EncoderError(f"encoder.pooling: {settings.model!r} has no pooler; possible: mean, first")
    if network is None:
        adapt(model, settings)
    pad_id = PAD_ID if model.config.pad_token_id is None else model.config.pad_token_id
    if isinstance(settings, TransformerEncoder | MiniLMEncoder):
        return DualEncoder(Transformer(model, settings.pooling, pad_id), config.similarity)
    if model.config.model_type != "roberta" or pad_id != PAD_ID:
        raise EncoderError(
            f"encoder.model: expected a RoBERTa with padding id {PAD_ID} for encoder {settings.kind}, got "
            f"{model.config.model_type} with {pad_id} under {settings.model!r}: use kind: transformer for other models"
        )
    tower = GraphTransformer if isinstance(settings, GraphCodeBERTEncoder) else Transformer
    return DualEncoder(tower(model, settings.pooling, pad_id), config.similarity)


def longest_texts(config: ArmConfig) -> dict[str, int]:
    """How many places a text may take in the network, by the settings that say so."""
    encoder, tokens = config.encoder, config.tokens
    code = {"tokens.code_length": tokens.code_length}
    if isinstance(encoder, GraphCodeBERTEncoder):
        code = {"tokens.code_length + encoder.flow_length": tokens.code_length + encoder.flow_length}
    return {"tokens.query_length": tokens.query_length, **code}


def shape_of(config: ArmConfig, folder: str | None) -> nn.Module:
    """The network of settings, as large as it would be and without any numbers: on torch's device `meta`.

    Args:
      folder: that of the named model, of which the configuration alone is read; None: from scratch.

    Raises:
      OSError, ValueError: there is no configuration in the folder.
    """
    from transformers import AutoConfig, AutoModel

    settings = config.encoder
    assert not isinstance(settings, BagEncoder)
    with torch.device("meta"):
        if folder is None:
            assert isinstance(settings, TransformerEncoder)
            return _small_roberta(config, settings, config.tokens.vocabulary)
        network = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    if settings.pooling != "pooler" and getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network


def _stored_network(network: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.for_model(**network))


def _named_model(config: ArmConfig, name: str, vocabulary: int) -> nn.Module:
    from transformers import AutoModel

    if problem := changed_export(Path(located(name))):
        raise EncoderError(f"encoder.model: {problem}")
    model, reason = None, ""
    try:
        model = AutoModel.from_pretrained(located(name), dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
    if model is None:  # raised here, for whoever tells of it looks at the causes first, which say less
        kind = "folder" if os.path.isdir(name) else "name"
        raise MissingError(
            f"encoder.model: no transformers model under the {kind} {name!r} ({reason}); {how_to_get(name)}"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise EncoderError(
            f"encoder.model: expected a whole model, got an adapter under {name!r}: merge it into its model "
            "(merge_and_unload of peft) and give the folder of that"
        )
    if model.config.vocab_size < vocabulary:
        raise EncoderError(
            f"encoder.model: {name!r} knows {model.config.vocab_size} tokens, its tokenizer "
            f"makes {vocabulary}: model and tokenizer do not belong together"
        )
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, nn.Embedding):  # RoBERTa counts positions from padding's id + 1
        reads = positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
        for setting, length in longest_texts(config).items():
            if length > reads:
                raise EncoderError(f"encoder.model: {name!r} reads {reads} tokens, got {setting} {length}: lower it")
    return model


def _small_roberta(config: ArmConfig, settings: TransformerEncoder, vocabulary: int) -> nn.Module:
    from transformers import RobertaConfig, RobertaModel

    longest = max(config.tokens.query_length, config.tokens.code_length)
    shape = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.width,
        max_position_embeddings=longest + PAD_ID + 1,  # RoBERTa counts positions from padding's id + 1
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD_ID,
        bos_token_id=0,
        eos_token_id=2,
    )
    return RobertaModel(shape, add_pooling_layer=settings.pooling == "pooler")
