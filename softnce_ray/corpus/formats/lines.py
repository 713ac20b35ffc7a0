"""Files, lines and JSON values of an input, read piece by piece: no file and no overlong line is held whole."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from softnce_ray.corpus.formats.reading import ARRAY, BadLine
from softnce_ray.corpus.pairs import SPLITS, CorpusError
from softnce_ray.encodings import is_utf16

MAX_LINE_BYTES = 16_000_000
_CHUNK = 65_536
_BROKEN_FILE = (OSError, EOFError, zlib.error)
_SPLIT_NAMES = {**{split: split for split in SPLITS}, "validation": "valid", "val": "valid", "dev": "valid"}
_WORDS = re.compile(r"[a-z]+")
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_DECODER = json.JSONDecoder()
_START = 200
_BOM = b"\xef\xbb\xbf"


def files_at(path: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str]]:
    """(file, name to show) of everything to read, sorted by name: a file, or those below a folder.

    Raises:
        CorpusError: there is nothing of the kind.
    """
    kinds = " or ".join(suffixes)
    if path.is_dir():
        if found := files_below(path, suffixes):
            return found
        raise CorpusError(f"expected {kinds} files below {path}, got none: correct the path{_pickles(path)}")
    if not path.is_file():
        raise CorpusError(f"expected a file or folder at {path}, got nothing: correct the path")
    if path.name.endswith(".pkl"):
        raise CorpusError(f"expected a {kinds} file, got {path}{_PICKLE}")
    if not path.name.endswith(suffixes):
        raise CorpusError(f"expected a {kinds} file, got {path}: convert it first")
    return [(path, path.name)]


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str]]:
    """(file, path below `folder`) of the files with these endings, sorted; hidden ones are passed over."""
    found = []
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        # Archives made on a Mac hold a hidden `._train.jsonl` beside each file.
        if name.endswith(suffixes) and not any(part.startswith(".") for part in name.split("/")) and file.is_file():
            found.append((file, name))
    return sorted(found)


_PICKLE = (
    ", a pickle: it is never opened, since opening one runs whatever code lies in it. CodeSearchNet has the same "
    "functions as `<language>/final/jsonl/*/*.jsonl.gz`: fetch those and give their folder"
)


def _pickles(folder: Path) -> str:
    found = files_below(folder, (".pkl",))
    return f" (there is {found[0][1]}{_PICKLE})" if found else ""


def split_named(word: str) -> str | None:
    """The split that a word stands for."""
    return _SPLIT_NAMES.get(word.lower())


def split_in_name(shown: str) -> str | None:
    """The split that a file name or, nearest first, a folder names as one of its words."""
    for part in reversed(shown.lower().split("/")):
        named = {_SPLIT_NAMES[word] for word in _WORDS.findall(part) if word in _SPLIT_NAMES}
        if len(named) == 1:
            return named.pop()
    return None


def open_bytes(file: Path) -> BinaryIO:
    """A file's bytes, unpacked where its name ends in .gz."""
    return cast(BinaryIO, gzip.open(file)) if file.name.endswith(".gz") else open(file, "rb")


def _unreadable(file: Path, line: int, error: BaseException) -> CorpusError:
    where = f" after line {line}" if line else ""
    return CorpusError(f"expected to read {file} to its end, got {error}{where}: fetch the file again")


def first_character(file: Path) -> bytes:
    """The first byte that is no space, if one is near the start.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        with open_bytes(file) as stream:
            return stream.read(_CHUNK).removeprefix(_BOM).lstrip()[:1]
    except _BROKEN_FILE as error:
        raise _unreadable(file, 0, error) from error


def _check_encoding(stream: BinaryIO, file: Path) -> None:
    """See at the start of a file that its text is not in UTF-16, of which no line could be read.

    Raises:
        CorpusError: it is.
    """
    if is_utf16(cast(BufferedReader, stream).peek(_START)[:_START]):
        raise CorpusError(
            f"expected text in UTF-8 in {file}, got UTF-16: save it as UTF-8, or  iconv -f UTF-16 -t UTF-8"
        )


def raw_lines(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """(1-based number, bytes with their line end) of every line; None stands for one that is too long.

    Raises:
        CorpusError: the file cannot be read, or breaks off.
    """
    number = 0
    try:
        with open_bytes(file) as stream:
            _check_encoding(stream, file)
            while data := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(data) <= MAX_LINE_BYTES:
                    yield number, data.removeprefix(_BOM) if number == 1 else data
                    continue
                while data and not data.endswith(b"\n"):
                    data = stream.readline(_CHUNK)
                yield number, None
    except _BROKEN_FILE as error:
        raise _unreadable(file, number, error) from error


def lines_of(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """As `raw_lines`, without blank lines."""
    return ((number, data) for number, data in raw_lines(file) if data is None or data.strip())


def object_of(data: bytes | None) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        BadLine: it is none.
    """
    if data is None:
        raise BadLine("line_too_long")
    if data.lstrip()[:1] == b"[":
        raise BadLine(ARRAY)
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError:
        raise BadLine("not_utf8") from None
    except (ValueError, RecursionError):
        raise BadLine("bad_json") from None
    return as_object(record)


