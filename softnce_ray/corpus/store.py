"""A corpus on disk: a folder with `manifest.json` and `<language>/<split>.parquet`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.commands import command
from softnce_ray.corpus.manifest import MANIFEST_NAME, LanguageCounts, Manifest, parse_manifest, read_manifest
from softnce_ray.corpus.pairs import PAIR_SCHEMA, SPLITS, CorpusError
from softnce_ray.corpus.verifying import LARGE, RowsDigest, Verify, first_changed_row
from softnce_ray.digests import cache_folder, known_digest
from softnce_ray.files import State, expect_file, state_of
from softnce_ray.folders import made_once
from softnce_ray.storage import Location, StorageError, download, has_bucket, is_uri, no_bucket, read, sizes

MEANINGS = "meanings"  # the table beside the splits
MEANING_SCHEMA = pa.schema(
    [pa.field("id", pa.string(), nullable=False), pa.field("meaning", pa.int32(), nullable=False)]
)


QRELS = "qrels"  # the table beside the splits of which codes are right, where that is not one for each query
QREL_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("query", pa.int32(), nullable=False),  # row of the split
        pa.field("code", pa.int32(), nullable=False),  # row of valid, test and codebase, one after another
        pa.field("relevance", pa.int32(), nullable=False),  # 1: right
    ]
)
_BESIDE = {MEANINGS: "meanings of pairs", QRELS: "right codes of queries"}
CODEBASE = ("valid", "test", "codebase")
"""Splits whose codes every query is ranked among, in this order."""


def meanings_to_table(meanings: Mapping[str, int]) -> pa.Table:
    """Rows of `MEANING_SCHEMA`, sorted by id."""
    rows = sorted(meanings.items())
    ids, numbers = pa.array([row[0] for row in rows], pa.string()), pa.array([row[1] for row in rows], pa.int32())
    return pa.table([ids, numbers], schema=MEANING_SCHEMA)


def meanings_digest(meanings: Mapping[str, int]) -> str:
    """64 hexadecimal digits of which pair has which meaning; the order does not matter."""
    lines = (f"{identity} {meaning}" for identity, meaning in sorted(meanings.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def qrels_digest(qrels: pa.Table) -> str:
    """64 hexadecimal digits of which codes are right, in the order of the rows."""
    columns = (column.to_pylist() for column in qrels.columns)
    return hashlib.sha256("\n".join(map(repr, zip(*columns, strict=True))).encode()).hexdigest()


def digests_of(counts: LanguageCounts) -> dict[str, str]:
    """Return the digests of a language's tables by their names."""
    beside = {MEANINGS: counts.meanings, QRELS: counts.qrels}
    return {**counts.digests, **{name: digest for name, digest in beside.items() if digest is not None}}


