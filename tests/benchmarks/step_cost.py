"""What weighing negatives costs: the training step with each estimator beside InfoNCE's, in one process.

    python tests/benchmarks/step_cost.py corpora/python [ENCODER]

ENCODER is bag (default) or transformer. The arms take turns, a block of steps each, in an order that rotates; the
ratio is that of block and InfoNCE block of the same turn. Shown are the median of the ratios and the interval of 95 %
of that median, by order statistics. A second InfoNCE arm shows what noise alone does; processor time is taken, so that
other programs' turns do not count. The paper's table 8 has 0.75 s a batch for InfoNCE, 0.77 with BM25, 0.81 with
SimCSE, 0.98 with a trained model: +3 %, +8 %, +31 %.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

SOFT = {"name": "soft_infonce", "alpha": 1.3}
ARMS: dict[str, dict[str, Any]] = {
    "infonce": {},
    "infonce again": {},
    "uniform": {"loss": SOFT, "estimator": {"name": "uniform"}},
    "bm25": {"loss": SOFT, "estimator": {"name": "bm25"}},
    "bm25 of the batch": {"loss": SOFT, "estimator": {"name": "bm25", "statistics": "batch"}},
    "bm25_code": {"loss": SOFT, "estimator": {"name": "bm25_code"}},
    "simcse": {"loss": SOFT, "estimator": {"name": "simcse"}},
    "trained": {"loss": SOFT, "estimator": {"name": "trained", "temperature": 0.1}},
}
ENCODERS: dict[str, tuple[dict[str, Any], int, int]] = {  # settings, turns, steps of a block
    "bag": ({"encoder": {"kind": "bag"}, "training": {"batch_size": 64, "epochs": 1}}, 200, 8),
    "transformer": (
        {
            "encoder": {"kind": "transformer", "width": 128, "layers": 2, "heads": 2},
            "training": {"batch_size": 64, "epochs": 1, "learning_rate": 0.001},
        },
        50,
        2,
    ),
}


def block(config: TrialConfig, corpus: str, root: Path, steps: int) -> Callable[[int], float]:
    """A function that runs the next `steps` steps of turn `turn` and gives their seconds."""
    data = open_data(prepare(config, corpus, config.language, root), config, config.language)
    torch.manual_seed(0)
    encoder = build_encoder(config, data.tokenizer.get_vocab_size())
    optimisers = build_optimisers(encoder, config.training)
    batches = list(random_batches(len(data.train.queries), config.training.batch_size, 0, 1))

    def run(turn: int) -> float:
        rows = (batches[number % len(batches)] for number in range(turn * steps, (turn + 1) * steps))
        chosen = ((each, each) for each in rows)
        started = time.process_time()
        for batch in prepared(chosen, config, data):
            _step(encoder, optimisers, 1e-3, batch, config, data, "cpu", ALONE, None)
        return time.process_time() - started

    return run


@freed_memory_kept()
def main(corpus: str, encoder: str = "bag") -> None:
    torch.set_num_threads(1)
    settings, turns, steps = ENCODERS[encoder]
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as work:
        blocks = {}
        for name, arm in ARMS.items():
            config = TrialConfig.model_validate({**settings, **arm, "language": "python", "seed": 0})
            blocks[name] = block(config, corpus, Path(work), steps)
            blocks[name](0)  # warm-up
        for turn in range(1, turns + 1):
            names = list(blocks)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody always follows the same one
                seconds[name].append(blocks[name](turn))
    size = settings["training"]["batch_size"]
    print(f"{encoder}, batch {size}, 1 thread, {turns} interleaved blocks of {steps} steps")
    for name, values in seconds.items():
        ratios = sorted(value / plain for value, plain in zip(values, seconds["infonce"], strict=True))
        out = round(turns / 2 - turns**0.5)  # a sign is a coin: 2 standard deviations of half of `turns` coins
        print(
            f"{name:18s} {1e3 * statistics.median(values) / steps:8.2f} ms a step; of InfoNCE's: "
            f"{statistics.median(ratios):.3f} ({ratios[out]:.3f} to {ratios[-1 - out]:.3f})"
        )


if __name__ == "__main__":
    explain(__doc__)
    if len(sys.argv) not in (2, 3) or (len(sys.argv) == 3 and sys.argv[2] not in ENCODERS):
        sys.exit("usage: python tests/benchmarks/step_cost.py CORPUS [bag|transformer]")
    main(*sys.argv[1:])