def as_object(value: object) -> dict[str, Any]:
    """The value, when it is a JSON object.

    Raises:
        BadLine: it is none.
    """
    if not isinstance(value, dict):
        raise BadLine("not_an_object")
    return value


def json_array(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of the elements of a file that is one JSON array, or of its one value that is none.

    Bytes that are not UTF-8 come as lone surrogates, so that only their element is lost.

    Raises:
        CorpusError: the file is no JSON, breaks off, or has an element longer than `MAX_LINE_BYTES`.
    """
    return _json(file, "[]", lambda text: (text.line(), text.value()))


def json_object(file: Path) -> Iterator[tuple[int, Any]]:
    """(line, (key, value)) of a file that is one JSON object; else as `json_array`."""

    def member(text: _JsonText) -> tuple[int, Any]:
        line, key = text.line(), text.value()
        if not isinstance(key, str):
            raise text.broken("a key that is no string")
        text.take(":")
        return line, (key, text.value())

    return _json(file, "{}", member)


def _json(file: Path, brackets: str, element: Callable[[_JsonText], tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    opening, closing = brackets[0], brackets[1]
    line = 0
    try:
        with open_bytes(file) as stream:
            _check_encoding(stream, file)
            text = _JsonText(stream, file)
            if not text.next():
                return
            if text.next() != opening:
                raise text.broken(f"no {opening!r} at the start")
            text.take(opening)
            if text.next() == closing:
                text.take(closing)
            else:
                while True:
                    line, value = element(text)
                    yield line, value
                    if text.next() == closing:
                        break
                    text.take(",")
                text.take(closing)
            if text.next():
                raise text.broken("more text after its end")
    except _BROKEN_FILE as error:
        raise _unreadable(file, line, error) from error


class _JsonText:
    """JSON that comes in pieces: values are taken from the front."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self._stream, self._file = stream, file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def broken(self, got: str) -> CorpusError:
        return CorpusError(
            f"expected one JSON value in {self._file}, got {got} in line {self._line}: fetch or make the file again"
        )

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self, characters: int) -> None:
        data = self._stream.read(characters)
        self._ended = not data
        self._text = self._text[self._at :] + self._decode(data, self._ended)
        self._at = 0

    def next(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            if match := _NOT_SPACE.search(self._text, self._at):
                self._advance(match.start())
                return match[0]
            self._advance(len(self._text))
            if self._ended:
                return ""
            self._more(_CHUNK)

    def line(self) -> int:
        self.next()
        return self._line

    def take(self, character: str) -> None:
        got = self.next()
        if got != character:
            raise self.broken(f"{got!r} instead of {character!r}" if got else f"its end before {character!r}")
        self._advance(self._at + 1)

    def value(self) -> Any:
        """The next value; it is tried again with twice the text as long as it may only be cut."""
        self.next()
        while True:
            end = -1
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self.broken("values nested too deeply") from None
            except ValueError:
                if self._ended:
                    raise self.broken("no JSON") from None
            # A number that touches the end of the text may go on.
            if end >= 0 and (self._ended or end < len(self._text)):
                self._advance(end)
                return value
            held = len(self._text) - self._at
            if held > MAX_LINE_BYTES:
                raise self.broken(f"no JSON, or a value of more than {MAX_LINE_BYTES:,} characters,")
            self._more(min(max(held, _CHUNK), MAX_LINE_BYTES + 1 - held))
