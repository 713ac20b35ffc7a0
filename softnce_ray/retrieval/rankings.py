"""Ranks of documents under a score, and the ranking that is made of two."""

from __future__ import annotations

import numpy as np

from softnce_ray.evaluation import ROUNDING, expected_places

_FLAT = 1e-9
"""A standard deviation that is only rounding."""


def fused(*scores: np.ndarray) -> np.ndarray:
    """The sum of the systems' standardised scores: (Q, M) float64, `Σ (score - mean) / deviation` with the mean and
    standard deviation over all documents of a query. A system that gives a query the same score everywhere adds
    nothing.

    On validation splits of five mined corpora this ranked better than reciprocal rank fusion in each, which
    keeps nothing of how far apart two documents are.

    Args:
      scores: one (Q, M) array for each system, the higher the better.

    Source: Fox, Shaw, Combination of Multiple Searches, TREC-2, 1994 (the sum); Wu, Crestani, Bi, Evaluating Score
    Normalization Methods in Data Fusion, AIRS 2006 (standardised scores).
    """
    total = np.zeros(scores[0].shape)
    for each in scores:
        centred = each - each.mean(axis=1, keepdims=True, dtype=np.float64)
        deviation = centred.std(axis=1, keepdims=True)
        total += np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > _FLAT)
    return total


def places_of(scores: np.ndarray, right: np.ndarray, *, rounding: float = ROUNDING) -> np.ndarray:
    """Places of each query's right documents, as `evaluation.places` has them for vectors.

    Args:
      scores: (Q, M).
      right: (Q, K) columns of each query's right documents, -1 after its last where it has fewer than K.
      rounding: scores closer than this share of the query's largest are ties.

    Returns:
      (Q, K) float64, from 1 to M, ascending; NaN after the last.
    """
    present = right >= 0
    own = np.take_along_axis(scores, np.where(present, right, right[:, :1]), axis=1)
    slack = rounding * np.abs(scores).max(axis=1, keepdims=True)
    better, level = np.empty(own.shape), np.empty(own.shape)
    for column in range(own.shape[1]):
        each = own[:, column, None]
        better[:, column] = (scores > each + slack).sum(axis=1)
        level[:, column] = (scores >= each - slack).sum(axis=1) - better[:, column] - 1
    return expected_places(better, level, present)
