"""How long a report of many trials takes, and how large its page is.

    python tests/benchmarks/report_scale.py [--arms 5] [--search 90] [--seeds 10] [--epochs 6] [--queries 1000]

Makes a study of two languages in a SQLite store through the tracker (the default: 1,000 trials, of which 100 confirm),
with random numbers for results and Optuna's searches beside it, then times each step of `softnce-ray report --format
html`. `--keep` uses the store of an earlier run again.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import yaml

from softnce_ray.ranks_file import write_ranks
from softnce_ray.report import build_report, report_files
from softnce_ray.report.evidence import DIAGNOSTICS
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.study.reporting import collect
from softnce_ray.tracking import Tracker, load_results

LANGUAGES = ("python", "ruby")


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what:<28}{time.perf_counter() - started:8.1f} s", flush=True)


def make_study(store: Store, arguments: argparse.Namespace, folder: Path) -> None:
    arms = ["infonce", *(f"soft_{number}" for number in range(1, arguments.arms))]
    seeds = tuple(range(1, arguments.seeds + 1))
    space = {"loss.alpha": {"low": 0.2, "high": 1.9}, "temperature": {"low": 0.01, "high": 1.0, "log": True}}
    space |= {f"training.setting_{number}": {"low": 0.0, "high": 1.0} for number in range(3)}
    text = yaml.safe_dump({"arms": dict.fromkeys(arms), "search": {"space": space}})
    definitions = dict.fromkeys(arms, "d")
    record = StudyRecord(
        "scale", "How large?", "infonce", tuple(arms), LANGUAGES, seeds, "corpora/none", "f00d", text, definitions
    )
    tracker = Tracker(store, record, versions={})
    rng = np.random.default_rng(0)
    hardness = {language: rng.uniform(0, 1, arguments.queries) for language in LANGUAGES}
    path = folder / "reciprocal_ranks.parquet"
    for arm in arms:
        tracker.arm_started(arm, {"loss.name": arm})
        for language in LANGUAGES:
            for number in range(arguments.search + arguments.seeds):
                phase = "search" if number < arguments.search else "confirm"
                seed = 0 if phase == "search" else seeds[number - arguments.search]
                key = TrialKey(arm, language, phase, seed, f"{number:06d}{arm}")
                settings = {name: float(rng.uniform(0.2, 1.0)) for name in space} if phase == "search" else {}
                tracker.trial_started(key, {"loss.name": arm, "training.epochs": arguments.epochs, **settings})
                for epoch in range(1, arguments.epochs + 1):
                    mrr = 0.4 - 0.2 / epoch + float(rng.normal(0, 0.01))
                    metrics = {"epoch": epoch, "valid_mrr": mrr, "best_valid_mrr": mrr, "train_seconds": 9.0}
                    tracker.epoch(key, metrics | {name: float(rng.normal()) for name in DIAGNOSTICS})
                if phase == "search":
                    tracker.trial_ended(key, "FINISHED", stopped_early=number % 2 == 0)
                    continue
                tracker.wait()  # the file is written anew for the next trial
                values = np.clip(hardness[language] + rng.normal(0, 0.1, arguments.queries), 0.001, 1)
                ids = [f"{language}{query}" for query in range(arguments.queries)]
                write_ranks(path, {"test": ids}, {"reciprocal_rank": {"test": values}})
                tracker.trial_ended(key, "FINISHED", metrics={"test_codebase": 5_000.0}, ranks=path)
                tracker.wait()
    tracker.study_ended("FINISHED")
    if unsent := tracker.close():
        raise SystemExit(str(unsent))
    if arguments.search:
        make_searches(store, arms, list(space), arguments.search)


def make_searches(store: Store, arms: list[str], settings: list[str], trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng(1)
    storage = optuna.storages.RDBStorage(store.optuna_url)
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in settings}
    for arm in arms:
        for language in LANGUAGES:
            search = optuna.create_study(storage=storage, study_name=f"scale/{arm}/{language}/d", direction="maximize")
            for _ in range(trials):
                values = {name: float(rng.uniform()) for name in settings}
                search.add_trial(
                    optuna.trial.create_trial(
                        params=values, distributions=dict(distributions), value=values[settings[0]]
                    )
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("arms", 5), ("search", 90), ("seeds", 10), ("epochs", 6), ("queries", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.at(arguments.keep or Path(scratch) / "store", f"sqlite:///{arguments.keep or scratch}/mlflow.db")
        if not (arguments.keep and (arguments.keep / "mlflow.db").exists()):
            with timed("making the study"):
                make_study(store, arguments, Path(scratch))
        started, busy = time.perf_counter(), time.process_time()
        with timed("reading results"):
            results = load_results(store, "scale")
        with timed("statistics"):
            report = build_report(results, versus_paper=True)
        with timed("curves, searches, queries"):
            evidence = collect(store, results, report)
        with timed("all renderings"):
            written = report_files(report, evidence)
        total, processor = time.perf_counter() - started, time.process_time() - busy
    print(f"{len(results.trials):,} trials: {total:.1f} s, of them {processor:.1f} s on the processor")
    print(", ".join(f"{name} {len(text.encode()) / 1e6:.2f} MB" for name, text in written.items()))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB")


if __name__ == "__main__":
    main()
