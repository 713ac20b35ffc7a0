"""The command that says what a study could see."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softnce_ray.cli.options import StoreOption, TrackingOption, store_at
from softnce_ray.errors import UserError
from softnce_ray.terminal import to_stdout

if TYPE_CHECKING:
    from softnce_ray.report.sensitivity import Sensitivity
    from softnce_ray.statistics import Design

_MOST = 1e6
"""The largest standard deviation: scores are of the order of 1, or of 100."""


def power(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="A study whose differences tell how much seeds and queries vary."),
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
        float | None, typer.Option("--seed-sd", min=0, help="Without a study: of a seed's effect on a difference.")
    ] = None,
    query_sd: Annotated[float | None, typer.Option("--query-sd", min=0, help="The same of a query's effect.")] = None,
    rest_sd: Annotated[
        float | None, typer.Option("--rest-sd", min=0, help="The same of a single value beside them.")
    ] = None,
    languages: Annotated[int, typer.Option(min=1, help="Without a study: languages over which the mean is taken.")] = 1,
    format: Annotated[Literal["terminal", "json"], typer.Option("--format")] = "terminal",
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Say how small a difference a study could see, and what seeds and queries another would take."""
    from softnce_ray.report.sensitivity import sensitivity

    if not math.isfinite(effect) or effect == 0:
        raise UserError(f"--effect: expected a number other than 0, got {effect:g}")
    stated = {"--seed-sd": seed_sd, "--query-sd": query_sd, "--rest-sd": rest_sd}
    for name, value in stated.items():
        if value is not None and not value <= _MOST:
            raise UserError(f"{name}: expected a standard deviation of at most {_MOST:g}, got {value:g}")
    if study is None:
        designs = {"as stated": _stated(stated, seeds, queries, languages)}
    else:
        if given := [name for name, value in stated.items() if value is not None]:
            raise UserError(f"{given[0]}: expected none with a study, whose differences tell it, got one: leave it out")
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

    from softnce_ray.report.sensitivity import POWER
    from softnce_ray.report.wording import NOTHING
    from softnce_ray.rich_console import PlainConsole

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("comparison", overflow="fold")
    for heading in ("seeds", "queries", "could see", f"power for {effect:g}", "seeds needed", "queries needed"):
        table.add_column(heading, justify="right")
    for each in found:
        needed = (each.seeds[effect], each.queries[effect])
        table.add_row(
            Text(each.label),
            f"{each.design.seeds}",
            " + ".join(f"{n:,}" for n in dict.fromkeys(each.design.queries)),
            f"{each.detectable:.4f}",
            f"{100 * each.power[effect]:.0f} %",
            *(NOTHING if n is None else f"{n:,}" for n in needed),
        )
    console = PlainConsole()
    console.print(table)
    level, comparisons = found[0].design.level, found[0].design.comparisons
    family = f" of {comparisons} comparisons together" if comparisons > 1 else ""
    console.print(
        f"Could see: the smallest difference that is called one with {100 * POWER:.0f} % power, at {100 * level:g} "
        f"%{family}. Needed for {effect:g} with that power: seeds with these queries; queries of each language with "
        f"these seeds; {NOTHING}: no number is enough, or one seed does not tell.",
        style="dim",
        markup=False,
        highlight=False,
    )
