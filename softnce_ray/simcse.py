"""Training of a sentence encoder without labels: a query against itself under two dropout masks.

Source: Gao, Yao, Chen, SimCSE: Simple Contrastive Learning of Sentence Embeddings, EMNLP 2021 (arXiv 2104.08821).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import random_batches
from softnce_ray.config import ArmConfig, SimCSEEstimator
from softnce_ray.corpus.ragged import Ragged
from softnce_ray.encoders import Bag, DualEncoder, build_encoder, tensors_of
from softnce_ray.losses import infonce
from softnce_ray.optimisers import build_optimisers, clip_gradients, learning_rate
from softnce_ray.training import TrainingError, hash_seed


@freed_memory_kept()
def train_sentence_encoder(
    settings: SimCSEEstimator, arm: ArmConfig, queries: Ragged, vocabulary: int, *, device: str = "cpu"
) -> DualEncoder:
    """An encoder of the arm's kind whose cosine says how alike two queries are.

    A transformer's masks are its own dropout; a bag, which has none, drops a share of the tokens.

    Args:
      queries: token ids of all training queries.
      vocabulary: number of token ids of their tokenizer.
      device: a torch device.

    Raises:
      TrainingError: fewer queries than a batch, or a loss that is not finite.
    """
    batches = len(queries) // settings.batch_size
    if batches < 1:
        raise TrainingError(
            f"estimator simcse: expected at least batch_size {settings.batch_size} training queries, got {len(queries)}"
        )
    torch.manual_seed(settings.seed)
    encoder = build_encoder(arm.model_copy(update={"similarity": "cosine"}), vocabulary).to(device).train()
    optimisation = arm.training.model_copy(
        update={"learning_rate": settings.learning_rate, "epochs": settings.epochs, "batch_size": settings.batch_size}
    )
    optimisers = build_optimisers(encoder, optimisation)
    step, total = 0, settings.epochs * batches
    for epoch in range(1, settings.epochs + 1):
        torch.manual_seed(hash_seed(settings.seed, epoch))
        chance = np.random.default_rng([settings.seed, epoch, 1])
        summed = 0.0
        for rows in random_batches(len(queries), settings.batch_size, settings.seed, epoch):
            texts = queries.take(rows)
            bag = isinstance(encoder.tower, Bag)
            views = [_masked(texts, settings.dropout, chance) if bag else texts for _ in range(2)]
            first, second = (encoder(*tensors_of(view, device)) for view in views)
            loss = infonce(first @ second.T / settings.score_temperature)
            loss.backward()
            clip_gradients(encoder.parameters(), optimisation.max_gradient_norm)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, total, optimisation)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            step += 1
            summed += float(loss.detach())
        if not math.isfinite(summed):
            raise TrainingError("estimator simcse: the loss is not finite; lower estimator.learning_rate")
    return encoder.eval()


def _masked(texts: Ragged, share: float, chance: np.random.Generator) -> Ragged:
    """The texts with each token dropped at random; a text keeps its first token if it would lose all."""
    keep = chance.random(len(texts.ids)) >= share
    lengths = np.diff(texts.offsets)
    kept = np.add.reduceat(np.append(keep, False), texts.offsets[:-1]) * (lengths > 0) if len(lengths) else lengths
    keep[texts.offsets[:-1][(kept == 0) & (lengths > 0)]] = True
    owner = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=len(lengths)))])
    return Ragged(texts.ids[keep], offsets)
