"""One training run, from top to bottom. Plain Python: knows no scheduler and no tracking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from softnce_ray.checkpoint import Checkpoint, Progress, optimiser_state, restore_optimiser
from softnce_ray.config import SoftInfoNCE, TrialConfig
from softnce_ray.corpus.tokens import Ragged, concatenate
from softnce_ray.encoders import DualEncoder, build_encoder
from softnce_ray.errors import UserError
from softnce_ray.estimators import Estimator, negative_distribution
from softnce_ray.evaluation import metrics, ranks, reciprocal
from softnce_ray.losses import LOSSES, Loss
from softnce_ray.model import Model, encode
from softnce_ray.optimisers import build_optimisers, clip_gradients, learning_rate

Report = Callable[[dict[str, float], Checkpoint], None]
"""Called after each epoch with its metrics and a checkpoint; may raise to stop the run. The checkpoint's tensors
are the run's own, which go on changing: save or copy them before returning."""


_LEAST = -1e30
"""Similarity of a pair that does not count: finite, for a row of such pairs alone must not become NaN."""


class TrainingError(UserError, RuntimeError):
    """A run that cannot go on: too little data, or a loss that is no number."""


@dataclass(frozen=True)
class PairTexts:
    """Queries and codes of a split: row i of both is pair i."""

    queries: Ragged
    codes: Ragged


