"""One training run, from top to bottom. Plain Python: knows no scheduler and no tracking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import batch_count, epoch_batches
from softnce_ray.checkpoint import Checkpoint, CheckpointError, Progress, optimiser_state, restore_optimiser
from softnce_ray.config import TrialConfig
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.diagnostics import space_diagnostics
from softnce_ray.distributions import Distributions, together
from softnce_ray.encoders import (
    DualEncoder,
    build_encoder,
    frozen_digest,
    load_trained,
    merged,
    recompute,
    tensors_of,
    trained_state,
)
from softnce_ray.errors import UserError
from softnce_ray.evaluation import DivergedError, graded_ndcg, metrics, places, query_metrics, reciprocal
from softnce_ray.gradients import backward
from softnce_ray.hard_negatives import draw
from softnce_ray.model import Model, encode
from softnce_ray.objective import Batch, batch_loss, distribute, observe, prepared
from softnce_ray.optimisers import build_optimisers, clip_gradients, learning_rate
from softnce_ray.ranks_file import place
from softnce_ray.training_data import EvaluationData, TrainingData
from softnce_ray.workers import ALONE, Workers

Report = Callable[[dict[str, float], Checkpoint], None]
"""Called after each epoch with its metrics (`at`: when it was measured, in milliseconds since 1970) and a checkpoint;
may raise to stop the run. The checkpoint's tensors are the run's own, which go on changing: save or copy them before
returning."""

_OBSERVED = 16
_APART = 10
"""Diagnostics look at some 16 batches of an epoch, at most at every tenth: less than 2 % of the time of training."""

_COUNTED = 16
_STEPS_EACH = 50
"""Distributions are of 16 batches, in a short run of one for every 50 steps: without a gradient, which is two thirds of
a step, that is less than 1 % of the time of training."""


class TrainingError(UserError, RuntimeError):
    """A run that cannot begin: its settings ask for other data."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: `reciprocal_ranks` has (Q,) arrays for `valid` and, where it was read, `test`; so has
    `graded_ndcg` where the corpus knows which codes share a meaning, and each metric of `cut_off` where queries have
    several right codes, so that these do not follow from the reciprocal rank. A run that is tested on several languages
    has them for each, as `valid/ruby`, and beside each metric, then a mean over languages, those of each.
    `distributions` are those of the model on batches of its training pairs: the same batches whether or not the run was
    interrupted."""

    model: Model
    metrics: dict[str, float]
    reciprocal_ranks: dict[str, np.ndarray]
    graded_ndcg: dict[str, np.ndarray]
    distributions: Distributions
    cut_off: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


@freed_memory_kept()
def train(
    config: TrialConfig,
    data: TrainingData,
    report: Report = lambda metrics, checkpoint: None,
    *,
    identity: str = "",
    device: str = "cpu",
    resume: Checkpoint | None = None,
    read_test: bool = False,
    workers: Workers = ALONE,
    chunk_size: int | None = None,
    gradient_checkpointing: bool = False,
) -> TrainResult:
    """Train one encoder and keep the weights of its best epoch by validation MRR, with several languages by the mean of
    theirs. Each batch is drawn from the pairs of all training languages. With no epochs the encoder is evaluated as it
    is: what a published one can do before any training.

    The same configuration and data give the same numbers on the same machine and number of threads, whether
    or not the run was interrupted after an epoch and resumed: every random choice of an epoch comes from
    (seed, epoch), and what a loss draws from (seed, epoch, step). That is so on processors; on a GPU, where sums come
    in any order, only within `deterministic_algorithms`. Several workers train on the same batches as one, with the
    whole batch as negatives of each query, and differ from it by rounding and by what dropout drops; so do chunks of
    another size.

    Args:
      config: all settings of the run.
      data: token ids; `estimator` where the loss weighs negatives.
      report: called after each epoch.
      identity: written into checkpoints; a checkpoint of another identity is refused.
      device: a torch device.
      resume: go on after this checkpoint.
      read_test: evaluate the best weights on the test split at the end. Leave it off while anything is
        still being chosen.
      workers: the processes that train this model, all of which call this with the same arguments; only the first
        reports.
      chunk_size: pairs that each of them encodes with gradient at one time, see `gradients`; None: its share of a
        batch.
      gradient_checkpointing: compute the inside of each layer twice and keep it not, see `recompute`.

    Raises:
      TrainingError, CheckpointError: fewer pairs than make a batch or nothing to evaluate on; a foreign checkpoint.
      DivergedError: the loss of an epoch, or the encoder's vectors after it, are not finite.
      ValueError: the loss refuses its settings.
    """
    settings = config.training
    lengths = data.lengths
    counts = [batch_count(lengths, settings, config.seed, epoch) for epoch in range(settings.epochs + 1)]
    if not all(counts):
        raise TrainingError(
            f"expected at least batch_size {settings.batch_size} training pairs, got {len(lengths)}: lower "
            "training.batch_size or use a larger corpus"
            if settings.batch_tokens is None
            else f"expected training pairs for a batch of {settings.batch_tokens} tokens or {settings.batch_size} "
            f"pairs, got {len(lengths)} pairs: lower training.batch_tokens or use a larger corpus"
        )
    if config.smallest_batch < workers.count:
        raise TrainingError(
            f"expected at most as many workers as a batch has pairs, {config.smallest_batch}, got {workers.count}: "
            "lower resources.workers"
        )
    if resume is not None and resume.progress.identity != identity:
        raise CheckpointError(f"expected a checkpoint of trial {identity}, got one of {resume.progress.identity}")
    splits = ("valid", "test") if read_test else ("valid",)
    for split in splits:
        empty = [language for language, texts in data.evaluated.items() if not len(texts.split(split).queries)]
        if empty:
            raise TrainingError(
                f"expected {split} pairs to evaluate on, got none of {', '.join(empty)}: build a corpus with a "
                f"{split} split"
            )

    torch.manual_seed(config.seed)
    encoder = build_encoder(config, data.tokenizer.get_vocab_size()).to(device)
    if gradient_checkpointing:
        recompute(encoder)
    optimisers = build_optimisers(encoder, settings)
    frozen = frozen_digest(encoder)
    progress = Progress(identity, epoch=0, best_epoch=0, best_valid_mrr=-math.inf)
    best: dict[str, Tensor] = {}
    history: list[dict[str, float]] = []
    if resume is not None:
        if resume.frozen != frozen:
            raise CheckpointError(
                f"expected the frozen weights that trial {identity} began with, got others: put the model of "
                "encoder.model back as it was, or remove the trial's checkpoints and train it anew"
            )
        progress, best, history = resume.progress, resume.best, list(resume.history)
        load_trained(encoder, resume.encoder)
        for optimiser, state in zip(optimisers, resume.optimisers, strict=True):
            restore_optimiser(optimiser, state)
    trained = workers.together(encoder)

    for epoch in range(progress.epoch + 1 if settings.epochs else 0, settings.epochs + 1):
        told: dict[str, float] = {}
        if epoch:
            torch.manual_seed(hash_seed(config.seed, epoch, workers.rank))  # dropout
            encoder.train()
            steps = range(sum(counts[1:epoch]), sum(counts[1 : epoch + 1]))
            batches = prepared(_drawn(data, lengths, config, epoch), config, data, device, epoch=epoch)

            def update(number: int, batch: Batch, steps: range = steps) -> tuple[Tensor, Tensor]:
                rate = learning_rate(steps[number], sum(counts[1:]), settings)
                return _step(trained, optimisers, rate, batch, config, data, device, workers, chunk_size)

            told = _train_epoch(epoch, batches, counts[epoch], update, config)

        valid = _evaluate_all(encoder, data, "valid", workers)
        measured = _metrics(valid, "valid")
        mrr = measured["valid_mrr"]
        improved = mrr > progress.best_valid_mrr
        if improved:
            best = {name: tensor.detach().cpu().clone() for name, tensor in trained_state(encoder).items()}
        progress = Progress(
            identity,
            epoch,
            epoch if improved else progress.best_epoch,
            mrr if improved else progress.best_valid_mrr,
        )
        history.append(
            {
                "epoch": epoch,
                "at": round(time.time() * 1000),
                **told,
                **measured,
                **_mean([space_diagnostics(found.queries, found.codes) for found in valid.values()]),
                "best_valid_mrr": progress.best_valid_mrr,
                "best_epoch": progress.best_epoch,
            }
        )
        states = [optimiser_state(optimiser) for optimiser in optimisers]
        if workers.first:
            report(history[-1], Checkpoint(progress, trained_state(encoder), best, states, list(history), frozen))

    load_trained(encoder, best)
    workers.send(trained_state(encoder).values())  # another's best epoch may be another, by rounding
    encoder = merged(encoder)
    result = {"epoch": settings.epochs, "best_epoch": progress.best_epoch, "best_valid_mrr": progress.best_valid_mrr}
    reciprocal_ranks, graded = {}, {}
    cut_off: dict[str, dict[str, np.ndarray]] = {}
    for split in splits:
        found = _evaluate_all(encoder, data, split, workers)
        result |= _metrics(found, split)
        for language, texts in data.evaluated.items():
            several = language if len(found) > 1 else None
            reciprocal_ranks[place(split, several)] = reciprocal(found[language].ranks[:, 0])
            if found[language].ranks.shape[1] > 1:
                for name, each in query_metrics(found[language].ranks).items():
                    if name != "mrr":
                        cut_off.setdefault(name, {})[place(split, several)] = each
            if (values := found[language].graded) is not None:
                graded[place(split, several)] = values
            result[place(f"{split}_codebase", several)] = sum(map(len, texts.codebase))
    counted = _distributions(encoder, config, data, lengths, counts[0], device)
    model = Model(encoder.cpu().eval(), data.tokenizer, config)
    return TrainResult(model, result, reciprocal_ranks, graded, counted, cut_off)


def _train_epoch(
    epoch: int,
    batches: Iterator[Batch],
    count: int,
    update: Callable[[int, Batch], tuple[Tensor, Tensor]],
    config: TrialConfig,
) -> dict[str, float]:
    """Update on `count` batches; returns what is told of them. `update` takes a step's number and its batch, and
    returns their loss and scores."""
    started = time.perf_counter()
    losses: list[Tensor] = []
    observed: list[dict[str, Tensor]] = []
    seen = 0
    for number, batch in enumerate(batches):
        loss, scores = update(number, batch)
        losses.append(loss)
        seen += len(batch.rows)
        if number % max(_APART, count // _OBSERVED) == 0:
            observed.append(observe(scores, batch, config))
    mean_loss = float(sum(losses)) / count
    if not math.isfinite(mean_loss):
        raise DivergedError(
            f"the loss of epoch {epoch} is {mean_loss}: lower training.learning_rate "
            f"({config.training.learning_rate:g}) or raise temperature ({config.resolved_temperature:g})"
        )
    seconds = time.perf_counter() - started
    return {
        "train_loss": mean_loss,
        "train_seconds": seconds,
        "pairs_per_second": seen / seconds,
        **{name: float(torch.stack([each[name] for each in observed]).mean()) for name in observed[0]},
    }


def _step(
    encoder: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    rate: float,
    batch: Batch,
    config: TrialConfig,
    data: TrainingData,
    device: str,
    workers: Workers,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """One update on the pairs of a batch, of which this worker encodes its share; returns their loss and (B, C)
    scores."""
    all_queries, all_codes = len(batch.rows), len(batch.columns)
    rows, columns = batch.rows[workers.share(all_queries)], batch.columns[workers.share(all_codes)]
    texts = concatenate([data.train.queries.take(rows), data.train.codes.take(columns)])
    precision = config.training.precision

    def encode_part(numbers: np.ndarray) -> Tensor:
        part = texts if len(numbers) == len(texts) else texts.take(numbers)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            return encoder(*tensors_of(part, device))

    def loss_of(vectors: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        queries = workers.gather(vectors[: len(rows)], all_queries)
        codes = workers.gather(vectors[len(rows) :], all_codes)
        scores = queries @ codes.T / config.resolved_temperature
        loss = batch_loss(scores, batch, config)
        return workers.scaled(loss), (loss.detach(), scores.detach())

    loss, scores = backward(
        encode_part,
        len(rows),
        len(columns),
        loss_of,
        chunk_size=chunk_size,
        unsynced=lambda: workers.unsynced(encoder),
    )
    clip_gradients(encoder.parameters(), config.training.max_gradient_norm)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss, scores


def _distributions(
    encoder: DualEncoder, config: TrialConfig, data: TrainingData, lengths: np.ndarray, batches: int, device: str
) -> Distributions:
    """Distributions of an encoder on batches of its training pairs, in an order that no epoch has."""
    count = min(_COUNTED, max(1, config.training.epochs * batches // _STEPS_EACH))
    order = islice(_drawn(data, lengths, config, epoch=0), count)
    return together(
        distribute(
            encode(encoder, data.train.queries.take(batch.rows)),
            encode(encoder, data.train.codes.take(batch.columns)),
            batch,
            config,
        )
        for batch in prepared(order, config, data, device)
    )


def _drawn(
    data: TrainingData, lengths: np.ndarray, config: TrialConfig, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of each batch of an epoch."""
    batches = epoch_batches(lengths, config.training, config.seed, epoch)
    if config.hard_negatives is None:
        return ((rows, rows) for rows in batches)
    assert data.hard_negatives is not None
    return draw(batches, data.hard_negatives, config.hard_negatives.count, config.seed, epoch)


