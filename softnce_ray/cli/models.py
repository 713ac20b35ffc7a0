"""Commands that take trained models further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softnce_ray.cli.options import StoreOption, StudyName, TrackingOption, store_at
from softnce_ray.errors import UserError


def export(
    study: StudyName,
    to: Annotated[Path, typer.Option("--to", help="Folder to make.")],
    arm: Annotated[str | None, typer.Option(help="Only from this arm.")] = None,
    language: Annotated[
        str | None, typer.Option(help="As in the study's file, all included; needed when it has several.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write the best model by validation as a folder that sentence-transformers loads."""
    from softnce_ray.export import export as run

    done = run(study, to, store=store_at(store, tracking_uri), arm=arm, language=language, overwrite=overwrite)
    trial = done.trial
    print(
        f"{done.folder}: {trial.arm}/{trial.language} seed {trial.seed}, "
        f"valid MRR {trial.metrics['best_valid_mrr']:.4f}; checked, largest difference of a vector "
        f"{done.largest_difference:.1e}"
    )


def search(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="An exported model.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="What to look for.")],
    corpus: Annotated[Path, typer.Option("--corpus", help="The corpus to search.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Answers to each query.")] = 5,
    show_code: Annotated[bool, typer.Option("--code", help="Print the functions too.")] = False,
) -> None:
    """Find the functions of a corpus that answer a query, with an exported model alone."""
    from softnce_ray.retrieval import search as run

    if not all(query.strip() for query in queries):
        raise UserError("QUERY: expected words to look for, got an empty text")
    for query, hits in zip(queries, run(model, corpus, queries, top=top), strict=True):
        print(f"# {' '.join(query.split())}")
        for hit in hits:
            print(f"{hit.score:.3f}\t{hit.path}:{hit.line}\t{hit.name}\t{hit.documentation}")
            if show_code:
                print("\n".join("    " + line for line in hit.code.splitlines()) + "\n")
