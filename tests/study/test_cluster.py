"""Ray sessions and tasks: what launches and mining are made of, on a real Ray."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time

import pytest

from softnce_ray.corpus import LANGUAGES, mine_corpus, source_folder
from softnce_ray.study.cluster import chunk_mapper, run_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


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


_SESSION = """
import ray
from softnce_ray.config import Resources
from softnce_ray.study.cluster import run_all, session

if __name__ == "__main__":
    with session(Resources()) as slots:
        print(slots > 0, run_all(lambda: 5, {0: ()}).done[0])
"""


def test_a_session_of_our_own_starts_also_where_ray_was_imported_before(tmp_path) -> None:
    (tmp_path / "session.py").write_text(_SESSION)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "session.py")],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True 5\n", done.stderr
