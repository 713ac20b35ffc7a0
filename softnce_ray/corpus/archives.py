"""Source archives: what kind a file is, which project it holds, and its sources unpacked into a cache, safely."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.folders import made_once

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".tgz", ".txz", ".tbz2")
ARCHIVE_SUFFIXES = (".zip", ".whl", ".jar", ".deb", ".gem", *_TAR_SUFFIXES)
KINDS = ".zip, .whl, .jar, .deb, .gem, .tgz, .tar and .tar.{gz,xz,bz2,zst}"
MAX_FILES = 300_000
MAX_BYTES = 4 << 30
# A stream can be endless without a file in it that is kept.
MAX_READ = 32 << 30

_LAYOUT = 2  # of what is unpacked: another number makes old caches unread
_ZIP, _AR, _GZIP, _XZ, _BZIP2, _ZSTD = b"PK", b"!<arch>\n", b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    _GZIP: lambda stream: gzip.GzipFile(fileobj=stream),
    _XZ: lzma.LZMAFile,
    _BZIP2: bz2.BZ2File,
    _ZSTD: lambda stream: pa.CompressedInputStream(stream, "zstd"),
}
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
# Beside sources: what tells the name of a package.
_MARKERS = ("package.json", "METADATA")
# Sources that a package of Java ships as an archive of their own.
_INNER_ARCHIVE = re.compile(r"(?:^|[/._-])(?:src|sources?)\.(?:zip|jar)$", re.IGNORECASE)
_VERSION = re.compile(r"[-_]v?\d[\w.+~:%-]*$")
_DEP5_LICENCE = re.compile(r"^License:[ \t]*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An archive's sources in a folder. `project` is what its package says it is part of: a Debian package's
    source package, an npm package's repository where that may hold several packages, else the package's name."""

    archive: str
    folder: Path
    project: str
    package: str
    version: str
    licence: str


class _Hostile(Exception):
    """An archive that is well made and must not be unpacked."""


