"""What trials share, made once: token ids and estimators. Trials get paths and map the files into memory."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softnce_ray.config import (
    ArmConfig,
    BM25CodeEstimator,
    BM25Estimator,
    Estimator,
    InfoNCE,
    MixEstimator,
    SimCSEEstimator,
    TrainedEstimator,
    TransformerEncoder,
    TrialConfig,
    UniformEstimator,
    identity,
)
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import Progress, TokenStore, concatenate, prepare_tokens
from softnce_ray.errors import UserError
from softnce_ray.estimators import (
    BM25,
    BatchBM25,
    Embedded,
    Mixture,
    Uniform,
    count_words,
    load_sparse,
    save_sparse,
    words,
)
from softnce_ray.estimators import Estimator as Estimates
from softnce_ray.folders import made_once
from softnce_ray.model import encode, load_export
from softnce_ray.named import EXPORT_SETTINGS, model_content, sentence_model_problem
from softnce_ray.simcse import train_sentence_encoder
from softnce_ray.training import train
from softnce_ray.training_data import PairTexts, TrainingData

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ESTIMATORS_VERSION = 3


@dataclass(frozen=True)
class Prepared:
    """Folders of an arm in a language: the token ids, and those of each estimator that its loss needs."""

    tokens: Path
    estimators: dict[str, Path]


def prepare(
    config: ArmConfig, corpus_folder: str | Path, language: str, root: Path, *, progress: Progress | None = None
) -> Prepared:
    """Tokenise the corpus and prepare the estimators of an arm, unless `root` holds them already.

    Safe to call from several processes at once: one makes a folder, the others wait for it.

    Raises:
      CorpusError: the corpus is missing or damaged, or a named tokenizer cannot be loaded.
      TrainingError: an estimator that must be trained first cannot be.
      UserError: the model that an estimator names cannot be used.
      OSError: `root` cannot be written.
    """
    corpus = Corpus.open(corpus_folder)
    parts = _parts(config.estimator)
    for key, part in parts:
        if (model := _named_model(part)) and (problem := sentence_model_problem(model)):
            raise UserError(f"{key}.model: {problem}")
    encoder = config.encoder
    tokens = prepare_tokens(
        corpus,
        config.tokens,
        root / "tokens",
        special=isinstance(encoder, TransformerEncoder),
        progress=progress,
        tokenizer=encoder.model if isinstance(encoder, TransformerEncoder) else None,
    )
    parts.sort(key=lambda part: _named_model(part[1]) is None)  # a model that cannot be used shows before any training
    made: dict[str, Path] = {
        part.name: _prepare_estimator(key, part, config, corpus, language, tokens, root / "estimators")
        for key, part in parts
    }
    return Prepared(tokens.folder, made)


def open_data(prepared: Prepared, config: ArmConfig, language: str) -> TrainingData:
    """The data of a trial, memory-mapped."""
    tokens = TokenStore(prepared.tokens)

    def pairs(split: str) -> PairTexts:
        return PairTexts(tokens.texts(language, split, "query"), tokens.texts(language, split, "code"))

    return TrainingData(
        train=pairs("train"),
        valid=pairs("valid"),
        test=pairs("test"),
        distractors=tokens.texts(language, "codebase", "code"),
        tokenizer=tokens.tokenizer,
        groups=tokens.groups(language),
        estimator=_open_estimator(config.estimator, prepared.estimators),
    )


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


def _parts(settings: Estimator | None) -> list[tuple[str, Estimator]]:
    """The estimators that an arm's estimator is made of, each with the key of its settings."""
    if settings is None:
        return []
    if isinstance(settings, MixEstimator):
        return [(f"estimator.parts.{name}", settings.settings(name)) for name in settings.mix]
    return [("estimator", settings)]


def _named_model(settings: Estimator) -> str | None:
    return settings.model if isinstance(settings, SimCSEEstimator | TrainedEstimator) else None


def _prepare_estimator(
    key: str, settings: Estimator, arm: ArmConfig, corpus: Corpus, language: str, tokens: TokenStore, root: Path
) -> Path:
    """The folder of an estimator, named by all that decides what is in it."""
    decisive = settings.model_dump(exclude={"temperature"})  # which a trial applies itself
    if model := _named_model(settings):
        decisive["model"] = model_content(model)
    learned = _decides_learned(settings, arm, corpus, language, tokens)
    content = [_ESTIMATORS_VERSION, corpus.fingerprint, language, decisive, learned]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        _make_estimator(key, settings, arm, corpus, language, tokens, folder)

    return made_once(root / f"{settings.name}-{digest}", make)


def _decides_learned(settings: Estimator, arm: ArmConfig, corpus: Corpus, language: str, tokens: TokenStore) -> object:
    """What of the arm decides a learned estimator: for `trained` all but loss and estimator, for `simcse` the
    encoder's kind and the tokens; nothing for a named model."""
    if isinstance(settings, TrainedEstimator) and settings.model is None:
        return identity(_infonce_trial(settings, arm, language), corpus.fingerprint)
    if isinstance(settings, SimCSEEstimator) and settings.model is None:
        return [arm.encoder.model_dump(mode="json"), arm.training.precision, tokens.folder.name]
    return None


def _infonce_trial(settings: TrainedEstimator, arm: ArmConfig, language: str) -> TrialConfig:
    """The run that trains a `trained` estimator: the arm's own settings with InfoNCE."""
    plain = arm.model_dump(include=set(ArmConfig.model_fields))
    return TrialConfig.model_validate(
        {**plain, "loss": InfoNCE(), "estimator": None, "language": language, "seed": settings.seed}
    )


def _make_estimator(
    key: str, settings: Estimator, arm: ArmConfig, corpus: Corpus, language: str, tokens: TokenStore, folder: Path
) -> None:
    match settings:
        case UniformEstimator():
            return
        case BM25Estimator(statistics="batch"):
            counts = count_words(_words(corpus, language, "query"), {})
            save_sparse(folder / "counts", counts)
            np.save(folder / "average.npy", counts.sum() / max(1, counts.shape[0]))
        case BM25Estimator():
            texts = _words(corpus, language, "query")
            _fit(texts, texts, settings.resolved_k1, settings.b, settings.epsilon).save(folder)
        case BM25CodeEstimator():
            queries, codes = _words(corpus, language, "query"), _words(corpus, language, "code")
            _fit(queries, codes, settings.k1, settings.b, settings.epsilon).save(folder)
        case SimCSEEstimator(model=str(model)):
            _embed_named_sentences(f"{key}.model", model, corpus, language).save(folder)
        case SimCSEEstimator():
            _embed_sentences(settings, arm, corpus, language, tokens).save(folder)
        case TrainedEstimator(model=str(model)):
            _embed_named_encoder(f"{key}.model", model, corpus, language).save(folder)
        case TrainedEstimator():
            _embed_trained(settings, arm, corpus, language, tokens).save(folder)
        case _:
            raise AssertionError(settings)


def _fit(queries: list[list[str]], documents: list[list[str]], k1: float, b: float, epsilon: float) -> BM25:
    try:
        return BM25.fit(queries, documents, k1=k1, b=b, epsilon=epsilon)
    except ValueError as error:
        raise UserError(f"estimator: {error}") from error


def _words(corpus: Corpus, language: str, side: str) -> list[list[str]]:
    return [words(text) for text in _texts(corpus, language, side)]


def _texts(corpus: Corpus, language: str, side: str) -> list[str]:
    return corpus.table(language, "train", columns=[side]).column(side).to_pylist()


def _embed_sentences(
    settings: SimCSEEstimator, arm: ArmConfig, corpus: Corpus, language: str, tokens: TokenStore
) -> Embedded:
    everywhere = concatenate([tokens.texts(each, "train", "query") for each in corpus.languages])
    encoder = train_sentence_encoder(settings, arm, everywhere, tokens.tokenizer.get_vocab_size())
    vectors = encode(encoder, tokens.texts(language, "train", "query")).numpy()
    return Embedded(vectors, vectors)


def _embed_named_sentences(key: str, model: str, corpus: Corpus, language: str) -> Embedded:
    """Unit vectors of the training queries under a named sentence encoder."""
    encoder = _sentence_transformer(key, model)
    vectors = encoder.encode(_texts(corpus, language, "query"), normalize_embeddings=True, show_progress_bar=False)
    return Embedded(vectors, vectors)


def _embed_named_encoder(key: str, model: str, corpus: Corpus, language: str) -> Embedded:
    """Vectors of the training pairs under a named dual encoder, whose score is their product.

    Texts come from the corpus: the model has a tokenizer of its own, which is not the arm's. An export of this system
    cuts queries and codes where its training cut them; a model of sentence-transformers has its own length, its own
    prompts and, unless it says `dot`, the cosine.
    """
    queries, codes = _texts(corpus, language, "query"), _texts(corpus, language, "code")
    if (Path(model) / EXPORT_SETTINGS).is_file():
        try:
            exported = load_export(model)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        return Embedded(exported.encode_queries(queries), exported.encode_codes(codes))
    encoder = _sentence_transformer(key, model)
    unit = encoder.similarity_fn_name != "dot"
    return Embedded(
        encoder.encode_query(queries, normalize_embeddings=unit, show_progress_bar=False),
        encoder.encode_document(codes, normalize_embeddings=unit, show_progress_bar=False),
    )


def _sentence_transformer(key: str, model: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model)
    except Exception as error:  # each of the libraries that read a model's files has its own
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{key}: expected a model of sentence-transformers, got {model!r}, which cannot be loaded ({reason}); give "
            "the path of its folder, or a name that this machine can download"
        ) from error


def _embed_trained(
    settings: TrainedEstimator, arm: ArmConfig, corpus: Corpus, language: str, tokens: TokenStore
) -> Embedded:
    trial = _infonce_trial(settings, arm, language)
    data = open_data(Prepared(tokens.folder, {}), trial, language)
    encoder = train(trial, data).model.encoder
    return Embedded(encode(encoder, data.train.queries).numpy(), encode(encoder, data.train.codes).numpy())


def _open_estimator(settings: Estimator | None, folders: dict[str, Path]) -> Estimates | None:
    match settings:
        case None:
            return None
        case MixEstimator():
            parts = [(weight, settings.settings(name)) for name, weight in settings.mix.items()]
            return Mixture(tuple((weight, _open(part, folders[part.name]), part.temperature) for weight, part in parts))
        case _:
            return _open(settings, folders[settings.name])


def _open(settings: Estimator, folder: Path) -> Estimates:
    match settings:
        case UniformEstimator():
            return Uniform()
        case BM25Estimator(statistics="batch"):
            average = float(np.load(folder / "average.npy"))
            return BatchBM25(load_sparse(folder / "counts"), average, settings.resolved_k1, settings.b)
        case BM25Estimator() | BM25CodeEstimator():
            return BM25.load(folder)
        case _:
            return Embedded.load(folder)
