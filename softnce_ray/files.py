"""Files that are opened to be read, and never a pipe, a device or a folder in their place."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

State = tuple[int, int, int, int, int]
"""Device, inode, size, and times of the last change of content and of anything (ns). It is another after any change:
the last time cannot be set by programs."""


def open_file(path: str | Path) -> BufferedReader:
    """Open a regular file, or a link to one, to read its bytes.

    Raises:
      OSError: there is none, or something else is in its place.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to returns at once.
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _expect_file(os.fstat(number).st_mode, path)
    except OSError:
        os.close(number)
        raise
    return open(number, "rb")


def read_file(path: str | Path) -> bytes:
    """Return the content of a regular file.

    Raises:
      OSError: as `open_file`.
    """
    with open_file(path) as file:
        return file.read()


def expect_file(path: str | Path) -> Path:
    """Return the path of a regular file, for libraries that open paths themselves.

    Raises:
      OSError: as `open_file`.
    """
    _expect_file(os.stat(path).st_mode, path)
    return Path(path)


def state_of(path: str | Path) -> State:
    """Return the state of a regular file; two equal ones mean the same content.

    Raises:
      OSError: as `open_file`.
    """
    with open_file(path) as file:  # of a network's file system, opening a file asks for its state
        found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _expect_file(mode: int, path: str | Path) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder is in the place of a file", str(path))
    what = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise OSError(errno.EINVAL, f"{what} is in the place of a file", str(path))
