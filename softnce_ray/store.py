"""Where things are kept: one folder with tracking, searches, prepared data and checkpoints."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softnce_ray.commands import command
from softnce_ray.errors import UserError
from softnce_ray.folders import lock_file
from softnce_ray.storage import Location, local
from softnce_ray.uris import sqlite_path, sqlite_uri, without_password

DEFAULT_FOLDER = "softnce_runs"


class StoreError(UserError, RuntimeError):
    """A store that cannot be used now."""


@dataclass(frozen=True)
class Store:
    """A store folder, and the MLflow server or database that goes with it; where machines share no disk, also a storage
    that all of them see.

    | path | content |
    | --- | --- |
    | `mlflow.db`, `artifacts/` | MLflow runs and their files (unless `tracking_uri` names a server) |
    | `optuna.db` | proposals of every search |
    | `spool/<study>/` | what MLflow has not got yet; empty but for a lock when it has all |
    | `prepared/` | token ids and estimators, by what they were made from; may be deleted when no study runs |
    | `ray/<study>/<launch>/` | checkpoints by trial; may be deleted when a study has ended |

    The last two are what the machines of a cluster share: with a `storage` (`s3://…`) they lie there, and the folder is
    the launching process' own.
    """

    root: Path
    tracking_uri: str
    storage: str | None = None
    given: Mapping[str, str] | None = field(default=None, compare=False, repr=False)
    """The options that named it, beside what the environment says; None where no options did."""

    @staticmethod
    def at(
        folder: Store | str | Path | None = None, tracking_uri: str | None = None, storage: str | None = None
    ) -> Store:
        """The store in `folder`, which is made when something is first kept in it.

        Defaults: the environment's `SOFTNCE_STORE` or `./softnce_runs`; the environment's `MLFLOW_TRACKING_URI` or a
        SQLite database in the folder; the environment's `SOFTNCE_STORAGE` or the folder.

        Raises:
          StorageError: a folder that is an address or lies below a file, or a storage with a password in its address.
        """
        if isinstance(folder, Store):
            return folder
        named = folder or os.environ.get("SOFTNCE_STORE") or DEFAULT_FOLDER
        root = local(named, "--store", "give a folder; what machines share without a common disk goes to --storage")
        root = root.absolute()
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(root / "mlflow.db")
        if "?" not in uri and (database := sqlite_path(uri)) is not None and not database.is_absolute():
            uri = sqlite_uri(database.absolute())  # a study goes on in the directory that it was launched from
        shared = storage or os.environ.get("SOFTNCE_STORAGE")
        place = str(Location.at(shared)) if shared else None
        given = {"--store": folder and root, "--tracking-uri": tracking_uri and uri, "--storage": storage and place}
        return Store(root, uri, place, {option: str(value) for option, value in given.items() if value})

    @property
    def artifact_root(self) -> str | None:
        """Where a tracking database keeps artifacts; a server decides for itself."""
        return None if self.tracking_uri.startswith(("http:", "https:")) else (self.root / "artifacts").as_uri()

    @property
    def database(self) -> Path | None:
        """The file of MLflow's database, or None where a server has the runs."""
        return sqlite_path(self.tracking_uri)

    @property
    def optuna_url(self) -> str:
        return sqlite_uri(self.root / "optuna.db")

    @property
    def shared(self) -> Location:
        """What all machines of a study must see."""
        return Location(self.storage or str(self.root))

    @property
    def prepared(self) -> Location:
        return self.shared / "prepared"

    def checkpoints(self, study: str) -> Location:
        return self.shared / "ray" / study

    def ray(self, study: str) -> Path:
        """The folder that one launch at a time holds; without a storage, that of its checkpoints too."""
        return self.root / "ray" / study

    def study_file(self, study: str) -> Path:
        """The study as it was last launched."""
        return self.root / "studies" / f"{study}.yaml"

    def spool(self, study: str) -> Path:
        return self.root / "spool" / study

    def command(self, verb: str, *words: object) -> str:
        """Return a command of this package on this store, which works as it is printed."""
        given = self.given
        if given is None:
            own = self.tracking_uri == sqlite_uri(self.root / "mlflow.db")
            all_of_it = {"--store": str(self.root), "--tracking-uri": "" if own else self.tracking_uri}
            given = {**all_of_it, "--storage": self.storage or ""}
        options = [f" {option} {_word(given[option])}" for option in _TAKEN.get(verb, _USUAL) if given.get(option)]
        return command("softnce-ray", verb, *words) + "".join(options)

    @property
    def tracking_word(self) -> str:
        """The tracking address as a word of a command line; one with a password is not shown."""
        if (word := _word(self.tracking_uri)) == _SECRET and os.environ.get("MLFLOW_TRACKING_URI") == self.tracking_uri:
            return '"$MLFLOW_TRACKING_URI"'
        return word


_SECRET = "…"
_USUAL = ("--store", "--tracking-uri")
_TAKEN = {"ui": ("--store",), **dict.fromkeys(("launch", "resume", "extend", "sync"), (*_USUAL, "--storage"))}
"""Options that a command takes of those that name a store."""


def _word(value: str) -> str:
    """Quote an option's value for a shell; an address with a password is not repeated where others may see it."""
    return shlex.quote(value) if without_password(value) == value else _SECRET


@contextlib.contextmanager
def only_launch(store: Store, study: str) -> Iterator[None]:
    """Hold a study of a store for one launch at a time; the hold ends with the process, however it ends.

    Raises:
      StoreError: another process runs the study, or the store cannot be written.
    """
    folder = store.ray(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock_file(folder / "lock")
    except OSError as error:
        raise StoreError(
            f"expected a store that can be written at {store.root}, got: {error.strerror}: choose another with --store"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"study {study} is being run by another process with the store {store.root}: wait for it, "
                "or end that process"
            ) from None
        yield
