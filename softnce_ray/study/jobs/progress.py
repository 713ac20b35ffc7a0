"""What the lines of a study's job mean: how far it is, and whether it has begun."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOLD = re.compile(r"\[ *[\d.]+ s\] ")
"""Before what `display.Lines` says."""
_COUNT = re.compile(r"\[([\d,]+)/([\d,]+)\]$")
_NOTHING = re.compile(r"nothing to do: all (\d+) trials are there$")

_RAYS = "Running entrypoint for job "
"""A line of Ray's own, which may come last."""


_OF_CELLS = ("prepared ", "could not prepare ")
"""Beginnings of lines that count cells, and not trials."""


@dataclass(frozen=True)
class Progress:
    """How far a study is; None where its lines do not tell yet."""

    done: int | None
    total: int | None
    last: str
    """Its latest line, without the time."""


def progress_of(log: str) -> Progress:
    """Of the whole log of a job."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip() and not line.startswith(_RAYS)]
    last = next((_TOLD.sub("", line) for line in reversed(lines) if not line.startswith("see  ")), "")
    for line in reversed(lines):
        told = _TOLD.match(line)
        count = _COUNT.search(line)
        if (
            told and count and not line[told.end() :].startswith(("prepared ", "could not prepare "))
        ):  # cells, not trials
            done, total = (int(number.replace(",", "")) for number in count.groups())
            return Progress(done, total, last)
        if nothing := _NOTHING.search(line):
            return Progress(int(nothing[1]), int(nothing[1]), last)
    return Progress(None, None, last)


def past_checks(line: str) -> bool:
    """Whether a line says that a launch has done its checks: all that it shows before are notes."""
    told = _TOLD.match(line)
    return told is not None and not line[told.end() :].startswith("note: ")
