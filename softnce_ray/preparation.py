"""What trials share, made once: token ids and estimators. Trials get paths and map the files into memory."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
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
    TrainingSet,
    TransformerEncoder,
    TrialConfig,
    UniformEstimator,
    identity,
    trial_languages,
)
from softnce_ray.corpus.arrays import GrowingArray
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import Progress, Ragged, TokenStore, concatenate, prepare_tokens, text_groups
from softnce_ray.encoders import DualEncoder
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
from softnce_ray.model import encode, load_export
from softnce_ray.named import EXPORT_SETTINGS, model_content, sentence_model_problem
from softnce_ray.simcse import train_sentence_encoder
from softnce_ray.storage import Location, shared_once
from softnce_ray.training import train
from softnce_ray.training_data import EvaluationData, PairTexts, TrainingData

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ESTIMATORS_VERSION = 3
_GROUPS_VERSION = 1
_VECTORS = 50_000
"""Texts whose vectors are in memory at one time."""


@dataclass(frozen=True)
class Prepared:
    """What an arm needs in a language or training set: names of folders below `root`, a path or URI that all machines
    have in common. They are the token ids, what each estimator that its loss needs has stored, and where it is trained
    on several languages, which pairs are duplicates among all of them."""

    root: str
    tokens: str
    estimators: dict[str, str]
    groups: str | None = None

    def folder(self, name: str) -> Path:
        """One of them on this machine, which fetches it when it first asks.

        Raises:
          StorageError: it is gone, or cannot be fetched.
        """
        return shared_once(Location(self.root), name, None)


def prepare(
    config: ArmConfig,
    corpus_folder: str | Path,
    language: str | TrainingSet,
    root: str | Path | Location,
    *,
    progress: Progress | None = None,
) -> Prepared:
    """Tokenise the corpus and prepare the estimators of an arm, unless `root`, a folder or URI, holds them already.

    Safe to call from several processes at once: one makes a folder, the others wait for it. Machines that share only an
    object store do not wait for one another: what two of them make at once is made twice.

    Raises:
      CorpusError: the corpus is missing or damaged, or a named tokenizer cannot be loaded.
      TrainingError: an estimator that must be trained first cannot be.
      UserError: the model that an estimator names cannot be used.
      OSError: `root` cannot be written.
    """
    corpus, languages, place = Corpus.open(corpus_folder), TrainingSet.of(language), Location.at(root)
    parts = _parts(config.estimator)
    for key, part in parts:
        if (model := _named_model(part)) and (problem := sentence_model_problem(model)):
            raise UserError(f"{key}.model: {problem}")
    encoder = config.encoder
    tokens = prepare_tokens(
        corpus,
        config.tokens,
        place,
        special=isinstance(encoder, TransformerEncoder),
        progress=progress,
        tokenizer=encoder.model if isinstance(encoder, TransformerEncoder) else None,
    )
    parts.sort(key=lambda part: _named_model(part[1]) is None)  # a model that cannot be used shows before any training
    groups = _prepare_groups(corpus, languages, place) if len(languages.train) > 1 else None
    shared = Prepared(str(place), f"tokens/{tokens.folder.name}", {}, groups)
    made: dict[str, str] = {
        part.name: _prepare_estimator(key, part, config, corpus, languages, shared) for key, part in parts
    }
    return replace(shared, estimators=made)


def open_data(prepared: Prepared, config: ArmConfig, language: str | TrainingSet) -> TrainingData:
    """The data of a trial, memory-mapped; only training pairs of several languages are copied, one after another."""
    tokens, languages = TokenStore(prepared.folder(prepared.tokens)), TrainingSet.of(language)

    def pairs(each: str, split: str) -> PairTexts:
        return PairTexts(tokens.texts(each, split, "query"), tokens.texts(each, split, "code"))

    return TrainingData(
        train=PairTexts(_training_tokens(tokens, languages, "query"), _training_tokens(tokens, languages, "code")),
        evaluated={
            each: EvaluationData(pairs(each, "valid"), pairs(each, "test"), tokens.texts(each, "codebase", "code"))
            for each in languages.test
        },
        tokenizer=tokens.tokenizer,
        groups=_groups(prepared, tokens, languages),
        estimator=_open_estimator(config.estimator, prepared),
    )


def _training_tokens(tokens: TokenStore, languages: TrainingSet, side: str) -> Ragged:
    """Token ids of one side of all training pairs, language after language."""
    parts = [tokens.texts(language, "train", side) for language in languages.train]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _groups(prepared: Prepared, tokens: TokenStore, languages: TrainingSet) -> np.ndarray:
    """See `TrainingData`."""
    if len(languages.train) == 1:
        return tokens.groups(languages.train[0])
    if prepared.groups is None:
        raise ValueError(f"expected what was prepared for {', '.join(languages.train)} together, got one language's")
    return np.load(prepared.folder(prepared.groups) / "groups.npy", mmap_mode="r")


def _prepare_groups(corpus: Corpus, languages: TrainingSet, root: Location) -> str:
    """The name of the folder of the duplicates among the training pairs of several languages: the same query in two of
    them is the same query."""
    digest = hashlib.sha256(json.dumps([_GROUPS_VERSION, corpus.fingerprint, languages.train]).encode()).hexdigest()

    def make(folder: Path) -> None:
        np.save(folder / "groups.npy", text_groups(corpus, languages.train))

    name = f"groups/{digest[:16]}"
    shared_once(root, name, make)
    return name


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
    key: str, settings: Estimator, arm: ArmConfig, corpus: Corpus, languages: TrainingSet, shared: Prepared
) -> str:
    """The name of an estimator's folder, made of all that decides what is in it."""
    decisive = settings.model_dump(exclude={"temperature"})  # which a trial applies itself
    if model := _named_model(settings):
        decisive["model"] = model_content(model)
    learned = _decides_learned(settings, arm, corpus, languages, shared)
    # One language by its name alone, as it was before there were several.
    trained_on = languages.train[0] if len(languages.train) == 1 else languages.train
    content = [_ESTIMATORS_VERSION, corpus.fingerprint, trained_on, decisive, learned]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        _make_estimator(key, settings, arm, corpus, languages, shared, folder)

    name = f"estimators/{settings.name}-{digest}"
    shared_once(Location(shared.root), name, make)
    return name


