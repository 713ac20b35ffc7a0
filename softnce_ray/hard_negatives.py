"""Codes that are likely to be taken for a query's own: mined once among the training pairs, drawn for each batch.

The pairs they belong to stand in a batch as further columns, beside those of the batch itself: losses and estimators
see them as they see any other negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

NONE = -1
"""What stands in a row of mined pairs where no more were found."""

_QUERIES, _CODES = 128, 2**16
"""Queries that are compared at one time, and with how many codes: 32 MB of scores."""


class Ranking(Protocol):
    """What pairs are mined with: scores of training queries against the codes of training pairs."""

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """(B, C) float32 of queries `rows` against codes `columns`."""
        ...


def mine(ranking: Ranking, groups: np.ndarray, *, depth: int, skip: int = 0, least: float | None = None) -> np.ndarray:
    """For each training query the pairs whose codes score highest, best first, its own and its duplicates left out.

    Args:
      ranking: of all n training pairs.
      groups: (2, n), equal numbers mean equal normalised queries (row 0) or codes (row 1).
      depth: pairs of each query, 1 or more.
      skip: pairs that are passed over before, for the best may well be right.
      least: scores must be above it.

    Returns:
      (n, depth) int32 rows of pairs, `NONE` where there were no more.
    """
    pairs = groups.shape[1]
    found = np.full((pairs, depth), NONE, np.int32)
    for start in range(0, pairs, _QUERIES):
        rows = np.arange(start, min(start + _QUERIES, pairs))
        best, places = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long)
        for first in range(0, pairs, _CODES):
            columns = np.arange(first, min(first + _CODES, pairs))
            scores = torch.from_numpy(np.array(ranking.similarity(rows, columns)))
            same = (groups[:, rows, None] == groups[:, None, columns]).any(axis=0)
            scores[torch.from_numpy(same)] = -torch.inf
            best = torch.cat([best, scores], dim=1)
            places = torch.cat([places, torch.from_numpy(columns).expand(len(rows), -1)], dim=1)
            best, kept = best.topk(min(skip + depth, best.shape[1]), dim=1)
            places = places.gather(1, kept)
        limit = -torch.inf if least is None else least
        chosen = torch.where(best > limit, places, NONE)[:, skip:].numpy()
        found[start : start + len(rows), : chosen.shape[1]] = chosen
    return found


def draw(
    batches: Iterator[np.ndarray], mined: np.ndarray, count: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each batch's rows, and its columns: the rows themselves, then the hard negatives that are not among them, each
    once.

    Args:
      batches: rows of each batch.
      mined: as `mine` returns it.
      count: hard negatives of each query, drawn from those that were mined; fewer where fewer were.
      seed, epoch: equal ones draw equally.
    """
    generator = np.random.default_rng([seed, epoch, 1])
    for rows in batches:
        candidates = np.asarray(mined[rows])
        keys = generator.random(candidates.shape)
        keys[candidates == NONE] = 2.0
        drawn = np.take_along_axis(candidates, np.argsort(keys, axis=1, kind="stable")[:, :count], axis=1)
        extra = np.setdiff1d(drawn[drawn != NONE], rows)
        yield rows, np.concatenate([rows, extra.astype(rows.dtype)])
