"""The loss of a batch: the configured function of its scores, of what the estimator says and of its duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softnce_ray.config import SoftInfoNCE, TrialConfig
from softnce_ray.diagnostics import batch_diagnostics
from softnce_ray.estimators import Estimator, negative_distribution
from softnce_ray.losses import LOSSES, Loss, soft_weights
from softnce_ray.training_data import TrainingData

_LEAST = -1e30
"""Similarity of a pair that does not count: finite, for a row of such pairs alone must not become NaN."""

_AHEAD = 16
"""Batches whose similarity is computed in one go."""


@dataclass(frozen=True)
class Batch:
    """Rows of the training split, and their (B, B) similarity where the arm has an estimator."""

    rows: np.ndarray
    similarity: np.ndarray | None = None


def estimated(batches: Iterator[np.ndarray], estimator: Estimator | None) -> Iterator[Batch]:
    """The batches of rows, each with its similarity.

    Computed for several batches in a row: right after a training step, which goes through the whole encoder, neither
    code nor data of the estimator is in the processor's caches, and the same work takes several times as long.
    """
    while rows := list(islice(batches, 1 if estimator is None else _AHEAD)):
        similarities = [None if estimator is None else estimator.similarity(each) for each in rows]
        yield from map(Batch, rows, similarities)


def batch_loss(scores: Tensor, batch: Batch, config: TrialConfig, data: TrainingData) -> Tensor:
    """The configured loss of a batch's (B, B) scores."""
    entry = LOSSES[config.loss.name]
    inputs: dict[str, Any] = {}
    if "temperature" in entry.needs:
        inputs["temperature"] = config.resolved_temperature
    if batch.similarity is not None:
        inputs["similarity"] = torch.from_numpy(batch.similarity).to(scores.device)
    same = None
    if config.mask_duplicates or "positives" in entry.needs:
        same = torch.from_numpy(data.same(batch.rows)).to(scores.device)
    options = loss_options(config)
    loss = _directed(entry, scores, inputs, same, config, options)
    if not config.symmetric:
        return loss
    turned = {name: value.T if isinstance(value, Tensor) else value for name, value in inputs.items()}
    return (loss + _directed(entry, scores.T, turned, same, config, options)) / 2


def observe(scores: Tensor, batch: Batch, config: TrialConfig, data: TrainingData) -> dict[str, Tensor]:
    """Diagnostics of a batch's (B, B) scores, from query to code; see `batch_diagnostics`."""
    hidden = None
    if config.mask_duplicates:
        hidden = _hidden(torch.from_numpy(data.same(batch.rows)).to(scores.device))
    if batch.similarity is None or config.estimator is None:
        return batch_diagnostics(scores, hidden=hidden)
    similarity = torch.from_numpy(batch.similarity).to(scores.device)
    p = _negatives(similarity, hidden, config.estimator.temperature)
    if not isinstance(config.loss, SoftInfoNCE):
        return batch_diagnostics(scores, negatives=p, hidden=hidden)
    weights = soft_weights(p, **loss_options(config), hidden=hidden)
    return batch_diagnostics(scores, negatives=p, weights=weights, floor=config.loss.floor, hidden=hidden)


def loss_options(config: TrialConfig) -> dict[str, Any]:
    """Keyword arguments of the loss: its settings, those left open filled in."""
    options = config.loss.model_dump(exclude={"name"})
    if isinstance(config.loss, SoftInfoNCE):
        options["beta"] = config.loss.resolved_beta
    return options


def _directed(
    entry: Loss,
    scores: Tensor,
    inputs: dict[str, Any],
    same: Tensor | None,
    config: TrialConfig,
    options: dict[str, Any],
) -> Tensor:
    """A loss in one direction: `inputs` and `same` (B, B) as the rows of `scores` see them."""
    given: dict[str, Any] = {name: value for name, value in inputs.items() if name in entry.needs}
    if "positives" in entry.needs:
        given["positives"] = same
    if config.mask_duplicates and same is not None:
        given["hidden"] = _hidden(same)
    if "negatives" in entry.needs and config.estimator is not None:
        given["negatives"] = _negatives(inputs["similarity"], given.get("hidden"), config.estimator.temperature)
    return entry.function(scores, **given, **options)


def _hidden(same: Tensor) -> Tensor:
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _negatives(similarity: Tensor, hidden: Tensor | None, temperature: float) -> Tensor:
    if hidden is not None:  # before the softmax, which a duplicate would take whole
        similarity = similarity.masked_fill(hidden, _LEAST)
    return negative_distribution(similarity, temperature=temperature)
