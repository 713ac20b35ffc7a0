"""What a training run reads: token ids of the splits, duplicates, partners, and the estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from softnce_ray.corpus.qrels import Codebase, own_codes
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.estimators import Estimator


@dataclass(frozen=True)
class PairTexts:
    """Queries and codes of a split: row i of both is pair i."""

    queries: Ragged
    codes: Ragged


@dataclass(frozen=True)
class EvaluationData:
    """Texts that a language is evaluated on.

    The codebase of every query is valid + test codes + distractors, each code once; `answers` says which rows these are
    and which are right, where that is not all and each query's own.

    `partners` has, for `valid` and `test` of a corpus that knows which of its codes share a meaning, for each query
    the rows of the codebase that do, its own code left out.
    """

    valid: PairTexts
    test: PairTexts
    distractors: Ragged
    partners: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    answers: Codebase | None = None

    @property
    def codebase(self) -> list[Ragged]:
        """All codes that a query is ranked against, in parts."""
        parts = [self.valid.codes, self.test.codes, self.distractors]
        if self.answers is None or self.answers.rows is None:
            return parts
        return [concatenate(parts).take(self.answers.rows)]

    def split(self, name: str) -> PairTexts:
        """The pairs of `valid` or `test`."""
        return {"valid": self.valid, "test": self.test}[name]

    def right(self, name: str) -> np.ndarray:
        """(Q, K) rows of the codebase that answer the queries of `valid` or `test`, see `Codebase.right`."""
        if self.answers is not None:
            return self.answers.right[name]
        return own_codes(len(self.valid.codes), len(self.test.codes))[name]


@dataclass(frozen=True)
class TrainingData:
    """What a run reads: the pairs of all languages that it is trained on, and what each language that it is tested on
    is evaluated on.

    `groups` is (2, n): equal numbers in row 0 mean equal normalised queries of training pairs, in row 1 codes.
    `hard_negatives` is (n, depth), where the arm asks for them: rows of training pairs, see `hard_negatives.mine`.
    """

    train: PairTexts
    evaluated: Mapping[str, EvaluationData]
    tokenizer: Tokenizer
    groups: np.ndarray
    estimator: Estimator | None = None
    hard_negatives: np.ndarray | None = None

    def same(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(B, C) bool: which of the training pairs `rows` and `columns` share their normalised query or code."""
        return (self.groups[:, rows, None] == self.groups[:, None, columns]).any(axis=0)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) places that each training pair's query and code take in a network: tokens, and nodes of graphs."""
        lengths = np.diff(self.train.queries.offsets) + np.diff(self.train.codes.offsets)
        graphs = self.train.codes.graphs
        return lengths if graphs is None else lengths + np.diff(graphs.node_offsets)
