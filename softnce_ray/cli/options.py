"""Options that several commands share."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softnce_ray.commands import command
from softnce_ray.errors import UserError

if TYPE_CHECKING:
    from softnce_ray.store import Store


_TRACKING = "MLFLOW_TRACKING_URI"


def hide_password() -> None:
    """Start this process anew where an address on its command line has a password, which all users of the machine could
    read: the password is then in the environment, which only this user can. Ray shows command lines of drivers, too."""
    given = [sys.argv[at + 1] for at, word in enumerate(sys.argv[:-1]) if word == "--tracking-uri"]
    given += [word.partition("=")[2] for word in sys.argv if word.startswith("--tracking-uri=")]
    if not given or (shown := _without_password(given[-1])) == given[-1]:
        return
    os.environ[_TRACKING] = given[-1]
    os.execv(sys.executable, [word.replace(given[-1], shown) for word in sys.orig_argv])


def whole_address(given: str | None) -> str | None:
    """An address as it was typed, after `hide_password`."""
    typed = os.environ.get(_TRACKING, "")
    return typed if given and given != typed and given == _without_password(typed) else given


def _without_password(uri: str) -> str:
    """As shown by `ps`; what else hides passwords takes a second to import."""
    head, at, tail = uri.rpartition("@")
    shown = f"{head.partition('://')[0]}://…@{tail}" if at and ":" in head.partition("://")[2] else uri
    return re.sub(r"(pass[^=&]*=)[^&]+", r"\1…", shown)


StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder of runs, searches and checkpoints (default: $SOFTNCE_STORE or softnce_runs)",
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow server (default: $MLFLOW_TRACKING_URI or a database in the store)",
        callback=whole_address,
    ),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="What machines share that have no disk in common, such as s3://bucket/folder (default: $SOFTNCE_STORAGE, "
        "or the store)",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="A running Ray cluster: auto (on this machine), HOST:PORT or ray://HOST:PORT (default: $RAY_ADDRESS, or a "
        "Ray of its own)",
    ),
]


UpgradeOption = Annotated[
    bool,
    typer.Option(
        "--upgrade-store", help="Migrate databases that an older MLflow or Optuna made: back the store up before."
    ),
]


def study_name(text: str) -> str:
    """Return the name of a study. It becomes folders of the store: no other text may lead out of it."""
    from softnce_ray.config.settings import NAME

    if not re.fullmatch(NAME, text):
        raise UserError(
            f"expected the name of a study (lower case, digits, - and _; at most 63 characters), got {text[:80]!r}: "
            "give what its file has as `study:`"
        )
    return text


StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="Name of a launched study, as in its file.", callback=study_name)
]


def store_at(folder: Path | None, tracking_uri: str | None, storage: str | None = None) -> Store:
    """The store that the options name."""
    from softnce_ray.store import Store

    return Store.at(folder, tracking_uri, storage)


def on_cluster(address: str | None) -> None:
    """Use the cluster at this address.

    Raises:
      UserError: the address is none that a study can be launched on.
    """
    if address is None:
        return
    if address.startswith(("http://", "https://")):
        submit = command("softnce-ray", "submit", "STUDY.yaml", "--address", address)
        raise UserError(
            f"--address: expected auto, HOST:PORT or ray://HOST:PORT, got {address}: that is a Jobs server; "
            f"`{submit}` sends a study there"
        )
    os.environ["RAY_ADDRESS"] = address


TrustOption = Annotated[
    bool,
    typer.Option("--trust-corpus", help="Do not read the rows of the corpus to compare them with its manifest."),
]
CalibrateOption = Annotated[
    bool,
    typer.Option(
        "--calibrate", help="Measure some steps and evaluations of each encoder that the store has not timed."
    ),
]
MaxConcurrentOption = Annotated[
    int | None, typer.Option("--max-concurrent", min=1, help="Trials at once, so that studies share a cluster.")
]
