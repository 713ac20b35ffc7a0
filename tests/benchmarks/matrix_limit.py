"""How much of the processor's matrix products a training step uses, and how one trial should use two processors.

    python tests/benchmarks/matrix_limit.py corpora/python [--repeats 5]

1. Floating-point operations a second of a large matrix product (2,048 cubed), and bytes a second of a copy.
2. Training steps of the small transformer and of MiniLM: operations of their matrix products as torch counts them, by
   the seconds of a step, and their share of 1. at the same number of threads. Padding is counted as work.
3. Two trials with a thread each beside one trial with two threads: pairs a second in all.

Each measurement is a process of its own; processes take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from training_step import WARM_UP, config, stepping
from turns import in_turns, machine, ratios, spread

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.preparation import prepare

SIZE = 2048
STEPS = {"bag": 400, "small": 8, "minilm": 3}
COUNT = "count"
"""In the place of threads: count operations, and measure no time."""


def when_all_are_ready() -> None:
    """Two that measure side by side begin together."""
    print("ready", flush=True)
    sys.stdin.readline()


def product(precision: str) -> float:
    """GFLOP/s."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = torch.randn(SIZE, SIZE).to(kind), torch.randn(SIZE, SIZE).to(kind)
    one @ other
    when_all_are_ready()
    started = time.perf_counter()
    for _ in range(10):
        one @ other
    return 10 * 2 * SIZE**3 / (time.perf_counter() - started) / 1e9


def copy() -> float:
    """GB/s, read and written."""
    source = torch.randn(64_000_000)
    target = torch.empty_like(source)
    target.copy_(source)
    when_all_are_ready()
    started = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    return 10 * 2 * source.nbytes / (time.perf_counter() - started) / 1e9


@freed_memory_kept()
def training(corpus: str, root: str, model: str, precision: str, *, count: bool) -> float:
    """Pairs a second, or with `count` GFLOP a pair of the matrix products."""
    drawn, step = stepping(corpus, root, model, precision, STEPS[model])
    batches = list(drawn)
    pairs = sum(len(batch.rows) for batch in batches[WARM_UP:])
    if count:
        when_all_are_ready()
        with FlopCounterMode(display=False) as counter:
            for batch in batches[WARM_UP:]:
                step(batch)
        return counter.get_total_flops() / pairs / 1e9
    for batch in batches[:WARM_UP]:
        step(batch)
    when_all_are_ready()
    started = time.perf_counter()
    for batch in batches[WARM_UP:]:
        step(batch)
    return pairs / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, precision, threads, root = options.measure
        torch.set_num_threads(2 if threads == COUNT else int(threads))
        if what in STEPS:
            print(training(options.corpus, root, what, precision, count=threads == COUNT))
        else:
            print(product(precision) if what == "product" else copy())
        return

    def started(what: str, precision: str, threads: str) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, options.corpus, "--measure", what, precision, threads, root]
        environment = {**os.environ, "OMP_NUM_THREADS": "2" if threads == COUNT else threads}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def told(*running: subprocess.Popen[str]) -> list[float]:
        for each in running:
            assert each.stdout is not None
            while each.poll() is None and each.stdout.readline() != "ready\n":
                pass
        for each in running:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        said = [each.communicate()[0] for each in running]
        for each in running:
            if each.returncode:
                sys.exit(each.returncode)
        return [float(text.splitlines()[-1]) for text in said]

    def run(name: str) -> float:
        what, precision, threads = name.split()
        if threads == "2x1":
            return sum(told(started(what, precision, "1"), started(what, precision, "1")))
        return sum(told(started(what, precision, threads)))

    with tempfile.TemporaryDirectory() as root:
        for model in STEPS:
            prepare(config(model, "float32"), options.corpus, "python", root)
        names = [f"product {precision} {threads}" for precision in ("float32", "bf16") for threads in (1, 2)]
        names += ["copy float32 1", "copy float32 2"]
        names += [f"{model} float32 {threads}" for model in STEPS for threads in ("1", "2", "2x1")]
        names += [f"{model} bf16 2" for model in ("small", "minilm")]
        operations = {model: sum(told(started(model, "float32", COUNT))) for model in STEPS if model != "bag"}
        found = in_turns({name: lambda name=name: run(name) for name in names}, options.repeats)  # type: ignore[misc]
    print(machine())
    for name in names:
        what, precision, threads = name.split()
        unit = {"product": "GFLOP/s", "copy": "GB/s"}.get(what, "pairs/s")
        line = f"{name:20} {spread(found[name], ',.1f'):>28} {unit}"
        if what in operations and threads != "2x1":
            work = [rate * operations[what] for rate in found[name]]
            share = ratios(work, found[f"product {precision} {threads}"])
            line += f"; {statistics.median(work):,.0f} GFLOP/s, {spread(share)} of the product"
        if threads == "2x1":
            line += f"; {spread(ratios(found[name], found[f'{what} {precision} 2']))} of one trial with 2 threads"
        print(line)


if __name__ == "__main__":
    main()
