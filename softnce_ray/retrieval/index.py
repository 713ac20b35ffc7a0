"""An index: the functions of a source tree or corpus with their vectors, in a folder that is searched without a model's
training data. `indexing` makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray import json_text
from softnce_ray.corpus.arrays import load_array
from softnce_ray.digests import checksum_problem, sha256_of, with_checksum
from softnce_ray.errors import UserError
from softnce_ray.evaluation import ROUNDING
from softnce_ray.files import expect_file, read_file
from softnce_ray.folders import recover
from softnce_ray.retrieval.embedding import Embedder, open_embedder
from softnce_ray.retrieval.lexical import WordIndex
from softnce_ray.retrieval.rankings import Scores, fused
from softnce_ray.storage import local

INDEX_FILE = "index.json"
FORMAT = 1
FUNCTIONS = "functions.parquet"
VECTORS = "vectors.npy"
_ABOUT = {"source": str, "model": str, "number": str, "model_folder": str, "functions": int, "texts": int}
_FILES = "files"
"""Key of the SHA-256 of the other files, which indexes of earlier versions lack."""

FUNCTION_SCHEMA = pa.schema(
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
GROUP_ROWS = 1_000
_BLOCK = 65_536
"""Vectors that a query is compared with at a time: in float32 some 64 MB of width 256."""

Advance = Callable[[int, int, str], None]


class RetrievalError(UserError, ValueError):
    """An index that cannot be made, read or searched as asked."""


@dataclass(frozen=True)
class Hit:
    """A function that answers a query.

    `score` is the product of the two vectors: of a model whose `Embedder.measure` is `cosine` their cosine, from -1 to
    1. With `hybrid` it is the fused score: how many standard deviations the function lies above the mean of all
    functions, summed over the model and BM25. It orders the answers to one query and is comparable with nothing else.
    `elsewhere` counts the other functions with the same code, which come as this one hit.
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
          StorageError: a URI.
        """
        root = local(folder, "INDEX", "copy its folder to this machine")
        if not root.exists():
            recover(root)  # a process may have died while it replaced it
        try:
            about = json_text.load(read_file(root / INDEX_FILE))
        except (FileNotFoundError, NotADirectoryError):
            got = "a folder without it" if root.is_dir() else "a file" if root.exists() else "nothing there"
            raise RetrievalError(
                f"expected an index ({INDEX_FILE}) in {root}, got {got}: make one with softnce-ray index DIR --model "
                f"MODEL --out {root}"
            ) from None
        except OSError as error:
            raise _damaged(root, f"{INDEX_FILE}: {error.strerror}") from error
        except ValueError as error:
            raise _damaged(root, f"{INDEX_FILE} is no JSON ({error})") from error
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            other = about.get("format") if isinstance(about, dict) else about
            raise RetrievalError(
                f"expected an index of format {FORMAT} in {root}, got {other!r}: make it again with softnce-ray index"
            )
        if lacking := [name for name in _ABOUT if name not in about]:
            raise _damaged(root, f"{INDEX_FILE} lacks {', '.join(lacking)}")
        if wrong := [name for name, kind in _ABOUT.items() if type(about[name]) is not kind]:
            raise _damaged(root, f"{INDEX_FILE} has {', '.join(f'{name}: {about[name]!r}' for name in wrong)}")
        if problem := checksum_problem(about) or _changed_file(root, about.get(_FILES, {})):
            raise _damaged(root, problem)
        try:
            vectors = load_array(root / VECTORS, dimensions=2)
            functions = pq.read_metadata(expect_file(root / FUNCTIONS))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(root, str(error)) from error
        if (len(vectors), str(vectors.dtype), functions.num_rows) != (
            about["texts"],
            about["number"],
            about["functions"],
        ):
            raise _damaged(
                root,
                f"{vectors.dtype} vectors of shape {vectors.shape} and {functions.num_rows} functions do not fit "
                f"{INDEX_FILE}",
            )
        if not functions.schema.to_arrow_schema().equals(FUNCTION_SCHEMA, check_metadata=False):
            raise _damaged(root, f"{FUNCTIONS} has columns {functions.schema.names}")
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
        documentation and code, see `rankings.fused`; where BM25 finds no word of a query it changes nothing.

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

    def unknown_words(self, queries: Sequence[str]) -> list[list[str]]:
        """Of each query the words that no function has, neither in its code nor in its name or documentation."""
        known = self._words()
        return [known.unknown(query) for query in queries]

    def _words(self) -> WordIndex:
        try:
            known = WordIndex.load(self.folder)
        except (OSError, ValueError) as error:
            raise _damaged(self.folder, str(error)) from error
        if known.weights.shape[1] != len(self.vectors):
            raise _damaged(self.folder, f"words of {known.weights.shape[1]:,} functions, not {len(self.vectors):,}")
        return known

    def _fused(self, vector: np.ndarray, lexical: np.ndarray, top: int) -> list[tuple[int, float]]:
        dense = np.concatenate([part @ vector for _, part in _blocks(self.vectors)])
        errors = ROUNDING / 2 * np.linalg.norm(vector) * self._lengths
        (scores,) = fused(Scores(dense[None], errors[None]), Scores.of_sums(lexical[None])).values
        # Of equal fused scores the nearer vector comes first.
        order = np.lexsort((-dense, -scores))[:top]
        return [(int(row), float(scores[row])) for row in order]

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.concatenate([np.linalg.norm(part, axis=1) for _, part in _blocks(self.vectors)])

    def _hits(self, ranked: Sequence[Sequence[tuple[int, float]]]) -> list[list[Hit]]:
        try:
            with pq.ParquetFile(expect_file(self.folder / FUNCTIONS), memory_map=True) as file:
                numbers = file.read(columns=["vector"]).column("vector").to_numpy()
                if not np.array_equal(np.unique(numbers), np.arange(len(self.vectors))):
                    raise _damaged(self.folder, f"the functions are not those of the {len(self.vectors):,} vectors")
                _, first, count = np.unique(numbers, return_index=True, return_counts=True)
                wanted = sorted({int(first[row]) for each in ranked for row, _ in each})
                rows = _rows_at(file, wanted)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise _damaged(self.folder, str(error)) from error
        return [[_hit(rows[int(first[row])], score, int(count[row]) - 1) for row, score in each] for each in ranked]


def _hit(row: Mapping[str, Any], score: float, elsewhere: int) -> Hit:
    kept = {name: value for name, value in row.items() if name not in ("vector", "digest")}
    return Hit(score=score, elsewhere=elsewhere, **kept)


def _rows_at(file: pq.ParquetFile, wanted: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Rows by their number, of the row groups that hold them; `wanted` is sorted."""
    found: dict[int, dict[str, Any]] = {}
    for group in sorted({row // GROUP_ROWS for row in wanted}):
        table = file.read_row_group(group)
        for row in wanted:
            if row // GROUP_ROWS == group:
                found[row] = table.slice(row - group * GROUP_ROWS, 1).to_pylist()[0]
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


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the file that says what an index is, when all others are written."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    content = with_checksum({**about, _FILES: files})
    (folder / INDEX_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _changed_file(folder: Path, files: object) -> str:
    """Why the files of an index are not those that were written with it; "" where they are, or nothing is known."""
    if not isinstance(files, dict):
        return f"{INDEX_FILE} has {_FILES}: {files!r}"
    for name, expected in files.items():
        try:
            if sha256_of(folder / name) != expected:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def _damaged(folder: Path, why: str) -> RetrievalError:
    return RetrievalError(
        f"expected a whole index in {folder}, got a damaged one: {why}; make it again with softnce-ray index … "
        "--overwrite"
    )
