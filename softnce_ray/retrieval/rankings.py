"""Ranks of documents under a score, and the ranking that is made of two."""

from __future__ import annotations

import numpy as np

from softnce_ray.evaluation import ROUNDING

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


def ranks_of(scores: np.ndarray, targets: np.ndarray, *, rounding: float = ROUNDING) -> np.ndarray:
    """Rank of each query's own document, ties counted half, as `evaluation.ranks` has it for vectors.

    Args:
      scores: (Q, M).
      targets: (Q,) column of each query's own document.
      rounding: scores closer than this share of the query's largest are ties.

    Returns:
      (Q,) float64, from 1 to M.
    """
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    slack = rounding * np.abs(scores).max(axis=1, keepdims=True)
    better = (scores > own + slack).sum(axis=1)
    level = (scores >= own - slack).sum(axis=1) - better - 1
    return 1 + better + level / 2
