"""Commands that make corpora and look at them."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softnce_ray.errors import UserError
from softnce_ray.terminal import to_stderr, to_stdout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softnce_ray.corpus import Manifest, SourceSet
    from softnce_ray.corpus.mining import MapChunks

app = typer.Typer(no_args_is_help=True, help="Make and look at corpora of (query, code) pairs.")

DropRepeatedQueries = Annotated[
    bool,
    typer.Option("--drop-repeated-queries", help="Leave out valid and test pairs whose query a training pair has too."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Keep at most so many pairs of a language, spread evenly over its packages."),
]
Valid = Annotated[int, typer.Option("--valid", min=1, help="Validation pairs wanted of each language.")]
Test = Annotated[int, typer.Option("--test", min=1, help="Test pairs wanted of each language.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes.")]
OnRay = Annotated[
    bool, typer.Option("--ray", help="Mine as Ray tasks instead; nodes of $RAY_ADDRESS must see the files as here.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the corpus in --out and nothing else.")]
Out = Annotated[str, typer.Option(metavar="DIR", help="Folder to make on this machine; corpus copy takes it further.")]
Cache = Annotated[str, typer.Option(metavar="DIR", help="Folder where archives are kept and unpacked.")]
Place = Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus: a folder or a URI.")]
KeepPublishedTest = Annotated[
    bool,
    typer.Option(
        "--keep-published-test/--leave-out-published-test",
        help="Keep projects that stand in CodeSearchNet's validation or test split, or leave them out.",
    ),
]
ApartFrom = Annotated[
    str | None,
    typer.Option(
        metavar="CORPUS",
        help="Leave out projects and functions of this corpus' valid and test, a folder or a URI, to measure on it.",
    ),
]
StripNames = Annotated[
    bool,
    typer.Option("--strip-names/--keep-names", help="Take a function's name out of its documentation: Go's begins so."),
]


def _mine(sets: Mapping[str, SourceSet], out: str, on_ray: bool, **options: Any) -> None:
    """Mine and build with a progress display, in processes or as Ray tasks, and say what came of it."""
    from softnce_ray.corpus import mine_corpus
    from softnce_ray.progress import progress

    tasks: AbstractContextManager[MapChunks | None] = nullcontext()
    if on_ray:
        from softnce_ray.study.cluster import chunk_mapper

        tasks = chunk_mapper()
    with tasks as map_chunks, progress("mining", "files") as advance:
        manifest = mine_corpus(
            sets,
            out,
            map_chunks=map_chunks,
            progress=lambda done, total, pairs: advance(done, total, f"{pairs:,} pairs"),
            **options,
        )
    _say_corpus(out, manifest)


@app.command("mine")
def corpus_mine(
    out: Out,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Folder of source trees, or an archive, on this machine; repeatable."),
    ] = None,
    python_environment: Annotated[
        bool, typer.Option("--python-environment", help="The Python environment that runs this command.")
    ] = False,
    language: Annotated[str, typer.Option("--language", help="One, or auto: those that the files are of.")] = "python",
    limit: Limit = None,
    valid: Valid = 1000,
    test: Test = 1000,
    seed: Seed = 0,
    workers: Workers = 2,
    on_ray: OnRay = False,
    strip_names: StripNames = True,
    cache: Cache = "corpora/cache",
    overwrite: Overwrite = False,
    drop_repeated_queries: DropRepeatedQueries = False,
    keep_published_test: KeepPublishedTest = True,
    apart_from: ApartFrom = None,
) -> None:
    """Mine documented functions from source code into a corpus, split by package."""
    from softnce_ray.corpus import LANGUAGES, Corpus, check_output, source_sets
    from softnce_ray.corpus import python_environment as environment
    from softnce_ray.storage import local

    if bool(source) == python_environment:
        raise UserError("expected one of --source PATH and --python-environment")
    if language not in (*LANGUAGES, "auto"):
        raise UserError(f"--language: expected one of {', '.join(LANGUAGES)}, auto, got {language!r}")
    if python_environment and language != "python":
        raise UserError(f"--python-environment holds python, got --language {language}")
    check_output(out, overwrite=overwrite)
    apart = None if apart_from is None else Corpus.open(apart_from)
    if source:
        sets = source_sets(
            [local(each, "--source", "fetch it to this machine first") for each in source],
            _cache(cache),
            languages=None if language == "auto" else [language],
        )
    else:
        sets = {"python": environment(LANGUAGES["python"])}
    _mine(
        sets,
        out,
        on_ray,
        limit=limit,
        valid=valid,
        test=test,
        seed=seed,
        workers=workers,
        strip_names=strip_names,
        overwrite=overwrite,
        drop_repeated_queries=drop_repeated_queries,
        keep_published_test=keep_published_test,
        apart_from=apart,
        recipe={"source": source or "python environment", "language": language},
    )


@app.command("recipe")
def corpus_recipe(
    name: Annotated[str, typer.Argument(help="six_languages, or a YAML file of packages.")],
    out: Out,
    language: Annotated[
        list[str] | None, typer.Option("--language", help="Only this one of the recipe; repeatable.")
    ] = None,
    limit: Limit = None,
    valid: Valid = 1000,
    test: Test = 1000,
    seed: Seed = 0,
    workers: Workers = 2,
    on_ray: OnRay = False,
    strip_names: StripNames = True,
    cache: Cache = "corpora/cache",
    overwrite: Overwrite = False,
    drop_repeated_queries: DropRepeatedQueries = False,
    keep_published_test: KeepPublishedTest = False,
    apart_from: ApartFrom = None,
) -> None:
    """Fetch well documented packages with the ordinary clients and mine them: a corpus without a hub."""
    from softnce_ray.corpus import Corpus, check_output, fetch_recipe, fetched_sources
    from softnce_ray.progress import progress

    check_output(out, overwrite=overwrite)
    apart = None if apart_from is None else Corpus.open(apart_from)
    folder = _cache(cache)
    with progress("fetching", "packages") as advance:
        # Only the recipes that come along are named by what is also written with hyphens.
        recipe = name if name.endswith((".yaml", ".yml")) else name.replace("-", "_")
        fetched = fetch_recipe(recipe, folder, languages=language, progress=advance)
    for line in fetched.problems:
        to_stderr(f"note: {line}")
    _mine(
        fetched_sources(fetched, folder / "unpacked"),
        out,
        on_ray,
        limit=limit,
        valid=valid,
        test=test,
        seed=seed,
        workers=workers,
        strip_names=strip_names,
        overwrite=overwrite,
        drop_repeated_queries=drop_repeated_queries,
        keep_published_test=keep_published_test,
        apart_from=apart,
        recipe={"recipe": fetched.recipe, "packages": fetched.packages},
        notes=fetched.problems,
    )


@app.command("import")
def corpus_import(
    path: Annotated[str, typer.Argument(help="A file of pairs, or a folder of them, on this machine.")],
    out: Out,
    format: Annotated[
        str | None, typer.Option("--format", help="codesearchnet, graphcodebert, cosqa or table (default: found out).")
    ] = None,
    language: Annotated[str | None, typer.Option("--language", help="Where the records do not say.")] = None,
    clean: Annotated[
        bool | None,
        typer.Option(
            help="Apply the cleaning rules of mined pairs (default: to no published benchmark, nor to other records "
            "that name a split)."
        ),
    ] = None,
    max_bad_share: Annotated[
        float, typer.Option("--max-bad-share", min=0, max=1, help="Stop when more of the lines are broken.")
    ] = 0.01,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="For tables, what is where: query=docstring; repeatable.")
    ] = None,
    overwrite: Overwrite = False,
    drop_repeated_queries: DropRepeatedQueries = False,
) -> None:
    """Make a corpus from files of pairs that exist, such as CodeSearchNet's. Their splits are kept, valid and test
    whole: training pairs that repeat these are left out."""
    from softnce_ray.corpus import import_corpus
    from softnce_ray.corpus.checking import repeated_queries
    from softnce_ray.storage import local

    columns = dict(each.partition("=")[::2] for each in column or ())
    if not all(columns.values()) or len(columns) < len(column or ()):
        raise UserError(f"--column: expected NAME=COLUMN, each name once, got {' '.join(column or ())}")
    manifest = import_corpus(
        local(path, "PATH", "fetch it to this machine first"),
        out,
        format=format,
        language=language,
        clean=clean,
        columns=columns or None,
        max_bad_share=max_bad_share,
        overwrite=overwrite,
        drop_repeated_queries=drop_repeated_queries,
    )
    if manifest.recipe["format"] == "table" and manifest.findings is not None:
        for note in repeated_queries(manifest.findings):
            to_stderr(f"note: {note}")
    _say_corpus(out, manifest)


@app.command("check")
def corpus_check(
    folder: Place,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS",
            help="Count instead what of this corpus' valid and test, a folder or a URI, the first one has: exit status "
            "1 where its train has some.",
        ),
    ] = None,
) -> None:
    """Read all rows of a corpus and see that evaluation is clean of training: exit status 1 where it is not."""
    if against is not None:
        _check_against(folder, against)
        return
    from softnce_ray.corpus import Corpus
    from softnce_ray.corpus.checking import examine_rows, split_by_package
    from softnce_ray.corpus.verifying import Verify

    corpus = Corpus.open(folder, verify=Verify.ALL)
    findings = examine_rows(corpus)
    for language, splits in findings.same_query_other_code.items():
        counts = ", ".join(f"{split} {pairs:,}" for split, pairs in splits.items())
        to_stdout(f"{folder}: {language}: pairs whose query another pair has with another code: {counts}")
    for problem in findings.problems:
        to_stderr(f"{folder}: {problem}")
    if findings.problems:
        raise typer.Exit(1)
    manifest = corpus.manifest
    otherwise = ", ".join(sorted(manifest.languages.keys() - split_by_package(manifest)))
    packages = f"not split by package: {otherwise}" if otherwise else "no package on both sides"
    to_stdout(f"{folder}: no function of valid or test is in train; {packages}; the rows are the manifest's")


def _check_against(folder: str, against: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from softnce_ray.corpus import Corpus
    from softnce_ray.corpus.comparing import Overlap, compare
    from softnce_ray.rich_console import PlainConsole

    one, other = Corpus.open(folder), Corpus.open(against)
    if one.fingerprint == other.fingerprint:
        raise UserError(
            f"--against: expected another corpus than {folder}, got the same: leave it out to check this one"
        )
    found = list(compare(one, other))
    names = [field.name for field in dataclasses.fields(Overlap)]
    rows = [
        [str(len(value) if isinstance(value, tuple) else value) for value in dataclasses.astuple(each)]
        for each in found
    ]
    if sys.stdout.isatty():
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in names:
            table.add_column(
                name.replace("_", " "), justify="left" if name in ("language", "split", "against") else "right"
            )
        for row in rows:
            table.add_row(*row)
        PlainConsole().print(table)
    else:
        to_stdout("\n".join("\t".join(row) for row in [names, *rows]))
    if alone := sorted(set(one.languages) ^ set(other.languages)):
        to_stderr(f"note: not compared, as only one of the two has it: {', '.join(alone)}")
    problems = [problem for each in found if each.split == "train" and (problem := each.problem(against))]
    for problem in problems:
        to_stderr(f"{folder}: {problem}")
    if problems:
        raise typer.Exit(1)


@app.command("plant")
def corpus_plant(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus to take pairs from: a folder or a URI.")],
    out: Out,
    language: Annotated[str, typer.Option("--language")] = "python",
    share: Annotated[
        list[float] | None,
        typer.Option("--share", help="Part of training in planted groups; repeatable (default: 0, 0.1 and 0.3)."),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", help="Training pairs for each share.")] = 8000,
    members: Annotated[int, typer.Option("--members", help="Pairs of one meaning in training.")] = 16,
    queries: Annotated[int, typer.Option("--queries", help="At most so many pairs each in valid and test.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make a corpus with false negatives whose number is known: a language for each share of them."""
    from softnce_ray.corpus import plant
    from softnce_ray.corpus.planting import SHARES

    manifest = plant(
        corpus,
        out,
        language=language,
        shares=share or SHARES,
        pairs=pairs,
        members=members,
        queries=queries,
        seed=seed,
        overwrite=overwrite,
    )
    _say_corpus(out, manifest)


