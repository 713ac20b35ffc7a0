"""Answers to queries, from an index or from a corpus, whose functions are then embedded for the occasion; and what is
to be said of a query that asks for what nobody has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from softnce_ray.corpus.pairs import SPLITS
from softnce_ray.corpus.store import Corpus
from softnce_ray.estimators import words
from softnce_ray.retrieval.embedding import Embedder, open_embedder
from softnce_ray.retrieval.index import Hit, Index
from softnce_ray.retrieval.lexical import document, words_in_none


@dataclass(frozen=True)
class Answered:
    """A query's hits, best first; what their score is, see `Hit`; and what the user should know of the query, or ""."""

    query: str
    hits: tuple[Hit, ...]
    measure: Literal["cosine", "dot", "fused"]
    note: str = ""


def answer_from_index(
    index: Index, embedder: Embedder, queries: Sequence[str], *, top: int = 5, hybrid: bool = False
) -> list[Answered]:
    """`Index.search` with what is to be said of each query."""
    hits = index.search(queries, embedder, top=top, hybrid=hybrid)
    return _answered(queries, hits, embedder, index.unknown_words(queries), hybrid=hybrid)


def answer_from_corpus(
    model: str | Path, corpus: str | Path, queries: Sequence[str], *, top: int = 5
) -> list[Answered]:
    """`search` with what is to be said of each query."""
    encoder, opened = open_embedder(model), Corpus.open(corpus)
    hits = _search(encoder, opened, queries, top)
    return _answered(queries, hits, encoder, _unknown_words(opened, queries), hybrid=False)


def _answered(
    queries: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    embedder: Embedder,
    unknown: Sequence[Sequence[str]],
    *,
    hybrid: bool,
) -> list[Answered]:
    measure: Literal["cosine", "dot", "fused"] = "fused" if hybrid else embedder.measure
    return [
        Answered(query, tuple(found), measure, _note(query, missing, reads, hybrid))
        for query, found, missing, reads in zip(queries, hits, unknown, embedder.reads(queries), strict=True)
    ]


def _note(query: str, missing: Sequence[str], reads: bool, hybrid: bool) -> str:
    """What a query asks for that nobody has; a model may know a word that no function has, and find what it means."""
    asked = set(words(query))
    parts = []
    if not reads:
        parts.append("the model knows no part of it, so that its scores say nothing")
    if missing and len(missing) == len(asked):
        told = "no function has any of its words" + (", so that BM25 adds nothing" if hybrid else "")
        parts.append(told if reads else f"{told}: these are no answers")
    elif missing:
        parts.append(f"no function has {', '.join(missing)}")
    return f"{' '.join(query.split())!r}: {'; '.join(parts)}" if parts else ""


def search(model: str | Path, corpus: str | Path, queries: Sequence[str], *, top: int = 5) -> list[list[Hit]]:
    """The `top` functions of a corpus, all its languages and splits, for each query, the best first.

    Args:
      model: the folder of an exported model, or of another sentence encoder; nothing else is needed.
      corpus: a corpus: its folder or URI.
      queries: one or more texts.

    Raises:
      ExportError: `model` is no model.
      CorpusError: `corpus` is no corpus.
    """
    return _search(open_embedder(model), Corpus.open(corpus), queries, top)


def _search(encoder: Embedder, opened: Corpus, queries: Sequence[str], top: int) -> list[list[Hit]]:
    tables = [opened.table(language, split) for language in opened.languages for split in SPLITS]
    functions = pa.concat_tables(tables)
    codes = encoder.codes(functions.column("code").to_pylist(), functions.column("language").to_pylist())
    scores = encoder.encode_queries(queries) @ codes.T
    return [_best(functions, row, top) for row in scores]


def unknown_words(corpus: str | Path, queries: Sequence[str]) -> list[list[str]]:
    """Of each query the words that no function of a corpus has, neither in its code nor in its name or documentation.

    Raises:
      CorpusError: `corpus` is no corpus.
    """
    return _unknown_words(Corpus.open(corpus), queries)


def _unknown_words(opened: Corpus, queries: Sequence[str]) -> list[list[str]]:
    texts = (
        document(row["name"], row["query"], row["code"])
        for language in opened.languages
        for split in SPLITS
        for rows in opened.batches(language, split, ["name", "query", "code"])
        for row in rows.to_pylist()
    )
    return words_in_none(queries, texts)


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
