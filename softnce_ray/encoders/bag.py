"""A bag of embeddings: the mean of learned subword vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _WeightedMean(torch.autograd.Function):
    """Mean over a text's tokens of `exp(log_weight[t]) · table[t]`, with sparse gradients.

    Each distinct token of the batch is gathered once, and so is its gradient summed: a row for each distinct token, of
    which an EmbeddingBag has one for each occurrence.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, log_weight: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        tokens, column = _distinct(ids, len(table))
        vectors, weight = table.index_select(0, tokens), log_weight.index_select(0, tokens).exp()
        ctx.save_for_backward(tokens, column, offsets, vectors, weight)
        ctx.shapes = (table.shape, log_weight.shape)
        return F.embedding_bag(column, vectors * weight, offsets[:-1], mode="mean")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tokens, column, offsets, vectors, weight = ctx.saved_tensors
        table_shape, weight_shape = ctx.shapes
        lengths = offsets.diff()
        shares = gradients[0] / lengths.clamp_min(1)[:, None]
        text = torch.repeat_interleave(lengths, output_size=len(column))
        counts = torch.bincount(column, minlength=len(tokens))
        scaled = F.embedding_bag(text[_order(column, len(tokens))], shares, counts.cumsum(0) - counts, mode="sum")
        per_weight = (scaled * vectors).sum(dim=1, keepdim=True) * weight
        return _rows(tokens, scaled * weight, table_shape), _rows(tokens, per_weight, weight_shape), None, None


def _distinct(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Which tokens there are, in order, and the number among them of each token of the texts."""
    if ids.device.type != "cpu":
        return torch.unique(ids, return_inverse=True)
    every = ids.numpy()
    seen = np.zeros(vocabulary, bool)
    seen[every] = True
    tokens = np.flatnonzero(seen)
    number = np.empty(vocabulary, np.int64)
    number[tokens] = np.arange(len(tokens))
    return torch.from_numpy(tokens), torch.from_numpy(number[every])


def _order(column: Tensor, distinct: int) -> Tensor:
    """Of what stands in `column`, all zeros first, then all ones, and so on."""
    if column.device.type != "cpu" or distinct > 1 << 16:
        return torch.argsort(column, stable=True)
    return torch.from_numpy(np.argsort(column.numpy().astype(np.uint16), kind="stable"))  # 16 bits: without comparing


def _rows(index: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(index[None], values, shape, is_coalesced=True, check_invariants=False)


class Bag(nn.Module):
    """Weighted mean of subword vectors. An empty text gets the zero vector."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, width) * width**-0.5)
        self.log_weight = nn.Parameter(torch.zeros(vocabulary, 1))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        with torch.autocast(self.table.device.type, enabled=False):
            return _WeightedMean.apply(self.table, self.log_weight, ids, offsets)

    def folded(self) -> Tensor:
        """(V, width): the table with its weights folded in, whose plain mean is this encoder's output."""
        return (self.table * self.log_weight.exp()).detach()
