import json
import shutil

import pyarrow.parquet as pq
import pytest

from softnce_ray.corpus.build import build_corpus
from softnce_ray.corpus.pairs import PAIR_SCHEMA, CorpusError, Pair
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.digests import with_checksum


def pairs(count):
    return [
        Pair(f"Get value {n}", f"def f{n}():\n    x = {n}\n    return x", "python", "p", "a", n + 1, f"f{n}")
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    build_corpus({"train": pairs(4), "test": pairs(5)[4:]}, tmp_path / "corpus", recipe={"limit": 5})
    return tmp_path / "corpus"


def change_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(with_checksum({**json.loads(path.read_text()), **changes})))


def test_tables_have_the_pairs_in_their_order(folder):
    table = Corpus.open(folder).table("python", "train")
    assert table.schema.equals(PAIR_SCHEMA)
    assert table["name"].to_pylist() == ["f0", "f1", "f2", "f3"]
    assert table["id"].to_pylist() == [pair.id for pair in pairs(4)]
    assert table["line"].to_pylist() == [1, 2, 3, 4]


def test_tables_can_be_read_in_part(folder):
    corpus = Corpus.open(folder)
    assert corpus.table("python", "test", ["query", "id"]).column_names == ["query", "id"]


def test_a_missing_codebase_is_an_empty_table(folder):
    corpus = Corpus.open(folder)
    assert corpus.table("python", "codebase").schema.equals(PAIR_SCHEMA)
    assert corpus.table("python", "codebase", ["code"]).num_rows == 0


def test_the_manifest_tells_what_was_asked(folder):
    manifest = Corpus.open(folder).manifest
    assert manifest.recipe == {"limit": 5}
    assert manifest.languages["python"].pairs == {"train": 4, "valid": 0, "test": 1}
    assert manifest.languages["python"].packages["train"] == {"p": 4}
    assert manifest.licence.startswith("unknown")


@pytest.mark.parametrize(
    ("language", "split", "columns", "message"),
    [
        ("go", "train", None, "expected a language of python .*'go'"),
        ("python", "dev", None, "expected a split of train, valid, test, codebase .*'dev'"),
        ("python", "train", ["codes"], "expected a column of id, query, .*'codes'"),
    ],
)
def test_unknown_names_are_errors(folder, language, split, columns, message):
    with pytest.raises(CorpusError, match=message):
        Corpus.open(folder).table(language, split, columns)


def test_the_fingerprint_is_of_the_rows_alone(folder, tmp_path):
    before = Corpus.open(folder).fingerprint
    moved = tmp_path / "elsewhere" / "corpus"
    shutil.copytree(folder, moved)
    change_manifest(moved, created="2001-01-01T00:00:00+00:00")
    path = moved / "python" / "train.parquet"
    old_bytes = path.read_bytes()
    pq.write_table(pq.read_table(path), path, compression="none", row_group_size=2)
    assert path.read_bytes() != old_bytes
    assert Corpus.open(moved).fingerprint == before
    assert build_corpus({"train": pairs(4), "test": pairs(5)[4:]}, tmp_path / "b").fingerprint == before


def test_the_fingerprint_changes_with_a_row(folder, tmp_path):
    before = Corpus.open(folder).fingerprint
    others = {
        "row order": {"train": pairs(4)[::-1], "test": pairs(5)[4:]},
        "split": {"train": pairs(4), "valid": pairs(5)[4:]},
        "fewer": {"train": pairs(3), "test": pairs(5)[4:]},
    }
    found = {name: build_corpus(given, tmp_path / name).fingerprint for name, given in others.items()}
    assert len({before, *found.values()}) == 4


def test_changed_rows_are_found_by_verify(folder):
    path = folder / "python" / "train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([0, 1, 3, 2]), path)
    assert Corpus.open(folder, verify=Verify.NONE).is_trusted
    with pytest.raises(CorpusError, match=r"train\.parquet, got other rows: "):
        Corpus.open(folder)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="got nothing: correct the path"):
        Corpus.open(tmp_path / "none")


def test_a_folder_without_manifest_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match=r"expected manifest\.json"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "expected JSON"),
        (b"\xff", "expected JSON"),
        (b"[" * 100_000, "expected JSON .* got values nested too deeply"),
        (b"[]", "format version 1 .* got None"),
        (b'{"format_version": 99}', "format version 1 .* got 99"),
        (b'{"format_version": 1}', "wrong value at created"),
    ],
)
def test_a_broken_manifest_is_an_error(folder, content, message):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        Corpus.open(folder)


def test_a_language_that_leads_out_of_the_folder_is_an_error(folder):
    counts = Corpus.open(folder).manifest.languages["python"].model_dump()
    change_manifest(folder, languages={"../x": counts})
    with pytest.raises(CorpusError, match=r"wrong value at languages \(expected a language's name, got '\.\./x'\)"):
        Corpus.open(folder)


def test_a_missing_table_is_an_error(folder):
    (folder / "python" / "test.parquet").unlink()
    with pytest.raises(CorpusError, match=r"expected 1 rows in .*test\.parquet, got no file"):
        Corpus.open(folder)


def test_a_cut_table_is_an_error(folder):
    path = folder / "python" / "test.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorpusError, match="expected a parquet table"):
        Corpus.open(folder)


def test_a_table_with_other_rows_or_columns_is_an_error(folder):
    path = folder / "python" / "train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 3), path)
    with pytest.raises(CorpusError, match=r"expected 4 rows .* got 3 rows"):
        Corpus.open(folder)
    pq.write_table(table.drop_columns(["name"]), path)
    with pytest.raises(CorpusError, match="expected columns"):
        Corpus.open(folder)
