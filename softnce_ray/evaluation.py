"""Ranks of the right codes among a whole codebase, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from softnce_ray.errors import UserError

ROUNDING = 1e-6
"""Scores of two codes are ties where they are no further apart than this share of |query| times the mean of the codes'
lengths: float32 products of equal vectors differ by as much, depending on where in a matrix they stand. The rounding of
a product is bounded by a share of |query| · |code|, that of a difference by the sum of two such bounds, and neither by
any third code's length."""

_EVEN = 1e-3
"""Lengths that differ by no more than this share are those of unit vectors, or as good."""

RECALL_AT = (1, 5, 10)
NDCG_AT = 10


class DivergedError(UserError, ValueError):
    """Vectors that are no numbers."""


def ranks(queries: Tensor, codes: Tensor, targets: Tensor, *, block: int = 128) -> np.ndarray:
    """Rank of each query's own code among all codes, ties counted half: `places` of one right code each.

    `rank = 1 + #better + #equal / 2`, so that ties never help: an encoder that maps everything to one vector
    gets about M/2 for every query.

    Args:
      queries, codes, block: as of `places`.
      targets: (Q,) row of each query's own code.

    Returns:
      (Q,) float64, from 1 to M.

    Raises:
      ValueError, DivergedError: as of `places`.
    """
    if targets.ndim != 1:
        raise ValueError(f"expected (Q,) targets, got shape {tuple(targets.shape)}")
    return places(queries, codes, targets[:, None], block=block)[:, 0]


def places(queries: Tensor, codes: Tensor, right: Tensor, *, block: int = 128) -> np.ndarray:
    """Places of each query's right codes in the ranking of all codes, the best first.

    Of right codes that tie with others each has the place that it is expected to have in a random order: the i-th of
    r among t codes of equal score the place `#better + i (t + 1) / (r + 1)`. One right code has `1 + #better +
    #equal / 2`. Reciprocal rank and nDCG of expected places are at most their expected values: ties never help. Scores
    are dot products, and what differs by `ROUNDING` is equal; `block` queries are scored at a time, so that memory
    beyond the embeddings is about `8 · block · M` bytes.

    Args:
      queries: (Q, D) vectors.
      codes: (M, D) vectors on the same device.
      right: (Q, K) rows of the codes that answer each query, K >= 1; -1 after its last where it has fewer.

    Returns:
      (Q, K) float64, from 1 to M, ascending; NaN after the last.

    Raises:
      ValueError: shapes do not fit, or a row is out of range.
      DivergedError: a vector is not finite, or a product would not be.
    """
    if queries.ndim != 2 or codes.ndim != 2 or queries.shape[1] != codes.shape[1]:
        raise ValueError(f"expected (Q, D) and (M, D), got {tuple(queries.shape)} and {tuple(codes.shape)}")
    if right.ndim != 2 or right.shape[0] != len(queries) or not right.shape[1]:
        raise ValueError(f"expected {len(queries)} targets, got shape {tuple(right.shape)}")
    if len(right) and not (int(right[:, 0].min()) >= 0 and int(right.min()) >= -1 and int(right.max()) < len(codes)):
        raise ValueError(f"expected targets from 0 to {len(codes) - 1}, got {int(right.min())} to {int(right.max())}")
    check_finite(queries, codes)
    present = right >= 0
    better, level = _places(queries, codes, torch.where(present, right, right[:, :1]), block)
    return expected_places(better, level, present.cpu().numpy())


