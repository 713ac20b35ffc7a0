"""One trial inside a Ray worker: from plain settings to `training.train`, from `report` to `tune.report`."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from safetensors import SafetensorError

from softnce_ray.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from softnce_ray.config import TrialConfig
from softnce_ray.corpus.store import Corpus
from softnce_ray.errors import UserError
from softnce_ray.model import save_model
from softnce_ray.preparation import Prepared, open_data, partners
from softnce_ray.ranks_file import RANKS_FILE, Measure, place, write_ranks
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.training import TrainResult, train


@dataclass(frozen=True)
class TrialSpec:
    """All that a worker needs; plain data, for it travels in Ray's configuration of a trial."""

    config: dict[str, Any]
    arm: str
    phase: str
    identity: str
    corpus: str
    tokens: str
    estimators: dict[str, str]
    groups: str | None
    checkpoints: str
    threads: int
    device: str


def run_trial(spec: dict[str, Any]) -> None:
    """Train, reporting each epoch with a checkpoint, and in the end the result with model and ranks.

    The last report has `ended: True`. An error that another attempt would repeat is reported as `failure`;
    any other is raised, for Ray to try again from the last checkpoint.
    """
    trial = TrialSpec(**spec)
    torch.set_num_threads(trial.threads)
    try:
        _run(trial)
    except UserError as error:  # another attempt would only repeat it
        tune.report({"ended": True, "failure": " ".join(str(error).split()), "traceback": traceback.format_exc()})


def _run(trial: TrialSpec) -> None:
    config = TrialConfig.model_validate(trial.config)
    prepared = Prepared(
        Path(trial.tokens),
        {name: Path(folder) for name, folder in trial.estimators.items()},
        None if trial.groups is None else Path(trial.groups),
    )
    corpus, data = Corpus.open(trial.corpus), open_data(prepared, config, config.training_set)
    data = replace(
        data,
        evaluated={
            language: replace(texts, partners=partners(corpus, language)) for language, texts in data.evaluated.items()
        },
    )

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(checkpoint, Path(folder))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    result = train(
        config,
        data,
        report,
        identity=trial.identity,
        device=trial.device,
        resume=latest_checkpoint(Path(trial.checkpoints), trial.identity),
        read_test=trial.phase == "confirm",
    )
    with tempfile.TemporaryDirectory() as folder:
        _save_result(result, trial, config.training_set.test, Path(folder))
        tune.report({**result.metrics, "ended": True}, checkpoint=tune.Checkpoint.from_directory(folder))


def _save_result(result: TrainResult, trial: TrialSpec, languages: tuple[str, ...], folder: Path) -> None:
    corpus = Corpus.open(trial.corpus)
    several = len(languages) > 1
    places = {
        place(split, language if several else None): (language, split)
        for split in ("valid", "test")
        for language in languages
    }
    ids = {key: corpus.table(*places[key], columns=["id"]).column("id").to_pylist() for key in result.reciprocal_ranks}
    measures: dict[Measure, dict[str, np.ndarray]] = {
        "reciprocal_rank": result.reciprocal_ranks,
        "graded_ndcg": result.graded_ndcg,
    }
    write_ranks(folder / RANKS_FILE, ids, measures)
    if trial.phase == "confirm":
        (folder / MODEL_FOLDER).mkdir()
        save_model(result.model, folder / MODEL_FOLDER)


def trial_folder(arm: str, language: str, phase: str, identity: str) -> str:
    """Name of a trial's folder: for people first, found again by its end."""
    return f"{arm}-{language}-{phase}-{identity}"


def latest_checkpoint(root: Path, identity: str) -> Checkpoint | None:
    """The newest whole checkpoint of a trial among all launches of its study, or None."""
    for path in _newest_first(root, identity, CHECKPOINT_FILE):
        try:
            return load_checkpoint(path.parent)
        except (OSError, SafetensorError):
            continue  # cut off while it was written: the one before serves
    return None


def latest_model(root: Path, identity: str) -> Path | None:
    """The folder of a finished trial's model among all launches of its study, or None."""
    return next((path.parent for path in _newest_first(root, identity, f"{MODEL_FOLDER}/settings.json")), None)


def _newest_first(root: Path, identity: str, name: str) -> Iterator[Path]:
    found = root.glob(f"*/*-{identity}/checkpoint_*/{name}")
    return iter(sorted(found, key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True))


def device_for(device: str, gpus: float) -> str:
    """The torch device of a trial."""
    return ("cuda" if gpus > 0 else "cpu") if device == "auto" else device
