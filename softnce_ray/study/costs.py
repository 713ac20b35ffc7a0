"""What a study will cost: its missing trials, what the store has timed that is like them, and the answer in lines."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import psutil
import torch

from softnce_ray.config import Resources, StudyConfig, TrialConfig, arm_settings, flatten, resolved, trial_languages
from softnce_ray.corpus.manifest import Manifest
from softnce_ray.corpus.store import Corpus
from softnce_ray.results import TimedTrial
from softnce_ray.store import Store
from softnce_ray.study.budget import Limit, budget_left, is_larger, searched_within
from softnce_ray.study.calibrating import calibrated
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.cluster import trials_on
from softnce_ray.study.doctor.finding import size
from softnce_ray.study.doctor.needs import needs
from softnce_ray.study.estimate import (
    MEASURED,
    SEARCHED,
    CellTime,
    Estimate,
    Planned,
    cell_time,
    estimate,
    how_long,
    likeness,
)
from softnce_ray.study.model_contents import model_contents
from softnce_ray.study.pace import Pace
from softnce_ray.study.record import definitions, hardware
from softnce_ray.study.saved import study_text
from softnce_ray.tracking import TrackingError
from softnce_ray.tracking.durations import Ended, load_ended, load_spent, load_timed
from softnce_ray.tracking.params import arm_params, params_of

_MOST_NAMED = 6


def costs(
    study: StudyConfig,
    corpus: Corpus,
    store: Store,
    nodes: Sequence[Mapping[str, float]] | None = None,
    *,
    calibrate: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> list[str]:
    """Return lines that say what the missing trials of a study will take, and what that was estimated from.

    Args:
      study: with its languages in the place of `all`.
      nodes: resources of a cluster's nodes; None: of this machine.
      calibrate: measure the encoders in this process, for cells where the store has nothing as alike.
      say: told, a line each, what is measured.
    """
    slots = slots_on([this_machine()] if nodes is None else nodes, study.resources)
    trouble = budget = ""
    ended: Ended = Counter()
    timed: list[TimedTrial] = []
    if store.database is None or store.database.exists():
        try:
            ended = load_ended(store, study.study, definitions(study, corpus, model_contents(study, store)))
            timed = _timed(study, corpus, store)
            budget = budget_left(study, _searches(study, ended), *load_spent(store, study.study))
        except TrackingError as error:
            trouble = str(error)
    planned = list(planned_cells(study, corpus.manifest, corpus.fingerprint, ended))
    if calibrate:
        timed += calibrated(study, corpus, (each for each in planned if _is_unlike(each, timed)), say)
    found = estimate(planned, timed, slots)
    need = needs(study, corpus.manifest)
    disk = need.lasting + 2 * slots * need.checkpoint
    space = f"{size(need.memory)} of memory a trial, {size(disk)} of disk"
    return [
        *(lines(found, study.resources, space) or [_nothing_to_do(study, ended)]),
        *([budget] if budget else []),
        *([f"what the store has is not in it: {trouble}"] if trouble else []),
    ]


def _searches(study: StudyConfig, ended: Ended) -> list[int]:
    """Return how many trials of each search have ended."""
    searched = [cell for cell in cells(study) if study.space(cell.arm)]
    return [_ended(cell, ended, "search") for cell in searched]


def _ended(cell: Cell, ended: Ended, phase: str) -> int:
    return sum(count for key, count in ended.items() if key[:3] == (cell.arm, cell.language, phase))


def _nothing_to_do(study: StudyConfig, ended: Ended) -> str:
    """Return the line of a study of which nothing is missing: a launch says the same."""
    confirmed = sum(
        bool(ended[cell.arm, cell.language, "confirm", seed]) for cell in cells(study) for seed in study.possible_seeds
    )
    return f"nothing to do: all {sum(_searches(study, ended)) + confirmed} trials are there"


def _is_unlike(planned: Planned, timed: Sequence[TimedTrial]) -> bool:
    """Return True where trials are missing that a calibration tells more of than the store."""
    if not planned.search and not planned.confirm:
        return False
    return all((level := likeness(planned, trial)) is None or level > MEASURED for trial in timed)


def limit_of(study: StudyConfig, corpus: Corpus, store: Store) -> tuple[Limit | None, bool]:
    """Return what is left of a study's budget, None for a study without, and whether the budget has ended its searches
    already: one of hours only, since one of trials is counted.

    Raises:
      TrackingError: the store cannot be read.
    """
    if study.budget is None or study.budget.hours is None:
        return (None if study.budget is None else Limit(study.budget, Pace())), False
    spent, before = load_spent(store, study.study)
    timed = _timed(study, corpus, store)
    expected: dict[tuple[Cell, str], float] = {}
    for each in planned_cells(study, corpus.manifest, corpus.fingerprint, Counter()):
        if (found := cell_time(each, timed)) is not None:
            cell = Cell(each.arm, each.language)
            expected |= {(cell, "search"): found.search_seconds, (cell, "confirm"): found.confirm_seconds}
    return Limit(study.budget, Pace(expected), spent=spent), not is_larger(study.budget, before)


def _timed(study: StudyConfig, corpus: Corpus, store: Store) -> list[TimedTrial]:
    kinds = {arm.encoder.kind for arm in study.arms.values()}
    return load_timed(store, sorted(kinds), corpus.fingerprint)


def planned_cells(study: StudyConfig, manifest: Manifest, fingerprint: str, ended: Ended) -> Iterator[Planned]:
    """The trials of each cell that a launch would run, all arms being as they are written but for what is searched.

    Until a search has ended, all its confirmations count as missing: it may choose other settings than before.
    """
    text, searched = study_text(study), searched_within(study)
    for cell in cells(study):
        arm = arm_settings(study.arms[cell.arm])
        several = study.training_set(cell.language)
        config = TrialConfig.model_validate({**arm, **trial_languages(several), "seed": study.first_seeds[0]})
        open_to = arm_params(text, cell.arm, flatten(arm))
        settings = {
            name: SEARCHED if open_to.get(name) == SEARCHED else value
            for name, value in params_of(flatten(resolved(config))).items()
        } | {name: SEARCHED for name, value in open_to.items() if value == SEARCHED}
        search = searched if study.space(cell.arm) else 0
        search -= min(search, _ended(cell, ended, "search"))
        done = 0 if search else sum(bool(ended[cell.arm, cell.language, "confirm", seed]) for seed in study.first_seeds)
        yield Planned(
            arm=cell.arm,
            language=cell.language,
            settings=settings,
            corpus=fingerprint,
            pairs=sum(manifest.languages[name].pairs.get("train", 0) for name in several.train),
            epochs=config.training.epochs,
            search=search,
            confirm=len(study.first_seeds) - done,
            resources=hardware(study.resources),
            stops=study.search is not None and study.search.early_stopping is not None,
        )


def lines(found: Estimate, resources: Resources, space: str) -> list[str]:
    """Return an estimate for people; empty where nothing is missing."""
    missing = sum(each.search + each.confirm for each in (*(cell.planned for cell in found.cells), *found.unknown))
    if not missing:
        return []
    count = f"{missing} trial{'s' if missing > 1 else ''} to run, {found.slots} at a time"
    told = []
    if found.cells:
        hours = found.seconds * resources.workers / 3600
        kind, units = ("GPU", resources.gpus) if resources.gpus else ("core", resources.cpus)
        between = f"{how_long(found.wall)} ({how_long(found.low)} to {how_long(found.high)})"
        but = f", without {_named(found.unknown)}" if found.unknown else ""
        told.append(f"{count}: {between} after preparing, {hours * units:.2g} {kind} hours{but}; about {space}")
    else:
        told.append(f"{count}; about {space}")
    told += [_of_basis(basis, each) for basis, each in _by_basis(found.cells).items()]
    if found.unknown:
        told.append(
            f"nothing that was timed is like {_named(found.unknown)}: --calibrate measures some steps and an evaluation"
        )
    return told


def slots_on(nodes: Sequence[Mapping[str, float]], resources: Resources) -> int:
    """Return how many trials run at once: at least one, since without room there is no launch."""
    fitting = max(1, trials_on(nodes, resources))
    if resources.autoscale and resources.max_concurrent:
        return resources.max_concurrent
    return min(fitting, resources.max_concurrent or fitting)


def this_machine() -> dict[str, float]:
    """Return what a Ray that is started here would give to trials."""
    return {
        "CPU": float(len(os.sched_getaffinity(0))),
        "GPU": float(torch.cuda.device_count()),
        "memory": 0.7 * psutil.virtual_memory().total,
    }


def _by_basis(found: Iterable[CellTime]) -> dict[str, list[CellTime]]:
    groups: dict[str, list[CellTime]] = {}
    for cell in found:
        groups.setdefault(cell.basis, []).append(cell)
    return groups


def _of_basis(basis: str, found: Sequence[CellTime]) -> str:
    seconds = sorted(
        each
        for cell in found
        for each, count in ((cell.search_seconds, cell.planned.search), (cell.confirm_seconds, cell.planned.confirm))
        if count
    )
    low, high = how_long(seconds[0]), how_long(seconds[-1])
    fewest, most = min(cell.timed for cell in found), max(cell.timed for cell in found)
    trials = f"{most} trial{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} trials"
    takes = low if low == high else f"{low} to {high}"
    return f"{_named([cell.planned for cell in found])}: {takes} a trial, by {trials} {basis}"


def _named(planned: Sequence[Planned]) -> str:
    names = [str(each) for each in planned]
    more = len(names) - _MOST_NAMED
    return ", ".join(names if more < 2 else [*names[:_MOST_NAMED], f"{more} more"])
