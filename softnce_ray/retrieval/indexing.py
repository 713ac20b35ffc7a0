"""Making an index of a source tree or corpus, and bringing it up to date by computing only what changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.corpus.arrays import GrowingArray
from softnce_ray.corpus.pairs import Pair
from softnce_ray.files import expect_file
from softnce_ray.folders import appearing, lock_file, others, recover
from softnce_ray.retrieval.embedding import CHUNK, Embedder, open_embedder
from softnce_ray.retrieval.functions import find_functions
from softnce_ray.retrieval.index import (
    FORMAT,
    FUNCTION_SCHEMA,
    FUNCTIONS,
    GROUP_ROWS,
    INDEX_FILE,
    VECTORS,
    Advance,
    Index,
    RetrievalError,
    write_about,
)
from softnce_ray.retrieval.lexical import WORD_FILES, WordIndex, document
from softnce_ray.storage import Location, local

Number = Literal["float32", "float16"]


@dataclass(frozen=True)
class Indexed:
    """What making an index did: `texts` of the functions differ, of which `computed` were embedded and `reused` taken
    from the index that was there; `bytes` is the size of all files."""

    folder: Path
    functions: int
    texts: int
    files: int
    languages: Mapping[str, int]
    computed: int
    reused: int
    bytes: int
    passed_over: Mapping[str, int]


def build_index(
    source: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    number: Number = "float32",
    tests: bool = True,
    workers: int = 2,
    overwrite: bool = False,
    reading: Advance = lambda done, total, note: None,
    embedding: Advance = lambda done, total, note: None,
) -> Indexed:
    """Make the index `out` of all functions of `source`, or bring it up to date.

    Where `out` is an index of the same model and kind of number, vectors of functions whose code did not change are
    taken from it. The new index takes its place when it is complete; whatever fails, or is killed, leaves the old one.

    Args:
      source: a folder of sources, a source file, an archive of sources, or a corpus: its folder or URI.
      model: the folder of a model, see `embedding.open_embedder`.
      out: the folder to make, on this machine.
      number: of the stored vectors; float16 takes half the space, with three digits.
      tests: functions of tests and examples too.
      workers: processes that read sources.
      overwrite: replace an index of something else.
      reading, embedding: called with progress.

    Raises:
      RetrievalError: `out` is something else, holds something else, or is an index of another source or model.
      StorageError: `out` is a URI or lies below a file.
      CorpusError: `source` has no functions.
      ExportError: the model cannot be loaded.
      OSError: `out` cannot be written.
    """
    folder = local(out, "--out", "make the index here, and copy its folder")
    with _held(folder):
        return _build(source, folder, model, number, tests, workers, overwrite, reading, embedding)


def _build(
    source: str | Path,
    out: Path,
    model: str | Path,
    number: Number,
    tests: bool,
    workers: int,
    overwrite: bool,
    reading: Advance,
    embedding: Advance,
) -> Indexed:
    recover(out)
    was_there = out.exists()
    old = _old_index(out, overwrite=overwrite)
    embedder = open_embedder(model)
    place = Location.at(source)
    made_of = {
        "source": str(place.path.resolve() if place.path else place),
        "model": embedder.content,
        "number": number,
    }
    if old is not None and (changed := [name for name in made_of if made_of[name] != old.made_of[name]]):
        if not overwrite:
            raise RetrievalError(
                f"expected to bring {out} up to date, got another {' and '.join(changed)} than it was made with: give "
                "another --out, or --overwrite to replace it"
            )
        if changed != ["source"]:  # vectors of another model say nothing
            old = None
    found = find_functions(
        source, tests=tests, workers=workers, steps=lambda done, total, count: reading(done, total, f"{count:,} found")
    )
    digests = [_digest(each.code) for each in found.functions]
    vectors_of: dict[bytes, int] = {}
    for digest in digests:
        vectors_of.setdefault(digest, len(vectors_of))
    codes = _first_of_each(found.functions, digests)
    with appearing(out, may_go=_check_alone if was_there else None) as folder:
        computed = _write_vectors(folder / VECTORS, vectors_of, codes, embedder, number, old, embedding)
        _write_functions(folder / FUNCTIONS, found.functions, digests, vectors_of)
        WordIndex.fit(document(each.name, each.query, each.code) for each in codes).save(folder)
        about = {
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **made_of,
            "kind": found.kind,
            "model_folder": str(embedder.folder),
            "functions": len(found.functions),
            "texts": len(codes),
            "files": found.files,
            "passed_over": dict(sorted(found.passed_over.items())),
        }
        write_about(folder, about)
        size = sum(path.stat().st_size for path in folder.iterdir())
    return Indexed(
        folder=out,
        functions=len(found.functions),
        texts=len(codes),
        files=found.files,
        languages=dict(Counter(each.language for each in found.functions).most_common()),
        computed=computed,
        reused=len(codes) - computed,
        bytes=size,
        passed_over=dict(found.passed_over),
    )


def _digest(code: str) -> bytes:
    return hashlib.blake2b(code.encode(errors="surrogatepass"), digest_size=16).digest()


def _first_of_each(functions: Sequence[Pair], digests: Sequence[bytes]) -> list[Pair]:
    """The first function of each code, in the order in which the codes come."""
    firsts: dict[bytes, Pair] = {}
    for function, digest in zip(functions, digests, strict=True):
        firsts.setdefault(digest, function)
    return list(firsts.values())


def _old_index(out: Path, *, overwrite: bool) -> Index | None:
    """The index in `out`, or None when nothing is there; a damaged one counts as nothing where it may be replaced."""
    if not out.exists():
        return None
    if not (out / INDEX_FILE).is_file():
        raise RetrievalError(f"expected to make an index at {out}, got something else there: give another --out")
    _check_alone(out)
    try:
        return Index.open(out)
    except RetrievalError:
        if overwrite:
            return None
        raise


def _check_alone(out: Path) -> None:
    """See that nothing but an index lies in a folder that is to be replaced."""
    if more := others(out, {INDEX_FILE, FUNCTIONS, VECTORS, *WORD_FILES}.__contains__):
        raise RetrievalError(
            f"expected nothing but the index in {out}, which is made anew, got {more}: move that elsewhere, or give "
            "another --out"
        )


def _write_vectors(
    path: Path,
    vectors_of: Mapping[bytes, int],
    codes: Sequence[Pair],
    embedder: Embedder,
    number: Number,
    old: Index | None,
    advance: Advance,
) -> int:
    """Write the vectors of `codes`, those that `old` has taken from it; returns how many were computed."""
    try:
        known = {} if old is None else _old_rows(old)
    except (OSError, pa.ArrowException):
        known = {}  # damaged: all is computed anew
    digests = list(vectors_of)
    missing = [row for row, digest in enumerate(digests) if digest not in known]
    computed = 0
    file: GrowingArray | None = None
    try:
        for start in range(0, len(codes), CHUNK):
            part = range(start, min(start + CHUNK, len(codes)))
            new = [row for row in part if digests[row] not in known]
            texts, languages = [codes[row].code for row in new], [codes[row].language for row in new]
            fresh = embedder.encode_codes(texts, languages) if new else None
            width = fresh.shape[1] if fresh is not None else old.vectors.shape[1]  # type: ignore[union-attr]
            rows = np.empty((len(part), width), number)
            if fresh is not None:
                if not np.isfinite(fresh).all():
                    raise RetrievalError("expected finite vectors, got NaN or infinity: this model has diverged")
                rows[np.array(new) - start] = fresh
            if old is not None:
                for row in part:
                    if (place := known.get(digests[row])) is not None:
                        rows[row - start] = old.vectors[place]
            if file is None:
                file = GrowingArray(path, np.dtype(number), width)
            file.append(rows)
            computed += len(new)
            if new:
                advance(computed, len(missing), "")
    except BaseException as error:
        if file is not None:
            file.__exit__(type(error), error, None)
        raise
    assert file is not None
    file.__exit__(None, None, None)
    return computed


def _old_rows(old: Index) -> dict[bytes, int]:
    table = pq.read_table(expect_file(old.folder / FUNCTIONS), columns=["digest", "vector"])
    return dict(zip(table.column("digest").to_pylist(), table.column("vector").to_pylist(), strict=True))


def _write_functions(
    path: Path, functions: Sequence[Pair], digests: Sequence[bytes], vectors_of: Mapping[bytes, int]
) -> None:
    with pq.ParquetWriter(path, FUNCTION_SCHEMA) as writer:
        for start in range(0, len(functions), GROUP_ROWS):
            rows = [
                {
                    "language": each.language,
                    "package": each.package,
                    "path": each.path,
                    "line": each.line,
                    "name": each.name,
                    "documentation": each.query,
                    "vector": vectors_of[digest],
                    "digest": digest,
                    "code": each.code,
                }
                for each, digest in zip(
                    functions[start : start + GROUP_ROWS], digests[start : start + GROUP_ROWS], strict=True
                )
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=FUNCTION_SCHEMA), row_group_size=GROUP_ROWS)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep an index for one process that makes it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.parent / f".{out.name}.lock"
    with lock_file(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError  # of one that has just ended, and is no longer the lock
        except BlockingIOError:
            raise RetrievalError(
                f"another process is making the index {out}: wait for it, or give another --out"
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
