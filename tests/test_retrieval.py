"""Search: the right functions, in order, each code once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Pair, build_corpus
from softnce_ray.export import write_export
from softnce_ray.preparation import open_data, prepare
from softnce_ray.retrieval import answer_from_corpus, search
from softnce_ray.retrieval.lexical import words_in_none
from softnce_ray.training import train


@pytest.fixture(scope="module")
def exported(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported bag that has learned the tiny corpus."""
    root = tmp_path_factory.mktemp("search")
    settings = {"epochs": 15, "batch_size": 32, "learning_rate": 0.05}
    config = TrialConfig.model_validate(
        {"language": "python", "seed": 0, "encoder": {"kind": "bag", "width": 32}, "training": settings}
    )
    model = train(config, open_data(prepare(config, tiny_corpus, "python", root), config, "python")).model
    write_export(model, root / "best", "card")
    return root / "best"


def test_a_query_of_the_corpus_finds_its_function(exported: Path, tiny_corpus: Path, tiny_pairs: list[Pair]) -> None:
    queries = [pair.query for pair in tiny_pairs[:20]]
    answers = search(exported, tiny_corpus, queries, top=3)
    found = sum(pair.name in [hit.name for hit in hits] for pair, hits in zip(tiny_pairs[:20], answers, strict=True))
    assert found >= 18


def test_hits_come_best_first_with_place_and_code(exported: Path, tiny_corpus: Path) -> None:
    (hits,) = search(exported, tiny_corpus, ["Parse the date of every customer."], top=7)
    assert len(hits) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.code.startswith("def ") and hit.line > 0 and hit.path.startswith(hit.package) for hit in hits)


def test_equal_codes_answer_once(exported: Path, tmp_path: Path) -> None:
    code = "def tally(values):\n    total = len(values)\n    return total"
    pairs = [
        Pair(f"Count the values, way {number}.", code, "python", f"p{number}", f"p{number}/m.py", 1, "tally")
        for number in range(12)
    ]
    build_corpus({"train": pairs}, tmp_path / "same")
    assert len(search(exported, tmp_path / "same", ["Count the values."], top=5)[0]) == 1


def test_a_score_is_named_and_unknown_words_are_told(exported: Path, tiny_corpus: Path) -> None:
    known, partly, nothing, unread = answer_from_corpus(
        exported, tiny_corpus, ["parse the date", "parse the Zebra zebra", "quagga okapi", "删除"], top=2
    )
    assert {each.measure for each in (known, partly, nothing, unread)} == {"cosine"}
    assert all(-1 <= hit.score <= 1 + 1e-6 for hit in known.hits) and len(known.hits) == 2
    assert known.note == ""
    assert partly.note == "'parse the Zebra zebra': no function has zebra"
    assert nothing.note == "'quagga okapi': no function has any of its words"
    assert unread.note.startswith("'删除': the model knows no part of it")
    assert unread.note.endswith("no function has any of its words: these are no answers")


def test_words_are_looked_for_until_all_are_found() -> None:
    def documents() -> Iterator[str]:
        yield "def parse_date(x): pass"
        yield "sortLamps"
        raise AssertionError("read on")

    assert words_in_none(["parse date", "sort X"], documents()) == [[], []]
    assert words_in_none(["parseDate Lamp lamps", ""], ["parse", "lamps"]) == [["date", "lamp"], []]
