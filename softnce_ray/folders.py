"""Folders that appear whole or not at all, and are made once however many processes want them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def made_once(final: Path, make: Callable[[Path], None]) -> Path:
    """`final`, filled by `make` unless it exists. Another process that wants it at the same time waits; when the
    one that makes it dies or fails, the next one tries."""
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = final.parent / f".{final.name}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not final.exists():
            with appearing(final) as folder:
                make(folder)
    return final


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
