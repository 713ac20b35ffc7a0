"""Prepare what the trials of a study share: tokens and estimators of every cell, in tasks of Ray.

A module of its own because a worker imports what a task comes from: this one needs neither MLflow nor Optuna, which
take a worker seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from softnce_ray.config import ArmConfig, Resources, StudyConfig, TrainingSet, variants
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.determinism import deterministic_algorithms
from softnce_ray.preparation import Prepared, learns, prepare
from softnce_ray.storage import Location
from softnce_ray.store import Store
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.cluster import Outcome, run_all
from softnce_ray.study.display import Display
from softnce_ray.study.notes import Notes
from softnce_ray.study.patience import Patience
from softnce_ray.study.surroundings import device_for, working_in


def prepare_all(study: StudyConfig, corpus: Corpus, store: Store, show: Display, slots: int) -> Outcome:
    """Prepare tokens and estimators of all cells, as many at once as trials run.

    Of cells with the same tokens one goes first, so that no corpus is tokenised twice at the same time. What must be
    trained takes what a trial takes.
    """
    place, root, resources = corpus.location, store.prepared, study.resources
    verify = Verify.unless(corpus.is_trusted, Verify.ONCE)
    reached = {name: variants(arm, study.space(name)) for name, arm in study.arms.items()}
    learning = any(learns(arm) for arms in reached.values() for arm in arms)
    notes = Notes() if learning else None
    calls = {
        cell: (str(Path.cwd()), cell, reached[cell.arm], place, verify, study.training_set(cell.language), root)
        for cell in cells(study)
    }

    def options(cell: Cell) -> dict[str, Any]:
        if not any(map(learns, reached[cell.arm])):
            return {}
        asked = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "memory": resources.asked["memory"]}
        return {name: count for name, count in asked.items() if count}

    done: list[Cell] = []

    def pass_on() -> None:
        for line in notes.heard() if notes else ():
            show.say(line)

    def finished(cell: Cell, prepared: Prepared | None) -> None:
        done.append(cell)
        scored = prepared.metrics if prepared else {}
        scores = "".join(f", {name}: valid MRR {metrics['valid_mrr']:.4f}" for name, metrics in scored.items())
        show.say(f"{'prepared' if prepared else 'could not prepare'} {cell}{scores} [{len(done)}/{len(calls)}]")

    whole = Outcome({}, {})
    for batch in batches(study):
        outcome = run_all(
            _prepare,
            {cell: (*calls[cell], resources, notes) for cell in batch},
            finished,
            at_once=slots,
            options=options,
            meanwhile=pass_on if notes else None,
            fresh=learning and resources.gpus > 0,
        )
        whole = Outcome(whole.done | outcome.done, whole.failed | outcome.failed)
    return whole


def batches(study: StudyConfig) -> tuple[list[Cell], list[Cell]]:
    """Return the cells that are prepared first, one for each kind of tokens, and the others."""
    first: dict[Any, Cell] = {}
    for cell in cells(study):
        arm = study.arms[cell.arm]
        first.setdefault((arm.tokens, arm.encoder.kind, getattr(arm.encoder, "model", None)), cell)
    return list(first.values()), [cell for cell in cells(study) if cell not in first.values()]


def _prepare(
    directory: str,
    cell: Cell,
    arms: Sequence[ArmConfig],
    corpus: str,
    verify: Verify,
    languages: TrainingSet,
    root: Location,
    resources: Resources,
    notes: Notes | None,
) -> Prepared:
    """Prepare a cell in a task, as a trial does its work: all that any of its `arms` needs."""

    def say(text: str, in_full: str = "") -> None:
        if notes is not None:
            notes.say(f"preparing {cell}: {text}")

    torch.set_num_threads(resources.resolved_threads if any(map(learns, arms)) else 1)
    device = device_for(resources.device, resources.gpus)
    with working_in(directory), deterministic_algorithms(resources.deterministic):
        make = partial(prepare, verify=verify, resources=resources, say=say)
        whole, *others = [Patience(say)(partial(make, arm, corpus, languages, root, device)) for arm in arms]
    for each in others:
        whole = replace(
            whole,
            estimators=whole.estimators | each.estimators,
            metrics=whole.metrics | each.metrics,
            notes=tuple(dict.fromkeys(whole.notes + each.notes)),
        )
    return whole
