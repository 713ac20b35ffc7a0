"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from softnce_ray.rich_console import PlainConsole

_SECONDS_BETWEEN_LINES = 5.0

Advance = Callable[[int, int, str], None]
"""Called with (done, total, note)."""


@contextlib.contextmanager
def progress(title: str, unit: str) -> Iterator[Advance]:
    """A display of how much of `title` is done, counted in `unit`."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield _lines(title, unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str) -> None:
            bar.update(task, completed=done, total=total, note=f"{done:,}/{total:,} {unit}{note and ', ' + note}")

        yield advance


def _lines(title: str, unit: str) -> Advance:
    said = time.monotonic()
    console = PlainConsole(stderr=True)

    def advance(done: int, total: int, note: str) -> None:
        nonlocal said
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            text = f"{title}: {done:,}/{total:,} {unit}{note and ', ' + note}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    return advance
