"""Exact MRR at the size of CodeSearchNet Python, beside the bare matrix product and the usual full sort.

    python tests/benchmarks/evaluation_scale.py [--queries 15000] [--codes 44000] [--width 768] [--repeats 5]

Random unit vectors, two threads. Ways take turns, each in a process of its own, which tells its seconds and its
greatest memory beyond the vectors themselves. `product` computes all scores, a block of queries at a time, and throws
them away: no exact evaluation can do less. `full sort` ranks every row with argsort, as evaluation scripts usually do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from turns import in_turns, machine, ratios, spread

from softnce_ray.evaluation import ranks, reciprocal

BLOCK = 256


def product(queries: Tensor, codes: Tensor, targets: Tensor) -> float:
    for start in range(0, len(queries), BLOCK):
        queries[start : start + BLOCK] @ codes.T
    return 0.0


def ours(queries: Tensor, codes: Tensor, targets: Tensor) -> float:
    return float(reciprocal(ranks(queries, codes, targets)).mean())


def full_sort(queries: Tensor, codes: Tensor, targets: Tensor) -> float:
    found = []
    for start in range(0, len(queries), BLOCK):
        scores = (queries[start : start + BLOCK] @ codes.T).numpy()
        order = np.argsort(-scores, axis=1)
        found.append(1 + np.argmax(order == targets[start : start + BLOCK, None].numpy(), axis=1))
    return float((1 / np.concatenate(found)).mean())


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "product": product,
    "ranks": ours,
    "full sort": full_sort,
}


def measure(way: str, queries: int, codes: int, width: int) -> None:
    """Print seconds, bytes and the MRR as JSON."""
    torch.set_num_threads(2)
    random = torch.Generator().manual_seed(0)
    functions = torch.nn.functional.normalize(torch.randn(codes, width, generator=random))
    targets = torch.randperm(codes, generator=random)[:queries]
    asked = torch.nn.functional.normalize(functions[targets] + 0.15 * torch.randn(queries, width, generator=random))
    WAYS[way](asked[:BLOCK], functions, targets[:BLOCK])  # libraries start their threads
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # making the vectors is not counted: the greatest memory begins with what is held now
    before = memory("VmRSS")
    started = time.perf_counter()
    mrr = WAYS[way](asked, functions, targets)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, memory("VmHWM") - before, mrr]))


def memory(which: str) -> int:
    """Bytes of a line of the kernel's status of this process."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{which}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=15_000)
    parser.add_argument("--codes", type=int, default=44_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.queries, options.codes, options.width)
        return
    if not 0 < options.queries <= options.codes or options.width < 1 or options.repeats < 1:
        parser.error("expected all above 0 and no more queries than codes, each of which answers one")
    sizes = [f"--{name}={getattr(options, name)}" for name in ("queries", "codes", "width")]
    told: dict[str, list[list[float]]] = {way: [] for way in WAYS}

    def run(way: str) -> float:
        command = [sys.executable, __file__, *sizes, "--measure", way]
        told[way].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        return told[way][-1][0]

    seconds = in_turns({way: lambda way=way: run(way) for way in WAYS}, options.repeats)  # type: ignore[misc]
    print(machine())
    print(f"{options.queries:,} queries, {options.codes:,} codes, width {options.width}")
    print(f"{'way':10} {'seconds':>24} {'over the product':>24} {'memory, MB':>11} {'MRR':>7}")
    for way in WAYS:
        _, most, mrr = (statistics.median(column) for column in zip(*told[way], strict=True))
        over = spread(ratios(seconds[way], seconds["product"]))
        print(f"{way:10} {spread(seconds[way]):>24} {over:>24} {most / 1e6:11,.0f} {f'{mrr:.4f}' if mrr else '':>7}")


if __name__ == "__main__":
    main()
