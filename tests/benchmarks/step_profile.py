"""Where the time of a training step goes, by what torch's profiler saw, and how much of the work is padding.

    python tests/benchmarks/step_profile.py corpora/python [--models bag small minilm] [--steps 6] [--threads 2]

Shares are of the wall time of the profiled steps, after a warm-up. `rest` is what no operation of torch took: Python,
NumPy, the dispatching of operations and the profiler itself. Tokens were made before: a step reads their numbers
(`reading`). Padding is told apart: of the tokens that a network's layers see, and of the places that attention sees.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from training_step import MODELS, WARM_UP, config, stepping
from turns import machine

from softnce_ray.corpus.ragged import concatenate
from softnce_ray.encoders.packing import groups
from softnce_ray.preparation import open_data, prepare

KINDS = {
    "matrix products": ["mm", "addmm", "bmm", "baddbmm", "_embedding_bag_forward_only"],
    "drawing for dropout": ["random_", "bernoulli_"],
    "norms, GELU, softmax": ["native_layer_norm", "native_layer_norm_backward", "gelu", "gelu_backward"],
    "optimiser": ["_fused_adamw_", "_fused_adam_"],
    "picking and copying": [
        "index_select",
        "index_copy_",
        "index",
        "copy_",
        "cat",
        "embedding_dense_backward",
        "fill_",
    ],
}
KINDS["norms, GELU, softmax"] += ["_softmax", "_softmax_backward_data", "_log_softmax", "linalg_vector_norm"]


def kind(operation: str) -> str:
    return next((kind for kind, operations in KINDS.items() if operation in operations), "number by number")


def padding(model: str, corpus: str, root: str, batches: int = 20) -> float:
    """The share of attention's places that no token has."""
    settings = config(model, "float32")
    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    size, places, pairs = MODELS[model][1], 0, 0
    for start in range(0, batches * size, size):
        rows = np.arange(start, start + size)
        lengths = sorted(concatenate([data.train.queries.take(rows), data.train.codes.take(rows)]).places.tolist())
        for group in groups(lengths, 1, torch.device("cpu")):
            places += group.shape[0] * group.shape[2] ** 2
        pairs += sum(length**2 for length in lengths)
    return 1 - pairs / places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    with tempfile.TemporaryDirectory() as root:
        for model in options.models:
            steps = options.steps * (20 if model == "bag" else 1)
            batches, step = stepping(options.corpus, root, model, "float32", steps)
            for _ in range(WARM_UP):
                step(next(batches))
            started = time.perf_counter()
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                while True:
                    with record_function("reading"):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    step(batch)
            wall = time.perf_counter() - started
            took: Counter[str] = Counter()
            for event in seen.key_averages():
                seconds = event.self_cpu_time_total / 1e6
                if event.key == "reading":
                    took["reading"] += seconds
                elif event.key.startswith("aten::"):
                    took[kind(event.key.removeprefix("aten::"))] += seconds
            took["rest"] = wall - took.total()
            print(f"{model}: {wall / steps * 1e3:,.1f} ms a step")
            for name, seconds in took.most_common():
                print(f"  {name:22} {seconds / wall:6.1%}")
            if model != "bag":
                print(f"  padding of layers 0 %, of attention {padding(model, options.corpus, root):.1%} of its places")


if __name__ == "__main__":
    main()
