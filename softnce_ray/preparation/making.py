"""Makes what trials share: token ids, duplicates among several languages, estimators and hard negatives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from softnce_ray.bm25_formulas import Formula
from softnce_ray.config import (
    ArmConfig,
    BM25CodeEstimator,
    BM25Estimator,
    Estimator,
    HardNegatives,
    Resources,
    SimCSEEstimator,
    TrainedEstimator,
    TrainingSet,
    UniformEstimator,
    identity,
)
from softnce_ray.corpus import unknown_tokens
from softnce_ray.corpus.graph_tokens import check_languages
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.tokens import Progress, prepare_tokens, text_groups, token_key
from softnce_ray.corpus.verifying import Verify
from softnce_ray.errors import UserError
from softnce_ray.estimators import BM25, count_words, save_sparse, words
from softnce_ray.files import read_file
from softnce_ray.hard_negatives import NONE, mine
from softnce_ray.named import located, model_content, sentence_model_problem
from softnce_ray.preparation import vectors
from softnce_ray.preparation.checkpoints import ModelCheckpoint
from softnce_ray.preparation.opening import (
    METRICS_FILE,
    MINED_FILE,
    PACE_FILE,
    Prepared,
    open_estimator,
    training_groups,
)
from softnce_ray.preparation.reading import content_of, counted_content
from softnce_ray.preparation.vectors import Sources
from softnce_ray.shared import is_made, shared_once
from softnce_ray.storage import Location

_MANY_WITHOUT = 0.1
_ESTIMATORS_VERSION = 3
_GROUPS_VERSION = 1
_HARD_NEGATIVES_VERSION = 1

_PLAIN = Resources()


def prepare(
    config: ArmConfig,
    corpus_folder: str | Path,
    language: str | TrainingSet,
    root: str | Path | Location,
    device: str = "cpu",
    *,
    progress: Progress | None = None,
    verify: Verify = Verify.ONCE,
    resources: Resources = _PLAIN,
    say: Callable[[str], object] = lambda text: None,
) -> Prepared:
    """Tokenise the corpus, prepare the estimators of an arm and mine its hard negatives, unless `root`, a folder or
    URI, holds them already.

    Safe to call from several processes at once: one makes a folder, the others wait for it. Machines that share only an
    object store do not wait for one another: what two of them make at once is made twice. A model whose training was
    cut off goes on after its last epoch, on any machine.

    Args:
      config: the arm.
      corpus_folder: a folder or URI.
      language: what the arm is trained on.
      root: where all that is prepared lies.
      device: the torch device of encoders of estimators.
      progress: of tokenising.
      verify: which rows of the corpus are compared with its manifest.
      resources: how much at a time models are trained with. They change no result, and so no name of a folder.
      say: told, a line each, how far the training of models has come.

    Raises:
      CorpusError: the corpus is missing or damaged, a named tokenizer cannot be loaded, or a language's data flow is
        asked for and not known.
      TrainingError: an estimator that must be trained first cannot be.
      UserError: the model that an estimator names cannot be used.
      StorageError: `root` is a URI and cannot be used.
      OSError: `root` cannot be written.
    """
    corpus, languages = Corpus.open(corpus_folder, verify=verify), TrainingSet.of(language)
    place = Location.at(root)
    for key, part in config.all_estimators.items():
        if (model := _named_model(part)) and (problem := sentence_model_problem(model)):
            raise UserError(f"{key}.model: {problem}")
    if config.encoder.inputs.flow_length is not None:
        check_languages(languages.train + languages.test)
    tokens = prepare_tokens(corpus, config.tokens, place, config.encoder.inputs, progress=progress)
    groups = _prepare_groups(corpus, languages, place) if len(languages.train) > 1 else None
    shared = Prepared(str(place), f"tokens/{tokens.folder.name}", {}, groups)
    sources = Sources(config, corpus, languages, shared, device, resources, say)
    parts = [(key, part) for key, part in config.all_estimators.items() if key != "hard_negatives"]
    parts.sort(key=lambda part: _named_model(part[1]) is None)  # a model that cannot be used shows before any training
    made: dict[str, str] = {part.name: _prepare_estimator(key, part, sources) for key, part in parts}
    trained = dict(made)
    mined = None
    if config.hard_negatives is not None:
        mined, trained["hard_negatives"] = _prepare_hard_negatives(config.hard_negatives, sources)
    scored = {name: _metrics(shared.folder(folder)) for name, folder in trained.items()}
    return replace(
        shared,
        estimators=made,
        hard_negatives=mined,
        metrics={name: found for name, found in scored.items() if found},
        pace=_pace(shared.folder(made["simcse"])) if "simcse" in made else None,
        notes=(*unknown_tokens.notes(tokens.unknown_shares(languages.train)), *_without_hard_negatives(shared, mined)),
    )


def _without_hard_negatives(shared: Prepared, mined: str | None) -> Iterator[str]:
    if mined is None:
        return
    without = float((np.load(shared.folder(mined) / MINED_FILE, mmap_mode="r")[:, 0] == NONE).mean())
    if without > _MANY_WITHOUT:
        yield (
            f"hard_negatives: {without:.0%} of the training queries have none, since no other code shares a word with "
            "them: write name: trained, which needs no words in common"
        )


def learns(config: ArmConfig) -> bool:
    """Whether preparing an arm runs a network, and not only counts words."""
    return any(isinstance(part, SimCSEEstimator | TrainedEstimator) for part in config.all_estimators.values())


def to_learn(
    config: ArmConfig, corpus: Corpus, languages: TrainingSet, root: Location
) -> dict[str, SimCSEEstimator | TrainedEstimator]:
    """Return the estimators for which `prepare` would run a network, by the names of folders that `root` lacks.

    Raises:
      CorpusError: a table of the corpus cannot be read.
      StorageError: `root` is a URI and cannot be used.
      MachineError: a package that brings a model is not installed.
    """
    parts = [part for part in config.all_estimators.values() if isinstance(part, SimCSEEstimator | TrainedEstimator)]
    if not parts:
        return {}
    shared = Prepared(str(root), f"tokens/{token_key(corpus, config.tokens, config.encoder.inputs)}", {})
    sources = Sources(config, corpus, languages, shared, "cpu", _PLAIN, lambda text: None)
    found = {_folder_of(part, sources): part for part in parts}
    return {name: part for name, part in found.items() if not is_made(root, name)}


def _prepare_groups(corpus: Corpus, languages: TrainingSet, root: Location) -> str:
    """The name of the folder of the duplicates among the training pairs of several languages: the same query in two of
    them is the same query."""
    digest = hashlib.sha256(json.dumps([_GROUPS_VERSION, corpus.fingerprint, languages.train]).encode()).hexdigest()

    def make(folder: Path) -> None:
        np.save(folder / "groups.npy", text_groups(corpus, languages.train))
        corpus.check_unchanged()

    name = f"groups/{digest[:16]}"
    shared_once(root, name, make)
    return name


def _metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of an estimator's model; {} where none was trained, or by a version that did not keep them."""
    file = folder / METRICS_FILE
    return json.loads(read_file(file)) if file.exists() else {}


