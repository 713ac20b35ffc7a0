"""Paths as URIs: the libraries behind them find the file that was meant, whatever letters its path has."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from optuna.storages import RDBStorage

from softnce_ray.storage import Location
from softnce_ray.store import Store
from softnce_ray.uris import file_path, sqlite_path, sqlite_uri

NAMES = ["plain", "a space", "job%20a", "feature%2Fx", "what?now", "a#b", "{name}", "%(here)s", "ü+é'\"&=;@:x", "100%"]


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.mkdir()
    return path


def test_a_database_lies_where_its_path_says_and_nothing_beside_it(folder: Path) -> None:
    path = folder / "base.db"
    assert sqlite_path(sqlite_uri(path)) == path
    engine = sqlalchemy.create_engine(sqlite_uri(path))
    with engine.begin() as base:
        base.execute(sqlalchemy.text("CREATE TABLE found (x)"))
    engine.dispose()
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT name FROM sqlite_master").fetchall() == [("found",)]
    assert RDBStorage(sqlite_uri(folder / "searches.db")).get_all_studies() == []
    assert sorted(each.name for each in folder.iterdir()) == ["base.db", "searches.db"]
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_the_uri_of_a_plain_path_is_the_usual_one() -> None:
    assert sqlite_uri(Path("/a/b c/ü.db")) == "sqlite:////a/b c/ü.db"


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "postgresql://u@h/d", "http://h", "/a/mlruns", "file:///a"]
)
def test_what_names_no_database_file_has_no_path(uri: str) -> None:
    assert sqlite_path(uri) is None


def test_a_uri_that_a_person_writes_is_read_as_sqlalchemy_reads_it() -> None:
    for uri in ("sqlite:///m.db", "sqlite:////a/b%20c/m.db?timeout=5", "sqlite+pysqlite:////a/m.db"):
        assert str(sqlite_path(uri)) == sqlalchemy.make_url(uri).database


def test_a_file_uri_is_a_path_again(folder: Path) -> None:
    assert file_path(folder.as_uri()) == folder
    assert Location.at(folder.as_uri()) == Location.at(folder)
    assert file_path(str(folder)) == folder
    assert file_path("s3://bucket/a") is None
    assert file_path("mlflow-artifacts:/1") is None


def test_a_relative_database_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store.at("s", "sqlite:///100%25.db").database == tmp_path / "100%.db"
