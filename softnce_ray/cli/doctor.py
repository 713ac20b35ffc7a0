"""The command that looks for trouble before a study starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from softnce_ray.cli.options import (
    AddressOption,
    CalibrateOption,
    StorageOption,
    StoreOption,
    TrackingOption,
    TrustOption,
    on_cluster,
    store_at,
)
from softnce_ray.terminal import to_stdout


def doctor(
    study: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDY.yaml]", help="Also whether this study would run.", show_default=False),
    ] = None,
    store: StoreOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    calibrate: CalibrateOption = False,
    trust_corpus: TrustOption = False,
) -> None:
    """Look for what would stop or hurt a study: versions, storage, MLflow, disk, memory, CPUs and GPUs.

    Prints a line for each thing looked at, with the remedy below it (or in the last column, where it is piped). Exit
    status 1: there are errors.
    """
    from softnce_ray.study.doctor import examine

    on_cluster(address)
    found = examine(study, store_at(store, tracking_uri, storage), trust_corpus=trust_corpus, calibrate=calibrate)
    for each in found:
        if sys.stdout.isatty():
            to_stdout(
                f"{each.level:<8} {each.check:<10} {each.text}" + (f"\n{'':<20}{each.remedy}" if each.remedy else "")
            )
        else:
            to_stdout(f"{each.level}\t{each.check}\t{each.text}\t{each.remedy}")
    if any(each.level == "error" for each in found):
        raise typer.Exit(1)
