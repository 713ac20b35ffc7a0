"""Folders that all machines of a study see: on a disk that they share, or in an object store (`s3://`, `gs://`, any URI
that pyarrow knows)."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from softnce_ray.errors import MachineError
from softnce_ray.files import expect_file, read_file
from softnce_ray.folders import nearest, sync
from softnce_ray.temporary import temporary_folder
from softnce_ray.uris import file_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.ASCII)
_HALF_URI = re.compile(r"(s3|gs|gcs|abfss?):/(?!/)")
"""A URI that has gone through a `Path`, or was mistyped: nobody's folder is called so."""
_WITH_BUCKET = ("s3", "gs", "gcs")
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|Bucket '[^']*' not found")
"""How pyarrow says that a bucket is not there."""


class StorageError(MachineError, OSError):
    """A storage that cannot be reached, read or written, or that holds not what it should."""


def is_uri(text: str) -> bool:
    """Whether a text names an object store, and no path."""
    return _URI.match(text) is not None


@dataclass(frozen=True)
class Location:
    """A folder or file: an absolute path, or a URI. `location / "name"` is what lies in it.

    A query of a URI, such as `?endpoint_override=http://10.0.0.1:9000`, goes with all that lies below it.
    """

    text: str

    @staticmethod
    def at(place: Location | str | Path) -> Location:
        """The location that a path, from the working directory, or a URI names.

        Raises:
          StorageError: an empty text, a URI with a password, or one without its second slash or its bucket.
        """
        if isinstance(place, Location):
            return place
        text = str(place)
        if not text:
            raise StorageError("expected a path or an address such as s3://bucket/folder, got an empty text: give one")
        if half := _HALF_URI.match(text):
            raise StorageError(
                f"expected {half.group(1)}://bucket/folder, got {text}: write two slashes, and in Python give the text "
                "itself, since a Path makes one of them"
            )
        if not is_uri(text):
            return Location(str(Path(os.path.expanduser(text)).absolute()))  # no shell sees the ~ of a study file
        parts = urlsplit(text)
        if (path := file_path(text)) is not None:
            return Location(str(path))
        if parts.password or "@" in parts.netloc:
            raise StorageError(
                f"expected a location without credentials, got {parts.scheme}://…@{parts.hostname or ''}: give them in "
                "the environment of every node (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )
        if parts.scheme in _WITH_BUCKET and not parts.netloc:
            raise StorageError(f"expected a bucket, as in {parts.scheme}://bucket/folder, got {text}: name one")
        return Location(text.rstrip("/"))

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine; None in an object store."""
        return None if is_uri(self.text) else Path(self.text)

    @property
    def name(self) -> str:
        address = self.text.partition("?")[0] if is_uri(self.text) else self.text
        return address.rpartition("/")[2]

    def __truediv__(self, name: str) -> Location:
        if not is_uri(self.text):
            return Location(f"{self.text}/{name}")
        address, mark, query = self.text.partition("?")
        return Location(f"{address}/{name}{mark}{query}")

    def __str__(self) -> str:
        return self.text

    def opened(self) -> tuple[FileSystem, str]:
        """Its file system, and its path there.

        Raises:
          StorageError: a URI that pyarrow cannot use.
        """
        from pyarrow.fs import LocalFileSystem

        if not is_uri(self.text):
            return LocalFileSystem(), self.text
        address, _, query = self.text.partition("?")
        scheme, _, path = address.partition("://")
        bucket = path.partition("/")[0]
        return _file_system(f"{scheme}://{bucket}", query), path


def local(place: str | Path, option: str, otherwise: str) -> Path:
    """A path that must be on this machine; it need not be there. It is as it was given, but for steps back: of
    `a/../b` the system would say that it is not there as long as there is no `a`, and who makes it makes `b`.

    Args:
      option: of the command line, which gave it.
      otherwise: what to do instead of giving an address.

    Raises:
      StorageError: a URI, an empty text, or what would lie below a file.
    """
    text = str(place)
    if not text:
        raise StorageError(f"{option}: expected a path, got an empty text: give one")
    if is_uri(text) or _HALF_URI.match(text):
        text = _HALF_URI.sub(r"\1://", text)  # as it was given, before it was a `Path`
        raise StorageError(f"{option}: expected a path on this machine, got {text}: {otherwise}")
    path = Path(os.path.normpath(os.path.expanduser(text)))
    if not (above := nearest(path)).is_dir():
        raise StorageError(
            f"{option}: expected a path that can be made, got {text}, and {above} is no folder: give another"
        )
    return path


@lru_cache
def _file_system(root: str, query: str) -> FileSystem:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(f"{root}?{query}" if query else root)[0]
    except (ArrowException, OSError, ValueError) as error:
        raise StorageError(f"expected a storage that can be used, got {root} ({_line(error)})") from error


def read(place: Location) -> bytes | None:
    """The content of a file, or None where there is none.

    Raises:
      StorageError: it cannot be read.
    """
    if (here := place.path) is not None:
        try:
            return read_file(here)
        except FileNotFoundError:
            return None
    system, path = place.opened()
    with _told(place, "read"):
        try:
            with system.open_input_stream(path) as file:
                return file.read()
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def opened(place: Location) -> Iterator[BinaryIO]:
    """A file to read from and to seek in.

    Raises:
      FileNotFoundError: there is none.
      StorageError: it cannot be read.
    """
    system, path = place.opened()
    with _told(place, "read"):
        file = system.open_input_file(path if place.path is None else str(expect_file(path)))
    with file:
        yield file


def write(place: Location, content: bytes) -> None:
    """Write a file whole, in the place of one that may be there.

    Raises:
      StorageError: it cannot be written.
    """
    with _told(place, "written"):
        if (path := place.path) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            try:
                partial.write_bytes(content)
                sync(partial)
                os.replace(partial, path)
                sync(path.parent)
            finally:
                partial.unlink(missing_ok=True)
            return
        system, name = place.opened()
        with system.open_output_stream(name) as file:  # object stores show a file when it is whole
            file.write(content)


def names(place: Location) -> list[str]:
    """Names of what lies in a folder, sorted; of none, nothing.

    Raises:
      StorageError: it cannot be read.
    """
    from pyarrow.fs import FileSelector

    system, path = place.opened()
    with _told(place, "read"):
        found = system.get_file_info(FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found)


def sizes(place: Location, files: Sequence[str]) -> dict[str, int]:
    """Bytes of those of a folder's files that are there.

    Raises:
      StorageError: it cannot be read.
    """
    system, path = place.opened()
    with _told(place, "read"):
        found = system.get_file_info([f"{path}/{name}" for name in files])
    return {name: info.size for name, info in zip(files, found, strict=True) if info.is_file}


def has_bucket(place: Location) -> bool:
    """Whether there is the bucket that a URI names; of other places it is said, too.

    Raises:
      StorageError: it cannot be read.
    """
    from pyarrow.fs import FileType

    if not place.text.startswith(tuple(f"{scheme}://" for scheme in _WITH_BUCKET)):
        return True
    system, path = place.opened()
    with _told(place, "read"):
        return bool(system.get_file_info(path.partition("/")[0]).type != FileType.NotFound)


def remove(place: Location) -> None:
    """Remove a folder or file with all that lies in it; none is no error.

    Raises:
      StorageError: it cannot be removed.
    """
    from pyarrow.fs import FileType

    system, path = place.opened()
    with _told(place, "deleted"), contextlib.suppress(FileNotFoundError):
        kind = system.get_file_info(path).type
        if kind == FileType.Directory:
            system.delete_dir(path)
        elif kind == FileType.File:
            system.delete_file(path)


def upload(folder: Path, place: Location, files: Sequence[str] | None = None) -> None:
    """Copy a folder's files, or those named, to a storage, one after another in that order.

    Raises:
      StorageError: it cannot be written.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    system, path = place.opened()
    for name in files if files is not None else files_below(folder):
        with _told(place, "written"):
            system.create_dir(f"{path}/{name}".rpartition("/")[0], recursive=True)
            copy_files(str(folder / name), f"{path}/{name}", LocalFileSystem(), system)


def download(place: Location, folder: Path, files: Sequence[str]) -> None:
    """Copy files of a storage into a folder.

    Raises:
      StorageError: one is missing, or it cannot be read.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    system, path = place.opened()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            with _told(place / name, "read"):
                copy_files(f"{path}/{name}", str(folder / name), system, LocalFileSystem())
        except FileNotFoundError as error:
            raise StorageError(f"expected a file at {place / name}, got none: it was deleted") from error


@contextlib.contextmanager
def on_disk(place: Location, files: Sequence[str] | None = None) -> Iterator[Path]:
    """A folder of a storage as one of this machine, for as long as the context lasts: itself where it lies here, else a
    copy of all its files, or of those named that are there.

    Raises:
      StorageError: it cannot be read.
    """
    if (path := place.path) is not None:
        yield path
        return
    there = _below(place)
    with temporary_folder() as holder:
        folder = holder / place.name
        folder.mkdir()
        download(place, folder, [name for name in there if files is None or name in files])
        yield folder


def files_below(folder: Path) -> list[str]:
    """Names of all files below a folder, with those of the folders between, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _below(place: Location) -> list[str]:
    """Names of all files below a folder, with those of the folders between."""
    from pyarrow.fs import FileSelector

    system, path = place.opened()
    with _told(place, "read"):
        found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{path}/") for info in found if info.is_file)


@contextlib.contextmanager
def _told(place: Location, what: str) -> Iterator[None]:
    """Errors of an object store as `StorageError`; those of a disk are as they are, as is that there is no file."""
    try:
        yield
    except (StorageError, FileNotFoundError):
        raise
    except OSError as error:
        if place.path is not None:
            raise
        if _NO_BUCKET.search(str(error)):
            raise StorageError(no_bucket(place)) from error
        raise StorageError(
            f"expected a storage that can be {what} at {place}, got: {_line(error)}: check its address "
            "(AWS_ENDPOINT_URL) and its credentials in the environment of every node"
        ) from error


def no_bucket(place: Location) -> str:
    """What to say of a place whose bucket is not there."""
    scheme, _, rest = place.text.partition("://")
    bucket = re.split(r"[/?]", rest)[0]
    return (
        f"expected a bucket that exists, got {scheme}://{bucket}, which does not: correct its name, or make it first "
        "with the tools of your storage: softnce-ray makes none"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
