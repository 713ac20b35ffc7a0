"""The journal: what is to be written to MLflow, kept on disk until it is.

A line of JSON for each record in `journal.jsonl`; `sent` says up to which byte MLflow has them, and MLflow says so
itself, whose word counts. A record may be sent again, never lost: writing the same record twice must change nothing,
also when others were written since.

Where the machine stops, what was not synced is lost, and may be lost in any order. So files are on the disk before the
record that names them, and the position behind a record before its files are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from softnce_ray.errors import UserError
from softnce_ray.files import open_file, read_file
from softnce_ray.folders import lock_file, sync, sync_tree
from softnce_ray.store import Store
from softnce_ray.tracking.records import Record

_FORMAT = 1
_TAIL = 4096
"""Bytes before a position that tell the journal from a copy that went on: each record has a time."""
_JOURNAL, _SENT, _REFUSED, _FILES = "journal.jsonl", "sent", "refused.jsonl", "files"


class JournalError(UserError, RuntimeError):
    """A journal that this process must not touch."""


@dataclass(frozen=True)
class Entry:
    """A record and the byte where it ends in the journal; None where only memory has it."""

    record: Record
    end: int | None


class Journal:
    """The journal of one study, held by one process. One thread writes it; another may `note`, `drop` and `refuse`:
    these touch other files."""

    def __init__(self, folder: Path) -> None:
        """Open the journal in `folder`, or begin one.

        Raises:
          JournalError: another process holds it, or another version wrote it.
          OSError: the folder cannot be written.
        """
        self._made = [each for each in (folder, folder.parent) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with contextlib.ExitStack() as opened:
            self._lock = opened.enter_context(lock_file(folder / "lock"))
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JournalError(
                    f"another process writes the runs of {folder.name}: wait for it, or end that process"
                ) from None
            # Unbuffered: what a write method has returned from survives the process.
            self._file: IO[bytes] = opened.enter_context((folder / _JOURNAL).open("a+b", buffering=0))
            read = _read(folder)
            self._end = read.end
            self._file.truncate(read.end)  # a line that its writer did not live to end
            self._id = read.id or self._begin()
            self.unsent = [Entry(record, end) for record, end in read.unsent]
            self.unreadable = read.unreadable
            self._broken = False
            opened.pop_all()
        self._sweep()

    @property
    def files(self) -> Path:
        """Where the folders that `keep` names lie."""
        return self._folder / _FILES

    def append(self, record: Record, *, durable: bool = False) -> Entry:
        """Keep a record; `durable`: also if the machine stops.

        Raises:
          OSError: there is no room. The journal is as before.
        """
        if self._broken:
            raise OSError("the journal has a torn line that cannot be taken back")
        self._put(record.line().encode() + b"\n")
        if durable:
            with contextlib.suppress(OSError):
                sync(self._folder / _JOURNAL)
        return Entry(record, self._end)

    def position(self, end: int) -> str:
        """Name a byte of this journal, and what stands before it; see `trust`.

        Raises:
          OSError: the journal cannot be read.
        """
        start = max(0, end - _TAIL)
        tail = os.pread(self._file.fileno(), end - start, start)
        return f"{self._id}:{end}:{hashlib.sha256(tail).hexdigest()}"

    def trust(self, position: str) -> None:
        """Go on after the position that MLflow has, as `position` named it; where MLflow has another, from the
        beginning.

        MLflow's word counts, not the note beside the journal, which may be lost or of another time than the database
        where a store was copied. A position that this journal has not is that of a copy that went on: what MLflow has
        of this one is not known, and to send a record again changes nothing.

        Raises:
          OSError: the journal cannot be read or written.
        """
        end = position.split(":")[1] if position.count(":") == 2 else ""
        known = end.isdecimal() and int(end) <= self._end and position == self.position(int(end))
        start = int(end) if known else 0
        lines = [(record, at) for record, at in _lines(self._folder) if at > start]
        self.unsent = [Entry(record, at) for record, at in lines if record is not None]
        self.unreadable = len(lines) - len(self.unsent)
        self._sweep()

    def note(self, end: int, *, durable: bool = False) -> None:
        """Note that MLflow has all records up to this byte; `durable`: also if the machine stops.

        Raises:
          OSError: it cannot be noted. These records will be sent again after a crash.
        """
        beside = self._folder / f"{_SENT}.new"
        beside.write_text(json.dumps({"journal": self._id, "bytes": end}))
        if durable:
            sync(beside)
        os.replace(beside, self._folder / _SENT)
        if durable:
            sync(self._folder)

    def keep(self, source: Path, *beside: Path) -> str:
        """Keep a file, or a folder with its files, and files beside it until `drop`; returns the name of a folder of
        `files` that has them.

        Raises:
          OSError: no such file, or one can neither be linked nor copied.
        """
        folder = self.files / uuid.uuid4().hex
        try:
            if source.is_dir():
                for file in sorted(source.rglob("*")):
                    if file.is_file():
                        _link(file, folder / source.name / file.relative_to(source))
            else:
                _link(source, folder / source.name)
            for file in beside:
                _link(file, folder / file.name)
            sync_tree(folder)
            sync(self.files, self._folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder.name

    def drop(self, record: Record) -> None:
        """Remove what was kept for a record."""
        if record.files is not None:
            shutil.rmtree(self.files / record.files, ignore_errors=True)

    def refuse(self, record: Record, why: str) -> None:
        """Put a record aside, with what was kept for it.

        Raises:
          OSError: there is no room.
        """
        with (self._folder / _REFUSED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": why, "record": json.loads(record.line())}) + "\n")
        sync(self._folder / _REFUSED, self._folder)

    def begin_anew(self) -> None:
        """Empty the journal: MLflow has all of it.

        Raises:
          OSError: there is no room. What was sent may be sent again.
        """
        self._file.truncate(0)
        self._end, self.unsent = 0, []
        self._id = self._begin()

    def close(self, *, done: bool) -> None:
        """Let go of the journal; `done`: MLflow has all of it, so it is removed. One that was begun here and has got no
        record leaves nothing, as a study that was refused."""
        if not done and self._made and next(_lines(self._folder), None) is None:
            (self._folder / _JOURNAL).unlink(missing_ok=True)
            (self._folder / "lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # files that were refused, or journals of other studies
                for folder in self._made:
                    folder.rmdir()
        if done:
            # In this order: a journal without `sent` would be sent again from its beginning.
            for name in (_JOURNAL, _SENT):
                (self._folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what was refused may have files
                self.files.rmdir()
        self._file.close()
        self._lock.close()

    def _begin(self) -> str:
        name = uuid.uuid4().hex
        self._put(json.dumps({"journal": _FORMAT, "id": name}).encode() + b"\n")
        sync(self._folder / _JOURNAL, self._folder, *self._folder.parents[:2])
        return name

    def _put(self, line: bytes) -> None:
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written")
        except OSError:
            try:
                self._file.truncate(self._end)
            except OSError:
                self._broken = True
            raise
        self._end += len(line)

    def _sweep(self) -> None:
        """Remove files whose record was sent just before a crash, or never made."""
        wanted = {entry.record.files for entry in self.unsent}
        refused = self._folder / _REFUSED
        text = refused.read_text(encoding="utf-8", errors="replace") if refused.exists() else ""
        for folder in self.files.glob("*"):
            if folder.name not in wanted and folder.name not in text:
                shutil.rmtree(folder, ignore_errors=True)


def unsent_records(store: Store, study: str) -> int:
    """How many records of a study wait on disk to be written to MLflow. Reads files only.

    Raises:
      JournalError: another version wrote the journal.
    """
    return len(_read(store.spool(study)).unsent)


def final_status(store: Store, study: str) -> str | None:
    """With what status the launch that wrote the journal ended; None if there is no journal, or it did not end.

    Raises:
      JournalError: another version wrote the journal.
    """
    status: str | None = None
    for record, _ in _lines(store.spool(study)):
        if record is not None and record.kind == "study_ended":
            status = str(record.payload["status"])
    return status


@dataclass(frozen=True)
class _Read:
    id: str
    end: int
    unsent: list[tuple[Record, int]]
    unreadable: int


def _read(folder: Path) -> _Read:
    """What the files of a journal say; `end` is where its last whole line ends."""
    head = _head(folder)
    if head is None:
        return _Read("", 0, [], 0)
    name, end = head
    lines = list(_lines(folder))
    ends = [end, *(at for _, at in lines)]
    sent = _position(folder, name)
    rest = [(record, at) for record, at in lines if sent not in ends or at > sent]
    unsent = [(record, at) for record, at in rest if record is not None]
    return _Read(name, ends[-1], unsent, len(rest) - len(unsent))


def _head(folder: Path) -> tuple[str, int] | None:
    """A journal's name and where its first line ends; None where none was begun."""
    try:
        with open_file(folder / _JOURNAL) as file:
            line = file.readline()
    except FileNotFoundError:
        return None
    if not line.endswith(b"\n"):
        return None
    try:
        head = json.loads(line)
        version, name = head["journal"], str(head["id"])
    except (ValueError, KeyError, TypeError):
        raise JournalError(
            f"expected a journal at {folder / _JOURNAL}, got a file whose first line is damaged: move it away and "
            "launch the study again; what its last records said is made anew from checkpoints where it can be"
        ) from None
    if version != _FORMAT:
        raise JournalError(
            f"expected a journal of format {_FORMAT} at {folder / _JOURNAL}, got format {version}: records that are "
            "not yet in MLflow were written by another version; send them with `sync` of that version, or "
            "move the folder away to do without them"
        )
    return name, len(line)


def _lines(folder: Path) -> Iterator[tuple[Record | None, int]]:
    """The records of a journal and where each ends; None for a line that is none. A torn last line is left out."""
    head = _head(folder)
    if head is None:
        return
    end = head[1]
    with open_file(folder / _JOURNAL) as file:
        file.seek(end)
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield Record.of_line(line.decode()), end
            except (ValueError, KeyError, TypeError):
                yield None, end


def _position(folder: Path, name: str) -> int:
    """Up to which byte the journal of this name was sent. What cannot be read counts as nothing sent, as does a place
    where no line ends: the journal's last lines were lost, or the place is damaged."""
    try:
        noted = json.loads(read_file(folder / _SENT))
        return int(noted["bytes"]) if noted["journal"] == name else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(strict=True), target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
