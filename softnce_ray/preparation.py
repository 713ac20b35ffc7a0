"""What trials share, made once: token ids and estimators. Trials get paths and map the files into memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from softnce_ray.config import ArmConfig, Settings, TransformerEncoder
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import Progress, Ragged, TokenStore, prepare_tokens
from softnce_ray.estimators import ESTIMATORS, Estimator
from softnce_ray.folders import appearing
from softnce_ray.training import PairTexts, TrainingData

_ESTIMATORS_VERSION = 1


@dataclass(frozen=True)
class Prepared:
    """Folders of the token ids and of the estimator (where the loss needs one) of an arm in a language."""

    tokens: Path
    estimator: Path | None


def prepare(
    config: ArmConfig, corpus_folder: str | Path, language: str, root: Path, *, progress: Progress | None = None
) -> Prepared:
    """Tokenise the corpus and fit the estimator of an arm, unless `root` holds them already.

    Safe to call from several processes at once: each folder appears whole or not at all.

    Raises:
      CorpusError: the corpus is missing or damaged, or a named tokenizer cannot be loaded.
      OSError: `root` cannot be written.
      ValueError: the estimator cannot be fitted.
    """
    corpus = Corpus.open(corpus_folder)
    encoder = config.encoder
    transformer = isinstance(encoder, TransformerEncoder)
    tokens = prepare_tokens(
        corpus,
        config.tokens,
        root / "tokens",
        special=transformer,
        progress=progress,
        tokenizer=encoder.model if isinstance(encoder, TransformerEncoder) else None,
    )
    estimator = None
    if config.estimator is not None:
        estimator = prepare_estimator(config.estimator, corpus, language, root / "estimators")
    return Prepared(tokens.folder, estimator)


def prepare_estimator(settings: Settings, corpus: Corpus, language: str, root: Path) -> Path:
    """Fit an estimator on a language's training queries; the folder is named by all that decides it."""
    kind: str = settings.name  # type: ignore[attr-defined]
    decisive = settings.model_dump(exclude={"temperature"})  # which a trial applies itself
    content = [_ESTIMATORS_VERSION, corpus.fingerprint, language, decisive]
    final = root / f"{kind}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]}"
    if not final.exists():
        with appearing(final) as folder:
            queries = corpus.table(language, "train", columns=["query"]).column("query").to_pylist()
            ESTIMATORS[kind].prepare(settings, queries, folder)  # type: ignore[arg-type]
    return final


def open_data(prepared: Prepared, config: ArmConfig, language: str) -> TrainingData:
    """The data of a trial, memory-mapped."""
    tokens = TokenStore(prepared.tokens)

    def pairs(split: str) -> PairTexts:
        return PairTexts(tokens.texts(language, split, "query"), tokens.texts(language, split, "code"))

    estimator: Estimator | None = None
    if config.estimator is not None and prepared.estimator is not None:
        estimator = ESTIMATORS[config.estimator.name].load(prepared.estimator)
    distractors: Ragged = tokens.texts(language, "codebase", "code")
    return TrainingData(
        pairs("train"), pairs("valid"), pairs("test"), distractors, tokens.tokenizer, tokens.groups(language), estimator
    )
