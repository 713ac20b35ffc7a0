"""BM25 over the words of functions, identifiers split: the baseline that needs no training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from softnce_ray.bm25_formulas import Formula, Statistics, document_frequencies
from softnce_ray.corpus.scripts import UNSPACED_RUN
from softnce_ray.estimators import count_words, load_sparse, save_sparse, words
from softnce_ray.files import read_file

K1 = 1.2
B = 0.75

_VOCABULARY = "vocabulary.txt"
_WEIGHTS = "words"
WORD_FILES = (_VOCABULARY, *(f"{_WEIGHTS}.{part}.npy" for part in ("shape", "starts", "columns", "values")))
"""What a `WordIndex` is in a folder."""


def document(name: str, documentation: str, code: str) -> str:
    """The text that the words of a function come from."""
    return f"{name} {documentation} {code}"


def words_in_none(queries: Sequence[str], documents: Iterable[str]) -> list[list[str]]:
    """Of each query the words that no document has, each once; documents are read until all are found."""
    asked = [list(dict.fromkeys(words(query))) for query in queries]
    missing = {word for each in asked for word in each}
    for text in documents if missing else ():
        missing.difference_update(words(text))
        if not missing:
            break
    return [[word for word in each if word in missing] for each in asked]


@dataclass(frozen=True)
class WordIndex:
    """BM25 weights of documents, to be asked by word.

    The score of a document is the sum over the query's words, each as often as it stands there, of
    `idf · f (k1 + 1) / (f + k1 (1 - b + b · length / mean length))` with f the word's count in the document and
    `idf = log(1 + (n - df + 0.5) / (df + 0.5))`, which is never negative: Okapi's formula as estimators have it, with
    Lucene's idf in the place of rank_bm25's.

    Attributes:
      vocabulary: row of each word.
      weights: (V, n) float32; row: a word, column: a document.

    Source: Robertson, Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009; the idf is Lucene's.
    """

    vocabulary: dict[str, int]
    weights: sparse.csr_array

    @staticmethod
    def fit(documents: Iterable[str], *, k1: float = K1, b: float = B) -> WordIndex:
        """Statistics of n documents, which are read once and not kept."""
        vocabulary: dict[str, int] = {}
        counts = count_words(map(words, documents), vocabulary)
        n = counts.shape[0]
        found = document_frequencies(counts)
        idf = np.log1p((n - found + 0.5) / (found + 0.5))
        matrix = Formula(k1, b).weights(counts, Statistics.of_counts(counts, idf))
        return WordIndex(vocabulary, sparse.csr_array(matrix.T))

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """(Q, n) float32 scores, 0 for a document without any of the query's words."""
        known = [[word for word in words(query) if word in self.vocabulary] for query in queries]
        asked = count_words(known, self.vocabulary)  # adds none: all are known
        asked.resize((len(queries), len(self.vocabulary)))
        return (asked @ self.weights).toarray()

    def unknown(self, query: str) -> list[str]:
        """The query's words that no document has, each once."""
        return [word for word in dict.fromkeys(words(query)) if word not in self.vocabulary]

    def save(self, folder: Path) -> None:
        # Words are letters or digits: none holds a line's end.
        (folder / _VOCABULARY).write_text("\n".join(self.vocabulary), encoding="utf-8")
        save_sparse(folder / _WEIGHTS, self.weights)

    @staticmethod
    def load(folder: Path) -> WordIndex:
        """Memory-mapped: a query reads the rows of its own words.

        Raises:
          OSError, ValueError: a file is missing or damaged.
        """
        text = read_file(folder / _VOCABULARY).decode()
        names = text.split("\n") if text else []
        if not text.isascii() and UNSPACED_RUN.search(text):
            for name in names:
                if len(name) > 2 and UNSPACED_RUN.search(name):
                    raise ValueError(f"the word {name}, as an earlier version read texts without spaces")
        weights = load_sparse(folder / _WEIGHTS)
        if weights.shape[0] != len(names):
            raise ValueError(f"{len(names)} words in {_VOCABULARY}, and weights of {weights.shape[0]}")
        return WordIndex({word: row for row, word in enumerate(names)}, weights)