def hash_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for torch of its own for each epoch of a run, and each of its workers."""
    entropy = [seed, epoch, rank] if rank else [seed, epoch]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class _Evaluation:
    """Vectors of a split's queries and of their own codes, (Q, K) ranks of their right codes, and (Q,) graded nDCG
    where partners are known."""

    queries: Tensor
    codes: Tensor
    ranks: np.ndarray
    graded: np.ndarray | None


def validate(encoder: DualEncoder, data: TrainingData) -> dict[str, float]:
    """Return the validation metrics of an encoder as they are measured after an epoch of `train`.

    Raises:
      DivergedError: its vectors are not finite.
    """
    return _metrics(_evaluate_all(encoder, data, "valid", ALONE), "valid")


def _evaluate_all(encoder: DualEncoder, data: TrainingData, split: str, workers: Workers) -> dict[str, _Evaluation]:
    """The evaluation of each language, among its own codebase."""
    return {language: _evaluate(encoder, texts, split, workers) for language, texts in data.evaluated.items()}


def _evaluate(encoder: DualEncoder, data: EvaluationData, split: str, workers: Workers) -> _Evaluation:
    """Each query of a split against the whole codebase."""
    codes = _encode(encoder, concatenate(data.codebase), workers)
    queries = _encode(encoder, data.split(split).queries, workers)
    right = torch.from_numpy(data.right(split)).to(codes.device)
    own = right[:, 0]
    partners = data.partners.get(split)
    return _Evaluation(
        queries,
        codes[own],
        places(queries, codes, right),
        None if partners is None else graded_ndcg(queries, codes, own, partners),
    )


def _encode(encoder: DualEncoder, texts: Ragged, workers: Workers) -> Tensor:
    """Vectors of all texts, of which each worker encodes its share."""
    share = workers.share(len(texts))
    own = texts if workers.count == 1 else texts.take(np.arange(share.start, share.stop))
    return workers.gather(encode(encoder, own), len(texts))


def _metrics(found: Mapping[str, _Evaluation], split: str) -> dict[str, float]:
    """Means over languages and, of several, those of each."""
    languages = {}
    for language, each in found.items():
        graded = {} if each.graded is None else {"graded_ndcg": float(np.mean(each.graded))}
        languages[language] = {f"{split}_{name}": value for name, value in {**metrics(each.ranks), **graded}.items()}
    means = _mean(list(languages.values()))
    if len(languages) == 1:
        return means
    return means | {place(name, language): languages[language][name] for language in languages for name in means}


def _mean(dictionaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each entry that all have."""
    first, *others = dictionaries
    names = [name for name in first if all(name in each for each in others)]
    return {name: float(np.mean([each[name] for each in dictionaries])) for name in names}
