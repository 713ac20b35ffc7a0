"""Commands that show what studies found."""

from __future__ import annotations

import contextlib
import enum
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from softnce_ray.cli.options import StoreOption, StudyName, TrackingOption, store_at
from softnce_ray.errors import UserError

_PAGE = 130
"""Columns of a report that is not for a terminal: nobody's window cuts it."""


class Format(enum.StrEnum):
    """Renderings of a report."""

    terminal = "terminal"
    markdown = "markdown"
    json = "json"


def report(
    study: StudyName,
    baseline: Annotated[str | None, typer.Option(help="Compare with this arm (default: the study's).")] = None,
    measure: Annotated[
        Literal["reciprocal_rank", "graded_ndcg"],
        typer.Option(help="What of each query to compare; graded_ndcg: where codes of a meaning are known."),
    ] = "reciprocal_rank",
    format: Annotated[Format, typer.Option("--format")] = Format.terminal,
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of stdout.")] = None,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Compare the arms of a study: means, intervals, differences, corrected p."""
    from rich.console import Console

    from softnce_ray.report import build_report, to_json, to_markdown, to_terminal
    from softnce_ray.tracking import load_results

    made = build_report(load_results(store_at(store, tracking_uri), study), baseline=baseline, measure=measure)
    try:
        target = open(out, "w", encoding="utf-8") if out else _stdout()  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error
    with target as file:
        if format is Format.terminal:
            console = Console(file=file, width=None if file.isatty() else _PAGE)
            console.print(to_terminal(made, width=console.width))
        else:
            file.write((to_markdown(made) if format is Format.markdown else to_json(made)).rstrip("\n") + "\n")


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Another address than this machine's own opens the runs to it.")
    ] = "127.0.0.1",
    store: StoreOption = None,
) -> None:
    """Open MLflow on the store of the studies."""
    from softnce_ray.tracking import serve

    serve(store_at(store, None), host=host, port=port)


def _stdout():
    return contextlib.nullcontext(sys.stdout)
