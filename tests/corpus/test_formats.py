import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.corpus.formats import Reading, lines, read_codesearchnet
from softnce_ray.corpus.making import import_corpus
from softnce_ray.corpus.pairs import CorpusError, Pair
from softnce_ray.corpus.store import Corpus

SAMPLES = Path(__file__).parents[2].parent / "shared" / "data" / "codesearchnet_sample"

RECORD = {
    "repo": "owner/name",
    "path": "src/a.py",
    "func_name": "A.add",
    "language": "python",
    "docstring": "Add two numbers.\n\nMore.",
    "docstring_tokens": ["Add", "two", "numbers", "."],
    "code": 'def add(a, b):\n    """Add two numbers."""\n    total = a + b\n    return total',
    "code_tokens": ["def", "add", "(", "a", ",", "b", ")", ":"],
    "url": "https://github.com/owner/name/blob/0123/src/a.py#L7-L10",
}
CODE = "def add(a, b):\n    total = a + b\n    return total"


def record(**changes):
    merged = {**RECORD, **changes}
    return {key: value for key, value in merged.items() if value is not ...}


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    data = b"".join(line + b"\n" for line in encoded)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read_one(folder, **changes):
    reading = read_codesearchnet(write(folder / "train.jsonl", record(**changes)), clean=True)
    (pair,) = reading.splits["train"]
    return pair


def test_a_record_becomes_a_pair(tmp_path):
    assert read_one(tmp_path) == Pair("Add two numbers.", CODE, "python", "owner/name", "src/a.py", 7, "A.add")


def test_the_origin_comes_from_the_url_where_fields_are_missing(tmp_path):
    pair = read_one(tmp_path, repo=..., path=..., func_name=...)
    assert (pair.package, pair.path, pair.line, pair.name) == ("owner/name", "src/a.py", 7, "")


def test_original_string_and_docstring_tokens_stand_in(tmp_path):
    pair = read_one(tmp_path, code=..., original_string=RECORD["code"], docstring=...)
    assert (pair.query, pair.code) == ("Add two numbers .", CODE)


def test_tokens_stand_in_for_code_that_does_not_parse(tmp_path):
    pair = read_one(tmp_path, code="def add(a, b)\n  print a", code_tokens=["def", "add", "print", "a"])
    assert pair.code == "def add print a"


def test_code_that_is_its_tokens_may_have_one_line(tmp_path):
    tokens = ["def", "add", "(", "a", ")", ":", "return", "a"]
    assert read_one(tmp_path, code=" ".join(tokens), code_tokens=tokens).code == "def add ( a ) : return a"


def test_codes_of_other_languages_stay_as_they_are(tmp_path):
    code = "func add() int {\n  return 1\n}"
    assert read_one(tmp_path, language="go", code=code).code == code


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"docstring": "Adds."}, "query_too_short"),
        ({"docstring": "See https://x.org for all"}, "refers_elsewhere"),
        ({"code": "def f():\n    return 1"}, "code_too_short"),
    ],
)
def test_data_rules_drop_records(tmp_path, changes, reason):
    reading = read_codesearchnet(write(tmp_path / "train.jsonl", record(**changes)), clean=True)
    assert (reading.dropped, reading.bad) == (Counter([reason]), Counter())
    assert [(each.reason, each.path, each.line) for each in reading.examples] == [(reason, "train.jsonl", 1)]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_published_records_are_taken_as_they_are(tmp_path, split):
    short = "def f():\n    return 1"
    given = [
        record(docstring_tokens=["Adds"], code=short),
        record(docstring="See  https://x.org", docstring_tokens=[], code=short),
    ]
    reading = read_codesearchnet(write(tmp_path / f"{split}.jsonl", *given))
    assert [(pair.query, pair.code) for pair in reading.splits[split]] == [
        ("Adds", short),
        ("See https://x.org", short),
    ]
    assert not reading.dropped
    assert read_codesearchnet(write(tmp_path / "no_split.jsonl", *given)).dropped.total() == 2


def test_an_answer_of_a_published_query_is_kept_however_long_it_is(tmp_path):
    path = write(tmp_path / "test.jsonl", record(code="(" * 100_001), record(code="(" * 100_001, code_tokens=...))
    assert [pair.code for pair in read_codesearchnet(path).splits["test"]] == ["def add ( a , b ) :", "(" * 100_001]
    assert read_codesearchnet(path, clean=True).dropped == Counter(code_too_long=2)


@pytest.mark.parametrize(
    ("given", "name"), [("C++", "c++"), ("C#", "c#"), (" Visual Basic .NET ", "visual basic .net"), ("F*", "f*")]
)
def test_a_language_may_have_any_name(tmp_path, given, name):
    path = write(tmp_path / "train.jsonl", record(language=given))
    (pair,) = read_codesearchnet(path).splits["train"]
    assert pair.language == name


