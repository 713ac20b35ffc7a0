"""What a study will cost: its missing trials, what the store has timed that is like them, and the answer in lines."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil
import torch

from softnce_ray.config import (
    Precision,
    Resources,
    StudyConfig,
    TrialConfig,
    arm_settings,
    flatten,
    resolved,
    trial_languages,
)
from softnce_ray.corpus.manifest import Manifest
from softnce_ray.corpus.store import Corpus
from softnce_ray.results import SeedsAsked, TimedTrial
from softnce_ray.storage import StorageError
from softnce_ray.store import Store
from softnce_ray.study.budget import Limit, budget_left, is_larger, searched_within
from softnce_ray.study.calibrating import calibrated
from softnce_ray.study.cells import Cell, cells, search_groups
from softnce_ray.study.cluster import trials_on
from softnce_ray.study.cost_lines import CALIBRATE, Bounds, lines
from softnce_ray.study.doctor.finding import size
from softnce_ray.study.doctor.needs import needs
from softnce_ray.study.estimate import MEASURED, SEARCHED, SIMCSE, Planned, cell_time, likeness
from softnce_ray.study.model_contents import model_contents
from softnce_ray.study.models_to_train import models_to_train
from softnce_ray.study.pace import Pace
from softnce_ray.study.record import definitions, hardware
from softnce_ray.study.saved import study_text
from softnce_ray.study.totals import estimate
from softnce_ray.tracking import TrackingError
from softnce_ray.tracking.durations import Ended, load_asked, load_ended, load_query_times, load_spent, load_timed
from softnce_ray.tracking.params import arm_params, params_of


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
    return costs_on(study, corpus, store, slots, calibrate=calibrate, say=say)


def costs_on(
    study: StudyConfig,
    corpus: Corpus,
    store: Store,
    slots: int,
    *,
    calibrate: bool = False,
    say: Callable[[str], object] = lambda text: None,
    calibration: str = CALIBRATE,
) -> list[str]:
    """Return `costs` for so many trials at once; `calibration` is what is typed for one."""
    trouble = budget = ""
    known, timed, models = Known(), list[TimedTrial](), list[list[list[Planned]]]()
    try:
        models = models_to_train(study, corpus, store.prepared)
        if store.database is None or store.database.exists():
            known = _known(study, corpus, store)
            timed = _timed(study, corpus, store)
            budget = budget_left(study, _searches(study, known.ended), known.spent, known.ended_by)
            if any(each.model == SIMCSE for batch in models for cell in batch for each in cell):
                timed += load_query_times(store, _kinds(study))
    except (TrackingError, StorageError) as error:
        trouble = str(error)
    planned = list(planned_cells(study, corpus.manifest, corpus.fingerprint, known))
    if not any(each.search or each.confirm or each.later for each in planned):
        models = []  # a launch prepares nothing then
    if calibrate:
        flat = [each for batch in models for cell in batch for each in cell]
        timed += calibrated(study, corpus, (each for each in (*planned, *flat) if _is_unlike(each, timed)), say)
    seconds_left = _seconds_left(study, known.spent)
    found = estimate(planned, timed, slots, models=models, seconds_left=seconds_left)
    need = needs(study, corpus.manifest)
    disk = need.lasting + 2 * slots * need.checkpoint
    space = f"{size(need.memory)} of memory a trial, {size(disk)} of disk"
    fewest = min(len(_seeds(study, each, known)[0]) for each in study.language_names)
    bounds = Bounds((fewest, len(study.possible_seeds)), study.budget, seconds_left, _left_out_by_trials(study))
    return [
        *(lines(found, study.resources, space, bounds, calibration) or [_nothing_to_do(study, known.ended)]),
        *([budget] if budget else []),
        *([f"what the store has is not in it: {trouble}"] if trouble else []),
    ]


def job_costs(study: StudyConfig, corpus: Corpus, store: Store, slots: int) -> list[str]:
    """Return `costs` for the one who sent a study to a cluster, with what calibrates there."""
    typed = replace(store, given=None).command("launch", "STUDY.yaml", "--dry-run", "--calibrate")
    return costs_on(study, corpus, store, slots, calibration=f"`{typed}` on the cluster's head")


@dataclass(frozen=True)
class Known:
    """What the store has of a study: trials that have ended, decisions on seeds, seconds of its launches, the budget
    that ended its searches, and whether one of hours still does."""

    ended: Ended = field(default_factory=Counter)
    asked: Mapping[str, SeedsAsked] = field(default_factory=dict)
    spent: float = 0.0
    ended_by: str = ""
    searches_over: bool = False


def _known(study: StudyConfig, corpus: Corpus, store: Store) -> Known:
    ended = load_ended(store, study.study, definitions(study, corpus, model_contents(study, store)))
    asked = load_asked(store, study.study, study.language_names) if isinstance(study.seeds, Precision) else {}
    if study.budget is None:
        return Known(ended, asked)
    spent, before = load_spent(store, study.study)
    return Known(ended, asked, spent, before, study.budget.hours is not None and not is_larger(study.budget, before))


def _seconds_left(study: StudyConfig, spent: float) -> float | None:
    if study.budget is None or study.budget.hours is None:
        return None
    return max(0.0, 3600 * study.budget.hours - spent)


def _left_out_by_trials(study: StudyConfig) -> int:
    """Return the search trials that a budget of trials leaves out."""
    return study.searches * (study.search.trials - searched_within(study)) if study.search else 0


def _seeds(study: StudyConfig, language: str, known: Known) -> tuple[tuple[int, ...], int]:
    """Return the seeds that a language takes at least, and how many it takes at most.

    With a precision they are the first ones and those further ones that all arms have; there are no more where its
    differences are narrow enough.
    """
    seeds, count = study.possible_seeds, len(study.first_seeds)

    def all_have(seed: int) -> bool:
        return all(known.ended[arm, language, "confirm", seed] for arm in study.arms)

    while count < len(seeds) and all_have(seeds[count]):
        count += 1
    asked = known.asked.get(language)
    if isinstance(study.seeds, Precision) and asked is not None and asked.why and asked.count == count:
        narrow = asked.half_width is None or asked.half_width <= study.seeds.half_width
        if narrow and all(map(all_have, seeds[:count])):
            return seeds[:count], count
    return seeds[:count], len(seeds)


def _searches(study: StudyConfig, ended: Ended) -> list[int]:
    """Return how many trials of each search have ended."""
    return [
        sum(_ended(cell, ended, "search") for cell in group)
        for group in search_groups(study)
        if study.is_joint or study.space(group[0].arm)
    ]


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
    if planned.is_named or not (planned.search or planned.confirm or planned.later):
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
    for each in planned_cells(study, corpus.manifest, corpus.fingerprint, Known()):
        if (found := cell_time(each, timed)) is not None:
            cell = Cell(each.arm, each.language)
            expected |= {(cell, "search"): found.search_seconds, (cell, "confirm"): found.confirm_seconds}
    return Limit(study.budget, Pace(expected), spent=spent), not is_larger(study.budget, before)


def _timed(study: StudyConfig, corpus: Corpus, store: Store) -> list[TimedTrial]:
    return load_timed(store, _kinds(study), corpus.fingerprint)


def _kinds(study: StudyConfig) -> list[str]:
    return sorted({arm.encoder.kind for arm in study.arms.values()})


def planned_cells(study: StudyConfig, manifest: Manifest, fingerprint: str, known: Known) -> Iterator[Planned]:
    """The trials of each cell that a launch would run, all arms being as they are written but for what is searched.

    Until a search has ended, all its confirmations count as missing: it may choose other settings than before.
    """
    text, searched = study_text(study), searched_within(study)
    groups: dict[Cell, tuple[int, int]] = {}
    for group in search_groups(study) if study.is_joint else ():
        groups |= {cell: (number, len(group)) for number, cell in enumerate(group)}
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
        if study.is_joint:  # which arms will get most is not known: all alike
            number, count = groups[cell]
            search = searched // count + (number < searched % count)
        begun = _ended(cell, known.ended, "search")
        search = max(min(search, int(not begun)), 0 if known.searches_over else search - begun)
        fewest, most = _seeds(study, cell.language, known)
        missing = [
            seed
            for seed in study.possible_seeds[:most]
            if search or not known.ended[cell.arm, cell.language, "confirm", seed]
        ]
        yield Planned(
            arm=cell.arm,
            language=cell.language,
            settings=settings,
            corpus=fingerprint,
            pairs=sum(manifest.languages[name].pairs.get("train", 0) for name in several.train),
            epochs=config.training.epochs,
            search=search,
            confirm=len(set(fewest) & set(missing)) if _may_be_confirmed(study, cell) else 0,
            resources=hardware(study.resources),
            stops=study.search is not None and study.search.early_stopping is not None,
            begun=begun,
            later=len(set(missing) - set(fewest)) if _may_be_confirmed(study, cell) else 0,
        )


def _may_be_confirmed(study: StudyConfig, cell: Cell) -> bool:
    """Return True for as many cells as are confirmed: after a joint search, for the baseline and the arms that come
    first, since nobody knows yet which ones will be the best."""
    if study.search is None or not study.search.is_joint:
        return True
    group = next(group for group in study.joint_groups if cell.language in group)
    others = [arm for arm in study.arms if arm != study.baseline][: study.search.confirmed]
    return cell.language == group[0] and cell.arm in (study.baseline, *others)


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