def _pace(folder: Path) -> float | None:
    """Return the pace that the model of `simcse` was trained with; None where it is not known."""
    file = folder / PACE_FILE
    return float(json.loads(read_file(file))) if file.exists() else None


def _prepare_hard_negatives(settings: HardNegatives, sources: Sources) -> tuple[str, str]:
    """The names of the folders of the pairs that were mined, and of the estimator that ranked them."""
    ranking = settings.ranking
    ranked_by = _prepare_estimator("hard_negatives", ranking, sources)
    content = [_HARD_NEGATIVES_VERSION, ranked_by, settings.depth, settings.skip]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        counts_words = isinstance(ranking, BM25CodeEstimator)
        ranked = open_estimator("hard_negatives", ranking, sources.shared.folder(ranked_by))
        groups = training_groups(sources.shared, sources.languages)
        mined = mine(
            ranked,
            groups,
            depth=settings.depth,
            skip=settings.skip,
            least=0.0 if counts_words else None,  # 0: not one word in common
        )
        if (mined == NONE).all():
            found = f"among {len(mined):,} training pairs"
            if counts_words and (mine(ranked, groups, depth=1, least=0.0) == NONE).all():
                raise UserError(
                    f"hard_negatives: expected codes that share a word with the queries of others, got none {found}: "
                    "write name: trained, which needs no words in common"
                )
            raise UserError(
                f"hard_negatives: expected codes after the {settings.skip} best of each query's ranking, got none "
                f"{found}: lower skip or use a larger corpus"
            )
        np.save(folder / MINED_FILE, mined)

    name = f"hard_negatives/{digest}"
    shared_once(Location(sources.shared.root), name, make)
    return name, ranked_by


def _named_model(settings: Estimator) -> str | None:
    """Where the model lies that an estimator names."""
    model = settings.model if isinstance(settings, SimCSEEstimator | TrainedEstimator) else None
    return located(model) if model else None


