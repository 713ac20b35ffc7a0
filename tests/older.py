"""Databases as older versions of MLflow and Optuna made them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import alembic.command
import mlflow.store.db.utils as mlflow_database
import optuna
import sqlalchemy
from mlflow.store.tracking.dbmodels.initial_models import Base


def mlflow_at(revision: str, path: Path) -> None:
    """Make MLflow's database as it was when a revision was the latest."""
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    config = mlflow_database._get_alembic_config("")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
    engine.dispose()


def older_searches(folder: Path, *studies: str) -> Path:
    """Make Optuna's database `optuna.db` as it was at v3.0.0.d, with studies of these names."""
    path = folder / "optuna.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    for name in studies:
        optuna.create_study(storage=storage, study_name=name)
    with sqlite3.connect(path) as base:  # as it is called in a storage that was migrated
        base.execute("CREATE INDEX trials_study_id_key ON trials (study_id)")
    base.close()
    alembic.command.downgrade(storage._version_manager._create_alembic_config(), "v3.0.0.d")
    storage.remove_session()
    return path
