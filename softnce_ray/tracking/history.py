"""What the store knows of a study beside its results: metrics epoch by epoch, which query is which, its file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from softnce_ray.distributions import DISTRIBUTIONS_FILE, Distributions, DistributionsError, read_distributions
from softnce_ray.ranks_file import RANKS_FILE, ranks_table, splits_of
from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, connect, first_line, readable, search_runs, without_password
from softnce_ray.tracking.files import fetched, undamaged
from softnce_ray.tracking.long_tags import from_pieces
from softnce_ray.tracking.metric_names import stored
from softnce_ray.tracking.parent import parent_of

_THREADS = 8
"""One query a run and metric: several at a time, for most of each is waiting."""

History = tuple[tuple[int, float], ...]
"""(epoch, value) of a metric, epochs ascending, each once."""


@dataclass(frozen=True)
class Background:
    """What a study's parent run says beside its results.

    Attributes:
      run_id: of the parent run.
      corpus: its folder, as the study's file names it.
      text: the study as YAML; "" where the store has lost it.
      definitions: what each arm means now, as in `StudyRecord`.
    """

    run_id: str
    corpus: str
    text: str
    definitions: Mapping[str, str]


@readable
def load_background(store: Store, study: str) -> Background:
    """The study's parent run.

    Raises:
      TrackingError: no such store or study.
    """
    client = connect(store, must_exist=True)
    parent = parent_of(client, store, study)
    try:
        with fetched(store, parent, "study.yaml") as file:
            text = file.read_text(encoding="utf-8")
    except (OSError, MlflowException, UnicodeDecodeError):
        text = ""
    return Background(
        parent.info.run_id,
        parent.data.tags.get("corpus", ""),
        text,
        json.loads(from_pieces("definitions", parent.data.tags, "{}")),
    )


@readable
def load_histories(store: Store, wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, History]]:
    """Run id → metric → its values by epoch, of the metrics that are `wanted` of each run; one without values is left
    out.

    The last epoch may be recorded twice, at its end and as that of the best epoch's model: the first counts.

    Raises:
      TrackingError: no such store, or it cannot be read.
    """
    client = connect(store, must_exist=True)
    pairs = [(run_id, name) for run_id, names in wanted.items() for name in names]
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda pair: _history(client, *pair), pairs))
    except MlflowException as error:
        raise TrackingError(f"metrics of {without_password(store.tracking_uri)}: {first_line(error)}") from error
    histories: dict[str, dict[str, History]] = {}
    for (run_id, name), history in zip(pairs, found, strict=True):
        if history:
            histories.setdefault(run_id, {})[name] = history
    return histories


@readable
def load_distributions(store: Store, study: str, run_ids: Collection[str]) -> tuple[dict[str, Distributions], str]:
    """Run id → its distributions, of those of these runs that have them; and why those of others cannot be read, "" if
    all can.

    Raises:
      TrackingError: no such store or study, or it cannot be read.
    """
    client = connect(store, must_exist=True)
    parent = parent_of(client, store, study)
    wanted = set(run_ids)
    try:
        having = search_runs(client, parent.info.experiment_id, "tags.distributions = 'yes'")
    except MlflowException as error:
        raise TrackingError(f"runs of {without_password(store.tracking_uri)}: {first_line(error)}") from error
    with ThreadPoolExecutor(_THREADS) as pool:
        runs = [run for run in having if run.info.run_id in wanted]
        read = list(pool.map(lambda run: _distributions(store, run), runs))
    found = {run.info.run_id: each for run, each in zip(runs, read, strict=True) if isinstance(each, Distributions)}
    problems = [f"run {run.info.run_id}: {each}" for run, each in zip(runs, read, strict=True) if isinstance(each, str)]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return found, problems[0] + more if problems else ""


def _distributions(store: Store, run: Run) -> Distributions | str:
    """Those of a run, or why they cannot be read."""
    try:
        with fetched(store, run, DISTRIBUTIONS_FILE) as file:
            return read_distributions(file)
    except (OSError, MlflowException, DistributionsError) as error:
        return first_line(error)


@readable
def load_query_ids(store: Store, run_id: str) -> dict[str, tuple[str, ...]]:
    """Split (of several languages as `place` names them) → ids of its queries' pairs, in the order of the stored ranks.

    Raises:
      TrackingError: the run has no readable file of ranks.
    """
    client = connect(store, must_exist=True)
    with undamaged(store, client.get_run(run_id), RANKS_FILE) as file:
        table = ranks_table(file)
        pairs = list(zip(splits_of(table), table.column("id").to_pylist(), strict=True))
    ids: dict[str, list[str]] = {}
    for split, identity in pairs:
        ids.setdefault(split, []).append(identity)
    return {split: tuple(names) for split, names in ids.items()}


def _history(client: MlflowClient, run_id: str, name: str) -> History:
    by_epoch: dict[int, float] = {}
    for each in sorted(client.get_metric_history(run_id, stored(name)), key=lambda each: each.timestamp):
        by_epoch.setdefault(each.step, each.value)
    return tuple(sorted(by_epoch.items()))
