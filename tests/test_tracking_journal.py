"""The journal of records: what survives the process, in what order, and what a damaged one still gives."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softnce_ray.store import Store
from softnce_ray.tracking import JournalError, final_status, unsent_records
from softnce_ray.tracking.journal import Journal
from softnce_ray.tracking.records import Record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


def record(number: int, kind: str = "epoch", **payload: object) -> Record:
    return Record(kind, 1000 + number, {"number": number, **payload})


def numbers(journal: Journal) -> list[int]:
    return [entry.record.payload["number"] for entry in journal.unsent]


def test_what_was_appended_is_there_after_the_process_in_its_order(store) -> None:
    folder = store.spool("study")
    first = Journal(folder)
    for number in range(3):
        first.append(record(number))
    first._lock.close()  # as a killed process leaves it
    assert unsent_records(store, "study") == 3
    second = Journal(folder)
    assert numbers(second) == [0, 1, 2]
    assert [entry.record for entry in second.unsent] == [record(number) for number in range(3)]
    second.note(second.unsent[1].end or 0)
    second.append(record(3))
    second.close(done=False)
    assert unsent_records(store, "study") == 2
    assert numbers(Journal(folder)) == [2, 3]


def test_a_journal_that_is_done_leaves_nothing_but_its_lock(store, tmp_path) -> None:
    (tmp_path / "ranks").write_text("r")
    journal = Journal(store.spool("study"))
    kept = Record("trial_ended", 1, {}, journal.keep(tmp_path / "ranks"))
    journal.note(journal.append(kept).end or 0)
    journal.drop(kept)
    journal.close(done=True)
    assert [path.name for path in store.spool("study").rglob("*")] == ["lock"]
    assert (tmp_path / "ranks").exists()
    assert unsent_records(store, "study") == 0


def test_a_journal_that_was_begun_for_nothing_takes_its_folders_with_it_and_another_stays(store) -> None:
    Journal(store.spool("study")).close(done=False)
    assert not store.spool("study").parent.exists()
    journal = Journal(store.spool("study"))
    journal.append(record(1))
    journal.close(done=False)
    Journal(store.spool("another")).close(done=False)
    assert not store.spool("another").exists()
    assert unsent_records(store, "study") == 1


@given(cut=st.integers(1, 60))
def test_a_last_line_that_was_cut_off_is_no_record_and_harms_none(tmp_path_factory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("spool")
    journal = Journal(folder)
    for number in range(2):
        journal.append(record(number, text="x" * 60))
    journal.close(done=False)
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(folder)
    assert (numbers(again), again.unreadable) == ([0], 0)
    again.append(record(7))
    again.close(done=False)
    last = Journal(folder)
    assert (numbers(last), last.unreadable) == ([0, 7], 0)
    last.close(done=True)


def test_a_first_line_that_was_cut_off_is_begun_anew(store) -> None:
    folder = store.spool("study")
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text('{"journ')
    journal = Journal(folder)
    journal.append(record(1))
    assert unsent_records(store, "study") == 1


def test_a_line_that_is_damaged_costs_itself_only(store) -> None:
    journal = Journal(store.spool("study"))
    for number in range(3):
        journal.append(record(number))
    journal.close(done=False)
    path = store.spool("study") / "journal.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "\0" * 20, lines[3], ""]))
    again = Journal(store.spool("study"))
    assert (numbers(again), again.unreadable) == ([0, 2], 1)


def test_a_journal_of_another_version_is_left_as_it_is_and_named(store) -> None:
    folder = store.spool("study")
    folder.mkdir(parents=True)
    text = json.dumps({"journal": 2, "id": "x"}) + "\n{}\n"
    (folder / "journal.jsonl").write_text(text)
    for use in (lambda: Journal(folder), lambda: unsent_records(store, "study"), lambda: final_status(store, "study")):
        with pytest.raises(JournalError, match=r"expected a journal of format 1 at .*journal.jsonl, got format 2"):
            use()
    assert (folder / "journal.jsonl").read_text() == text


def test_a_journal_has_one_writer_at_a_time(store) -> None:
    journal = Journal(store.spool("study"))
    with pytest.raises(JournalError, match="another process writes the runs of study"):
        Journal(store.spool("study"))
    journal.close(done=False)
    Journal(store.spool("study")).close(done=True)


def test_a_position_of_another_journal_counts_for_nothing(store) -> None:
    """Between a journal's end and the next one's first record a process may die anywhere."""
    folder = store.spool("study")
    first = Journal(folder)
    first.note(first.append(record(0, text="long" * 50)).end or 0)
    position = (folder / "sent").read_text()
    first.close(done=True)
    (folder / "sent").write_text(position)
    second = Journal(folder)
    second.append(record(1))
    assert unsent_records(store, "study") == 1


def test_what_the_disk_does_not_take_leaves_the_journal_whole(store, monkeypatch) -> None:
    journal = Journal(store.spool("study"))
    journal.append(record(0))

    class Full:
        """A disk with room for ten bytes more."""

        def __init__(self, file) -> None:
            self._file = file

        def __getattr__(self, name: str):
            return getattr(self._file, name)

        def write(self, line: bytes) -> int:
            self._file.write(line[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    file = journal._file
    monkeypatch.setattr(journal, "_file", Full(file))
    with pytest.raises(OSError, match="No space left"):
        journal.append(record(1))
    monkeypatch.setattr(journal, "_file", file)
    journal.append(record(2))
    journal.close(done=False)
    again = Journal(store.spool("study"))
    assert (numbers(again), again.unreadable) == ([0, 2], 0)


def test_kept_files_outlive_their_originals_and_orphans_are_swept(store, tmp_path) -> None:
    model = tmp_path / "best"
    (model / "tokenizer").mkdir(parents=True)
    (model / "weights").write_text("w")
    (model / "tokenizer" / "words").write_text("t")
    journal = Journal(store.spool("study"))
    wanted, orphan, refused = (journal.keep(model) for _ in range(3))
    journal.append(Record("model", 1, {}, wanted))
    journal.refuse(Record("model", 1, {}, refused), "no")
    for file in (model / "weights", model / "tokenizer" / "words"):
        file.unlink()
    journal.close(done=False)
    again = Journal(store.spool("study"))
    assert {path.name for path in again.files.iterdir()} == {wanted, refused}
    assert orphan not in {wanted, refused}
    assert (again.files / wanted / "best" / "weights").read_text() == "w"
    assert (again.files / wanted / "best" / "tokenizer" / "words").read_text() == "t"


def test_the_last_word_of_a_launch_is_its_status(store) -> None:
    assert final_status(store, "study") is None
    journal = Journal(store.spool("study"))
    assert final_status(store, "study") is None
    journal.append(Record("study_ended", 1, {"status": "KILLED"}))
    journal.append(record(1))
    assert final_status(store, "study") == "KILLED"
