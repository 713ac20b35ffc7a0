"""How the C library hands out memory while networks work on processors."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h: what mallopt sets.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4

_HEAP = 64 << 20
"""The size of heaps of threads: trials of a study are trained in a thread. Larger pieces are the system's own there."""

_KEEPING = {
    _TRIM_THRESHOLD: -1,  # the first heap never shrinks
    _TOP_PAD: _HEAP,  # nor do those of threads, of which a whole one would go back where the one before had such room
    _MMAP_MAX: 0,  # no piece is the system's own, which would go back alone
}
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65_536}
"""glibc's own, but for the thresholds: those are what it comes to by itself in a process that frees large pieces."""

_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
"""Variables of the environment by which users set the same; and GLIBC_TUNABLES."""

_lock = threading.Lock()
_holding = 0


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # a thread that had it is not in the child


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep the memory of freed tensors for the next ones, and give it back to the system at the end.

    glibc gives large pieces back as soon as they are free, and the system fills every page with zeros before it hands
    it out again: at each step of training, a tenth of its time. Also a decorator, of plain functions. May be nested, in
    any threads: the last to end gives back, all but the unused end (up to 64 MB) of each further thread's heap. From
    the first use on glibc no longer finds its thresholds by itself, and what the process had set of them is lost.

    Does nothing with other C libraries, nor where the environment sets these limits (`MALLOC_TRIM_THRESHOLD_`,
    `MALLOC_TOP_PAD_`, `MALLOC_MMAP_THRESHOLD_`, `MALLOC_MMAP_MAX_`, any `glibc.malloc` of `GLIBC_TUNABLES`).
    """
    library = _glibc()
    if library is None:
        yield
        return
    _hold(library)
    try:
        yield
    finally:
        _release(library)


def _glibc() -> ctypes.CDLL | None:
    if any(name in os.environ for name in _CHOSEN) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim and library.gnu_get_libc_version else None
    except (AttributeError, OSError, TypeError):
        return None


def _hold(library: ctypes.CDLL) -> None:
    global _holding
    with _lock:
        _holding += 1
        if _holding == 1:
            for name, value in _KEEPING.items():
                library.mallopt(name, value)


def _release(library: ctypes.CDLL) -> None:
    global _holding
    with _lock:
        _holding -= 1
        if _holding == 0:
            for name, value in _USUAL.items():
                library.mallopt(name, value)
            library.malloc_trim(0)
