"""Ranks of the right codes among a whole codebase, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from softnce_ray.errors import UserError

ROUNDING = 1e-6
"""Scores closer than this share of |query| · |code| are ties: float32 products of equal vectors differ by
as much, depending on where in a matrix they stand."""


class DivergedError(UserError, ValueError):
    """Vectors that are no numbers."""


def ranks(queries: Tensor, codes: Tensor, targets: Tensor, *, block: int = 128) -> np.ndarray:
    """Rank of each query's own code among all codes, ties counted half.

    `rank = 1 + #better + #equal / 2`, so that ties never help: an encoder that maps everything to one vector
    gets about M/2 for every query. Scores are dot products; `block` queries are scored at a time, so that
    memory beyond the embeddings is about `8 · block · M` bytes.

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
    better, level = _places(queries, codes, targets[:, None], block)
    return (1 + better + level / 2)[:, 0]


def graded_ndcg(
    queries: Tensor, codes: Tensor, targets: Tensor, partners: Sequence[np.ndarray], *, block: int = 128
) -> np.ndarray:
    """nDCG of each query over the whole codebase, without cut-off: its own code has grade 2, codes that share its
    meaning grade 1, all others 0; gains are `2^grade - 1`, discounts `1 / log2(1 + rank)`.

    Ties never help: codes of equal score share the mean of the discounts of the places that they take.

    Args:
      queries, codes, targets, block: as of `ranks`.
      partners: for each query the rows of other codes that share its meaning; may be empty.

    Returns:
      (Q,) float64 in (0, 1].

    Source: Järvelin, Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, 2002; ties as McSherry, Najork,
    Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, 2008.
    """
    if not len(queries):
        return np.empty(0)
    counts = np.array([len(each) for each in partners])
    relevant = targets[:, None].repeat(1, 1 + int(counts.max()))
    for row, each in enumerate(partners):
        relevant[row, 1 : 1 + len(each)] = torch.from_numpy(np.asarray(each, np.int64))
    better, level = _places(queries, codes, relevant, block)
    discounts = 1 / np.log2(2 + np.arange(len(codes)))
    sums = np.concatenate([[0.0], np.cumsum(discounts)])
    first, last = better.astype(int), (better + level).astype(int) + 1
    discount = (sums[last] - sums[first]) / (last - first)
    gains = np.where(np.arange(discount.shape[1]) == 0, 3.0, 1.0)
    counted = np.arange(discount.shape[1]) <= counts[:, None]
    ideal = 3.0 * discounts[0] + sums[counts + 1] - sums[1]
    return (gains * discount * counted).sum(axis=1) / ideal


def _places(queries: Tensor, codes: Tensor, targets: Tensor, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) float64 each: how many codes are better than target k of query q, and how many others as good."""
    better, level = np.empty(targets.shape), np.empty(targets.shape)
    largest = codes.norm(dim=1).max() if len(codes) else None
    room = queries.new_empty(min(block, len(queries)), len(codes))
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        scores = rows @ codes.T
        slack = ROUNDING * rows.norm(dim=1, keepdim=True) * largest
        for column in range(targets.shape[1]):
            own = scores.gather(1, targets[start : start + block, column, None])
            above = _counted(torch.gt(scores, own + slack, out=room[: len(rows)]))
            at_least = _counted(torch.ge(scores, own - slack, out=room[: len(rows)]))
            better[start : start + block, column] = above.cpu().numpy()
            level[start : start + block, column] = (at_least - above - 1).cpu().numpy()
    return better, level


def _counted(ones: Tensor) -> Tensor:
    """(Q,) how many of each row's numbers are one, the others being zero: several times as fast as counting bools."""
    exact = torch.float32 if ones.shape[1] < 1 << 24 else torch.float64
    return ones.sum(dim=1, dtype=exact)


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
