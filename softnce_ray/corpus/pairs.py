"""The record that every corpus is made of, its table schema and the error of this room."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from softnce_ray.config.settings import LANGUAGE
from softnce_ray.errors import MachineError

LANGUAGE_NAME = re.compile(LANGUAGE)
SPLITS = ("train", "valid", "test", "codebase")

PAIR_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("package", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
    ]
)


class CorpusError(MachineError, ValueError):
    """What was expected, what was got, where, and what to do about it, in one message for the user."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One function and the sentence that describes it.

    `query` is cleaned documentation (empty only for a distractor in `codebase`); `code` does not contain
    it. `package` is the project that must not lie in two splits; `path` is relative to it or to its root
    folder; `line` is the 1-based line of the function's head, 0 where it is unknown.
    """

    query: str
    code: str
    language: str
    package: str
    path: str
    line: int
    name: str

    @property
    def id(self) -> str:
        """16 hexadecimal digits; equal for equal language, package, path, name, query and code."""
        digest = hashlib.sha256()
        for text in (self.language, self.package, self.path, self.name, self.query, self.code):
            data = text.encode()
            # The length goes first so that moving a character between two fields changes the hash.
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()[:16]


def pairs_to_table(pairs: Iterable[Pair]) -> pa.Table:
    """Rows of `PAIR_SCHEMA` in the order of `pairs`."""
    rows = list(pairs)
    columns = [[getattr(pair, name) for pair in rows] for name in PAIR_SCHEMA.names]
    return pa.table(
        [pa.array(column, type=field.type) for column, field in zip(columns, PAIR_SCHEMA, strict=True)],
        schema=PAIR_SCHEMA,
    )
