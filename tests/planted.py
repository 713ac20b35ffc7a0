"""Secrets that are planted into an environment, and the search for them wherever others could read them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_PAUSE = 0.1


class Planted:
    """Secrets of every kind that a study's environment may have, each another.

    Attributes:
      environment: the variables.
    """

    def __init__(self, folder: Path) -> None:
        """Write the file that one of them names into a folder."""
        self._values: list[str] = []
        key = folder / "google.json"
        key.write_text(json.dumps({"type": "service_account", "private_key": self._new()}))
        self.environment: Mapping[str, str] = {
            "AWS_ACCESS_KEY_ID": self._new(),
            "AWS_SECRET_ACCESS_KEY": self._new(),
            "AWS_SESSION_TOKEN": self._new(),
            "AWS_SECURITY_TOKEN": self._new(),
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "GOOGLE_API_KEY": self._new(),
            "AZURE_STORAGE_KEY": self._new(),
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountKey={self._new()}",
            "AZURE_CLIENT_SECRET": self._new(),
            "MLFLOW_TRACKING_TOKEN": self._new(),
            "PGPASSWORD": self._new(),
            "DATABASE_URL": f"postgresql://me:{self._new()}@db.example/mlflow",
            "HF_TOKEN": f"hf_{self._new()}",
            "RAY_AUTH_TOKEN": self._new(),
        }

    def _new(self) -> str:
        self._values.append(secrets.token_hex(24))
        return self._values[-1]

    @property
    def forms(self) -> list[bytes]:
        """What the secrets look like in texts and in requests."""
        plain = [value.encode() for value in self._values]
        return [*plain, *(base64.b64encode(value) for value in plain)]


@contextlib.contextmanager
def watched(forms: Sequence[bytes], *folders: Path) -> Iterator[Watch]:
    """Search what appears on the machine's command lines, and in folders, while the context lasts."""
    watch = Watch(forms, folders)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join()


class Watch:
    """Looks again and again.

    Attributes:
      found: what has a secret: command lines, and files.
      processes: commands that were looked at.
      files: names of files that were looked at.
    """

    def __init__(self, forms: Sequence[bytes], folders: Sequence[Path]) -> None:
        self._forms, self._folders = forms, folders
        self._seen: dict[Path, tuple[int, int]] = {}
        self.found: set[str] = set()
        self.processes: set[str] = set()
        self.files: set[str] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(_PAUSE):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self._look(line := process.read_bytes().replace(b"\0", b" "), line.decode(errors="replace"))
                    self.processes.add(line.decode(errors="replace"))
            for path in (path for folder in self._folders for path in _files(folder)):
                with contextlib.suppress(OSError):
                    about = path.stat()
                    state = (about.st_mtime_ns, about.st_size)
                    if self._seen.get(path) != state:
                        self._look(path.read_bytes(), str(path))
                        self._seen[path] = state
                        self.files.add(path.name)

    def _look(self, content: bytes, shown: str) -> None:
        if any(form in content for form in self._forms):
            self.found.add(shown)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            if path.is_file() and not path.is_symlink():
                yield path


def found_in(folder: Path, forms: Sequence[bytes]) -> list[Path]:
    """Files below a folder that have one of some texts; files may vanish meanwhile."""
    found = []
    for path in _files(folder):
        with contextlib.suppress(OSError):
            if any(form in path.read_bytes() for form in forms):
                found.append(path)
    return found
