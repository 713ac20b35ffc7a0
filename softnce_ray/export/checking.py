"""Does an exported folder give the trained model's vectors, and the ranks that its run stored?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from softnce_ray.encoders import Bag
from softnce_ray.evaluation import ROUNDING, places
from softnce_ray.export.fresh import Job, Reader
from softnce_ray.model import ExportError, Model

TOLERANCE = 1e-5
"""Largest allowed |exported - trained| / |trained| of a vector.

`trained` is computed from the stored weights in double precision, so that the whole difference is the format's own. A
float32 sum over a text of n tokens is off by about √n · 6e-8 of its terms, in whatever order and with whatever padding
it is made, and by n · 6e-8 at worst: for 256 tokens 1e-6 and 1.5e-5. A wrong token, weight or pooling is a thousand
times as far. As a share of the length it means the same for unit vectors and for those of `similarity: dot`.
"""

_TRAINING_ROUNDING = 1e-6
"""How far from exact the vectors were, as a share of their length, that the stored ranks were made of."""

TEXTS = (
    "parse a date string",
    "Return the sum of two numbers.",
    "def add(a, b):\n    return a + b",
    "class HTTPServer:\n    def handle_request(self, x_1):\n        return None",
    "",
    "löschen 删除 🙂",
    'PAD = "<pad>" + "<s></s>"  # [PAD] [CLS] <unk> <mask>',
    "def long(values):\n    total = 0\n" + "    total += values[0] * 3\n" * 200 + "    return total",
)
"""Read by every check, as queries and as code: what tokenizers trip over."""

LANGUAGE = "python"
"""What `TEXTS` are, for an encoder that asks."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Queries of a language that a run was evaluated on, the codes that they were ranked among, and the result.

    `right` is (Q, K): rows of the codes that answer each query, -1 where it has fewer; `reciprocal_ranks` is (Q,) as
    the run stored them.
    """

    language: str
    split: str
    queries: Sequence[str]
    codes: Sequence[str]
    right: np.ndarray
    reciprocal_ranks: np.ndarray


@dataclass(frozen=True)
class Checked:
    """How far a format's vectors are from the trained ones, and what its ranks are.

    Attributes:
      difference: largest |exported - trained| / |trained|.
      vectors: how many were compared.
      queries: how many of them were ranked; 0 without a corpus.
      other_ranks: of these, how many have another rank than stored.
      mrr, stored_mrr: mean over languages of the ranked queries' mean reciprocal rank; None without a corpus.
    """

    difference: float
    vectors: int
    queries: int = 0
    other_ranks: int = 0
    mrr: float | None = None
    stored_mrr: float | None = None


@dataclass(frozen=True, eq=False)
class Expected:
    """What every format must give: texts, the vectors of the trained model, and the stored ranks."""

    jobs: tuple[Job, ...]
    vectors: tuple[np.ndarray, ...]
    ranked: tuple[Ranked, ...]


def expect(model: Model, ranked: Sequence[Ranked] = ()) -> Expected:
    """The trained model's vectors of the check's texts and of the evaluated ones, in double precision.

    Raises:
      ExportError: the model does not give the ranks that its run stored.
    """
    texts = texts_for(model)
    asked: list[tuple[Sequence[str], str, str]] = [(texts, "code", LANGUAGE), (texts, "query", LANGUAGE)]
    for each in ranked:
        asked += [(each.codes, "code", each.language), (each.queries, "query", each.language)]
    exact = replace(model, encoder=copy.deepcopy(model.encoder).double())
    vectors = tuple(
        exact.encode_queries(texts) if side == "query" else exact.encode_codes(texts, language)
        for texts, side, language in asked
    )
    jobs: tuple[Job, ...] = tuple(job[:2] if model.graph_limits is None else job for job in asked)
    expected = Expected(jobs, vectors, tuple(ranked))
    _compare_ranks(expected, vectors, 0.0, "the stored model, before it was exported,")
    return expected


def texts_for(model: Model) -> tuple[str, ...]:
    """`TEXTS`, but for a transformer only those with a token: padding alone means nothing to it."""
    if isinstance(model.encoder.tower, Bag):
        return TEXTS
    return tuple(text for text in TEXTS if model.tokenizer.encode(text, add_special_tokens=True).ids)


def check(expected: Expected, read: Reader, recipe: str, folder: Path, *, what: str) -> Checked:
    """Read a folder by its recipe and compare.

    Raises:
      ExportError: it cannot be read, or gives other vectors or ranks.
    """
    found = read(recipe, folder, expected.jobs)
    difference, text = 0.0, ""
    for (texts, side, *_), got, wanted in zip(expected.jobs, found, expected.vectors, strict=True):
        each = relative_differences(got, wanted, what)
        row = int(np.argmax(np.nan_to_num(each, nan=np.inf)))
        if not each[row] <= difference:
            difference, text = float(each[row]), f"the {side} {texts[row][:60]!r}"
    if not difference <= TOLERANCE:
        raise ExportError(
            f"expected vectors within {TOLERANCE:g} of the trained ones from {what}, got {difference:.3g} for {text}: "
            "nothing was written; please report this with the study file"
        )
    return replace(
        _compare_ranks(expected, found, difference, what),
        difference=difference,
        vectors=sum(map(len, expected.vectors)),
    )


def measure(expected: Expected, read: Reader, recipe: str, folder: Path) -> Checked:
    """As `check`, of a folder that is meant to differ: nothing is refused but vectors of another shape."""
    found = read(recipe, folder, expected.jobs)
    pairs = zip(found, expected.vectors, strict=True)
    difference = max(float(relative_differences(*pair, folder.name).max()) for pair in pairs)
    counted = _ranks(expected, found)
    other = sum(
        int((1 / rank != each.reciprocal_ranks).sum()) for each, rank in zip(expected.ranked, counted, strict=True)
    )
    return _summary(expected, counted, difference, other)


def relative_differences(got: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    """(n,) of |got - wanted| / |wanted|; of a wanted zero vector |got|.

    Raises:
      ExportError: another shape.
    """
    if got.shape != wanted.shape:
        raise ExportError(
            f"expected vectors of shape {wanted.shape} from {what}, got {got.shape}: nothing was written; please "
            "report this with the study file"
        )
    length = np.linalg.norm(wanted.astype(np.float64), axis=1)
    apart = np.linalg.norm(got.astype(np.float64) - wanted, axis=1)
    return apart / np.where(length > 0, length, 1.0)


def _ranks(expected: Expected, vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
    tensors = [torch.from_numpy(np.ascontiguousarray(each)) for each in vectors[2:]]
    return [
        places(queries, codes, torch.from_numpy(each.right))[:, 0]
        for each, codes, queries in zip(expected.ranked, tensors[::2], tensors[1::2], strict=True)
    ]


def _compare_ranks(expected: Expected, vectors: Sequence[np.ndarray], difference: float, what: str) -> Checked:
    """Compare with the stored ranks. One may differ where codes score so nearly alike that rounding decides."""
    counted, other = _ranks(expected, vectors), 0
    for number, (each, rank) in enumerate(zip(expected.ranked, counted, strict=True)):
        changed = np.flatnonzero(1 / rank != each.reciprocal_ranks)
        other += len(changed)
        codes, queries = vectors[2 + 2 * number], vectors[3 + 2 * number][changed]
        least, most = possible_ranks(
            queries, codes, each.right[changed], ROUNDING + 4 * max(difference, _TRAINING_ROUNDING)
        )
        stored = 1 / each.reciprocal_ranks[changed]
        wrong = changed[~((least <= stored + 1e-9) & (stored - 1e-9 <= most))]
        if len(wrong):
            row = wrong[0]
            raise ExportError(
                f"expected the {each.split} ranks of {each.language} that the run stored, got others from {what} for "
                f"{len(wrong):,} of {len(rank):,} queries (query {row}: {1 / each.reciprocal_ranks[row]:g} stored, "
                f"{rank[row]:g} now): nothing was written; please report this with the study file"
            )
    return _summary(expected, counted, difference, other)


def possible_ranks(
    queries: np.ndarray, codes: np.ndarray, right: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (Q,) lowest and highest ranks of each query's best right code, of (Q, K).

    The difference of two scores may be off by `slack` · |query| · the mean of the two codes' lengths.
    """
    scores = queries @ codes.T
    rows, others = np.arange(len(queries))[:, None], np.ones(scores.shape, bool)
    known = np.where(right >= 0, scores[rows, right], -np.inf)
    best, first = known.max(axis=1, keepdims=True, initial=-np.inf), known.argmax(axis=1)
    others[rows, np.where(right >= 0, right, right[:, :1])] = False
    lengths = np.linalg.norm(codes, axis=1)
    own = lengths[right[np.arange(len(queries)), first]][:, None]
    room = slack * np.linalg.norm(queries, axis=1, keepdims=True) * (lengths + own) / 2
    better, as_good = others & (scores > best + room), others & (scores >= best - room)
    return 1.0 + better.sum(axis=1), 1.0 + as_good.sum(axis=1)


def _summary(expected: Expected, counted: Sequence[np.ndarray], difference: float, other: int) -> Checked:
    vectors = sum(map(len, expected.vectors))
    if not counted:
        return Checked(difference, vectors)
    return Checked(
        difference,
        vectors,
        sum(map(len, counted)),
        other,
        float(np.mean([np.mean(1 / rank) for rank in counted])),
        float(np.mean([np.mean(each.reciprocal_ranks) for each in expected.ranked])),
    )
