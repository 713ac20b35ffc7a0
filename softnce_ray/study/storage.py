"""The file that keeps the searches of a store: Optuna's storage, opened, checked and migrated."""

from __future__ import annotations

import fcntl
import functools
from pathlib import Path

import optuna
from alembic.script import ScriptDirectory

from softnce_ray.commands import command
from softnce_ray.databases import Database, look_at
from softnce_ray.folders import lock_file
from softnce_ray.store import Store, StoreError
from softnce_ray.tracking.moved import alone_in
from softnce_ray.tracking.schema import upgrade
from softnce_ray.uris import sqlite_path


def open_storage(url: str, *, to_read: bool = False) -> optuna.storages.RDBStorage:
    """Open the storage that keeps all searches of a store. Launches of several studies may use one at once.

    A SQLite storage's tables are made by one process at a time, since two that make them at the same time break each
    other; a write then waits up to a minute for other writers.

    Args:
      to_read: nothing is made or changed.

    Raises:
      StoreError: it cannot be opened, or is of another version of Optuna.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each trial would be lost among the launch's own
    path = sqlite_path(url)
    try:
        if path is None:
            return optuna.storages.RDBStorage(url)
        with lock_file(path.parent / ".optuna.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = look_at(path)
            _expect_current(path, url, found, to_read)
            return optuna.storages.RDBStorage(
                url, engine_kwargs={"connect_args": {"timeout": 60}}, skip_table_creation=to_read
            )
    except StoreError:
        raise
    except Exception as error:  # SQLAlchemy's, alembic's or Optuna's own, many lines long
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(
            f"the searches at {path or url} cannot be read: {reason}: if the file is damaged, move "
            "it away; what was searched is then searched anew, and trials that are in MLflow are not trained again"
        ) from error


def upgrade_store(store: Store) -> None:
    """Migrate databases of an older MLflow or Optuna to the schemas of those that are installed. Others are left as
    they are.

    Raises:
      StoreError: another process writes the store, or a database cannot be migrated.
      DatabaseError: a file is no database.
    """
    with alone_in(store):
        upgrade(store)
        path = sqlite_path(store.optuna_url)
        if path is not None and _is_older(look_at(path)):
            try:
                storage = optuna.storages.RDBStorage(
                    store.optuna_url, skip_compatibility_check=True, skip_table_creation=True
                )
                storage.upgrade()
                storage.remove_session()
            except Exception as error:
                why = " ".join(str(error).split())[:200]
                raise StoreError(f"the searches at {path} cannot be upgraded: {why}") from error


def _expect_current(path: Path, url: str, found: Database | None, to_read: bool) -> None:
    """Raise StoreError where Optuna may not open a file as it is: it makes tables in it before it looks."""
    if found is None or not found.tables:
        if to_read:
            raise StoreError(f"expected searches in {path}, got an empty database: launch a study first")
        return
    if "studies" not in found.tables or found.revision is None:
        raise StoreError(f"expected searches of Optuna's in {path}, got a database with other tables: move it away")
    expected = f"expected searches of Optuna {optuna.__version__} (schema {_revisions()[0]}) at {path}, got those of"
    if _is_older(found):
        upgraded = f"upgrade them with `{command('optuna', 'storage', 'upgrade', '--storage', url)}`"
        if not to_read:
            upgraded = "give the same command with --upgrade-store"
        backup = command("cp", "-a", path, f"{path}.backup")
        raise StoreError(
            f"{expected} an older Optuna (schema {found.revision}): back them up with `{backup}`, then {upgraded}"
        )
    if found.revision not in _revisions():
        raise StoreError(
            f"{expected} a newer Optuna (schema {found.revision}): use the environment that wrote them, or install its "
            "version of Optuna here"
        )


def _is_older(found: Database | None) -> bool:
    return found is not None and found.revision in _revisions()[1:]


@functools.cache
def _revisions() -> list[str]:
    """Return the revisions that the installed Optuna knows, the latest first."""
    folder = Path(optuna.storages.__file__).with_name("_rdb") / "alembic"
    return [each.revision for each in ScriptDirectory(str(folder)).walk_revisions()]
