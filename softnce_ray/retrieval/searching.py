"""Search in a corpus without an index: every function is embedded for the occasion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from softnce_ray.corpus.pairs import SPLITS
from softnce_ray.corpus.store import Corpus
from softnce_ray.retrieval.embedding import open_embedder
from softnce_ray.retrieval.index import Hit


def search(model: str | Path, corpus: str | Path, queries: Sequence[str], *, top: int = 5) -> list[list[Hit]]:
    """The `top` functions of a corpus, all its languages and splits, for each query, the best first.

    Args:
      model: the folder of an exported model, or of another sentence encoder; nothing else is needed.
      corpus: a corpus folder.
      queries: one or more texts.

    Raises:
      ExportError: `model` is no model.
      CorpusError: `corpus` is no corpus.
    """
    encoder, opened = open_embedder(model), Corpus.open(corpus)
    tables = [opened.table(language, split) for language in opened.languages for split in SPLITS]
    functions = pa.concat_tables(tables)
    codes = encoder.codes(functions.column("code").to_pylist())
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