def _decides_learned(
    settings: Estimator, arm: ArmConfig, corpus: Corpus, languages: TrainingSet, shared: Prepared
) -> object:
    """What of the arm decides a learned estimator: for `trained` all but loss and estimator, for `simcse` the
    encoder's kind and the tokens; nothing for a named model."""
    if isinstance(settings, TrainedEstimator) and settings.model is None:
        return identity(_infonce_trial(settings, arm, languages), corpus.fingerprint)
    if isinstance(settings, SimCSEEstimator) and settings.model is None:
        tokens = shared.tokens.rpartition("/")[2]
        return [arm.encoder.model_dump(mode="json"), arm.training.precision, tokens]
    return None


def _infonce_trial(settings: TrainedEstimator, arm: ArmConfig, languages: TrainingSet) -> TrialConfig:
    """The run that trains a `trained` estimator: the arm's own settings with InfoNCE."""
    plain = arm.model_dump(include=set(ArmConfig.model_fields))
    return TrialConfig.model_validate(
        {**plain, "loss": InfoNCE(), "estimator": None, **trial_languages(languages), "seed": settings.seed}
    )


def _make_estimator(
    key: str,
    settings: Estimator,
    arm: ArmConfig,
    corpus: Corpus,
    languages: TrainingSet,
    shared: Prepared,
    folder: Path,
) -> None:
    match settings:
        case UniformEstimator():
            return
        case BM25Estimator(statistics="batch"):
            counts = count_words(_words(corpus, languages, "query"), {})
            save_sparse(folder / "counts", counts)
            np.save(folder / "average.npy", counts.sum() / max(1, counts.shape[0]))
        case BM25Estimator():
            texts = _words(corpus, languages, "query")
            _fit(texts, texts, settings.resolved_k1, settings.b, settings.epsilon).save(folder)
        case BM25CodeEstimator():
            queries, codes = _words(corpus, languages, "query"), _words(corpus, languages, "code")
            _fit(queries, codes, settings.k1, settings.b, settings.epsilon).save(folder)
        case SimCSEEstimator(model=str(model)):
            _embed_named_sentences(f"{key}.model", model, corpus, languages, folder)
        case SimCSEEstimator():
            _embed_sentences(settings, arm, corpus, languages, shared, folder)
        case TrainedEstimator(model=str(model)):
            _embed_named_encoder(f"{key}.model", model, corpus, languages, folder)
        case TrainedEstimator():
            _embed_trained(settings, arm, languages, shared, folder)
        case _:
            raise AssertionError(settings)


def _fit(queries: Iterable[list[str]], documents: Iterable[list[str]], k1: float, b: float, epsilon: float) -> BM25:
    try:
        return BM25.fit(queries, documents, k1=k1, b=b, epsilon=epsilon)
    except CorpusError:  # texts are read while they are counted
        raise
    except ValueError as error:
        raise UserError(f"estimator: {error}") from error


