"""What bf16 autocast costs in MRR and gains in time: the same runs in float32 and in bf16, taking turns.

    python tests/benchmarks/precision.py corpora/python [--pairs 4000] [--seeds 5] [--epochs 2] [--steps 0]

A transformer from scratch with InfoNCE, one thread. For each seed both precisions train from the same weights on the
same batches, in an order that alternates; the test queries are ranked among their whole codebase. The interval is a
95 % percentile bootstrap of the paired difference over queries and seeds; beside it, what the seed alone does.

With --steps N nothing is evaluated: N steps of each are timed in turn, in processor time. That also tells what bf16
costs on a processor that has no instructions for it: run it with ONEDNN_MAX_CPU_ISA=AVX512_CORE.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import random_batches
from softnce_ray.config import TrialConfig
from softnce_ray.encoders import build_encoder
from softnce_ray.objective import prepared
from softnce_ray.optimisers import build_optimisers
from softnce_ray.preparation import open_data, prepare
from softnce_ray.statistics import difference
from softnce_ray.training import _step, train
from softnce_ray.training_data import PairTexts, TrainingData
from softnce_ray.workers import ALONE

PRECISIONS = ("float32", "bf16")


def config(options: argparse.Namespace, precision: str, seed: int) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "encoder": {
                "kind": "transformer",
                "width": options.width,
                "layers": options.layers,
                "heads": options.heads,
            },
            "tokens": {"query_length": 32, "code_length": options.code_length},
            "training": {
                "batch_size": options.batch_size,
                "epochs": options.epochs,
                "learning_rate": 0.001,
                "precision": precision,
            },
            "language": "python",
            "seed": seed,
        }
    )


def smaller(data: TrainingData, pairs: int, valid: int) -> TrainingData:
    """The data with so many training and valid pairs, drawn once."""
    rows = np.random.default_rng(0).permutation(len(data.train.queries))[:pairs]
    evaluated = data.evaluated["python"]
    kept = np.arange(min(valid, len(evaluated.valid.queries)))
    return replace(
        data,
        train=taken(data.train, rows),
        groups=data.groups[:, rows],
        evaluated={"python": replace(evaluated, valid=taken(evaluated.valid, kept))},
    )


def taken(pairs: PairTexts, rows: np.ndarray) -> PairTexts:
    return PairTexts(pairs.queries.take(rows), pairs.codes.take(rows))


def compare(options: argparse.Namespace, data: TrainingData) -> None:
    ranks: dict[str, list[np.ndarray]] = {name: [] for name in PRECISIONS}
    for seed in range(options.seeds):
        for name in PRECISIONS if seed % 2 == 0 else PRECISIONS[::-1]:
            ranks[name].append(train(config(options, name, seed), data, read_test=True).reciprocal_ranks["test"])
        exact, rough = (np.stack(ranks[name]) for name in PRECISIONS)
        found = difference(rough, exact)
        print(
            f"seed {seed}: float32 {exact[-1].mean():.4f}, bf16 {rough[-1].mean():.4f}; bf16 - float32 over "
            f"{len(exact)} seeds {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
            flush=True,
        )
    codes = sum(map(len, data.evaluated["python"].codebase))
    print(f"means {exact.mean():.4f} and {rough.mean():.4f}; {exact.shape[1]} queries among {codes} codes")
    if len(exact) > 1:
        print(f"standard deviation of float32's MRR over seeds: {exact.mean(axis=1).std(ddof=1):.4f}")


@freed_memory_kept()
def time_steps(options: argparse.Namespace, data: TrainingData) -> None:
    encoders = {}
    for name in PRECISIONS:
        torch.manual_seed(0)
        encoder = build_encoder(config(options, name, 0), data.tokenizer.get_vocab_size())
        encoders[name] = (encoder, build_optimisers(encoder, config(options, name, 0).training))
    rows = islice(random_batches(len(data.train.queries), options.batch_size, 0, 1), options.steps + 1)
    order = ((each, each) for each in rows)
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for number, batch in enumerate(prepared(order, config(options, "float32", 0), data)):
        for name in PRECISIONS if number % 2 == 0 else PRECISIONS[::-1]:
            encoder, optimisers = encoders[name]
            started = time.process_time()
            _step(encoder, optimisers, 1e-3, batch, config(options, name, 0), data, "cpu", ALONE, None)
            seconds[name].append(time.process_time() - started)
    ratios = [rough / exact for exact, rough in zip(seconds["float32"][1:], seconds["bf16"][1:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{options.layers} layers of {options.width}, batch {options.batch_size}: float32 "
        f"{statistics.median(seconds['float32'][1:]):.2f} s a step; bf16 / float32 {middle:.3f} (middle half {low:.3f} "
        f"to {high:.3f}), {len(ratios)} steps each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus")
    for name, value in {
        "pairs": 4000,
        "valid": 1000,
        "seeds": 5,
        "epochs": 2,
        "layers": 2,
        "width": 128,
        "batch-size": 32,
        "code-length": 128,
        "heads": 2,
        "steps": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        settings = config(options, "float32", 0)
        data = open_data(prepare(settings, options.corpus, "python", Path(root)), settings, "python")
        if options.steps:
            time_steps(options, data)
        else:
            compare(options, smaller(data, options.pairs, options.valid))


if __name__ == "__main__":
    main()
