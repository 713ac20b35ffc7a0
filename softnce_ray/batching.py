"""Which training pairs make a batch: random ones, a fixed number of them or as many as a budget of tokens holds.

With buckets, batches are made of pairs of like length, in a random order: then a budget holds many short pairs or a few
long ones. Within a bucket pairs are drawn at random, so that the negatives of a query are a random sample of the pairs
of its bucket, whatever their content.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from softnce_ray.config import TrainingSettings


def epoch_batches(lengths: np.ndarray, settings: TrainingSettings, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Rows of each batch of an epoch: every pair at most once, in a random order, what is too few for a batch left out.

    A batch is cut where one more pair would exceed `batch_size` pairs or, where that is set, `batch_tokens` tokens of
    queries and codes, hard negatives not counted. What a bucket leaves over is put together with what the others do.

    Args:
      lengths: (n,) tokens of each pair's query and code together.
      settings: `batch_size`, `batch_tokens` and `length_buckets`.
      seed, epoch: equal ones give equal batches.
    """
    if settings.batch_tokens is None and settings.length_buckets == 1:
        yield from random_batches(len(lengths), settings.batch_size, seed, epoch)
        return
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches: list[np.ndarray] = []
    left: list[np.ndarray] = []
    for bucket in _buckets(order, lengths, settings.length_buckets):
        *whole, rest = _cut(bucket, lengths, settings)
        batches += whole
        left.append(rest)
    *whole, _ = _cut(generator.permutation(np.concatenate(left)), lengths, settings)
    batches += whole
    for number in generator.permutation(len(batches)):
        yield batches[number]


def batch_count(lengths: np.ndarray, settings: TrainingSettings, seed: int, epoch: int) -> int:
    """How many batches `epoch_batches` yields."""
    if settings.batch_tokens is None and settings.length_buckets == 1:
        return len(lengths) // settings.batch_size
    return sum(1 for _ in epoch_batches(lengths, settings, seed, epoch))


def random_batches(pairs: int, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Rows of each batch of an epoch: a random order of all pairs, a last short batch left out."""
    order = np.random.default_rng([seed, epoch]).permutation(pairs)
    for start in range(0, pairs - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def _buckets(order: np.ndarray, lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Rows in `count` parts of about equal numbers, by their length; each keeps the order given."""
    place = np.empty(len(order), np.int64)
    place[np.argsort(lengths[order], kind="stable")] = np.arange(len(order)) * count // max(len(order), 1)
    return [order[place == number] for number in range(count)]


def _cut(order: np.ndarray, lengths: np.ndarray, settings: TrainingSettings) -> Iterator[np.ndarray]:
    """Whole batches, one after another, and last what is left over: nothing, or too little for one."""
    ends = np.concatenate([[0], np.cumsum(lengths[order])])
    start = 0
    while start < len(order):
        stop = start + settings.batch_size
        if settings.batch_tokens is not None:
            last = int(np.searchsorted(ends, ends[start] + settings.batch_tokens, side="right")) - 1
            stop = min(stop, last)
        if stop > len(order):
            break
        full = stop - start == settings.batch_size or ends[stop] - ends[start] == settings.batch_tokens
        if stop == len(order) and not full:  # another bucket's rest might fit in
            break
        yield order[start:stop]
        start = stop
    yield order[start:]
