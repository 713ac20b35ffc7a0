"""The file that keeps how a trained encoder's scores and its estimator's p are distributed over pairs of batches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softnce_ray import json_text
from softnce_ray.digests import checksum_problem, with_checksum
from softnce_ray.errors import UserError
from softnce_ray.files import read_file

DISTRIBUTIONS_FILE = "distributions.json"
VERSION = 1

SCORE_EDGES = tuple(round(-1 + 0.05 * n, 2) for n in range(41))
"""Edges of 40 bins of cosines."""

RELATIVE_EDGES = tuple(round(-5.1 + 0.2 * n, 1) for n in range(42))
"""Edges of 41 bins of log10 of p · (N - 1). The middle of one is 0: a uniform p falls into that one alone."""


class DistributionsError(UserError, ValueError):
    """A file of distributions that cannot be read."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values between edges.

    Attributes:
      edges: ascending, one more than `counts`.
      counts: of values from each edge to the next; the first and the last also have what lies beyond.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)

    @classmethod
    def of(cls, values: np.ndarray, edges: tuple[float, ...]) -> Histogram:
        """Count values of any shape; infinite ones lie beyond an end."""
        inside = np.clip(np.asarray(values, np.float64), edges[0], edges[-1])
        return cls(edges, tuple(np.histogram(inside, edges)[0].tolist()))

    def __add__(self, other: Histogram) -> Histogram:
        if self.edges != other.edges:
            raise ValueError(f"expected the same edges, got {self.edges} and {other.edges}")
        return Histogram(self.edges, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))


@dataclass(frozen=True)
class Distributions:
    """What was counted in some batches of training pairs.

    Attributes:
      batch_size: N, codes of a batch.
      batches: how many were counted.
      negatives: cosines of a query and another pair's code, before any division by a temperature, in `SCORE_EDGES`.
      positives: of a query and its own code.
      relative: log10 of p · (N - 1) of the same pairs as `negatives`, in `RELATIVE_EDGES`: 0 where the estimator
        calls a negative as likely as any other of its query. None without an estimator.
    """

    batch_size: int
    batches: int
    negatives: Histogram
    positives: Histogram
    relative: Histogram | None = None


def together(several: Iterable[Distributions]) -> Distributions:
    """The counts of several runs of one arm, added; `batch_size` is the first's.

    Raises:
      ValueError: there are none.
    """
    first, *others = several
    for each in others:
        both = first.relative is not None and each.relative is not None
        first = Distributions(
            first.batch_size,
            first.batches + each.batches,
            first.negatives + each.negatives,
            first.positives + each.positives,
            first.relative + each.relative if both else None,  # type: ignore[operator]
        )
    return first


def write_distributions(path: Path, found: Distributions) -> None:
    """Write them as JSON: `version`, `batch_size`, `batches`, and beside `negatives`, `positives` and, where there is
    an estimator, `relative` their `edges` and `counts`; `checksum` is of all that. Equal distributions give equal
    bytes."""
    value: dict[str, Any] = {"version": VERSION, "batch_size": found.batch_size, "batches": found.batches}
    for name in ("negatives", "positives", "relative"):
        histogram: Histogram | None = getattr(found, name)
        if histogram is not None:
            value[name] = {"edges": histogram.edges, "counts": histogram.counts}
    path.write_text(json.dumps(with_checksum(value)) + "\n", encoding="utf-8")


def read_distributions(path: Path) -> Distributions:
    """Read what `write_distributions` wrote.

    Raises:
      OSError: there is no such file.
      DistributionsError: it is damaged, or of another version.
    """
    try:
        value = json_text.load(read_file(path))
        version = value["version"]
        if version == VERSION:
            if problem := checksum_problem(value):
                raise ValueError(problem)
            relative = _histogram(value["relative"], RELATIVE_EDGES) if "relative" in value else None
            return Distributions(
                int(value["batch_size"]),
                int(value["batches"]),
                _histogram(value["negatives"], SCORE_EDGES),
                _histogram(value["positives"], SCORE_EDGES),
                relative,
            )
    except (ValueError, KeyError, TypeError) as error:
        raise DistributionsError(f"expected distributions in {path.name}, got a damaged file ({error})") from error
    raise DistributionsError(
        f"expected version {VERSION} of {path.name}, got {version!r}: read it with the version that wrote it"
    )


def _histogram(value: dict[str, Any], edges: tuple[float, ...]) -> Histogram:
    """A histogram with the edges of this version, so that those of several runs can be added."""
    counts = tuple(value["counts"])
    if tuple(value["edges"]) != edges or len(counts) != len(edges) - 1:
        raise ValueError(f"{len(edges) - 1} bins from {edges[0]:g} to {edges[-1]:g} were expected")
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("counts must be whole and not negative")
    return Histogram(edges, counts)
