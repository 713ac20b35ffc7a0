"""The trials of a study for people, before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from softnce_ray.config import Choices, Precision, Range, Search, SearchSpace, StudyConfig
from softnce_ray.study.budget import searched_within
from softnce_ray.study.cells import cells
from softnce_ray.study.joint import joint_space
from softnce_ray.study.samplers import Distributions, chosen, grid_size
from softnce_ray.study.search import distributions_of

_MOST_SEEDS = 20
"""Of a cell that are listed one by one."""


def planned_trials(study: StudyConfig) -> Iterator[tuple[str, str, str, str]]:
    """Yield (arm, language, phase, what) of every trial of a study, or of those that go together."""
    if study.search is not None and study.search.is_joint:
        yield from _planned_jointly(study, study.search)
        return
    for cell in cells(study):
        space = study.space(cell.arm)
        if study.search is not None and space:
            shown = ", ".join(_shown(path, each) for path, each in space.items())
            how = _sampler_text(study.search, space, distributions_of(study.arms[cell.arm], space))
            yield cell.arm, cell.language, "search", _search_text(study, study.search, f"{shown}{how}")
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


def _planned_jointly(study: StudyConfig, search: Search) -> Iterator[tuple[str, str, str, str]]:
    """Yield the searches over all arms, and the seeds of what they will choose."""
    most = min(search.confirmed, len(study.arms) - 1)
    which = f"{study.baseline} and the best {most} of other arms" if most else study.baseline
    for languages in study.joint_groups:
        space, found = joint_space(study, languages)
        shown = ", ".join(_shown(path, each) for path, each in space.items())
        how = _sampler_text(search, space, found)
        least = f"; {study.baseline} at least {search.least_of_baseline}" if len(study.arms) > 1 else ""
        yield "all arms", ", ".join(languages), "search", _search_text(study, search, f"{shown}{how}{least}")
        seeds = study.seeds
        what = (
            f"seeds 1 to {seeds.at_least}, up to {seeds.at_most} until the half-width is {seeds.half_width:g}"
            if isinstance(seeds, Precision)
            else f"{len(seeds):,} seed{'s' if len(seeds) > 1 else ''}"
        )
        yield which, ", ".join(languages), "confirm", what


def _sampler_text(search: Search, space: SearchSpace, found: Distributions) -> str:
    """What a search says of its sampler, after another text; nothing of the default."""
    name = chosen(search, space)
    if name == "grid":
        return f"; a grid of {grid_size(space, found):,} points"
    return "" if search.sampler.name == "tpe" else f"; {name}"


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
