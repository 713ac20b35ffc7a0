"""Stores that were moved or copied: MLflow records whole paths, and a store's files are those that lie in it now.

A study's files were recorded as `ROOT/artifacts/STUDY`. Where a SQLite database has the folder `artifacts/STUDY` beside
it, that folder is meant, whatever ROOT is. Commands translate what they read; those that write first make the database
say so, since MLflow makes new places from those that are recorded there.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Run
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from softnce_ray.commands import command
from softnce_ray.folders import lock_file
from softnce_ray.store import Store, StoreError
from softnce_ray.uris import file_path, sqlite_path

_RECORDED = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's database that hold places of files."""
_SECONDS = 60.0
_PLACE = ".place.lock"


def files_of(store: Store, run: Run) -> ArtifactRepository:
    """Return the files of a run, as they lie in this store.

    MLflow's client would ask the server for their place anew for each, and would remember it by the run's id alone,
    which a copied store shares with its original.
    """
    uri = run.info.artifact_uri
    if moved := _moved(store, uri.rsplit("/", 2)[0]):
        before, now = moved
        uri = now + uri.removeprefix(before)
    return get_artifact_repository(uri, tracking_uri=store.tracking_uri)


def expect_here(store: Store, location: str, *, writes: bool = False) -> None:
    """Raise where the files of a study lie in another store than the one that was named.

    Args:
      location: as the study's experiment has it recorded.
      writes: the study is to be written. Reading what a database recorded that was named alone is harmless.

    Raises:
      StoreError: they lie elsewhere, or in a folder that another store has too.
    """
    here, place = _artifacts(store), file_path(location)
    if here is None or place is None or _moved(store, location):
        return
    roots = (store.root, here.parent)
    if any(place.is_relative_to(root) for root in roots):
        return
    if any(place.resolve().is_relative_to((root / "artifacts").resolve()) for root in roots):
        if writes and _is_another(place.parents[1] / "mlflow.db", store):
            raise StoreError(
                f"expected files of its own in the store {store.root}, got a link to those of {place.parents[1]}: copy "
                f"them with `{command('rm', here)}` and `{command('cp', '-a', place.parent, here)}`"
            )
        return
    if writes or here.parent == store.root:
        found = "" if place.exists() else ", where there are none"
        copy = f"`{command('mkdir', '-p', here)}` and `{command('cp', '-a', place, here)}`"
        raise StoreError(
            f"expected the files of study {place.name} at {here / place.name}, as the database lies beside it, got "
            f"{place}{found}: copy them with {copy}, or name the store that has them with --store "
            f"{shlex.quote(str(place.parents[1]))} --tracking-uri {store.tracking_word}"
        )


@contextlib.contextmanager
def at_home(store: Store) -> Iterator[None]:
    """Let the database of a store say where its files lie now, and hold it so for a writer.

    Raises:
      StoreError: the store was moved and is written from its other place, cannot be written, or is a damaged copy.
    """
    if store.database is None:
        yield
        return
    with contextlib.ExitStack() as held:
        lock, others = None, False
        with contextlib.suppress(OSError):  # a store that cannot be written, or a file system without locks
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(store.database.parent / _PLACE, flags, 0o666)
            held.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(lock, fcntl.LOCK_SH)
                others = True
        if moves := _moves(store, store.database):
            if others:
                raise StoreError(
                    f"expected nobody to write the store {store.root} from another place, got a launch that knows it "
                    f"by files at {', '.join(sorted(moves))}: wait for it, or end it"
                )
            _rewrite(store, store.database, moves)
        if lock is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def alone_in(store: Store) -> Iterator[None]:
    """Hold a store while no other process of this machine writes it.

    Raises:
      StoreError: another one does, or the store cannot be written.
    """
    if store.database is None or not store.database.parent.is_dir():
        yield
        return
    try:
        with lock_file(store.database.parent / _PLACE) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise StoreError(
            f"expected nobody to write the store {store.root}, got a launch that does: wait for it, or end it"
        ) from None


def _rewrite(store: Store, database: Path, moves: dict[str, str]) -> None:
    for file in (database, sqlite_path(store.optuna_url)):
        _expect_whole(file)
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_SECONDS, isolation_level=None)) as base:
            base.execute("BEGIN IMMEDIATE")
            for (before, now), (table, column) in itertools.product(moves.items(), _RECORDED):
                base.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (now, len(before) + 1, len(before) + 1, f"{before}/"),
                )
            base.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(
            f"expected a store that can be written at {store.root}, since it was moved, got: {error}: mend its "
            "permissions, or copy it to where it can be"
        ) from error


def _moves(store: Store, database: Path) -> dict[str, str]:
    """Folders of artifacts that are recorded, and what they are here."""
    with contextlib.closing(sqlite3.connect(database, timeout=_SECONDS)) as base:
        locations = base.execute(
            "SELECT artifact_location FROM experiments JOIN experiment_tags USING (experiment_id) "
            "WHERE key = 'softnce_ray' AND experiment_tags.value = 'study'"
        )
        return dict(each for (location,) in locations if (each := _moved(store, location)))


def _moved(store: Store, location: str) -> tuple[str, str] | None:
    """The folder of artifacts that a study's location lies in and the one that is meant, as URIs; None where that is
    the same."""
    before, _, study = location.rpartition("/")
    was, here = file_path(before), _artifacts(store)
    if here is None or was is None or was.name != "artifacts" or was == here or not (here / study).is_dir():
        return None
    if (was / study).exists() and (was / study).samefile(here / study):
        return None
    return before, here.as_uri()


def _artifacts(store: Store) -> Path | None:
    """The folder of artifacts beside a store's database; None where a server has the runs."""
    return None if store.database is None else store.database.parent / "artifacts"


def _is_another(database: Path, store: Store) -> bool:
    assert store.database is not None
    return database.exists() and not database.samefile(store.database)


def _expect_whole(file: Path | None) -> None:
    """A database that was copied while it was written may have parts of before and of after."""
    if file is None or not file.exists():
        return
    with contextlib.closing(sqlite3.connect(file, timeout=_SECONDS)) as base:
        try:
            found = base.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise StoreError(
            f"{file} is damaged ({' '.join(found.split())[:200]}): it was copied while it was written; copy the store "
            "again while nothing writes it"
        )
