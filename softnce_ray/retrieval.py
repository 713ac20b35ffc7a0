"""Use of an exported model: which functions of a corpus answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from softnce_ray.corpus.pairs import SPLITS
from softnce_ray.corpus.store import Corpus
from softnce_ray.model import load_export


@dataclass(frozen=True)
class Hit:
    """A function that answers a query; `score` is the product of the two vectors."""

    score: float
    language: str
    package: str
    path: str
    line: int
    name: str
    documentation: str
    code: str


def search(model: str | Path, corpus: str | Path, queries: Sequence[str], *, top: int = 5) -> list[list[Hit]]:
    """The `top` functions of a corpus, all its languages and splits, for each query, the best first.

    Args:
      model: an exported folder; nothing else is needed.
      corpus: a corpus folder.
      queries: one or more texts.

    Raises:
      ExportError: `model` is no export.
      CorpusError: `corpus` is no corpus.
    """
    encoder, opened = load_export(model), Corpus.open(corpus)
    tables = [opened.table(language, split) for language in opened.languages for split in SPLITS]
    functions = pa.concat_tables(tables)
    codes = encoder.encode_codes(functions.column("code").to_pylist())
    scores = encoder.encode_queries(queries) @ codes.T
    return [_best(functions, row, top) for row in scores]


def _best(functions: pa.Table, scores: np.ndarray, top: int) -> list[Hit]:
    """The `top` rows by score; of functions with the same code only the first."""
    hits: list[Hit] = []
    seen: set[str] = set()
    for place in np.argsort(-scores, kind="stable"):
        row = functions.slice(int(place), 1).to_pylist()[0]
        if len(hits) == top:
            break
        if row["code"] in seen:
            continue
        seen.add(row["code"])
        hits.append(
            Hit(
                float(scores[place]),
                row["language"],
                row["package"],
                row["path"],
                row["line"],
                row["name"],
                row["query"],
                row["code"],
            )
        )
    return hits
