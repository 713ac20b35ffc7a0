"""When two queries or two codes count as the same: exactly after normalising, or nearly by their
shingles."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from scipy import sparse

SHINGLE_TOKENS = 5
NEAR_DUPLICATE = 0.8
HASH_BYTES = 16
_EVALUATION_BLOCK = 4_096
_TRAIN_BLOCK = 8_192
_CHECKED = 8_192
_KNOWN_TOKENS = 2**17  # some 20 MB of the tokens that come again and again
_MIX = np.uint64(0x9E3779B97F4A7C15)
_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+")

Hashes = npt.NDArray[np.uint64]
"""(n, 2): 128 bits of each of n normalised texts."""


def normalise_query(query: str) -> str:
    """Lower-case words with single spaces: punctuation and layout do not make a different query."""
    return " ".join(_WORD.findall(query.lower()))


def normalise_code(code: str) -> str:
    """Words and symbols with single spaces: layout does not make a different code."""
    return " ".join(_TOKEN.findall(code))


def text_hash(normalised: str) -> bytes:
    """128 bits that stand for a text: among a billion texts, two are taken for equal once in 10^20 times."""
    return hashlib.blake2b(normalised.encode(), digest_size=HASH_BYTES).digest()


def as_hashes(joined: bytes | bytearray) -> Hashes:
    """Results of `text_hash`, end to end, as an array."""
    return np.frombuffer(bytes(joined), np.uint64).reshape(-1, HASH_BYTES // 8)


def first_equal(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """For each row of a (n, k) array the number of the first row that is equal to it."""
    if not len(hashes):
        return np.zeros(0, np.int64)
    order = np.lexsort(hashes.T[::-1])  # stable: of equal rows the first stays the first
    in_order = hashes[order]
    starts = np.concatenate([[True], (in_order[1:] != in_order[:-1]).any(axis=1)])
    first = np.empty(len(hashes), np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def occur_in(hashes: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are among `others`."""
    return first_equal(np.concatenate([others, hashes]))[len(others) :] < len(others)


@lru_cache(_KNOWN_TOKENS)
def _token_hash(token: str) -> int:
    # Not Python's own hash: that one differs between processes.
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little")


def _shingles(codes: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """(code, hash) of the different runs of five tokens of normalised codes, by code; a shorter code is one run."""
    split = [code.split(" ") for code in codes]
    lengths = np.fromiter(map(len, split), np.int64, len(split))
    tokens = np.fromiter(map(_token_hash, chain.from_iterable(split)), np.uint64, int(lengths.sum()))
    rows, hashes = [], []
    for width in range(1, SHINGLE_TOKENS + 1):
        short = np.flatnonzero(lengths == width if width < SHINGLE_TOKENS else lengths >= width)
        if not len(short):
            continue
        counts = lengths[short] - width + 1
        starts = np.cumsum(lengths)[short] - lengths[short]
        places = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        mixed = np.zeros(len(places), np.uint64)
        for offset in range(width):
            # Wrapping multiplication by an odd number mixes the order of the tokens into the sum.
            mixed = mixed * _MIX + tokens[places + offset]
        rows.append(np.repeat(short, counts))
        hashes.append(mixed)
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    row, value = np.concatenate(rows), np.concatenate(hashes)
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    different = np.concatenate([[True], (row[1:] != row[:-1]) | (value[1:] != value[:-1])])
    return row[different], value[different]


@dataclass(frozen=True)
class _Columns:
    """The shingles that count, each with a column: the rarest has the first."""

    values: npt.NDArray[np.uint64]
    numbers: npt.NDArray[np.int32]

    @staticmethod
    def of(shingles: npt.NDArray[np.uint64]) -> _Columns:
        values, counts = np.unique(shingles, return_counts=True)
        numbers = np.empty(len(values), np.int32)
        numbers[np.argsort(counts, kind="stable")] = np.arange(len(values), dtype=np.int32)
        return _Columns(values, numbers)


@dataclass(frozen=True)
class _Shingled:
    """Codes as sets: (codes, columns) ones in `matrix`, in `prefixes` only those of each code's rarest shingles.

    Two sets with a Jaccard index of t or more share at least t times the larger one's size; so they also share one of
    the ⌊(1 - t) size⌋ + 1 first shingles of each, in any one order (Chaudhuri et al. 2006, Bayardo et al. 2007). With
    the rarest first that is hardly ever so by chance.
    """

    matrix: sparse.csr_array
    prefixes: sparse.csr_array
    sizes: npt.NDArray[np.int64]

    @staticmethod
    def of(
        count: int, rows: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64], columns: _Columns, threshold: float
    ) -> _Shingled:
        """Shingles that have no column count in the sizes alone, and are rarer than all that have."""
        sizes = np.bincount(rows, minlength=count)
        places = np.minimum(np.searchsorted(columns.values, hashes), len(columns.values) - 1)
        known = columns.values[places] == hashes
        rows, numbers = rows[known], columns.numbers[places[known]]
        order = np.lexsort((numbers, rows))
        rows, numbers = rows[order], numbers[order]
        found = np.bincount(rows, minlength=count)
        starts = np.concatenate([[0], np.cumsum(found)])
        # A hair less than the threshold: rounding may let in a candidate too many, never leave one out.
        prefix = sizes - np.ceil(threshold * sizes - 1e-6).astype(np.int64) + 1 - (sizes - found)
        first = np.arange(len(rows)) - starts[rows] < prefix[rows]
        shape = (count, len(columns.values))
        kept = np.concatenate([[0], np.cumsum(np.bincount(rows[first], minlength=count))])
        return _Shingled(_ones(numbers, starts, shape), _ones(numbers[first], kept, shape), sizes)


