"""Which codes answer which queries: kept where it is not one each, whole benchmarks, and tables that are damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softnce_ray.corpus import Corpus, CorpusError, Pair, build_corpus, copy_corpus, import_corpus
from softnce_ray.corpus.planting import plant
from softnce_ray.corpus.qrels import codebase_of
from softnce_ray.corpus.verifying import Verify

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the sample data are not there")


def pair(number: int, **changes: Any) -> Pair:
    code = f"def f{number}(a{number}):\n    b{number} = a{number} + {number}\n    return b{number}"
    return replace(Pair(f"Give back number {number}", code, "python", "p", f"{number}.py", 1, f"f{number}"), **changes)


# Row by row: valid 0, 1; test 2 (the code of 1), 3, 4 (that of 3, laid out otherwise); codebase 5, 6.
VALID = [pair(0), pair(1)]
TEST = [pair(2, code=pair(1).code), pair(3), pair(4, code=pair(3).code.replace("    ", "  "))]
SPLITS = {"train": [pair(9)], "valid": VALID, "test": TEST, "codebase": [pair(5, query=""), pair(6, query="")]}
ANSWERS = {"python": {VALID[0].id: [pair(6, query="").id, TEST[1].id], TEST[0].id: [VALID[1].id]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_corpus(SPLITS, tmp_path / "corpus", answers=ANSWERS)
    return tmp_path / "corpus"


def test_a_code_of_several_queries_stands_once_and_a_query_may_have_several(folder: Path) -> None:
    corpus = Corpus.open(folder)
    assert corpus.manifest.languages["python"].pairs == {"train": 1, "valid": 2, "test": 3, "codebase": 2}
    codebase = codebase_of(corpus, "python")
    assert codebase.rows is not None
    assert codebase.rows.tolist() == [0, 1, 3, 5, 6]
    # The rows' places are 0 to 4: query 0 of valid has its own code, then 6, then 3.
    assert codebase.right["valid"].tolist() == [[0, 4, 2], [1, -1, -1]]
    assert codebase.right["test"].tolist() == [[1], [2], [2]]
    codes = [
        code for split in ("valid", "test", "codebase") for code in corpus.table("python", split)["code"].to_pylist()
    ]
    assert codebase.of(codes) == [pair(number).code for number in (0, 1, 3, 5, 6)]


def test_codes_of_their_own_make_no_table_and_the_fingerprint_that_they_always_made(tmp_path: Path) -> None:
    given = {**SPLITS, "test": [pair(2), pair(3)]}
    manifest = build_corpus(given, tmp_path / "corpus")
    assert manifest.languages["python"].qrels is None
    assert not (tmp_path / "corpus" / "python" / "qrels.parquet").exists()
    assert "qrels" not in (tmp_path / "corpus" / "manifest.json").read_text()
    codebase = codebase_of(Corpus.open(tmp_path / "corpus"), "python")
    assert codebase.rows is None
    assert {split: rows.tolist() for split, rows in codebase.right.items()} == {"valid": [[0], [1]], "test": [[2], [3]]}
    # What says the same in other words is no table either.
    again = build_corpus(given, tmp_path / "again", answers={"python": {}})
    assert again.fingerprint == manifest.fingerprint


def test_what_is_right_is_part_of_the_fingerprint_and_of_a_copy(folder: Path, tmp_path: Path) -> None:
    shared = build_corpus(SPLITS, tmp_path / "shared").fingerprint
    copied = copy_corpus(folder, tmp_path / "copied")
    assert copied.fingerprint == Corpus.open(tmp_path / "copied").fingerprint != shared
    np.testing.assert_array_equal(
        codebase_of(Corpus.open(tmp_path / "copied"), "python").right["valid"],
        codebase_of(Corpus.open(folder), "python").right["valid"],
    )
    build_corpus(SPLITS, folder, overwrite=True)  # the table of another corpus is no stranger's file


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"go": {}}, "languages of pairs that come split, got 'go'"),
        ({"python": {"none": [VALID[0].id]}}, "1 of no such pair, as 'none'"),
        ({"python": {VALID[0].id: [pair(9).id]}}, "answers that are pairs of valid, test or codebase, got 1"),
    ],
)
def test_wrong_answers_are_an_error_and_leave_nothing(tmp_path: Path, answers: dict, says: str) -> None:
    with pytest.raises(CorpusError, match=says):
        build_corpus(SPLITS, tmp_path / "corpus", answers=answers)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_is_said(folder: Path) -> None:
    path = folder / "python" / "qrels.parquet"
    whole = pq.read_table(path)
    for table, says in (
        (whole.slice(0, 4), "a right code for each query"),
        (whole.set_column(2, whole.schema.field("code"), pa.array([7] * len(whole), pa.int32())), "rows of the corpus"),
        (whole.drop(["relevance"]), "columns"),
    ):
        pq.write_table(table, path)
        with pytest.raises(CorpusError, match=f"expected {says}.* in .*qrels.parquet, got .*: the corpus was changed"):
            Corpus.open(folder)
    pq.write_table(pa.concat_tables([whole.slice(0, 1), whole.slice(2, 1), whole.slice(1, 1), whole.slice(3)]), path)
    Corpus.open(folder, verify=Verify.NONE)
    with pytest.raises(CorpusError, match=r"expected the rows of the manifest in .*qrels"):
        Corpus.open(folder)
    path.unlink()
    with pytest.raises(CorpusError, match=r"expected right codes of queries in .*, got no file"):
        Corpus.open(folder)


def test_nothing_is_planted_where_queries_share_codes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="expected a corpus whose queries have a code of their own each"):
        plant(folder, tmp_path / "planted")


# Published benchmarks


@needs_data
def test_cosqa_is_imported_whole(tmp_path: Path) -> None:
    manifest = import_corpus(DATA / "cosqa", tmp_path / "cosqa")
    assert manifest.languages["python"].pairs["valid"] == 500
    assert not {each for reasons in manifest.dropped.values() for each in reasons} - {"distractor_is_an_answer"}
    codebase = codebase_of(Corpus.open(tmp_path / "cosqa"), "python")
    assert codebase.rows is not None
    assert len(codebase.rows) == 6_267  # all codes of the map, once
    records = json.loads((DATA / "cosqa" / "cosqa-retrieval-dev-500.json").read_text())
    # Queries share a code exactly where the benchmark gives them the same index.
    own = codebase.right["valid"][:, 0]
    indices = [record["retrieval_idx"] for record in records]
    assert len(set(own.tolist())) == len(set(indices)) == len(set(zip(own.tolist(), indices, strict=True))) == 478


@needs_data
@pytest.mark.parametrize("language", ["go", "java", "javascript", "php", "python", "ruby"])
def test_the_sample_of_codesearchnet_is_imported_whole(tmp_path: Path, language: str) -> None:
    source = DATA / "codesearchnet_sample" / language
    manifest = import_corpus(source, tmp_path / "c")
    lines = {split: len((source / f"{split}.jsonl").read_text().splitlines()) for split in ("valid", "test")}
    assert {split: manifest.languages[language].pairs[split] for split in lines} == lines
    asked = [json.loads(line)["docstring_tokens"] for line in (source / "valid.jsonl").read_text().splitlines()]
    queries = Corpus.open(tmp_path / "c").table(language, "valid", ["query"])["query"].to_pylist()
    assert queries == [" ".join(" ".join(tokens).split()) for tokens in asked]
