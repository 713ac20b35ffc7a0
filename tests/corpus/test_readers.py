import csv
import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softnce_ray.corpus.formats import (
    FORMATS,
    PairStream,
    detect_format,
    lines,
    open_pairs,
    read_codesearchnet,
    read_cosqa,
    read_graphcodebert,
    read_judgements,
    read_table,
    reading,
)
from softnce_ray.corpus.pairs import CorpusError, Pair

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the samples of real data sets are not there")

DOCUMENTED = 'def add(a, b):\n    """Add two numbers."""\n    total = a + b\n    return total'
CODE = "def add(a, b):\n    total = a + b\n    return total"
URL = "https://github.com/owner/name/blob/0123/src/a.py#L7-L10"


def record(**changes):
    merged = {
        "repo": "owner/name",
        "language": "python",
        "docstring": "Add two numbers.\n\nMore.",
        "docstring_tokens": ["Add", "two", "numbers", "."],
        "code": DOCUMENTED,
        "url": URL,
        **changes,
    }
    return {key: value for key, value in merged.items() if value is not ...}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = data if isinstance(data, bytes) else data.encode()
    path.write_bytes(gzip.compress(encoded) if path.suffix == ".gz" else encoded)
    return path


def write_lines(path, *records):
    parts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in records]
    return write(path, b"".join(part + b"\n" for part in parts))


def places(reading):
    return [(each.reason, each.path, each.line) for each in reading.examples]


# Streams


def test_a_stream_gives_pairs_one_by_one_and_counts_anew_each_time(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", record(), record(docstring="Adds."), record())
    stream = open_pairs(path, clean=True)
    assert isinstance(stream, PairStream)
    first = next(iter(stream))
    assert stream.recipe == {"format": "codesearchnet", "clean": True}
    assert first == ("train", Pair("Add two numbers.", CODE, "python", "owner/name", "src/a.py", 7, ""))
    assert stream.lines == 1
    for _ in range(2):
        assert [split for split, _ in stream] == ["train", "train"]
        assert (stream.lines, stream.dropped, stream.bad) == (3, Counter(query_too_short=1), Counter())


def test_reading_stops_early_when_a_long_input_is_mostly_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "EARLY_LINES", 10)
    stream = open_pairs(write_lines(tmp_path / "train.jsonl", *[b"{"] * 500))
    with pytest.raises(CorpusError, match="got 10 of 10"):
        list(stream)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(tmp_path, share):
    with pytest.raises(CorpusError, match="share of bad lines from 0 to 1"):
        open_pairs(write_lines(tmp_path / "train.jsonl", record()), max_bad_share=share)
    with pytest.raises(CorpusError, match="share of bad lines from 0 to 1"):
        read_judgements(write_judged(tmp_path, [judgement()]), max_bad_share=share)