@dataclass(frozen=True)
class TrainingData:
    """What a run reads. The codebase of every evaluation is valid + test codes + distractors.

    `groups` is (2, n): equal numbers in row 0 mean equal normalised queries of training pairs, in row 1 codes.
    """

    train: PairTexts
    valid: PairTexts
    test: PairTexts
    distractors: Ragged
    tokenizer: Tokenizer
    groups: np.ndarray
    estimator: Estimator | None = None

    def same(self, rows: np.ndarray) -> np.ndarray:
        """(B, B) bool: which training pairs share their normalised query or code; True on the diagonal."""
        groups = self.groups[:, rows]
        return (groups[:, :, None] == groups[:, None, :]).any(axis=0)

    @property
    def codebase(self) -> list[Ragged]:
        """All codes that a query is ranked against, in three parts."""
        return [self.valid.codes, self.test.codes, self.distractors]


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: `reciprocal_ranks` has (Q,) arrays for `valid` and, where it was read, `test`."""

    model: Model
    metrics: dict[str, float]
    reciprocal_ranks: dict[str, np.ndarray]


def train(
    config: TrialConfig,
    data: TrainingData,
    report: Report = lambda metrics, checkpoint: None,
    *,
    identity: str = "",
    device: str = "cpu",
    resume: Checkpoint | None = None,
    read_test: bool = False,
) -> TrainResult:
    """Train one encoder and keep the weights of its best epoch by validation MRR.

    The same configuration and data give the same numbers on the same machine and number of threads, whether
    or not the run was interrupted after an epoch and resumed: every random choice of an epoch comes from
    (seed, epoch).

    Args:
      config: all settings of the run.
      data: token ids; `estimator` where the loss weighs negatives.
      report: called after each epoch.
      identity: written into checkpoints; a checkpoint of another identity is refused.
      device: a torch device.
      resume: go on after this checkpoint.
      read_test: evaluate the best weights on the test split at the end. Leave it off while anything is
        still being chosen.

    Raises:
      TrainingError: fewer pairs than a batch, nothing to evaluate on, a loss that is not finite, or a foreign
        checkpoint.
      DivergedError: the encoder's vectors are not finite after an epoch.
      ValueError: the loss refuses its settings.
    """
    settings = config.training
    batches = len(data.train.queries) // settings.batch_size
    if batches < 1:
        raise TrainingError(
            f"expected at least batch_size {settings.batch_size} training pairs, got "
            f"{len(data.train.queries)}: lower training.batch_size or use a larger corpus"
        )
    if resume is not None and resume.progress.identity != identity:
        raise TrainingError(f"expected a checkpoint of trial {identity}, got one of {resume.progress.identity}")
    splits = ("valid", "test") if read_test else ("valid",)
    for split in splits:
        if not len(_pairs(data, split).queries):
            raise TrainingError(f"expected {split} pairs to evaluate on, got none: build a corpus with a {split} split")

    torch.manual_seed(config.seed)
    encoder = build_encoder(config, data.tokenizer.get_vocab_size()).to(device)
    optimisers = build_optimisers(encoder, settings)
    progress = Progress(identity, epoch=0, best_epoch=0, best_valid_mrr=-math.inf)
    best: dict[str, Tensor] = {}
    if resume is not None:
        progress, best = resume.progress, resume.best
        encoder.load_state_dict(resume.encoder)
        for optimiser, state in zip(optimisers, resume.optimisers, strict=True):
            restore_optimiser(optimiser, state)

    for epoch in range(progress.epoch + 1, settings.epochs + 1):
        torch.manual_seed(hash_seed(config.seed, epoch))  # dropout
        started = time.perf_counter()
        total = torch.zeros((), device=device)
        encoder.train()
        for number, rows in enumerate(epoch_batches(len(data.train.queries), settings.batch_size, config.seed, epoch)):
            rate = learning_rate((epoch - 1) * batches + number, settings.epochs * batches, settings)
            total += _step(encoder, optimisers, rate, rows, config, data, device)
        loss = float(total) / batches
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of epoch {epoch} is {loss}: lower training.learning_rate "
                f"({settings.learning_rate:g}) or raise temperature ({config.resolved_temperature:g})"
            )
        seconds = time.perf_counter() - started

        valid = _evaluate(encoder, data, "valid")
        improved = float(np.mean(1 / valid)) > progress.best_valid_mrr
        if improved:
            best = {name: tensor.detach().cpu().clone() for name, tensor in encoder.state_dict().items()}
        progress = Progress(
            identity,
            epoch,
            epoch if improved else progress.best_epoch,
            float(np.mean(1 / valid)) if improved else progress.best_valid_mrr,
        )
        report(
            {
                "epoch": epoch,
                "train_loss": loss,
                "train_seconds": seconds,
                "pairs_per_second": batches * settings.batch_size / seconds,
                **{f"valid_{name}": value for name, value in metrics(valid).items()},
                "best_valid_mrr": progress.best_valid_mrr,
                "best_epoch": progress.best_epoch,
            },
            Checkpoint(
                progress, dict(encoder.state_dict()), best, [optimiser_state(optimiser) for optimiser in optimisers]
            ),
        )

    encoder.load_state_dict(best)
    result = {"epoch": settings.epochs, "best_epoch": progress.best_epoch, "best_valid_mrr": progress.best_valid_mrr}
    reciprocal_ranks = {}
    for split in splits:
        rank = _evaluate(encoder, data, split)
        reciprocal_ranks[split] = reciprocal(rank)
        result |= {f"{split}_{name}": value for name, value in metrics(rank).items()}
        result[f"{split}_codebase"] = sum(map(len, data.codebase))
    return TrainResult(Model(encoder.cpu().eval(), data.tokenizer, config), result, reciprocal_ranks)


def _step(
    encoder: DualEncoder,
    optimisers: list[torch.optim.Optimizer],
    rate: float,
    rows: np.ndarray,
    config: TrialConfig,
    data: TrainingData,
    device: str,
) -> Tensor:
    """One update on the pairs `rows`; returns their loss."""
    texts = concatenate([data.train.queries.take(rows), data.train.codes.take(rows)])
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.training.precision == "bf16"):
        vectors = encoder(_to(texts.ids, device), _to(texts.offsets, device))
    scores = vectors[: len(rows)] @ vectors[len(rows) :].T / config.resolved_temperature
    loss = batch_loss(scores, rows, config, data)
    loss.backward()
    clip_gradients(encoder.parameters(), config.training.max_gradient_norm)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def batch_loss(scores: Tensor, rows: np.ndarray, config: TrialConfig, data: TrainingData) -> Tensor:
    """The configured loss of a batch's (B, B) scores; `rows` are its pairs' places in the training split."""
    entry = LOSSES[config.loss.name]
    inputs: dict[str, Any] = {}
    if "temperature" in entry.needs:
        inputs["temperature"] = config.resolved_temperature
    if config.estimator is not None and data.estimator is not None:
        inputs["similarity"] = torch.from_numpy(data.estimator.similarity(rows)).to(scores.device)
    same = None
    if config.mask_duplicates or "positives" in entry.needs:
        same = torch.from_numpy(data.same(rows)).to(scores.device)
    options = loss_options(config)
    loss = _directed(entry, scores, inputs, same, config, options)
    if not config.symmetric:
        return loss
    turned = {name: value.T if isinstance(value, Tensor) else value for name, value in inputs.items()}
    return (loss + _directed(entry, scores.T, turned, same, config, options)) / 2


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
        given["hidden"] = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    if "negatives" in entry.needs and config.estimator is not None:
        similarity = inputs["similarity"]
        if "hidden" in given:  # before the softmax, which a duplicate would take whole
            similarity = similarity.masked_fill(given["hidden"], _LEAST)
        given["negatives"] = negative_distribution(similarity, temperature=config.estimator.temperature)
    return entry.function(scores, **given, **options)


def loss_options(config: TrialConfig) -> dict[str, Any]:
    """Keyword arguments of the loss: its settings, those left open filled in."""
    options = config.loss.model_dump(exclude={"name"})
    if isinstance(config.loss, SoftInfoNCE):
        options["beta"] = config.loss.resolved_beta
    return options


def epoch_batches(pairs: int, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Rows of each batch of an epoch: a random order of all pairs, a last short batch left out."""
    order = np.random.default_rng([seed, epoch]).permutation(pairs)
    for start in range(0, pairs - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def hash_seed(seed: int, epoch: int) -> int:
    """A seed for torch of its own for each epoch of a run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _evaluate(encoder: DualEncoder, data: TrainingData, split: str) -> np.ndarray:
    """(Q,) ranks of a split's queries among the whole codebase."""
    codes = encode(encoder, concatenate(data.codebase))
    queries = encode(encoder, _pairs(data, split).queries)
    first = 0 if split == "valid" else len(data.valid.codes)
    return ranks(queries, codes, torch.arange(first, first + len(queries), device=codes.device))


def _pairs(data: TrainingData, split: str) -> PairTexts:
    return data.valid if split == "valid" else data.test


def _to(array: np.ndarray, device: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor
