"""Databases of another version of MLflow or Optuna, and files that are none: told at once and left as they are."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from older import mlflow_at, older_searches
from remedies import printed, typed

from softnce_ray.cli import app
from softnce_ray.databases import DatabaseError
from softnce_ray.errors import UserError
from softnce_ray.results import StudyRecord
from softnce_ray.store import Store, StoreError
from softnce_ray.study.doctor.tracking import tracking
from softnce_ray.study.storage import open_storage, upgrade_store
from softnce_ray.tracking import Tracker, studies
from softnce_ray.tracking.moved import at_home

READING = (
    ("report", "study"),
    ("best", "study"),
    ("power", "study"),
    ("export", "study", "--to", "out"),
    ("sync", "study"),
    ("ui",),
    ("doctor",),
)
RECORD = StudyRecord("study", "why?", "one", ("one",), ("python",), (1,), "c", "c0ffee", "study: text\n")


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("current")
    mlflow_at("90e64c465722", root / "mlflow.db")
    upgrade_store(Store.at(root))
    optuna.storages.RDBStorage(f"sqlite:///{root}/optuna.db").remove_session()
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store without databases, in a folder whose name shells and URIs would read otherwise."""
    root = tmp_path / "a b#c"
    root.mkdir()
    return Store.at(root)


def content(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def told(store: Store, arguments: Sequence[str]) -> str:
    """Run a command in this process, of doctor only what asks MLflow; returns the error that it tells in a line."""
    if arguments == ("doctor",):
        (found,) = tracking(store)
        assert found.level == "error"
        return f"{found.text}: {found.remedy}"
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        app([*arguments, "--store", str(store.root)], standalone_mode=False)
    return str(caught.value)


@pytest.mark.parametrize("revision", ["90e64c465722", "cbc13b556ace"], ids=["without all tables", "with others"])
def test_an_older_database_is_told_with_the_commands_that_upgrade_it(
    revision: str, store, tmp_path, monkeypatch
) -> None:
    """Of some old ones MLflow makes the missing tables by itself, and migrates the others with them."""
    monkeypatch.chdir(tmp_path)
    mlflow_at(revision, store.root / "mlflow.db")
    before = content(store.root)
    said = {told(store, command) for command in READING}
    assert content(store.root) == before
    assert all(f"(schema {revision})" in each for each in said)
    with pytest.raises(UserError, match=r"`cp -a .*`, then give the same command with --upgrade-store$"):
        Tracker(store, RECORD, versions={})
    assert content(store.root)["mlflow.db"] == before["mlflow.db"]
    if revision == "90e64c465722":
        return
    commands = {tuple(printed(each)) for each in said if "mlflow db upgrade" in each}
    ((backup, upgrade),) = commands
    typed(backup, tmp_path)
    assert content(store.root)["mlflow.db.backup"] == before["mlflow.db"]
    typed(upgrade, tmp_path)
    assert studies(store) == []


def test_what_a_launch_was_asked_to_migrate_can_be_read_and_is_left_then(current) -> None:
    store = Store.at(current)
    assert studies(store) == []  # which makes MLflow's default experiment
    before = content(current)
    upgrade_store(store)
    assert content(current) == before
    with at_home(store), pytest.raises(StoreError, match="expected nobody to write the store"):
        upgrade_store(store)


@pytest.mark.parametrize("file", ["mlflow.db", "optuna.db"])
def test_a_newer_database_is_told_and_left(file: str, current, store) -> None:
    shutil.copy(current / file, store.root)
    with sqlite3.connect(store.root / file) as base:
        base.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    base.close()
    upgrade_store(store)
    before = content(store.root)
    with pytest.raises(UserError, match=r"got (one|those) of a newer \w+ \(schema ffffffffffff\): use the environment"):
        studies(store) if file == "mlflow.db" else open_storage(store.optuna_url)
    assert content(store.root) == before


def test_older_searches_are_told_with_the_commands_that_upgrade_them(store, tmp_path) -> None:
    shutil.move(older_searches(tmp_path, "kept"), store.root)
    before = content(store.root)
    with pytest.raises(StoreError, match=r"older Optuna \(schema v3.0.0.d\).*with --upgrade-store$"):
        open_storage(store.optuna_url)
    with pytest.raises(StoreError, match=r"older Optuna") as caught:
        open_storage(store.optuna_url, to_read=True)
    assert content(store.root) == before
    backup, upgrade = printed(str(caught.value))
    typed(backup, tmp_path)
    typed(upgrade, tmp_path)
    assert [each.study_name for each in open_storage(store.optuna_url).get_all_studies()] == ["kept"]
    shutil.copy(store.root / "optuna.db.backup", store.root / "optuna.db")
    upgrade_store(store)
    assert [each.study_name for each in open_storage(store.optuna_url).get_all_studies()] == ["kept"]


NO_DATABASES = {
    "a folder": lambda path, whole: path.mkdir(),
    "a FIFO": lambda path, whole: os.mkfifo(path),
    "text": lambda path, whole: path.write_text("no database, and long enough for one to be looked for" * 20),
    "nothing in it": lambda path, whole: path.touch(),
    "half of one": lambda path, whole: path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2]),
    "a link to nothing": lambda path, whole: path.symlink_to(path.with_name("nowhere")),
}


@pytest.mark.parametrize("kind", NO_DATABASES)
def test_what_is_no_database_is_told_at_once_by_every_command(kind: str, current, store, monkeypatch) -> None:
    monkeypatch.chdir(store.root.parent)
    NO_DATABASES[kind](store.root / "mlflow.db", current / "mlflow.db")
    before, begun = content(store.root), time.monotonic()
    for command in READING:
        if command != ("doctor",) or kind not in ("nothing in it", "a link to nothing"):  # a launch makes the tables
            assert str(store.root / "mlflow.db") in told(store, command)
    if kind not in ("nothing in it", "a link to nothing"):
        with pytest.raises(UserError, match="expected a SQLite database"):
            Tracker(store, RECORD, versions={})
        shutil.rmtree(store.root / "spool", ignore_errors=True)
    assert time.monotonic() - begun < 20
    assert content(store.root) == before


@pytest.mark.parametrize("kind", [kind for kind in NO_DATABASES if kind != "nothing in it"])
def test_what_keeps_no_searches_is_told_at_once(kind: str, current, store) -> None:
    NO_DATABASES[kind](store.root / "optuna.db", current / "optuna.db")
    before = content(store.root)
    for to_read in (True, False) if kind != "a link to nothing" else (True,):
        with pytest.raises((StoreError, DatabaseError), match=r"optuna\.db"):
            open_storage(store.optuna_url, to_read=to_read)
    assert content(store.root) == before
