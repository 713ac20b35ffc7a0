"""A bag of embeddings: the mean of learned subword vectors."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)


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
