"""Commands that show what studies found."""

from __future__ import annotations

import enum
import io
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from softnce_ray.cli.options import StoreOption, StudyName, TrackingOption, store_at
from softnce_ray.errors import UserError
from softnce_ray.terminal import plain, to_stderr, to_stdout


class Format(enum.StrEnum):
    """Renderings of a report."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    html = "html"
    json = "json"


def report(
    study: StudyName,
    baseline: Annotated[str | None, typer.Option(help="Compare with this arm (default: the study's).")] = None,
    measure: Annotated[
        Literal["reciprocal_rank", "graded_ndcg"],
        typer.Option(help="What of each query to compare; graded_ndcg: where codes of a meaning are known."),
    ] = "reciprocal_rank",
    inference: Annotated[
        Literal["seeds-and-queries", "these-models"],
        typer.Option(help="Of what p and intervals speak: other seeds and queries, or these trained models alone."),
    ] = "seeds-and-queries",
    versus_paper: Annotated[
        bool, typer.Option("--versus-paper", help="Put published numbers beside these, and say what differs.")
    ] = False,
    format: Annotated[Format, typer.Option("--format")] = Format.terminal,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write to this file of this machine instead of stdout.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --out.")] = False,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="With html: the corpus for queries and code, its folder on this machine or URI (default: as launched)."
        ),
    ] = None,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Compare the arms of a study: means, intervals, differences, corrected p; html has the pictures."""
    from softnce_ray.report import build_report, to_html, to_json, to_latex, to_markdown, to_terminal
    from softnce_ray.report.wording import problem_text
    from softnce_ray.rich_console import Page, for_stdout
    from softnce_ray.tracking import load_results

    file = None if out is None else _free(out, overwrite)
    if corpus is not None:
        if format is not Format.html:
            raise UserError(f"--corpus: only an html report shows queries and code, got --format {format}")
        from softnce_ray.corpus import Corpus

        Corpus.open(corpus)
    place = store_at(store, tracking_uri)
    results = load_results(place, study, baseline=baseline)
    made = build_report(results, baseline=baseline, measure=measure, inference=inference, versus_paper=versus_paper)
    damaged = {trial.run_id for trial in results.trials if trial.status == "FINISHED" and trial.failure}
    for problem in made.problems:
        if damaged.intersection(problem.run_ids):  # in a pipe, numbers are taken for those of all trials
            to_stderr(f"note: not in the table: {problem_text(problem)}")
    written = ""
    match format:
        case Format.html:
            from softnce_ray.study.reporting import collect

            written = to_html(made, collect(place, results, made, corpus=corpus))
        case Format.latex:
            written = to_latex(made)
        case Format.markdown:
            written = to_markdown(made)
        case Format.json:
            written = to_json(made)
    if format is Format.terminal:
        text = io.StringIO()
        console = Page(text) if file else for_stdout()
        console.print(to_terminal(made, width=console.width))
        written = text.getvalue()
    if file is not None:
        _write(file, plain(written).rstrip("\n") + "\n")
    elif format is not Format.terminal:
        to_stdout(written.rstrip("\n"))


def _free(place: str, overwrite: bool) -> Path:
    """The path of a file that can be made there: seen before the work."""
    from softnce_ray.folders import nearest
    from softnce_ray.storage import local

    out = local(place, "--out", "write it to a file here, and copy that")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: expected the name of a file, got something else there: give another")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out}: exists already: give another, or --overwrite")
    if not os.access(above := nearest(out), os.W_OK):
        raise UserError(f"--out {out}: expected a folder that can be written at {above}: give another")
    return out


def _write(out: Path, text: str) -> None:
    from softnce_ray.folders import write_text

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}: give another") from error


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
