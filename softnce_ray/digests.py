"""Digests of files and of what JSON files hold.

A large file that did not change since this machine read it is not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softnce_ray import json_text
from softnce_ray.files import open_file, read_file, state_of
from softnce_ray.folders import write_text

DIGESTS = "sha256.json"
"""The file of a folder that has the SHA-256 of the others by their names."""

CHECKSUM = "checksum"
"""Key of a JSON file's checksum among its others."""

_SETTLED = 60.0
"""Seconds since its last change after which a file's state is trusted: within the tick of a clock two changes have one
time, and clocks of machines that share a disk differ."""

_LARGE = 64_000_000
"""Bytes of a file from which its SHA-256 is remembered: others are read faster than a cache is worth."""


def cache_folder() -> Path:
    """Where this machine keeps what it has read from object stores: the environment's `SOFTNCE_CACHE`, or
    `~/.cache/softnce_ray`. May be deleted when nothing runs."""
    return Path(os.environ.get("SOFTNCE_CACHE") or Path.home() / ".cache" / "softnce_ray").absolute()


def known_digest(path: Path, kind: str, compute: Callable[[], str]) -> str:
    """Return the digest that `compute` reads from a file, from this machine's cache if the file is as it was then.

    The cache lies in `cache_folder()`; without it, or where it cannot be written, all is read again.

    Args:
      path: the file.
      kind: what the digest is of; a file has one of each kind.
      compute: reads the file.

    Raises:
      OSError: there is no such file; and whatever `compute` raises.
    """
    state = [platform.node(), *state_of(path)]  # other hosts may share this cache, and have another file at this path
    name = hashlib.sha256(json.dumps([platform.node(), os.path.realpath(path), kind]).encode()).hexdigest()[:32]
    entry = cache_folder() / "digests" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json_text.load(read_file(entry))
        if known["state"] == state and isinstance(known["digest"], str):
            return str(known["digest"])
    began = time.time_ns()
    digest = compute()
    settled = began - max(state[-2:]) > _SETTLED * 1e9  # type: ignore[type-var, operator]
    if settled and state[1:] == [*state_of(path)]:
        with contextlib.suppress(OSError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_text(entry, json.dumps({"state": state, "digest": digest}))
    return digest


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits; of a large one see `known_digest`.

    Raises:
      OSError: it cannot be read.
    """

    def read() -> str:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return known_digest(path, "sha256", read) if path.stat().st_size >= _LARGE else read()


def write_digests(folder: Path) -> None:
    """Write beside the files of a folder, which are all written, the SHA-256 of each."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def changed_file(folder: Path) -> str:
    """Return which file of a folder is not as `write_digests` found it, for people.

    It is "" where none is, and in folders of earlier versions, of which nothing is known.
    """
    try:
        digests = json_text.load(read_file(folder / DIGESTS))
        for name, expected in digests.items():
            if sha256_of(folder / name) != expected:
                return f"another {name}"
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(error.filename).name
        return "" if name == DIGESTS else f"no {name}"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, AttributeError, TypeError):
        return f"a damaged {DIGESTS}"
    return ""


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with a checksum of itself."""
    return {**content, CHECKSUM: _checksum(content)}


def checksum_problem(content: dict[str, Any]) -> str:
    """Return why the content of a JSON file is not what was written with its checksum; "" where it is, or has none."""
    if content.get(CHECKSUM, "") in ("", _checksum(content)):
        return ""
    return f"a change after it was written, by its checksum; a change that is meant removes the line {CHECKSUM!r}"


def _checksum(content: dict[str, Any]) -> str:
    plain = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
