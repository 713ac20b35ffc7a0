"""Whatever the bytes are, a reader gives rows or says in a CorpusError what is wrong: nothing else is raised."""

import csv
import gzip
import io
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softnce_ray.corpus.formats import (
    Judgements,
    Reading,
    detect_format,
    open_pairs,
    read_codesearchnet,
    read_cosqa,
    read_graphcodebert,
    read_judgements,
    read_table,
)
from softnce_ray.corpus.pairs import SPLITS, CorpusError, Pair, pairs_to_table

CODE = 'def add(a, b):\n    """Add two numbers."""\n    total = a + b\n    return total'
URL = "https://github.com/owner/name/blob/0123/src/a.py#L7-L10"
RECORD = {
    "repo": "owner/name",
    "language": "python",
    "docstring": "Add two numbers.",
    "docstring_tokens": ["Add", "two", "numbers"],
    "code": CODE,
    "code_tokens": ["def", "add"],
    "url": URL,
    "partition": "train",
}
QUESTION = {"doc": "add two numbers", "code": CODE, "code_tokens": "def add", "label": 1, "retrieval_idx": 0}
JUDGEMENT = {"language": "python", "query": "add numbers", "url": URL, "relevance": 3}


def packed(table, write):
    sink = io.BytesIO()
    with write(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def lines(*records):
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


def csv_of(rows):
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


TABLE = pa.Table.from_pylist([RECORD] * 3)
DICTIONARY = TABLE.set_column(1, "language", TABLE["language"].combine_chunks().dictionary_encode())
VALID = {
    "train.jsonl": lines(RECORD, RECORD),
    "train.jsonl.gz": gzip.compress(lines(RECORD, RECORD)),
    "list.txt": f"{URL}\nhttps://x\n".encode(),
    "dev.json": json.dumps([QUESTION, QUESTION]).encode(),
    "dev.json.gz": gzip.compress(json.dumps([QUESTION]).encode()),
    "map.txt": json.dumps({CODE: 0, "def f():\n  pass": 1}).encode(),
    "judgements": lines(JUDGEMENT, {**JUDGEMENT, "relevance": 1.5}),
    "train.csv": csv_of([{key: value for key, value in RECORD.items() if isinstance(value, str)}] * 3),
    "train.arrow": packed(TABLE, pa.ipc.new_stream),
    "dictionary.arrow": packed(DICTIONARY, pa.ipc.new_stream),
    "train.feather": packed(TABLE, pa.ipc.new_file),
    "train.parquet": packed(TABLE, pq.ParquetWriter),
    "pickle": pickle.dumps([RECORD]),
}


@st.composite
def damaged(draw, name):
    """A valid file with some stretches of it replaced, removed, repeated or cut off."""
    data = VALID[name]
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 0, 64, 10_000]))
        end = min(len(data), start + size)
        other = st.binary(max_size=8) | st.sampled_from([data[start:end] * 2, b"\0", b"\xff" * size, b"\n"])
        # Often of equal length: in a binary file all that follows stays where it is.
        same = st.binary(min_size=min(size, 8), max_size=min(size, 8))
        data = data[:start] + draw(same | other if size <= 8 else other) + data[end:]
    return data


def content(name):
    others = st.binary(max_size=80) | st.sampled_from(sorted(VALID)).flatmap(damaged)
    return damaged(name) | damaged(name) | damaged(name) | others


