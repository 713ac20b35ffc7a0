"""Streams that are read forwards only: parts of others, without their compression, and the members of ar archives."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa

ZIP, AR, _GZIP, _XZ, _BZIP2, _ZSTD = b"PK", b"!<arch>\n", b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    _GZIP: lambda stream: gzip.GzipFile(fileobj=stream),
    _XZ: lzma.LZMAFile,
    _BZIP2: bz2.BZ2File,
    _ZSTD: lambda stream: pa.CompressedInputStream(stream, "zstd"),
}


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


class Part(_Reading):
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


def plain(stream: Any) -> Any:
    """A stream without its compression, which its first bytes tell."""
    start = stream.read(6)
    peeked = _Peeked(start, stream)
    for magic, decompress in _DECOMPRESSORS.items():
        if start.startswith(magic):
            return decompress(peeked)  # type: ignore[arg-type]
    return peeked


def ar_members(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """(name, size) of an ar archive's members; the caller reads each of them to its end."""
    # The format is this header and nothing else; PyPI's readers of it are no smaller than these lines.
    stream.read(len(AR))
    while header := stream.read(60):
        if header == b"\n":
            break
        if len(header) < 60 or header[58:] != b"`\n":
            raise ValueError("an ar archive with a broken header")
        size = int(header[48:58])
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), size
        stream.read(size % 2)
