"""Where the time of a training step goes, by what torch's profiler saw, and how much of the work is padding.

    python tests/benchmarks/step_profile.py corpora/python [--models bag small minilm] [--steps 6] [--threads 2]

Shares are of the wall time of the profiled steps, after a warm-up; the time of a step is that of others, without the
profiler. `rest` is what no operation of torch took: Python and NumPy, which also read the token numbers that were made
before, and the profiler itself. Padding is that of attention, of random batches: layers have none, see
`encoders.attention`.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from torch.profiler import ProfilerActivity, profile
from training_step import MODELS, WARM_UP, config, drawn_rows, stepping
from turns import machine

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.corpus.ragged import concatenate
from softnce_ray.encoders.packing import groups
from softnce_ray.preparation import open_data, prepare

KINDS = {
    "matrix products": ["mm", "addmm", "bmm", "baddbmm"],
    "drawing for dropout": ["random_", "bernoulli_"],
    "norms, GELU, softmax": [
        *("native_layer_norm", "native_layer_norm_backward", "gelu", "gelu_backward", "linalg_vector_norm"),
        *("_softmax", "_softmax_backward_data", "_log_softmax"),
    ],
    "optimiser": ["_fused_adamw_", "_fused_adam_"],
    "picking and copying": [
        *("index_select", "index_copy_", "index", "copy_", "cat", "fill_", "embedding_dense_backward"),
    ],
}


def kind(operation: str) -> str:
    return next((kind for kind, operations in KINDS.items() if operation in operations), "other operations")


def padding(model: str, corpus: str, root: str, batches: int = 20) -> float:
    """The share of attention's places that no token has."""
    settings = config(model, "float32")
    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    size, places, pairs = MODELS[model][1], 0, 0
    for rows in drawn_rows(len(data.train.queries), size, batches):
        lengths = sorted(concatenate([data.train.queries.take(rows), data.train.codes.take(rows)]).places.tolist())
        for group in groups(lengths, 1, torch.device("cpu")):
            places += group.shape[0] * group.shape[2] ** 2
        pairs += sum(length**2 for length in lengths)
    return 1 - pairs / places


@freed_memory_kept()
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
            drawn, step = stepping(options.corpus, root, model, "float32", 2 * steps)
            batches = list(drawn)
            for batch in batches[:WARM_UP]:
                step(batch)
            plain = time.perf_counter()
            for batch in batches[WARM_UP : WARM_UP + steps]:
                step(batch)
            plain = time.perf_counter() - plain
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                wall = time.perf_counter()
                for batch in batches[WARM_UP + steps :]:
                    step(batch)
                wall = time.perf_counter() - wall
            took: dict[str, float] = {}
            for event in seen.key_averages():
                if event.key.startswith("aten::"):
                    name = kind(event.key.removeprefix("aten::"))
                    took[name] = took.get(name, 0.0) + event.self_cpu_time_total / 1e6
            took["rest"] = wall - sum(took.values())
            print(f"{model}: {plain / steps * 1e3:,.1f} ms a step, {wall / steps * 1e3:,.1f} with the profiler")
            for name, seconds in sorted(took.items(), key=lambda part: -part[1]):
                print(f"  {name:22} {seconds / wall:6.1%}")
            if model != "bag":
                print(f"  padding: {padding(model, options.corpus, root):.1%} of attention's places")


if __name__ == "__main__":
    main()