def _words(corpus: Corpus, languages: TrainingSet, side: str) -> Iterator[list[str]]:
    return map(words, _texts(corpus, languages, side))


def _texts(corpus: Corpus, languages: TrainingSet, side: str) -> Iterator[str]:
    """One side of all training pairs, language after language, read as they are needed."""
    for language in languages.train:
        for rows in corpus.batches(language, "train", [side]):
            yield from rows.column(side).to_pylist()


def _text_parts(corpus: Corpus, languages: TrainingSet, side: str) -> Iterator[list[str]]:
    """`_texts`, so many at a time as vectors are computed of."""
    texts = _texts(corpus, languages, side)
    while part := list(itertools.islice(texts, _VECTORS)):
        yield part


def _encoded(encoder: DualEncoder, texts: Ragged) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), _VECTORS):
        rows = np.arange(start, min(start + _VECTORS, len(texts)))
        yield encode(encoder, texts.take(rows)).cpu().numpy()


def _write_vectors(folder: Path, name: str, parts: Iterable[np.ndarray]) -> None:
    """Write vectors as `Embedded` loads them, some thousand at a time: a million of 768 numbers would take 3 GB.

    Raises:
      UserError: there are no vectors.
    """
    rest = iter(parts)
    first = next(rest, None)
    if first is None:
        raise UserError("estimator: expected training pairs to compute vectors of, got none: use a larger corpus")
    with GrowingArray(folder / f"{name}.npy", np.float32, first.shape[1]) as vectors:
        for part in itertools.chain([first], rest):
            vectors.append(part)


def _embed_sentences(
    settings: SimCSEEstimator, arm: ArmConfig, corpus: Corpus, languages: TrainingSet, shared: Prepared, folder: Path
) -> None:
    tokens = TokenStore(shared.folder(shared.tokens))
    everywhere = concatenate([tokens.texts(each, "train", "query") for each in corpus.languages])
    encoder = train_sentence_encoder(settings, arm, everywhere, tokens.tokenizer.get_vocab_size())
    _write_vectors(folder, "asking", _encoded(encoder, _training_tokens(tokens, languages, "query")))


def _embed_named_sentences(key: str, model: str, corpus: Corpus, languages: TrainingSet, folder: Path) -> None:
    """Unit vectors of the training queries under a named sentence encoder."""
    encoder = _sentence_transformer(key, model)
    encoded = (
        encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        for texts in _text_parts(corpus, languages, "query")
    )
    _write_vectors(folder, "asking", encoded)


def _embed_named_encoder(key: str, model: str, corpus: Corpus, languages: TrainingSet, folder: Path) -> None:
    """Vectors of the training pairs under a named dual encoder, whose score is their product.

    Texts come from the corpus: the model has a tokenizer of its own, which is not the arm's. An export of this system
    cuts queries and codes where its training cut them; a model of sentence-transformers has its own length, its own
    prompts and, unless it says `dot`, the cosine.
    """
    encode_queries: Callable[[list[str]], np.ndarray]
    encode_codes: Callable[[list[str]], np.ndarray]
    if (Path(model) / EXPORT_SETTINGS).is_file():
        try:
            exported = load_export(model)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        encode_queries, encode_codes = exported.encode_queries, exported.encode_codes
    else:
        encoder = _sentence_transformer(key, model)
        options = {"normalize_embeddings": encoder.similarity_fn_name != "dot", "show_progress_bar": False}
        encode_queries = partial(encoder.encode_query, **options)
        encode_codes = partial(encoder.encode_document, **options)
    _write_vectors(folder, "asking", map(encode_queries, _text_parts(corpus, languages, "query")))
    _write_vectors(folder, "answering", map(encode_codes, _text_parts(corpus, languages, "code")))


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
    settings: TrainedEstimator, arm: ArmConfig, languages: TrainingSet, shared: Prepared, folder: Path
) -> None:
    trial = _infonce_trial(settings, arm, languages)
    data = open_data(shared, trial, languages)
    encoder = train(trial, data).model.encoder
    _write_vectors(folder, "asking", _encoded(encoder, data.train.queries))
    _write_vectors(folder, "answering", _encoded(encoder, data.train.codes))


def _open_estimator(settings: Estimator | None, prepared: Prepared) -> Estimates | None:
    def opened(part: Estimator) -> Estimates:
        return _open(part, prepared.folder(prepared.estimators[part.name]))

    match settings:
        case None:
            return None
        case MixEstimator():
            parts = [(weight, settings.settings(name)) for name, weight in settings.mix.items()]
            return Mixture(tuple((weight, opened(part), part.temperature) for weight, part in parts))
        case _:
            return opened(settings)


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
