import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softnce_ray.corpus import CorpusError, Pair, Spool, build_corpus
from softnce_ray.corpus import spool as spooling
from softnce_ray.corpus.spool import take_rows


def pair(number: int, language: str = "python") -> Pair:
    code = f"def f{number}(a):\n    value{number} = a\n    return value{number}"
    return Pair(f"Give number {number} back", code, language, f"p{number % 3}", f"{number}.py", number, f"f{number}")


def test_parts_keep_the_order_in_which_pairs_came(tmp_path, monkeypatch):
    monkeypatch.setattr(spooling, "_GROUP_ROWS", 4)
    with Spool(tmp_path / "c") as spool:
        spool.add(pair(number, "go" if number % 2 else "python") for number in range(20))
        parts = spool.parts()
        assert list(parts) == ["go", "python"]
        part = parts["python"][None]
        rows = [row for table in take_rows(part.file, np.arange(len(part))) for row in table.to_pylist()]
        assert [row["line"] for row in rows] == list(range(0, 20, 2))
        assert rows[3]["id"] == pair(6).id
        assert [spool.packages[number] for number in part.packages] == [f"p{n % 3}" for n in range(0, 20, 2)]
        assert len(np.unique(part.codes, axis=0)) == 10


def test_nothing_of_a_spool_is_left_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), Spool(tmp_path / "c") as spool:
        spool.add([pair(1)])
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt
    with Spool(tmp_path / "new" / "c") as spool:
        spool.add([])
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import os, signal, sys
from softnce_ray.corpus import Pair, build_corpus

def pairs():
    yield Pair("Give a number back", "def f(a):\\n    b = a\\n    return b", "python", "p", "a.py", 1, "f")
    os.kill(os.getpid(), signal.SIGKILL)

build_corpus({"train": pairs()}, sys.argv[1])
"""


def test_what_a_killed_build_left_goes_with_the_next_one(tmp_path):
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "c")], timeout=120)
    assert killed.returncode == -9 and len(list(tmp_path.iterdir())) == 1 and not (tmp_path / "c").exists()
    build_corpus({"train": [pair(1)]}, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_spool_has_pairs_with_splits_or_without(tmp_path):
    with Spool(tmp_path / "c") as spool:
        spool.add([pair(1)], "train")
        with pytest.raises(CorpusError, match="got both"):
            spool.add([pair(2)])


def test_a_spool_that_was_read_takes_no_more_pairs(tmp_path):
    with Spool(tmp_path / "c") as spool:
        spool.add([pair(1)])
        spool.parts()
        with pytest.raises(ValueError, match="no more pairs"):
            spool.add([pair(2)])


def test_a_spool_and_an_iterator_give_the_corpus_of_a_list(tmp_path):
    pairs = [pair(number) for number in range(60)]
    listed = build_corpus(pairs, tmp_path / "list", valid=5, test=5)
    streamed = build_corpus(iter(pairs), tmp_path / "iterator", valid=5, test=5)
    with Spool(tmp_path / "spool") as spool:
        for start in range(0, 60, 7):
            spool.add(pairs[start : start + 7])
        spooled = build_corpus(spool, tmp_path / "spool", valid=5, test=5)
    assert listed.fingerprint == streamed.fingerprint == spooled.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iterator", "list", "spool"]


@pytest.mark.parametrize("rows", [[], [0], [2, 3, 4, 11], [9, 10, 0, 5, 1], list(range(12))])
def test_rows_are_taken_in_any_order(tmp_path, rows):
    table = pa.table({"a": list(range(12)), "b": [str(number) for number in range(12)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=5)
    found = [row for part in take_rows(tmp_path / "t.parquet", np.array(rows, np.int64)) for row in part.to_pylist()]
    assert found == [{"a": row, "b": str(row)} for row in rows]
    only = [row for part in take_rows(tmp_path / "t.parquet", np.array(rows, np.int64), ["b"]) for row in part["b"]]
    assert [value.as_py() for value in only] == [str(row) for row in rows]
