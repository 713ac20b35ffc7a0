"""Compare the rows of a corpus with its manifest when it is opened."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable

import pyarrow as pa

from softnce_ray.corpus.pairs import PAIR_SCHEMA, Pair

LARGE = 100_000
"""Pairs of a corpus that are read in about a second."""


class Verify(enum.Enum):
    """Say which rows are read when a corpus is opened."""

    ALL = "all"
    LARGE_ONCE = "large once"
    """All; of a corpus of more than `LARGE` pairs as `ONCE`."""
    ONCE = "once"
    """Those of tables that have changed since this machine read them: see `digests.known_digest`."""
    NONE = "none"
    """None: the user trusts the corpus."""

    @staticmethod
    def unless(trusted: bool, otherwise: Verify | None = None) -> Verify:
        """Return `NONE` for a corpus that the user trusts, else `otherwise`, by default `LARGE_ONCE`."""
        return Verify.NONE if trusted else otherwise or Verify.LARGE_ONCE


class RowsDigest:
    """64 hexadecimal digits of rows' contents in their order; file bytes and versions do not matter, nor how many
    rows come at a time."""

    def __init__(self) -> None:
        self._columns = {name: hashlib.sha256() for name in PAIR_SCHEMA.names}

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Rows that come next, with all columns of `PAIR_SCHEMA`."""
        for name, column in self._columns.items():
            for value in rows.column(name).to_pylist():
                data = str(value).encode()
                column.update(len(data).to_bytes(8, "little") + data)

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(column.digest() for column in self._columns.values())).hexdigest()


def first_changed_row(batches: Iterable[pa.RecordBatch]) -> str:
    """Return the place of the first row whose id is not that of its content, for people; "" where there is none."""
    number = 0
    for rows in batches:
        for row in rows.to_pylist():
            number += 1
            identity = row.pop("id")
            if Pair(**row).id != identity:
                return f"row {number:,}, {row['path']}:{row['line']}"
    return ""
