"""Training of a sentence encoder without labels: a query against itself under two dropout masks.

Source: Gao, Yao, Chen, SimCSE: Simple Contrastive Learning of Sentence Embeddings, EMNLP 2021 (arXiv 2104.08821).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import random_batches
from softnce_ray.checkpoint import Checkpoint, Progress, optimiser_state, restore_optimiser
from softnce_ray.config import ArmConfig, SimCSEEstimator
from softnce_ray.corpus.ragged import Ragged
from softnce_ray.encoders import (
    Bag,
    DualEncoder,
    build_encoder,
    frozen_digest,
    load_trained,
    recompute,
    tensors_of,
    trained_state,
)
from softnce_ray.gradients import backward
from softnce_ray.losses import infonce
from softnce_ray.optimisers import build_optimisers, clip_gradients, learning_rate
from softnce_ray.training import Report, TrainingError, hash_seed, validate
from softnce_ray.training_data import TrainingData


@freed_memory_kept()
def train_sentence_encoder(
    settings: SimCSEEstimator,
    arm: ArmConfig,
    queries: Ragged,
    vocabulary: int,
    data: TrainingData,
    report: Report = lambda metrics, checkpoint: None,
    *,
    identity: str = "",
    device: str = "cpu",
    resume: Checkpoint | None = None,
    chunk_size: int | None = None,
    gradient_checkpointing: bool = False,
) -> tuple[DualEncoder, dict[str, float]]:
    """An encoder of the arm's kind whose cosine says how alike two queries are, with the weights of its last epoch, and
    the metrics of that epoch.

    A transformer's masks are its own dropout; a bag, which has none, drops a share of the tokens. The same settings and
    queries give the same weights, whether or not the training was interrupted after an epoch and resumed.

    Args:
      queries: token ids of all training queries.
      vocabulary: number of token ids of their tokenizer.
      data: it is validated on these after each epoch. It has seen no code: its validation MRR is that of a search
        for codes that nobody has trained, and shows whether training has ruined an encoder that could search before.
      report, identity, resume, gradient_checkpointing: see `training.train`.
      device: a torch device.
      chunk_size: queries whose two views are encoded with gradient at one time; None: a batch.

    Raises:
      TrainingError: fewer queries than a batch, or a loss that is not finite.
      DivergedError: vectors that are not finite.
    """
    batches = len(queries) // settings.batch_size
    if batches < 1:
        raise TrainingError(
            f"expected at least batch_size {settings.batch_size} training queries, got {len(queries)}: lower batch_size"
        )
    torch.manual_seed(settings.seed)
    encoder = build_encoder(arm.model_copy(update={"similarity": "cosine"}), vocabulary).to(device).train()
    if gradient_checkpointing:
        recompute(encoder)
    optimisation = arm.training.model_copy(
        update={"learning_rate": settings.learning_rate, "epochs": settings.epochs, "batch_size": settings.batch_size}
    )
    optimisers = build_optimisers(encoder, optimisation)
    frozen = frozen_digest(encoder)
    done, history = 0, []
    if resume is not None:
        done, history = resume.progress.epoch, list(resume.history)
        load_trained(encoder, resume.encoder)
        for optimiser, state in zip(optimisers, resume.optimisers, strict=True):
            restore_optimiser(optimiser, state)
    step, total = done * batches, settings.epochs * batches
    for epoch in range(done + 1, settings.epochs + 1):
        torch.manual_seed(hash_seed(settings.seed, epoch))
        chance = np.random.default_rng([settings.seed, epoch, 1])
        summed = 0.0
        for rows in random_batches(len(queries), settings.batch_size, settings.seed, epoch):
            texts = queries.take(rows)
            bag = isinstance(encoder.tower, Bag)
            views = [_masked(texts, settings.dropout, chance) if bag else texts for _ in range(2)]
            loss = _backward(encoder, views, settings.score_temperature, chunk_size, device)
            clip_gradients(encoder.parameters(), optimisation.max_gradient_norm)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, total, optimisation)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            step += 1
            summed += float(loss)
        if not math.isfinite(summed):
            raise TrainingError(
                f"the loss of epoch {epoch} is {summed / batches}: lower learning_rate ({settings.learning_rate:g}) or "
                f"raise score_temperature ({settings.score_temperature:g})"
            )
        history.append({"epoch": epoch, "train_loss": summed / batches, **validate(encoder, data)})
        weights = trained_state(encoder)
        states = [optimiser_state(optimiser) for optimiser in optimisers]
        progress = Progress(identity, epoch, epoch, history[-1]["valid_mrr"])
        report(history[-1], Checkpoint(progress, weights, weights, states, list(history), frozen))
    return encoder.eval(), history[-1]


def _backward(
    encoder: DualEncoder, views: Sequence[Ragged], temperature: float, chunk_size: int | None, device: str
) -> Tensor:
    """Add the gradients of the loss of two views of the same queries, and return the loss."""
    count = len(views[0])

    def encode_part(numbers: np.ndarray) -> Tensor:
        parts = (numbers[numbers < count], numbers[numbers >= count] - count)
        texts = (view if len(part) == count else view.take(part) for view, part in zip(views, parts, strict=True))
        return torch.cat([encoder(*tensors_of(each, device)) for each in texts])

    def loss_of(vectors: Tensor) -> tuple[Tensor, Tensor]:
        loss = infonce(vectors[:count] @ vectors[count:].T / temperature)
        return loss, loss.detach()

    return backward(encode_part, count, count, loss_of, chunk_size=chunk_size)


def _masked(texts: Ragged, share: float, chance: np.random.Generator) -> Ragged:
    """The texts with each token dropped at random; a text keeps its first token if it would lose all."""
    keep = chance.random(len(texts.ids)) >= share
    lengths = np.diff(texts.offsets)
    kept = np.add.reduceat(np.append(keep, False), texts.offsets[:-1]) * (lengths > 0) if len(lengths) else lengths
    keep[texts.offsets[:-1][(kept == 0) & (lengths > 0)]] = True
    owner = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=len(lengths)))])
    return Ragged(texts.ids[keep], offsets)
