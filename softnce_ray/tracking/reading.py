"""Reading: a study as the store remembers it, and the models that it keeps."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mlflow.entities import Run

from softnce_ray.config import TrainingSet
from softnce_ray.ranks_file import CUT_OFF, RANKS_FILE, only, place, read_ranks
from softnce_ray.results import MODEL_FOLDER, StudyResults, TrialKey, TrialResult, definition_of
from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, connect, readable, search_runs
from softnce_ray.tracking.files import DamagedError, undamaged
from softnce_ray.tracking.known import best_of_each
from softnce_ray.tracking.long_tags import from_pieces
from softnce_ray.tracking.metric_names import original, stored
from softnce_ray.tracking.moved import expect_here, files_of
from softnce_ray.tracking.params import current_names
from softnce_ray.tracking.parent import parent_of, seeds_in, studies_of


@readable
def load_results(store: Store, study: str, *, ranks: bool = True, baseline: str | None = None) -> StudyResults:
    """A study as the store remembers it: all trials of its present arms and languages.

    Trials of an arm's earlier settings, space or corpus are left out, and confirm trials of configurations that a
    later search replaced. A trial whose ranks are damaged has none, and its `failure` says so.

    Args:
      ranks: with what every query of the compared trials scored: a file of each has to be fetched.
      baseline: an arm that the study must have, which is seen before its trials are read.

    Raises:
      TrackingError: no such store, study or baseline.
      StoreError: the study's files lie in another store.
    """
    client = connect(store, must_exist=True)
    parent = parent_of(client, store, study)
    experiment = client.get_experiment(parent.info.experiment_id)
    expect_here(store, experiment.artifact_location or "")
    tags = parent.data.tags
    arms, languages = (tuple(json.loads(from_pieces(name, tags, ""))) for name in ("arms", "languages"))
    if baseline is not None and baseline not in arms:
        raise TrackingError(
            f"baseline must be an arm of study {study!r}, got {baseline!r}; its arms: {', '.join(arms)}"
        )
    meanings = json.loads(from_pieces("definitions", tags, "{}"))
    runs = best_of_each(search_runs(client, experiment.experiment_id, "tags.role = 'trial'"))
    trials = tuple(
        _trial(store, run, ranks)
        for run in sorted(runs, key=lambda run: run.info.start_time)
        if run.data.tags["arm"] in arms
        and run.data.tags["language"] in languages
        and "superseded" not in run.data.tags
        and definition_of(meanings, run.data.tags["arm"], run.data.tags["language"]) == run.data.tags.get("definition")
    )
    return StudyResults(
        study=study,
        question=tags.get("question", ""),
        baseline=tags["baseline"],
        arms=arms,
        languages=languages,
        **seeds_in(tags, languages),
        corpus_fingerprint=tags["corpus_fingerprint"],
        trials=trials,
        status=parent.info.status,
        family=tags.get("family", "study"),  # type: ignore[arg-type]  # as it was written
        left_out=tags.get("left_out", ""),
        is_joint=tags.get("search_mode") == "joint",
        training_sets={
            name: TrainingSet.model_validate(each)
            for name, each in json.loads(from_pieces("training_sets", tags, "{}")).items()
        },
    )


@readable
def load_test_ranks(store: Store, runs: Mapping[TrialKey, str]) -> dict[TrialKey, dict[str, np.ndarray]]:
    """Return the reciprocal ranks of the test queries of finished trials, given the identifiers of their runs.

    Those whose file is damaged are left out: their report says so.
    """
    client, found = connect(store, must_exist=True), {}
    for key, run_id in runs.items():
        with contextlib.suppress(DamagedError):
            found[key] = only("test", _ranks(store, client.get_run(run_id))["reciprocal_rank"])
    return found


@readable
def expect_study(store: Store, study: str) -> None:
    """Raise TrackingError where a store has no such study, or its experiment was deleted."""
    parent_of(connect(store, must_exist=True), store, study)


@readable
def recorded_models(store: Store, study: str) -> dict[str, str]:
    """Return what the folders of models that a study names held when it was first launched, by name.

    It is empty where there is no such study, or nothing was recorded.
    """
    try:
        tags = parent_of(connect(store, must_exist=True), store, study).data.tags
    except TrackingError:
        return {}
    return dict(json.loads(from_pieces("models", tags, "{}")))


@readable
def studies(store: Store) -> list[str]:
    """Names of the studies in the store, the latest first."""
    return studies_of(connect(store, must_exist=True))


@readable
def download_model(store: Store, run_id: str, to: Path) -> Path:
    """Fetch the model that a run keeps into the folder `to`; returns the model's folder.

    Raises:
      TrackingError: the run keeps no model.
    """
    files = files_of(store, connect(store, must_exist=True).get_run(run_id))
    if not files.list_artifacts(MODEL_FOLDER):
        raise TrackingError(
            f"run {run_id} keeps no model: only the best trial of each arm and language does, once the launch has ended"
        )
    return Path(files.download_artifacts(MODEL_FOLDER, str(to)))


def _ranks(store: Store, run: Run) -> dict[str, dict[str, np.ndarray]]:
    """What every query of a finished trial scored; where that cannot be, DamagedError says why and what to do.

    Their means must be those that the run was given beside the file: a file that was damaged or taken from another run
    may well be read.
    """
    with undamaged(store, run, RANKS_FILE) as file:
        ranks = read_ranks(file)
        for key, values in ranks["reciprocal_rank"].items():
            if not np.all((values >= 0) & (values <= 1)):
                raise ValueError(f"reciprocal ranks of {key} that are not from 0 to 1")
            split, _, language = key.partition("/")
            told = run.data.metrics.get(stored(place("test_mrr", language or None))) if split == "test" else None
            if told is not None and not math.isclose(told, float(values.mean()), rel_tol=1e-9):
                raise ValueError(f"ranks whose mean on {key} is {values.mean():g}, of a run whose MRR is {told:g}")
        return ranks


def _trial(store: Store, run: Run, with_ranks: bool) -> TrialResult:
    tags = run.data.tags
    ranks: dict[str, dict[str, np.ndarray]] = {}
    failure = tags.get("failure", "")
    if with_ranks and run.info.status == "FINISHED" and tags["phase"] == "confirm":
        try:
            ranks = _ranks(store, run)
        except DamagedError as error:
            failure = str(error)
    return TrialResult(
        run_id=run.info.run_id,
        arm=tags["arm"],
        language=tags["language"],
        seed=int(tags["seed"]),
        phase=tags["phase"],  # type: ignore[arg-type]
        status=run.info.status,
        identity=tags["identity"],
        settings=current_names(run.data.params),
        reciprocal_ranks=ranks.get("reciprocal_rank", {}),
        graded_ndcg=ranks.get("graded_ndcg", {}),
        cut_off={name: values for name, values in ranks.items() if name in CUT_OFF},
        failure=failure,
        stopped_early="stopped_early" in tags,
        metrics={original(name): value for name, value in run.data.metrics.items()},
    )
