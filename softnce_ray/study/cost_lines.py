"""An estimate of what a study takes, in lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from softnce_ray.config import Budget, Resources
from softnce_ray.study.estimate import CellTime, Planned, how_long
from softnce_ray.study.totals import Estimate, Span

CALIBRATE = "--calibrate"
"""What is typed beside `launch --dry-run` or `doctor` for a calibration."""

_MOST_NAMED = 6


@dataclass(frozen=True)
class Bounds:
    """What a study bounds itself by.

    Attributes:
      seeds: fewest and most of a language; equal where they are listed.
      budget: of the study.
      seconds_left: of a budget of hours; None: there is none.
      left_out: search trials that a budget of trials leaves out.
    """

    seeds: tuple[int, int] = (1, 1)
    budget: Budget | None = None
    seconds_left: float | None = None
    left_out: int = 0


def lines(
    found: Estimate, resources: Resources, space: str, bounds: Bounds | None = None, calibrate: str = CALIBRATE
) -> list[str]:
    """Return an estimate for people; empty where nothing is missing.

    Args:
      space: memory and disk.
      calibrate: what is typed for a calibration.
    """
    bounds = bounds or Bounds()
    if not found.trials and not found.later:
        return []
    most = found.trials + found.later
    trials = f"{found.trials} to {most}" if found.later else f"{most}"
    count = f"{trials} trial{'s' if most > 1 else ''} to run, {found.slots} at a time"
    told = []
    if found.cells:
        but = f", without {_named(found.unknown)}" if found.unknown else ""
        told.append(f"{count}: {_times(found, bounds)}, {_hours(found, resources)}{but}; about {space}")
    else:
        told.append(f"{count}; about {space}")
    told += _of_budget(found, bounds)
    told += [_of_basis(basis, each) for basis, each in _by_basis(found.models).items()]
    told += [_of_basis(basis, each) for basis, each in _by_basis(found.cells).items()]
    if unlike := [each for each in found.unknown if not each.is_named]:
        told.append(
            f"nothing that was timed is like {_named(unlike)}: {calibrate} measures some steps and an evaluation"
        )
    if run := [each for each in found.unknown if each.is_named]:
        told.append(f"preparing computes vectors with {_named(run)}: how long that takes is not known")
    return told


def _times(found: Estimate, bounds: Bounds) -> str:
    """How long it takes, by the number of seeds or within a budget, which counts preparing too."""
    preparing = f", {_span(found.preparing)} of it preparing" if found.models else " after preparing"
    fewest, most = bounds.seeds
    if found.most is not None:
        both = f"{how_long(found.wall.middle)} for {fewest} seeds to {how_long(found.most.middle)} for {most}"
        return f"{both} ({how_long(found.wall.low)} to {how_long(found.most.high)}){preparing}"
    if found.left_out.middle and bounds.seconds_left is not None and found.wall.middle <= bounds.seconds_left:
        return f"up to {how_long(bounds.seconds_left)} by its budget" + preparing * bool(found.models)
    return f"{_span(found.wall)}{preparing}"


def _span(span: Span) -> str:
    return f"{how_long(span.middle)} ({how_long(span.low)} to {how_long(span.high)})"


def _hours(found: Estimate, resources: Resources) -> str:
    kind, units = ("GPU", resources.gpus) if resources.gpus else ("core", resources.cpus)
    seconds = [found.seconds(later=later, workers=resources.workers) for later in (False, True)]
    few, most = (f"{each / 3600 * units:.2g}" for each in seconds)
    return f"{few} {kind} hours" if few == most else f"{few} to {most} {kind} hours"


def _of_budget(found: Estimate, bounds: Bounds) -> list[str]:
    """What a budget is expected to leave out, and where it is too small for what it never leaves out."""
    if bounds.budget is None:
        return []
    told = []
    longest = found.most or found.wall
    if bounds.left_out:
        told.append(f"the budget of {bounds.budget.trials} trials leaves out {_searches(bounds.left_out)}")
    if found.left_out.high:
        middle, low, high = round(found.left_out.middle), round(found.left_out.low), round(found.left_out.high)
        between = "" if low == high else f" ({low} to {high})"
        searched = sum(cell.planned.search for cell in found.cells)
        told.append(
            f"the budget of {_hours_of(bounds)} is expected to leave out {middle} of {searched} search trials{between}"
        )
    if bounds.seconds_left is not None and longest.middle > bounds.seconds_left:
        told.append(
            f"the budget of {_hours_of(bounds)} is too small for the confirmations, which it never ends: raise it, "
            "or leave out seeds or arms"
        )
    if bounds.seconds_left is not None and not found.cells:
        told.append(f"the budget of {_hours_of(bounds)} ends searches in time for their confirmations")
    return told


def _hours_of(bounds: Bounds) -> str:
    """A budget of hours, and what is left of it."""
    assert bounds.budget is not None and bounds.budget.hours is not None and bounds.seconds_left is not None
    hours = bounds.budget.model_copy(update={"trials": None})
    spent = 3600 * bounds.budget.hours - bounds.seconds_left
    return f"{hours}, of which {how_long(bounds.seconds_left)} is left," if spent else f"{hours}"


def _searches(count: int) -> str:
    return f"{count} search trial{'s' if count > 1 else ''}"


def _by_basis(found: Iterable[CellTime]) -> dict[str, list[CellTime]]:
    groups: dict[str, list[CellTime]] = {}
    for cell in found:
        groups.setdefault(cell.basis, []).append(cell)
    return groups


def _of_basis(basis: str, found: Sequence[CellTime]) -> str:
    seconds = sorted(
        each
        for cell in found
        for each, count in (
            (cell.search_seconds, cell.planned.search),
            (cell.confirm_seconds, cell.planned.confirm + cell.planned.later),
        )
        if count
    )
    low, high = how_long(seconds[0]), how_long(seconds[-1])
    fewest, most = min(cell.timed for cell in found), max(cell.timed for cell in found)
    takes = low if low == high else f"{low} to {high}"
    what, like = ("model", "training") if found[0].planned.model else ("trial", "trial")
    timed = f"{most} {like}{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} {like}s"
    return f"{_named([cell.planned for cell in found])}: {takes} a {what}, by {timed} {basis}"


def _named(planned: Sequence[Planned]) -> str:
    names = [str(each) for each in planned]
    more = len(names) - _MOST_NAMED
    return ", ".join(names if more < 2 else [*names[:_MOST_NAMED], f"{more} more"])
