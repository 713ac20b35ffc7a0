"""Commands that use a model: index sources, search, evaluate."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from softnce_ray.cli.options import TrustOption
from softnce_ray.commands import command
from softnce_ray.errors import UserError
from softnce_ray.terminal import in_line, to_stderr, to_stdout

if TYPE_CHECKING:
    from softnce_ray.progress import Advance
    from softnce_ray.retrieval import Answered, Evaluation, Line


class Format(enum.StrEnum):
    """Renderings of an evaluation; tsv is the default where stdout is no terminal."""

    terminal = "terminal"
    tsv = "tsv"
    json = "json"


def index(
    source: Annotated[
        str, typer.Argument(help="A folder of sources, a source file, an archive, or a corpus: its folder or URI.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Folder of an export (hf or sentence-transformers) or of another sentence encoder."
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder to make on this machine, or the index to bring up to date.")
    ],
    half: Annotated[bool, typer.Option("--half", help="Keep vectors as float16: half the space.")] = False,
    without_tests: Annotated[bool, typer.Option("--without-tests", help="Pass over tests and examples.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read sources.")] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an index of another source or model in --out.")
    ] = False,
) -> None:
    """Make source code searchable: every function of six languages, documented or not, with file and line."""
    from softnce_ray.progress import progress
    from softnce_ray.retrieval import build_index

    with contextlib.ExitStack() as shown:
        reading = shown.enter_context(progress("reading", "files"))
        later: list[Advance] = []

        def embedding(finished: int, total: int, note: str) -> None:
            if not later:  # a terminal has one display at a time
                shown.close()
                later.append(shown.enter_context(progress("embedding", "functions")))
            later[0](finished, total, note)

        done = build_index(
            source,
            model,
            out,
            number="float16" if half else "float32",
            tests=not without_tests,
            workers=workers,
            overwrite=overwrite,
            reading=reading,
            embedding=embedding,
        )
    _note_unchecked(Path(model))
    if done.passed_over:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(done.passed_over.items()))
        to_stderr(f"passed over: {reasons}")
    languages = ", ".join(f"{language} {count:,}" for language, count in done.languages.items())
    to_stdout(
        f"{done.folder}: {done.functions:,} functions ({languages}) of {done.files:,} files, {done.texts:,} different; "
        f"{done.computed:,} embedded, {done.reused:,} unchanged; {done.bytes / 1e6:.1f} MB"
    )


def search(
    where: Annotated[str, typer.Argument(metavar="INDEX", help="An index; with --corpus the folder of a model.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="What to look for.")],
    corpus: Annotated[
        str | None,
        typer.Option(help="Search this corpus, a folder or a URI, with the model INDEX, without an index."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the index's model is now (default: where it was)."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Answers to each query.")] = 5,
    show_code: Annotated[bool, typer.Option("--code", help="Print the functions too.")] = False,
    hybrid: Annotated[
        bool,
        typer.Option(
            "--hybrid",
            help="Fuse with BM25 over names, documentation and code: scores are sums of standard deviations above the "
            "mean function, and order the answers to one query only.",
        ),
    ] = False,
) -> None:
    """Find the functions that answer a query, in an index or a corpus.

    After a line "# QUERY" comes one for each function, its fields with tabs between them: score, file:line, name,
    documentation, and what the score is (cosine, dot or fused). Words that no function has are told on stderr.
    """
    if not all(query.strip() for query in queries):
        raise UserError("QUERY: expected words to look for, got an empty text")
    if corpus is not None and (hybrid or model is not None):
        option = "--hybrid" if hybrid else "--model"
        index = command("softnce-ray", "index", corpus, "--model", where, "--out", "INDEX")
        raise UserError(f"{option}: is for an index: make one with `{index}`")
    for answered in _answers(where, queries, corpus, model, top, hybrid):
        if answered.note:
            to_stderr(f"note: {answered.note}")
        to_stdout(f"# {in_line(answered.query)}")
        for hit in answered.hits:
            also = f" (and {hit.elsewhere} more with the same code)" if hit.elsewhere else ""
            said = in_line(hit.documentation) + also
            to_stdout(
                f"{hit.score:.3f}\t{in_line(hit.path)}:{hit.line}\t{in_line(hit.name)}\t{said}\t{answered.measure}"
            )
            if show_code:
                to_stdout("\n".join("    " + line for line in hit.code.splitlines()) + "\n")


def _note_unchecked(model: Path) -> None:
    """Note that it is not known whether the files of an export of an earlier version have changed."""
    from softnce_ray.exported import unchecked

    if note := unchecked(model.resolve()):
        to_stderr(f"note: {note}")


def _answers(
    where: str, queries: list[str], corpus: str | None, model: str | None, top: int, hybrid: bool
) -> list[Answered]:
    from softnce_ray.exported import EXPORT_RECORD, EXPORT_SETTINGS
    from softnce_ray.retrieval import Index, answer_from_corpus, answer_from_index

    if corpus is not None:
        _note_unchecked(Path(where))
        return answer_from_corpus(where, corpus, queries, top=top)
    if any((Path(where) / name).is_file() for name in (EXPORT_SETTINGS, "modules.json", EXPORT_RECORD)):
        raise UserError(
            f"{where} is a model: give --corpus CORPUS too, or make an index with "
            f"`{command('softnce-ray', 'index', 'DIR', '--model', where, '--out', 'INDEX')}` and search that"
        )
    opened = Index.open(where)
    embedder = opened.embedder(model)
    _note_unchecked(embedder.folder)
    return answer_from_index(opened, embedder, queries, top=top, hybrid=hybrid)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder of an export (hf or sentence-transformers) or of another sentence encoder."
        ),
    ],
    corpus: Annotated[str | None, typer.Option(help="Rank the queries of this corpus: its folder or URI.")] = None,
    qrels: Annotated[
        str | None, typer.Option(metavar="PATH", help="Graded judgements: judgements.jsonl beside codes.jsonl.")
    ] = None,
    split: Annotated[Literal["valid", "test"], typer.Option("--split", help="Queries of the corpus.")] = "test",
    language: Annotated[
        list[str] | None,
        typer.Option("--language", help="Only this one of the corpus, repeatable; of --qrels, where codes name none."),
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(metavar="CORPUS", help="What the model was trained on: note what of it --corpus evaluates."),
    ] = None,
    max_bad_share: Annotated[
        float, typer.Option("--max-bad-share", min=0, max=1, help="Stop when more lines of a --qrels file are broken.")
    ] = 0.01,
    trust_corpus: TrustOption = False,
    format: Annotated[Format | None, typer.Option("--format", help="Default: terminal, or tsv when piped.")] = None,
) -> None:
    """Measure a model on a corpus or on graded judgements, with BM25 and the hybrid of both beside it."""
    from softnce_ray.corpus.trained_on import training_notes
    from softnce_ray.progress import progress
    from softnce_ray.retrieval import evaluate_corpus, evaluate_judgements

    if corpus is None and qrels is None:
        raise UserError("expected --corpus CORPUS or --qrels FILE, or both, got neither: nothing to evaluate on")
    if language and len(language) > 1 and corpus is None:
        raise UserError(f"--language: expected one for codes of --qrels that name none, got {', '.join(language)}")
    if trained_on is not None and corpus is None:
        raise UserError("--trained-on: is for --corpus, got it without one")
    if corpus is not None:
        for note in training_notes(model, corpus, split=split, languages=language, trained_on=trained_on):
            to_stderr(f"note: {note}")
    made: list[Evaluation] = []
    with progress("embedding", "functions") as advance:
        if corpus is not None:
            made.append(
                evaluate_corpus(
                    model, corpus, split=split, languages=language, trust_corpus=trust_corpus, advance=advance
                )
            )
        if qrels is not None:
            unnamed = language[0] if language and len(language) == 1 else None
            made.append(
                evaluate_judgements(model, qrels, language=unnamed, max_bad_share=max_bad_share, advance=advance)
            )
    _note_unchecked(Path(model))
    for note in (note for each in made for note in each.notes):
        to_stderr(f"note: {note}")
    chosen = format or (Format.terminal if sys.stdout.isatty() else Format.tsv)
    if chosen is Format.json:
        to_stdout(json.dumps([_plain(each) for each in made], indent=1))
    elif chosen is Format.tsv:
        to_stdout("\n".join(_tsv(made)))
    else:
        _show(made)


def _plain(made: Evaluation) -> dict[str, object]:
    return {**dataclasses.asdict(made), "model": str(made.model)}


def _tsv(made: Iterable[Evaluation]) -> Iterable[str]:
    """One row for each metric: tables of all kinds have the same columns."""
    yield "data\tsplit\tlanguage\tsystem\tqueries\tcodes\tmetric\tvalue\tlow\thigh"
    for each in made:
        for line in each.lines:
            for name, value in line.metrics.items():
                yield "\t".join(
                    map(
                        str,
                        (
                            *(each.data, each.split, line.language, line.system, line.queries, line.codes),
                            *(name, f"{value.mean:.6f}"),
                            *(("", "") if value.queries == 1 else (f"{value.low:.6f}", f"{value.high:.6f}")),
                        ),
                    )
                )


def _show(made: Iterable[Evaluation]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from softnce_ray.rich_console import for_stdout

    console = for_stdout()
    for each in made:
        console.print(f"{each.model.name} ({each.content[:12]}) on {each.data}, {each.split}", markup=False)
        names = list(each.lines[0].metrics)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("language", "system"):
            table.add_column(name)
        for name in ("queries", "codes", *names):
            table.add_column(name, justify="right")
        for line in each.lines:
            table.add_row(line.language, line.system, f"{line.queries:,}", f"{line.codes:,}", *_cells(line, names))
        console.print(table)
    console.print(
        "Brackets: 95 % interval over queries (Student's). bm25: k1 1.2, b 0.75, words with "
        "identifiers split. hybrid: sum of both scores, standardised over the codes."
    )


def _cells(line: Line, names: list[str]) -> list[str]:
    """Values; with their interval where there is room: of the first metric, and of two both."""
    from softnce_ray.report.wording import bounds

    cells = []
    for number, name in enumerate(names):
        value = line.metrics[name]
        interval = f" {bounds(value, '{:.4f}'.format)}" if number == 0 or len(names) == 2 else ""
        cells.append(f"{value.mean:.4f}{interval}")
    return cells