def is_archive(path: str | Path) -> bool:
    """Whether a file's name says that it is an archive that can be unpacked."""
    return Path(path).name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack_archives(
    paths: Sequence[str | Path], cache: str | Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> list[Unpacked]:
    """Unpack the sources of every archive below the folder `cache`, once for each content.

    Only files of the known languages are unpacked, with what names their project. Links, devices and pipes
    are passed over; nothing is written outside the cache.

    Raises:
        CorpusError: one line for each archive that is missing, no archive, broken, has a path that leads out
            of it, or would unpack to more than `max_files` files or `max_bytes` bytes.
    """
    done: list[Unpacked] = []
    problems: list[str] = []
    for path in paths:
        try:
            done.append(unpack_archive(path, cache, max_files=max_files, max_bytes=max_bytes))
        except CorpusError as error:
            problems.append(str(error))
    if problems:
        raise CorpusError("\n".join(problems))
    return done


def unpack_archive(
    path: str | Path, cache: str | Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> Unpacked:
    """`unpack_archives` of one archive.

    Raises:
        CorpusError: as `unpack_archives`.
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
    return Unpacked(archive=str(archive), folder=final / "files", **facts)


def _digest(archive: Path) -> str:
    """Of the content, and of what would be taken from it: a cache outlives the languages that are known."""
    digest = hashlib.sha256()
    with archive.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    digest.update(repr((_LAYOUT, archive.name, sorted(_suffixes()), _MARKERS)).encode())
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
        self.wanted = _suffixes()

    def unpack(self, archive: Path, target: Path) -> dict[str, str]:
        """Write the sources below `target`; returns the fields of `Unpacked` that the archive tells."""
        target.mkdir()
        name = _stem(archive.name)
        described = dict.fromkeys(("project", "package"), name) | {"version": "", "licence": ""}
        with archive.open("rb") as stream:
            start = stream.read(8)
            stream.seek(0)
            if start.startswith(_AR):
                return described | self._debian(stream, target)
            if start.startswith(_ZIP):
                self._zip(stream, target, inner=True)
            else:
                self._tar(stream, target)
        return described | _npm_facts(target) | _wheel_facts(target)

    def _debian(self, stream: IO[bytes], target: Path) -> dict[str, str]:
        described: dict[str, str] = {}
        seen = False
        for name, size in _ar_members(stream):
            part = _Part(stream, size)
            if name.startswith("control.tar"):
                described = _debian_facts(self._text_of(part, "control"))
            elif name.startswith("data.tar"):
                seen = True
                described["licence"] = _dep5_licence(self._tar(part, target, "copyright"))  # type: ignore[arg-type]
            part.drain()
        if not seen or not described:
            raise ValueError("an ar archive that is no Debian package: no control.tar or no data.tar")
        return described

    def _text_of(self, stream: Any, wanted: str) -> str:
        """The text of the first file with this name in a tar stream."""
        text = ""
        with tarfile.open(fileobj=_plain(stream), mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                if not text and member.isfile() and member.name.removeprefix("./") == wanted:
                    text = self._head(tar.extractfile(member))
        return text

    def _head(self, source: Any) -> str:
        return str(source.read(1 << 20).decode("utf-8", "replace")) if source is not None else ""

    def _tar(self, stream: IO[bytes], target: Path, wanted_text: str = "") -> str:
        """Unpack a tar stream; returns the text of the first file called `wanted_text` in usr/share/doc."""
        text = ""
        with tarfile.open(fileobj=_plain(stream), mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                self._count_read(member.size if member.isfile() else 0)
                path = _inside(member.name)
                if not member.isfile() or not path:
                    continue
                if path == "data.tar.gz":  # a gem: its files are one archive deeper
                    self._tar(_whole(tar.extractfile(member)), target)
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
        return name.endswith(self.wanted) or name in _MARKERS

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


class _Reading:
    """What decompressors ask of a stream that is read forwards, beside its `read`."""

    closed = False

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class _Part(_Reading):
    """The next `size` bytes of a stream, as a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.left = stream, size

    def read(self, size: int | None = -1) -> bytes:
        size = self.left if size is None or size < 0 else min(size, self.left)
        data = self.stream.read(size)
        if len(data) < size:
            raise EOFError("the end of the file in the middle of a member")
        self.left -= size
        return data

    def drain(self) -> None:
        """Go to the end, however much of it was read."""
        while self.left:
            self.read(1 << 20)


class _Peeked(_Reading):
    """A stream whose first bytes were looked at."""

    def __init__(self, start: bytes, stream: Any) -> None:
        self.start, self.stream = start, stream

    def read(self, size: int | None = -1) -> bytes:
        if not self.start:
            return bytes(self.stream.read(-1 if size is None else size))
        if size is None or size < 0:
            data, self.start = self.start + self.stream.read(), b""
            return data
        data, self.start = self.start[:size], self.start[size:]
        return data


def _plain(stream: Any) -> Any:
    """A stream without its compression, which its first bytes tell."""
    start = stream.read(6)
    peeked = _Peeked(start, stream)
    for magic, decompress in _DECOMPRESSORS.items():
        if start.startswith(magic):
            return decompress(peeked)  # type: ignore[arg-type]
    return peeked


def _whole(source: IO[bytes] | None) -> IO[bytes]:
    if source is None:
        raise ValueError("a member without content")
    return source


def _ar_members(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """(name, size) of an ar archive's members; the caller reads each of them to its end."""
    # The format is this header and nothing else; PyPI's readers of it are no smaller than these lines.
    stream.read(len(_AR))
    while header := stream.read(60):
        if header == b"\n":
            break
        if len(header) < 60 or header[58:] != b"`\n":
            raise ValueError("an ar archive with a broken header")
        size = int(header[48:58])
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), size
        stream.read(size % 2)


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


def _debian_facts(control: str) -> dict[str, str]:
    fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*?)\s*$", control, re.MULTILINE))
    if not fields.get("Package"):
        return {}
    source = (fields.get("Source") or fields["Package"]).split(" ")[0]
    return {"project": source, "package": fields["Package"], "version": fields.get("Version", "")}


def _dep5_licence(text: str) -> str:
    """The licence that most of a Debian package is under, by its machine-readable copyright file; may be empty."""
    for paragraph in re.split(r"\n\s*\n", text):
        match = _DEP5_LICENCE.search(paragraph)
        if match and re.search(r"^Files:\s*\*\s*$", paragraph, re.MULTILINE):
            return match.group(1)
    return ""


def _npm_facts(target: Path) -> dict[str, str]:
    """What package.json says, when there is one at the top or in the one folder there."""
    tops = [each for each in target.iterdir() if not each.name.startswith(".")]
    for folder in (target, *(tops if len(tops) == 1 else ())):
        try:
            facts = json.loads((folder / "package.json").read_text(encoding="utf-8-sig"))
            name, version, licence = facts["name"], facts.get("version", ""), facts.get("license", "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        project = _npm_repository(str(name), facts.get("repository"))
        licence = licence.get("type", "") if isinstance(licence, dict) else licence
        return {"project": str(project), "package": str(name), "version": str(version), "licence": str(licence)}
    return {}


def _npm_repository(name: str, repository: Any) -> str:
    """The project of an npm package: a scope, or a repository that holds the package in a folder, holds others."""
    said = repository if isinstance(repository, dict) else {"url": repository or ""}
    if not name.startswith("@") and not said.get("directory"):
        return name
    match = re.search(r"([\w.-]+)/([\w.-]+?)(?:\.git)?/?(?:#.*)?$", str(said.get("url", "")))
    return f"{match.group(1)}/{match.group(2)}" if match else name.split("/")[0]


def _wheel_facts(target: Path) -> dict[str, str]:
    for file in sorted(target.glob("*.dist-info/METADATA")):
        head = file.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*?)\s*$", head, re.MULTILINE))
        classifier = re.search(r"^Classifier: License :: (?:OSI Approved :: )?(.*?)\s*$", head, re.MULTILINE)
        licence = fields.get("License-Expression") or (classifier.group(1) if classifier else fields.get("License", ""))
        name = re.sub(r"[-_.]+", "-", fields.get("Name", "")).lower()
        if name:
            facts = {"project": name, "package": name, "version": fields.get("Version", "")}
            return {**facts, "licence": licence if len(licence) < 60 else ""}
    return {}


def is_whole(path: str | Path) -> bool:
    """Whether an archive is there to its end: a download that was cut short is not. Its content is not looked at."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(8)
            stream.seek(0)
            if start.startswith(_ZIP):
                with zipfile.ZipFile(stream) as archive:
                    return bool(archive.namelist())
            if start.startswith(_AR):
                names = []
                for name, size in _ar_members(stream):
                    _Part(stream, size).drain()
                    names.append(name)
                return any(name.startswith("data.tar") for name in names)
            with tarfile.open(fileobj=_plain(stream), mode="r|") as tar:  # type: ignore[call-overload]
                return sum(1 for _ in tar) > 0
    except _BROKEN:
        return False
