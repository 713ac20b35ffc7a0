"""Damage to files, and commands that are run on what is left, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 20.0
"""Seconds that a command has beyond those that it takes without damage."""


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _swap(path: Path, chance: random.Random) -> None:
    """Exchange it with another file of its kind."""
    same = [each for each in beside(path) if each.read_bytes() != path.read_bytes()]
    if not same:
        raise Unchanged
    other = chance.choice(same)
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)


def _link(path: Path, chance: random.Random) -> None:
    same = [each for each in beside(path) if each.read_bytes() != path.read_bytes()]
    if not same:
        raise Unchanged
    path.unlink()
    path.symlink_to(chance.choice(same))


def _half(path: Path, chance: random.Random) -> None:
    if path.stat().st_size < 2:
        raise Unchanged
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, chance: random.Random) -> None:
    if not path.stat().st_size:
        raise Unchanged
    os.truncate(path, 0)


def _folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nothing-here")


def _pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _remove(path: Path, chance: random.Random) -> None:
    path.unlink()


class Unchanged(Exception):
    """A kind of damage that changes nothing of a file."""


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "empty": _empty,
    "half": _half,
    "flip": _flip,
    "swap": _swap,
    "folder": _folder,
    "dangling": _dangling,
    "link": _link,
    "pipe": _pipe,
    "remove": _remove,
}


def beside(path: Path) -> list[Path]:
    """Other files of the same kind in the neighbourhood."""
    found = (each for folder in (path.parent, path.parent.parent) for each in sorted(folder.rglob(f"*{path.suffix}")))
    return [each for each in dict.fromkeys(found) if each != path and each.is_file()]


@dataclass(frozen=True)
class Ran:
    """What came of a command: `status` is negative for a signal, None where it took longer than it may."""

    status: int | None
    out: str
    err: str
    seconds: float

    @property
    def fault(self) -> str:
        """Why no user should see this; "" where one may."""
        if self.status is None:
            return f"did not end in {self.seconds:.0f} s"
        if self.status < 0:
            return f"died of signal {-self.status}"
        if "Traceback (most recent call last)" in self.err + self.out:
            return "ended in a traceback"
        if self.status and not self.err.strip() and not self.out.strip():
            return "failed without a word"
        return ""


def run(arguments: Sequence[str], folder: Path, out: Path, limit: float = LIMIT) -> Ran:
    """Run a command of the command line, in `folder`, in a copy of this process: what it imports is there already."""
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become(arguments, folder, out)
    status: int | None = None
    while time.monotonic() - began < limit:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        time.sleep(0.01)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    told, warned = ((out / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
    return Ran(status, told, warned, time.monotonic() - began)


def _become(arguments: Sequence[str], folder: Path, out: Path) -> None:
    """Never returns."""
    status = 70
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        os.chdir(folder)
        sys.argv = ["softnce-ray", *arguments]
        from softnce_ray.cli import main

        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def said(text: str) -> str:
    """Output without what differs from run to run."""
    text = re.sub(r"\d+(\.\d+)? s\b|\d+(\.\d+)? ?pairs/s|\[ *[\d.]+ s\]", "", text)
    return re.sub(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|\+00:00| UTC)?", "", text)


def restore(pristine: Path, place: Path) -> None:
    """Put a tree back as it was."""
    shutil.rmtree(place)
    shutil.copytree(pristine, place, symlinks=True)
