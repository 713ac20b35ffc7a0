"""Pairs on their way to a corpus: the texts in temporary files, in memory only what decides where they go."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.config.settings import LANGUAGE_RULE
from softnce_ray.corpus.duplicates import Hashes, as_hashes, normalise_code, normalise_query, text_hash
from softnce_ray.corpus.pairs import LANGUAGE_NAME, PAIR_SCHEMA, SPLITS, CorpusError, Pair, pairs_to_table
from softnce_ray.folders import beside

_GROUP_ROWS = 4_096


@dataclass(frozen=True)
class Part:
    """The pairs of a language and split, in the order in which they came: some 40 bytes for each in memory.

    `packages` are numbers of `Spool.packages`, `queries` and `codes` hashes of the normalised texts; `file` has the
    rows of `PAIR_SCHEMA`.
    """

    file: Path
    packages: npt.NDArray[np.int32]
    queries: Hashes
    codes: Hashes

    def __len__(self) -> int:
        return len(self.packages)


class _Writer:
    """A part that grows."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._packages = array("i")
        self._queries, self._codes = bytearray(), bytearray()
        self._waiting: list[Pair] = []
        self._parquet = pq.ParquetWriter(file, PAIR_SCHEMA, compression="lz4", use_dictionary=["language", "package"])

    def add(self, pair: Pair, package: int) -> None:
        self._packages.append(package)
        self._queries += text_hash(normalise_query(pair.query))
        self._codes += text_hash(normalise_code(pair.code))
        self._waiting.append(pair)
        if len(self._waiting) == _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._parquet.write_table(pairs_to_table(self._waiting))
        self._waiting = []

    def finish(self) -> Part:
        self._write()
        self._parquet.close()
        packages = np.frombuffer(self._packages, np.int32) if self._packages else np.zeros(0, np.int32)
        return Part(self.file, packages, as_hashes(self._queries), as_hashes(self._codes))

    def close(self) -> None:
        self._parquet.close()


class Spool:
    """A place for pairs until all are there and a corpus can be built of them; a context manager, which leaves
    nothing behind; if it is killed, the next one for the same `out` cleans up.

    The files lie in a hidden folder beside `out`, which appears with the first pair.
    """

    def __init__(self, out: str | Path) -> None:
        self._out = Path(out)
        self._folder: Path | None = None
        self._held = ExitStack()
        self._writers: dict[tuple[str, str | None], _Writer] = {}
        self._packages: dict[str, int] = {}
        self._parts: dict[str, dict[str | None, Part]] | None = None

    def add(self, pairs: Iterable[Pair], split: str | None = None) -> None:
        """Keep pairs of a split, or such as are to be split later: a spool has only one kind.

        Raises:
            CorpusError: the split is unknown, some pairs have a split and some have none, or a pair's language is no
                name of a folder.
        """
        if split is not None and split not in SPLITS:
            raise CorpusError(f"expected splits of {', '.join(SPLITS)}, got {split!r}")
        if self._parts is not None:
            raise ValueError("expected no more pairs after the parts were asked for, got some")
        for pair in pairs:
            writer = self._writers.get((pair.language, split))
            if writer is None:
                writer = self._start(pair.language, split)
            writer.add(pair, self._packages.setdefault(pair.package, len(self._packages)))

    def _start(self, language: str, split: str | None) -> _Writer:
        if not LANGUAGE_NAME.fullmatch(language):
            raise CorpusError(f"expected {LANGUAGE_RULE}, got {language!r}: correct the input")
        if any((split is None) != (other is None) for _, other in self._writers):
            raise CorpusError("expected all pairs to have a split or none to have one, got both: correct the input")
        if self._folder is None:
            self._folder = self._held.enter_context(beside(self._out))
        writer = _Writer(self._folder / f"{len(self._writers)}.parquet")
        self._writers[language, split] = writer
        return writer

    @property
    def is_split(self) -> bool:
        """Whether the pairs came with splits."""
        return any(split is not None for _, split in self._writers)

    @property
    def packages(self) -> list[str]:
        """The packages' names, in the order of their numbers."""
        return list(self._packages)

    def parts(self) -> dict[str, dict[str | None, Part]]:
        """language -> split -> pairs, languages sorted. No pairs can be added afterwards."""
        if self._parts is None:
            self._parts = {language: {} for language in sorted({language for language, _ in self._writers})}
            for (language, split), writer in self._writers.items():
                self._parts[language][split] = writer.finish()
        return self._parts

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()
        self._held.close()


def take_rows(file: Path, rows: npt.NDArray[np.int64], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Rows of a parquet file in the order of `rows`, a row group at a time.

    The file is read once for each ascending run of `rows`.
    """
    if not len(rows):
        return
    with pq.ParquetFile(file, buffer_size=2**20) as source:
        sizes = [source.metadata.row_group(group).num_rows for group in range(source.num_row_groups)]
        ends = np.cumsum(sizes)
        for run in np.split(rows, np.flatnonzero(np.diff(rows) < 0) + 1):
            cuts = np.searchsorted(run, ends)
            for group, (start, stop) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
                if start < stop:
                    table = source.read_row_group(group, columns=None if columns is None else list(columns))
                    yield table.take(pa.array(run[start:stop] - (ends[group] - sizes[group])))
