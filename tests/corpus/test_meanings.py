import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softnce_ray.corpus.build import build_corpus
from softnce_ray.corpus.pairs import CorpusError, Pair
from softnce_ray.corpus.store import Corpus, fingerprint
from softnce_ray.corpus.verifying import Verify


def pair(number, query="Get the value"):
    code = f"def f{number}():\n    x = {number}\n    return x"
    return Pair(f"{query} {number}".strip() if query else "", code, "python", "p", "a", number + 1, f"f{number}")


TRAIN = [pair(number) for number in range(4)]
TEST = [pair(number) for number in range(4, 7)]
CODEBASE = [pair(number, "") for number in range(7, 10)]
SPLITS = {"train": TRAIN, "test": TEST, "codebase": CODEBASE}
GROUPS = {TEST[0].id: 0, CODEBASE[0].id: 0, TEST[1].id: 1, CODEBASE[1].id: 1}


@pytest.fixture
def folder(tmp_path):
    build_corpus(SPLITS, tmp_path / "corpus", meanings={"python": GROUPS})
    return tmp_path / "corpus"


def path(folder):
    return folder / "python" / "meanings.parquet"


def test_meanings_are_read_as_they_were_given(folder):
    assert Corpus.open(folder).meanings("python") == GROUPS


def test_a_corpus_without_meanings_has_none_and_a_manifest_as_ever(tmp_path):
    manifest = build_corpus(SPLITS, tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.meanings("python") is None
    assert not path(tmp_path / "corpus").exists()
    assert "meanings" not in (tmp_path / "corpus" / "manifest.json").read_text()
    # Fixed: corpora and results of earlier versions must stay comparable.
    assert manifest.fingerprint.startswith("2d9494bc60eb8fb8")


def test_meanings_are_part_of_the_fingerprint(folder, tmp_path):
    without = build_corpus(SPLITS, tmp_path / "without").fingerprint
    others = build_corpus(SPLITS, tmp_path / "others", meanings={"python": {TEST[0].id: 0}}).fingerprint
    assert len({without, others, Corpus.open(folder).fingerprint}) == 3
    turned = dict(reversed(GROUPS.items()))
    assert build_corpus(SPLITS, tmp_path / "turned", meanings={"python": turned}).fingerprint == (
        Corpus.open(folder).fingerprint
    )


def test_no_meanings_at_all_can_be_known(tmp_path):
    build_corpus(SPLITS, tmp_path / "corpus", meanings={"python": {}})
    assert Corpus.open(tmp_path / "corpus").meanings("python") == {}


def test_nothing_is_written_of_training_or_of_what_was_dropped(tmp_path):
    repeated = Pair("Other words for it", TEST[0].code, "python", "p", "b", 1, "g")
    splits = {**SPLITS, "codebase": [*CODEBASE, repeated]}
    groups = {**GROUPS, TRAIN[0].id: 0, repeated.id: 0}
    build_corpus(splits, tmp_path / "corpus", meanings={"python": groups}, near_duplicate=None)
    assert Corpus.open(tmp_path / "corpus").meanings("python") == GROUPS


def test_meanings_need_queries_with_a_code_of_their_own(tmp_path):
    repeated = Pair("Other words for it", TEST[0].code, "python", "p", "b", 1, "g")
    with pytest.raises(CorpusError, match="expected queries of valid and test with a code of their own each"):
        build_corpus({**SPLITS, "test": [*TEST, repeated]}, tmp_path / "corpus", meanings={"python": GROUPS})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("meanings", "says"),
    [
        ({"go": {}}, "languages of python, got 'go'"),
        ({"python": {"none": 1}}, "1 of no pair, as 'none'"),
        ({"python": {TEST[0].id: -1}}, "meanings of 0 to .*, got -1"),
        ({"python": {TEST[0].id: 2**31}}, "got 2147483648"),
    ],
)
def test_wrong_meanings_are_an_error_and_leave_nothing(tmp_path, meanings, says):
    with pytest.raises(CorpusError, match=says):
        build_corpus(SPLITS, tmp_path / "corpus", meanings=meanings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_said(folder):
    path(folder).unlink()
    with pytest.raises(CorpusError, match=r"expected meanings of pairs in .*meanings\.parquet, got no file"):
        Corpus.open(folder)


def test_a_broken_table_is_said(folder):
    path(folder).write_bytes(b"no parquet")
    with pytest.raises(CorpusError, match="expected a parquet table"):
        Corpus.open(folder)


def test_a_table_with_other_columns_is_said(folder):
    pq.write_table(pa.table({"id": ["a"], "group": [1]}), path(folder))
    with pytest.raises(CorpusError, match=r"expected columns \['id', 'meaning'\]"):
        Corpus.open(folder)


def test_changed_meanings_are_found_when_verified(folder):
    table = pq.read_table(path(folder))
    pq.write_table(table.slice(1), path(folder))
    Corpus.open(folder, verify=Verify.NONE)
    with pytest.raises(CorpusError, match=r"expected the rows of the manifest in .*meanings"):
        Corpus.open(folder)


def test_meanings_of_an_unknown_language_are_an_error(folder):
    with pytest.raises(CorpusError, match="expected a language of python"):
        Corpus.open(folder).meanings("go")


def test_a_manifest_of_an_earlier_version_still_loads(folder):
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    del content["languages"]["python"]["meanings"], content["checksum"]
    content["fingerprint"] = fingerprint({"python": content["languages"]["python"]["digests"]})
    file.write_text(json.dumps(content))
    assert Corpus.open(folder).meanings("python") is None
