"""What diagnostics add to a training run: processor time of an epoch's diagnostics beside that of the epoch.

    python tests/benchmarks/diagnostics_cost.py corpora/python

The same epochs are trained with `observe` and `space_diagnostics` timed from outside, bag and Soft-InfoNCE with BM25:
the cheapest encoder, for which their share is largest.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from turns import explain

from softnce_ray import training
from softnce_ray.config import TrialConfig
from softnce_ray.preparation import open_data, prepare


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The function, with its processor time added to the last entry of `spent`."""

    def call(*arguments: Any) -> Any:
        started = time.process_time()
        result = function(*arguments)
        spent[-1] += time.process_time() - started
        return result

    return call


def main(corpus: str) -> None:
    torch.set_num_threads(1)
    for size in (64, 256):
        config = TrialConfig.model_validate(
            {
                "training": {"epochs": 6, "batch_size": size},
                "loss": {"name": "soft_infonce"},
                "estimator": {"name": "bm25"},
                "language": "python",
                "seed": 0,
            }
        )
        spent, whole = [0.0], [time.process_time()]
        training.observe = timed(training.observe, spent)
        training.space_diagnostics = timed(training.space_diagnostics, spent)

        def epoch_ended(metrics: dict[str, float], checkpoint: object, spent=spent, whole=whole) -> None:
            spent.append(0.0)
            whole.append(time.process_time())

        with tempfile.TemporaryDirectory() as work:
            data = open_data(prepare(config, corpus, config.language, Path(work)), config, config.language)
            whole[0] = time.process_time()
            training.train(config, data, epoch_ended)
        shares = [part / (end - start) for part, (start, end) in zip(spent, pairwise(whole), strict=False)]
        print(
            f"batch {size}: {1e3 * statistics.median(spent[:-1]):.1f} ms of an epoch of "
            f"{statistics.median(end - start for start, end in pairwise(whole)):.2f} s: "
            f"{statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})"
        )


if __name__ == "__main__":
    explain(__doc__)
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/benchmarks/diagnostics_cost.py CORPUS")
    main(sys.argv[1])
