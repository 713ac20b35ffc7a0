"""What a study takes, estimated from its settings: memory of a trial, checkpoints, models, token ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from softnce_ray import json_text
from softnce_ray.config import (
    ArmConfig,
    BagEncoder,
    SimCSEEstimator,
    StudyConfig,
    TrainedEstimator,
    TransformerEncoder,
)
from softnce_ray.corpus.manifest import Manifest
from softnce_ray.errors import UserError
from softnce_ray.named import located
from softnce_ray.study.doctor.networks import trained_share

WORKER = 600_000_000
"""Bytes of a worker's process with its libraries, before any model."""

_FLOAT = 4
_STATE = 4
"""Arrays of a trained parameter's size in memory (weights, gradients, two moments of Adam) and in a checkpoint
(weights, two moments, the best epoch's weights). A frozen one has weights alone, and is in no checkpoint."""


_SPAN = _EDGE = 4
"""Bytes of a node and of an edge of a stored graph: two numbers of two bytes."""

PUBLISHED = {
    "microsoft/codebert-base": 124_645_632,
    "microsoft/graphcodebert-base": 124_645_632,
    "microsoft/unixcoder-base": 125_339_136,
}
"""Numbers in the networks of published encoders, by their configurations: for those that are not on this machine."""

_PUBLISHED_WIDTH = 768
_LONGEST_HEADER = 100_000_000  # of a safetensors file, as the library has it


@dataclass(frozen=True)
class Needs:
    """Estimates in bytes, of the largest arm where arms differ.

    Attributes:
      memory: of one trial.
      checkpoint: of one trial after an epoch.
      lasting: what stays on the store: token ids, vectors of estimators, models.
      unknown: what could not be estimated, and so is not in it.
    """

    memory: int
    checkpoint: int
    lasting: int
    unknown: tuple[str, ...] = ()


def needs(study: StudyConfig, manifest: Manifest) -> Needs:
    """What the study takes. `study` has its languages in the place of `all`."""
    counts = {arm: parameters(settings) for arm, settings in study.arms.items()}
    unknown = sorted(
        {
            str(study.arms[arm].encoder.model)  # type: ignore[union-attr]
            for arm, count in counts.items()
            if count is None
        }
    )
    known = {arm: count for arm, count in counts.items() if count is not None}
    trained = {
        arm: round(count * trained_share(study.arms[arm], folder_of(study.arms[arm]))) for arm, count in known.items()
    }
    memory = [
        _FLOAT * (max(count - trained[arm], 0) + _STATE * trained[arm])
        + _arrays(study, study.arms[arm], _width(study.arms[arm]), manifest)
        for arm, count in known.items()
    ]
    kept = len(study.language_names) * (len(study.possible_seeds) + 1)
    models = sum(_FLOAT * count for count in known.values()) * kept
    return Needs(
        WORKER + max(memory, default=0),
        _STATE * _FLOAT * max(trained.values(), default=0),
        models + _tokens(study, manifest) + _estimators(study, manifest),
        tuple(unknown),
    )


def parameters(arm: ArmConfig) -> int | None:
    """How many numbers the encoder of an arm has; None where it names a model that is not on this machine."""
    encoder, vocabulary = arm.encoder, arm.tokens.vocabulary
    if isinstance(encoder, BagEncoder):
        return vocabulary * (encoder.width + 1)
    if encoder.model is not None:
        stored = stored_parameters(encoder.model)
        return PUBLISHED.get(encoder.model) if stored is None else stored
    assert isinstance(encoder, TransformerEncoder)
    width, longest = encoder.width, max(arm.tokens.query_length, arm.tokens.code_length)
    norm, square = 2 * width, width * width + width
    embeddings = (vocabulary + longest + 2 + 1) * width + norm  # of tokens, places and one type of token
    layer = 4 * square + norm + (4 * width * width + 4 * width) + (4 * width * width + width) + norm
    return embeddings + encoder.layers * layer + (square if encoder.pooling == "pooler" else 0)


