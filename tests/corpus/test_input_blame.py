"""Files of pairs that are written in another way than they should be: read where that is plain, or named as what they
are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus.formats import open_pairs, read_codesearchnet, read_judgements, read_table
from softnce_ray.corpus.pairs import CorpusError

CODE = "def add(a, b):\n    total = a + b\n    return total"


def record(number: int = 0, **changes: object) -> dict[str, object]:
    plain = {
        "docstring": f"Add two numbers of kind {number}.",
        "code": CODE,
        "language": "python",
        "repo": f"o/p{number}",
    }
    return {**plain, **changes}


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def lines(*records: dict[str, object]) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_in_a_file_of_lines_is_called_one(tmp_path: Path, indent: int | None) -> None:
    path = written(tmp_path / "train.jsonl", json.dumps([record(1), record(2)], indent=indent))
    with pytest.raises(CorpusError, match=r"train\.jsonl:1 json_array.*got an array: name the file \.json, or write"):
        list(open_pairs(path))
    path.rename(tmp_path / "train.json")
    assert len(read_table(tmp_path / "train.json").splits["train"]) == 2  # the remedy


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.csv"])
def test_utf_16_is_called_by_its_name(tmp_path: Path, encoding: str, name: str) -> None:
    text = {
        ".jsonl": lines(record()),
        ".json": json.dumps([record()]),
        ".csv": "query,code,language\nAdd two numbers.,x,python\n",
    }
    path = written(tmp_path / name, text[Path(name).suffix], encoding)
    with pytest.raises(CorpusError, match=r"expected text in UTF-8 in .*, got UTF-16: save it as UTF-8"):
        list(open_pairs(path))


def test_judgements_in_utf_16_are_called_so_too(tmp_path: Path) -> None:
    written(tmp_path / "codes.jsonl", lines(record(url="u")), "utf-16")
    written(tmp_path / "judgements.jsonl", lines({"query": "q", "url": "u", "relevance": 1}))
    with pytest.raises(CorpusError, match="got UTF-16"):
        read_judgements(tmp_path)


@pytest.mark.parametrize("split", ["train", "all"])  # published records are read of their tokens first
@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_field_beside_a_filled_one_is_none(tmp_path: Path, split: str, empty: str) -> None:
    records = [
        record(docstring=empty, docstring_tokens=["Add", "two", "numbers", "."]),
        record(docstring="Add two numbers .", docstring_tokens=[]),
        record(docstring="Add two numbers .", docstring_tokens=[empty]),
        record(docstring="Add two numbers .", code=empty, original_string=CODE),
        record(docstring="Add two numbers .", code=empty, code_tokens=CODE.split(" ")),
        record(docstring="Add two numbers .", language=empty),
    ]
    reading = read_codesearchnet(written(tmp_path / f"{split}.jsonl", lines(*records)), language="python")
    assert not reading.bad
    assert not reading.dropped
    pairs = reading.splits[split] if split == "train" else reading.unsplit
    assert [(pair.query, pair.code, pair.language) for pair in pairs] == [("Add two numbers .", CODE, "python")] * 6


def test_fields_that_are_all_empty_are_what_they_were(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl", lines(record(), record(docstring="", docstring_tokens=[])))
    assert read_codesearchnet(path).dropped == Counter(no_description=1)


def test_a_language_that_is_no_name_is_told_its_rule(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl", lines(record(language="c/c++")))
    with pytest.raises(CorpusError, match=r"wrong_language\): correct the languages: expected a language's name of at"):
        list(open_pairs(path))
    for read in (open_pairs, read_judgements):
        with pytest.raises(CorpusError, match=r"--language: expected a language's name of .*, got 'c/c\+\+'"):
            read(path, language="c/c++")
    path = written(tmp_path / "train.jsonl", lines(record(language="")))
    with pytest.raises(CorpusError, match=r"no_language\): give --language"):
        list(open_pairs(path))


def imported(path: Path, out: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["corpus", "import", str(path), "--out", str(out), *options])
    assert done.exception is None, done.exception
    return done.stderr


def test_equal_queries_with_different_codes_of_a_table_are_noted(tmp_path: Path) -> None:
    def codes(start: int) -> list[dict[str, object]]:
        return [{"query": f"Add numbers {n // 3}", "code": f"{CODE} + {n}"} for n in range(start, start + 9)]

    def unlike(start: int) -> list[dict[str, object]]:
        return [{"query": f"Add numbers {n}", "code": f"{CODE} + {n}"} for n in range(start, start + 9)]

    for split, rows in (("train", unlike(0)), ("valid", unlike(100)), ("test", codes(198))):
        written(tmp_path / "in" / f"{split}.jsonl", lines(*rows))
    assert (
        "note: python: 9 pairs of test have a query that another one has with another code, and only its own code "
        "counts as right: give one pair for each query, or say in the query what differs"
    ) in imported(tmp_path / "in", tmp_path / "c", "--language", "python", "--format", "table")
    written(tmp_path / "in" / "test.jsonl", lines(*unlike(200)))
    assert "another code" not in imported(tmp_path / "in", tmp_path / "d", "--language", "python", "--format", "table")
