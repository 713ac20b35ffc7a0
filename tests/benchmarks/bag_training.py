"""How fast the default encoder trains on one core, and how well it then finds functions it never saw.

    python tests/benchmarks/bag_training.py corpora/python

Repeats of the two batch sizes are interleaved; the first epoch of each process is a warm-up and not counted.
MRR is that of test queries against 1,000 held-out functions: those of the test split alone.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import torch
from turns import explain

from softnce_ray.config import TrialConfig
from softnce_ray.evaluation import metrics, ranks
from softnce_ray.model import encode
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import train

REPEATS = 5


def main(corpus: str) -> None:
    torch.set_num_threads(1)
    language = "python"
    rates: dict[int, list[float]] = {64: [], 128: []}
    scores: dict[int, list[float]] = {64: [], 128: []}
    with tempfile.TemporaryDirectory() as work:
        for repeat in range(REPEATS):
            for batch_size in rates:
                config = TrialConfig.model_validate(
                    {"language": language, "seed": repeat, "training": {"batch_size": batch_size}}
                )
                data = open_data(prepare(config, corpus, language, Path(work)), config, language)
                speeds: list[float] = []

                def note(epoch: dict[str, float], checkpoint: object, speeds: list[float] = speeds) -> None:
                    speeds.append(epoch["pairs_per_second"])

                result, test = train(config, data, note), data.evaluated[language].test
                rates[batch_size] += speeds[1:] if repeat == 0 else speeds
                queries, codes = (encode(result.model.encoder, side) for side in (test.queries, test.codes))
                rank = ranks(queries, codes, torch.arange(len(queries)))
                scores[batch_size].append(metrics(rank)["mrr"])
        pairs, codebase = len(data.train.queries), len(test.codes)
    print(f"{pairs:,} training pairs, {codebase:,} held-out functions, 1 thread, {REPEATS} seeds, 3 epochs")
    for batch_size in rates:
        rate, score = rates[batch_size], scores[batch_size]
        print(
            f"batch {batch_size:3d}: median {statistics.median(rate):,.0f} pairs/s "
            f"({min(rate):,.0f} to {max(rate):,.0f}); "
            f"test MRR mean {statistics.fmean(score):.3f} ({min(score):.3f} to {max(score):.3f})"
        )


if __name__ == "__main__":
    explain(__doc__)
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/benchmarks/bag_training.py CORPUS")
    main(sys.argv[1])
