"""An index: the functions of a source tree or corpus with their vectors, in a folder that is searched without a model's
training data, and brought up to date by computing only what changed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.corpus.arrays import GrowingArray
from softnce_ray.corpus.pairs import Pair
from softnce_ray.errors import UserError
from softnce_ray.folders import appearing
from softnce_ray.retrieval.embedding import CHUNK, Embedder, open_embedder
from softnce_ray.retrieval.functions import find_functions
from softnce_ray.retrieval.lexical import WordIndex
from softnce_ray.retrieval.rankings import fused

INDEX_FILE = "index.json"
_FORMAT = 1
_FUNCTIONS = "functions.parquet"
_VECTORS = "vectors.npy"
_ABOUT = ("source", "model", "number", "model_folder", "functions", "texts")
_GROUP_ROWS = 1_000
_BLOCK = 65_536
"""Vectors that a query is compared with at a time: in float32 some 64 MB of width 256."""

Number = Literal["float32", "float16"]
Advance = Callable[[int, int, str], None]

_SCHEMA = pa.schema(
    [
        pa.field("language", pa.string(), nullable=False),
        pa.field("package", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("documentation", pa.string(), nullable=False),
        pa.field("vector", pa.int32(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
        pa.field("code", pa.string(), nullable=False),
    ]
)


class RetrievalError(UserError, ValueError):
    """An index that cannot be made, read or searched as asked."""


@dataclass(frozen=True)
class Hit:
    """A function that answers a query.

    `score` is the product of the two vectors, or with `hybrid` that of the fused ranking. `elsewhere` counts the other
    functions with the same code, which come as this one hit.
    """

    score: float
    language: str
    package: str
    path: str
    line: int
    name: str
    documentation: str
    code: str
    elsewhere: int = 0


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
    taken from it. The new index takes its place when it is complete; whatever fails leaves the old one.

    Args:
      source: a folder of sources, a source file, an archive of sources, or a corpus.
      model: the folder of a model, see `embedding.open_embedder`.
      out: the folder to make.
      number: of the stored vectors; float16 takes half the space, with three digits.
      tests: functions of tests and examples too.
      workers: processes that read sources.
      overwrite: replace an index of something else.
      reading, embedding: called with progress.

    Raises:
      RetrievalError: `out` is something else, or an index of another source or model.
      CorpusError: `source` has no functions.
      ExportError: the model cannot be loaded.
      OSError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    with _held(out):
        return _build(source, out, model, number, tests, workers, overwrite, reading, embedding)


def _build(
    source: Path,
    out: Path,
    model: str | Path,
    number: Number,
    tests: bool,
    workers: int,
    overwrite: bool,
    reading: Advance,
    embedding: Advance,
) -> Indexed:
    old = _old_index(out, overwrite=overwrite)
    embedder = open_embedder(model)
    made_of = {"source": str(source.resolve()), "model": embedder.content, "number": number}
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
    with appearing(out) as folder:
        computed = _write_vectors(folder / _VECTORS, vectors_of, codes, embedder, number, old, embedding)
        _write_functions(folder / _FUNCTIONS, found.functions, digests, vectors_of)
        WordIndex.fit(f"{each.name} {each.query} {each.code}" for each in codes).save(folder)
        about = {
            "format": _FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **made_of,
            "kind": found.kind,
            "model_folder": str(embedder.folder),
            "functions": len(found.functions),
            "texts": len(codes),
            "files": found.files,
            "passed_over": dict(sorted(found.passed_over.items())),
        }
        (folder / INDEX_FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.iterdir())
        _put_aside(out, folder)
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


@dataclass(frozen=True)
class Index:
    """An index that was opened: vectors are mapped, functions read when they are an answer."""

    folder: Path
    about: Mapping[str, Any]
    vectors: np.ndarray

    @staticmethod
    def open(folder: str | Path) -> Index:
        """The index in a folder.

        Raises:
          RetrievalError: it is none, is damaged, or of another version.
        """
        root = Path(folder)
        try:
            about = json.loads((root / INDEX_FILE).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            got = "a folder without it" if root.is_dir() else "a file" if root.exists() else "nothing there"
            raise RetrievalError(
                f"expected an index ({INDEX_FILE}) in {root}, got {got}: make one with softnce-ray index DIR --model "
                f"MODEL --out {root}"
            ) from None
        except ValueError as error:
            raise _damaged(root, f"{INDEX_FILE} is no JSON ({error})") from error
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            other = about.get("format") if isinstance(about, dict) else about
            raise RetrievalError(
                f"expected an index of format {_FORMAT} in {root}, got {other!r}: make it again with softnce-ray index"
            )
        try:
            vectors = np.load(root / _VECTORS, mmap_mode="r")
            rows = pq.read_metadata(root / _FUNCTIONS).num_rows
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(root, str(error)) from error
        if lacking := [name for name in _ABOUT if name not in about]:
            raise _damaged(root, f"{INDEX_FILE} lacks {', '.join(lacking)}")
        if vectors.ndim != 2 or len(vectors) != about["texts"] or rows != about["functions"]:
            raise _damaged(root, f"vectors of shape {vectors.shape} and {rows} functions do not fit {INDEX_FILE}")
        return Index(root, about, vectors)

    @property
    def made_of(self) -> dict[str, str]:
        """What must be the same for it to be brought up to date."""
        return {name: self.about[name] for name in ("source", "model", "number")}

    def embedder(self, model: str | Path | None = None) -> Embedder:
        """The model whose vectors these are, from `model` or from where it was.

        Raises:
          RetrievalError: it is another model.
          ExportError: it is not there or cannot be loaded.
        """
        embedder = open_embedder(model or self.about["model_folder"])
        if embedder.content != self.about["model"]:
            raise RetrievalError(
                f"expected the model {self.about['model'][:12]} that {self.folder} was made with, got "
                f"{embedder.content[:12]} in {embedder.folder}: vectors of two models have nothing in common; give the "
                "right one with --model, or make the index again with softnce-ray index"
            )
        return embedder

    def search(
        self, queries: Sequence[str], embedder: Embedder, *, top: int = 5, hybrid: bool = False
    ) -> list[list[Hit]]:
        """The `top` functions for each query, the best first, of equal codes one.

        Every vector is compared: the answer is exact. With `hybrid` the ranking is fused with that of BM25 over names,
        documentation and code, see `rankings.fused`.

        Raises:
          RetrievalError: the index is damaged, or the vectors have another width.
        """
        vectors = embedder.encode_queries(queries)
        if vectors.shape[1] != self.vectors.shape[1]:
            raise _damaged(self.folder, f"its vectors have width {self.vectors.shape[1]}, not {vectors.shape[1]}")
        if hybrid:
            lexical = self._words().scores(queries)
            ranked = [self._fused(vector, row, top) for vector, row in zip(vectors, lexical, strict=True)]
        else:
            ranked = _nearest(vectors, self.vectors, top)
        return self._hits(ranked)

    def _words(self) -> WordIndex:
        try:
            return WordIndex.load(self.folder)
        except (OSError, ValueError) as error:
            raise _damaged(self.folder, str(error)) from error

    def _fused(self, vector: np.ndarray, lexical: np.ndarray, top: int) -> list[tuple[int, float]]:
        dense = np.concatenate([part @ vector for _, part in _blocks(self.vectors)])
        (scores,) = fused(dense[None], lexical[None])
        # Of equal fused scores the nearer vector comes first.
        order = np.lexsort((-dense, -scores))[:top]
        return [(int(row), float(scores[row])) for row in order]

    def _hits(self, ranked: Sequence[Sequence[tuple[int, float]]]) -> list[list[Hit]]:
        try:
            with pq.ParquetFile(self.folder / _FUNCTIONS, memory_map=True) as file:
                numbers = file.read(columns=["vector"]).column("vector").to_numpy()
                _, first, count = np.unique(numbers, return_index=True, return_counts=True)
                wanted = sorted({int(first[row]) for each in ranked for row, _ in each})
                rows = _rows_at(file, wanted)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.folder, str(error)) from error
        return [[_hit(rows[int(first[row])], score, int(count[row]) - 1) for row, score in each] for each in ranked]


def _hit(row: Mapping[str, Any], score: float, elsewhere: int) -> Hit:
    kept = {name: value for name, value in row.items() if name not in ("vector", "digest")}
    return Hit(score=score, elsewhere=elsewhere, **kept)


def _rows_at(file: pq.ParquetFile, wanted: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Rows by their number, of the row groups that hold them; `wanted` is sorted."""
    found: dict[int, dict[str, Any]] = {}
    for group in sorted({row // _GROUP_ROWS for row in wanted}):
        table = file.read_row_group(group)
        for row in wanted:
            if row // _GROUP_ROWS == group:
                found[row] = table.slice(row - group * _GROUP_ROWS, 1).to_pylist()[0]
    return found


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows in float32), some at a time: of a mapped array no more is in memory."""
    for start in range(0, len(vectors), _BLOCK):
        yield start, np.asarray(vectors[start : start + _BLOCK], np.float32)


def _nearest(queries: np.ndarray, vectors: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
    """Rows and scores of the `top` largest products of each query, the largest first, of equal ones the first row."""
    best_scores = np.empty((len(queries), 0), np.float32)
    best_rows = np.empty((len(queries), 0), np.int64)
    for start, part in _blocks(vectors):
        scores = np.concatenate([best_scores, queries @ part.T], axis=1)
        rows = np.concatenate(
            [best_rows, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))], axis=1
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        best_scores = np.take_along_axis(scores, order, axis=1)
        best_rows = np.take_along_axis(rows, order, axis=1)
    return [
        [(int(row), float(score)) for row, score in zip(*each, strict=True)]
        for each in zip(best_rows, best_scores, strict=True)
    ]


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
    try:
        return Index.open(out)
    except RetrievalError:
        if overwrite:
            return None
        raise


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
            fresh = embedder.encode_codes([codes[row].code for row in new]) if new else None
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
    table = pq.read_table(old.folder / _FUNCTIONS, columns=["digest", "vector"])
    return dict(zip(table.column("digest").to_pylist(), table.column("vector").to_pylist(), strict=True))


def _write_functions(
    path: Path, functions: Sequence[Pair], digests: Sequence[bytes], vectors_of: Mapping[bytes, int]
) -> None:
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for start in range(0, len(functions), _GROUP_ROWS):
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
                    functions[start : start + _GROUP_ROWS], digests[start : start + _GROUP_ROWS], strict=True
                )
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), row_group_size=_GROUP_ROWS)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep an index for one process that makes it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.parent / f".{out.name}.lock"
    with lock.open("w") as file:
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


def _put_aside(out: Path, folder: Path) -> None:
    """Move the old index beside the new one, which is about to take its place; it goes with the temporary folder."""
    if out.exists():
        os.rename(out, folder.parent / "old")


def _damaged(folder: Path, why: str) -> RetrievalError:
    return RetrievalError(
        f"expected a whole index in {folder}, got a damaged one: {why}; make it again with softnce-ray index … "
        "--overwrite"
    )