def fingerprint(digests: Mapping[str, Mapping[str, str]]) -> str:
    """One hash for the tables' digests, given as language -> split -> digest."""
    lines = [f"{name}/{split} {digest}" for name, each in digests.items() for split, digest in each.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class Corpus:
    """A corpus that was opened; tables are read from disk on every call, nothing is kept in memory.

    `folder` is where its files lie on this machine, `location` where it was opened: an absolute path or a URI, under
    which other machines find it too.
    """

    def __init__(self, folder: Path, manifest: Manifest, location: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.location = location
        self.is_trusted = False
        self._states: dict[tuple[str, str], State] = {}

    @classmethod
    def open(cls, folder: str | Path, *, verify: Verify = Verify.LARGE_ONCE) -> Corpus:
        """Open a corpus whose tables are there with the columns and row counts of the manifest, and whose
        meanings, where it has them, can be read. One in an object store (`s3://…`) is fetched once by each machine,
        which keeps it by its content.

        `verify` says which rows are read and compared with the manifest (about a second for 100,000 pairs); of a corpus
        in an object store those of this machine's copy, and with `ALL` the sizes of the files there.

        Raises:
            CorpusError: the folder, its manifest or a table is missing, broken, changed, or of another
                version; or the storage cannot be read.
        """
        return cls._opened(folder, tables=True, verify=verify)

    @classmethod
    def listed(cls, folder: str | Path) -> Corpus:
        """A corpus as `open` gives it, but of one in an object store only its manifest is read: its tables are not here
        yet, and cannot be asked for.

        Raises:
            CorpusError: as `open`.
        """
        return cls._opened(folder, tables=False, verify=Verify.NONE)

    @classmethod
    def _opened(cls, place: str | Path, *, tables: bool, verify: Verify) -> Corpus:
        try:
            location = Location.at(place)
            if location.path is not None:
                root = location.path if is_uri(str(place)) else Path(place)  # as it was given, for messages
                corpus = cls(root, read_manifest(root), str(location))
            else:
                manifest, content = _manifest_at(location)
                corpus = cls(cache_folder() / "corpora" / _name(manifest, content), manifest, str(location))
                if not tables:
                    return corpus
                _fetch(corpus, location, content)
            corpus._check(verify)
            if verify is Verify.ALL and location.path is None:
                _compare_sizes(corpus, location)
        except StorageError as error:
            raise CorpusError(str(error)) from error
        return corpus

    def _check(self, verify: Verify) -> None:
        self.is_trusted = verify is Verify.NONE
        if verify is Verify.LARGE_ONCE:
            pairs = sum(sum(counts.pairs.values()) for counts in self.manifest.languages.values())
            verify = Verify.ONCE if pairs > LARGE else Verify.ALL
        digests = {language: digests_of(counts) for language, counts in self.manifest.languages.items()}
        if verify is not Verify.NONE and fingerprint(digests) != self.fingerprint:
            raise CorpusError(
                f"expected its tables' fingerprint in {self.folder / MANIFEST_NAME}, got another: {self._remedy()}"
            )
        for language, counts in self.manifest.languages.items():
            for split, rows in counts.pairs.items():
                self._check_table(language, split, rows)
                self._compare(verify, language, split, counts.digests.get(split), self._digest)
            self._compare(verify, language, MEANINGS, counts.meanings, self._meanings_digest)
            self._compare(verify, language, QRELS, counts.qrels, self._qrels_digest)

    def _compare(
        self, verify: Verify, language: str, name: str, expected: str | None, compute: Callable[[str, str], str]
    ) -> None:
        """Compare the rows of a table with the manifest, unless they are trusted or, with `ONCE`, known."""
        if name in _BESIDE and expected is None:
            return
        if verify is Verify.NONE:
            if name in _BESIDE:
                compute(language, name)  # it can be read
            return
        path = self._file(language, name, _BESIDE.get(name, "a parquet table"))
        try:
            self._states[language, name] = state_of(path)
            found = (
                known_digest(path, "rows", lambda: compute(language, name))
                if verify is Verify.ONCE
                else compute(language, name)
            )
        except OSError as error:
            raise self._changed(language, name, "a parquet table", error.strerror or str(error)) from error
        if found != expected:
            row = "" if name in _BESIDE else first_changed_row(self.batches(language, name))
            raise self._changed(language, name, "the rows of the manifest", f"other rows{row and f' ({row})'}")

    def check_unchanged(self) -> None:
        """See that the tables are those whose rows were verified when the corpus was opened.

        What was made of a corpus is right only if this holds afterwards. Of a trusted corpus nothing is checked.

        Raises:
            CorpusError: a table has changed since.
        """
        for (language, name), before in self._states.items():
            try:
                now = state_of(self._path(language, name))
            except OSError:
                now = None
            if now != before:
                raise self._changed(language, name, "the table that was opened", "another: it changed meanwhile")

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that stand for the rows of all tables."""
        return self.manifest.fingerprint

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the languages, sorted."""
        return tuple(sorted(self.manifest.languages))

    def table(self, language: str, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a split in their stored order, all columns of `PAIR_SCHEMA` or those named.

        A split that the corpus does not have is an empty table.

        Raises:
            CorpusError: unknown language, split or column, or the table cannot be read.
        """
        self._expect("language", language, self.languages)
        self._expect("split", split, SPLITS)
        for column in columns or ():
            self._expect("column", column, PAIR_SCHEMA.names)
        if split not in self.manifest.languages[language].pairs:
            empty = PAIR_SCHEMA.empty_table()
            return empty if columns is None else empty.select(list(columns))
        try:
            with pq.ParquetFile(expect_file(self._path(language, split)), memory_map=True) as file:
                return file.read(columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise self._changed(language, split, "a parquet table", str(error)) from error

    def batches(
        self, language: str, split: str, columns: Sequence[str] | None = None, *, rows: int = 2_000
    ) -> Iterator[pa.RecordBatch]:
        """What `table` gives, at most `rows` rows at a time: only these are in memory.

        Raises:
            CorpusError: unknown language, split or column, or the table cannot be read.
        """
        self._expect("language", language, self.languages)
        self._expect("split", split, SPLITS)
        for column in columns or ():
            self._expect("column", column, PAIR_SCHEMA.names)
        if split not in self.manifest.languages[language].pairs:
            return
        try:
            # Pages are read as they are needed: mapped, or read ahead, a whole file would be in memory.
            with pq.ParquetFile(expect_file(self._path(language, split)), buffer_size=2**20) as file:
                yield from file.iter_batches(rows, columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise self._changed(language, split, "a parquet table", str(error)) from error

    def meanings(self, language: str) -> dict[str, int] | None:
        """The group of each pair of valid, test and codebase that shares its meaning with others, by pair id.

        Pairs with an equal number (0 or more) answer the same queries; a pair that is not named has no
        partner. None where the corpus does not know of any groups. Training pairs are never named.

        Raises:
            CorpusError: unknown language, or the table is missing or cannot be read.
        """
        self._expect("language", language, self.languages)
        if self.manifest.languages[language].meanings is None:
            return None
        table = self._beside(language, MEANINGS, MEANING_SCHEMA)
        return dict(zip(table["id"].to_pylist(), table["meaning"].to_pylist(), strict=True))

    def qrels(self, language: str) -> pa.Table | None:
        """Return the codes that answer the queries of valid and test, rows of `QREL_SCHEMA` by split and query.

        Of each query its own row's code comes first. None where each query has its own row's code alone, and no other
        query has that.

        Raises:
            CorpusError: unknown language, or the table is missing, cannot be read, or names rows that are not there.
        """
        self._expect("language", language, self.languages)
        if self.manifest.languages[language].qrels is None:
            return None
        table = self._beside(language, QRELS, QREL_SCHEMA)
        pairs = self.manifest.languages[language].pairs
        asked = {(split, row) for split in ("valid", "test") for row in range(pairs.get(split, 0))}
        if set(zip(table["split"].to_pylist(), table["query"].to_pylist(), strict=True)) != asked:
            raise self._changed(language, QRELS, "a right code for each query", "other queries")
        codes = table["code"].to_numpy()
        if len(codes) and not 0 <= codes.min() <= codes.max() < sum(pairs.get(split, 0) for split in CODEBASE):
            raise self._changed(language, QRELS, "rows of the corpus", "others")
        return table

    def _beside(self, language: str, name: str, schema: pa.Schema) -> pa.Table:
        """A table that lies beside the splits."""
        path = self._file(language, name, _BESIDE[name])
        try:
            table = pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise self._changed(language, name, "a parquet table", str(error)) from error
        if not table.schema.equals(schema, check_metadata=False):
            raise self._changed(language, name, f"columns {schema.names}", f"columns {table.schema.names}")
        return table

    def _digest(self, language: str, split: str) -> str:
        digest = RowsDigest()
        try:
            for rows in self.batches(language, split):
                digest.update(rows)
        except UnicodeDecodeError as error:
            raise self._changed(language, split, "texts in UTF-8", str(error)) from error
        return digest.hexdigest()

    def _meanings_digest(self, language: str, name: str) -> str:
        return meanings_digest(self.meanings(language) or {})

    def _qrels_digest(self, language: str, name: str) -> str:
        table = self.qrels(language)
        return "" if table is None else qrels_digest(table)

    def _file(self, language: str, name: str, expected: str) -> Path:
        try:
            return expect_file(self._path(language, name))
        except OSError as error:
            got = "no file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
            raise self._changed(language, name, expected, got) from error

    def _path(self, language: str, split: str) -> Path:
        return self.folder / language / f"{split}.parquet"

    def _expect(self, what: str, got: str, possible: Sequence[str]) -> None:
        if got not in possible:
            where = self.location if is_uri(self.location) else self.folder
            raise CorpusError(f"expected a {what} of {', '.join(possible)} in {where}, got {got!r}")

    def _check_table(self, language: str, split: str, rows: int) -> None:
        path = self._file(language, split, f"{rows} rows")
        try:
            with pq.ParquetFile(path) as file:
                schema, found = file.schema_arrow, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise self._changed(language, split, "a parquet table", str(error)) from error
        if not schema.equals(PAIR_SCHEMA, check_metadata=False):
            raise self._changed(language, split, f"columns {PAIR_SCHEMA.names}", f"columns {schema.names}")
        if found != rows:
            raise self._changed(language, split, f"{rows} rows", f"{found} rows")

    def _changed(self, language: str, split: str, expected: str, got: str) -> CorpusError:
        return CorpusError(f"expected {expected} in {self._path(language, split)}, got {got}: {self._remedy()}")

    def _remedy(self) -> str:
        if is_uri(self.location):
            return f"this machine's copy of {self.location} is damaged; delete {self.folder}, and it is fetched again"
        return "the corpus was changed or copied in part after it was made; make it or copy it again"


def tables(manifest: Manifest) -> list[str]:
    """Files of a corpus beside its manifest, as paths below its folder."""
    found = []
    for language, counts in sorted(manifest.languages.items()):
        found += [f"{language}/{split}.parquet" for split in counts.pairs]
        found += [f"{language}/{MEANINGS}.parquet"] if counts.meanings is not None else []
        found += [f"{language}/{QRELS}.parquet"] if counts.qrels is not None else []
    return found


def _name(manifest: Manifest, content: bytes) -> str:
    """Of the folder in which machines keep a corpus of an object store."""
    return f"{manifest.fingerprint[:16]}-{hashlib.sha256(content).hexdigest()[:8]}"


def _fetch(corpus: Corpus, place: Location, content: bytes) -> None:
    """Have the files of a corpus of an object store, whose manifest is `content`, in its folder; what is fetched is
    verified."""

    def fetch(folder: Path) -> None:
        download(place, folder, tables(corpus.manifest))
        (folder / MANIFEST_NAME).write_bytes(content)
        try:
            Corpus(folder, corpus.manifest, str(folder))._check(Verify.ALL)
        except CorpusError as error:
            raise CorpusError(f"{place}: {error}") from error

    made_once(corpus.folder, fetch)


def _compare_sizes(corpus: Corpus, place: Location) -> None:
    """See that the files of an object store are as large as those that were fetched of it."""
    files = tables(corpus.manifest)
    found = sizes(place, files)
    for name in files:
        if found.get(name) != (expected := (corpus.folder / name).stat().st_size):
            got = f"{found[name]:,}" if name in found else "no file"
            raise CorpusError(
                f"expected {expected:,} bytes in {place / name}, got {got}: the corpus was changed or copied in part "
                "after it was made; copy it again"
            )


def _manifest_at(place: Location) -> tuple[Manifest, bytes]:
    """The manifest of a corpus in an object store, and the bytes of its file."""
    content = read(place / MANIFEST_NAME)
    if content is None:
        if not has_bucket(place):
            raise CorpusError(no_bucket(place))
        raise CorpusError(
            f"expected a corpus at {place}, got nothing: correct the address, or put one there with "
            f"`{command('softnce-ray', 'corpus', 'copy', 'FOLDER', place)}`"
        )
    return parse_manifest(content, str(place / MANIFEST_NAME)), content
