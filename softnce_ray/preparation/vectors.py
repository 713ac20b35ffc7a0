"""What learned estimators store: vectors of the training pairs, under an encoder that is trained for it or named."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softnce_ray.checkpoint import Checkpoint
from softnce_ray.config import (
    ArmConfig,
    Estimator,
    InfoNCE,
    Resources,
    SimCSEEstimator,
    TrainedEstimator,
    TrainingSet,
    TrialConfig,
    trial_languages,
)
from softnce_ray.corpus.arrays import GrowingArray
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import TokenStore
from softnce_ray.encoders import DualEncoder
from softnce_ray.errors import UserError
from softnce_ray.evaluation import DivergedError
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.model import encode, load_export
from softnce_ray.named import located, model_content
from softnce_ray.preparation.checkpoints import ModelCheckpoint
from softnce_ray.preparation.opening import (
    METRICS_FILE,
    PACE_FILE,
    Prepared,
    called,
    open_data,
    training_tokens,
    with_answers,
)
from softnce_ray.simcse import train_sentence_encoder
from softnce_ray.training import TrainingError, train

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_TEXTS = 50_000
"""Texts whose vectors are in memory at one time."""


@dataclass(frozen=True)
class Sources:
    """What an estimator of an arm is made of: the texts of these languages of a corpus, their token ids in `shared`.
    `device` is where encoders run, within `resources`; `say` takes lines on how far training has come."""

    arm: ArmConfig
    corpus: Corpus
    languages: TrainingSet
    shared: Prepared
    device: str
    resources: Resources
    say: Callable[[str], object]

    def texts(self, side: str) -> Iterator[str]:
        """One side of all training pairs, language after language, read as they are needed."""
        for language in self.languages.train:
            yield from self._texts(side, language)

    def parts(self, side: str) -> Iterator[tuple[list[str], str]]:
        """`texts`, so many at a time as vectors are computed of, each time of one language."""
        for language in self.languages.train:
            rest = self._texts(side, language)
            while part := list(itertools.islice(rest, _TEXTS)):
                yield part, language

    def place(self, row: int) -> str:
        """Return the origin of a training pair, for people."""
        places = (
            f"training pair {row} ({language}, {pair['path']}:{pair['line']})"
            for language in self.languages.train
            for rows in self.corpus.batches(language, "train", ["path", "line"])
            for pair in rows.to_pylist()
        )
        return next(itertools.islice(places, row, None))

    def _texts(self, side: str, language: str) -> Iterator[str]:
        for rows in self.corpus.batches(language, "train", [side]):
            yield from rows.column(side).to_pylist()


def infonce_trial(settings: TrainedEstimator, arm: ArmConfig, languages: TrainingSet) -> TrialConfig:
    """The run that trains a `trained` estimator: the arm's own settings with InfoNCE, without hard negatives."""
    plain = arm.model_dump(include=set(ArmConfig.model_fields))
    return TrialConfig.model_validate(
        {
            **plain,
            "loss": InfoNCE(),
            "estimator": None,
            "hard_negatives": None,
            **trial_languages(languages),
            "seed": settings.seed,
        }
    )


def write_trained(key: str, settings: TrainedEstimator, sources: Sources, kept: ModelCheckpoint, folder: Path) -> None:
    """Vectors of queries and codes under an encoder that is trained with InfoNCE first, and what it scored."""
    trial = infonce_trial(settings, sources.arm, sources.languages)
    data = with_answers(open_data(sources.shared, trial, sources.languages), sources.corpus)
    options = _training("trained", trial.training.epochs, trial.training.batch_size, sources, kept)
    with _errors_of(key, settings):
        result = train(trial, data, **options)
    encoder, what = result.model.encoder.to(sources.device), called(key, settings)
    _write(folder, "asking", _encoded(encoder, data.train.queries), what, sources)
    _write(folder, "answering", _encoded(encoder, data.train.codes), what, sources)
    _write_metrics(folder, result.metrics)


def write_sentences(key: str, settings: SimCSEEstimator, sources: Sources, kept: ModelCheckpoint, folder: Path) -> None:
    """Vectors of queries under a sentence encoder that is trained on the queries of the whole corpus first, and what it
    scored in a search for codes."""
    tokens = TokenStore(sources.shared.folder(sources.shared.tokens))
    everywhere = concatenate([tokens.texts(each, "train", "query") for each in sources.corpus.languages])
    plain = infonce_trial(TrainedEstimator(), sources.arm, sources.languages)
    options = _training("simcse", settings.epochs, settings.batch_size, sources, kept)
    began = time.monotonic()
    with _errors_of(key, settings):
        encoder, metrics = train_sentence_encoder(
            settings,
            sources.arm,
            everywhere,
            tokens.tokenizer.get_vocab_size(),
            with_answers(open_data(sources.shared, plain, sources.languages), sources.corpus),
            **options,
        )
    if epochs := settings.epochs - (options["resume"].progress.epoch if options["resume"] else 0):
        pace = epochs * len(everywhere) / (time.monotonic() - began)
        (folder / PACE_FILE).write_text(json.dumps(pace), encoding="utf-8")
    queries = training_tokens(tokens, sources.languages, "query")
    _write(folder, "asking", _encoded(encoder, queries), called(key, settings), sources)
    _write_metrics(folder, metrics)


