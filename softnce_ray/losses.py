"""Contrastive losses: pure functions of scores and of what is estimated about the negatives.

Throughout, `scores` is (B, N) with N >= B and N >= 2: row i holds the scores of query i against every code of the
batch, the right one on the diagonal; codes beyond the first B are hard negatives, which are nobody's right answer.
`negatives` is (B, N): row i is the estimator's distribution p over the negatives of query i, with a zero diagonal and a
sum of one. `hidden` (B, N) bool marks negatives that are left out, for they are duplicates of the right answer; its
diagonal is False. Losses are means over i unless said otherwise, and work on log-sum-exps in float32 or better, so that
they stay finite for scores of ±1e4 in any precision. Every loss raises ValueError for scores of another shape: one pair
alone has no negatives.

Source, unless a function names another: Li, Zhou, Tuan, Miao, Rethinking Negative Pairs in Code Search,
EMNLP 2023 (arXiv 2310.08069), called "the paper".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_GONE = -1e30
"""Logit of what does not count. Finite: zero times it is zero, where infinity would make NaN."""


def infonce(scores: Tensor, *, hidden: Tensor | None = None) -> Tensor:
    """InfoNCE: `-log( e^{s_ii} / sum_j e^{s_ij} )`."""
    return _cross_entropy(_visible(scores, hidden))


def soft_weights(
    negatives: Tensor, *, alpha: float, beta: float, floor: float = 0.1, hidden: Tensor | None = None
) -> Tensor:
    """Weights of Soft-InfoNCE: `w_ij = max(floor, (β - α p_ij) / (β - α/(N-1)))`, and `w_ii = 1`.

    A negative that is likely relevant (large p) weighs less. Without the floor each row's negatives sum to their
    number, as in InfoNCE. With `hidden`, N - 1 is the number of negatives that are left in the row and p is spread
    over them; a row with so few that `β <= α/(N-1)` is not weighed.

    Args:
      negatives: (B, N) p.
      alpha: 0 or more; 0 makes every weight 1.
      beta: more than `alpha / (N - 1)`, or likelier negatives would weigh more.
      floor: least weight, above 0 so that its logarithm exists.

    Returns:
      (B, N) weights without gradient.

    Raises:
      ValueError: alpha is below 0, beta is not more than alpha / (N - 1), or floor is not above 0.

    Source: equation 4 of the paper; the floor is that of its experiments.
    """
    size = _codes(negatives)
    if alpha < 0:
        raise ValueError(f"expected alpha >= 0, got {alpha:g}")
    if not beta > alpha / (size - 1):
        raise ValueError(
            f"expected beta > alpha / (N - 1), got beta {beta:g} and {alpha:g} / {size - 1} = {alpha / (size - 1):g}: "
            "lower alpha, raise beta or use larger batches"
        )
    if not floor > 0:
        raise ValueError(f"expected floor > 0, got {floor:g}")
    p = negatives.detach()
    if hidden is None:
        return ((beta - alpha * p) / (beta - alpha / (size - 1))).clamp_min(floor).fill_diagonal_(1.0)
    even = alpha / (size - 1 - hidden.sum(dim=1, keepdim=True)).clamp_min(1).to(p.dtype)
    weights = ((beta - alpha * _targets(p, hidden)) / (beta - even)).clamp_min(floor)
    return torch.where(even < beta, weights, 1.0).fill_diagonal_(1.0)


def soft_infonce(
    scores: Tensor,
    *,
    negatives: Tensor,
    alpha: float,
    beta: float,
    floor: float = 0.1,
    hidden: Tensor | None = None,
) -> Tensor:
    """Soft-InfoNCE: `-log( e^{s_ii} / (e^{s_ii} + sum_{j≠i} w_ij e^{s_ij}) )`, with the weights of `soft_weights`.

    Cross entropy on `s_ij + log w_ij`. With `alpha = 0`, or with a uniform p, it is InfoNCE exactly.

    Raises:
      ValueError: shapes differ, or a rule of `soft_weights` is broken.

    Source: equation 3 of the paper.
    """
    _same_shape(scores, negatives, "negatives")
    weights = soft_weights(negatives, alpha=alpha, beta=beta, floor=floor, hidden=hidden)
    return _cross_entropy(_visible(scores, hidden) + weights.log())


def weighted_infonce(scores: Tensor, *, negatives: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Weighted InfoNCE: `-sum_j p_ij log softmax_j(s_i)` with `p_ii = 1`.

    Source: equation 13 of the paper, as its authors coded it.
    """
    _same_shape(scores, negatives, "negatives")
    log_softmax = _visible(scores, hidden).log_softmax(dim=1)
    return -(_targets(negatives, hidden) * log_softmax).sum(dim=1).mean()


