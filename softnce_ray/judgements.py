"""How well a model ranks codes that people have judged: CodeSearchNet's nDCG, with ties that never help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from softnce_ray.evaluation import ROUNDING, check_finite


def judged_ndcg(
    queries: Tensor,
    codes: Tensor,
    relevance: Mapping[tuple[int, int], float],
    k: int | None = None,
    *,
    among: Literal["judged", "all"] = "judged",
    block: int = 256,
) -> np.ndarray:
    """nDCG of each query by judged relevance, in one of the two ways that CodeSearchNet reports: gains are
    `2^relevance - 1`, discounts `1 / log2(1 + rank)`, and codes that nobody judged gain nothing.

    Ties never help: codes of equal score share the mean of the discounts of the places that they take.

    Args:
      queries: (Q, D) vectors.
      codes: (M, D) vectors on the same device.
      relevance: by (row of the query, row of the code), 0 or more; what is not in it was not judged.
      k: places past it discount to 0, also in the ideal order; None counts all.
      among: `judged` ranks a query's judged codes among themselves, as if there were no others (CodeSearchNet's
        "NDCG within"); `all` ranks them among all codes ("NDCG all").
      block: how many queries are scored at a time; memory is about `8 · block · M` bytes.

    Returns:
      (Q,) float64 in [0, 1]; NaN for a query with no relevant code, which CodeSearchNet leaves out: take `nanmean`.

    Raises:
      ValueError: shapes do not fit, a row is out of range, a relevance is negative or not finite, or k is below 1.
      DivergedError: a vector is not finite, or a product would not be.

    Source: Husain et al., CodeSearchNet Challenge, 2019, section 4; ties as in `evaluation.graded_ndcg`.
    """
    if queries.ndim != 2 or codes.ndim != 2 or queries.shape[1] != codes.shape[1]:
        raise ValueError(f"expected (Q, D) and (M, D), got {tuple(queries.shape)} and {tuple(codes.shape)}")
    _check((len(queries), len(codes)), relevance, k, among)
    check_finite(queries, codes)
    judged = _by_query(relevance, len(queries))
    lengths = codes.norm(dim=1).double().cpu().numpy()
    result = np.full(len(queries), np.nan)
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        scores = (rows @ codes.T).double().cpu().numpy()
        errors = (ROUNDING / 2 * length * lengths for length in rows.norm(dim=1).tolist())
        result[start : start + block] = _ndcg(scores, errors, judged[start : start + block], k, among)
    return result


def ndcg_of_scores(
    scores: np.ndarray,
    relevance: Mapping[tuple[int, int], float],
    k: int | None = None,
    *,
    errors: np.ndarray,
    among: Literal["judged", "all"] = "judged",
) -> np.ndarray:
    """`judged_ndcg` of scores that are no products of vectors.

    Args:
      scores: (Q, M) finite.
      relevance, k, among: as of `judged_ndcg`.
      errors: (Q, M), how far rounding may have moved each score: two no further apart than the sum of theirs are ties.

    Raises:
      ValueError: as of `judged_ndcg`.
    """
    _check(scores.shape, relevance, k, among)
    return _ndcg(scores.astype(np.float64), errors, _by_query(relevance, len(scores)), k, among)


def _by_query(relevance: Mapping[tuple[int, int], float], queries: int) -> list[list[tuple[int, float]]]:
    judged: list[list[tuple[int, float]]] = [[] for _ in range(queries)]
    for (query, code), value in relevance.items():
        judged[query].append((code, value))
    return judged


def _ndcg(
    scores: np.ndarray,
    errors: Iterable[np.ndarray],
    judged: Sequence[Sequence[tuple[int, float]]],
    k: int | None,
    among: str,
) -> np.ndarray:
    """(Q,) of (Q, M) scores, of which rounding may have moved each by its error."""
    discounts = 1 / np.log2(2 + np.arange(scores.shape[1]))
    if k is not None:
        discounts[k:] = 0.0
    sums = np.concatenate([[0.0], np.cumsum(discounts)])
    result = np.full(len(scores), np.nan)
    for index, (scored, error) in enumerate(zip(scores, errors, strict=True)):
        places = np.array([code for code, _ in judged[index]], dtype=np.int64)
        gains = 2.0 ** np.array([value for _, value in judged[index]]) - 1
        ideal = float(np.sort(gains)[::-1] @ discounts[: len(gains)])
        if ideal <= 0:
            continue
        least, most = scored - error, scored + error
        pool = places if among == "judged" else slice(None)
        lowest, highest = np.sort(least[pool]), np.sort(most[pool])
        first = len(lowest) - np.searchsorted(lowest, most[places], side="right")
        last = len(highest) - np.searchsorted(highest, least[places], side="left")
        result[index] = gains @ ((sums[last] - sums[first]) / (last - first)) / ideal
    return result


def _check(shape: tuple[int, ...], relevance: Mapping[tuple[int, int], float], k: int | None, among: str) -> None:
    if k is not None and k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    if among not in ("judged", "all"):
        raise ValueError(f"expected among to be 'judged' or 'all', got {among!r}")
    for (query, code), value in relevance.items():
        if not (0 <= query < shape[0] and 0 <= code < shape[1]):
            raise ValueError(
                f"expected rows below {shape[0]} and {shape[1]} in relevance, got ({query}, {code}): "
                "embed every query and code that was judged"
            )
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"expected a relevance of 0 or more, got {value} at ({query}, {code})")
