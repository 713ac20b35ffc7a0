"""SQLite files, looked at before a library opens them: a library waits for what is no file, makes tables in what is
empty, and migrates what is old."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from softnce_ray.errors import UserError

_SECONDS = 60.0
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


class DatabaseError(UserError, RuntimeError):
    """A file that is no SQLite database, or a damaged one."""


@dataclass(frozen=True)
class Database:
    """What a SQLite file has: its tables, and the revision of its schema as Alembic noted it."""

    tables: frozenset[str]
    revision: str | None


def look_at(path: Path) -> Database | None:
    """Read what a SQLite file has, and change nothing in it; None where there is no file.

    Raises:
      DatabaseError: it is no database, is damaged, or cannot be read.
    """
    aside = "move it away, or choose another folder with --store"
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatabaseError(f"expected a SQLite database at {path}, got: {error.strerror}: mend that") from error
    if kind != stat.S_IFREG:
        got = _KINDS.get(kind, "a device")
        raise DatabaseError(f"expected a SQLite database at {path}, got {got}: {aside}")
    try:
        try:
            return _read(path, "ro")
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            return _read(path, "rw")  # its writer was killed: what that left half done is first undone
    except sqlite3.Error as error:
        raise DatabaseError(
            f"expected a SQLite database at {path}, got: {error}: put a copy in its place, or {aside}"
        ) from error


def _read(path: Path, mode: str) -> Database:
    uri = f"file:{quote(str(path))}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_SECONDS)) as base:
        base.execute("BEGIN")
        tables = frozenset(name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        revisions = base.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
        return Database(tables, next((text for (text,) in revisions), None))
