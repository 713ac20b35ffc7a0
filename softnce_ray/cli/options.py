"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from softnce_ray.store import Store

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of runs, searches and checkpoints (default: $SOFTNCE_STORE or softnce_runs)"),
]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow server (default: $MLFLOW_TRACKING_URI or a database in the store)"),
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a launched study, as in its file.")]


def store_at(folder: Path | None, tracking_uri: str | None) -> Store:
    """The store that the options name."""
    from softnce_ray.store import Store

    return Store.at(folder, tracking_uri)
