"""What tracking costs the trials: the same study with SQLite, with an MLflow server, and with a server that is slow.

    python tests/benchmarks/tracking_cost.py corpora/python [--repeats 5]

Launches one study in turns with a database of its own, with a server, and with that server behind a proxy that waits
before it passes a request on (0.5 s). Prints, for each way, the medians over the repeats (and the range) of:
`training`, the sum over trials of the last epoch's `train_seconds`; `trials`, the wall time from the first start of a
trial to the last end; `launch`, the wall time of the whole launch, which waits for what is still unsent; and how much
more each is than with SQLite, as the median (and range) of the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import FaultyProxy, MlflowServer
from turns import Clock

from softnce_ray.config import StudyConfig
from softnce_ray.store import Store
from softnce_ray.study.cluster import connected
from softnce_ray.study.file import parse_study
from softnce_ray.study.run import launch

FIGURES = ("training", "trials", "launch")


def study_of(name: str, corpus: str, language: str, *, seeds: int, epochs: int) -> StudyConfig:
    """Bag encoders of two arms, two trials at a time: many short epochs, so that tracking has much to do."""
    written = {
        "study": name,
        "corpus": corpus,
        "languages": [language],
        "seeds": list(range(seeds)),
        "defaults": {"encoder": {"kind": "bag", "width": 64}, "training": {"epochs": epochs, "batch_size": 128}},
        "arms": {"infonce": {}, "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}},
    }
    return parse_study(yaml.safe_dump(written))


def measured(study: StudyConfig, store: Store) -> dict[str, float]:
    """Seconds by name of `FIGURES` of one launch. All trials must have run to their end, and all be in MLflow."""
    clock, started = Clock(), time.monotonic()
    done = launch(study, store=store, display=clock)
    ended = time.monotonic()
    trials = [trial for trial in done.results.trials if trial.status == "FINISHED"]
    expected = len(study.arms) * len(study.first_seeds)
    if len(trials) != expected or done.unsent or done.waiting:
        sys.exit(f"{study.study}: {len(trials)} of {expected} trials finished; {[*done.problems, *done.unsent]}")
    return {
        "training": sum(trial.metrics["train_seconds"] for trial in trials),
        "trials": clock.last - clock.first,
        "launch": ended - started,
    }


def show(figures: Mapping[str, list[dict[str, float]]]) -> None:
    (base, *_) = figures.values()
    print(f"{'':<28}" + "".join(f"{figure + ' s':>26}{'more':>30}" for figure in FIGURES))
    for way, found in figures.items():
        line = f"{way:<28}"
        for figure in FIGURES:
            values = [each[figure] for each in found]
            more = [each[figure] / other[figure] - 1 for each, other in zip(found, base, strict=True)]
            line += f"{f'{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})':>26}"
            line += f"{f'{statistics.median(more):+.1%} ({min(more):+.1%} to {max(more):+.1%})':>30}"
        print(line)


def main(options: Any) -> None:
    with tempfile.TemporaryDirectory() as work, MlflowServer(Path(work) / "server") as server:
        root = Path(work) / "store"
        with FaultyProxy(server.uri, delay=options.delay) as slow, connected(num_cpus=2):
            ways = {
                "SQLite": f"sqlite:///{root / 'mlflow.db'}",
                "server": server.uri,
                f"server + {options.delay:g} s": slow.uri,
            }
            size = {"seeds": options.seeds, "epochs": options.epochs}
            # Not counted: prepares tokens and estimators for all, and starts Ray's workers.
            measured(study_of("warm", options.corpus, options.language, seeds=1, epochs=1), Store(root, ways["SQLite"]))
            figures: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            for repeat in range(options.repeats):
                order = list(ways) if repeat % 2 == 0 else list(reversed(ways))
                for number, way in enumerate(order):
                    study = study_of(f"cost-{repeat}-{number}", options.corpus, options.language, **size)
                    figures[way].append(measured(study, Store(root, ways[way])))
                    print(f"repeat {repeat}: {way}: {figures[way][-1]}", file=sys.stderr)
            print(
                f"{2 * options.seeds} trials of {options.epochs} epochs, {options.repeats} repeats, "
                f"{len(slow.requests)} requests through the slow proxy"
            )
            show(figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="folder of a corpus")
    parser.add_argument("--language", default="python")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="trials of each of the two arms")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--delay", type=float, default=0.5, help="seconds that the slow server waits at each request")
    os.environ["OMP_NUM_THREADS"] = "1"
    main(parser.parse_args())
