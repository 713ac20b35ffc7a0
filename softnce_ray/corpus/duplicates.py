"""When two queries or two codes count as the same: exactly after normalising, or nearly by their
shingles."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import sparse

SHINGLE_TOKENS = 5
NEAR_DUPLICATE = 0.8
_EVALUATION_BLOCK = 256
_TRAIN_BLOCK = 50_000
_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+")


def normalise_query(query: str) -> str:
    """Lower-case words with single spaces: punctuation and layout do not make a different query."""
    return " ".join(_WORD.findall(query.lower()))


def normalise_code(code: str) -> str:
    """Words and symbols with single spaces: layout does not make a different code."""
    return " ".join(_TOKEN.findall(code))


@cache
def _token_hash(token: str) -> int:
    # Not Python's own hash: that one differs between processes.
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little")


def _shingles(normalised: str) -> npt.NDArray[np.uint64]:
    """Hashes of the different runs of five tokens, sorted; a shorter text is one shingle."""
    tokens = np.array([_token_hash(token) for token in normalised.split(" ")], dtype=np.uint64)
    width = min(SHINGLE_TOKENS, len(tokens))
    hashes = np.zeros(len(tokens) - width + 1, dtype=np.uint64)
    for offset in range(width):
        # Wrapping multiplication by an odd number mixes the order of the tokens into the sum.
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + tokens[offset : offset + len(hashes)]
    return np.unique(hashes)


def _matrix(shingles: Sequence[npt.NDArray[np.uint64]], columns: npt.NDArray[np.uint64]) -> sparse.csr_matrix:
    """(documents, columns) ones where a document has the shingle; shingles that are no column are left
    out."""
    sizes = np.array([len(each) for each in shingles], dtype=np.int64)
    rows = np.repeat(np.arange(len(shingles)), sizes)
    values = np.concatenate(shingles) if shingles else np.zeros(0, dtype=np.uint64)
    places = np.minimum(np.searchsorted(columns, values), len(columns) - 1)
    known = columns[places] == values
    ones = np.ones(int(known.sum()), dtype=np.int32)
    return sparse.csr_matrix((ones, (rows[known], places[known])), shape=(len(shingles), len(columns)))


def _near(
    left: sparse.csr_matrix,
    left_sizes: npt.NDArray[np.int64],
    right: sparse.csr_matrix,
    right_sizes: npt.NDArray[np.int64],
    threshold: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(left row, right row) of the documents with a Jaccard index of at least `threshold`."""
    shared = (left @ right.T).tocoo()
    union = left_sizes[shared.row] + right_sizes[shared.col] - shared.data
    near = shared.data >= threshold * union
    return shared.row[near].astype(np.int64), shared.col[near].astype(np.int64)


def evaluation_duplicates(
    evaluation: Sequence[str], train: Sequence[str], *, threshold: float | None = NEAR_DUPLICATE
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which evaluation codes repeat a training code, and which repeat an earlier evaluation code that
    stays.

    Codes are given normalised. Equal ones repeat each other, and so do those whose sets of 5-token shingles
    have a Jaccard index of at least `threshold` (in (0, 1]; None: only equal ones). The index is exact, a
    sparse product in blocks, with memory bounded by a block: MinHash would be needed only to compare
    everything with everything. Returns two boolean arrays of length `len(evaluation)`; no code is marked in
    both.
    """
    known = set(train)
    of_train = np.array([code in known for code in evaluation], dtype=bool)
    of_earlier = np.zeros(len(evaluation), dtype=bool)
    pairs: dict[int, list[int]] = {}
    if threshold is not None and evaluation:
        shingles = [_shingles(code) for code in evaluation]
        sizes = np.array([len(each) for each in shingles], dtype=np.int64)
        columns = np.unique(np.concatenate(shingles))
        matrix = _matrix(shingles, columns)
        for start in range(0, len(train), _TRAIN_BLOCK):
            others = [_shingles(code) for code in train[start : start + _TRAIN_BLOCK]]
            other_sizes = np.array([len(each) for each in others], dtype=np.int64)
            other_matrix = _matrix(others, columns)
            for row in range(0, len(evaluation), _EVALUATION_BLOCK):
                block = slice(row, row + _EVALUATION_BLOCK)
                rows, _ = _near(matrix[block], sizes[block], other_matrix, other_sizes, threshold)
                of_train[rows + row] = True
        for row in range(0, len(evaluation), _EVALUATION_BLOCK):
            block = slice(row, row + _EVALUATION_BLOCK)
            rows, columns_near = _near(matrix[block], sizes[block], matrix, sizes, threshold)
            for one, other in zip((rows + row).tolist(), columns_near.tolist(), strict=True):
                if other < one:
                    pairs.setdefault(one, []).append(other)
    first: dict[str, int] = {}
    for index, code in enumerate(evaluation):
        if of_train[index]:
            continue
        stays = [other for other in pairs.get(index, ()) if not of_train[other] and not of_earlier[other]]
        of_earlier[index] = bool(stays) or code in first
        first.setdefault(code, index)
    return of_train, of_earlier
