"""One trial inside a Ray worker: from plain settings to `training.train`, from `report` to `tune.report`."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from softnce_ray.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from softnce_ray.config import TrialConfig
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.determinism import deterministic_algorithms
from softnce_ray.distributions import DISTRIBUTIONS_FILE, write_distributions
from softnce_ray.model import save_model
from softnce_ray.preparation import Prepared, open_data, partners, with_answers
from softnce_ray.ranks_file import RANKS_FILE, place, write_ranks
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.storage import Location, on_disk
from softnce_ray.study.failures import Failure, failure_of
from softnce_ray.study.finished import write_finished
from softnce_ray.study.gang import WorkerError, gang
from softnce_ray.study.patience import Patience, Trying
from softnce_ray.study.surroundings import working_in
from softnce_ray.temporary import temporary_folder
from softnce_ray.training import Report, TrainResult, train
from softnce_ray.training_data import TrainingData
from softnce_ray.workers import Workers


@dataclass(frozen=True)
class TrialSpec:
    """All that a worker needs for one attempt of a trial; plain data, for it travels in Ray's configuration of a trial.
    `corpus` and `resume`, the checkpoint to go on from, are paths or URIs; `directory` is where relative paths of the
    study start, to models for example, on machines that have it."""

    config: dict[str, Any]
    arm: str
    phase: str
    identity: str
    attempt: int
    resume: str | None
    corpus: str
    fingerprint: str
    prepared: dict[str, Any]
    threads: int
    device: str
    workers: int = 1
    chunk_size: int | None = None
    directory: str = ""
    gradient_checkpointing: bool = False
    deterministic: bool = False
    trust_corpus: bool = False


def run_trial(config: dict[str, str]) -> None:
    """Train what Tune was given: in `config["spec"]` a `TrialSpec` as JSON.

    Each epoch is reported with a checkpoint, and in the end the result with model and ranks.
    Reports are `{"epochs": [metrics, ...]}`, of an attempt that goes on first one of all that its
    checkpoint holds, for nobody may have heard of them. The last has either `metrics` or a `failure`: whether
    another attempt is made decides the driver. Between them may be a `note`, for people, with
    what is too long for them `in_full`.

    An object store that is away for a while is waited for.
    """
    spec = json.loads(config["spec"])
    trial = TrialSpec(**spec)
    torch.set_num_threads(trial.threads)
    try:
        with (
            working_in(trial.directory),
            gang(trial.workers, trial.device, _help, spec, _fail) as workers,
            deterministic_algorithms(trial.deterministic),
        ):
            _run(trial, workers, Patience(_note))
    except WorkerError as error:
        _fail(error.failure)
    except Exception as error:
        _fail(failure_of(error, traceback.format_exc()))
    finally:  # the process waits for another trial, perhaps while others use its GPU
        with contextlib.suppress(RuntimeError):  # of a GPU that is in trouble, as was told
            torch.cuda.empty_cache()


def _fail(failure: Failure) -> None:
    tune.report({"failure": asdict(failure)})


def _note(text: str, in_full: str) -> None:
    tune.report({"note": text, "in_full": in_full})


def _run(trial: TrialSpec, workers: Workers, trying: Trying) -> None:
    def tell(news: dict[str, Any], folder: Path) -> None:
        # Tune puts a checkpoint into the storage before it tells of it: where that fails, nobody has heard of it.
        trying(lambda: tune.report(news, checkpoint=tune.Checkpoint.from_directory(folder)))

    epochs: list[dict[str, float]] = []

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        epochs.append(metrics)
        with temporary_folder() as folder:
            save_checkpoint(checkpoint, folder)
            tell({"epochs": [metrics]}, folder)

    config, corpus, data, resume = trying(lambda: _opened(trial))
    if resume is not None:
        epochs.extend(resume.history)
        tune.report({"epochs": resume.history})
    result = _trained(trial, config, data, resume, workers, report)
    with temporary_folder() as folder:
        _save_result(result, trial, corpus, config.training_set.test, folder)
        write_finished(folder, trial.identity, result.metrics, epochs)
        tell({"metrics": result.metrics}, folder)


def _help(spec: dict[str, Any], workers: Workers) -> None:
    """What the other workers of a trial do: all that the first does, but for telling of it."""
    trial = TrialSpec(**spec)
    torch.set_num_threads(trial.threads)
    with working_in(trial.directory), deterministic_algorithms(trial.deterministic):
        config, _, data, resume = Patience()(lambda: _opened(trial))
        _trained(trial, config, data, resume, workers, lambda metrics, checkpoint: None)


def _trained(
    trial: TrialSpec,
    config: TrialConfig,
    data: TrainingData,
    resume: Checkpoint | None,
    workers: Workers,
    report: Report,
) -> TrainResult:
    """What every worker of a trial must call alike."""
    return train(
        config,
        data,
        report,
        identity=trial.identity,
        device=trial.device,
        resume=resume,
        read_test=trial.phase == "confirm",
        workers=workers,
        chunk_size=trial.chunk_size,
        gradient_checkpointing=trial.gradient_checkpointing,
    )


def _opened(trial: TrialSpec) -> tuple[TrialConfig, Corpus, TrainingData, Checkpoint | None]:
    """Settings, corpus and data of a trial, and the checkpoint to go on from."""
    config = TrialConfig.model_validate(trial.config)
    corpus = _corpus(trial)
    data = with_answers(open_data(Prepared(**trial.prepared), config, config.training_set), corpus)
    data = replace(
        data,
        evaluated={
            language: replace(texts, partners=partners(corpus, language)) for language, texts in data.evaluated.items()
        },
    )
    if trial.resume is None:
        return config, corpus, data, None
    with on_disk(Location(trial.resume), (CHECKPOINT_FILE,)) as folder:
        return config, corpus, data, load_checkpoint(folder)


def _corpus(trial: TrialSpec) -> Corpus:
    corpus = Corpus.open(trial.corpus, verify=Verify.unless(trial.trust_corpus, Verify.ONCE))
    if corpus.fingerprint != trial.fingerprint:
        raise CorpusError(
            f"expected corpus {trial.fingerprint[:12]} at {trial.corpus}, got {corpus.fingerprint[:12]}: it was "
            "changed while the study ran; put it back, or launch the study again"
        )
    return corpus


def _save_result(
    result: TrainResult, trial: TrialSpec, corpus: Corpus, languages: tuple[str, ...], folder: Path
) -> None:
    several = len(languages) > 1
    places = {
        place(split, language if several else None): (language, split)
        for split in ("valid", "test")
        for language in languages
    }
    ids = {key: corpus.table(*places[key], columns=["id"]).column("id").to_pylist() for key in result.reciprocal_ranks}
    corpus.check_unchanged()  # also what was read of it when the trial began
    measures: dict[str, Mapping[str, np.ndarray]] = {
        "reciprocal_rank": result.reciprocal_ranks,
        "graded_ndcg": result.graded_ndcg,
        **result.cut_off,
    }
    write_ranks(folder / RANKS_FILE, ids, measures)
    if trial.phase == "confirm":
        write_distributions(folder / DISTRIBUTIONS_FILE, result.distributions)
        (folder / MODEL_FOLDER).mkdir()
        save_model(result.model, folder / MODEL_FOLDER)