def _training(name: str, epochs: int, batch_size: int, sources: Sources, kept: ModelCheckpoint) -> dict[str, Any]:
    """Return the options that a model of an arm's encoder is trained with, whatever it learns.

    Training stays within the study's resources and continues from its last checkpoint; each epoch is kept and reported.
    """
    named, resources = getattr(sources.arm.encoder, "model", None), sources.resources
    identity = f"{kept.place.name} {model_content(located(named)) if named else ''}"
    if (resume := kept.load(identity)) is not None:
        sources.say(f"{name}: goes on after epoch {resume.progress.epoch}/{epochs}")

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        kept.save(checkpoint)
        loss = f"loss {metrics['train_loss']:.3f}, " if "train_loss" in metrics else ""  # none with no epochs
        sources.say(f"{name}: epoch {metrics['epoch']:.0f}/{epochs}, {loss}valid MRR {metrics['valid_mrr']:.4f}")

    # One process trains here what several workers of a trial would, and keeps to the share of one of them.
    share = math.ceil(batch_size / resources.workers) if resources.workers > 1 else None
    return {
        "report": report,
        "identity": identity,
        "device": sources.device,
        "resume": resume,
        "chunk_size": min(filter(None, (share, resources.chunk_size)), default=None),
        "gradient_checkpointing": resources.gradient_checkpointing,
    }


def write_named_sentences(key: str, model: str, sources: Sources, folder: Path) -> None:
    """Unit vectors of the training queries under a named sentence encoder; `key` is that of its name."""
    encoder = _sentence_transformer(key, model, sources.device)
    options: dict[str, Any] = {"batch_size": _at_one_time(sources), "show_progress_bar": False}
    encoded = (encoder.encode(texts, normalize_embeddings=True, **options) for texts, _ in sources.parts("query"))
    _write(folder, "asking", encoded, key, sources)


def write_named_encoder(key: str, model: str, sources: Sources, folder: Path) -> None:
    """Vectors of the training pairs under a named dual encoder, whose score is their product.

    Texts come from the corpus: the model has a tokenizer of its own, which is not the arm's. An export of this system
    cuts queries and codes where its training cut them; a model of sentence-transformers has its own length, its own
    prompts and, unless it says `dot`, the cosine.
    """
    encode_queries: Callable[[list[str]], np.ndarray]
    encode_codes: Callable[[list[str], str], np.ndarray]
    if (Path(model) / EXPORT_SETTINGS).is_file():
        try:
            exported = load_export(model)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        exported.encoder.to(sources.device)
        encode_queries, encode_codes = exported.encode_queries, exported.encode_codes
    else:
        encoder = _sentence_transformer(key, model, sources.device)
        options: dict[str, Any] = {
            "normalize_embeddings": encoder.similarity_fn_name != "dot",
            "batch_size": _at_one_time(sources),
            "show_progress_bar": False,
        }
        encode_queries = partial(encoder.encode_query, **options)

        def encode_codes(texts: list[str], language: str) -> np.ndarray:
            return encoder.encode_document(texts, **options)

    _write(folder, "asking", (encode_queries(texts) for texts, _ in sources.parts("query")), key, sources)
    _write(folder, "answering", itertools.starmap(encode_codes, sources.parts("code")), key, sources)


@contextmanager
def _errors_of(key: str, settings: Estimator) -> Iterator[None]:
    """Errors of training an encoder of its own name the estimator: the trials' training has the same words for its."""
    try:
        yield
    except (DivergedError, TrainingError) as error:
        raise type(error)(f"{called(key, settings)}, whose encoder is trained first: {error}") from error


def _sentence_transformer(key: str, model: str, device: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model, device=device)
    except Exception as error:  # each of the libraries that read a model's files has its own
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{key}: expected a model of sentence-transformers, got {model!r}, which cannot be loaded ({reason}); give "
            "the path of its folder, or a name that this machine can download"
        ) from error


def _at_one_time(sources: Sources) -> int:
    """Texts that a model of sentence-transformers encodes at one time: its own 32, or fewer where a study says so."""
    return min(32, sources.resources.chunk_size or 32)


def _encoded(encoder: DualEncoder, texts: Ragged) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), _TEXTS):
        rows = np.arange(start, min(start + _TEXTS, len(texts)))
        yield encode(encoder, texts.take(rows)).cpu().numpy()


def _write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")


def _write(folder: Path, name: str, parts: Iterable[np.ndarray], what: str, sources: Sources) -> None:
    """Write vectors as `Embedded` loads them, some thousand at a time: a million of 768 numbers would take 3 GB. `what`
    makes them, in errors.

    Raises:
      UserError: there are no vectors, or one is not finite.
    """
    rest = iter(parts)
    first = next(rest, None)
    if first is None:
        raise UserError("estimator: expected training pairs to compute vectors of, got none: use a larger corpus")
    with GrowingArray(folder / f"{name}.npy", np.float32, first.shape[1]) as vectors:
        for part in itertools.chain([first], rest):
            bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
            if len(bad):
                side = "queries" if name == "asking" else "codes"
                raise UserError(
                    f"{what}: expected finite vectors of the training {side}, got NaN or infinity for {len(bad):,} of "
                    f"{len(part):,}, first for {sources.place(vectors.length + int(bad[0]))}: give another model or "
                    "settings, or leave such pairs out of the corpus"
                )
            vectors.append(part)