@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_line_is_counted_without_being_held(tmp_path, packed):
    path = tmp_path / ("train.jsonl.gz" if packed else "train.jsonl")
    with gzip.open(path, "wb", 1) if packed else open(path, "wb") as file:
        file.write(json.dumps(record()).encode() + b"\n")
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + json.dumps(record()).encode())
    tracemalloc.start()
    result = read_codesearchnet(path, max_bad_share=0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (result.bad, len(result.splits["train"])) == (Counter(line_too_long=1), 2)
    assert places(result) == [("line_too_long", "train.jsonl" + ".gz" * packed, 2)]
    assert peak < 50_000_000


def test_lines_are_not_held_while_they_are_read(tmp_path):
    path = write_lines(tmp_path / "train.jsonl.gz", *[record(comment="x" * 2_000)] * 1_000)
    tracemalloc.start()
    assert sum(1 for _ in open_pairs(path)) == 1_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_file_that_breaks_off_says_after_which_line(tmp_path):
    path = write_lines(
        tmp_path / "train.jsonl.gz", *[record(docstring=f"Add {n * 7919} numbers.") for n in range(2_000)]
    )
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(CorpusError, match=r"expected to read .*train.jsonl.gz to its end.* after line 1\d\d\d"):
        read_codesearchnet(path)


def test_a_code_that_would_take_minutes_to_parse_is_dropped(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", record(), record(code="(" * 100_001))
    assert read_codesearchnet(path, clean=False).dropped == Counter(code_too_long=1)


def test_hidden_files_are_passed_over(tmp_path):
    write_lines(tmp_path / "train.jsonl", record())
    write(tmp_path / "._train.jsonl", b"\0\0")
    assert read_codesearchnet(tmp_path).lines == 1


# GraphCodeBERT's lists


def write_lists(folder, files, **lists):
    for name, records in files.items():
        write_lines(folder / name, *records)
    for split, urls in lists.items():
        write(folder / f"{split}.txt", "".join(f"{url}\n" for url in urls))


def with_url(name, **changes):
    return record(url=f"https://github.com/owner/{name}/blob/0/{name}.py#L1-L2", **changes)


def url_of(name):
    return with_url(name)["url"]


def test_lists_of_urls_select_records_and_name_their_splits(tmp_path):
    files = {
        "final/jsonl/train/python_train_0.jsonl.gz": [with_url("a"), with_url("b")],
        "final/jsonl/valid/python_valid_0.jsonl.gz": [with_url("c"), b"{", with_url("d")],
    }
    write_lists(
        tmp_path / "python",
        files,
        train=[url_of("a"), url_of("gone")],
        valid=[url_of("c")],
        codebase=[url_of("c"), url_of("d")],
    )
    result = read_graphcodebert(tmp_path, max_bad_share=0.5)
    paths = {split: [pair.path for pair in pairs] for split, pairs in result.splits.items()}
    assert paths == {"train": ["a.py"], "valid": ["c.py"], "codebase": ["c.py", "d.py"]}
    assert (result.lines, result.bad) == (5, Counter(bad_json=1))
    assert result.dropped == Counter(url_not_listed=1, listed_url_without_record=1)
    assert ("bad_json", "python/final/jsonl/valid/python_valid_0.jsonl.gz", 2) in places(result)
    assert ("listed_url_without_record", "python/train.txt", 0) in places(result)
    assert detect_format(tmp_path) == detect_format(tmp_path / "python") == "graphcodebert"


def test_lists_and_records_may_lie_in_different_folders(tmp_path):
    write_lists(tmp_path / "lists_ruby", {}, train=[url_of("z")])
    write_lists(tmp_path / "ruby", {}, train=[url_of("a")])
    write_lines(tmp_path / "records" / "ruby_train_0.jsonl", with_url("a", language="ruby", code="def a\n  1\nend"))
    (tmp_path / "lists_ruby" / "train.txt").unlink()
    (pair,) = read_graphcodebert(tmp_path).splits["train"]
    assert (pair.language, pair.path) == ("ruby", "a.py")


def test_the_language_is_that_of_the_folder_where_records_name_none(tmp_path):
    write_lists(tmp_path / "go", {"train.jsonl": [with_url("a", language=...)]}, train=[url_of("a")])
    (pair,) = read_graphcodebert(tmp_path).splits["train"]
    assert pair.language == "go"


def test_a_choice_written_beside_its_originals_is_read_once(tmp_path):
    files = {"final/jsonl/train/0.jsonl": [with_url("a")], "train.jsonl": [with_url("a")]}
    write_lists(tmp_path / "python", files, train=[url_of("a")])
    result = read_graphcodebert(tmp_path)
    assert (len(result.splits["train"]), result.dropped) == (1, Counter(url_repeated=1))


def test_published_queries_are_the_joined_tokens_unless_they_are_cleaned(tmp_path):
    write_lists(tmp_path / "python", {"a.jsonl": [with_url("a")]}, train=[url_of("a")])
    (as_published,) = read_graphcodebert(tmp_path).splits["train"]
    (cleaned,) = read_graphcodebert(tmp_path, clean=True).splits["train"]
    assert (as_published.query, cleaned.query) == ("Add two numbers .", "Add two numbers.")


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    import pickle

    pickled = write(tmp_path / "in" / "python_dedupe_definitions_v2.pkl", pickle.dumps(Trap()))
    for call in (
        lambda: read_codesearchnet(tmp_path / "in"),
        lambda: read_codesearchnet(pickled),
        lambda: detect_format(pickled),
        lambda: detect_format(tmp_path / "in"),
    ):
        with pytest.raises(CorpusError, match=r"a pickle: it is never opened.*fetch those"):
            call()
    write_lists(tmp_path / "in" / "python", {}, train=[url_of("a")])
    with pytest.raises(CorpusError, match=r"a pickle: it is never opened|jsonl.gz files below"):
        read_graphcodebert(tmp_path / "in")
    assert not (tmp_path / "opened").exists()


# CoSQA


def write_cosqa(folder, records, codes, name="cosqa-retrieval-dev-500.json"):
    if codes is not None:
        write(folder / "code_idx_map.txt", json.dumps(codes, indent=1))
    write(folder / name, json.dumps(records, indent=1))
    return folder


def question(**changes):
    merged = {
        "idx": "cosqa-train-1",
        "doc": "python add two numbers",
        "code": DOCUMENTED,
        "code_tokens": "def add ( a , b ) : total = a + b return total",
        "docstring_tokens": "Add two numbers .",
        "label": 1,
        "retrieval_idx": 0,
        **changes,
    }
    return {key: value for key, value in merged.items() if value is not ...}


def test_a_web_query_and_its_answer_become_a_pair_without_the_docstring(tmp_path):
    write_cosqa(tmp_path, [question()], {DOCUMENTED: 0, "def one():\n    '''One.'''\n    return 1": 1})
    result = read_cosqa(tmp_path)
    assert detect_format(tmp_path) == "cosqa"
    (pair,) = result.splits["valid"]
    assert (pair.query, pair.code, pair.language) == ("python add two numbers", CODE, "python")
    candidates = [(each.query, each.code) for each in result.splits["codebase"]]
    assert candidates == [("", CODE), ("", "def one():\n    return 1")]


def test_an_answer_that_does_not_parse_is_the_same_text_among_the_candidates(tmp_path):
    broken = "def add(a, b)\n    '''Add.'''\n  print a"
    tokens = "def add ( a , b ) print a"
    write_cosqa(tmp_path, [question(code=broken, code_tokens=tokens)], {broken: 0})
    result = read_cosqa(tmp_path)
    assert result.splits["valid"][0].code == result.splits["codebase"][0].code == tokens


def test_one_file_is_read_with_the_map_beside_it(tmp_path):
    write_cosqa(tmp_path, [question()], {DOCUMENTED: 0})
    write_cosqa(tmp_path, [question(), question()], None, name="cosqa-retrieval-test-500.json")
    result = read_cosqa(tmp_path / "cosqa-retrieval-test-500.json")
    assert {split: len(rows) for split, rows in result.splits.items()} == {"test": 2, "codebase": 1}


def test_codes_that_are_labelled_wrong_for_a_query_are_dropped(tmp_path):
    write_cosqa(tmp_path, [question(label=0), question()], None, name="cosqa-train.json")
    result = read_cosqa(tmp_path)
    assert (len(result.splits["train"]), result.dropped) == (1, Counter(labelled_no_answer=1))


BAD_QUESTIONS = [
    (question(doc=...), "no_query"),
    (question(doc=3), "wrong_type"),
    (question(code=..., code_tokens=...), "no_code"),
    (question(code=" ", code_tokens=...), "empty_code"),
    (question(code="a\0b"), "has_nul"),
    (question(doc="a \ud800"), "not_unicode"),
    (question(label="yes"), "wrong_type"),
    (question(label=[1]), "wrong_type"),
    (question(retrieval_idx="0"), "wrong_type"),
    (question(retrieval_idx=True), "wrong_type"),
    (question(retrieval_idx=7), "code_is_not_of_its_index"),
    ([1], "not_an_object"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_QUESTIONS)
def test_a_bad_question_is_counted_with_its_line(tmp_path, bad, reason):
    write_cosqa(tmp_path, [question(), bad, question()], {DOCUMENTED: 0})
    result = read_cosqa(tmp_path, max_bad_share=0.5)
    assert result.bad == Counter([reason])
    assert places(result) == [(reason, "cosqa-retrieval-dev-500.json", 11)]
    assert len(result.splits["valid"]) == 2


def test_bytes_that_are_not_utf8_lose_their_question_only(tmp_path):
    write_cosqa(tmp_path, [question(), question(doc="MARK")], {DOCUMENTED: 0})
    path = tmp_path / "cosqa-retrieval-dev-500.json"
    path.write_bytes(path.read_bytes().replace(b"MARK", b"\xff\xfe"))
    assert read_cosqa(tmp_path, max_bad_share=0.5).bad == Counter(not_unicode=1)


def test_a_map_with_bad_or_repeated_indices_is_counted(tmp_path):
    write_cosqa(tmp_path, [question()], {DOCUMENTED: 0, "def a():\n  pass": 0, "def b():\n  pass": "1", " ": 3})
    result = read_cosqa(tmp_path, max_bad_share=0.9)
    assert result.bad == Counter(repeated_index=1, wrong_type=1, empty_code=1)


def test_cut_json_is_an_error_wherever_it_is_cut(tmp_path):
    write_cosqa(tmp_path, [question(), question()], {DOCUMENTED: 0})
    for name in ("cosqa-retrieval-dev-500.json", "code_idx_map.txt"):
        path = tmp_path / name
        whole = path.read_bytes()
        for length in range(1, len(whole), 37):
            path.write_bytes(whole[:length])
            with pytest.raises(CorpusError, match=f"expected one JSON value in .*{name}, got .* in line"):
                read_cosqa(tmp_path, max_bad_share=1.0)
        path.write_bytes(whole)


def test_json_is_read_in_pieces_that_may_cut_values_anywhere(tmp_path, monkeypatch):
    values = [{"a": "ä😀\\n", "b": [1, 2.5, None, True]}, 12345, "text", [], {}, -7, "x" * 300]
    path = write(tmp_path / "a.json", json.dumps(values, ensure_ascii=False, indent=1))
    for size in (1, 2, 3, 7, 64, 4096):
        monkeypatch.setattr(lines, "_CHUNK", size)
        assert [value for _, value in lines.json_array(path)] == values


def test_a_value_that_is_too_long_is_an_error_and_is_not_held(tmp_path):
    path = tmp_path / "cosqa-dev.json"
    with open(path, "wb") as file:
        file.write(b'[{"doc": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(CorpusError, match="a value of more than 16,000,000 characters"):
        read_cosqa(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60_000_000


def test_values_nested_without_end_are_an_error(tmp_path):
    with pytest.raises(CorpusError, match="nested too deeply"):
        read_cosqa(write(tmp_path / "cosqa-dev.json", "[" * 200_000))


def test_files_without_a_split_in_their_name_are_refused_beside_the_map(tmp_path):
    write_cosqa(tmp_path, [question()], {DOCUMENTED: 0}, name="questions.json")
    with pytest.raises(CorpusError, match=r"expected train, dev or test in the name .* got questions.json"):
        read_cosqa(tmp_path)


def test_a_folder_without_questions_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="expected CoSQA's json files"):
        read_cosqa(write_cosqa(tmp_path, [], {DOCUMENTED: 0}) / "code_idx_map.txt")


# Tables

ROWS = [
    {"text": "Add two numbers.", "func": DOCUMENTED, "lang": "python", "repo": "owner/name"},
    {
        "text": "Subtract two numbers.",
        "func": "def sub(a, b):\n    c = a - b\n    return c",
        "lang": "python",
        "repo": "x",
    },
]
COLUMNS = {"query": "text", "code": "func"}


def write_table(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=1)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".feather":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif ".csv" in path.name:
        with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif ".jsonl" in path.name:
        write_lines(path, *rows)
    else:
        write(path, json.dumps(rows))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "train-00000-of-00003.parquet",
        "train/data-00000-of-00001.arrow",
        "train.feather",
        "train.csv",
        "train.csv.gz",
        "train.jsonl",
        "train.jsonl.gz",
        "train.json",
        "train.json.gz",
    ],
)
def test_a_table_is_read_by_the_names_of_its_columns(tmp_path, name):
    write_table(tmp_path / name)
    write(tmp_path / "dataset_info.json", "{}")
    write(tmp_path / "train" / "state.json", "{}")
    result = read_table(tmp_path, columns=COLUMNS)
    assert list(result.splits) == ["train"]
    got = [(pair.query, pair.code, pair.language, pair.package) for pair in result.splits["train"]]
    assert got == [
        ("Add two numbers.", CODE, "python", "owner/name"),
        ("Subtract two numbers.", ROWS[1]["func"], "python", "x"),
    ]
    assert list(open_pairs(tmp_path, columns=COLUMNS)) == [("train", pair) for pair in result.splits["train"]]


def test_lines_of_objects_may_be_called_json(tmp_path):
    path = write_lines(tmp_path / "test.json", *ROWS)
    assert len(read_table(path, columns=COLUMNS).splits["test"]) == 2


def test_the_columns_of_code_search_net_on_the_hub_need_no_names(tmp_path):
    row = {
        "repository_name": "owner/name",
        "func_path_in_repository": "a.py",
        "func_name": "A.add",
        "whole_func_string": "whole",
        "language": "python",
        "func_code_string": DOCUMENTED,
        "func_code_tokens": ["def", "add"],
        "func_documentation_string": "Add two numbers.",
        "func_documentation_tokens": ["Add", "two", "numbers", "."],
        "split_name": "train",
        "func_code_url": URL,
    }
    result = read_table(write_table(tmp_path / "part.parquet", [row]))
    assert result.splits == {"train": [Pair("Add two numbers .", CODE, "python", "owner/name", "a.py", 7, "A.add")]}
    cleaned, named = (
        read_table(tmp_path, clean=True),
        read_table(tmp_path, columns={"query": "func_documentation_string"}),
    )
    assert [each.splits["train"][0].query for each in (cleaned, named)] == ["Add two numbers."] * 2


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl"])
def test_a_column_of_lists_is_taken_as_tokens(tmp_path, suffix):
    rows = [{"words": ["add", "two", "numbers"], "body": ["def", "add", "(", ")"]}]
    path = write_table(tmp_path / f"train{suffix}", rows)
    (pair,) = read_table(path, columns={"query": "words", "code": "body"}, language="python").splits["train"]
    assert (pair.query, pair.code) == ("add two numbers", "def add ( )")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl", ".json"])
def test_columns_that_are_not_there_are_named_with_those_that_are(tmp_path, suffix):
    path = write_table(tmp_path / f"train{suffix}")
    with pytest.raises(
        CorpusError, match=r"expected a column for code \(asked for .*'body'\), got the columns text, f"
    ):
        read_table(path, columns={"query": "text", "code": "body"}, max_bad_share=1.0)
    with pytest.raises(CorpusError, match="expected a column for query, got the columns text"):
        read_table(path, max_bad_share=1.0)
    with pytest.raises(CorpusError, match="got one for 'answer'"):
        read_table(path, columns={"answer": "text"})


def test_a_row_may_lack_a_field_that_others_have(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", {"text": "Add two numbers."}, *ROWS)
    assert read_table(path, columns=COLUMNS, max_bad_share=0.5, language="python").bad == Counter(no_code=1)


def test_candidates_need_no_column_of_queries(tmp_path):
    rows = [{"func": row["func"], "lang": "python"} for row in ROWS]
    result = read_table(write_table(tmp_path / "codebase.parquet", rows))
    assert [pair.query for pair in result.splits["codebase"]] == ["", ""]


def test_files_of_several_kinds_are_not_read_twice(tmp_path):
    write_table(tmp_path / "train.parquet")
    write_table(tmp_path / "train.csv")
    with pytest.raises(CorpusError, match=r"expected files of one kind .* got csv and parquet"):
        read_table(tmp_path)


def test_files_that_data_sets_keep_for_themselves_are_passed_over(tmp_path):
    write_table(tmp_path / "train" / "data-00000-of-00001.arrow")
    write_table(tmp_path / "train" / "cache-0123.arrow")
    assert len(read_table(tmp_path, columns=COLUMNS).splits["train"]) == 2


def test_broken_csv_lines_are_counted_with_their_line(tmp_path):
    path = write_table(tmp_path / "train.csv")
    with open(path, "ab") as file:
        file.write(b"one,two\n")  # lines 10 and on: a row of two cells,
        file.write(b'"a"b,c,d,e\n')  # a quote that ends too early,
        file.write(b"Add \xff numbers,def f(): pass,python,r\n")  # no UTF-8,
        file.write(b"Add two numbers,a\0b,python,r\n")  # a NUL byte,
        file.write(b"Add two numbers," + b"x" * 200_000 + b",python,r\n")  # a cell of 200,000 characters,
        file.write(b'Add two numbers,"def f')  # and a quote that does not end.
    result = read_table(path, columns=COLUMNS, max_bad_share=1.0)
    assert places(result) == [
        ("wrong_number_of_cells", "train.csv", 9),
        ("bad_csv", "train.csv", 10),
        ("not_unicode", "train.csv", 11),
        ("has_nul", "train.csv", 12),
        ("cell_too_long", "train.csv", 13),
        ("bad_csv", "train.csv", 14),
    ]
    assert len(result.splits["train"]) == 2


def test_an_overlong_csv_line_is_counted_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2_000)
    path = write_table(tmp_path / "train.csv")
    with open(path, "ab") as file:
        file.write(b"x" * 9_000 + b"\n" + b"Add two numbers,def f(): pass,python,r\n")
    result = read_table(path, columns=COLUMNS, clean=False, max_bad_share=0.5)
    assert (result.bad, len(result.splits["train"])) == (Counter(line_too_long=1), 3)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_text_that_is_not_utf8_loses_its_row_only(tmp_path, suffix):
    path = write_table(tmp_path / f"train{suffix}", [*ROWS, {**ROWS[0], "text": "MARK MARK MARK"}])
    path.write_bytes(path.read_bytes().replace(b"MARK MARK", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff"))
    result = read_table(path, columns=COLUMNS, max_bad_share=0.5)
    assert (result.bad, len(result.splits["train"])) == (Counter(not_utf8=1), 2)
    assert places(result) == [("not_utf8", path.name, 3)]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_a_cut_binary_file_is_an_error(tmp_path, suffix):
    path = write_table(tmp_path / f"train{suffix}")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CorpusError, match=f"expected to read .*train{suffix} to its end"):
        read_table(path, columns=COLUMNS)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl", ".json"])
def test_empty_files_and_folders_in_their_place_are_errors(tmp_path, suffix):
    with pytest.raises(CorpusError, match="got empty files"):
        read_table(write(tmp_path / f"train{suffix}", b""))
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(CorpusError, match="files below"):
        read_table(tmp_path / f"folder{suffix}")
    with pytest.raises(CorpusError, match="got nothing"):
        read_table(tmp_path / f"none{suffix}")


# Judgements


def judgement(**changes):
    merged = {"language": "python", "query": "add numbers", "url": URL, "relevance": 3, **changes}
    return {key: value for key, value in merged.items() if value is not ...}


def write_judged(folder, judgements, codes=None):
    write_lines(folder / "judgements.jsonl", *judgements)
    write_lines(folder / "codes.jsonl", *([record()] if codes is None else codes))
    return folder


def test_judgements_are_the_mean_over_their_annotators(tmp_path):
    other = {"code_id": "7", "language": "go", "code": "func b() {}"}
    said = [
        judgement(),
        judgement(relevance=0),
        judgement(relevance=1),
        judgement(query="subtract", relevance=2.5),
        judgement(url=..., code_id="7", relevance=0),
        judgement(url=..., code_id="7", relevance=1, language="go"),
    ]
    judged = read_judgements(write_judged(tmp_path, said, [record(), other]))
    assert judged.queries == ("add numbers", "subtract", "add numbers")
    assert judged.languages == ("python", "python", "go")
    assert judged.relevance == {(0, 0): 4 / 3, (1, 0): 2.5, (0, 1): 0.0, (2, 1): 1.0}
    assert judged.code_ids == (URL, "7")
    assert [(code.query, code.code) for code in judged.codes] == [("", CODE), ("", "func b() {}")]
    assert (judged.annotations, judged.lines, judged.bad) == (6, 8, Counter())
    assert detect_format(tmp_path) == "judgements"
    with pytest.raises(CorpusError, match="read_judgements"):
        open_pairs(tmp_path)


BAD_JUDGEMENTS = [
    (b"{", "bad_json"),
    (b"\xff", "not_utf8"),
    ([1], "json_array"),
    (judgement(query=...), "no_query"),
    (judgement(query=" "), "no_query"),
    (judgement(query="a\0b"), "has_nul"),
    (judgement(relevance=...), "no_relevance"),
    (judgement(relevance="3"), "wrong_type"),
    (judgement(relevance=True), "wrong_type"),
    (judgement(relevance=4), "relevance_out_of_range"),
    (judgement(relevance=-1), "relevance_out_of_range"),
    (judgement(relevance=float("nan")), "relevance_out_of_range"),
    (judgement(url=...), "no_code_id"),
    (judgement(url=5), "wrong_type"),
    (judgement(url="elsewhere"), "unknown_code"),
    (judgement(language=5), "wrong_type"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_JUDGEMENTS)
def test_a_bad_judgement_is_counted_with_its_line(tmp_path, bad, reason):
    folder = write_judged(tmp_path, [judgement(), bad])
    judged = read_judgements(folder, max_bad_share=0.5)
    assert (judged.bad, judged.annotations, len(judged.queries)) == (Counter([reason]), 1, 1)
    assert places(judged) == [(reason, "judgements.jsonl", 2)]
    with pytest.raises(CorpusError, match=f"got 1 of 2 .*judgements.jsonl:2 {reason}"):
        read_judgements(folder)


def test_a_bad_or_repeated_code_is_counted_with_its_line(tmp_path):
    folder = write_judged(tmp_path, [judgement()], [record(), record(), record(url="x", code=" "), record(url=...)])
    judged = read_judgements(folder, max_bad_share=0.8)
    assert judged.bad == Counter(repeated_code=1, empty_code=1, no_code_id=1)
    assert places(judged)[0] == ("repeated_code", "codes.jsonl", 2)


def test_judgements_need_both_files_with_lines(tmp_path):
    write_judged(tmp_path, [], [record()])
    with pytest.raises(CorpusError, match=r"got an empty file"):
        read_judgements(tmp_path)
    (tmp_path / "codes.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"expected codes.jsonl or codes.jsonl.gz in"):
        read_judgements(tmp_path)
    (tmp_path / "codes.jsonl").mkdir()
    with pytest.raises(CorpusError, match=r"expected codes.jsonl or codes.jsonl.gz in"):
        read_judgements(tmp_path)


# Which format it is


def test_formats_are_told_by_names_and_first_records(tmp_path):
    write_lines(tmp_path / "csn.jsonl", b"{", record())
    write_lines(tmp_path / "csn.jsonl.gz", record())
    write_lines(tmp_path / "rows.jsonl", *ROWS)
    write(tmp_path / "cosqa.json", json.dumps([question()]))
    write_table(tmp_path / "rows.json")
    write_lines(tmp_path / "lines.json", *ROWS)
    write_table(tmp_path / "rows.csv")
    write_table(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    found = {path.name: detect_format(path) for path in tmp_path.iterdir()}
    assert found == {
        "csn.jsonl": "codesearchnet",
        "csn.jsonl.gz": "codesearchnet",
        "rows.jsonl": "table",
        "cosqa.json": "cosqa",
        "rows.json": "table",
        "lines.json": "table",
        "rows.csv": "table",
        "hub": "table",
    }


def test_what_is_of_no_known_format_is_told_what_would_be(tmp_path):
    for path in (tmp_path, tmp_path / "none", write(tmp_path / "notes.docx", b"")):
        with pytest.raises(CorpusError, match=r"What can be read: codesearchnet: .*; graphcodebert: .*; table: "):
            detect_format(path)


def test_only_known_formats_and_options_that_they_have_are_taken(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", record())
    with pytest.raises(CorpusError, match=r"expected a format of codesearchnet, .*, got 'excel'"):
        open_pairs(path, format="excel")
    with pytest.raises(CorpusError, match="columns for the format table only, got them for codesearchnet"):
        open_pairs(path, format="codesearchnet", columns=COLUMNS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_says_what_it_is(name):
    assert FORMATS[name].what


# Real data


@needs_data
def test_cosqa_itself_is_read_whole():
    result = open_pairs(DATA / "cosqa").read()
    assert {split: len(rows) for split, rows in result.splits.items()} == {"valid": 500, "codebase": 6_267}
    assert (result.bad, result.dropped) == (Counter(), Counter())
    candidates = {pair.code for pair in result.splits["codebase"]}
    assert {pair.code for pair in result.splits["valid"]} <= candidates
    # One begins with an expression of several strings, which is no docstring.
    assert sum(code.partition(":\n")[2].lstrip().startswith('"""') for code in candidates) == 1


@needs_data
def test_the_human_judgements_of_ruby_are_read_whole():
    judged = read_judgements(DATA / "graded_ruby")
    assert (len(judged.codes), judged.annotations, len(judged.relevance), judged.bad) == (296, 306, 304, Counter())
    assert {code.language for code in judged.codes} == {"ruby"}


@needs_data
@pytest.mark.parametrize("language", ["python", "ruby"])
def test_the_sample_of_codesearchnet_is_known_as_such(language):
    assert detect_format(DATA / "codesearchnet_sample" / language) == "codesearchnet"
