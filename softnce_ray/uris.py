"""Paths as URIs and back: a letter that a URI gives a meaning is a letter like any other in a path."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_SPECIAL = re.compile(r"[%?#{}]")
"""SQLAlchemy unquotes a database's path and ends it at `?`; Optuna formats it, which gives braces a meaning."""

_WORD = r"token|pass|pwd|secret|key|signature|sig|auth|credential"
SECRET_PARAMETER = re.compile(rf"([?&;][^=&;\s]*?(?:{_WORD})[^=&;\s]*=)[^&;\s'\"<>]+", re.IGNORECASE)
"""A parameter of a query that gives access; its first group ends before the value."""


def without_password(uri: str) -> str:
    """Return an address without user, password and secret query parameters; a password may have any characters."""
    address, mark, query = uri.partition("?")
    if "@" in query and "@" not in address:  # a password with a question mark
        address, mark, query = uri, "", ""
    head, at, tail = address.rpartition("@")
    shown = f"{head.split('://')[0]}://…@{tail}" if at else address
    return SECRET_PARAMETER.sub(r"\1…", f"{shown}{mark}{query}")


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite database, as SQLAlchemy, MLflow and Optuna take it.

    A path that must be quoted names the driver too: of a URI that begins with `sqlite:///` MLflow 3.17 makes the
    folder above the database under its quoted name.
    """
    text = str(path)
    quoted = _SPECIAL.sub(lambda each: f"%{ord(each[0]):02X}", text)
    return f"sqlite:///{text}" if quoted == text else f"sqlite+pysqlite:///{quoted}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite database, or None where a URI names something else, or a database in memory."""
    scheme, mark, rest = uri.partition(":///")
    name = unquote(rest.partition("?")[0])
    if not mark or scheme not in ("sqlite", "sqlite+pysqlite") or name in ("", ":memory:") or name.startswith("file:"):
        return None
    return Path(name)


def file_path(uri: str) -> Path | None:
    """Return the path that a `file:` URI or an absolute path names, or None where a URI names another storage."""
    if uri.startswith("/"):
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return None
    return Path("/" + unquote(parts.netloc + parts.path).lstrip("/"))
