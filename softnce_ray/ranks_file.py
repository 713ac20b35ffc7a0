"""The file that keeps what every query of a trial scored: comparisons are paired by query."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.files import expect_file

RANKS_FILE = "reciprocal_ranks.parquet"

CUT_OFF = ("recall@1", "recall@5", "recall@10", "ndcg@10")
"""Metrics that are kept beside the reciprocal rank of queries with several right codes: of one, they follow from it."""

Measure = Literal["reciprocal_rank", "graded_ndcg"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What is kept of every query; graded nDCG only where the corpus knows which codes share a meaning."""

_DIGEST = b"softnce_ray.sha256"
"""Key of the file's metadata with the digest of its table: the checksums of Parquet's pages do not cover the names of
columns, what their values are, and which of them there are."""


def place(name: str, language: str | None) -> str:
    """A split or metric of one of several languages: `test/ruby`, `test_mrr/ruby`; of one language, the name itself."""
    return name if language is None else f"{name}/{language}"


def write_ranks(path: Path, ids: Mapping[str, Sequence[str]], measures: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write one row a query: columns id, split, of several languages (see `place`) language, and one for each measure.

    `ids` is split → ids of the queries' pairs, `measures` is measure (of `MEASURES` or `CUT_OFF`) → split → (Q,)
    values; a measure without any split is left out.
    """
    tables = []
    for key, names in ids.items():
        split, _, language = key.partition("/")
        columns = {"id": pa.array(names, pa.string()), "split": pa.array([split] * len(names), pa.string())}
        if language:
            columns["language"] = pa.array([language] * len(names), pa.string())
        columns |= {
            measure: pa.array(values[key], pa.float64()) for measure, values in measures.items() if key in values
        }
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables, promote_options="default")
    pq.write_table(table.replace_schema_metadata({_DIGEST: _digest(table)}), path, write_page_checksum=True)


def ranks_table(path: str | Path) -> pa.Table:
    """Read all rows and columns that `write_ranks` wrote.

    Raises:
      OSError, pyarrow.ArrowException: the file is missing or damaged.
      ValueError: its table is not the one that was written. Of an earlier version's file nobody knows.
    """
    table = pq.read_table(expect_file(path), page_checksum_verification=True, partitioning=None)
    expected = (table.schema.metadata or {}).get(_DIGEST)
    if expected is not None and expected != _digest(table):
        raise ValueError("a change after it was written, by its digest")
    if missing := {"id", "split", "reciprocal_rank"} - set(table.column_names):
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    return table


def splits_of(table: pa.Table) -> list[str]:
    """Return the split of each row of what `ranks_table` read; of several languages as `place` names them."""
    splits = table.column("split").to_pylist()
    if "language" not in table.column_names:
        return splits
    return [place(*each) for each in zip(splits, table.column("language").to_pylist(), strict=True)]


def read_ranks(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Measure → split → (Q,) float64, in the order in which they were written: the corpus'. Splits of several languages
    as `place` names them.

    Raises:
      OSError, pyarrow.ArrowException, ValueError: the file is missing or damaged.
    """
    table = ranks_table(path)
    rows, found = np.array(splits_of(table)), {}
    for measure in (*MEASURES, *CUT_OFF):
        if measure in table.column_names:
            column = table.column(measure)
            known = ~column.is_null().to_numpy()  # a measure that only some languages have
            found[measure] = {key: column.to_numpy()[rows == key] for key in map(str, np.unique(rows[known]))}
    return found


def only(split: str, ranks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return of one measure's values, as `read_ranks` has them, those of a split: `test`, or `test/ruby` and so on."""
    return {key: values for key, values in ranks.items() if key.partition("/")[0] == split}


def _digest(table: pa.Table) -> bytes:
    """The SHA-256 of a table's names, types and values, however the file lays them out."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(json.dumps([name, str(column.type), len(column)]).encode())
        if pa.types.is_floating(column.type):
            digest.update(
                np.packbits(column.is_null().to_numpy()).tobytes() + column.to_numpy().astype("<f8").tobytes()
            )
        else:
            digest.update(json.dumps(column.to_pylist()).encode())
    return digest.hexdigest().encode()
