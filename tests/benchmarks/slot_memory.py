"""Memory of a slot: what a worker has for itself while it trains, and what it holds between trials.

    python tests/benchmarks/slot_memory.py corpora/python [--models bag small minilm] [--repeats 5]

A study of two seeds on one slot, whose worker is used again; each study is a process of its own. Memory is what no
other process shares. `training` is the greatest that was seen, twenty times a second; `idle` is taken when the last
trial has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from training_step import MODELS, config
from turns import Clock, in_turns, machine, spread

from softnce_ray.preparation import prepare

SEEDS = 2


def held() -> int:
    """Bytes of the largest worker of this process' Ray; 0: there is none."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::ImplicitFu"):  # Linux keeps 15 letters
                found = max(found, process.memory_full_info().uss)
        except psutil.Error:  # it has ended
            continue
    return found


class Sampling(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.most = self.idle = self.count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, held())

    def ended(self, key: object, outcome: str, metrics: object) -> None:
        self.count += 1
        if self.count == SEEDS:
            time.sleep(1)  # the worker comes out of the trial
            self.idle = held()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def measure(corpus: str, model: str, root: str) -> tuple[int, int]:
    import yaml

    from softnce_ray.store import Store
    from softnce_ray.study.file import parse_study
    from softnce_ray.study.run import launch

    settings = config(model, "float32").model_dump(mode="json", include={"encoder", "tokens", "training"})
    written = {
        "study": "memory",
        "corpus": corpus,
        "languages": ["python"],
        "seeds": list(range(SEEDS)),
        "defaults": settings,
        "arms": {"infonce": {}},
        "resources": {"max_concurrent": 1},
    }
    sampling = Sampling()
    try:
        with tempfile.TemporaryDirectory() as store:
            (Path(store) / "prepared").symlink_to(root)
            done = launch(parse_study(yaml.safe_dump(written)), store=Store.at(store), display=sampling)
    finally:
        sampling.stop()
    finished = [each for each in done.results.trials if each.status == "FINISHED"]
    if len(finished) != SEEDS or not sampling.idle:
        sys.exit(f"expected {SEEDS} finished trials, got {len(finished)}, and {sampling.idle} bytes: {done.problems}")
    return sampling.most, sampling.idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="its size counts: each epoch ends with vectors of all it is tested on")
    parser.add_argument("--models", nargs="+", default=["bag", "small"], choices=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.corpus, *options.measure)))
        return
    told: dict[str, list[tuple[int, int]]] = {model: [] for model in options.models}

    def run(model: str) -> float:
        command = [sys.executable, __file__, options.corpus, "--measure", model, root]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        told[model].append(json.loads(done.stdout.splitlines()[-1]))
        return told[model][-1][0]

    with tempfile.TemporaryDirectory() as root:
        for model in options.models:
            prepare(config(model, "float32"), options.corpus, "python", root)
        in_turns({model: lambda model=model: run(model) for model in options.models}, options.repeats)  # type: ignore[misc]
    print(machine())
    print(f"{'model':10} {'training, MB':>26} {'idle, MB':>26}")
    for model in options.models:
        most, idle = ([each / 1e6 for each in column] for column in zip(*told[model], strict=True))
        print(f"{model:10} {spread(most, ',.0f'):>26} {spread(idle, ',.0f'):>26}")


if __name__ == "__main__":
    main()
