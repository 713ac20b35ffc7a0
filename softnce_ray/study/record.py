"""What MLflow is told of a study: its record, what its arms mean now, and the versions that ran."""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
from pathlib import Path

from softnce_ray import __version__
from softnce_ray.config import Precision, Resources, StudyConfig, TrainingSet
from softnce_ray.corpus.store import Corpus
from softnce_ray.preparation import content_of
from softnce_ray.results import StudyRecord, StudyResults
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.definitions import definition
from softnce_ray.study.model_contents import ModelContents
from softnce_ray.study.saved import study_text

UNCHANGED = ModelContents()
"""Of studies whose models are as they were."""


def nothing_read(study: StudyConfig, corpus: Corpus) -> StudyResults:
    """The results of a study whose store cannot be read."""
    return StudyResults(
        study=study.study,
        question=study.question,
        baseline=study.baseline,
        arms=tuple(study.arms),
        languages=study.language_names,
        training_sets=training_sets(study),
        seeds=study.first_seeds,
        precision=study.seeds if isinstance(study.seeds, Precision) else None,
        corpus_fingerprint=corpus.fingerprint,
        trials=(),
        status="FAILED",
        family=study.family,
        is_joint=study.is_joint,
    )


def record_of(study: StudyConfig, corpus: Corpus, models: ModelContents = UNCHANGED) -> StudyRecord:
    """Return what the study's own run says of it."""
    return StudyRecord(
        study.study,
        study.question,
        study.baseline,
        tuple(study.arms),
        study.language_names,
        study.seeds,
        study.corpus,
        corpus.fingerprint,
        study_text(study),
        definitions(study, corpus, models),
        training_sets(study),
        models.recorded,
        study.family,
        study.is_joint,
    )


def cell_content(study: StudyConfig, corpus: Corpus, cell: Cell, models: ModelContents = UNCHANGED) -> str:
    """Return the identity of what the trials of a cell learn from."""
    arm = study.arms[cell.arm]
    return content_of(corpus, arm, study.training_set(cell.language)) + models.suffix(arm)


def definitions(study: StudyConfig, corpus: Corpus, models: ModelContents = UNCHANGED) -> dict[str, str]:
    """What each arm means now; see `StudyRecord`."""
    sets = training_sets(study)
    found = {}
    for cell in cells(study):
        content = cell_content(study, corpus, cell, models)
        is_own = cell.language in sets or content != corpus.fingerprint
        name = f"{cell.arm}/{cell.language}" if is_own else cell.arm
        found[name] = definition(study, cell.arm, content, cell.language)
    return found


def training_sets(study: StudyConfig) -> dict[str, TrainingSet]:
    """What is not just a language, by name."""
    sets = {name: study.training_set(name) for name in study.language_names}
    return {name: each for name, each in sets.items() if not each.is_language}


def hardware(resources: Resources) -> str:
    """Return what a trial takes, as a tag of its run: only trials that took the same tell how long others will."""
    asked = f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs, {resources.resolved_threads} threads"
    return f"{asked}, {resources.workers} workers" if resources.workers > 1 else asked


def versions() -> dict[str, str]:
    """What code ran: our version, our commit where we are run from a checkout, and the libraries that matter."""
    found = {f"version.{name}": importlib.metadata.version(name) for name in ("torch", "ray", "transformers")}
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(command, check=True, capture_output=True)  # a checkout around a venv is not ours
        head = subprocess.run([*command[:3], "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        found["version.commit"] = head.stdout.strip()
    return {"version.softnce_ray": __version__, **found}
