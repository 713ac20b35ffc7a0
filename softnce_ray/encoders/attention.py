"""Attention that networks of transformers are told to use: of texts that follow one another in one long row.

Everything else in a BERT or a RoBERTa treats tokens one by one. So the tokens of all texts go through it as one row,
without padding, and attention alone cuts the row into texts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softnce_ray.encoders import dropout as dropping
from softnce_ray.encoders.packing import Group, Row

_NAME = "softnce_ray"


def use_rows(network: Any) -> None:
    """Let a network of transformers read rows of texts."""
    from transformers import AttentionInterface, AttentionMaskInterface  # seconds, which a bag has no need of
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    network.set_attn_implementation(_NAME)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Row | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """(B, L, heads, size) of (B, heads, L, size) each.

    Args:
      packed: the texts of one long row: B is 1, L all tokens, and no mask is read. None: as transformers does it.
      scaling: of scores; None: size**-0.5.
      dropout: the probability that a weight is zero.
    """
    if packed is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    packed.read = True
    heads, size = query.shape[1], query.shape[3]
    q, k, v = (each.transpose(1, 2).reshape(-1, size) for each in (query, key, value))
    scale = size**-0.5 if scaling is None else scaling
    if dropped := dropping.drawn_here(query, dropout):
        answer = _Dropping.apply(q, k, v, packed.groups, scale, dropped)
    else:
        answer = _fused(q, k, v, packed.groups, scale, dropout)
    return answer.view(1, -1, heads, size), None


def _fused(query: Tensor, key: Tensor, value: Tensor, packed: Sequence[Group], scale: float, p: float) -> Tensor:
    """(tokens·h, size) of (tokens·h, size) each, by torch's own kernels."""
    size, answers = query.shape[1], []
    sizes = [len(group.place) for group in packed]
    for group, *rows in zip(packed, *(each.split(sizes) for each in (query, key, value)), strict=True):
        texts, heads, longest = group.shape
        q, k, v = (_Padded.apply(each, group).view(texts, heads, longest, size) for each in rows)
        mask = None if group.seen is None else group.seen[:, None, None].expand(texts, 1, longest, longest)
        answer = F.scaled_dot_product_attention(q, k, v, mask, p, scale=scale)
        answers.append(_Unpadded.apply(answer.reshape(-1, size), group))
    return torch.cat(answers)


class _Padded(torch.autograd.Function):
    """Rows to their places; those of padding hold something, and hand no gradient on.

    This and `_Unpadded` are each other's gradient. Every row has one place: gradients are picked, where torch, which
    does not know that, would add them up one by one.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return rows.index_select(0, group.source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0].reshape(-1, gradients[0].shape[-1]).index_select(0, ctx.group.place), None


class _Unpadded(torch.autograd.Function):
    """Places to their rows; the gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return places.index_select(0, group.place)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _placed(gradients[0], ctx.group), None


def _placed(rows: Tensor, group: Group) -> Tensor:
    """(n·h·L, size), zero at padding."""
    if group.seen is None:
        return rows.index_select(0, group.source)
    return rows.new_zeros(len(group.source), rows.shape[1]).index_copy_(0, group.place, rows)


class _Dropping(torch.autograd.Function):
    """Attention with dropout on processors, where torch has no kernel for it.

    With weights P of scores S, a mask M (zeros, and 1/(1-p) elsewhere) and answers O = (P∘M)V: dP = (dO Vᵀ)∘M,
    dV = (P∘M)ᵀ dO, dS = P∘(dP - rowsum(dP∘P)), dQ = s·dS K and dK = s·dSᵀ Q.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, packed: Sequence[Group], scale: float, dropped: int
    ) -> Tensor:
        size = query.shape[1]
        answer, saved = torch.empty_like(query), []
        with torch.autocast("cpu", enabled=False):
            for group, part in zip(packed, _slices(packed), strict=True):
                shape = (-1, group.shape[2], size)
                q, k, v = (each[part].index_select(0, group.source).view(shape) for each in (query, key, value))
                weights = _product(q, k.transpose(1, 2), scale, group.bias).softmax(dim=2)
                mask = dropping.kept(weights.shape, dropped)
                product = dropping.multipliers(mask, dropped, weights.dtype).mul_(weights).bmm(v)
                torch.index_select(product.view(-1, size), 0, group.place, out=answer[part])
                saved += [q, k, v, weights, mask]
        ctx.save_for_backward(*saved)
        ctx.packed, ctx.scale, ctx.dropped = packed, scale, dropped
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        gradient, saved = gradients[0].contiguous(), ctx.saved_tensors  # to be asked once: it may compute them again
        size = gradient.shape[1]
        given = [torch.empty_like(gradient) for _ in "qkv"]
        for number, (group, part) in enumerate(zip(ctx.packed, _slices(ctx.packed), strict=True)):
            q, k, v, weights, kept = saved[5 * number : 5 * number + 5]
            mask = dropping.multipliers(kept, ctx.dropped, weights.dtype)
            by_answer = _placed(gradient[part], group).view_as(q)
            by_weights = by_answer.bmm(v.transpose(1, 2)).mul_(mask)
            by_value = mask.mul_(weights).transpose(1, 2).bmm(by_answer)
            by_scores = torch._softmax_backward_data(by_weights, weights, 2, weights.dtype)
            by_query = _product(by_scores, k, ctx.scale)
            by_key = _product(by_scores.transpose(1, 2), q, ctx.scale)
            for whole, each in zip(given, (by_query, by_key, by_value), strict=True):
                torch.index_select(each.view(-1, size), 0, group.place, out=whole[part])
        return *given, None, None, None


def _slices(packed: Sequence[Group]) -> list[slice]:
    ends = list(accumulate(len(group.place) for group in packed))
    return [slice(end - len(group.place), end) for group, end in zip(packed, ends, strict=True)]


def _product(left: Tensor, right: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """scale · left @ right + bias, in one go."""
    if bias is None:
        return torch.baddbmm(left.new_empty(1, 1, 1), left, right, beta=0, alpha=scale)
    return torch.baddbmm(bias.to(left.dtype), left, right, alpha=scale)
