"""A calibration: how fast the encoders of a study are here, by some steps of training and evaluations of a few texts.

The steps are those of `training.train`, on a small corpus of the study's own pairs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from softnce_ray.config import Resources, StudyArm, StudyConfig, TrainingSet, TrialConfig, arm_settings
from softnce_ray.corpus import Pair, build_corpus
from softnce_ray.corpus.manifest import Manifest
from softnce_ray.corpus.store import Corpus
from softnce_ray.errors import UserError
from softnce_ray.preparation import open_data, prepare, with_answers
from softnce_ray.results import TimedTrial
from softnce_ray.study.estimate import SIMCSE, Planned
from softnce_ray.study.surroundings import device_for
from softnce_ray.temporary import temporary_folder
from softnce_ray.training import train

_STEPS, _FEW = 12, 2
"""Steps of each of two epochs, the first of which warms up; few of them where a step takes longer than `_SLOW`."""

_SLOW = 0.5
_TEXTS = 64
"""Pairs of valid and of test, and half as many other codes again: enough for batches of an evaluation."""


@dataclass(frozen=True)
class Speed:
    """Seconds of training on a pair, and of evaluating a text, in one process."""

    pair: float
    text: float


def calibrated(
    study: StudyConfig,
    corpus: Corpus,
    planned: Iterable[Planned],
    say: Callable[[str], object] = lambda text: None,
) -> list[TimedTrial]:
    """Measure each different setting of encoder, tokens and batches in this process, and return what a trial of each
    cell would take by that, without its loss and its estimator.

    It takes seconds for small encoders and some minutes for large ones without a GPU. What cannot be measured is left
    out, and `say` is told why.
    """
    speeds: dict[str, Speed | None] = {}
    found = []
    for each in planned:
        arm, languages = study.arms[each.arm], study.training_set(each.language)

        def speed_of(plain: dict[str, Any], *, of_queries: bool, cell: Planned = each) -> Speed | None:
            key = json.dumps([plain, of_queries], sort_keys=True)
            if key not in speeds:
                say(f"calibrating the encoder of {cell}")
                language = study.training_set(cell.language).train[0]
                speeds[key] = _speed(plain, study.resources, corpus, language, cell, say, of_queries=of_queries)
            return speeds[key]

        speed = speed_of(_plain(arm), of_queries=False)
        if each.model == SIMCSE and speed is not None:
            batch_size = int(each.settings["training.batch_size"])
            views = speed_of(_plain(arm, batch_size=batch_size, batch_tokens=None), of_queries=True)
            speed = None if views is None else Speed(views.pair, speed.text)
        if speed is not None:
            workers = 1 if each.model else study.resources.workers  # one process trains what is prepared
            found.append(_trial(each, arm, speed, _texts(corpus.manifest, languages), workers))
    return found


def measure(
    config: TrialConfig, corpus: Corpus, resources: Resources, steps: int, *, of_queries: bool = False
) -> Speed:
    """Measure an epoch of so many steps, after another, and the evaluation after it; on request of pairs of a query
    with itself, as `simcse` has them.

    Raises:
      UserError: the corpus has too few pairs for a batch, or the encoder cannot be used.
    """
    device = device_for(resources.device, resources.gpus)
    language = config.language
    epochs: list[dict[str, float]] = []
    with temporary_folder() as folder, _threads(resources.resolved_threads):
        splits = {
            "train": _pairs(corpus, language, "train", steps * config.training.batch_size, of_queries=of_queries),
            "valid": _pairs(corpus, language, "valid", _TEXTS),
            "test": _pairs(corpus, language, "test", _TEXTS),
            "codebase": _pairs(corpus, language, "codebase", _TEXTS),
        }
        build_corpus(splits, folder / "corpus", near_duplicate=None)
        small = Corpus.open(folder / "corpus")
        prepared = prepare(config, folder / "corpus", language, folder / "prepared", device, resources=resources)
        data = with_answers(open_data(prepared, config, language), small)
        train(
            config,
            data,
            lambda metrics, checkpoint: epochs.append(metrics),
            device=device,
            chunk_size=resources.chunk_size,
            gradient_checkpointing=resources.gradient_checkpointing,
        )
    first, second = epochs
    seconds = second["train_seconds"]
    evaluation = (second["at"] - first["at"]) / 1000 - seconds
    texts = _texts(small.manifest, TrainingSet.of(language))
    return Speed(1 / second["pairs_per_second"], max(evaluation, 0.0) / texts)


def _speed(
    plain: dict[str, Any],
    resources: Resources,
    corpus: Corpus,
    language: str,
    cell: object,
    say: Callable[[str], object],
    *,
    of_queries: bool,
) -> Speed | None:
    config = TrialConfig.model_validate({**plain, "language": language, "seed": 0})
    try:
        speed = measure(config, corpus, resources, _FEW, of_queries=of_queries)
        if speed.pair * config.training.batch_size < _SLOW:
            speed = measure(config, corpus, resources, _STEPS, of_queries=of_queries)
    except (UserError, ValueError) as error:
        say(f"{cell} cannot be calibrated: {' '.join(str(error).split())}")
        return None
    return speed


def _plain(arm: StudyArm, **training_settings: object) -> dict[str, Any]:
    """An arm that trains as fast but for its loss: InfoNCE, without estimator and hard negatives, for two epochs."""
    settings = arm_settings(arm)
    training = {**settings["training"], "epochs": 2, **training_settings}
    kept = {name: settings[name] for name in ("encoder", "tokens", "similarity", "symmetric")}
    return {**kept, "training": training}


def _trial(planned: Planned, arm: StudyArm, speed: Speed, texts: int, workers: int) -> TimedTrial:
    """A trial of one epoch: its training, its validation, and at the end valid and test once more. A hard negative is
    half as much work as a pair, which is two texts."""
    hard = arm.hard_negatives.count if arm.hard_negatives and not planned.model else 0
    evaluation = speed.text * texts / workers
    epoch = speed.pair * planned.pairs * (1 + hard / 2) / workers + evaluation
    return TimedTrial(
        phase=f"measured {SIMCSE}" if planned.model == SIMCSE else "measured",
        settings=planned.settings,
        corpus=planned.corpus,
        seconds=epoch + 2 * evaluation,
        epochs=1,
        epoch_seconds=epoch,
        pairs=planned.pairs,
        resources=planned.resources,
    )


def _texts(manifest: Manifest, languages: TrainingSet) -> int:
    """Number of texts that a validation encodes: its queries, and every code of the codebase."""
    counts = [manifest.languages[language].pairs for language in languages.test]
    return sum(2 * pairs.get("valid", 0) + pairs.get("test", 0) + pairs.get("codebase", 0) for pairs in counts)


def _pairs(corpus: Corpus, language: str, split: str, most: int, *, of_queries: bool = False) -> Iterator[Pair]:
    if not corpus.manifest.languages[language].pairs.get(split, 0):
        return
    names = ("query", "code", "language", "package", "path", "line", "name")
    for row in corpus.table(language, split).slice(0, most).to_pylist():
        yield Pair(**{name: row["query" if of_queries and name == "code" else name] for name in names})


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
