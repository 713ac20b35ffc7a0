"""What could this study see? How small a difference, whose luck stands in the way, and what more it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from softnce_ray.report.values import Report, Row, family_of
from softnce_ray.report.wording import NOTHING
from softnce_ray.statistics import Design, detectable, power_of, queries_needed, seeds_needed
from softnce_ray.statistics.power import Shares, shares

SENSITIVITY_HEADING = "What could this study see?"
COMPARISON = "comparison"
POWER = 0.8
"""Chance with which a difference is to be detected."""
NEEDED = "no number: none is enough; unknown: one seed does not tell how much seeds vary"
"""Legend of the words of `needed`."""
EFFECTS = (0.002, 0.005, 0.01)
"""Differences that papers on code search claim."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What the comparison of one row with the baseline could see.

    Attributes:
        label: of the row.
        design: what it is computed from.
        shares: of the variance of the difference; None where nothing varies.
        detectable: smallest difference that is called one with a chance of `POWER`, at the level of the whole family.
        power: effect -> chance that it is called one.
        seeds, queries: effect -> how many it would take with the other as it is; None where no number is enough, or
            where one seed does not tell.
    """

    label: str
    design: Design
    shares: Shares | None
    detectable: float
    power: Mapping[float, float]
    seeds: Mapping[float, int | None]
    queries: Mapping[float, int | None]


def sensitivities(report: Report, effects: Sequence[float] = EFFECTS) -> tuple[Sensitivity, ...]:
    """Return what each compared row could see.

    Left out are means over languages that share queries or models, whose parts do not add up, and differences of one
    query. Of `these-models` there is nothing to say: seeds do not count there.
    """
    if report.inference != "seeds-and-queries":
        return ()
    rows = [row for row in report.rows if row.difference and _adds_up(report, row)]
    designs = [(row.label, _design(report, row)) for row in rows]
    return tuple(sensitivity(label, design, effects) for label, design in designs if design is not None)


def sensitivity(label: str, design: Design, effects: Sequence[float] = EFFECTS) -> Sensitivity:
    """Return what a comparison could see, made or planned."""
    return Sensitivity(
        label=label,
        design=design,
        shares=shares(design),
        detectable=detectable(design, POWER),
        power={effect: power_of(design, effect) for effect in effects},
        seeds={effect: seeds_needed(design, effect, POWER) for effect in effects},
        queries={effect: queries_needed(design, effect, POWER) for effect in effects},
    )


def _adds_up(report: Report, row: Row) -> bool:
    shared = {language for group in report.shared for language in group.languages}
    return len(row.languages) == 1 or (row.training_set is None and not shared & set(row.languages))


def _design(report: Report, row: Row) -> Design | None:
    queries = tuple(report.queries[language] for language in row.languages)
    if row.difference is None or min(queries) < 2:
        return None
    return Design(
        components=row.difference.components,
        queries=queries,
        seeds=row.difference.seeds,
        comparisons=sum(
            family_of(each.languages, report.family) == family_of(row.languages, report.family)
            for each in report.rows
            if each.difference is not None
        ),
        level=report.level,
    )


def sensitivity_line(report: Report) -> str:
    """Return the whole as one sentence; empty where there is nothing to say."""
    found = sensitivities(report, ())
    if not found:
        return ""
    least, most = (choose(found, key=lambda each: each.detectable) for choose in (min, max))
    upper = "" if least is most else f" to {most.detectable:.4f} ({most.label})"
    return (
        f"This study could see ({_percent(POWER)} power) differences of {least.detectable:.4f} ({least.label}){upper}."
    )


def sensitivity_table(found: Sequence[Sensitivity]) -> list[list[str]]:
    """Return headings and a row for each; empty without any."""
    if not found:
        return []
    effects = list(found[0].seeds)
    head = [COMPARISON, "seeds", "queries", "both together", "could see"]
    head += [f"seeds for {effect:g}" for effect in effects] + [f"queries for {effect:g}" for effect in effects]
    return [head, *([each.label, *_parts(each), f"{each.detectable:.4f}", *needed(each)] for each in found)]


def sensitivity_legend() -> str:
    """Return what the columns of the table are."""
    return (
        "First columns: whose share of the variance of the difference it is (seeds, queries, and how the two go "
        f"together). Could see: the smallest difference that is called one with {_percent(POWER)} power, at the level "
        "of all comparisons. Last columns: the seeds that it would take with these queries, and the queries of each "
        f"language with these seeds; {NEEDED}."
    )


def _parts(each: Sensitivity) -> list[str]:
    if each.shares is None:
        return [NOTHING] * 3
    return [_percent(part) for part in (each.shares.seeds, each.shares.queries, each.shares.interaction)]


def needed(each: Sensitivity) -> list[str]:
    """Return the seeds that each effect would take, and the queries; in words where that is no number."""
    is_unknown = any(part.seeds is None for part in each.design.components)
    seeds = ["unknown" if is_unknown else _number(n) for n in each.seeds.values()]
    return [*seeds, *map(_number, each.queries.values())]


def _number(needed: int | None) -> str:
    return "no number" if needed is None else f"{needed:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
