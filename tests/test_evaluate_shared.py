"""The mean over languages where the same queries are asked in several of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from softnce_ray.retrieval import evaluating
from softnce_ray.retrieval.evaluating import ALL_LANGUAGES, Evaluation, evaluate_judgements

QUERIES = 60


class Fixed:
    """An embedder that gives each text a vector of its own; case and layout of a query do not matter."""

    folder, content = Path("fixed"), "0"

    def codes(self, texts, languages, advance):
        return np.stack([self._vector(text.partition(" ")[0]) for text in texts])

    def encode_queries(self, texts):
        return np.stack([self._vector(" ".join(re.findall(r"\w+", text.casefold()))) for text in texts])

    def _vector(self, text: str) -> np.ndarray:
        vector = np.random.default_rng(list(text.encode())).normal(size=8).astype(np.float32)
        return vector / np.linalg.norm(vector)


def evaluated(folder: Path, queries: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """Of each language code i answers query i; the words before its language are those of the query's number."""
    folder.mkdir()
    codes = [
        {"url": f"{language}{i}", "code": f"code{i} {language}", "language": language}
        for language in queries
        for i in range(QUERIES)
    ]
    said = [
        {"query": query, "url": f"{language}{i}", "relevance": 1}
        for language, asked in queries.items()
        for i, query in enumerate(asked)
    ]
    for name, records in (("codes", codes), ("judgements", said)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    monkeypatch.setattr(evaluating, "open_embedder", lambda model: Fixed())
    return evaluate_judgements("fixed", folder)


def width(made: Evaluation, language: str) -> float:
    (line,) = [each for each in made.lines if (each.language, each.system) == (language, "model")]
    interval = line.metrics["ndcg@all"]
    return interval.high - interval.low


def test_a_query_of_several_languages_counts_once_in_the_interval_of_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [f"query {i}" for i in range(QUERIES)]
    loud = [f"Query  {i}!" for i in range(QUERIES)]  # the same, but for case and layout
    same = evaluated(tmp_path / "same", {"go": asked, "java": asked, "ruby": asked}, monkeypatch)
    assert width(same, ALL_LANGUAGES) == pytest.approx(width(same, "go"))
    other = evaluated(
        tmp_path / "other",
        {name: [f"{name} {each}" for each in asked] for name in ("go", "java", "ruby")},
        monkeypatch,
    )
    mean = np.mean([width(other, name) for name in ("go", "java", "ruby")])
    assert width(other, ALL_LANGUAGES) == pytest.approx(mean / np.sqrt(3), rel=0.2)
    layout = evaluated(tmp_path / "layout", {"go": asked, "java": loud}, monkeypatch)
    assert width(layout, ALL_LANGUAGES) == pytest.approx(width(layout, "go"))