@app.command("show")
def corpus_show(folder: Place) -> None:
    """Print a corpus' manifest: counts, what was dropped and why, rules, fingerprint."""
    from softnce_ray.corpus import Corpus

    to_stdout(Corpus.listed(folder).manifest.model_dump_json(indent=1))


@app.command("copy")
def corpus_copy(
    source: Place,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where to: a folder, or s3://bucket/folder.")],
) -> None:
    """Copy a corpus to where all machines of a cluster can read it; a study names it by that place."""
    from softnce_ray.corpus import copy_corpus
    from softnce_ray.progress import progress

    with progress("copying", "files") as advance:
        manifest = copy_corpus(source, target, progress=lambda done, total: advance(done, total, ""))
    to_stdout(f"{target}: corpus {manifest.fingerprint[:12]} of {', '.join(sorted(manifest.languages))}")


def _cache(folder: str) -> Path:
    from softnce_ray.storage import local

    return local(folder, "--cache", "archives are unpacked on this machine: give a folder of it")


def _say_corpus(out: str, manifest: Manifest) -> None:
    for note in manifest.notes:
        to_stderr(f"note: {note}")
    for language, counts in manifest.languages.items():
        splits = ", ".join(f"{split} {pairs:,}" for split, pairs in counts.pairs.items())
        packages = {package for of_split in counts.packages.values() for package in of_split}
        to_stdout(f"{out}: {language}: {splits} pairs of {len(packages)} packages")
    dropped = sum(count for reasons in manifest.dropped.values() for count in reasons.values())
    to_stdout(
        f"fingerprint {manifest.fingerprint[:12]}; {dropped:,} files, functions and pairs were left out: "
        f"reasons in {out}/manifest.json"
    )
