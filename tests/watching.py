"""Commands of softnce-ray in processes of their own, watched while they run, with all processes that come of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from servers import MlflowServer

_GIVE_UP = 900.0
"""Seconds after which a command counts as hanging."""


class Family:
    """A process with all that came of it, also what outlives its parent; nothing else is ever killed."""

    def __init__(self, pid: int) -> None:
        self._seen: dict[int, psutil.Process] = {pid: psutil.Process(pid)}

    def look(self) -> list[psutil.Process]:
        """Those alive now. Called often, so that no child is missed whose parent dies."""
        parents: dict[psutil.Process, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                parents[process] = process.ppid()
        grows = True
        while grows:
            # A parent must be the one that was seen: the system uses a dead one's number again.
            new = [
                process
                for process, parent in parents.items()
                if self._seen.get(process.pid) != process and parent in self._seen and self._seen[parent].is_running()
            ]
            self._seen |= {process.pid: process for process in new}
            grows = bool(new)
        return [each for each in self._seen.values() if _alive(each)]

    def training(self) -> list[psutil.Process]:
        """Ray's workers that run a trial."""
        found = []
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and ".train" in title:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def of_ray(self) -> list[str]:
        """Titles of Ray's servers and workers that are alive, its agents left out: those that could do harm."""
        found = []
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if "raylet/raylet" in title or "gcs_server" in title or title.startswith("ray::"):
                    found += [] if "Agent" in title else [f"{process.pid} {title[:80]}"]
        return found

    def left_after(self, seconds: float) -> list[str]:
        """Titles of those that still live after so long a wait; they are then killed."""
        until = time.monotonic() + seconds
        while (left := self.look()) and time.monotonic() < until:
            time.sleep(0.1)
        titles = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                titles.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
                process.kill()
        return titles


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Command:
    """A softnce-ray command in a process of its own, watched."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.place, self.arguments = place, arguments
        self.lines: list[str] = []
        self.began = time.monotonic()
        self.training_since: float | None = None
        self.checkpoints: dict[Path, float] = {}
        self._old, self._looked = set(place.checkpoints()), 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "softnce_ray", *arguments],
            env=place.environment(),
            cwd=place.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.family = Family(self.process.pid)
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line)

    def look(self) -> bool:
        """Take in what has happened; True while the command runs."""
        now = time.monotonic()
        if now >= self._looked + 0.1:
            self._looked = now
            if self.family.training() and self.training_since is None:
                self.training_since = now
        for path in self.place.checkpoints():
            if path not in self._old:
                self.checkpoints.setdefault(path, now)
        if now - self.began > _GIVE_UP:
            raise Hanging(f"{self.arguments[0]} has not ended after {_GIVE_UP:g} s: {self.output()[-500:]}")
        return self.process.poll() is None

    def wait(self) -> int:
        while self.look():
            time.sleep(0.1)
        self._reader.join(10)
        return self.process.returncode

    def output(self) -> str:
        return "".join(self.lines)


class Hanging(AssertionError):
    """A command that does not end."""


@dataclass(frozen=True)
class Place:
    """Where a study keeps its things: in `root`, with its store in `folder`. Short paths: Ray's sockets lie below."""

    root: Path
    server: MlflowServer
    study: str
    folder: str = "store"

    @property
    def store(self) -> Path:
        return self.root / self.folder

    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SOFTNCE_"))
        }
        return kept | {
            "MLFLOW_TRACKING_URI": self.server.uri,
            "HOME": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "RAY_TMPDIR": str(self.root),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def checkpoints(self) -> list[Path]:
        return list(self.store.glob(f"ray/{self.study}/*/*/checkpoint_*/checkpoint.safetensors"))

    def run(self, *arguments: str) -> Command:
        return Command(self, *arguments, "--store", str(self.store))

    def report(self) -> Any:
        """The study's report as data, or a text that says why there is none."""
        command = self.run("report", self.study, "--format", "json")
        status, text = command.wait(), command.output()
        return json.loads(text[text.index("{") :]) if status == 0 else f"exit status {status}: {text[-300:]}"
