"""What is done to a study's processes and files, as systems and people do it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from servers import MlflowServer
from watching import Family

DISK = 512 * 2**20
"""Bytes of the disk that is filled: a launch wants to see room for checkpoints before it begins."""


class Passing:
    """Something that is undone by itself after some seconds, while its caller goes on."""

    def __init__(self, seconds: float, undo: Callable[[], object]) -> None:
        self._seconds, self._undo = seconds, undo
        self._thread = threading.Thread(target=self._pass, daemon=True)
        self._thread.start()

    def _pass(self) -> None:
        time.sleep(self._seconds)
        self._undo()

    def wait(self) -> None:
        self._thread.join()


def outage(server: MlflowServer, seconds: float) -> Passing:
    """Kill an MLflow server, which comes back."""
    server.kill()
    return Passing(seconds, server.start)


def stopped(processes: list[psutil.Process], seconds: float) -> Passing:
    """Stop processes, as a closed laptop or a debugger does, and let them go on."""

    def send(number: int) -> None:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    send(signal.SIGSTOP)
    return Passing(seconds, lambda: send(signal.SIGCONT))


def filled(folder: Path, seconds: float) -> Passing:
    """Fill the disk of a folder to the last byte for some seconds."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        piece = 2**20
        while piece:
            try:
                file.write(b"\0" * piece)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                piece //= 2
    return Passing(seconds, lambda: ballast.unlink(missing_ok=True))


def own_mounts() -> None:
    """Let this process and its children mount what nobody else sees.

    Raises:
      OSError: it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "no mount namespace")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Lay a disk of `DISK` bytes at a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def removed(folder: Path) -> None:
    """Remove a folder with all in it, though somebody writes there: nothing of it is left."""
    until = time.monotonic() + 5
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)


def copied(folder: Path, to: Path) -> None:
    """Copy a folder as it is while somebody writes there: what vanishes meanwhile is left out."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=False, capture_output=True)


def tear(spool: Path, how: str, chance: random.Random) -> None:
    """Damage the journal of a study as a machine does that stops before all is on its disk.

    Args:
      spool: the study's folder of it; without one nothing is done.
      how: one of `moments.TORN`.
    """
    journal, sent, files = spool / "journal.jsonl", spool / "sent", spool / "files"
    match how:
        case "the last record cut":
            _cut(journal, lambda size: max(0, size - chance.randint(1, 40)))
        case "half of the journal cut":
            _cut(journal, lambda size: size // 2)
        case "no position":
            sent.unlink(missing_ok=True)
        case "a torn position":
            _cut(sent, lambda size: size // 2)
        case "no files":
            removed(files)
        case "no journal":
            journal.unlink(missing_ok=True)


def _cut(file: Path, to: Callable[[int], int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.truncate(file, to(file.stat().st_size))


def kill_all(family: Family, server: MlflowServer, seconds: float) -> Passing:
    """Kill a driver, its workers and the MLflow server in the same moment."""
    workers = family.training()
    for process in workers:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return outage(server, seconds)
