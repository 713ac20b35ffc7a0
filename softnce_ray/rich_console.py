"""The console of tables and progress: see `terminal`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from softnce_ray.terminal import plain


class PlainConsole(Console):
    """A console that shows characters which command a terminal; rich itself takes out five of them."""

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Return a text for a cell, as wide as what is shown of it."""
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is shown; colours and moves of the cursor that rich makes come later, or are marked as such."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


class Page(PlainConsole):
    """A console for a pipe or a file: sentences in 130 columns, and tables as wide as they are, for a row is a line."""

    COLUMNS = 130
    _UNBROKEN = 10_000

    def __init__(self, file: IO[str] | None = None) -> None:
        super().__init__(file=file, width=self.COLUMNS)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print without cutting what is wider than the page."""
        super().print(*objects, **{"crop": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is shown; a table has room for the longest of its names."""
        if isinstance(renderable, Table):
            options = (options or self.options).update(max_width=self._UNBROKEN)
        return super().render(renderable, options)


def for_stdout() -> PlainConsole:
    """Return the console of what a command prints: as wide as the terminal, or a page."""
    return PlainConsole() if sys.stdout.isatty() else Page()
