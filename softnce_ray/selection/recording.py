"""The choice for a study in a store: its validation results read, its models measured, the choice written down."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.selection.choosing import as_recorded, choose
from softnce_ray.selection.values import Choice, Cost, Metric, Recorded, Rule, Scales, SelectionError, as_plain
from softnce_ray.store import Store
from softnce_ray.temporary import temporary_folder

if TYPE_CHECKING:
    from softnce_ray.model import Model

_QUERIES = (
    "parse a date string",
    "remove a directory and all its files",
    "split a list into chunks of equal size",
    "return the number of seconds since the last request of this client",
    "read json",
    "Check whether a user has the permission to open a file, following symbolic links.",
)
_ROUNDS = 10
_DECIDE_SPEED = ("encoder.", "tokens.")


def best(
    study: str,
    *,
    store: Store | str | Path | None = None,
    language: str | None = None,
    metric: Metric = "mrr",
    rule: Rule = "best",
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Choice]:
    """`choose` from a store, for one language or training set or for each that the study has, and record the choices in
    it: tag `selection.<language>` of the parent run and `selected` of the chosen run. `export` takes what is recorded.

    Where each language is meant, one in which nothing can be chosen yet is passed over, and `say` is told so.

    Raises:
      TrackingError: no such store or study, or it cannot be written.
      SelectionError: as of `choose`; where each language is meant, when nothing can be chosen in any.
    """
    from softnce_ray.tracking.selecting import kept_bytes, load_validation, record_choice

    place = Store.at(store)
    results = load_validation(place, study)
    scales = Scales(lambda trial: kept_bytes(place, trial.run_id), _stopwatch(place))
    choices, nothing = [], []
    for each in [language] if language is not None else results.languages:
        try:
            choices.append(
                choose(
                    results,
                    language=each,
                    metric=metric,
                    rule=rule,
                    max_latency_ms=max_latency_ms,
                    max_size_mb=max_size_mb,
                    scales=scales,
                )
            )
        except SelectionError as error:
            nothing.append(error)
    if not choices:
        raise nothing[0] if len(nothing) == 1 else SelectionError("; ".join(map(str, nothing)))
    for problem in nothing:
        say(str(problem))
    for choice in choices:
        record_choice(place, study, choice.language, choice.trial.run_id, json.dumps(as_plain(choice)))
    return choices


def recorded(store: Store, results: StudyResults, language: str) -> Recorded | None:
    """The choice that `best` recorded for a language of a study, if there is one.

    Raises:
      TrackingError: the store does not answer.
    """
    from softnce_ray.tracking.choices import read_choice

    return as_recorded(results, language, read_choice(store, results.study, language))


def _stopwatch(store: Store) -> Callable[[TrialResult], Cost]:
    """A function that gives the cost of the model that a trial keeps. Arms whose encoders and tokens have the same
    settings do the same work for a query: one of them is measured for all, or chance would order them."""
    known: dict[tuple[tuple[str, str], ...], Cost] = {}

    def cost(trial: TrialResult) -> Cost:
        work = tuple(sorted(item for item in trial.settings.items() if item[0].startswith(_DECIDE_SPEED)))
        if not work or work not in known:
            known[work] = _measured(store, trial)
        return known[work]

    return cost


def _measured(store: Store, trial: TrialResult) -> Cost:
    from softnce_ray.model import load_kept_model
    from softnce_ray.tracking import download_model

    with temporary_folder() as work:
        folder = download_model(store, trial.run_id, work)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        model = load_kept_model(folder, trial.run_id)
    parameters = sum(each.numel() for each in model.encoder.parameters())
    return Cost(size, parameters, query_milliseconds(model))


def query_milliseconds(model: Model) -> float:
    """Median milliseconds to encode one query, on this machine's processor with one thread: another machine's number is
    another."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for query in _QUERIES:  # what is made at the first call is not counted
            model.encode_queries([query])
        seconds = []
        for query in _QUERIES * _ROUNDS:
            started = time.perf_counter()
            model.encode_queries([query])
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(seconds)