def stored_parameters(model: str) -> int | None:
    """Numbers in a model's files: of a folder, or of a name whose files were downloaded before."""
    folder = _model_folder(model)
    if folder is None:
        return None
    try:
        found = sum(map(_numbers, folder.glob("*.safetensors")))
        return found or sum(path.stat().st_size for path in folder.glob("pytorch_model*.bin")) // _FLOAT or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged file is told by the trial that loads it


def folder_of(arm: ArmConfig) -> str | None:
    """The folder of the model that an arm's encoder names, where it is on this machine."""
    if isinstance(arm.encoder, BagEncoder) or arm.encoder.model is None:
        return None
    folder = _model_folder(arm.encoder.model)
    return None if folder is None else str(folder)


def _model_folder(model: str) -> Path | None:
    try:
        folder = Path(located(model))
    except UserError:  # a package that is missing is told where models are looked for
        return None
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # not a name that the hub could have
        return None
    return Path(found).parent if isinstance(found, str) else None


def _numbers(path: Path) -> int:
    """Numbers in a safetensors file, by its header: the length of a JSON object, then the object."""
    with path.open("rb") as file:
        header = json_text.load(file.read(min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _width(arm: ArmConfig) -> int:
    encoder = arm.encoder
    if isinstance(encoder, BagEncoder) or encoder.model is None:
        return encoder.width
    try:
        folder = _model_folder(encoder.model)
        return int(json_text.load(((folder or Path()) / "config.json").read_bytes())["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return _PUBLISHED_WIDTH


def _arrays(study: StudyConfig, arm: ArmConfig, width: int, manifest: Manifest) -> int:
    """Bytes of what a trial holds beside its model: vectors of an evaluation, the scores of a batch and a few arrays of
    their size. Token ids are mapped, and cost nothing that the machine could not take back."""
    texts = max(
        (
            sum(_rows(manifest, language, ("valid", "test", "codebase")) for language in study.training_set(name).test)
            for name in study.language_names
        ),
        default=0,
    )
    codes = arm.training.batch_size * (1 + (arm.hard_negatives.count if arm.hard_negatives else 0))
    return _FLOAT * (2 * texts * width + 8 * arm.training.batch_size * codes)


def _tokens(study: StudyConfig, manifest: Manifest) -> int:
    """Bytes of token ids where every text is as long as is read, and every function has all nodes that are read beside
    it, and as many edges: more than there will be."""
    pairs = sum(_rows(manifest, language, manifest.languages[language].pairs) for language in manifest.languages)
    total = 0
    for tokens, inputs in {(arm.tokens, arm.encoder.inputs) for arm in study.arms.values()}:
        each = 4 if inputs.tokenizer is None and tokens.vocabulary > 2**16 else 2
        total += pairs * (tokens.query_length + tokens.code_length) * each
        total += pairs * (inputs.flow_length or 0) * (_SPAN + _EDGE)
    return total


def _estimators(study: StudyConfig, manifest: Manifest) -> int:
    """Bytes of the vectors that learned estimators keep of the training pairs; those of words are small."""
    total = 0
    for name in study.language_names:
        pairs = sum(_rows(manifest, language, ("train",)) for language in study.training_set(name).train)
        made = set()
        for arm in study.arms.values():
            for part in arm.all_estimators.values():
                if isinstance(part, SimCSEEstimator | TrainedEstimator):
                    made.add((part.model_copy(update={"temperature": 1.0}).model_dump_json(), _width(arm)))
        sides = [2 if '"name":"trained"' in settings else 1 for settings, _ in made]
        total += sum(_FLOAT * pairs * width * side for side, (_, width) in zip(sides, made, strict=True))
    return total


def _rows(manifest: Manifest, language: str, splits: Iterable[str]) -> int:
    counts = manifest.languages.get(language)
    return 0 if counts is None else sum(counts.pairs.get(split, 0) for split in splits)
