"""Pairs a second of what comes before training: mining, tokenising and each estimator, with one thread and with two.

    python tests/benchmarks/preparation_rates.py corpora/python [--repeats 5] [--mined 4000]

Mining reads Python's own environment, in one process and in two. Tokenising begins with training a tokenizer; an
estimator begins where the tokens are. Each measurement is a process of its own, and the processes take turns. `share`
is what an estimator's preparation is, with one thread, as in a study, of a study that then trains 30 trials of three
epochs of a bag on the corpus, two at a time, a thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import in_turns, machine, ratios, spread

ESTIMATORS: dict[str, dict[str, Any]] = {
    "bm25": {"name": "bm25"},
    "bm25_code": {"name": "bm25_code"},
    "simcse": {"name": "simcse"},
    "trained": {"name": "trained", "temperature": 0.1},
    "MiniLM's simcse": {"name": "simcse", "model": "minilm"},
}
TRIALS, EPOCHS = 30, 3


def config(estimator: str | None = None) -> Any:
    from softnce_ray.config import TrialConfig

    settings: dict[str, Any] = {"encoder": {"kind": "bag"}, "training": {"epochs": EPOCHS}}
    if estimator is not None:
        settings |= {"loss": {"name": "soft_infonce", "alpha": 1.3}, "estimator": ESTIMATORS[estimator]}
    return TrialConfig.model_validate({**settings, "language": "python", "seed": 1})


def measured(what: str, count: int, corpus: str, mined: int, tokens: str) -> tuple[float, int]:
    """(seconds, pairs); the tokens of the corpus lie in `tokens`."""
    import torch

    from softnce_ray.corpus import LANGUAGES, Corpus, mine_sources, python_environment
    from softnce_ray.preparation import open_data, prepare
    from softnce_ray.training import train

    torch.set_num_threads(count)
    if what == "mining":
        sources = python_environment(LANGUAGES["python"]).sources
        started = time.perf_counter()
        pairs = sum(
            len(batch.pairs) for batch in mine_sources(sources, LANGUAGES["python"], limit=mined, workers=count)
        )
        return time.perf_counter() - started, pairs
    pairs = Corpus.open(corpus).table("python", "train", ["query"]).num_rows
    with tempfile.TemporaryDirectory() as root:
        if what != "tokenising":
            (Path(root) / "tokens").symlink_to(Path(tokens) / "tokens")
        started = time.perf_counter()
        prepared = prepare(config(None if what in ("tokenising", "a trial") else what), corpus, "python", root)
        if what == "a trial":
            data = open_data(prepared, config(), "python")
            started = time.perf_counter()
            train(config(), data, lambda metrics, checkpoint: None, read_test=True)
        return time.perf_counter() - started, pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mined", type=int, default=4_000)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, count, tokens = options.measure
        print(json.dumps(measured(what, int(count), options.corpus, options.mined, tokens)))
        return
    from softnce_ray.preparation import prepare

    seconds: dict[str, list[float]] = {}

    def run(name: str) -> float:
        """Pairs a second."""
        what, count = name.rsplit(" ", 1)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "RAYON_NUM_THREADS": count}
        command = [sys.executable, *sys.argv, "--measure", what, count, root]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        took, pairs = json.loads(done.stdout.splitlines()[-1])
        seconds.setdefault(name, []).append(took)
        print(f"{name}: {took:.1f} s", file=sys.stderr)
        return pairs / took

    ways = ("mining", "tokenising", "a trial", *ESTIMATORS)
    names = [f"{way} {count}" for way in ways for count in (1, 2)]
    with tempfile.TemporaryDirectory() as root:
        prepare(config(), options.corpus, "python", root)
        found = in_turns({name: lambda name=name: run(name) for name in names}, options.repeats)  # type: ignore[misc]
    print(machine())
    study = TRIALS / 2 * statistics.median(seconds["a trial 1"])
    print(f"{'':16} {'1 thread, pairs/s':>28} {'2 threads, pairs/s':>28} {'gain':>20} {'seconds':>8} {'share':>7}")
    for way in ways:
        one, two = found[f"{way} 1"], found[f"{way} 2"]
        took = statistics.median(seconds[f"{way} 1"])
        share = f"{took / (took + study):7.1%}" if way in ESTIMATORS else ""
        rates = f"{spread(one, ',.0f'):>28} {spread(two, ',.0f'):>28} {spread(ratios(two, one)):>20}"
        print(f"{way:16} {rates} {took:8.1f} {share}")


if __name__ == "__main__":
    main()
