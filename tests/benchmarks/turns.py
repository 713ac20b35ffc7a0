"""What benchmarks share: ways that take turns, ratios within a turn, and the machine that they ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PACKAGES = ("torch", "transformers", "sentence-transformers", "ray", "mlflow")


class Clock:
    """A study's display that notes when its first trial starts and its last one ends."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def say(self, text: str) -> None: ...

    def progress(self, done: int, total: int, seconds_left: float | None = None) -> None: ...

    def started(self, key: object) -> None:
        self.first = self.first or time.monotonic()

    def epoch(self, key: object, metrics: object, epochs: int) -> None: ...

    def ended(self, key: object, outcome: str, metrics: object) -> None:
        self.last = time.monotonic()

    def close(self) -> None: ...


def explain(text: str | None) -> None:
    """End with a benchmark's description where its arguments ask for help."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(print(text))


def in_turns(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each way measured, `repeats` times; every turn begins with another way."""
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [one / other for one, other in zip(over, under, strict=True)]


def spread(values: Sequence[float], digits: str = ".2f") -> str:
    """The median, and from the least to the greatest."""
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def machine() -> str:
    """Processor and versions, for the head of a table."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    processor = models[0] if models else platform.processor()
    return f"{os.cpu_count()} x {processor}; Python {platform.python_version()}, {versions}"