def expected_places(better: np.ndarray, level: np.ndarray, present: np.ndarray) -> np.ndarray:
    """`places` of right codes from how many codes are better than each, and how many others as good.

    Args:
      better, level: (Q, K); what stands where `present` is False does not count.
      present: (Q, K) bool, which of them are right codes.

    Returns:
      (Q, K) float64, ascending, NaN after the last.
    """
    better = np.where(present, better, np.inf)
    order = np.lexsort((level, better), axis=-1)
    better, level = np.take_along_axis(better, order, axis=1), np.take_along_axis(level, order, axis=1)
    columns = np.broadcast_to(np.arange(better.shape[1]), better.shape)
    # Right codes of equal score are no better than each other, and stand side by side: a run of columns.
    edge = np.ones((len(better), 1), bool)
    new = better[:, 1:] != better[:, :-1]
    first = np.maximum.accumulate(np.where(np.hstack([edge, new]), columns, 0), axis=1)
    last = np.where(np.hstack([new, edge]), columns, better.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    tied = np.maximum(np.take_along_axis(level, first, axis=1), last - first) + 1
    place = better + (columns - first + 1) * (tied + 1) / (last - first + 2)
    return np.where(np.isinf(place), np.nan, place)


def check_finite(queries: Tensor, codes: Tensor) -> None:
    """Raise DivergedError where a vector is not finite, or a product could not be.

    Args:
      queries: (Q, D) vectors.
      codes: (M, D) vectors.
    """
    sides = {"queries": queries, "codes": codes}
    longest = [float(each.norm(dim=1).max()) if len(each) else 0.0 for each in sides.values()]
    if longest[0] * longest[1] <= torch.finfo(queries.dtype).max:
        return
    bad = {name: int((~torch.isfinite(each)).any(dim=1).sum()) for name, each in sides.items()}
    what, got = "vectors", " and ".join(f"{bad[name]:,} of {len(each):,} {name}" for name, each in sides.items())
    if not any(bad.values()):
        largest = " and ".join(f"{float(each.abs().max()):.1g}" for each in sides.values())
        what, got = "products of vectors", f"queries and codes with numbers up to {largest}"
    raise DivergedError(
        f"expected finite {what}, got NaN or infinity in {got}: the encoder has diverged in its training (lower "
        "training.learning_rate or raise temperature), or its weights are damaged"
    )


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
    if not len(queries):
        return better, level
    lengths = codes.norm(dim=1)
    longest = lengths.max()
    even = bool(((longest - lengths <= _EVEN * longest) | (lengths == 0)).all())
    room = queries.new_empty(min(block, len(queries)), len(codes))
    for start in range(0, len(queries), block):
        rows, chosen = queries[start : start + block], targets[start : start + block]
        scores = rows @ codes.T
        own, found = scores.gather(1, chosen), room[: len(rows)]
        error = ROUNDING / 2 * rows.norm(dim=1, keepdim=True)
        # A code is better where its score - error > own score + error. Codes of one length have one error: put on the
        # right, it costs no passes over all scores.
        slack = 2 * error * longest if even else error * lengths[chosen]
        if not even:
            scores.addmm_(error, lengths[None], alpha=-1)
        above = [_counted(torch.gt(scores, limit[:, None], out=found)) for limit in (own + slack).T]
        if not even:
            scores.addmm_(error, lengths[None], alpha=2)
        at_least = [_counted(torch.ge(scores, limit[:, None], out=found)) for limit in (own - slack).T]
        for column, (more, all_) in enumerate(zip(above, at_least, strict=True)):
            better[start : start + block, column] = more.cpu().numpy()
            level[start : start + block, column] = (all_ - more - 1).cpu().numpy()
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


def query_metrics(place: np.ndarray) -> dict[str, np.ndarray]:
    """(Q,) values of reciprocal rank, recall@1, 5, 10 and nDCG@10 of each query: `RR`, `R@k` and `nDCG@10` of
    ir_measures where nothing ties.

    The reciprocal rank is that of the best right code, recall the share of the right codes among the first k, and
    nDCG counts every right code as 1.

    Args:
      place: (Q,) ranks of one right code each, or (Q, K) `places`.
    """
    place = place.reshape(len(place), -1)
    right = (~np.isnan(place)).sum(axis=1)
    recall = {f"recall@{k}": (place <= k).sum(axis=1) / right for k in RECALL_AT}
    gain = np.where(place <= NDCG_AT, 1.0 / np.log2(1.0 + place), 0.0)
    ideal = np.cumsum(1.0 / np.log2(2.0 + np.arange(NDCG_AT)))[np.minimum(right, NDCG_AT) - 1]
    return {"mrr": 1.0 / place[:, 0], **recall, f"ndcg@{NDCG_AT}": gain.sum(axis=1) / ideal}


def metrics(place: np.ndarray) -> dict[str, float]:
    """MRR, recall@1, 5, 10 and nDCG@10: the means of `query_metrics`.

    Args:
      place: (Q,) ranks of one right code each, or (Q, K) `places`, Q >= 1.

    Raises:
      ValueError: there are no queries.
    """
    if not len(place):
        raise ValueError("expected at least one query, got none")
    return {name: float(np.mean(values)) for name, values in query_metrics(place).items()}