def bce(scores: Tensor, *, negatives: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Binary cross entropy of `softmax_j(s_i)` against 1 for j = i and p_ij else: mean over all entries that
    are not hidden.

    Source: section 4.3 of the paper.
    """
    _same_shape(scores, negatives, "negatives")
    logits = _visible(scores, hidden)
    log_p = logits.log_softmax(dim=1)
    # log(1 - p): the largest entry's is taken from the others' sum, where 1 - p itself would round to zero.
    top = logits.detach().argmax(dim=1, keepdim=True)
    others = logits.scatter(1, top, _GONE).logsumexp(dim=1, keepdim=True) - logits.logsumexp(dim=1, keepdim=True)
    is_top = torch.zeros_like(logits, dtype=torch.bool).scatter(1, top, True)
    log_not = torch.where(is_top, others, torch.log1p(-log_p.masked_fill(is_top, _GONE).exp()))
    target = _targets(negatives, hidden)
    entropy = target * log_p + (1 - target) * log_not
    if hidden is None:
        return -entropy.mean()
    return -entropy.masked_fill(hidden, 0.0).sum() / (~hidden).sum()


def kl_regularised(
    scores: Tensor, *, negatives: Tensor, alpha: float, beta: float, hidden: Tensor | None = None
) -> Tensor:
    """`β · InfoNCE + α · KL(p_i ‖ softmax over j≠i of s_i)`.

    Raises:
      ValueError: alpha is below 0, beta is not above 0, or shapes differ.

    Source: section 4.3 of the paper, with β = 1.3 and α = 0.7.
    """
    _same_shape(scores, negatives, "negatives")
    if not (alpha >= 0 and beta > 0):
        raise ValueError(f"expected alpha >= 0 and beta > 0, got {alpha:g} and {beta:g}")
    logits = _visible(scores, hidden)
    p = _targets(negatives, hidden).fill_diagonal_(0.0)
    log_q = _without_diagonal(logits).log_softmax(dim=1)
    divergence = (torch.special.xlogy(p, p) - p * log_q).sum(dim=1).mean()
    return beta * _cross_entropy(logits) + alpha * divergence


def cancel_top_k(scores: Tensor, *, similarity: Tensor, k: int, hidden: Tensor | None = None) -> Tensor:
    """InfoNCE without, for each query, its `k` negatives of highest similarity.

    Args:
      similarity: (B, N) as the estimator gives it.
      k: 0 (InfoNCE exactly) or more; with k >= N - 1 no negative would be left.

    Raises:
      ValueError: k is negative or leaves no negative, or shapes differ.

    Source: section 4.4 of the paper (false-negative cancellation).
    """
    size = _codes(scores)
    _same_shape(scores, similarity, "similarity")
    if not 0 <= k < size - 1:
        raise ValueError(f"expected k from 0 to {size - 2} for batches of {size}, got {k}")
    ranked = _without_diagonal(_visible(similarity, hidden)).topk(k, dim=1).indices
    cancelled = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranked, True)
    return _cross_entropy(_visible(scores, cancelled if hidden is None else cancelled | hidden))


def cancel_threshold(scores: Tensor, *, similarity: Tensor, ratio: float, hidden: Tensor | None = None) -> Tensor:
    """InfoNCE without the negatives whose similarity is at least `ratio` times the query's own.

    A query that loses all its negatives adds nothing to the loss. One whose similarity to itself is not above zero,
    so that no share of it means anything, keeps them all.

    Args:
      similarity: (B, N) with the query's similarity to itself on the diagonal.
      ratio: above 0; infinity cancels nothing.

    Raises:
      ValueError: ratio is not above 0, or shapes differ.

    Source: section 4.4 of the paper.
    """
    _codes(scores)
    _same_shape(scores, similarity, "similarity")
    if not ratio > 0:
        raise ValueError(f"expected ratio > 0, got {ratio:g}")
    if math.isinf(ratio):
        return infonce(scores, hidden=hidden)
    own = similarity.diagonal()[:, None]
    cancelled = ((similarity >= ratio * own) & (own > 0)).fill_diagonal_(False)
    return _cross_entropy(_visible(scores, cancelled if hidden is None else cancelled | hidden))


def hard_negative(
    scores: Tensor, *, temperature: float, concentration: float, tau_plus: float, hidden: Tensor | None = None
) -> Tensor:
    """Hard-negative contrastive loss (HCL), for vectors of unit length.

    `r_ij = e^{b s_ij}`, `R_i = (N-1) sum r e^s / sum r` over the negatives,
    `G_i = max((R_i - τ⁺ (N-1) e^{s_ii}) / (1 - τ⁺), (N-1) e^{-1/τ})`; loss `-log( e^{s_ii} / (e^{s_ii} + G_i) )`.
    It weighs hard negatives up, where Soft-InfoNCE weighs likely ones down.

    Args:
      temperature: τ, by which the scores were divided.
      concentration: b, 0 or more; 0 is the debiased loss.
      tau_plus: τ⁺, the share of negatives that are positives in truth: from 0 to below 1.

    Raises:
      ValueError: tau_plus is not in [0, 1), concentration is below 0, or temperature not above 0.

    Source: Robinson, Chuang, Sra, Jegelka, Contrastive Learning with Hard Negative Samples, ICLR 2021
    (arXiv 2010.04592).
    """
    if not (0 <= tau_plus < 1 and concentration >= 0 and temperature > 0):
        raise ValueError(
            f"expected 0 <= tau_plus < 1, concentration >= 0 and temperature > 0, got {tau_plus:g}, "
            f"{concentration:g} and {temperature:g}"
        )
    logits = _visible(scores, hidden)
    own = logits.diagonal()
    away = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    if hidden is not None:
        away = away | hidden
    log_count = (logits.shape[1] - away.sum(dim=1)).to(logits.dtype).log().clamp_min(_GONE)  # none left: G = 0
    hard = (logits * (1 + concentration)).masked_fill(away, _GONE).logsumexp(dim=1)
    weight = (logits * concentration).masked_fill(away, _GONE).logsumexp(dim=1)
    log_negatives = log_count + hard - weight
    least = log_count - 1 / temperature
    if tau_plus > 0:
        share = math.log(tau_plus) + log_count + own - log_negatives
        positive = share < 0  # else the difference is not above zero, and the lower bound holds
        safe = torch.where(positive, share, -1.0)
        log_negatives = log_negatives + torch.log(-torch.expm1(safe)) - math.log1p(-tau_plus)
        log_negatives = torch.where(positive, log_negatives, _GONE)
    return F.softplus(torch.maximum(log_negatives, least) - own).mean()


def debiased(scores: Tensor, *, temperature: float, tau_plus: float, hidden: Tensor | None = None) -> Tensor:
    """Debiased contrastive loss (DCL): `hard_negative` with concentration 0.

    Source: Chuang, Robinson, Lin, Torralba, Jegelka, Debiased Contrastive Learning, NeurIPS 2020.
    """
    return hard_negative(scores, temperature=temperature, concentration=0.0, tau_plus=tau_plus, hidden=hidden)


def subsampled_infonce(
    scores: Tensor, *, k: int, generator: torch.Generator | None = None, hidden: Tensor | None = None
) -> Tensor:
    """InfoNCE with at most `k` of each query's negatives, drawn at random.

    Args:
      k: from 1 to N - 1 (InfoNCE exactly).
      generator: of the processor, whatever the device of the scores: equal states draw equally. None: torch's own.

    Raises:
      ValueError: k is out of range.

    Source: the question of arXiv 2105.13003, how many negatives help; its effectiveness function is not
    reproduced.
    """
    size = _codes(scores)
    if not 1 <= k <= size - 1:
        raise ValueError(f"expected k from 1 to {size - 1} for batches of {size}, got {k}")
    drawn = torch.rand(scores.shape, generator=generator).to(scores.device)
    if hidden is not None:
        drawn = drawn - 2.0 * hidden  # the visible ones are drawn first
    kept = _without_diagonal(drawn).topk(k, dim=1).indices
    left_out = torch.ones_like(scores, dtype=torch.bool).scatter(1, kept, False).fill_diagonal_(False)
    return _cross_entropy(_visible(scores, left_out if hidden is None else left_out | hidden))


def positive_equal(scores: Tensor, *, positives: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Positive-negative equal loss (PNE): `log(1 + sum_n e^{s_in} / sum_{p∈P_i} π_ip e^{s_ip})`.

    Args:
      positives: (B, N) bool, the set P_i in row i: the pairs with the same normalised query or code as pair i,
        itself included. π is the softmax of their scores, without gradient; n runs over all other pairs.

    Raises:
      ValueError: shapes differ.

    Source: arXiv 2207.01417.
    """
    _same_shape(scores, positives, "positives")
    logits = _visible(scores, hidden)
    log_share = logits.detach().masked_fill(~positives, _GONE).log_softmax(dim=1)
    log_positive = (log_share + logits).masked_fill(~positives, _GONE).logsumexp(dim=1)
    log_negative = logits.masked_fill(positives, _GONE).logsumexp(dim=1)
    return F.softplus(log_negative - log_positive).mean()


Need = Literal["negatives", "similarity", "positives", "temperature", "generator"]


@dataclass(frozen=True)
class Loss:
    """A loss, and which inputs it takes beside the scores and its own settings."""

    function: Callable[..., Tensor]
    needs: frozenset[Need] = frozenset()


LOSSES: dict[str, Loss] = {
    "infonce": Loss(infonce),
    "soft_infonce": Loss(soft_infonce, frozenset({"negatives"})),
    "weighted_infonce": Loss(weighted_infonce, frozenset({"negatives"})),
    "bce": Loss(bce, frozenset({"negatives"})),
    "kl_regularised": Loss(kl_regularised, frozenset({"negatives"})),
    "cancel_top_k": Loss(cancel_top_k, frozenset({"similarity"})),
    "cancel_threshold": Loss(cancel_threshold, frozenset({"similarity"})),
    "hard_negative": Loss(hard_negative, frozenset({"temperature"})),
    "debiased": Loss(debiased, frozenset({"temperature"})),
    "subsampled_infonce": Loss(subsampled_infonce, frozenset({"generator"})),
    "positive_equal": Loss(positive_equal, frozenset({"positives"})),
}
"""Every loss by its name in a study file: `function(scores, **needs, **settings, hidden=None) -> scalar`."""


def _visible(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Scores in float32 or better, what is hidden set so low that it counts for nothing."""
    _codes(scores)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return wide if hidden is None else wide.masked_fill(hidden, _GONE)


def _without_diagonal(matrix: Tensor) -> Tensor:
    own = torch.eye(*matrix.shape, dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(own, 2 * _GONE)  # below what is hidden, so that a top-k never takes it


def _targets(negatives: Tensor, hidden: Tensor | None) -> Tensor:
    """p without gradient, spread over the visible negatives, and 1 on the diagonal."""
    p = negatives.detach()
    if hidden is not None:
        p = p.masked_fill(hidden, 0.0)
        p = p / p.sum(dim=1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
    return p.clone().fill_diagonal_(1.0)


def _cross_entropy(logits: Tensor) -> Tensor:
    """Mean cross entropy of the diagonal of (B, N) logits."""
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _codes(matrix: Tensor) -> int:
    """N of a (B, N) matrix."""
    if matrix.ndim != 2 or not 1 <= matrix.shape[0] <= matrix.shape[1]:
        raise ValueError(f"expected a (B, N) matrix with 1 <= B <= N, got shape {tuple(matrix.shape)}")
    if matrix.shape[1] < 2:
        raise ValueError("expected at least 2 codes in a batch, got 1: a single pair has no negatives")
    return matrix.shape[1]


def _same_shape(scores: Tensor, other: Tensor, name: str) -> None:
    if other.shape != scores.shape:
        raise ValueError(f"expected {name} of shape {tuple(scores.shape)}, got {tuple(other.shape)}")