BAD = [
    (b"{", "bad_json"),
    (b'{"a":' + b"[" * 100_000, "bad_json"),
    (b"\xff\xfe", "not_utf8"),
    ([1], "json_array"),
    ("text", "not_an_object"),
    (None, "not_an_object"),
    (record(code=..., code_tokens=...), "no_code"),
    (record(code="  ", code_tokens=...), "empty_code"),
    (record(code=7), "wrong_type"),
    (record(code_tokens=["a", 1]), "wrong_type"),
    (record(docstring_tokens="a"), "wrong_type"),
    (record(docstring=["a"], docstring_tokens=...), "wrong_type"),
    (record(docstring=..., docstring_tokens=...), "no_docstring"),
    (record(code="a\x00b"), "has_nul"),
    (record(docstring="a \ud800 b", docstring_tokens=...), "not_unicode"),
    (record(language=...), "no_language"),
    (record(language="../etc"), "wrong_language"),
    (record(repo=3), "wrong_type"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_counted_with_file_and_line(tmp_path, line, reason):
    path = write(tmp_path / "train.jsonl", record(), line)
    reading = read_codesearchnet(path, max_bad_share=0.5)
    assert reading.bad == Counter([reason])
    assert [(each.reason, each.path, each.line) for each in reading.examples] == [(reason, "train.jsonl", 2)]
    assert len(reading.splits["train"]) == 1
    with pytest.raises(CorpusError, match=f"at most 1.0% bad lines .* got 1 of 2 .*train.jsonl:2 {reason}"):
        read_codesearchnet(path)


def test_an_overlong_line_is_counted_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2_000)
    path = write(tmp_path / "train.jsonl", record(), record(docstring="a " * 9_000), record())
    reading = read_codesearchnet(path, max_bad_share=0.5)
    assert reading.bad == Counter(line_too_long=1)
    assert reading.lines == 3


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("python_train_0.jsonl.gz", "train"),
        ("valid/part.jsonl", "valid"),
        ("dev.jsonl", "valid"),
        ("test/train_of_thought/codebase.jsonl", "codebase"),
        ("contest.jsonl", None),
    ],
)
def test_names_tell_the_split(tmp_path, name, split):
    write(tmp_path / "in" / name, record())
    reading = read_codesearchnet(tmp_path / "in")
    assert list(reading.splits) == ([] if split is None else [split])
    assert len(reading.unsplit) == (split is None)


def test_the_partition_tells_the_split_where_names_do_not(tmp_path):
    path = write(tmp_path / "a.jsonl", record(partition="test"), record(partition="valid"))
    assert list(read_codesearchnet(path).splits) == ["test", "valid"]
    with pytest.raises(CorpusError, match="unknown_partition"):
        read_codesearchnet(write(tmp_path / "b.jsonl", record(partition="other")))
    with pytest.raises(CorpusError, match="to have a split or none"):
        read_codesearchnet(write(tmp_path / "c.jsonl", record(partition="test"), record()))


def test_a_candidate_needs_no_query(tmp_path):
    undocumented = record(docstring=..., docstring_tokens=...)
    path = write(tmp_path / "codebase.jsonl", undocumented, record(docstring="TODO"))
    assert [pair.query for pair in read_codesearchnet(path, clean=True).splits["codebase"]] == ["", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "got nothing"),
        ("a.csv", b"", "expected a .jsonl or .jsonl.gz file"),
        ("a.jsonl", b"", "got empty files"),
        ("a.jsonl.gz", b"no gzip", "Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}' * 100, mtime=0)[:-9], "expected to read"),
    ],
    # Names of their own: pytest would make one of the bytes, and what is collected must be the same in every process.
    ids=["no file", "another ending", "empty", "no gzip", "cut off"],
)
def test_what_cannot_be_read_is_an_error(tmp_path, name, content, message):
    path = tmp_path / (name or "none.jsonl")
    if name:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_codesearchnet(path)


def test_a_folder_without_records_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="files below"):
        read_codesearchnet(tmp_path)


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(
            st.sampled_from(sorted([*RECORD, "partition", "original_string"])),
            st.none() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3),
        ).map(lambda value: json.dumps({**RECORD, **value}).encode()),
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(lines=LINES, name=st.sampled_from(["a.jsonl", "train.jsonl", "codebase.jsonl", "a.jsonl.gz"]))
def test_arbitrary_bytes_give_rows_or_a_corpus_error(tmp_path_factory, lines, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(b"\n".join(lines))
    if name.endswith(".gz") and len(lines) % 2:
        path.write_bytes(gzip.compress(b"\n".join(lines)))
    try:
        reading = read_codesearchnet(path, max_bad_share=1.0)
        import_corpus(path, path.parent / "corpus", max_bad_share=1.0)
    except CorpusError:
        return
    assert isinstance(reading, Reading)
    Corpus.open(path.parent / "corpus")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample of CodeSearchNet is not there")
@pytest.mark.parametrize("language", ["python", "go", "ruby", "php", "java", "javascript"])
def test_real_records_become_a_corpus(tmp_path, language):
    manifest = import_corpus(SAMPLES / language, tmp_path / "c")
    counts = manifest.languages[language].pairs
    assert counts["codebase"] >= 495
    assert counts["valid"] >= 30
    assert "lines" not in manifest.dropped or not manifest.dropped["lines"]
    corpus = Corpus.open(tmp_path / "c")
    assert "" not in corpus.table(language, "valid")["query"].to_pylist()
    answers = set(corpus.table(language, "test")["code"].to_pylist())
    assert not answers & set(corpus.table(language, "codebase")["code"].to_pylist())
