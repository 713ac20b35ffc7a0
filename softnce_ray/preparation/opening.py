"""What was prepared, as a trial reads it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from softnce_ray.config import (
    ArmConfig,
    BM25CodeEstimator,
    BM25Estimator,
    Estimator,
    MixEstimator,
    TrainingSet,
    UniformEstimator,
)
from softnce_ray.corpus.arrays import load_array
from softnce_ray.corpus.qrels import codebase_of
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import TokenStore
from softnce_ray.estimators import BM25, BatchBM25, Checked, Embedded, Mixture, Uniform, load_sparse
from softnce_ray.estimators import Estimator as Estimates
from softnce_ray.shared import shared_once
from softnce_ray.storage import Location
from softnce_ray.training_data import EvaluationData, PairTexts, TrainingData

MINED_FILE = "rows.npy"
"""In the folder of hard negatives: rows of training pairs, see `hard_negatives.mine`."""


METRICS_FILE = "metrics.json"
"""In the folder of an estimator that was trained: what it scored on validation."""

PACE_FILE = "pace.json"
"""Beside it for `simcse`: the queries per second that its model was trained with, validations included. A file of its
own, since metrics are the same on every machine."""


@dataclass(frozen=True)
class Prepared:
    """What an arm needs in a language or training set: names of folders below `root`, a path or URI that all machines
    have in common. They are the token ids, what each estimator that its loss needs has stored, and where it is trained
    on several languages, which pairs are duplicates among all of them, and the hard negatives, where there are any.
    `metrics` has what each model scored that was trained for it: by the estimator's name, or `hard_negatives`. `notes`
    say what a user should know of them. `pace` is the queries per second that `simcse` was trained with."""

    root: str
    tokens: str
    estimators: dict[str, str]
    groups: str | None = None
    hard_negatives: str | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pace: float | None = None

    def folder(self, name: str) -> Path:
        """One of them on this machine, which fetches it when it first asks.

        Raises:
          StorageError: it is gone, or cannot be fetched.
        """
        return shared_once(Location(self.root), name, None)


def open_data(prepared: Prepared, config: ArmConfig, language: str | TrainingSet) -> TrainingData:
    """The data of a trial, memory-mapped; only training pairs of several languages are copied, one after another."""
    tokens, languages = TokenStore(prepared.folder(prepared.tokens)), TrainingSet.of(language)

    def pairs(each: str, split: str) -> PairTexts:
        return PairTexts(tokens.texts(each, split, "query"), tokens.texts(each, split, "code"))

    return TrainingData(
        train=PairTexts(training_tokens(tokens, languages, "query"), training_tokens(tokens, languages, "code")),
        evaluated={
            each: EvaluationData(pairs(each, "valid"), pairs(each, "test"), tokens.texts(each, "codebase", "code"))
            for each in languages.test
        },
        tokenizer=tokens.tokenizer,
        groups=training_groups(prepared, languages),
        estimator=_open_estimator(config.estimator, prepared),
        hard_negatives=_hard_negatives(prepared),
    )


def training_tokens(tokens: TokenStore, languages: TrainingSet, side: str) -> Ragged:
    """Token ids of one side of all training pairs, language after language."""
    parts = [tokens.texts(language, "train", side) for language in languages.train]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _hard_negatives(prepared: Prepared) -> np.ndarray | None:
    if prepared.hard_negatives is None:
        return None
    return load_array(prepared.folder(prepared.hard_negatives) / MINED_FILE, dimensions=2)


def training_groups(prepared: Prepared, languages: TrainingSet) -> np.ndarray:
    """See `TrainingData.groups`."""
    if len(languages.train) == 1:
        return TokenStore(prepared.folder(prepared.tokens)).groups(languages.train[0])
    if prepared.groups is None:
        raise ValueError(f"expected what was prepared for {', '.join(languages.train)} together, got one language's")
    return load_array(prepared.folder(prepared.groups) / "groups.npy", dimensions=2)


def with_answers(data: TrainingData, corpus: Corpus) -> TrainingData:
    """The data with the codes that answer the queries of each language: not always one of its own for each.

    Raises:
      CorpusError: the table of right codes cannot be read.
    """
    evaluated = {
        language: replace(texts, answers=codebase_of(corpus, language)) for language, texts in data.evaluated.items()
    }
    return replace(data, evaluated=evaluated)


def partners(corpus: Corpus, language: str) -> dict[str, tuple[np.ndarray, ...]]:
    """For each query of `valid` and `test` the rows of the codebase, its own left out, whose code shares its meaning;
    nothing where the corpus does not know meanings.

    Raises:
      CorpusError: the meanings cannot be read.
    """
    meanings = corpus.meanings(language)
    if meanings is None:
        return {}
    ids = [
        corpus.table(language, split, columns=["id"]).column("id").to_pylist()
        for split in ("valid", "test", "codebase")
    ]
    rows: dict[int, list[int]] = {}
    for row, pair in enumerate(itertools.chain(*ids)):
        if pair in meanings:
            rows.setdefault(meanings[pair], []).append(row)
    found = {}
    for split, names, first in (("valid", ids[0], 0), ("test", ids[1], len(ids[0]))):
        alike = (rows.get(meanings.get(pair, -1), ()) for pair in names)
        found[split] = tuple(
            np.array([row for row in each if row != first + number], np.int64) for number, each in enumerate(alike)
        )
    return found


def _open_estimator(settings: Estimator | None, prepared: Prepared) -> Estimates | None:
    def opened(key: str, part: Estimator) -> Estimates:
        return open_estimator(key, part, prepared.folder(prepared.estimators[part.name]))

    match settings:
        case None:
            return None
        case MixEstimator():
            parts = [(weight, settings.settings(name)) for name, weight in settings.mix.items()]
            return Mixture(
                tuple(
                    (weight, opened(f"estimator.parts.{part.name}", part), part.temperature) for weight, part in parts
                )
            )
        case _:
            return opened("estimator", settings)


def open_estimator(key: str, settings: Estimator, folder: Path) -> Estimates:
    """An estimator, of no several parts, from what was stored for it; `key` is that of its settings, for errors."""
    remedy = f"give it other settings or another model, or remove {folder}, which is then made anew"
    return Checked(called(key, settings), remedy, _stored(settings, folder))


def called(key: str, settings: Estimator) -> str:
    """Return the name of an estimator in errors: the key of its settings, and its name."""
    return key if key.endswith(f".{settings.name}") else f"{key} {settings.name}"


def _stored(settings: Estimator, folder: Path) -> Estimates:
    match settings:
        case UniformEstimator():
            return Uniform()
        case BM25Estimator(statistics="batch"):
            average = float(load_array(folder / "average.npy", dimensions=0, mapped=False))
            return BatchBM25(load_sparse(folder / "counts"), average, settings.resolved_k1, settings.b)
        case BM25Estimator() | BM25CodeEstimator():
            return BM25.load(folder)
        case _:
            return Embedded.load(folder)
