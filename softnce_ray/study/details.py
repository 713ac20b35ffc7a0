"""What is too long for a terminal, in a file beside a study's checkpoints."""

from __future__ import annotations

import datetime
from pathlib import Path


class Details:
    """A file that grows by what libraries say in full, each time with its date; made when there is something."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, text: str) -> str:
        """Write a text down; returns what a short note adds to say where, nothing where there is no text or no room
        for it."""
        if not text:
            return ""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{at} {text.rstrip()}\n")
        except OSError:  # a note must not end a study
            return ""
        return f"; in full in {self._path}"
