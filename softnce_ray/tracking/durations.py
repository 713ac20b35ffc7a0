"""How long trials took, and which of a study have ended: what an estimate of a study is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from softnce_ray.config.study import OF_THE_SETTINGS
from softnce_ray.results import SeedsAsked, TimedTrial, definition_of
from softnce_ray.store import Store
from softnce_ray.tracking.connection import connect, readable, search_runs
from softnce_ray.tracking.known import best_of_each, rank
from softnce_ray.tracking.params import current_names
from softnce_ray.tracking.parent import experiments_of, seeds_in

_THREADS = 8
_MOST = 150
"""Trials that are read of a corpus and a kind of encoder: of each the times of its epochs are asked for by itself."""

_MOST_ELSEWHERE = 50
"""The same of other corpora, which count only where the corpus itself has nothing."""

QUERIES_PER_SECOND = "_simcse_queries_per_second"
"""Metric of an arm's run, after the language: how fast the model of its `simcse` was trained."""

SPENT = "budget_seconds"
"""Metric of a trial of a study with a budget of hours: the seconds of its launches, when the trial ended."""

Ended = Counter[tuple[str, str, str, int]]
"""Trials that have ended, by arm, language, phase and seed."""


@readable
def load_timed(store: Store, kinds: Collection[str], corpus: str) -> list[TimedTrial]:
    """The latest finished trials of these kinds of encoders in all studies of the store, first those on this corpus.

    Left out are trials that were interrupted, whose runs were open while nothing ran, and those that took the result of
    another trial.

    Raises:
      TrackingError: no such store, or it cannot be read.
    """
    client = connect(store, must_exist=True)
    finished = "tags.role = 'trial' and attributes.status = 'FINISHED'"
    queries = {
        f"{finished} and params.`encoder.kind` = '{kind}' and tags.corpus_fingerprint {sign} '{corpus}'": most
        for kind in kinds
        for sign, most in (("=", _MOST), ("!=", _MOST_ELSEWHERE))
    }
    runs = _latest(client, queries)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda run: _timed(client, run), runs))
    return [trial for trial in found if trial is not None]


@readable
def load_query_times(store: Store, kinds: Collection[str]) -> list[TimedTrial]:
    """The latest trainings of sentence encoders of `simcse`, for these kinds of encoders in all studies of the store:
    as one epoch of a second each, of as many queries for pairs.

    Raises:
      TrackingError: no such store, or it cannot be read.
    """
    queries = {f"tags.role = 'arm' and params.`encoder.kind` = '{kind}'": _MOST for kind in kinds}
    runs = _latest(connect(store, must_exist=True), queries)
    return [
        TimedTrial(
            phase="simcse",
            settings=current_names(run.data.params),
            corpus="",
            seconds=1.0,
            epochs=1,
            epoch_seconds=1.0,
            pairs=pace,
            resources=run.data.tags.get("resources", ""),
        )
        for run in runs
        for name, pace in run.data.metrics.items()
        if name.endswith(QUERIES_PER_SECOND)
    ]


def _latest(client: MlflowClient, queries: Mapping[str, int]) -> list[Run]:
    """Return the latest runs of all studies that answer each query, at most as many as it is given with."""
    studies = [experiment.experiment_id for experiment in experiments_of(client)]
    return [
        run
        for query, most in (queries.items() if studies else ())
        for run in client.search_runs(studies, query, max_results=most, order_by=["attributes.start_time DESC"])
    ]


@readable
def load_asked(store: Store, study: str, languages: tuple[str, ...]) -> dict[str, SeedsAsked]:
    """Return the latest decision on the seeds of each language of a study that asks for precision; {} for none.

    Raises:
      TrackingError: no such store, or it cannot be read.
    """
    client = connect(store, must_exist=True)
    if (experiment := _experiment(client, study)) is None:
        return {}
    tags = _parent_tags(client, experiment)
    asked: dict[str, SeedsAsked] = seeds_in(tags, languages).get("asked", {}) if tags else {}
    return asked


@readable
def load_ended(store: Store, study: str, definitions: Mapping[str, str]) -> Ended:
    """The trials of a study that a launch does not run again, as far as they are of these definitions. Failed ones of a
    search count where their settings were the cause: those answer a search too.

    Raises:
      TrackingError: no such store, or it cannot be read.
    """
    client = connect(store, must_exist=True)
    if (experiment := _experiment(client, study)) is None:
        return Counter()
    ended: Ended = Counter()
    for run in best_of_each(search_runs(client, experiment.experiment_id, "tags.role = 'trial'")):
        tags = run.data.tags
        arm, language, phase = tags["arm"], tags["language"], tags["phase"]
        answered = phase == "search" and tags.get("failure_kind") in OF_THE_SETTINGS
        if (
            (run.info.status == "FINISHED" or (run.info.status == "FAILED" and answered))
            and "superseded" not in tags
            and tags.get("definition") == definition_of(definitions, arm, language)
        ):
            ended[arm, language, phase, int(tags["seed"])] += 1
    return ended


@readable
def load_spent(store: Store, study: str) -> tuple[float, str]:
    """Return the seconds that the launches of a study with a budget of hours took, and the budget that ended its
    searches: "" for none.

    Raises:
      TrackingError: no such store, or it cannot be read.
    """
    client = connect(store, must_exist=True)
    if (experiment := _experiment(client, study)) is None:
        return 0.0, ""
    order = [f"metrics.{SPENT} DESC"]
    runs = client.search_runs([experiment.experiment_id], "tags.role = 'trial'", max_results=1, order_by=order)
    return max((run.data.metrics.get(SPENT, 0.0) for run in runs), default=0.0), _budget(client, experiment)


def _experiment(client: MlflowClient, study: str) -> Experiment | None:
    """That of a study, unless it was deleted."""
    experiment: Experiment | None = client.get_experiment_by_name(study)
    return experiment if experiment is not None and experiment.lifecycle_stage == "active" else None


def _budget(client: MlflowClient, experiment: Experiment) -> str:
    return _parent_tags(client, experiment).get("budget", "")


def _parent_tags(client: MlflowClient, experiment: Experiment) -> Mapping[str, str]:
    """Return the tags of a study's own run; {} where it has none."""
    parents = search_runs(client, experiment.experiment_id, "tags.role = 'study'")
    tags: Mapping[str, str] = min(parents, key=rank).data.tags if parents else {}
    return tags


def _timed(client: MlflowClient, run: Run) -> TimedTrial | None:
    """A run's times; None where they are not those of one training from its start to its end."""
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    if tags.get("attempts", "1") != "1" or info.end_time is None:
        return None
    points = {point.step: point.timestamp for point in client.get_metric_history(info.run_id, "epoch")}
    ends = [points[epoch] for epoch in sorted(points)]
    if not ends or ends[0] < info.start_time or ends[-1] > info.end_time:
        return None
    train = metrics.get("train_seconds", 0.0)
    epochs = max(points)
    return TimedTrial(
        phase=tags["phase"],
        settings=current_names(run.data.params),
        corpus=tags.get("corpus_fingerprint", ""),
        seconds=(info.end_time - info.start_time) / 1000,
        epochs=epochs,
        epoch_seconds=(ends[-1] - ends[0]) / 1000 / (len(ends) - 1) if len(ends) > 1 else train,
        pairs=metrics.get("pairs_per_second", 0.0) * train,
        resources=tags.get("resources", ""),
    )
