"""Gradients of a loss that needs the vectors of a whole batch: in one pass, or in the memory of a small one.

The second way is gradient caching (Gao et al. 2021, arXiv 2101.06983): all vectors are computed without a graph, the
loss and its gradient by each vector follow from them, and then the batch is encoded again, a chunk at a time, each
chunk's vectors handing their gradients on to the weights. The gradients are those of one pass, for the work of a second
forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Told = TypeVar("Told")

Encode = Callable[[np.ndarray], Tensor]
"""(n,) numbers of texts of a batch to their vectors, (n, D)."""


def backward(
    encode: Encode,
    queries: int,
    codes: int,
    loss_of: Callable[[Tensor], tuple[Tensor, Told]],
    *,
    chunk_size: int | None = None,
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Told:
    """Add the loss' gradient to every weight that `encode` uses; returns what `loss_of` gave beside the loss.

    Args:
      encode: with gradient where that is on; what it draws (dropout) comes from torch's generators.
      queries, codes: B and C; texts 0 to B - 1 are the queries and B to B + C - 1 the codes.
      loss_of: (B + C, D) vectors of the batch, queries before codes, to the loss to minimise and what the caller wants
        to have; called once.
      chunk_size: pairs that are encoded with gradient at one time; None: all.
      unsynced: a context in which gradients are added up and not yet sent to other workers: all chunks but the last.
    """
    if chunk_size is None or chunk_size >= max(queries, codes):
        loss, other = loss_of(encode(np.arange(queries + codes)))
        loss.backward()
        return other
    texts = [
        np.concatenate(
            [
                np.arange(min(start, queries), min(start + chunk_size, queries)),
                queries + np.arange(start, min(start + chunk_size, codes)),
            ]
        )
        for start in range(0, codes, chunk_size)
    ]
    states, parts = [], []
    with torch.no_grad():
        for each in texts:
            states.append(_generators())
            parts.append(encode(each))
    order = torch.from_numpy(np.argsort(np.concatenate(texts))).to(parts[0].device)
    vectors = torch.cat(parts)[order].requires_grad_()
    loss, other = loss_of(vectors)
    loss.backward()
    assert vectors.grad is not None
    after = _generators()
    for number, (each, state) in enumerate(zip(texts, states, strict=True)):
        _restore(state)  # the same dropout as in the first pass
        with nullcontext() if number == len(texts) - 1 else unsynced():
            encode(each).backward(vectors.grad[torch.from_numpy(each).to(vectors.device)])
    _restore(after)
    return other


def _generators() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _restore(states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])
