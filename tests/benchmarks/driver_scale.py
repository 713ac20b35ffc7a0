"""What the driver takes for a trial as studies grow: trials that take no time, and everything else as in a launch.

    python tests/benchmarks/driver_scale.py corpora/python [--trials 100 1000 10000] [--search]

One arm with as many seeds as trials, or with --search one Optuna search of as many trials, none stopped early. For each
trial the driver hands out a specification, takes in three epochs and an end with the ranks of 1,000 queries, and
records all of it in MLflow on SQLite, which its own threads carry out. Shown are, a trial: the processor time of the
driver's thread, all processor time, and the wall time until MLflow has everything, from when the study is open in
MLflow; then the greatest memory. Each size is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from turns import Clock, machine

EPOCHS, QUERIES = 3, 1_000


def clocks() -> np.ndarray:
    """Seconds of this thread's processor time, of all processor time and of wall time."""
    return np.array([time.thread_time(), time.process_time(), time.perf_counter()])


def measure(corpus_folder: str, trials: int, search: bool) -> None:
    from softnce_ray.config import flatten
    from softnce_ray.config.study import arm_settings
    from softnce_ray.corpus.store import Corpus
    from softnce_ray.preparation import Prepared
    from softnce_ray.ranks_file import RANKS_FILE, write_ranks
    from softnce_ray.store import Store
    from softnce_ray.study.attempts import Attempts
    from softnce_ray.study.cells import cells
    from softnce_ray.study.driver import StudyRun
    from softnce_ray.study.file import parse_study
    from softnce_ray.study.record import record_of, versions
    from softnce_ray.study.run import _planner
    from softnce_ray.tracking import Tracker

    written = {
        "study": "driver",
        "corpus": corpus_folder,
        "languages": ["python"],
        "seeds": [1] if search else list(range(trials)),
        "defaults": {"training": {"epochs": EPOCHS}},
        "arms": {"infonce": {}},
    }
    if search:
        space = {"temperature": {"low": 0.03, "high": 0.15}, "training.learning_rate": {"low": 0.001, "high": 0.1}}
        written["search"] = {"trials": trials, "early_stopping": None, "space": space}
    study, corpus = parse_study(yaml.safe_dump(written)), Corpus.open(corpus_folder)
    ids = {"valid": [f"{number:016x}" for number in range(QUERIES)]}
    ranks = np.random.default_rng(0).integers(1, 2_000, QUERIES)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.at(folder)
        tracker = Tracker(store, record_of(study, corpus), versions=versions(), later=True)
        for arm, settings in study.arms.items():
            tracker.arm_started(arm, flatten(arm_settings(settings)))
        planner = _planner(study, corpus, store, tracker, tracker.known())
        tracker.open()
        began = clocks()
        prepared = {cell: Prepared(folder, "tokens", {}) for cell in cells(study)}
        attempts = Attempts(store.checkpoints(study.study))
        run = StudyRun(study, corpus, planner, tracker, prepared, attempts, Clock(), launch="now", slots=2)
        done, apart = 0, np.zeros(3)
        while (proposal := run.next_spec()) is not None:
            key, spec, name = proposal
            run.started(key, spec.attempt)
            for epoch in range(1, EPOCHS + 1):
                told = {"epoch": epoch, "at": time.time() * 1000, "train_loss": 1 / epoch, "valid_mrr": 0.1 * epoch}
                run.reported(key, spec.attempt, [{**told, "best_valid_mrr": 0.1 * epoch}])
            working = clocks()
            kept = Path(str(store.checkpoints(study.study))) / "now" / name / "checkpoint_000003"
            kept.mkdir(parents=True)
            write_ranks(kept / RANKS_FILE, ids, {"reciprocal_rank": {"valid": 1 / ranks}})
            apart += clocks() - working  # what a worker writes
            run.ended(key, spec.attempt, {"epoch": EPOCHS, "best_valid_mrr": 0.3, "valid_mrr": 0.3}, kept.name)
            done += 1
        driver, *_ = clocks() - began - apart
        tracker.study_ended("FINISHED")
        unsent = tracker.close()
        _, processor, wall = clocks() - began - apart
    if unsent.records or unsent.problems or done < trials:
        sys.exit(f"expected {trials} trials, got {done}; unsent: {unsent}")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([driver / done, processor / done, wall / done, most]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.corpus, options.measure, options.search)
        return
    print(machine())
    print(f"{'trials':>7} {'driver, ms':>11} {'processor, ms':>14} {'wall, ms':>9} {'memory, MB':>11}")
    for trials in options.trials:
        more = ["--search"] if options.search else []
        command = [sys.executable, __file__, options.corpus, "--measure", str(trials), *more]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        driver, processor, wall, most = json.loads(said.splitlines()[-1])
        print(
            f"{trials:7,} {driver * 1e3:11.1f} {processor * 1e3:14.1f} {wall * 1e3:9.1f} {most / 1e6:11,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
