"""The store: where it lies, and that a study runs in it once at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softnce_ray.store import Store, StoreError, only_launch

_HOLD = """
import sys
from softnce_ray.store import Store, only_launch
with only_launch(Store.at(sys.argv[1]), "study"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOFTNCE_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_default_is_a_visible_folder_of_the_working_directory(tmp_path: Path) -> None:
    store = Store.at()
    assert store.root == tmp_path / "softnce_runs"
    assert store.tracking_uri == f"sqlite:///{tmp_path}/softnce_runs/mlflow.db"
    assert not store.root.exists()


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOFTNCE_STORE", str(tmp_path / "environment"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    assert Store.at() == Store(tmp_path / "environment", "http://environment:5000")
    assert Store.at("given", "http://given") == Store(tmp_path / "given", "http://given")


def test_a_database_keeps_artifacts_in_the_store_and_a_server_where_it_likes(tmp_path: Path) -> None:
    assert Store.at("s").artifact_root == (tmp_path / "s" / "artifacts").as_uri()
    assert Store.at("s", "postgresql://u:p@h/d").artifact_root == (tmp_path / "s" / "artifacts").as_uri()
    assert Store.at("s", "https://mlflow.example").artifact_root is None


def test_every_path_is_absolute(tmp_path: Path) -> None:
    store = Store.at("s")
    assert store.prepared.path == tmp_path / "s" / "prepared"
    assert store.ray("tiny") == tmp_path / "s" / "ray" / "tiny"
    assert store.optuna_url == f"sqlite:///{tmp_path}/s/optuna.db"


def test_a_study_is_held_once_and_another_beside_it() -> None:
    store = Store.at()
    with only_launch(store, "study"):
        with pytest.raises(StoreError, match="being run by another process"), only_launch(store, "study"):
            pass
        with only_launch(store, "other"):
            pass
    with only_launch(store, "study"):
        pass


def test_the_hold_of_a_process_ends_when_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="wait for it"), only_launch(Store.at(tmp_path), "study"):
            pass
        holder.kill()
        holder.wait()
        with only_launch(Store.at(tmp_path), "study"):
            pass


def test_a_store_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another with --store") as caught, only_launch(Store.at("file"), "s"):
        pass
    assert "\n" not in str(caught.value)
