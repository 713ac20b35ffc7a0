"""What the doctor says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. An error stops a launch; a remedy says what to do, and an `ok` has none."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def of_arms(names: Sequence[str]) -> str:
    """Arms for people: `arm a` or `arms a, b`."""
    return f"arm{'s' if len(names) > 1 else ''} {', '.join(names)}"


def size(count: float) -> str:
    """Bytes for people: two figures are enough for an estimate."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
