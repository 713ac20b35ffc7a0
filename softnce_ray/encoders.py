"""The encoder of both sides: token ids of many texts in, one vector per text out.

Texts come ragged: `ids` (T,) int64 holds all texts end to end, `offsets` (B + 1,) int64 says where each
begins and ends. No caller pads.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softnce_ray.config import ArmConfig, BagEncoder, TransformerEncoder
from softnce_ray.errors import UserError

PAD_ID = 1
"""Padding of tokenizers and models made here; a named model brings its own."""

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)


class EncoderError(UserError, ValueError):
    """An encoder that cannot be built from its settings."""


class _WeightedMean(torch.autograd.Function):
    """Mean over a text's tokens of `exp(log_weight[t]) · table[t]`, with sparse gradients.

    Each distinct token of the batch is gathered once, and the mean is a product with the sparse matrix of
    token counts; the gradient is the transposed product, and so comes out coalesced. That is half the
    memory traffic of an EmbeddingBag, whose sparse gradient has a row per occurrence.
    """

    @staticmethod
    def forward(ctx, table: Tensor, log_weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        lengths = offsets.diff()
        tokens, column = torch.unique(ids, return_inverse=True)
        row = torch.repeat_interleave(lengths)
        share = lengths.clamp_min(1).to(table.dtype).reciprocal()[row]
        shape = (len(lengths), len(tokens))
        counts = torch.sparse_csr_tensor(offsets, column, share, shape, check_invariants=False)
        vectors, weight = table[tokens], log_weight[tokens].exp()
        ctx.save_for_backward(tokens, column, row, share, vectors, weight)
        ctx.shapes = (shape, table.shape, log_weight.shape)
        return counts @ (vectors * weight)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tokens, column, row, share, vectors, weight = ctx.saved_tensors
        (texts, distinct), table_shape, weight_shape = ctx.shapes
        order = torch.argsort(column, stable=True)
        starts = column.new_zeros(distinct + 1)
        torch.cumsum(torch.bincount(column, minlength=distinct), 0, out=starts[1:])
        transposed = torch.sparse_csr_tensor(
            starts, row[order], share[order], (distinct, texts), check_invariants=False
        )
        scaled = transposed @ gradients[0]
        per_weight = (scaled * vectors).sum(dim=1, keepdim=True) * weight
        return _rows(tokens, scaled * weight, table_shape), _rows(tokens, per_weight, weight_shape), None, None


def _rows(index: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(index[None], values, shape, is_coalesced=True, check_invariants=False)


class Bag(nn.Module):
    """Weighted mean of subword vectors. An empty text gets the zero vector."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, width) * width**-0.5)
        self.log_weight = nn.Parameter(torch.zeros(vocabulary, 1))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        with torch.autocast(self.table.device.type, enabled=False):  # sparse products know no bf16 on CPUs
            return _WeightedMean.apply(self.table, self.log_weight, ids, offsets)

    def folded(self) -> Tensor:
        """(V, width): the table with its weights folded in, whose plain mean is this encoder's output."""
        return (self.table * self.log_weight.exp()).detach()


