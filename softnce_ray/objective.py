"""The loss of a batch: the configured function of its scores, of what the estimator says and of its duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softnce_ray.config import SoftInfoNCE, TrialConfig
from softnce_ray.diagnostics import batch_diagnostics, batch_distributions
from softnce_ray.distributions import Distributions
from softnce_ray.estimators import negative_distribution
from softnce_ray.losses import LOSSES, soft_weights
from softnce_ray.training_data import TrainingData

_LEAST = -1e30
"""Similarity of a pair that does not count: finite, for a row of such pairs alone must not become NaN."""

_AHEAD = 16
"""Batches that are prepared in one go."""

_DRAWS = 1
"""Tells the seeds of what losses draw from those of dropout, which also come from the trial's seed and epoch."""


@dataclass(frozen=True)
class Batch:
    """Rows of the training split, and what is known of them before any score, as far as the arm asks for it.

    `columns` are the C pairs whose codes the B queries of `rows` are compared with: `rows` first, then hard negatives.
    All (B, C), row i as query i sees the others: `similarity`; `negatives`, the estimator's p; `same`, which pairs
    share their normalised query or code, True on the diagonal. `turned`, (B, B), is p as code i sees the queries.
    `epoch` and `step`, the number of the batch within it, decide what a loss draws.
    """

    rows: np.ndarray
    columns: np.ndarray
    similarity: Tensor | None = None
    negatives: Tensor | None = None
    turned: Tensor | None = None
    same: Tensor | None = None
    epoch: int = field(default=0, kw_only=True)
    step: int = field(default=0, kw_only=True)


def prepared(
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    config: TrialConfig,
    data: TrainingData,
    device: str = "cpu",
    *,
    epoch: int = 0,
) -> Iterator[Batch]:
    """Each batch of an epoch, its rows and its columns, with what the arm's loss needs to know of it.

    Several batches are prepared in a row: right after a training step, which goes through the whole encoder, neither
    code nor data of the estimator is in the processor's caches, and the same work takes several times as long.
    """
    needs = LOSSES[config.loss.name].needs
    compares = config.mask_duplicates or "positives" in needs
    steps = count()
    while several := list(islice(batches, _AHEAD)):
        alike = len({(len(rows), len(columns)) for rows, columns in several}) == 1
        for together in [several] if alike else [[each] for each in several]:
            same = None
            if compares:
                same = torch.from_numpy(np.stack([data.same(*each) for each in together])).to(device)
            similarity = negatives = turned = None
            if config.estimator is not None and data.estimator is not None:
                stacked = np.stack([data.estimator.similarity(*each) for each in together])
                counted = similarity = torch.from_numpy(stacked).to(device)
                if config.mask_duplicates and same is not None:  # before the softmax, which a duplicate would take
                    counted = similarity.masked_fill(_hidden(same), _LEAST)
                negatives = negative_distribution(counted, temperature=config.estimator.temperature)
                if config.symmetric:
                    turned = negative_distribution(_square(counted).mT, temperature=config.estimator.temperature)
            for number, (rows, columns) in enumerate(together):
                known = (None if all_ is None else all_[number] for all_ in (similarity, negatives, turned, same))
                yield Batch(rows, columns, *known, epoch=epoch, step=next(steps))


def batch_loss(scores: Tensor, batch: Batch, config: TrialConfig) -> Tensor:
    """The configured loss of a batch's (B, C) scores. From code to query the hard negatives, whose queries are not in
    the batch, ask nothing."""
    generator = _generator(batch, config) if "generator" in LOSSES[config.loss.name].needs else None
    there = _directed(scores, batch.similarity, batch.negatives, batch.same, generator, config)
    if not config.symmetric:
        return there
    similarity, same = (None if each is None else _square(each).T for each in (batch.similarity, batch.same))
    return (there + _directed(_square(scores).T, similarity, batch.turned, same, generator, config)) / 2


def observe(scores: Tensor, batch: Batch, config: TrialConfig) -> dict[str, Tensor]:
    """Diagnostics of a batch's (B, C) scores, from query to code; see `batch_diagnostics`."""
    hidden = _hidden_of(batch, config)
    p = batch.negatives
    if p is None or not isinstance(config.loss, SoftInfoNCE):
        return batch_diagnostics(scores, negatives=p, hidden=hidden)
    weights = soft_weights(p, **loss_options(config), hidden=hidden)
    return batch_diagnostics(scores, negatives=p, weights=weights, floor=config.loss.floor, hidden=hidden)


def distribute(queries: Tensor, codes: Tensor, batch: Batch, config: TrialConfig) -> Distributions:
    """Distributions of a batch's scores, from query to code, and of its p; see `batch_distributions`."""
    return batch_distributions(queries, codes, negatives=batch.negatives, hidden=_hidden_of(batch, config))


def loss_options(config: TrialConfig) -> dict[str, Any]:
    """Keyword arguments of the loss: its settings, those left open filled in."""
    options = config.loss.model_dump(exclude={"name"})
    if isinstance(config.loss, SoftInfoNCE):
        options["beta"] = config.loss.resolved_beta
    return options


def _generator(batch: Batch, config: TrialConfig) -> torch.Generator:
    """Draws of a batch's loss. Torch's own generator also serves dropout: what it draws next depends on the worker, on
    how many there are, and on the size of chunks."""
    seed = np.random.SeedSequence([config.seed, batch.epoch, batch.step], spawn_key=(_DRAWS,))
    return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))


def _directed(
    scores: Tensor,
    similarity: Tensor | None,
    negatives: Tensor | None,
    same: Tensor | None,
    generator: torch.Generator | None,
    config: TrialConfig,
) -> Tensor:
    """The loss in one direction: all (B, C) as the rows of `scores` see them."""
    entry = LOSSES[config.loss.name]
    known = {
        "similarity": similarity,
        "negatives": negatives,
        "positives": same,
        "temperature": config.resolved_temperature,
        "generator": generator,
    }
    given: dict[str, Any] = {name: known[name] for name in entry.needs}
    if config.mask_duplicates and same is not None:
        given["hidden"] = _hidden(same)
    return entry.function(scores, **given, **loss_options(config))


def _hidden_of(batch: Batch, config: TrialConfig) -> Tensor | None:
    return _hidden(batch.same) if config.mask_duplicates and batch.same is not None else None


def _hidden(same: Tensor) -> Tensor:
    return same & ~torch.eye(*same.shape[-2:], dtype=torch.bool, device=same.device)


def _square(matrix: Tensor) -> Tensor:
    """(…, B, B): without the columns of hard negatives."""
    return matrix[..., : matrix.shape[-2]]
