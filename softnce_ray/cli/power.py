"""The command that says what a study could see."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softnce_ray.cli.options import StoreOption, TrackingOption, store_at, study_name
from softnce_ray.errors import UserError
from softnce_ray.terminal import to_stdout

if TYPE_CHECKING:
    from softnce_ray.report.sensitivity import Sensitivity
    from softnce_ray.statistics import Design

_MOST = {"--seeds": 1_000, "--queries": 1_000_000_000, "--comparisons": 1_000_000, "--languages": 1_000}
"""As many seeds and languages as a study may have, and comparisons of as many arms in as many languages; queries beyond
these are a slip."""

_UNBROKEN = 10_000
"""Columns in a pipe, whose reader takes a line for a comparison."""


def power(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help="A study whose differences tell how much seeds and queries vary.",
            callback=lambda text: None if text is None else study_name(text),
        ),
    ] = None,
    effect: Annotated[
        float, typer.Option(help="The difference that is looked for, of the mean reciprocal rank.")
    ] = 0.005,
    seeds: Annotated[int | None, typer.Option(min=1, help="Planned seeds (default: as the study).")] = None,
    queries: Annotated[
        int | None, typer.Option(min=2, help="Planned queries of each language (default: as the study).")
    ] = None,
    comparisons: Annotated[
        int | None, typer.Option(min=1, help="Differences that are tested together (default: as the study; else 1).")
    ] = None,
    seed_sd: Annotated[
        float | None,
        typer.Option("--seed-sd", help="Without a study: standard deviation of a seed's effect on a difference."),
    ] = None,
    query_sd: Annotated[float | None, typer.Option("--query-sd", help="The same of a query's effect.")] = None,
    rest_sd: Annotated[float | None, typer.Option("--rest-sd", help="The same of a single value beside them.")] = None,
    languages: Annotated[
        int | None, typer.Option(min=1, help="Without a study: languages over which the mean is taken (default: 1).")
    ] = None,
    format: Annotated[Literal["terminal", "json"], typer.Option("--format")] = "terminal",
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Say how small a difference a study could see, and what seeds and queries another would take."""
    from softnce_ray.report.sensitivity import sensitivity

    stated = {"--seed-sd": seed_sd, "--query-sd": query_sd, "--rest-sd": rest_sd}
    _check(effect, stated)
    for name, count in zip(_MOST, (seeds, queries, comparisons, languages), strict=True):
        if count is not None and count > _MOST[name]:
            raise UserError(f"{name}: expected at most {_MOST[name]:,}, got {count:,}: give fewer")
    if study is None:
        designs = {"as stated": _stated(stated, seeds, queries, languages or 1)}
    else:
        alone = {**stated, "--languages": languages}
        if given := [name for name, value in alone.items() if value is not None]:
            raise UserError(f"{given[0]}: expected none with a study, which tells it, got one: leave it out")
        designs = _of_study(study, store_at(store, tracking_uri))
    planned = {}
    for label, design in designs.items():
        planned[label] = replace(
            design,
            seeds=seeds or design.seeds,
            queries=(queries,) * len(design.queries) if queries else design.queries,
            comparisons=comparisons or design.comparisons,
        )
    found = [sensitivity(label, design, (effect,)) for label, design in planned.items()]
    if format == "json":
        to_stdout(json.dumps([asdict(each) for each in found], ensure_ascii=False, indent=2))
    else:
        _show(found, effect)


def _check(effect: float, deviations: dict[str, float | None]) -> None:
    """Raise UserError where numbers are none of reciprocal ranks, which lie between 0 and 1."""
    if not 0 < effect < 1:
        raise UserError(
            f"--effect: expected a difference of the mean reciprocal rank, above 0 and below 1, got {effect:g}: give "
            "the size that matters, such as 0.005"
        )
    for name, value in deviations.items():
        if value is not None and not 0 <= value <= 1:
            raise UserError(
                f"{name}: expected a standard deviation of at least 0 and at most 1, since differences of reciprocal "
                f"ranks lie between -1 and 1, got {value:g}: give one in these units, not in percent"
            )


def _stated(stated: dict[str, float | None], seeds: int | None, queries: int | None, languages: int) -> Design:
    from softnce_ray.statistics import Components, Design

    needed = {**stated, "--seeds": seeds, "--queries": queries}
    if missing := [name for name, value in needed.items() if value is None]:
        raise UserError(
            f"expected a study, or all of {', '.join(needed)}; got no {' and no '.join(missing)}: give them, or a study"
        )
    variances = [(value or 0.0) ** 2 for value in stated.values()]
    components = Components(seeds=variances[0], queries=variances[1], interaction=variances[2])
    return Design(components=(components,) * languages, queries=(queries or 2,) * languages, seeds=seeds or 1)


def _of_study(study: str, place: object) -> dict[str, Design]:
    from softnce_ray.report import build_report
    from softnce_ray.report.sensitivity import sensitivities
    from softnce_ray.tracking import load_results

    report = build_report(load_results(place, study))  # type: ignore[arg-type]
    designs = {each.label: each.design for each in sensitivities(report, ())}
    if not designs:
        raise UserError(
            f"study {study}: expected a difference from {report.baseline} that has finished, got none: launch it to "
            "its end, or state --seed-sd, --query-sd and --rest-sd"
        )
    return designs


def _show(found: list[Sensitivity], effect: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from softnce_ray.report.sensitivity import NEEDED, POWER, needed
    from softnce_ray.rich_console import PlainConsole

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("comparison", overflow="fold")
    for heading in ("seeds", "queries", "could see", f"power for {effect:g}", "seeds needed", "queries needed"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            Text(each.label),
            f"{each.design.seeds}",
            " + ".join(f"{n:,}" for n in dict.fromkeys(each.design.queries)),
            f"{each.detectable:.4f}",
            f"{100 * each.power[effect]:.0f} %",
            *needed(each),
        )
    console = PlainConsole(width=None if sys.stdout.isatty() else _UNBROKEN)
    console.print(table)
    level, comparisons = found[0].design.level, found[0].design.comparisons
    family = f" of {comparisons} comparisons together" if comparisons > 1 else ""
    console.print(
        f"Could see: the smallest difference that is called one with {100 * POWER:.0f} % power, at {100 * level:g} "
        f"%{family}. Needed for {effect:g} with that power: seeds with these queries; queries of each language with "
        f"these seeds; {NEEDED}.",
        style="dim",
        markup=False,
        highlight=False,
    )
