"""What choosing a model reads and writes: validation results alone, the sizes of kept models, tags of the choice."""

from __future__ import annotations

import dataclasses

import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from softnce_ray.ranks_file import CUT_OFF, RANKS_FILE, only, read_ranks
from softnce_ray.results import MODEL_FOLDER, StudyResults, TrialResult
from softnce_ray.store import Store
from softnce_ray.tracking.choices import choice_tag
from softnce_ray.tracking.connection import TrackingError, connect, first_line, readable, search_runs
from softnce_ray.tracking.files import undamaged
from softnce_ray.tracking.moved import files_of
from softnce_ray.tracking.parent import parent_of
from softnce_ray.tracking.reading import load_results

_SELECTED = "selected"


@readable
def load_validation(store: Store, study: str) -> StudyResults:
    """A study as `load_results` gives it, without anything of the test split: its ranks and its metrics are
    dropped.

    Raises:
      TrackingError: no such store or study, or the ranks of a finished trial cannot be read.
    """
    client, results = connect(store, must_exist=True), load_results(store, study, ranks=False)
    return dataclasses.replace(results, trials=tuple(_of_validation(client, store, each) for each in results.trials))


def _of_validation(client: MlflowClient, store: Store, trial: TrialResult) -> TrialResult:
    metrics = {name: value for name, value in trial.metrics.items() if not name.startswith("test_")}
    if trial.phase != "confirm" or trial.status != "FINISHED":
        return dataclasses.replace(trial, metrics=metrics)
    with undamaged(store, client.get_run(trial.run_id), RANKS_FILE) as file:
        found = {name: values for name, each in read_ranks(file).items() if (values := only("valid", each))}
        if any(not np.all((ranks >= 0) & (ranks <= 1)) for ranks in found["reciprocal_rank"].values()):
            raise ValueError("reciprocal ranks that are not from 0 to 1")
    return dataclasses.replace(
        trial,
        metrics=metrics,
        reciprocal_ranks=found.get("reciprocal_rank", {}),
        graded_ndcg=found.get("graded_ndcg", {}),
        cut_off={name: values for name, values in found.items() if name in CUT_OFF},
    )


@readable
def kept_bytes(store: Store, run_id: str) -> int | None:
    """Bytes of the files of the model that a run keeps; None where it keeps none.

    Raises:
      TrackingError: the store cannot be reached.
    """
    kept = files_of(store, connect(store, must_exist=True).get_run(run_id))
    waiting, total, files = [MODEL_FOLDER], 0, 0
    while waiting:
        for entry in kept.list_artifacts(waiting.pop()):
            if entry.is_dir:
                waiting.append(entry.path)
            else:
                files += 1
                total += entry.file_size or 0
    return total if files else None


def record_choice(store: Store, study: str, language: str, run_id: str, text: str) -> None:
    """Write the choice of a language into the tags of the study's parent run (`selection.<language>`) and of the chosen
    run (`selected`); an earlier choice of the language gives way.

    Raises:
      TrackingError: no such study, or the store cannot be written.
    """
    client = connect(store, must_exist=True)
    parent = parent_of(client, store, study)
    try:
        for run in search_runs(client, parent.info.experiment_id, "tags.role = 'trial'"):
            tags = run.data.tags
            if run.info.run_id != run_id and tags.get("language") == language and _SELECTED in tags:
                client.delete_tag(run.info.run_id, _SELECTED)
        client.set_tag(run_id, _SELECTED, text)
        client.set_tag(parent.info.run_id, choice_tag(language), text)
    except MlflowException as error:
        raise TrackingError(f"the choice cannot be recorded in study {study}: {first_line(error)}") from error