def _ones(columns: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, starts), shape)


def _near(left: _Shingled, right: _Shingled, threshold: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(left row, right row) of the codes with a Jaccard index of at least `threshold`; the index is exact."""
    rows, others = [], []
    turned = right.prefixes.T.tocsr()
    for start in range(0, left.prefixes.shape[0], _EVALUATION_BLOCK):
        candidates = (left.prefixes[start : start + _EVALUATION_BLOCK] @ turned).tocoo()
        one, other = candidates.row.astype(np.int64) + start, candidates.col.astype(np.int64)
        for part in range(0, len(one), _CHECKED):
            a, b = one[part : part + _CHECKED], other[part : part + _CHECKED]
            shared = np.asarray(left.matrix[a].multiply(right.matrix[b]).sum(axis=1)).ravel()
            near = shared >= threshold * (left.sizes[a] + right.sizes[b] - shared)
            rows.append(a[near])
            others.append(b[near])
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *rows]), np.concatenate([none, *others])


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(texts)
    while block := list(islice(rest, size)):
        yield block


class _Indexed:
    """Normalised codes that others are compared with, of which only a block is in memory at a time."""

    def __init__(self, codes: Iterable[str], threshold: float | None) -> None:
        self._threshold = threshold
        digests: list[bytes] = []
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]] = []
        for block in _blocks(codes, _EVALUATION_BLOCK):
            if threshold is not None:
                rows, hashes = _shingles(block)
                parts.append((rows + len(digests), hashes))
            digests.extend(map(text_hash, block))
        self.count = len(digests)
        self._first: dict[bytes, int] = {}
        for index, digest in enumerate(digests):
            self._first.setdefault(digest, index)
        self.stand_ins = np.fromiter((self._first[digest] for digest in digests), np.int64, self.count)
        """Of equal codes the number of the first."""
        if parts and threshold is not None:
            hashes = np.concatenate([part[1] for part in parts])
            self._columns = _Columns.of(hashes)
            rows = np.concatenate([part[0] for part in parts])
            self._shingled = _Shingled.of(self.count, rows, hashes, self._columns, threshold)

    def compare(self, others: Iterable[str]) -> Repeats:
        """Compare the codes with `others`, which are read once."""
        equal, near = np.zeros(self.count, dtype=bool), np.zeros(self.count, dtype=bool)
        none = np.zeros(0, dtype=bool)
        equal_others, near_others = [none], [none]
        for block in _blocks(others, _TRAIN_BLOCK):
            met = [self._first.get(text_hash(code), -1) for code in block]
            equal_others.append(np.array(met) >= 0)
            equal[[number for number in met if number >= 0]] = True
            near_others.append(np.zeros(len(block), dtype=bool))
            if self._threshold is not None and self.count:
                shingled = _Shingled.of(len(block), *_shingles(block), self._columns, self._threshold)
                own, other = _near(self._shingled, shingled, self._threshold)
                near[own] = near_others[-1][other] = True
        return Repeats(equal[self.stand_ins], near, np.concatenate(equal_others), np.concatenate(near_others))

    def near_pairs(self) -> Iterator[tuple[int, int]]:
        """(code, earlier code) of those that are nearly equal."""
        if self._threshold is not None and self.count:
            near = _near(self._shingled, self._shingled, self._threshold)
            for one, other in zip(*(side.tolist() for side in near), strict=True):
                if other < one:
                    yield one, other


@dataclass(frozen=True)
class Repeats:
    """Codes of one list that are among those of another, and the other way round, each a boolean array.

    `equal` are the same normalised codes; `near` have a near duplicate, which may be an equal one.
    """

    equal: npt.NDArray[np.bool_]
    near: npt.NDArray[np.bool_]
    others_equal: npt.NDArray[np.bool_]
    others_near: npt.NDArray[np.bool_]


def repeats(codes: Iterable[str], others: Iterable[str], *, threshold: float | None = NEAR_DUPLICATE) -> Repeats:
    """Compare normalised codes with others, of which only a block is in memory at a time.

    `threshold` is the Jaccard index of 5-token shingles from which on two are near duplicates, in (0, 1]; None finds
    only equal ones.
    """
    return _Indexed(codes, threshold).compare(others)


def evaluation_duplicates(
    evaluation: Iterable[str], train: Iterable[str], *, threshold: float | None = NEAR_DUPLICATE
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which evaluation codes repeat a training code, and which repeat an earlier evaluation code that
    stays.

    Codes are given normalised. Equal ones repeat each other, and so do those whose sets of 5-token shingles
    have a Jaccard index of at least `threshold` (in (0, 1]; None: only equal ones). The index is exact: codes
    that share none of their rarest shingles cannot reach it and are passed over, which leaves so few that
    nothing is left for MinHash to save. Training codes are read once, in blocks, and not kept; the time is
    that of reading them. Returns two boolean arrays of as many elements as `evaluation`; no code is marked in
    both.
    """
    indexed = _Indexed(evaluation, threshold)
    if not indexed.count:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    found = indexed.compare(train)
    of_train = found.equal | found.near
    pairs: dict[int, list[int]] = {}
    for one, other in indexed.near_pairs():
        pairs.setdefault(one, []).append(other)
    of_earlier = np.zeros(indexed.count, dtype=bool)
    for index in np.flatnonzero(~of_train).tolist():
        stays = [other for other in pairs.get(index, ()) if not of_train[other] and not of_earlier[other]]
        # Equal codes are marked alike in `of_train`, so the first of them is no training code either.
        of_earlier[index] = bool(stays) or indexed.stand_ins[index] < index
    return of_train, of_earlier
