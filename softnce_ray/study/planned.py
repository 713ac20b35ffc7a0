"""The trials of a study for people, before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from softnce_ray.config import Choices, Precision, Range, Search, StudyConfig
from softnce_ray.study.budget import searched_within
from softnce_ray.study.cells import cells

_MOST_SEEDS = 20
"""Of a cell that are listed one by one."""


def planned_trials(study: StudyConfig) -> Iterator[tuple[str, str, str, str]]:
    """Yield (arm, language, phase, what) of every trial of a study, or of those that go together."""
    for cell in cells(study):
        space = study.space(cell.arm)
        if study.search is not None and space:
            shown = ", ".join(_shown(path, each) for path, each in space.items())
            yield cell.arm, cell.language, "search", _search_text(study, study.search, shown)
        if isinstance(study.seeds, Precision):
            first, most, width = study.seeds.at_least, study.seeds.at_most, study.seeds.half_width
            what = f"seeds 1 to {first}, up to {most} until the half-width is {width:g}"
            yield cell.arm, cell.language, "confirm", what
            continue
        seeds = study.seeds if len(study.seeds) <= _MOST_SEEDS else study.seeds[: _MOST_SEEDS - 1]
        for seed in seeds:
            yield cell.arm, cell.language, "confirm", f"seed {seed}"
        if more := study.seeds[len(seeds) :]:
            yield cell.arm, cell.language, "confirm", f"{len(more):,} more seeds to {more[-1]}"


def _search_text(study: StudyConfig, search: Search, shown: str) -> str:
    """What is said of a cell's search: how many trials it has at most, and over what."""
    within = searched_within(study)
    count = f"{within} of {search.trials}" if within < search.trials else f"{search.trials}"
    if study.budget is None:
        return f"{count} trials over {shown}"
    if study.budget.hours is not None:
        count = f"up to {count}"
    is_bounded = study.budget.hours is not None or within < search.trials
    return f"{count} trials over {shown}" + f", by the budget of {study.budget}" * is_bounded


def _shown(path: str, each: Range | Choices) -> str:
    """A searched setting for people, with its conditions."""
    conditions = [
        f"{other} is {' or '.join(value if isinstance(value, str) else json.dumps(value) for value in values)}"
        for other, values in (each.when or {}).items()
    ]
    return f"{path} (when {' and '.join(conditions)})" if conditions else path
