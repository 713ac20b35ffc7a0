"""What running trials side by side costs: a study beside loops without any scheduler and beside plain Ray Tune.

    python tests/benchmarks/orchestration.py corpora/python [--trials 50] [--slots 2] [--epochs 8] [--repeats 5]

The same trials, one for each seed, a bag of embeddings, one thread each, on as many slots:

- loops: as many plain processes, each of which calls `training.train` for its share of the seeds. Nothing can be faster
  that trains the same.
- study: `launch` with MLflow on SQLite, checkpoints, models and ranks kept.
- Tune: a function that calls `training.train` and reports its epochs, without checkpoints or MLflow, once with a fresh
  worker for each trial, as Tune does by itself, and once with workers that are reused.

`share` is the seconds of the loops over those of a way, from the first start of a trial to the last end: what of the
slots' time is spent on training. `first` is the seconds from the way's start, which imports and starts Ray, to the
first start of a trial; `whole` ends with the process. Tokens are prepared before.
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

from turns import Clock, in_turns, machine, ratios, spread

WAYS = ("loops", "study", "Tune", "Tune, reused")
Span = tuple[float, float]


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"encoder": {"kind": "bag", "width": 64}, "training": {"epochs": options.epochs, "batch_size": 128}}


def trial(corpus: str, root: str, arm: dict[str, Any], seed: int, report: Any = None) -> Span:
    """One trial without a study; when it began and ended."""
    import torch

    from softnce_ray.config import TrialConfig
    from softnce_ray.preparation import open_data, prepare
    from softnce_ray.training import train

    torch.set_num_threads(1)
    began = time.time()
    config = TrialConfig.model_validate({**arm, "language": "python", "seed": seed})
    data = open_data(prepare(config, corpus, "python", root), config, "python")
    train(config, data, report or (lambda metrics, checkpoint: None), read_test=True)
    return began, time.time()


def loops(options: argparse.Namespace, root: str) -> list[Span]:
    command = [sys.executable, __file__, options.corpus, "--epochs", str(options.epochs), "--loop", root]
    seeds = [[str(seed) for seed in range(slot, options.trials, options.slots)] for slot in range(options.slots)]
    running = [subprocess.Popen([*command, *each], stdout=subprocess.PIPE, text=True) for each in seeds]
    return [tuple(span) for each in running for span in json.loads(each.communicate()[0])]


def study(options: argparse.Namespace, root: str) -> list[Span]:
    import yaml

    from softnce_ray.store import Store
    from softnce_ray.study.file import parse_study
    from softnce_ray.study.run import launch

    clock = Clock()
    written = {
        "study": "orchestration",
        "corpus": options.corpus,
        "languages": ["python"],
        "seeds": list(range(options.trials)),
        "defaults": settings(options),
        "arms": {"infonce": {}},
        "resources": {"max_concurrent": options.slots},
    }
    with tempfile.TemporaryDirectory() as store:
        (Path(store) / "prepared").symlink_to(root)
        done = launch(parse_study(yaml.safe_dump(written)), store=Store.at(store), display=clock)
        finished = [each for each in done.results.trials if each.status == "FINISHED"]
        if len(finished) != options.trials:
            sys.exit(f"expected {options.trials} finished trials, got {len(finished)}: {done.problems}")
    shift = time.time() - time.monotonic()
    return [(clock.first + shift, clock.last + shift)]


def plain_tune(options: argparse.Namespace, root: str, *, reused: bool) -> list[Span]:
    from ray import tune

    from softnce_ray.study.cluster import connected

    arm, corpus = settings(options), str(Path(options.corpus).resolve())

    def run(config: dict[str, Any]) -> None:
        def report(metrics: dict[str, float], checkpoint: object) -> None:
            tune.report({"valid_mrr": metrics["valid_mrr"]})

        began, ended = trial(corpus, root, arm, config["seed"], report)
        tune.report({"valid_mrr": 0.0, "began": began, "ended": ended})

    with tempfile.TemporaryDirectory() as folder, connected(num_cpus=options.slots):
        tuner = tune.Tuner(
            run,
            param_space={"seed": tune.grid_search(list(range(options.trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reused),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        results = tuner.fit()
        told = [results[number].metrics or {} for number in range(len(results))]
    return [(each["began"], each["ended"]) for each in told]


def measure(way: str, options: argparse.Namespace, root: str) -> list[Span]:
    if way == "loops":
        return loops(options, root)
    if way == "study":
        return study(options, root)
    return plain_tune(options, root, reused=way == "Tune, reused")


def compare(options: argparse.Namespace) -> None:
    training: dict[str, list[float]] = {way: [] for way in WAYS}
    firsts: dict[str, list[float]] = {way: [] for way in WAYS}

    def run(way: str) -> float:
        """The whole, in seconds; notes the part from the first start of a trial to the last end."""
        command = [sys.executable, *sys.argv, "--measure", way, root]
        began = time.time()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        whole = time.time() - began
        spans = json.loads(done.stdout.splitlines()[-1])
        training[way].append(max(end for _, end in spans) - min(start for start, _ in spans))
        firsts[way].append(min(start for start, _ in spans) - began)
        print(f"{way}: {training[way][-1]:.1f} s of {whole:.1f}", file=sys.stderr)
        return whole

    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        trial(options.corpus, root, settings(options), 0)  # prepares the tokens
        whole = in_turns({way: lambda way=way: run(way) for way in WAYS}, options.repeats)  # type: ignore[misc]
    print(machine())
    alone = statistics.median(training["loops"]) * options.slots / options.trials
    print(f"{options.trials} trials of {alone:.1f} s on {options.slots} slots, {options.repeats} turns")
    print(f"{'way':14} {'trials, s':>24} {'share':>22} {'a trial more, s':>16} {'first, s':>20} {'whole, s':>24}")
    for way in WAYS:
        share = spread(ratios(training["loops"], training[way]))
        more = [one - other for one, other in zip(training[way], training["loops"], strict=True)]
        each = statistics.median(more) * options.slots / options.trials
        rest = f"{each:16.2f} {spread(firsts[way], '.1f'):>20} {spread(whole[way], '.1f'):>24}"
        print(f"{way:14} {spread(training[way], '.1f'):>24} {share:>22} {rest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--loop", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        root, *seeds = options.loop
        print(json.dumps([trial(options.corpus, root, settings(options), int(seed)) for seed in seeds]))
    elif options.measure:
        way, root = options.measure
        print(json.dumps(measure(way, options, root)))
    else:
        compare(options)


if __name__ == "__main__":
    main()
