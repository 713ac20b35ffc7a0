"""Estimators of how similar the queries of a batch are, and the distribution over negatives made of it.

An estimator is prepared once per corpus, language and settings, stored as plain arrays, memory-mapped by
every trial, and asked for the (B, B) similarity of a batch's rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from softnce_ray.config import BM25Estimator, UniformEstimator

_WORD = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Estimator(Protocol):
    """What a training step asks of an estimator. Its class also has `prepare(settings, training queries,
    folder)`, run once, and `load(folder)`, run by every trial."""

    def similarity(self, rows: np.ndarray) -> np.ndarray:
        """(B, B) float32 similarity of training pairs: row i is query i against every pair j."""
        ...


def negative_distribution(similarity: Tensor, *, temperature: float) -> Tensor:
    """p of the losses: softmax over j ≠ i of `similarity_ij / temperature`.

    Args:
      similarity: (B, B) finite, B >= 2.
      temperature: above 0; the lower, the more p gathers on the most similar negative.

    Returns:
      (B, B) float32 without gradient: zero diagonal, rows that sum to one.
    """
    logits = similarity.detach().float() / temperature
    hidden = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(hidden, -torch.inf).softmax(dim=1)


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text, identifiers split: `parseDate_2` → parse, date, 2."""
    return [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", text))]


class BM25:
    """BM25 of training queries against training queries, as one sparse product per batch.

    Scores are those of rank_bm25's `BM25Okapi` over the training queries: each occurrence of a word in the
    asking query counts, idf is `log((n - df + 0.5) / (df + 0.5))`, and a word in more than half of the queries
    gets `epsilon` times the mean idf instead of a negative one.
    """

    def __init__(self, asked: sparse.csr_array, answered: sparse.csr_array) -> None:
        """`asked`: (n, V) counts of words; `answered`: (n, V) BM25 weights of words."""
        self.asked, self.answered = asked, answered

    def similarity(self, rows: np.ndarray) -> np.ndarray:
        return (self.asked[rows] @ self.answered[rows].T).toarray().astype(np.float32, copy=False)

    @staticmethod
    def prepare(settings: BM25Estimator, queries: Iterable[str], folder: Path) -> None:
        """Fit the training queries and keep the arrays in `folder`."""
        texts = [words(query) for query in queries]
        BM25.fit(texts, k1=settings.k1, b=settings.b, epsilon=settings.epsilon).save(folder)

    @staticmethod
    def fit(texts: Sequence[Sequence[str]], *, k1: float, b: float, epsilon: float) -> BM25:
        """Statistics of n tokenised queries, each a list of words.

        Raises:
          ValueError: no query has a word.
        """
        vocabulary: dict[str, int] = {}
        columns: list[int] = []
        counts: list[int] = []
        lengths: list[int] = []
        for text in texts:
            occurrences = Counter(text)
            columns.extend(vocabulary.setdefault(word, len(vocabulary)) for word in occurrences)
            counts.extend(occurrences.values())
            lengths.append(len(occurrences))
        if not vocabulary:
            raise ValueError("expected queries with words, got none: BM25 has nothing to count")
        starts = np.concatenate([[0], np.cumsum(lengths)])
        shape = (len(lengths), len(vocabulary))
        asked = sparse.csr_array((np.array(counts, np.float32), np.array(columns, np.int32), starts), shape)

        documents = np.bincount(asked.indices, minlength=shape[1])
        idf = np.log(shape[0] - documents + 0.5) - np.log(documents + 0.5)
        idf = np.where(idf < 0, epsilon * idf.mean(), idf)
        sizes = asked.sum(axis=1)
        scale = k1 * (1 - b + b * sizes / sizes.mean())
        frequency = asked.data.astype(np.float64)
        weight = idf[asked.indices] * frequency * (k1 + 1) / (frequency + np.repeat(scale, lengths))
        return BM25(asked, sparse.csr_array((weight.astype(np.float32), asked.indices, starts), shape))

    def save(self, folder: Path) -> None:
        np.save(folder / "shape.npy", self.asked.shape)
        np.save(folder / "starts.npy", self.asked.indptr)
        np.save(folder / "columns.npy", self.asked.indices)
        np.save(folder / "asked.npy", self.asked.data)
        np.save(folder / "answered.npy", self.answered.data)

    @staticmethod
    def load(folder: Path) -> BM25:
        """Memory-mapped: all trials of a machine share one copy."""
        shape = tuple(np.load(folder / "shape.npy"))
        starts, columns, asked, answered = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("starts", "columns", "asked", "answered")
        )
        return BM25(
            sparse.csr_array((asked, columns, starts), shape), sparse.csr_array((answered, columns, starts), shape)
        )


class Uniform:
    """Knows nothing: every similarity is zero, so p is uniform."""

    def similarity(self, rows: np.ndarray) -> np.ndarray:
        return np.zeros((len(rows), len(rows)), np.float32)

    @staticmethod
    def prepare(settings: UniformEstimator, queries: Iterable[str], folder: Path) -> None:
        """There is nothing to keep."""

    @staticmethod
    def load(folder: Path) -> Uniform:
        return Uniform()


ESTIMATORS: dict[str, type[BM25] | type[Uniform]] = {"bm25": BM25, "uniform": Uniform}
"""Every estimator by its name in a study file."""
