"""The schema of MLflow's database: MLflow migrates some old ones by itself, and we only when a user asks for it."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from importlib.metadata import version

import alembic.util
import mlflow.store.db.utils as mlflow_database
import sqlalchemy
from alembic.script import ScriptDirectory
from mlflow.exceptions import MlflowException

from softnce_ray.commands import command
from softnce_ray.databases import Database, look_at
from softnce_ray.store import Store, StoreError
from softnce_ray.tracking.credentials import masked
from softnce_ray.uris import without_password

_THEIRS = "experiments"
"""A table that every MLflow database has."""


@dataclass(frozen=True)
class Misfit:
    """Why MLflow may not open a database as it is.

    Attributes:
      text: what was expected, and what was got.
      remedy: what to do.
      migrates: MLflow can mend it, by migrating the database.
    """

    text: str
    remedy: str
    migrates: bool = False


def misfit(store: Store, *, must_exist: bool) -> Misfit | None:
    """Return why MLflow may not open a store's database, or None.

    Args:
      must_exist: tables are not to be made.

    Raises:
      DatabaseError: it is no database.
      sqlalchemy.exc.SQLAlchemyError: a database server does not answer.
    """
    found = look_at(store.database) if store.database is not None else _on_server(store)
    where = store.database or without_password(store.tracking_uri)
    if found is None or not found.tables:
        if not must_exist:
            return None
        got = "nothing there" if found is None else "an empty database"
        return Misfit(f"expected MLflow's tables in {where}, got {got}", "launch a study first")
    if _THEIRS not in found.tables or found.revision is None:
        aside = "move it away, or choose another folder with --store" if store.database else "give another"
        return Misfit(f"expected a database of MLflow's at {where}, got one with other tables", aside)
    known = _revisions()
    if found.revision == known[0]:
        return None
    expected = f"expected a database of MLflow {version('mlflow')} (schema {known[0]}) at {where}, got one of"
    if found.revision not in known:
        newer = "use the environment that wrote it, or install its version of MLflow here"
        return Misfit(f"{expected} a newer MLflow (schema {found.revision})", newer)
    backup = "back it up with the tools of its server"
    if store.database is not None:
        backup = f"back it up with `{command('cp', '-a', store.database, f'{store.database}.backup')}`"
    upgraded = f"upgrade it with `{command('mlflow', 'db', 'upgrade')} {store.tracking_word}`"
    if not must_exist:
        upgraded = "give the same command with --upgrade-store"
    return Misfit(f"{expected} an older MLflow (schema {found.revision})", f"{backup}, then {upgraded}", True)


def upgrade(store: Store) -> None:
    """Migrate an older MLflow's database to the schema of the MLflow that is installed. Others are left as they are.

    Raises:
      DatabaseError: it is no database.
      StoreError: it cannot be reached or migrated.
    """
    if store.artifact_root is None:
        return
    try:
        if (found := misfit(store, must_exist=False)) is not None and found.migrates:
            engine = sqlalchemy.create_engine(store.tracking_uri, poolclass=sqlalchemy.pool.NullPool)
            mlflow_database._upgrade_db(engine)
    except (sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError, MlflowException) as error:
        shown, why = without_password(store.tracking_uri), masked(" ".join(str(error).split())[:300], store)
        raise StoreError(f"the MLflow store {shown} cannot be upgraded: {why}") from error


@functools.cache
def _revisions() -> list[str]:
    """Return the revisions that the installed MLflow knows, the latest first."""
    script = ScriptDirectory.from_config(mlflow_database._get_alembic_config(db_url=""))
    return [each.revision for each in script.walk_revisions()]


def _on_server(store: Store) -> Database:
    """Read what a database server has."""
    engine = sqlalchemy.create_engine(store.tracking_uri, poolclass=sqlalchemy.pool.NullPool)
    with contextlib.closing(engine.connect()) as connection:
        tables = frozenset(sqlalchemy.inspect(connection).get_table_names())
        versions = sqlalchemy.text("SELECT version_num FROM alembic_version")
        revision = connection.execute(versions).scalar() if "alembic_version" in tables else None
    return Database(tables, revision)
