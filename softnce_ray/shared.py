"""What machines make once for all of them, below a folder or URI that they have in common; of an object store each
machine keeps what it reads."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path

from softnce_ray.digests import cache_folder, changed_file, write_digests
from softnce_ray.folders import made_once
from softnce_ray.storage import Location, StorageError, download, files_below, read, upload, write

_LIST = "files.json"


def shared_once(root: Location, name: str, make: Callable[[Path], object] | None) -> Path:
    """The folder `name` below `root` as one of this machine: what the name stands for is made by `make` unless some
    machine has.

    In an object store a folder is a list of files, written last, that names where they lie: of two machines that make
    it at once, each uses its own, and all others that of the one which was last.

    Args:
      root: the storage.
      name: of the folder; equal names must mean equal contents.
      make: fills an empty folder; None: it must be there.

    Raises:
      StorageError: the storage cannot be used, has no such folder and there is no `make`, or the folder has changed.
    """
    here = root.path if root.path is not None else cache_folder() / hashlib.sha256(root.text.encode()).hexdigest()[:16]

    def fill(folder: Path) -> None:
        if root.path is None and _fetched(root, name, folder):
            return
        if make is None:
            raise StorageError(
                f"expected what was prepared at {root / name}, got nothing: was it deleted? Launching the study again "
                "makes it"
            )
        make(folder)
        write_digests(folder)
        if root.path is None:
            _publish(folder, root, name)

    folder = made_once(here / name, fill)
    if changed := changed_file(folder):
        raise StorageError(
            f"expected what was prepared in {folder} as it was written, got {changed}: it was changed or damaged; "
            "remove that folder, and it is made anew"
        )
    return folder


def is_made(root: Location, name: str) -> bool:
    """Return True where `shared_once` would make nothing on any machine.

    Raises:
      StorageError: the storage cannot be used.
    """
    folder = (root / name).path
    return read(root / name / _LIST) is not None if folder is None else folder.is_dir()


def _fetched(root: Location, name: str, folder: Path) -> bool:
    """Fill a folder from the storage, if it is there."""
    content = read(root / name / _LIST)
    if content is None:
        return False
    listed = json.loads(content)
    download(root / name / listed["folder"], folder, list(listed["sizes"]))
    for file, size in listed["sizes"].items():
        if (got := (folder / file).stat().st_size) != size:
            raise StorageError(
                f"expected {size} bytes in {root / name / listed['folder'] / file}, got {got}: delete {root / name}, "
                "and it is made again"
            )
    return True


def _publish(folder: Path, root: Location, name: str) -> None:
    files = files_below(folder)
    place = secrets.token_hex(4)
    upload(folder, root / name / place, files)
    sizes = {file: (folder / file).stat().st_size for file in files}
    write(root / name / _LIST, json.dumps({"folder": place, "sizes": sizes}).encode())
