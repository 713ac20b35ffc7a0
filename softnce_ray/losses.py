"""Contrastive losses: pure functions of scores and of the estimated distribution over negatives.

Throughout, `scores` is (B, B): row i holds the scores of query i against every code of the batch, the
right one on the diagonal. `negatives` is (B, B): row i is the estimator's distribution p over the
negatives of query i, with a zero diagonal and a sum of one. Losses are means over the batch and work on
log-sum-exps, so that they stay finite for large scores.

Source: Li, Zhou, Tuan, Miao, Rethinking Negative Pairs in Code Search, EMNLP 2023 (arXiv 2310.08069).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def infonce(scores: Tensor, negatives: Tensor | None = None) -> Tensor:
    """InfoNCE: `-log( e^{s_ii} / sum_j e^{s_ij} )`, mean over i.

    Args:
      scores: (B, B) floating, B >= 2.
      negatives: ignored; every negative counts alike.

    Returns:
      A scalar, zero or more.

    Raises:
      ValueError: `scores` is not square, or B < 2: one pair has no negatives.
    """
    return _cross_entropy(scores)


def soft_weights(negatives: Tensor, *, alpha: float, beta: float, floor: float = 0.1) -> Tensor:
    """Weights of Soft-InfoNCE: `w_ij = max(floor, (β - α p_ij) / (β - α/(N-1)))`, and `w_ii = 1`.

    A negative that is likely relevant (large p) weighs less. Without the floor each row's negatives sum to
    N - 1, as in InfoNCE.

    Args:
      negatives: (N, N), rows of p with a zero diagonal; N >= 2.
      alpha: 0 or more; 0 makes every weight 1.
      beta: more than `alpha / (N - 1)`, or likelier negatives would weigh more.
      floor: least weight, above 0 so that its logarithm exists.

    Returns:
      (N, N) weights without gradient.

    Raises:
      ValueError: beta is not more than alpha / (N - 1), or floor is not above 0.

    Source: equation 4 of arXiv 2310.08069; the floor is that of its experiments.
    """
    size = _batch_size(negatives)
    even = alpha / (size - 1)
    if not beta > even:
        raise ValueError(
            f"expected beta > alpha / (N - 1), got beta {beta:g} and {alpha:g} / {size - 1} = {even:g}: lower "
            "alpha, raise beta or use larger batches"
        )
    if not floor > 0:
        raise ValueError(f"expected floor > 0, got {floor:g}")
    weights = ((beta - alpha * negatives.detach()) / (beta - even)).clamp_min(floor)
    return weights.fill_diagonal_(1.0)


def soft_infonce(scores: Tensor, negatives: Tensor, *, alpha: float, beta: float, floor: float = 0.1) -> Tensor:
    """Soft-InfoNCE: `-log( e^{s_ii} / (e^{s_ii} + sum_{j≠i} w_ij e^{s_ij}) )`, mean over i.

    Cross entropy on `s_ij + log w_ij`. With `alpha = 0`, or with a uniform p, it is InfoNCE exactly.

    Args:
      scores: (B, B) floating, B >= 2.
      negatives: (B, B) distribution over negatives; see `soft_weights` for it and the options.

    Raises:
      ValueError: shapes differ, or a rule of `soft_weights` is broken.

    Source: equation 3 of arXiv 2310.08069.
    """
    if negatives.shape != scores.shape:
        raise ValueError(f"expected negatives of shape {tuple(scores.shape)}, got {tuple(negatives.shape)}")
    weights = soft_weights(negatives, alpha=alpha, beta=beta, floor=floor)
    return _cross_entropy(scores + weights.log().to(scores.dtype))


LOSSES: dict[str, Callable[..., Tensor]] = {"infonce": infonce, "soft_infonce": soft_infonce}
"""Every loss by its name in a study file: `(scores, negatives, **settings) -> scalar`."""


def _cross_entropy(logits: Tensor) -> Tensor:
    """Mean cross entropy of the diagonal of (B, B) logits, in float32 or better."""
    size = _batch_size(logits)
    return F.cross_entropy(
        logits if logits.dtype == torch.float64 else logits.float(), torch.arange(size, device=logits.device)
    )


def _batch_size(matrix: Tensor) -> int:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"expected a (B, B) matrix, got shape {tuple(matrix.shape)}")
    if matrix.shape[0] < 2:
        raise ValueError("expected at least 2 pairs in a batch, got 1: a single pair has no negatives")
    return matrix.shape[0]
