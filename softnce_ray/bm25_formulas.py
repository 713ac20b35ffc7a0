"""The BM25 formulas of rank_bm25 over counted words: its statistics, and its scores as a sparse matrix.

The package counts the documents and gives each word its idf. It scores by a loop over all documents for each word of a
query, so the weight of each word in each document is written out once instead: a batch is then one sparse product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import rank_bm25
from scipy import sparse

from softnce_ray.config import BM25Variant

PACKAGE_ENTRIES = 4_000_000
"""Entries (different words, counted in each document) up to which the package counts. It keeps a dictionary of each
document: 85 bytes an entry where documents have 5 words, 65 with 10, 45 with 60 or more, so 180 to 340 MB at this bound
(400,000 queries of 10 words, 65,000 functions of 60 different words). Larger corpora are counted here, by the same
formulas in the same order: the numbers are equal to the last bit."""

_ROWS = 50_000
_ENTRIES = 2**23


@dataclass(frozen=True)
class Statistics:
    """Facts of n documents that their scores depend on.

    Attributes:
      idf: (V,) float64, 0 of words that no document has.
      lengths: (n,) float32 words of each document.
      mean_length: of all documents.
    """

    idf: np.ndarray
    lengths: np.ndarray
    mean_length: float

    @staticmethod
    def of_counts(counts: sparse.csr_array, idf: np.ndarray) -> Statistics:
        """Those of n documents whose words have this idf; `counts` is (n, V)."""
        lengths = counts.sum(axis=1)
        return Statistics(idf, lengths, float(lengths.sum(dtype=np.float64)) / max(1, len(lengths)))

    def norms(self, b: float) -> np.ndarray:
        """(n,) float32: 1 - b + b · length / mean length. Single precision, as in all weights that were ever stored;
        it is 1e-7 from the package's."""
        return 1 - b + b * self.lengths / np.float32(self.mean_length or 1)  # 0: no document has a word


@dataclass(frozen=True)
class Formula:
    """One of rank_bm25's formulas with its settings.

    With f the count of a word in a document of `length` words, norm = 1 - b + b · length / mean length, and n
    documents of which df have the word, a query's score is the sum over its words, each as often as it stands there:

    - `okapi` (BM25Okapi): idf · f (k1 + 1) / (f + k1 norm), idf = log((n - df + 0.5) / (df + 0.5)); a word whose idf is
      negative, as it is in more than half of the documents, gets `epsilon` times the mean idf of all words instead;
    - `plus` (BM25Plus): idf · (delta + f (k1 + 1) / (f + k1 norm)), idf = log((n + 1) / df), so that a document
      without a word of the query still has delta · idf of it;
    - `l` (BM25L): idf · f (k1 + 1) (c + delta) / (k1 + c + delta), c = f / norm, idf = log((n + 1) / (df + 0.5)). The f
      before (k1 + 1) is the package's; Lv and Zhai's BM25L has none.

    Words that no document has weigh nothing.

    Source: rank_bm25 0.2.2, after Trotman, Puurula, Burgess, Improvements to BM25 and Language Models Examined, 2014.
    """

    k1: float
    b: float
    epsilon: float = 0.25
    variant: BM25Variant = "okapi"
    delta: float = 0.0

    def fit(self, counts: sparse.csr_array) -> Statistics:
        """Statistics of n documents, some of which has a word; `counts` is (n, V)."""
        return self._of_package(counts) if counts.nnz <= PACKAGE_ENTRIES else self._counted(counts)

    def _of_package(self, counts: sparse.csr_array) -> Statistics:
        documents = _documents(counts)
        match self.variant:
            case "okapi":
                fitted = rank_bm25.BM25Okapi(documents, k1=self.k1, b=self.b, epsilon=self.epsilon)
            case "plus":
                fitted = rank_bm25.BM25Plus(documents, k1=self.k1, b=self.b, delta=self.delta)
            case "l":
                fitted = rank_bm25.BM25L(documents, k1=self.k1, b=self.b, delta=self.delta)
        idf = np.zeros(counts.shape[1])
        idf[list(fitted.idf)] = list(fitted.idf.values())
        return Statistics(idf, np.array(fitted.doc_len, np.float32), fitted.avgdl)

    def _counted(self, counts: sparse.csr_array) -> Statistics:
        n, frequencies = counts.shape[0], document_frequencies(counts)
        distinct, places = np.unique(frequencies, return_inverse=True)
        idf = np.array([self._idf_of(n, df) for df in distinct.tolist()])[places]
        if self.variant == "okapi":
            occurring = idf[frequencies > 0]
            mean = np.cumsum(occurring)[-1] / len(occurring)  # one after another, as the package adds them
            idf[idf < 0] = self.epsilon * mean
        return Statistics.of_counts(counts, idf)

    def _idf_of(self, n: int, df: int) -> float:
        if df == 0:
            return 0.0
        match self.variant:
            case "okapi":
                return math.log(n - df + 0.5) - math.log(df + 0.5)
            case "plus":
                return math.log((n + 1) / df)
            case "l":
                return math.log(n + 1) - math.log(df + 0.5)

    def weights(self, counts: sparse.csr_array, statistics: Statistics) -> sparse.csr_array:
        """(n, V) float32: what each occurrence of a word in a query adds to a document's score, `base` left out."""
        norms = statistics.norms(self.b)
        weights = np.empty(len(counts.data), np.float32)
        for start in range(0, counts.shape[0], _ROWS):  # in double precision only so many at a time
            stop = min(start + _ROWS, counts.shape[0])
            part = slice(counts.indptr[start], counts.indptr[stop])
            frequency = counts.data[part].astype(np.float64)
            norm = np.repeat(norms[start:stop], np.diff(counts.indptr[start : stop + 1]))
            idf = statistics.idf[counts.indices[part]]
            if self.variant == "l":
                shifted = frequency / norm + self.delta
                weights[part] = idf * frequency * (self.k1 + 1) * shifted / (self.k1 + shifted)
            else:
                weights[part] = idf * frequency * (self.k1 + 1) / (frequency + self.k1 * norm)
        return sparse.csr_array((weights, counts.indices, counts.indptr), counts.shape)

    def base(self, asked: sparse.csr_array, statistics: Statistics) -> np.ndarray | None:
        """(m,) float32: what each of m queries scores with every document, even one without words; None: nothing.

        `asked` is (m, V) counts of words in queries.
        """
        if self.variant != "plus" or self.delta == 0:
            return None
        return (self.delta * (asked @ statistics.idf)).astype(np.float32)


def document_frequencies(counts: sparse.csr_array) -> np.ndarray:
    """(V,) int64: in how many documents each word is; `counts` is (n, V)."""
    found = np.zeros(counts.shape[1], np.int64)
    for start in range(0, len(counts.indices), _ENTRIES):  # numpy counts in a copy of twice the size
        found += np.bincount(counts.indices[start : start + _ENTRIES], minlength=counts.shape[1])
    return found


def _documents(counts: sparse.csr_array) -> Iterator[list[int]]:
    """Each document's words by their numbers, in the order of their first occurrence. A number is one object wherever
    it stands, which saves the package's dictionaries 32 bytes an entry."""
    numbers = list(range(counts.shape[1]))
    starts = counts.indptr.tolist()
    for start, stop in itertools.pairwise(starts):
        repeated = np.repeat(counts.indices[start:stop], counts.data[start:stop].astype(np.int64))
        yield [numbers[word] for word in repeated.tolist()]
