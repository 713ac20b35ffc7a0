"""Source archives: what kind a file is, and its sources unpacked into a cache, safely."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.package_facts import (
    METADATA_FILES,
    debian_facts,
    debian_repositories,
    dep5_licence,
    gem_repositories,
    npm_facts,
    repositories_of,
    wheel_facts,
)
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.streams import AR, ZIP, Part, ar_members, plain
from softnce_ray.folders import made_once

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".tgz", ".txz", ".tbz2")
ARCHIVE_SUFFIXES = (".zip", ".whl", ".jar", ".deb", ".gem", *_TAR_SUFFIXES)
KINDS = ".zip, .whl, .jar, .deb, .gem, .tgz, .tar and .tar.{gz,xz,bz2,zst}"
MAX_FILES = 300_000
MAX_BYTES = 4 << 30
# A stream can be endless without a file in it that is kept.
MAX_READ = 32 << 30

_LAYOUT = 3  # of what is unpacked: another number makes old caches unread
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    pa.ArrowException,
    EOFError,
    OSError,
    RuntimeError,  # an encrypted zip, or a compression that this Python lacks
    ValueError,
)
# Sources that a package of Java ships as an archive of their own.
_INNER_ARCHIVE = re.compile(r"(?:^|[/._-])(?:src|sources?)\.(?:zip|jar)$", re.IGNORECASE)
_VERSION = re.compile(r"[-_]v?\d[\w.+~:%-]*$")


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An archive's sources in a folder. `project` is what its package says it is part of: a Debian package's
    source package, an npm package's repository where that may hold several packages, else the package's name.
    `repositories` (`owner/name` on GitHub) are those that its metadata names as its own."""

    archive: str
    folder: Path
    project: str
    package: str
    version: str
    licence: str
    repositories: tuple[str, ...] = ()


class _Hostile(Exception):
    """An archive that is well made and must not be unpacked."""


def is_archive(path: str | Path) -> bool:
    """Whether a file's name says that it is an archive that can be unpacked."""
    return Path(path).name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack_archive(
    path: str | Path, cache: str | Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> Unpacked:
    """Unpack the sources of an archive below the folder `cache`, once for each content.

    Only files of the known languages are unpacked, with what names their project. Links, devices and pipes
    are passed over; nothing is written outside the cache.

    Raises:
        CorpusError: the archive is missing, none, broken, has a path that leads out of it, or would unpack to more
            than `max_files` files or `max_bytes` bytes.
    """
    archive = Path(path)
    if not archive.is_file():
        got = "a folder" if archive.is_dir() else "something else" if archive.exists() else "nothing"
        raise CorpusError(f"expected an archive at {archive}, got {got}: correct the path")
    try:
        digest = _digest(archive)
    except OSError as error:
        raise CorpusError(f"expected an archive that can be read at {archive}, got {error}: mind its rights") from error
    final = Path(cache) / f"{_stem(archive.name)[:60]}-{digest[:24]}"
    unpacker = _Unpacker(max_files=max_files, max_bytes=max_bytes)

    def make(folder: Path) -> None:
        described = unpacker.unpack(archive, folder / "files")
        (folder / "archive.json").write_text(json.dumps(described), encoding="utf-8")

    try:
        made_once(final, make)
        facts = json.loads((final / "archive.json").read_text(encoding="utf-8"))
    except _Hostile as error:
        raise CorpusError(f"{archive}: {error}") from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.filename and Path(error.filename) != archive:
            said = f"expected to write its files below {cache}, got {error}"
            raise CorpusError(f"{archive}: {said}: make room there, or give another folder") from error
        got = " ".join(str(error).split()) or type(error).__name__
        raise CorpusError(f"{archive}: expected a whole archive ({KINDS}), got {got}: fetch it again") from error
    facts["repositories"] = tuple(facts["repositories"])
    return Unpacked(archive=str(archive), folder=final / "files", **facts)


def _digest(archive: Path) -> str:
    """Of the content, and of what would be taken from it: a cache outlives the languages that are known."""
    digest = hashlib.sha256()
    with archive.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    digest.update(repr((_LAYOUT, archive.name, sorted(_suffixes()), METADATA_FILES)).encode())
    return digest.hexdigest()


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for language in LANGUAGES.values() for suffix in language.suffixes)


