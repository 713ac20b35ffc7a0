"""Temporary folders: private, and gone however their process ends. Locks: no link in their place is followed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softnce_ray import temporary
from softnce_ray.corpus import fetching
from softnce_ray.errors import UserError
from softnce_ray.folders import lock_file, made_once
from softnce_ray.retrieval import indexing
from softnce_ray.store import Store, only_launch
from softnce_ray.study.storage import open_storage
from softnce_ray.temporary import temporary_folder
from softnce_ray.tracking.connection import connect
from softnce_ray.tracking.journal import Journal

# Makes a folder, and a process that lives in it and outlives this one where it is told how; says when it has.
_PROCESS = """
import subprocess, sys, time
from pathlib import Path
from softnce_ray.temporary import temporary_folder

with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("content")
    lives = {
        "": [],
        "working there": [["sleep", "100"]],
        "naming it": [["sh", "-c", f"sleep 100; : {folder}"]],
        "with a file open": [["sleep", "100"]],
    }[sys.argv[2]]
    where = folder if sys.argv[2] == "working there" else "/"
    out = (folder / "file").open("a") if sys.argv[2] == "with a file open" else subprocess.DEVNULL
    started = [subprocess.Popen(command, cwd=where, stdout=out, stderr=subprocess.DEVNULL) for command in lives]
    print(*(each.pid for each in started), flush=True)
    time.sleep(100)
"""


def _killed(place: Path, living: str) -> list[int]:
    """What a killed process leaves below a folder; returns the processes that outlive it."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROCESS, place, living], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = [int(word) for word in process.stdout.readline().split()]
        process.kill()
    return found


def test_a_folder_is_this_user_s_alone_and_goes_with_the_context(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), temporary_folder(tmp_path) as folder:
        folder.chmod(0o777)  # as Ray does
        (folder / "file").write_text("content")
        (holder,) = tmp_path.iterdir()
        assert holder.stat().st_mode & 0o777 == 0o700
        assert folder.parent == holder
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_one_makes_its_first(tmp_path: Path) -> None:
    _killed(tmp_path, "")
    assert len(list(tmp_path.rglob("file"))) == 1
    stranger = tmp_path / "softnce_ray-of-somebody"
    (stranger / "t").mkdir(parents=True)
    (stranger / "lock").write_text("")
    (tmp_path / "softnce_ray-link").symlink_to(stranger)
    with temporary_folder(tmp_path):
        assert list(tmp_path.rglob("file")) == []
    assert {path.name for path in tmp_path.iterdir()} == {"softnce_ray-of-somebody", "softnce_ray-link"}
    assert (stranger / "t").exists()


@pytest.mark.parametrize("living", ["working there", "naming it", "with a file open"])
def test_a_folder_in_which_a_process_still_lives_stays_until_it_ends(living: str, tmp_path: Path) -> None:
    (process,) = _killed(tmp_path, living)
    try:
        with temporary_folder(tmp_path):
            assert len(list(tmp_path.rglob("file"))) == 1
    finally:
        os.kill(process, signal.SIGKILL)
    temporary._sweep_once.cache_clear()
    while Path(f"/proc/{process}/cwd").exists():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, os.WNOHANG)
    with temporary_folder(tmp_path):
        assert list(tmp_path.rglob("file")) == []


def test_a_folder_whose_process_runs_is_left_alone(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as first:
        temporary._sweep_once.cache_clear()
        with temporary_folder(tmp_path) as second:
            assert first.exists() and second.exists()


# --- locks ---


def _launch(folder: Path) -> None:
    with only_launch(Store(folder, ""), "study"):
        pass


def _fetch(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with fetching._locked(folder):
        pass


def _index(folder: Path) -> None:
    with indexing._held(folder / "index"):
        pass


LOCKS: dict[str, Callable[[Path], object]] = {
    "ray/study/lock": _launch,
    "lock": Journal,
    ".lock": _fetch,
    ".index.lock": _index,
    ".made.lock": lambda folder: made_once(folder / "made", lambda made: None),
    ".optuna.lock": lambda folder: open_storage(f"sqlite:///{folder}/optuna.db"),
    ".mlflow.lock": lambda folder: connect(Store(folder, f"sqlite:///{folder}/mlflow.db")),
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_link_in_the_place_of_a_lock_is_not_followed(name: str, tmp_path: Path) -> None:
    """Somebody who may write there would have any file of ours emptied, or locked."""
    victim, folder = tmp_path / "victim", tmp_path / "store"
    victim.write_text("precious")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(victim)
    with contextlib.nullcontext() if name == ".mlflow.lock" else pytest.raises((OSError, UserError), match="a link"):
        LOCKS[name](folder)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "made")
    with contextlib.nullcontext() if name == ".mlflow.lock" else pytest.raises((OSError, UserError), match="a link"):
        LOCKS[name](folder)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made").exists()


def test_a_lock_that_was_left_is_taken_and_one_that_is_held_is_seen(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("of an earlier version")
    with lock_file(tmp_path / "lock") as first, lock_file(tmp_path / "lock") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
