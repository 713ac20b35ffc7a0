"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` when all in it is written, and vanishes when that fails."""
    final.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    work = holder / final.name  # mkdtemp's own folder would be closed to other users
    work.mkdir()
    try:
        yield work
        try:
            os.rename(work, final)
        except OSError:
            if not final.exists():  # else another process was faster with the same content
                raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
