"""The console of tables and progress: see `terminal`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
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