def _prepare_estimator(key: str, settings: Estimator, sources: Sources) -> str:
    """The name of an estimator's folder, which is made unless it is there."""
    root, name = Location(sources.shared.root), _folder_of(settings, sources)
    parent, _, own = name.rpartition("/")
    kept = ModelCheckpoint(root / f"{parent}/.{own}.training")

    def make(folder: Path) -> None:
        _make_estimator(key, settings, sources, kept, folder)
        sources.corpus.check_unchanged()  # else its name would say what it is not

    shared_once(root, name, make)
    if isinstance(settings, SimCSEEstimator | TrainedEstimator):
        kept.remove()  # also what is left of a process that was killed when all was made
    return name


def _folder_of(settings: Estimator, sources: Sources) -> str:
    """The name of an estimator's folder, made of all that decides what is in it."""
    corpus, languages = sources.corpus, sources.languages
    decisive = settings.model_dump(exclude={"temperature"})  # which a trial applies itself
    if model := _named_model(settings):
        decisive["model"] = model_content(model)
    # One language by its name alone, as it was before there were several.
    trained_on = languages.train[0] if len(languages.train) == 1 else languages.train
    texts = counted_content(corpus, [settings], languages)
    content = [_ESTIMATORS_VERSION, texts, trained_on, decisive, _decides_learned(settings, sources)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return f"estimators/{settings.name}-{digest}"


def _decides_learned(settings: Estimator, sources: Sources) -> object:
    """Return the settings of the arm that are part of a learned estimator's cache key.

    For `trained` all but loss and estimator; for `simcse` the encoder, the tokens and, since its metrics lie beside its
    vectors, the languages of a training set that it is evaluated on; for both the content of a folder that the encoder
    begins with; None for a named model.
    """
    arm = sources.arm
    begins_with = _encoder_content(arm)
    if isinstance(settings, TrainedEstimator) and settings.model is None:
        trial = vectors.infonce_trial(settings, arm, sources.languages)
        learned = identity(trial, content_of(sources.corpus, trial, sources.languages))
        return [learned, *begins_with] if begins_with else learned
    if isinstance(settings, SimCSEEstimator) and settings.model is None:
        tokens = sources.shared.tokens.rpartition("/")[2]
        tested = [] if sources.languages.is_language else [sources.languages.test]
        return [arm.encoder.model_dump(mode="json"), arm.training.precision, tokens, *tested, *begins_with]
    return None


def _encoder_content(arm: ArmConfig) -> list[dict[str, str]]:
    """What a folder that an arm's encoder begins with holds: its path alone may come to mean another model."""
    named = getattr(arm.encoder, "model", None)
    place = located(named) if named else ""
    return [{"model": model_content(place)}] if Path(place).is_dir() and named else []


def _make_estimator(key: str, settings: Estimator, sources: Sources, kept: ModelCheckpoint, folder: Path) -> None:
    def asked() -> Iterator[list[str]]:
        return map(words, sources.texts("query"))

    match settings:
        case UniformEstimator():
            return
        case BM25Estimator(statistics="batch"):
            counts = count_words(asked(), {})
            save_sparse(folder / "counts", counts)
            np.save(folder / "average.npy", counts.sum() / max(1, counts.shape[0]))
        case BM25Estimator():
            texts = asked()
            _fit(texts, texts, settings).save(folder)
        case BM25CodeEstimator():
            _fit(asked(), map(words, sources.texts("code")), settings).save(folder)
        case SimCSEEstimator(model=str(model)):
            vectors.write_named_sentences(f"{key}.model", located(model), sources, folder)
        case SimCSEEstimator():
            vectors.write_sentences(key, settings, sources, kept, folder)
        case TrainedEstimator(model=str(model)):
            vectors.write_named_encoder(f"{key}.model", located(model), sources, folder)
        case TrainedEstimator():
            vectors.write_trained(key, settings, sources, kept, folder)
        case _:
            raise AssertionError(settings)


def _fit(
    queries: Iterable[list[str]], documents: Iterable[list[str]], settings: BM25Estimator | BM25CodeEstimator
) -> BM25:
    formula = Formula(
        settings.resolved_k1, settings.b, settings.epsilon, settings.variant, settings.resolved_delta or 0.0
    )
    try:
        return BM25.fit(queries, documents, formula)
    except CorpusError:  # texts are read while they are counted
        raise
    except ValueError as error:
        raise UserError(f"estimator: {error}") from error
