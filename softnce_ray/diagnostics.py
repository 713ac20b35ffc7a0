"""How an encoder's space and a loss' weights look: a few numbers an epoch that no training step waits for, and
histograms at the end."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from softnce_ray.distributions import RELATIVE_EDGES, SCORE_EDGES, Distributions, Histogram

SAMPLE = 512
"""Vectors of which the space is judged: 130,000 pairs of them."""

_GONE = -1e30


def space_diagnostics(queries: Tensor, codes: Tensor) -> dict[str, float]:
    """Alignment of queries with their codes, and uniformity of each, on vectors scaled to length one.

    `alignment` is the mean of `|q_i - c_i|^2`, from 0 (equal) over 2 (unrelated) to 4; `uniformity_queries` and
    `uniformity_codes` are `log mean_{i≠j} exp(-2 |x_i - x_j|^2)`, from -8 to 0 (all vectors equal); the lower, the more
    evenly they spread. Of at most `SAMPLE` evenly spaced pairs.

    Args:
      queries, codes: (Q, D); row i of both is pair i.

    Returns:
      Nothing for fewer than two pairs.

    Source: Wang, Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere, ICML 2020.
    """
    if len(queries) < 2:
        return {}
    chosen = torch.linspace(0, len(queries) - 1, min(SAMPLE, len(queries)), device=queries.device).long()
    q, c = (F.normalize(side[chosen].float(), dim=1) for side in (queries, codes))
    return {
        "alignment": float((q - c).square().sum(dim=1).mean()),
        "uniformity_queries": _uniformity(q),
        "uniformity_codes": _uniformity(c),
    }


def _uniformity(vectors: Tensor) -> float:
    return float(torch.pdist(vectors).square().mul(-2).logsumexp(dim=0)) - math.log(
        len(vectors) * (len(vectors) - 1) / 2
    )


def batch_diagnostics(
    scores: Tensor,
    *,
    negatives: Tensor | None = None,
    weights: Tensor | None = None,
    floor: float | None = None,
    hidden: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a batch's scores say of the information they carry and of the estimator beside them.

    `information` is the mean of `log N - loss` in nats, the bound of InfoNCE on the mutual information of queries and
    codes: at most log N, whatever that is. The loss is InfoNCE's, with `weights` Soft-InfoNCE's, the bound's
    importance-weighted form. With `negatives` (p): `kl_negatives`, the mean divergence of p from the softmax of the
    negatives' scores, and `weight_entropy`, the mean entropy of p, both in nats (log(N - 1): uniform). With `weights`:
    `floor_share`, the share of negatives whose weight is `floor`.

    Args:
      scores: (B, N) with N >= B, the right code on the diagonal.
      negatives: (B, N) p, rows sum to one, zero diagonal.
      weights: (B, N) as of `soft_weights`.
      floor: least weight.
      hidden: (B, N) bool, negatives that do not count.

    Source: van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding, 2018; Li et al.,
    EMNLP 2023, section 3.
    """
    scores = scores.detach().float()
    own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    away = own if hidden is None else own | hidden
    visible = (~away).sum(dim=1)
    gone = scores.masked_fill(away & ~own, _GONE)
    weighed = gone if weights is None else gone + weights.log()
    found = {"information": ((visible + 1).log() - weighed.logsumexp(dim=1) + scores.diagonal()).mean()}
    if negatives is not None:
        log_p = negatives.clamp_min(torch.finfo(torch.float32).tiny).log()
        log_q = scores.masked_fill(away, _GONE).log_softmax(dim=1)
        counted = negatives * (visible > 0)[:, None]
        found["weight_entropy"] = -(counted * log_p).sum(dim=1).mean()
        found["kl_negatives"] = (counted * (log_p - log_q)).masked_fill(away, 0.0).sum(dim=1).mean()
    if weights is not None and floor is not None:
        found["floor_share"] = ((weights <= floor) & ~away).sum() / visible.sum().clamp_min(1)
    return found


def batch_distributions(
    queries: Tensor, codes: Tensor, *, negatives: Tensor | None = None, hidden: Tensor | None = None
) -> Distributions:
    """How the scores of a batch and what its estimator says of them are distributed.

    Scores are cosines, also where a loss takes raw dot products: so they have one axis whatever the arm. Of the
    estimator it is p · (N - 1), p relative to uniform, not a loss' weight: every arm with an estimator has it, a floor
    does not cut it off, and Soft-InfoNCE's weight is linear in it.

    Args:
      queries: (B, D).
      codes: (N, D) with N >= B; row i of both is pair i.
      negatives: (B, N) p, rows sum to one, zero diagonal.
      hidden: (B, N) bool, negatives that do not count; N - 1 is then the number of those of a row that do.
    """
    cosines = F.normalize(queries.float(), dim=1) @ F.normalize(codes.float(), dim=1).T
    own = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    visible = ~own if hidden is None else ~(own | hidden)
    relative = None
    if negatives is not None:
        against_uniform = negatives.float() * visible.sum(dim=1, keepdim=True)
        tiny = torch.finfo(torch.float32).tiny
        relative = Histogram.of(against_uniform[visible].clamp_min(tiny).log10().cpu().numpy(), RELATIVE_EDGES)
    return Distributions(
        cosines.shape[1],
        1,
        Histogram.of(cosines[visible].cpu().numpy(), SCORE_EDGES),
        Histogram.of(cosines.diagonal().cpu().numpy(), SCORE_EDGES),
        relative,
    )
