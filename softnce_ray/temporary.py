"""Temporary folders: private, and gone with the process that made them, however it ends."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from softnce_ray.folders import held, left_over

_LOCK = "softnce_ray.lock"
_INNER = "t"


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, *, prefix: str = "softnce_ray-") -> Iterator[Path]:
    """A folder for this process, which no other user can look into, whatever is done with its own permissions.

    It goes with the context. What a killed process has left goes when another one makes its first folder there; see
    `sweep`.

    Args:
      parent: default the system's folder for temporary files.
      prefix: of its name.
    """
    place = Path(os.path.abspath(parent or tempfile.gettempdir()))
    _sweep_once(place, prefix)
    with held(place, prefix, _LOCK, place) as holder:
        try:
            (holder / _INNER).mkdir()
            yield holder / _INNER
        finally:
            _remove(holder)


def sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of processes that have ended, but for those in which something that they started lives on."""
    for holder in left_over(parent, prefix, _LOCK):
        if not _lives_in(holder / _INNER):
            _remove(holder)


_sweep_once = functools.cache(sweep)


def _remove(holder: Path) -> None:
    """Remove a folder; what cannot be removed now is left to the next process, with the lock that says whose it is."""
    with contextlib.suppress(OSError):
        shutil.rmtree(holder / _INNER, ignore_errors=True)
        if not os.path.lexists(holder / _INNER):
            (holder / _LOCK).unlink(missing_ok=True)
            holder.rmdir()


def _lives_in(folder: Path) -> bool:
    """Return True where a process of this user names a folder on its command line, works in it or has a file open."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(str(folder) in part for part in process.cmdline()):
                return True
            here = Path("/proc") / str(process.pid)
            for link in (here / "cwd", *(here / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    if folder in (place := Path(os.readlink(link))).parents or place == folder:
                        return True
    return False
