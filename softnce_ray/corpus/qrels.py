"""Right codes of the queries of valid and test, where that is not one code of its own for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.corpus.choosing import Splits
from softnce_ray.corpus.duplicates import Hashes, first_equal
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.spool import Part, take_rows
from softnce_ray.corpus.store import CODEBASE, QREL_SCHEMA, QRELS, Corpus, qrels_digest

EVALUATED = ("valid", "test")


@dataclass(frozen=True)
class Codebase:
    """The codes that every query of a language is ranked among, and which of them are right.

    Attributes:
        rows: (M,) ascending rows of valid, test and codebase, one after another, that have a code of their own; None:
            all of them.
        right: split -> (Q, K) places in `rows` of the codes that answer each query of `valid` and `test`, the code of
            its own row first; -1 where a query has fewer than others.
    """

    rows: np.ndarray | None
    right: Mapping[str, np.ndarray]

    def of(self, codes: Sequence[str]) -> list[str]:
        """The codebase's texts, from those of all rows."""
        return list(codes) if self.rows is None else [codes[row] for row in self.rows]


def codebase_of(corpus: Corpus, language: str) -> Codebase:
    """Return what the queries of a language are ranked among.

    Raises:
        CorpusError: unknown language, or the table of right codes is missing or damaged.
    """
    table = corpus.qrels(language)
    counts = corpus.manifest.languages[language].pairs
    sizes = [counts.get(split, 0) for split in CODEBASE]
    if table is None:
        return Codebase(None, own_codes(sizes[0], sizes[1]))
    codes = table.column("code").to_numpy()
    rows = np.union1d(codes, np.arange(sizes[0] + sizes[1], sum(sizes)))
    splits, queries = np.array(table.column("split").to_pylist()), table.column("query").to_numpy()
    right = {}
    for split, size in zip(EVALUATED, sizes, strict=False):
        of_split = splits == split
        asked, found = queries[of_split], np.searchsorted(rows, codes[of_split])
        order = np.argsort(asked, kind="stable")
        asked, found = asked[order], found[order]
        numbers = np.arange(len(asked)) - np.searchsorted(asked, asked)  # of each query's codes
        right[split] = np.full((size, int(numbers.max(initial=0)) + 1), -1, np.int64)
        right[split][asked, numbers] = found
    return Codebase(rows, right)


def own_codes(valid: int, test: int) -> dict[str, np.ndarray]:
    """Right codes of so many queries that each have their own alone, see `Codebase`."""
    rows = np.arange(valid + test)[:, None]
    return {"valid": rows[:valid], "test": rows[valid:]}


def write_qrels(
    folder: Path, splits: Splits, parts: Mapping[str | None, Part], answers: Mapping[str, Sequence[str]]
) -> str | None:
    """Write which codes are right beside the tables of a language, and return the digest; nothing and None where each
    query has one code, and no other query has it.

    Args:
        splits: what the tables have.
        parts: what `splits` was chosen of.
        answers: id of a pair of valid or test -> ids of further pairs of `parts` whose code answers its query.

    Raises:
        CorpusError: `answers` names an id that no such pair has.
    """
    codes = np.concatenate([splits[split].codes for split in CODEBASE if split in splits])
    own = first_equal(codes)
    further = _rows_of(parts, {each for others in answers.values() for each in others}, codes)
    evaluated = sum(len(splits[split]) for split in EVALUATED)
    if not further and (own[:evaluated] == np.arange(evaluated)).all():
        return None
    lines: list[tuple[str, int, int]] = []
    unknown, start = set(answers), 0
    for split in EVALUATED:
        ids = [
            each
            for table in take_rows(splits[split].part.file, splits[split].rows, ["id"])
            for each in table.column("id").to_pylist()
        ]
        unknown.difference_update(ids)
        for query, identity in enumerate(ids):
            right = dict.fromkeys([int(own[start + query]), *(further[each] for each in answers.get(identity, ()))])
            lines += [(split, query, code) for code in right]
        start += len(ids)
    if unknown:
        raise CorpusError(
            f"expected answers for ids of pairs of valid and test, got {len(unknown)} of no such pair, as "
            f"{min(unknown)!r}: take the ids from the pairs that are given"
        )
    columns = [list(column) for column in zip(*lines, strict=True)]
    table = pa.table([*columns, [1] * len(lines)], schema=QREL_SCHEMA)
    pq.write_table(table, folder / f"{QRELS}.parquet", compression="zstd")
    return qrels_digest(table)


def _rows_of(parts: Mapping[str | None, Part], wanted: set[str], codes: Hashes) -> dict[str, int]:
    """The rows of `codes` that have the codes of the pairs `wanted`, by their ids."""
    found: dict[str, int] = {}
    for split, part in parts.items():
        if split not in CODEBASE or not wanted:
            continue
        rows = first_equal(np.concatenate([codes, part.codes]))[len(codes) :]
        ids = (
            each
            for table in take_rows(part.file, np.arange(len(part)), ["id"])
            for each in table.column("id").to_pylist()
        )
        found |= {each: int(row) for each, row in zip(ids, rows, strict=True) if each in wanted and row < len(codes)}
    if missing := wanted - found.keys():
        raise CorpusError(
            f"expected answers that are pairs of valid, test or codebase, got {len(missing)} of no such pair, as "
            f"{min(missing)!r}: give each code that answers a query in one of these splits"
        )
    return found
