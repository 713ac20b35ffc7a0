"""Estimators of how similar the queries of a batch are, and the distribution over negatives made of it.

An estimator is prepared once per corpus, language and settings, stored as plain arrays, memory-mapped by
every trial, and asked for the similarity of a batch's queries to its codes. Those are its B pairs and, where hard
negatives are added, further columns: C in all, of which the first B are the pairs.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from softnce_ray.bm25_formulas import Formula
from softnce_ray.corpus.arrays import load_array
from softnce_ray.corpus.scripts import UNSPACED, UNSPACED_RUN
from softnce_ray.errors import UserError

_COLD = 1e-6
"""Temperatures below it may take similarities out of float32's range."""

_LARGEST = 1e30
"""Similarities beyond it may leave float32's range when they are divided by a temperature of `_COLD`."""

_WORD = re.compile(r"[^\W\d_]+|\d+")
_WORD_OR_RUN = re.compile(rf"[{UNSPACED}]+|[^\W\d_{UNSPACED}]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Estimator(Protocol):
    """What a training step asks of an estimator."""

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """(B, C) float32 similarity of training pairs: row i is query i against every pair j of `columns`. These begin
        with `rows`, and are those if None."""
        ...


class EstimatorError(UserError, ValueError):
    """Similarities of which no distribution can be made."""


@dataclass(frozen=True)
class Checked:
    """An estimator that names itself and the pairs where it gives no numbers: a loss could only be NaN.

    Attributes:
      called: what it is called in errors.
      remedy: what to do then.
    """

    called: str
    remedy: str
    estimator: Estimator

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """Return those of the estimator.

        Raises:
          EstimatorError: one is NaN, infinite, or beyond 1e30.
        """
        found = self.estimator.similarity(rows, columns)
        if not (found.min() >= -_LARGEST and found.max() <= _LARGEST):  # with NaN, both are
            raise self._error(found, rows, rows if columns is None else columns)
        return found

    def _error(self, found: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> EstimatorError:
        bad = ~(np.abs(found) <= _LARGEST)
        pairs = np.union1d(rows[bad.all(axis=1)], columns[bad.all(axis=0)])  # their own vectors or words
        if not len(pairs):
            pairs = np.unique(rows[bad.any(axis=1)])
        named = ", ".join(map(str, pairs[:5])) + (f" and {len(pairs) - 5:,} more" if len(pairs) > 5 else "")
        return EstimatorError(
            f"{self.called}: expected similarities from {-_LARGEST:g} to {_LARGEST:g}, got {found[bad][0]} for "
            f"training pairs {named} (counted from 0): {self.remedy}"
        )


def negative_distribution(similarity: Tensor, *, temperature: float) -> Tensor:
    """p of the losses: softmax over j ≠ i of `similarity_ij / temperature`.

    Args:
      similarity: (..., B, C) finite, C >= B and C >= 2; column i is query i's own.
      temperature: above 0; the lower, the more p gathers on the most similar negative, or evenly on those that are as
        similar.

    Returns:
      (..., B, C) float32 without gradient: zero diagonals, rows that sum to one.
    """
    hidden = torch.eye(*similarity.shape[-2:], dtype=torch.bool, device=similarity.device)
    if temperature < _COLD:
        wide = similarity.detach().double().masked_fill(hidden, -torch.inf)
        return ((wide - wide.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1).float()
    logits = similarity.detach().float() / temperature
    return logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text, identifiers split: `parseDate_2` → parse, date, 2.

    Of scripts that set no spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each two characters that follow one
    another are a word, as in Lucene's CJKAnalyzer, which needs no dictionary: 读取文件 → 读取, 取文, 文件. One alone
    is one.
    """
    text = _CAMEL.sub(" ", text)
    if text.isascii() or not UNSPACED_RUN.search(text):
        return [word.lower() for word in _WORD.findall(text)]
    found: list[str] = []
    for part in _WORD_OR_RUN.findall(text):
        if len(part) > 1 and UNSPACED_RUN.match(part):
            found += map("".join, itertools.pairwise(part))
        else:
            found.append(part.lower())
    return found


@dataclass(frozen=True)
class BM25:
    """BM25 of training queries against training documents (queries again, or codes): a sparse product per batch.

    Scores are those of one of rank_bm25's formulas over the documents, see `bm25_formulas.Formula`.

    Attributes:
      asked: (n, V) counts of words in queries.
      answered: (n, V) float32 weights of words in documents.
      base: (n,) float32, what a query scores with every document; None: nothing.
    """

    asked: sparse.csr_array
    answered: sparse.csr_array
    base: np.ndarray | None = None

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        columns = rows if columns is None else columns
        asked, distinct = renumber(take_rows(self.asked, rows), self._numbers)
        answered = take_rows(self.answered, columns)
        words = self._numbers[answered.columns]
        self._numbers[distinct] = -1
        known = np.flatnonzero(words >= 0)  # the others are in no query of the batch
        weights = np.zeros((len(distinct), len(columns)), np.float32)
        weights[words[known], answered.rows[known]] = answered.values[known]
        scores = asked.matrix(len(distinct)) @ weights
        return scores if self.base is None else scores + self.base[rows, None]

    @cached_property
    def _numbers(self) -> np.ndarray:
        """Room for `renumber`, all -1 between calls."""
        return np.full(self.asked.shape[1], -1, np.int32)

    @staticmethod
    def fit(queries: Iterable[Sequence[str]], documents: Iterable[Sequence[str]], formula: Formula) -> BM25:
        """Statistics of n tokenised documents; n queries ask them, which may be the same object. Both are read once
        and not kept.

        Raises:
          ValueError: no document has a word.
        """
        vocabulary: dict[str, int] = {}
        counts = count_words(documents, vocabulary)
        if not vocabulary:
            raise ValueError("expected texts with words, got none: BM25 has nothing to count")
        asked = counts if queries is documents else count_words(queries, vocabulary)
        counts.resize((counts.shape[0], len(vocabulary)))  # words that only queries have stand at the end
        statistics = formula.fit(counts)
        return BM25(asked, formula.weights(counts, statistics), formula.base(asked, statistics))

    def save(self, folder: Path) -> None:
        save_sparse(folder / "asked", self.asked)
        save_sparse(folder / "answered", self.answered)
        if self.base is not None:
            np.save(folder / "base.npy", self.base)

    @staticmethod
    def load(folder: Path) -> BM25:
        """Memory-mapped: all trials of a machine share one copy."""
        base = folder / "base.npy"
        return BM25(
            load_sparse(folder / "asked"),
            load_sparse(folder / "answered"),
            load_array(base) if base.exists() else None,
        )


@dataclass(frozen=True)
class BatchBM25:
    """BM25 among the queries of a batch's columns alone, as the paper's authors code it.

    idf is `log((N - df + 0.5) / (df + 0.5))` with N and df of the columns, negative for a word in more than half of it;
    `average` is the mean length of the training queries. `counts` is (n, V).
    """

    counts: sparse.csr_array
    average: float
    k1: float
    b: float

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        columns = rows if columns is None else columns
        batch, distinct = renumber(take_rows(self.counts, columns), self._numbers)
        self._numbers[distinct] = -1
        owner = batch.rows
        found = np.bincount(batch.columns, minlength=len(distinct))
        idf = np.log((len(columns) - found + 0.5) / (found + 0.5))
        length = np.bincount(owner, weights=batch.values, minlength=len(columns))
        scale = self.k1 * (1 - self.b + self.b * length / self.average)
        weight = idf[batch.columns] * batch.values * (self.k1 + 1) / (batch.values + scale[owner])
        weights = np.zeros((len(distinct), len(columns)), np.float32)
        weights[batch.columns, owner] = weight
        asked = batch.matrix(len(distinct))
        return (asked if len(rows) == len(columns) else asked[: len(rows)]) @ weights

    @cached_property
    def _numbers(self) -> np.ndarray:
        """Room for `renumber`, all -1 between calls."""
        return np.full(self.counts.shape[1], -1, np.int32)


@dataclass(frozen=True)
class Embedded:
    """Dot products of frozen vectors, computed once: (n, D) float32 of what asks and of what answers."""

    asking: np.ndarray
    answering: np.ndarray

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        # In torch, whose threads a trial bounds: NumPy's wait for one another where another program has the processor.
        asking = torch.from_numpy(np.asarray(self.asking[rows]))
        answering = torch.from_numpy(np.asarray(self.answering[rows if columns is None else columns]))
        return (asking @ answering.T).numpy()

    def save(self, folder: Path) -> None:
        np.save(folder / "asking.npy", self.asking)
        if self.answering is not self.asking:
            np.save(folder / "answering.npy", self.answering)

    @staticmethod
    def load(folder: Path) -> Embedded:
        """Memory-mapped; without a file of what answers, the asking texts answer."""
        asking = load_array(folder / "asking.npy", dimensions=2)
        answering = folder / "answering.npy"
        return Embedded(asking, load_array(answering, dimensions=2) if answering.exists() else asking)


@dataclass(frozen=True)
class Uniform:
    """Knows nothing: every similarity is zero, so p is uniform."""

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        return np.zeros((len(rows), len(rows if columns is None else columns)), np.float32)


@dataclass(frozen=True)
class Mixture:
    """Convex combination of distributions: `parts` are (weight, estimator, temperature), the weights sum to one.

    Its similarity is the logarithm of the mixed p, so that at temperature 1 the softmax gives the mixture back;
    a query's similarity to itself is zero, the most that there is.
    """

    parts: tuple[tuple[float, Estimator, float], ...]

    def similarity(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        mixed = np.zeros((len(rows), len(rows if columns is None else columns)), np.float32)
        for weight, estimator, temperature in self.parts:
            similarity = torch.from_numpy(estimator.similarity(rows, columns))
            mixed += weight * negative_distribution(similarity, temperature=temperature).numpy()
        np.fill_diagonal(mixed, 1.0)
        return np.log(np.maximum(mixed, np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class Entries:
    """The entries of some rows of a sparse matrix, row by row; `sizes` is (rows,), how many each row has."""

    columns: np.ndarray
    values: np.ndarray
    sizes: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)

    def matrix(self, columns: int) -> sparse.csr_array:
        """(rows, columns) of these entries."""
        starts = np.zeros(len(self.sizes) + 1, np.int32)
        np.cumsum(self.sizes, out=starts[1:])
        return sparse.csr_array((self.values, self.columns, starts), (len(self.sizes), columns))


def take_rows(matrix: sparse.csr_array, rows: np.ndarray) -> Entries:
    """Entries of `matrix[rows]`. Plain arrays, for building matrices costs more than a batch's arithmetic."""
    starts = matrix.indptr[rows]
    sizes = matrix.indptr[rows + 1] - starts
    ends = np.cumsum(sizes)
    places = np.arange(ends[-1])
    places += np.repeat(starts - ends + sizes, sizes)
    return Entries(matrix.indices[places], matrix.data[places], sizes)


def renumber(entries: Entries, numbers: np.ndarray) -> tuple[Entries, np.ndarray]:
    """The entries with columns counted among those that occur, and these columns.

    A few hundred words of a batch instead of the whole vocabulary: the other side fits into a small dense matrix, and
    a sparse matrix times a dense one is several times as fast as times a sparse one. `numbers` is (V,) of -1; it holds
    each occurring column's number afterwards, for the caller to read and to put back to -1.
    """
    order = np.arange(len(entries.columns), dtype=np.int32)
    numbers[entries.columns] = order
    distinct = entries.columns[numbers[entries.columns] == order]
    numbers[distinct] = order[: len(distinct)]
    return Entries(numbers[entries.columns], entries.values, entries.sizes), distinct


def count_words(texts: Iterable[Sequence[str]], vocabulary: dict[str, int]) -> sparse.csr_array:
    """(n, V) float32 counts of words; words that are new get the next numbers of `vocabulary`. Texts are read once
    and not kept."""
    columns, counts, lengths = array("i"), array("f"), array("q", [0])  # a tenth of what lists of numbers take
    for text in texts:
        occurrences = Counter(text)
        columns.extend(vocabulary.setdefault(word, len(vocabulary)) for word in occurrences)
        counts.extend(occurrences.values())
        lengths.append(len(occurrences))
    starts = np.cumsum(lengths)
    if starts[-1] < 2**31:  # half the memory, and what scipy takes without a copy
        starts = starts.astype(np.int32)
    shape = (len(lengths) - 1, len(vocabulary))
    return sparse.csr_array((_as_array(counts, np.float32), _as_array(columns, np.int32), starts), shape)


def _as_array(numbers: array, kind: type) -> np.ndarray:
    """The same memory; an empty one has none that numpy would take."""
    return np.frombuffer(numbers, kind) if numbers else np.zeros(0, kind)


def save_sparse(stem: Path, matrix: sparse.csr_array) -> None:
    """Write a matrix as plain arrays beside one another."""
    for name, part in (("shape", matrix.shape), ("starts", matrix.indptr), ("columns", matrix.indices)):
        np.save(f"{stem}.{name}.npy", np.asarray(part))
    np.save(f"{stem}.values.npy", matrix.data)


def load_sparse(stem: Path) -> sparse.csr_array:
    """Return the matrix that `save_sparse` wrote, memory-mapped.

    Raises:
      OSError, ValueError: a file is missing or damaged, or they do not fit together.
    """
    values, columns, starts = (
        load_array(f"{stem}.{name}.npy", dimensions=1) for name in ("values", "columns", "starts")
    )
    rows, width = load_array(f"{stem}.shape.npy", dimensions=1, mapped=False)
    matrix = sparse.csr_array((values, columns, starts), (int(rows), int(width)))
    matrix.check_format(full_check=True)  # products read what the numbers of columns point to
    return matrix
