"""The tables of a corpus, from a spool's rows to parquet, some thousand rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.corpus.choosing import EVALUATION, Chosen, Splits
from softnce_ray.corpus.duplicates import first_equal, occur_in
from softnce_ray.corpus.manifest import LanguageCounts
from softnce_ray.corpus.pairs import PAIR_SCHEMA
from softnce_ray.corpus.spool import take_rows
from softnce_ray.corpus.store import MEANINGS, meanings_digest, meanings_to_table
from softnce_ray.corpus.verifying import RowsDigest

_GROUP_ROWS = 16_384


def write_language(folder: Path, splits: Splits, packages: Sequence[str]) -> LanguageCounts:
    """Write the tables of a language into `folder`, which is made, and count what they hold."""
    folder.mkdir(parents=True)
    digests = {split: _write(folder / f"{split}.parquet", chosen) for split, chosen in splits.items()}
    train = splits["train"].queries
    sharing = np.bincount(first_equal(train), minlength=1)
    return LanguageCounts(
        pairs={split: len(chosen) for split, chosen in splits.items()},
        packages={split: _packages(chosen, packages) for split, chosen in splits.items()},
        train_pairs_sharing_query=int(sharing[sharing > 1].sum()),
        queries_in_train={split: int(occur_in(splits[split].queries, train).sum()) for split in EVALUATION},
        digests=digests,
    )


def _write(file: Path, chosen: Chosen) -> str:
    """Write rows in groups of one size, and return their digest."""
    digest = RowsDigest()
    waiting: list[pa.Table] = []
    rows = 0
    with pq.ParquetWriter(file, PAIR_SCHEMA, compression="zstd") as writer:
        for table in take_rows(chosen.part.file, chosen.rows):
            digest.update(table)
            waiting.append(table)
            rows += len(table)
            while rows >= _GROUP_ROWS:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined.slice(0, _GROUP_ROWS))
                waiting = [joined.slice(_GROUP_ROWS)]
                rows -= _GROUP_ROWS
        if rows or not len(chosen):
            writer.write_table(pa.concat_tables([PAIR_SCHEMA.empty_table(), *waiting]))
    return digest.hexdigest()


def _packages(chosen: Chosen, names: Sequence[str]) -> dict[str, int]:
    numbers, counts = np.unique(chosen.packages, return_counts=True)
    return dict(sorted(zip((names[number] for number in numbers), counts.tolist(), strict=True)))


def write_meanings(folder: Path, splits: Sequence[str], groups: Mapping[str, int]) -> str:
    """Write what is known of evaluation pairs beside the tables of their language, and return its digest."""
    ids: set[str] = set()
    for split in splits:
        if split != "train":
            ids.update(_ids(folder, split))
    # An id stands for the contents of a pair, which can also be in train: then nothing is said of it.
    ids.difference_update(_ids(folder, "train"))
    known = {identity: meaning for identity, meaning in groups.items() if identity in ids}
    pq.write_table(meanings_to_table(known), folder / f"{MEANINGS}.parquet", compression="zstd")
    return meanings_digest(known)


def _ids(folder: Path, split: str) -> list[str]:
    with pq.ParquetFile(folder / f"{split}.parquet") as file:
        return file.read(columns=["id"]).column("id").to_pylist()