# Values where others are expected: every field, and whole records.
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("a\0b\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def odd(record):
    fields = st.dictionaries(st.sampled_from(sorted(record)), ODD, max_size=3)
    return ODD | fields.map(lambda changes: {**record, **changes})


FUZZ = settings(
    max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder that each example fills anew: making thousands of them takes longer than reading."""
    return tmp_path_factory.mktemp("fuzz")


def fill(folder, files):
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def check(read, path, **options):
    """Read twice: rows or a CorpusError each time, and the same ones."""
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(read(path, max_bad_share=1.0, **options))
        except CorpusError as error:
            outcomes.append(str(error))
    assert repr(outcomes[0]) == repr(outcomes[1])
    if isinstance(outcomes[0], str):
        assert "expected" in outcomes[0]
        assert "got" in outcomes[0]
    elif isinstance(outcomes[0], Reading):
        result = outcomes[0]
        rows = [pair for pairs in result.splits.values() for pair in pairs] + result.unsplit
        assert all(isinstance(pair, Pair) and pair.code.strip() for pair in rows)
        assert set(result.splits) <= set(SPLITS)
        pairs_to_table(rows)
        assert {each.reason for each in result.examples} == set(result.bad) | set(result.dropped)
        assert result.bad.total() <= result.lines
    else:
        assert isinstance(outcomes[0], Judgements)
        assert all(0 <= value <= 3 for value in outcomes[0].relevance.values())
    try:
        detect_format(path)
        stream = open_pairs(path, max_bad_share=1.0)
        for _ in stream:
            pass
    except CorpusError:
        pass


@FUZZ
@given(data=st.data(), name=st.sampled_from(["train.jsonl", "a.jsonl", "codebase.jsonl.gz", "train.jsonl.gz"]))
def test_codesearchnet_files(folder, data, name):
    valid = "train.jsonl.gz" if name.endswith(".gz") else "train.jsonl"
    fill(folder, {name: data.draw(content(valid))})
    check(read_codesearchnet, folder / name, clean=data.draw(st.booleans()))


@FUZZ
@given(records=st.lists(odd(RECORD), max_size=3))
def test_codesearchnet_records(folder, records):
    fill(folder, {"a.jsonl": lines(*records)})
    check(read_codesearchnet, folder)


@FUZZ
@given(listed=content("list.txt"), records=content("train.jsonl"), name=st.sampled_from(["train.txt", "codebase.txt"]))
def test_graphcodebert_folders(folder, listed, records, name):
    fill(folder, {name: listed, "a.jsonl": records, "a.pkl": VALID["pickle"]})
    check(read_graphcodebert, folder)


@FUZZ
@given(records=content("dev.json"), codes=content("map.txt"), both=st.booleans())
def test_cosqa_files(folder, records, codes, both):
    fill(folder, {"dev.json": records, **({"code_idx_map.txt": codes} if both else {})})
    check(read_cosqa, folder)


@FUZZ
@given(
    records=st.lists(odd(QUESTION), max_size=3),
    codes=odd({CODE: 0, "def f():\n  pass": 1}),
    packing=st.booleans(),
)
def test_cosqa_values(folder, records, codes, packing):
    data = json.dumps(records).encode()
    files = {"dev.json.gz": gzip.compress(data)} if packing else {"dev.json": data}
    fill(folder, {**files, "code_idx_map.txt": json.dumps(codes).encode()})
    check(read_cosqa, folder)


@FUZZ
@given(said=content("judgements"), codes=content("train.jsonl"))
def test_judgement_files(folder, said, codes):
    fill(folder, {"judgements.jsonl": said, "codes.jsonl": codes})
    check(read_judgements, folder)


@FUZZ
@given(said=st.lists(odd(JUDGEMENT), max_size=4), codes=st.lists(odd(RECORD), max_size=2))
def test_judgement_values(folder, said, codes):
    fill(folder, {"judgements.jsonl": lines(*said), "codes.jsonl": lines(RECORD, *codes)})
    check(read_judgements, folder)


@pytest.mark.parametrize("name", ["train.csv", "train.arrow", "dictionary.arrow", "train.feather", "train.parquet"])
@FUZZ
@given(data=st.data())
def test_table_files(folder, name, data):
    fill(folder, {name: data.draw(content(name))})
    columns = data.draw(st.sampled_from([None, {"query": "docstring", "code": "code"}, {"name": "nothing"}]))
    check(read_table, folder / name, columns=columns)


@FUZZ
@given(rows=st.lists(odd(RECORD), max_size=3), name=st.sampled_from(["train.json", "a.jsonl"]), whole=st.booleans())
def test_table_rows(folder, rows, name, whole):
    fill(folder, {name: json.dumps(rows).encode() if whole else lines(*rows)})
    check(read_table, folder / name)


@FUZZ
@given(
    columns=st.dictionaries(
        st.sampled_from(["docstring", "code", "language", "partition", "url", "code_tokens"]),
        st.lists(st.none() | st.binary(max_size=6), min_size=2, max_size=2)
        | st.lists(st.none() | st.integers(0, 9), min_size=2, max_size=2)
        | st.lists(st.none() | st.lists(st.text(max_size=3), max_size=2), min_size=2, max_size=2)
        | st.lists(st.none() | st.text(max_size=6), min_size=2, max_size=2),
        max_size=6,
    ),
    suffix=st.sampled_from([".arrow", ".parquet"]),
)
def test_table_types(folder, columns, suffix):
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    fill(folder, {f"train{suffix}": packed(table, pq.ParquetWriter if suffix == ".parquet" else pa.ipc.new_stream)})
    check(read_table, folder, language="python")
