"""Memory and time of a training step on a large batch: in one pass, and chunk by chunk.

    python tests/benchmarks/gradient_cache.py corpora/python

Each row is a process of its own that trains on as many pairs as the others: its greatest memory, less what the process
had before the first step, and the median processor seconds of a step (the clock would tell of other work too). A
process' memory grows with the number of different shapes that its allocator has seen: after a few steps a large batch
in chunks has seen more of them than a small one.
A small transformer (2 layers, width 128), 160 tokens of code, float32, one thread.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from turns import explain

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import random_batches
from softnce_ray.config import TrialConfig
from softnce_ray.encoders import build_encoder
from softnce_ray.objective import prepared
from softnce_ray.optimisers import build_optimisers
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import _step
from softnce_ray.workers import ALONE

ROWS: tuple[tuple[int, int | None], ...] = ((32, None), (128, None), (1024, 128), (1024, 32), (1024, None))
PAIRS = 4096


def config(batch_size: int) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "encoder": {"kind": "transformer", "width": 128, "layers": 2, "heads": 2},
            "tokens": {"query_length": 32, "code_length": 160},
            "training": {"batch_size": batch_size, "epochs": 1, "learning_rate": 0.001},
            "loss": {"name": "soft_infonce", "alpha": 1.3},
            "estimator": {"name": "bm25"},
            "language": "python",
            "seed": 1,
        }
    )


@freed_memory_kept()
def measure(corpus: str, root: str, batch_size: int, chunk_size: int | None) -> None:
    """Print bytes and seconds as JSON."""
    torch.set_num_threads(1)
    settings = config(batch_size)
    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    encoder = build_encoder(settings, data.tokenizer.get_vocab_size())
    optimisers = build_optimisers(encoder, settings.training)
    batches = islice(cycle(random_batches(len(data.train.queries), batch_size, 0, 1)), PAIRS // batch_size)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for batch in prepared(((rows, rows) for rows in batches), settings, data):
        started = time.process_time()
        _step(encoder, optimisers, 1e-3, batch, settings, data, "cpu", ALONE, chunk_size)
        seconds.append(time.process_time() - started)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([(most - before) * 1024, float(np.median(seconds))]))


def main(corpus: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        prepare(config(32), corpus, "python", Path(root))
        print(f"{'pairs':>6} {'chunk':>6} {'MB':>8} {'s a step':>9} {'pairs/s':>8}")
        for batch_size, chunk_size in ROWS:
            command = [sys.executable, __file__, corpus, root, str(batch_size), str(chunk_size or 0)]
            runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
            memory, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
            print(
                f"{batch_size:6} {chunk_size or '-':>6} {memory / 1e6:8.0f} {seconds:9.2f} {batch_size / seconds:8.0f}"
            )


if __name__ == "__main__":
    explain(__doc__)
    if len(sys.argv) == 2:
        main(sys.argv[1])
    elif len(sys.argv) != 5:
        sys.exit("usage: python tests/benchmarks/gradient_cache.py CORPUS")
    else:
        corpus, root, size, chunk = sys.argv[1:]
        measure(corpus, root, int(size), int(chunk) or None)
