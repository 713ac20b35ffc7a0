"""Lines that Ray tasks say while they run, brought to the driver."""

from __future__ import annotations

import contextlib
from typing import Any

import ray

_SECONDS = 10.0
"""That a line, or its reader, is waited for: work does not end because nobody hears of it."""


class Notes:
    """Made on the driver and given to tasks. Its actor ends with the last process that has it."""

    def __init__(self) -> None:
        actor: Any = ray.remote(_Box)
        self._box = actor.options(num_cpus=0).remote()

    def say(self, text: str) -> None:
        """In a task: pass a line on."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._box.put.remote(text), timeout=_SECONDS)

    def heard(self) -> list[str]:
        """On the driver: return what was said since the last call."""
        with contextlib.suppress(ray.exceptions.RayError):
            return ray.get(self._box.take.remote(), timeout=_SECONDS)
        return []


class _Box:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def put(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines
