"""Ray sessions and tasks: what launches and mining are made of, on a real Ray."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ray.tune.execution.class_cache import _ActorClassCache

from softnce_ray.corpus import LANGUAGES, mine_corpus, source_folder
from softnce_ray.study import cluster
from softnce_ray.study.cluster import LaunchError, chunk_mapper, run_all
from softnce_ray.study.tuning import _our_tune

from .launching import Said, go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_slots")]


def test_mining_as_ray_tasks_gives_the_same_corpus(tmp_path) -> None:
    source = tmp_path / "source"
    for number in range(100):
        folder = source / f"package{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        code = f'def f{number}(x):\n    """Add the number {number} to a value."""\n    y = x + {number}\n    return y\n'
        (folder / f"m{number}.py").write_text(code)
    sources = {"python": source_folder(source, LANGUAGES["python"])}
    here = mine_corpus(sources, tmp_path / "here", valid=5, test=5)
    with chunk_mapper() as map_chunks:
        there = mine_corpus(sources, tmp_path / "there", valid=5, test=5, map_chunks=map_chunks)
    assert there.fingerprint == here.fingerprint
    assert there.languages["python"].pairs["train"] > 50


def test_results_of_tasks_come_by_key_and_so_do_failures() -> None:
    def divide(upper: int, lower: int) -> int:
        return upper // lower

    ended: list[str] = []
    outcome = run_all(divide, {"a": (7, 2), "b": (7, 0), "c": (9, 3)}, lambda key, result: ended.append(key))
    assert outcome.done == {"a": 3, "c": 3}
    assert sorted(ended) == ["a", "b", "c"]
    (failed,) = outcome.failed.items()
    assert failed[0] == "b"
    assert isinstance(failed[1], ZeroDivisionError)


def test_a_task_that_ends_its_worker_has_failed() -> None:
    def leave() -> None:
        os._exit(1)

    outcome = run_all(leave, {"me": ()}, options=lambda key: {"max_retries": 0})
    assert (outcome.done, list(outcome.failed)) == ({}, ["me"])


def test_no_more_tasks_run_at_once_than_asked() -> None:
    def busy() -> tuple[float, float]:
        began = time.time()
        time.sleep(0.3)
        return began, time.time()

    outcome = run_all(busy, {number: () for number in range(3)}, at_once=1, options=lambda key: {"num_cpus": 0})
    spans = sorted(outcome.done.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_every_slot_has_a_trial_though_trials_are_shorter_than_a_workers_start(two_arms, store) -> None:
    said = Said()
    done = go(two_arms(), store, said)
    assert (said.at_once, done.failed, done.problems) == (2, 0, ())


_SESSION = """
import os
from pathlib import Path
import ray
from softnce_ray.config import Resources
from softnce_ray.study.cluster import run_all, session

if __name__ == "__main__":
    before, place = dict(os.environ), Path(os.environ["RAY_TMPDIR"])
    with session(Resources()) as slots:
        (folder,) = place.iterdir()
        print(slots > 0, run_all(lambda: 5, {0: ()}).done[0], oct(folder.stat().st_mode))
    print(os.environ == before, list(place.iterdir()))
"""


def test_a_session_of_our_own_leaves_nothing_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    """Nothing in the environment, in the user's home, or in files; also where Ray was imported before."""
    (tmp_path / "session.py").write_text(_SESSION)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as place:  # short, as sockets want it
        (Path(place) / "snce-killed" / "t").mkdir(parents=True)
        (Path(place) / "snce-killed" / "softnce_ray.lock").touch()
        done = subprocess.run(
            [sys.executable, str(tmp_path / "session.py")],
            env={**kept, "HOME": str(tmp_path), "RAY_TMPDIR": place},
            capture_output=True,
            text=True,
        )
        assert done.stdout == "True 5 0o40700\nTrue []\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["session.py"]


def test_a_folder_too_long_for_sockets_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 30)
    with pytest.raises(LaunchError, match="RAY_TMPDIR: expected a path of at most 27 characters"):
        cluster._ray_base()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 22)
    assert str(cluster._ray_base()) == os.environ["RAY_TMPDIR"]
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 30)
    assert cluster._ray_base() == Path("/tmp")


def test_no_key_of_an_object_store_goes_to_workers_through_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune's own would put them into what Ray shows on command lines; it is left as it was."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "7")

    def sent() -> dict[str, str]:
        return _ActorClassCache().get(type("Trainable", (), {}))._default_options["runtime_env"]["env_vars"]

    assert sent()["AWS_SECRET_ACCESS_KEY"] == "hunter2"
    with _our_tune():
        assert sent() == {"PL_DISABLE_FORK": "1", "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "7"}
    assert sent()["AWS_SECRET_ACCESS_KEY"] == "hunter2"
