"""Dropout that takes 16 random bits for each number on processors, where torch takes a number of its own for each.

Drawing is most of what dropout costs there, and it is done by one thread alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STATES = 1 << 16


def parts(p: float) -> int:
    """The probability as a number of 2**-16."""
    return round(p * _STATES)


def factor(dropped: int) -> float:
    """By which what is kept is multiplied, so that the expectation stays."""
    return _STATES / (_STATES - dropped)


def kept(shape: torch.Size, dropped: int) -> Tensor:
    """int16 ones, and zeros with a probability of `dropped` parts (below 2**16); from torch's generator."""
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)
    return bits[:count].ge_(dropped - _STATES // 2).view(shape)


def multipliers(mask: Tensor, dropped: int, kind: torch.dtype) -> Tensor:
    """What numbers are multiplied by of which `mask` says, as `kept` made it, whether they are kept; a new tensor."""
    return mask.to(kind).mul_(factor(dropped))


def drawn_here(given: Tensor, p: float) -> int:
    """The parts that `kept` is to drop of numbers on a device; 0 where there is nothing to draw, or torch does it."""
    dropped = parts(p)
    return dropped if given.device.type == "cpu" and 0 < dropped < _STATES else 0


def dropout(given: Tensor, p: float) -> Tensor:
    """`given` with each number zero with probability `p`, and the others divided by 1 - p.

    On processors `p` is that of the nearest multiple of 2**-16.
    """
    if dropped := drawn_here(given, p):
        return _Dropout.apply(given, dropped)  # type: ignore[no-any-return]
    return F.dropout(given, p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, dropped: int) -> Tensor:
        mask = kept(given.shape, dropped)
        ctx.save_for_backward(mask)
        ctx.dropped = dropped
        return multipliers(mask, dropped, given.dtype).mul_(given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return multipliers(mask, ctx.dropped, gradients[0].dtype).mul_(gradients[0]), None


class Dropout(nn.Dropout):
    """Stands for an `nn.Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p) if self.training and self.p > 0 else input


def replace_dropout(network: nn.Module) -> None:
    """Put a `Dropout` in the place of every `nn.Dropout` of a network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
