"""How well a model ranks: on the pairs of a corpus as studies do it, and on codes that people have judged; BM25 and the
hybrid of both beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from softnce_ray.corpus.duplicates import normalise_query
from softnce_ray.corpus.formats import Judgements, read_judgements
from softnce_ray.corpus.mining import MAX_EXAMPLES
from softnce_ray.corpus.qrels import codebase_of
from softnce_ray.corpus.store import CODEBASE, Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.evaluation import places, query_metrics
from softnce_ray.judgements import judged_ndcg, ndcg_of_scores
from softnce_ray.retrieval.embedding import Embedder, open_embedder
from softnce_ray.retrieval.index import Advance, RetrievalError
from softnce_ray.retrieval.lexical import WordIndex
from softnce_ray.retrieval.rankings import Scores, fused, places_of
from softnce_ray.statistics import Interval, mean_interval, same_queries

MODEL, BM25, HYBRID = "model", "bm25", "hybrid"
SYSTEMS = (MODEL, BM25, HYBRID)
ALL_LANGUAGES = "mean"
"""What stands in place of a language for the mean over languages."""

_BLOCK = 128


@dataclass(frozen=True)
class Line:
    """What one system scored in one language: `metrics` by name with 95 % intervals over queries. For the
    mean over languages a query that several of them ask, by its normalised text, is drawn in all of them at once.

    `codes` is the number of codes that every query was ranked against; of the mean over languages, that of all.
    """

    language: str
    system: str
    queries: int
    codes: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """All lines, and what was evaluated on what: `data` names the corpus (with its fingerprint) or the judgements."""

    model: Path
    content: str
    data: str
    split: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


def evaluate_corpus(
    model: str | Path,
    corpus: str | Path,
    *,
    split: Literal["valid", "test"] = "test",
    languages: Sequence[str] | None = None,
    trust_corpus: bool = False,
    advance: Advance = lambda done, total, note: None,
) -> Evaluation:
    """MRR, recall and nDCG of a split's queries, each ranked among its language's whole codebase: the codes of valid
    and test and the distractors, as in studies. What is measured is said at `evaluation.query_metrics`.

    BM25 reads the words of the codes; the hybrid fuses both rankings, see `rankings.fused`. Ties count half.

    Args:
      model: the folder of a model, see `embedding.open_embedder`.
      corpus: a corpus: its folder or URI.
      split: whose queries; test numbers are for reporting, not for choosing.
      languages: default all of the corpus.
      trust_corpus: do not read the rows of the corpus to compare them with its manifest.
      advance: called with progress in texts.

    Raises:
      ExportError, CorpusError: no such model, corpus or language.
      RetrievalError: the split has no pairs.
      DivergedError: a vector is not finite.
    """
    opened, embedder = Corpus.open(corpus, verify=Verify.unless(trust_corpus)), open_embedder(model)
    by_language: dict[str, dict[str, np.ndarray]] = {}
    sizes: dict[str, int] = {}
    asked: list[list[str]] = []
    notes: list[str] = []
    for language in languages or opened.languages:
        codebase = codebase_of(opened, language)
        codes = codebase.of([code for each in CODEBASE for code in _texts(opened, language, each, "code")])
        queries = _texts(opened, language, split, "query")
        if not queries:
            raise RetrievalError(f"expected {split} pairs of {language} in {corpus}, got none: name another --split")
        asked.append(queries)
        by_language[language], wordless = _places(embedder, queries, codes, codebase.right[split], language, advance)
        if wordless:
            notes.append(
                f"{language}: {wordless:,} of {len(queries):,} queries have no word of their code, which is all that "
                f"{BM25} reads"
            )
        sizes[language] = len(codes)
    lines = [
        _line(language, system, [query_metrics(found[system])], [queries], sizes[language])
        for (language, found), queries in zip(by_language.items(), asked, strict=True)
        for system in SYSTEMS
    ]
    if len(by_language) > 1:
        lines += [
            _line(
                ALL_LANGUAGES,
                system,
                [query_metrics(found[system]) for found in by_language.values()],
                asked,
                sum(sizes.values()),
            )
            for system in SYSTEMS
        ]
    data = f"{corpus} ({opened.fingerprint[:12]})"
    return Evaluation(embedder.folder, embedder.content, data, split, tuple(lines), tuple(notes))


def evaluate_judgements(
    model: str | Path,
    qrels: str | Path,
    *,
    language: str | None = None,
    max_bad_share: float = 0.01,
    advance: Advance = lambda done, total, note: None,
) -> Evaluation:
    """nDCG by human judgements, in CodeSearchNet's two ways: `ndcg@judged` ranks a query's judged codes among
    themselves, `ndcg@all` among all codes of the query's language in the file. Queries without a relevant code are left
    out, and so are bad lines, which a note counts and names.

    Args:
      model: the folder of a model.
      qrels: `judgements.jsonl` beside `codes.jsonl`, or their folder: see `corpus.read_judgements`.
      language: of codes that name none.
      max_bad_share: stop when more of the lines of a file are bad, 0 to 1.

    Raises:
      ExportError, CorpusError: no such model or judgements, or too many bad lines.
      RetrievalError: no query has a relevant code.
    """
    judged, embedder = read_judgements(qrels, language=language, max_bad_share=max_bad_share), open_embedder(model)
    lines: list[Line] = []
    notes = _bad_lines(judged)
    values: dict[str, list[dict[str, np.ndarray]]] = {system: [] for system in SYSTEMS}
    sizes: list[int] = []
    texts_asked: list[list[str]] = []
    for language in sorted(set(judged.languages)):
        asked = [row for row, name in enumerate(judged.languages) if name == language]
        rows = {row for row, code in enumerate(judged.codes) if code.language == language}
        rows |= {code for query, code in judged.relevance if judged.languages[query] == language}
        of_code = {row: place for place, row in enumerate(sorted(rows))}
        of_query = {row: place for place, row in enumerate(asked)}
        relevance = {
            (of_query[query], of_code[code]): value
            for (query, code), value in judged.relevance.items()
            if query in of_query
        }
        texts = [judged.codes[row].code for row in of_code]
        queries = [judged.queries[row] for row in asked]
        found = _ndcgs(embedder, queries, texts, relevance, language, advance)
        kept = ~np.isnan(found[MODEL]["ndcg@all"])
        if not kept.all():
            notes.append(f"{language}: {int((~kept).sum())} of {len(kept)} queries have no relevant code: left out")
        if not kept.any():
            continue
        sizes.append(len(texts))
        texts_asked.append([query for query, keep in zip(queries, kept, strict=True) if keep])
        for system in SYSTEMS:
            values[system].append({name: each[kept] for name, each in found[system].items()})
            lines.append(_line(language, system, values[system][-1:], texts_asked[-1:], len(texts)))
    if not lines:
        raise RetrievalError(f"expected queries with a relevant code in {qrels}, got none: nothing can be measured")
    if len(sizes) > 1:
        lines += [_line(ALL_LANGUAGES, system, values[system], texts_asked, sum(sizes)) for system in SYSTEMS]
    return Evaluation(embedder.folder, embedder.content, str(qrels), "judgements", tuple(lines), tuple(notes))


def _bad_lines(judged: Judgements) -> list[str]:
    """A note of how many lines were left out, why, and where the first of each reason are."""
    if not judged.bad:
        return []
    reasons = []
    for reason, count in judged.bad.items():
        found = ", ".join(f"{each.path}:{each.line}" for each in judged.examples if each.reason == reason)
        reasons.append(f"{reason} {count:,} ({found}{', …' if count > MAX_EXAMPLES else ''})")
    return [f"{judged.bad.total():,} of {judged.lines:,} lines are bad and were left out: {'; '.join(reasons)}"]


def _texts(corpus: Corpus, language: str, split: str, side: str) -> list[str]:
    return corpus.table(language, split, [side]).column(side).to_pylist()


def _places(
    embedder: Embedder,
    queries: Sequence[str],
    codes: Sequence[str],
    right: np.ndarray,
    language: str,
    advance: Advance,
) -> tuple[dict[str, np.ndarray], int]:
    """(Q, K) places of the right codes under each system, and how many queries have no word of any of them."""
    asking, answering = _vectors(embedder, queries, codes, language, advance)
    found = {MODEL: places(torch.from_numpy(asking), torch.from_numpy(answering), torch.from_numpy(right))}
    words = WordIndex.fit(codes)
    lexical, both, wordless = [], [], 0
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = Scores.of_sums(words.scores(queries[part]))
        known = np.take_along_axis(scores.values, np.maximum(right[part], 0), axis=1) * (right[part] >= 0)
        wordless += int((known == 0).all(axis=1).sum())
        lexical.append(places_of(scores, right[part]))
        both.append(places_of(fused(Scores.of_vectors(asking[part], answering), scores), right[part]))
    return {**found, BM25: np.concatenate(lexical), HYBRID: np.concatenate(both)}, wordless


def _ndcgs(
    embedder: Embedder,
    queries: Sequence[str],
    codes: Sequence[str],
    relevance: Mapping[tuple[int, int], float],
    language: str,
    advance: Advance,
) -> dict[str, dict[str, np.ndarray]]:
    """System → way → (Q,) nDCG, NaN where no code is relevant."""
    asking, answering = _vectors(embedder, queries, codes, language, advance)
    lexical = Scores.of_sums(WordIndex.fit(codes).scores(queries))
    both = fused(Scores.of_vectors(asking, answering), lexical)
    found: dict[str, dict[str, np.ndarray]] = {}
    ways: tuple[Literal["all", "judged"], ...] = ("all", "judged")
    for way in ways:
        model = judged_ndcg(torch.from_numpy(asking), torch.from_numpy(answering), relevance, among=way)
        found.setdefault(MODEL, {})[f"ndcg@{way}"] = model
        for system, each in ((BM25, lexical), (HYBRID, both)):
            ndcg = ndcg_of_scores(each.values, relevance, errors=each.errors, among=way)
            found.setdefault(system, {})[f"ndcg@{way}"] = ndcg
    return found


def _vectors(
    embedder: Embedder, queries: Sequence[str], codes: Sequence[str], language: str, advance: Advance
) -> tuple[np.ndarray, np.ndarray]:
    answering = embedder.codes(codes, [language] * len(codes), lambda done, total: advance(done, total, language))
    return np.ascontiguousarray(embedder.encode_queries(queries)), answering


def _line(
    language: str,
    system: str,
    values: Sequence[Mapping[str, np.ndarray]],
    asked: Sequence[Sequence[str]],
    codes: int,
) -> Line:
    """`values` and the queries `asked` have one entry for each language. Its model is one for all of them, but that
    has one row: there is no seed to be drawn."""
    units = same_queries([normalise_query(query) for query in queries] for queries in asked)
    metrics = {name: mean_interval([each[name][None] for each in values], units=units) for name in values[0]}
    queries = sum(len(next(iter(each.values()))) for each in values)
    return Line(language, system, queries, codes, metrics)
