"""The file that keeps what every query of a trial scored: comparisons are paired by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RANKS_FILE = "reciprocal_ranks.parquet"

Measure = Literal["reciprocal_rank", "graded_ndcg"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What is kept of every query; graded nDCG only where the corpus knows which codes share a meaning."""


def write_ranks(
    path: Path, ids: Mapping[str, Sequence[str]], measures: Mapping[Measure, Mapping[str, np.ndarray]]
) -> None:
    """Write one row a query: columns id, split, and one for each measure.

    `ids` is split → ids of the queries' pairs, `measures` is measure → split → (Q,) values; a measure without any
    split is left out.
    """
    tables = []
    for split, names in ids.items():
        columns = {"id": pa.array(names, pa.string()), "split": pa.array([split] * len(names), pa.string())}
        columns |= {measure: pa.array(values[split], pa.float64()) for measure, values in measures.items() if values}
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), path)


def read_ranks(path: str | Path) -> dict[Measure, dict[str, np.ndarray]]:
    """Measure → split → (Q,) float64, in the order in which they were written: the corpus'.

    Raises:
      OSError, pyarrow.ArrowException: the file is missing or damaged.
    """
    table = pq.read_table(path)
    splits = np.array(table.column("split").to_pylist())
    return {
        measure: {str(split): table.column(measure).to_numpy()[splits == split] for split in np.unique(splits)}
        for measure in MEASURES
        if measure in table.column_names
    }