def _stem(name: str) -> str:
    """A file's name without the endings of archives and a version."""
    for suffix in sorted(ARCHIVE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            if suffix == ".deb":
                return name.split("_")[0]
            if suffix == ".whl":
                return name.split("-")[0]
            break
    return _VERSION.sub("", name) or name


class _Unpacker:
    """One archive's way into a folder, with what may still be written."""

    def __init__(self, *, max_files: int, max_bytes: int) -> None:
        self.max_files, self.max_bytes = max_files, max_bytes
        self.files = self.bytes = self.read = 0
        self.repositories: frozenset[str] = frozenset()
        self.wanted = _suffixes()

    def unpack(self, archive: Path, target: Path) -> dict[str, Any]:
        """Write the sources below `target`; returns the fields of `Unpacked` that the archive tells."""
        target.mkdir()
        name = _stem(archive.name)
        described: dict[str, Any] = dict.fromkeys(("project", "package"), name) | {"version": "", "licence": ""}
        with archive.open("rb") as stream:
            start = stream.read(8)
            stream.seek(0)
            if start.startswith(AR):
                return described | self._debian(stream, target) | {"repositories": sorted(self.repositories)}
            if start.startswith(ZIP):
                self._zip(stream, target, inner=True)
            else:
                self._tar(stream, target)
        self.repositories |= repositories_of(target)
        return described | npm_facts(target) | wheel_facts(target) | {"repositories": sorted(self.repositories)}

    def _debian(self, stream: IO[bytes], target: Path) -> dict[str, str]:
        described: dict[str, str] = {}
        control = ""
        seen = False
        for name, size in ar_members(stream):
            part = Part(stream, size)
            if name.startswith("control.tar"):
                control = self._text_of(part, "control")
                described = debian_facts(control)
            elif name.startswith("data.tar"):
                seen = True
                text = self._tar(part, target, "copyright")  # type: ignore[arg-type]
                described["licence"] = dep5_licence(text)
                self.repositories |= debian_repositories(control, text)
            part.drain()
        if not seen or not described:
            raise ValueError("an ar archive that is no Debian package: no control.tar or no data.tar")
        return described

    def _text_of(self, stream: Any, wanted: str) -> str:
        """The text of the first file with this name in a tar stream."""
        text = ""
        with tarfile.open(fileobj=plain(stream), mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                if not text and member.isfile() and member.name.removeprefix("./") == wanted:
                    text = self._head(tar.extractfile(member))
        return text

    def _head(self, source: Any) -> str:
        return str(source.read(1 << 20).decode("utf-8", "replace")) if source is not None else ""

    def _tar(self, stream: IO[bytes], target: Path, wanted_text: str = "") -> str:
        """Unpack a tar stream; returns the text of the first file called `wanted_text` in usr/share/doc."""
        text = ""
        with tarfile.open(fileobj=plain(stream), mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                self._count_read(member.size if member.isfile() else 0)
                path = _inside(member.name)
                if not member.isfile() or not path:
                    continue
                if path == "data.tar.gz":  # a gem: its files are one archive deeper
                    self._tar(_whole(tar.extractfile(member)), target)
                elif path == "metadata.gz":  # of a gem
                    self.repositories |= gem_repositories(self._head(plain(_whole(tar.extractfile(member)))))
                elif wanted_text and not text and path.startswith("usr/share/doc/") and path.endswith(wanted_text):
                    text = self._head(tar.extractfile(member))
                elif self._is_wanted(path):
                    self._write(_whole(tar.extractfile(member)), target / path)
                elif _INNER_ARCHIVE.search(path):
                    self._inner(_whole(tar.extractfile(member)), target / path)
        return text

    def _zip(self, stream: IO[bytes], target: Path, *, inner: bool) -> None:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                path = _inside(member.filename)
                # The upper half of the attributes is a Unix mode: 0o120000 is a link.
                if member.is_dir() or not path or (member.external_attr >> 28) == 0o12:
                    continue
                if self._is_wanted(path):
                    with archive.open(member) as source:
                        self._write(source, target / path)
                elif inner and _INNER_ARCHIVE.search(path):
                    with archive.open(member) as source:
                        self._inner(source, target / path)

    def _inner(self, source: IO[bytes], target: Path) -> None:
        """An archive of sources in an archive becomes a folder with its name."""
        copy = target.with_name(f".{target.name}.archive")
        self._write(source, copy)
        with copy.open("rb") as stream:
            self._zip(stream, target, inner=False)
        copy.unlink()

    def _is_wanted(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return name.endswith(self.wanted) or name in METADATA_FILES

    def _count_read(self, size: int) -> None:
        self.read += size
        if self.read > MAX_READ:
            raise _Hostile(
                f"expected at most {MAX_READ >> 30} GiB to read, got more: unpack it yourself and give the folder"
            )

    def _write(self, source: IO[bytes], target: Path) -> None:
        self.files += 1
        if self.files > self.max_files:
            raise _Hostile(
                f"expected at most {self.max_files:,} source files, got more: unpack it yourself and give the folder"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            while block := source.read(1 << 18):
                self.bytes += len(block)  # counted as it comes: what an archive says of its sizes may be a lie
                if self.bytes > self.max_bytes:
                    raise _Hostile(
                        f"expected at most {self.max_bytes:,} bytes of sources, got more (a decompression bomb?): "
                        "unpack it yourself and give the folder"
                    )
                out.write(block)


def _whole(source: IO[bytes] | None) -> IO[bytes]:
    if source is None:
        raise ValueError("a member without content")
    return source


def _inside(name: str) -> str:
    """A member's path with forward slashes, relative to the archive's root.

    Raises:
        _Hostile: it leads out of there.
    """
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or path.startswith("/") or re.match(r"[A-Za-z]:/", path) or "\0" in path:
        raise _Hostile(f"expected paths inside the archive, got {name!r}, which leads out of it: do not trust it")
    return "/".join(parts)


def is_whole(path: str | Path) -> bool:
    """Whether an archive is there to its end: a download that was cut short is not. Its content is not looked at."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(8)
            stream.seek(0)
            if start.startswith(ZIP):
                with zipfile.ZipFile(stream) as archive:
                    return bool(archive.namelist())
            if start.startswith(AR):
                names = []
                for name, size in ar_members(stream):
                    Part(stream, size).drain()
                    names.append(name)
                return any(name.startswith("data.tar") for name in names)
            with tarfile.open(fileobj=plain(stream), mode="r|") as tar:  # type: ignore[call-overload]
                return sum(1 for _ in tar) > 0
    except _BROKEN:
        return False
