"""Ranks of the right codes among a whole codebase, and the metrics made of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softnce_ray.errors import UserError

ROUNDING = 1e-6
"""Scores closer than this share of |query| · |code| are ties: float32 products of equal vectors differ by
as much, depending on where in a matrix they stand."""


class DivergedError(UserError, ValueError):
    """Vectors that are no numbers."""


def ranks(queries: Tensor, codes: Tensor, targets: Tensor, *, block: int = 256) -> np.ndarray:
    """Rank of each query's own code among all codes, ties counted half.

    `rank = 1 + #better + #equal / 2`, so that ties never help: an encoder that maps everything to one vector
    gets about M/2 for every query. Scores are dot products; `block` queries are scored at a time, so that
    memory beyond the embeddings is about `4 · block · M` bytes.

    Args:
      queries: (Q, D) vectors.
      codes: (M, D) vectors on the same device.
      targets: (Q,) row of each query's own code.

    Returns:
      (Q,) float64, from 1 to M.

    Raises:
      ValueError: shapes do not fit, or a target is out of range.
      DivergedError: a vector is not finite.
    """
    if queries.ndim != 2 or codes.ndim != 2 or queries.shape[1] != codes.shape[1]:
        raise ValueError(f"expected (Q, D) and (M, D), got {tuple(queries.shape)} and {tuple(codes.shape)}")
    if targets.shape != queries.shape[:1]:
        raise ValueError(f"expected {len(queries)} targets, got shape {tuple(targets.shape)}")
    if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < len(codes)):
        raise ValueError(
            f"expected targets from 0 to {len(codes) - 1}, got {int(targets.min())} to {int(targets.max())}"
        )
    if not (torch.isfinite(queries).all() and torch.isfinite(codes).all()):
        raise DivergedError(
            "expected finite vectors, got NaN or infinity: the encoder has diverged; lower training.learning_rate "
            "or raise temperature"
        )
    result = np.empty(len(queries))
    largest = codes.norm(dim=1).max() if len(codes) else None
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        scores = rows @ codes.T
        own = scores.gather(1, targets[start : start + block, None])
        slack = ROUNDING * rows.norm(dim=1, keepdim=True) * largest
        better = (scores > own + slack).sum(dim=1)
        level = (scores >= own - slack).sum(dim=1) - better - 1  # without the right code itself
        result[start : start + block] = (1 + better + level / 2).double().cpu().numpy()
    return result


def reciprocal_ranks(queries: Tensor, codes: Tensor, targets: Tensor, *, cutoff: int | None = None) -> np.ndarray:
    """Reciprocal rank of each query's own code: (Q,) float64 in (0, 1], or 0 past `cutoff`.

    See `ranks` for shapes, ties and errors. Their mean is the MRR.
    """
    return reciprocal(ranks(queries, codes, targets), cutoff=cutoff)


def reciprocal(rank: np.ndarray, *, cutoff: int | None = None) -> np.ndarray:
    """1 / rank, and 0 for ranks past `cutoff`."""
    return np.where(rank <= (cutoff or np.inf), 1.0 / rank, 0.0)


def metrics(rank: np.ndarray) -> dict[str, float]:
    """MRR, recall@1, 5, 10 and nDCG@10 of queries that each have one right code.

    Args:
      rank: (Q,) ranks, Q >= 1; halves come from ties.

    Raises:
      ValueError: there are no queries.
    """
    if not len(rank):
        raise ValueError("expected at least one query, got none")
    gain = np.where(rank <= 10, 1.0 / np.log2(1.0 + rank), 0.0)
    recall = {f"recall@{k}": float(np.mean(rank <= k)) for k in (1, 5, 10)}
    return {"mrr": float(np.mean(1.0 / rank)), **recall, "ndcg@10": float(np.mean(gain))}
