"""The file that keeps the reciprocal rank of every query of a trial: comparisons are paired by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RANKS_FILE = "reciprocal_ranks.parquet"


def write_ranks(path: Path, ranks: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> None:
    """Write split → (ids of the queries' pairs, (Q,) reciprocal ranks) as columns id, split, reciprocal_rank."""
    tables = [
        pa.table({"id": pa.array(ids, pa.string()), "split": [split] * len(ids), "reciprocal_rank": values})
        for split, (ids, values) in ranks.items()
    ]
    pq.write_table(pa.concat_tables(tables), path)


def read_ranks(path: str | Path) -> dict[str, np.ndarray]:
    """Split → (Q,) float64 reciprocal ranks, in the order in which they were written: the corpus'.

    Raises:
      OSError, pyarrow.ArrowException: the file is missing or damaged.
    """
    table = pq.read_table(path)
    splits = np.array(table.column("split").to_pylist())
    values = table.column("reciprocal_rank").to_numpy()
    return {str(split): values[splits == split] for split in np.unique(splits)}
