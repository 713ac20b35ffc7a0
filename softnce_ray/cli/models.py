"""Commands that take trained models further."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from softnce_ray.cli.options import StoreOption, TrackingOption, store_at
from softnce_ray.terminal import to_stderr, to_stdout


def export(
    study: Annotated[
        str, typer.Argument(metavar="STUDY|RUN", help="Name of a launched study, or the id of a trial's run.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Folder to make on this machine; of several formats, each has a folder in it."
        ),
    ],
    formats: Annotated[
        str, typer.Option("--formats", help="hf, sentence-transformers, onnx, mlflow: one, or several with commas.")
    ] = "sentence-transformers",
    int8: Annotated[bool, typer.Option("--int8", help="Beside the ONNX graph one of int8, its loss measured.")] = False,
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Registered model that an mlflow export is champion of (default: the study)."
        ),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Only from this arm.")] = None,
    language: Annotated[
        str | None, typer.Option(help="As in the study's file, all included; needed when it has several.")
    ] = None,
    rule: Annotated[
        Literal["recorded", "best"] | None,
        typer.Option(
            help="recorded: the model that the command best has recorded; best: the best seed of the arm with the best "
            "mean validation MRR (default: recorded, if it was chosen of the trials that there are now; else best)."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(metavar="CORPUS", help="The study's corpus, a folder or a URI (default: where its file says)."),
    ] = None,
    ranks: Annotated[
        bool, typer.Option("--ranks/--no-ranks", help="Compare with the ranks that the run stored.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export and nothing else.")] = False,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write the model that best has recorded, else the best by validation, or a run's, for other libraries.

    Each format is read again by a fresh process and compared with the trained model.
    """
    from softnce_ray.export import export as run

    done = run(
        study,
        to,
        store=store_at(store, tracking_uri),
        arm=arm,
        language=language,
        rule=rule,
        formats=[name.strip() for name in formats.split(",")],
        int8=int8,
        register=register,
        corpus=corpus,
        ranks=ranks,
        overwrite=overwrite,
        say=to_stderr,
    )
    trial = done.trial
    to_stdout(
        f"{done.folder}: {trial.arm}/{trial.language} seed {trial.seed}, "
        f"valid MRR {trial.metrics['best_valid_mrr']:.4f}; checked, largest difference of a vector "
        f"{done.largest_difference:.1e} of its length"
    )
    for name, checked in done.checked.items():
        ranked = "ranks not compared"
        if checked.mrr is not None:
            same = checked.queries - checked.other_ranks
            ranked = f"{same:,} of {checked.queries:,} ranks as stored, MRR {checked.mrr:.4f}"
        to_stdout(f"{name}: {done.sizes[name] / 1e6:.1f} MB, difference {checked.difference:.1e}, {ranked}")
    if done.registered:
        name, version, before = done.registered
        to_stdout(
            f"registered {name} version {version}, champion" + (f" in place of version {before}" if before else "")
        )