class Transformer(nn.Module):
    """A transformers model, pooled. Texts of similar length are padded together, never to the maximum."""

    def __init__(self, model: nn.Module, pooling: str, pad_id: int) -> None:
        super().__init__()
        self.model, self.pooling, self.pad_id = model, pooling, pad_id

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        lengths = offsets.diff()
        if not len(ids):  # not one token to look up
            width: int = self.model.config.hidden_size  # type: ignore[union-attr, assignment]
            return ids.new_zeros(len(lengths), width, dtype=torch.float32)
        order = torch.argsort(lengths, stable=True)
        pooled = [self._encode(ids, offsets[group], lengths[group]) for group in _groups(order, lengths)]
        return torch.cat(pooled)[torch.argsort(order)]

    def _encode(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(max(int(lengths.max()), 1), device=ids.device)
        mask = place < lengths[:, None]
        padded = ids[torch.where(mask, starts[:, None] + place, 0)].masked_fill(~mask, self.pad_id)
        output = self.model(input_ids=padded, attention_mask=mask.long())
        if self.pooling == "pooler":
            return output.pooler_output
        hidden = output.last_hidden_state
        if self.pooling == "first":
            return hidden[:, 0]
        return (hidden * mask[..., None]).sum(dim=1) / lengths.clamp_min(1)[:, None].to(hidden.dtype)


def _groups(order: Tensor, lengths: Tensor, spread: float = 1.2) -> list[Tensor]:
    """Cut texts, ordered by length, where the longest would be over `spread` times the shortest."""
    sizes = lengths[order].tolist()
    cuts, first = [], 0
    for place, size in enumerate(sizes):
        if size > spread * max(sizes[first], 8):
            cuts.append(place)
            first = place
    return list(torch.tensor_split(order, cuts))


class DualEncoder(nn.Module):
    """One network for queries and code (siamese).

    `forward(ids, offsets)` gives (B, width) float32 vectors: of length one for `similarity: cosine`, as they
    are for `dot`. The score of a pair is their dot product, divided by the temperature in training.
    """

    def __init__(self, tower: Bag | Transformer, similarity: str) -> None:
        super().__init__()
        self.tower, self.similarity = tower, similarity

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        vectors = self.tower(ids, offsets).float()
        return F.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors


def build_encoder(config: ArmConfig, vocabulary: int, *, network: dict[str, Any] | None = None) -> DualEncoder:
    """A fresh encoder; its random weights come from torch's generator, which the caller seeds.

    Args:
      vocabulary: number of token ids of the tokenizer in use.
      network: a transformer's stored configuration: the network is built from it, with random weights, and
        no pretrained weights are looked for.

    Raises:
      EncoderError: a named model cannot be loaded, has no pooler where one is asked, knows fewer tokens than
        `vocabulary`, or reads shorter texts than the settings say.
    """
    settings = config.encoder
    if isinstance(settings, BagEncoder):
        return DualEncoder(Bag(vocabulary, settings.width), config.similarity)
    if network is not None:
        model = _stored_network(network)
    elif settings.model:
        model = _named_model(config, settings, vocabulary)
    else:
        model = _small_roberta(config, settings, vocabulary)
    if settings.pooling != "pooler" and getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # it would be trained by nothing and yet be kept
    if settings.pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise EncoderError(f"encoder.pooling: {settings.model!r} has no pooler; possible: mean, first")
    pad_id: int | None = model.config.pad_token_id  # type: ignore[union-attr, assignment]
    return DualEncoder(Transformer(model, settings.pooling, PAD_ID if pad_id is None else pad_id), config.similarity)


def _stored_network(network: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.for_model(**network))


def _named_model(config: ArmConfig, settings: TransformerEncoder, vocabulary: int) -> nn.Module:
    from transformers import AutoModel

    assert settings.model is not None
    try:
        model = AutoModel.from_pretrained(settings.model, dtype=torch.float32)
    except (OSError, ValueError) as error:
        kind = "folder" if os.path.isdir(settings.model) else "name"
        raise EncoderError(
            f"encoder.model: no transformers model under the {kind} {settings.model!r}; give the path "
            f"of a folder with config.json and model.safetensors, or a name that this machine can "
            f"download ({str(error).splitlines()[0]})"
        ) from error
    if model.config.vocab_size < vocabulary:
        raise EncoderError(
            f"encoder.model: {settings.model!r} knows {model.config.vocab_size} tokens, its tokenizer "
            f"makes {vocabulary}: model and tokenizer do not belong together"
        )
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, nn.Embedding):  # RoBERTa counts positions from padding's id + 1
        reads = positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
        for name in ("query_length", "code_length"):
            if getattr(config.tokens, name) > reads:
                raise EncoderError(
                    f"encoder.model: {settings.model!r} reads {reads} tokens, got tokens.{name} "
                    f"{getattr(config.tokens, name)}: lower it"
                )
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
