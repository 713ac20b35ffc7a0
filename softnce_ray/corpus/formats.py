"""Reads what exists: CodeSearchNet's jsonl and jsonl.gz, as files or folders. Broken lines are counted."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from softnce_ray.corpus.cleaning import Drop, check_code, clean_query
from softnce_ray.corpus.languages import LANGUAGES, strip_documentation
from softnce_ray.corpus.mining import MAX_EXAMPLES, Example
from softnce_ray.corpus.pairs import LANGUAGE_NAME, SPLITS, CorpusError, Pair

MAX_LINE_BYTES = 16_000_000
_SUFFIXES = (".jsonl", ".jsonl.gz")
_SPLIT_NAMES = {**{split: split for split in SPLITS}, "validation": "valid", "val": "valid", "dev": "valid"}
_WORDS = re.compile(r"[a-z]+")
_URL = re.compile(r"https?://[^/]+/([^/]+/[^/]+)/(?:blob|raw|tree)/[^/]+/([^#]*)(?:#L(\d+))?")


class _BadLine(Exception):
    """A line that is no record; the argument is the snake_case reason."""


@dataclass(frozen=True)
class Reading:
    """What was read: pairs by split, or `unsplit` where the input names no splits; what was left out, by
    reason.

    `bad` are lines that are no records, `dropped` are records that the data rules leave out.
    """

    splits: dict[str, list[Pair]]
    unsplit: list[Pair]
    lines: int
    bad: Counter[str]
    dropped: Counter[str]
    examples: tuple[Example, ...]

    @property
    def pairs(self) -> list[Pair] | dict[str, list[Pair]]:
        """What `build_corpus` takes."""
        return self.splits if self.splits else self.unsplit


def read_codesearchnet(
    path: str | Path,
    *,
    language: str | None = None,
    clean: bool = True,
    max_bad_share: float = 0.01,
) -> Reading:
    """Read CodeSearchNet records from a .jsonl or .jsonl.gz file, or from all of them below a folder.

    The split is named by the file (`python_train_0.jsonl.gz`), else its folder, else the field `partition`.
    `language` stands in where a record names none. The query is `docstring`, or `docstring_tokens` joined;
    the code is `code` or `original_string` without its documentation, or `code_tokens` joined where that
    does not parse (only then may it have fewer than three lines). `clean` off keeps queries and codes of
    published splits as they are, but for surrounding space. Records of `codebase` are candidates: they may
    have no query.

    Raises:
        CorpusError: nothing to read, a broken gzip file, records with and without a split, or more than
            `max_bad_share` (0 to 1) of the lines are not records.
    """
    splits: dict[str, list[Pair]] = {}
    unsplit: list[Pair] = []
    lines = 0
    bad: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    examples: list[Example] = []
    for file, shown in _files(Path(path)):
        file_split = _split_in_name(shown)
        for number, data in _lines(file):
            lines += 1
            try:
                record = _record(data)
                split = file_split or _partition(record)
                result = _pair(record, split, language, shown, clean)
            except _BadLine as error:
                reason, counter = str(error), bad
            else:
                if isinstance(result, Pair):
                    (unsplit if split is None else splits.setdefault(split, [])).append(result)
                    continue
                reason, counter = result.reason, dropped
            counter[reason] += 1
            if counter[reason] <= MAX_EXAMPLES:
                examples.append(Example(reason, shown, number))
    _check_bad_lines(Path(path), lines, bad, examples, max_bad_share)
    if splits and unsplit:
        raise CorpusError(
            f"expected every record in {path} to have a split or none, got {len(unsplit)} without: "
            "name the files train, valid, test or codebase, or set the field `partition`"
        )
    return Reading(splits, unsplit, lines, bad, dropped, tuple(examples))


def _check_bad_lines(path: Path, lines: int, bad: Counter[str], examples: list[Example], max_bad_share: float) -> None:
    wrong = sum(bad.values())
    if lines == 0:
        raise CorpusError(f"expected records in {path}, got empty files")
    if wrong > max_bad_share * lines:
        first = "; ".join(f"{e.path}:{e.line} {e.reason}" for e in examples if e.reason in bad)
        raise CorpusError(
            f"expected at most {max_bad_share:.1%} bad lines in {path}, got {wrong} of {lines} ({first}): "
            "repair the input, or allow a larger share"
        )


def _files(path: Path) -> list[tuple[Path, str]]:
    """(file, name to show) of everything to read, sorted by name."""
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.name.endswith(_SUFFIXES) and file.is_file()]
        if found:
            return sorted((file, file.relative_to(path).as_posix()) for file in found)
        raise CorpusError(f"expected {' or '.join(_SUFFIXES)} files below {path}, got none: correct the path")
    if not path.is_file():
        raise CorpusError(f"expected a file or folder at {path}, got nothing: correct the path")
    if not path.name.endswith(_SUFFIXES):
        raise CorpusError(f"expected a {' or '.join(_SUFFIXES)} file, got {path}: convert it first")
    return [(path, path.name)]


def _split_in_name(shown: str) -> str | None:
    """The split that a file name or, nearest first, a folder names as one of its words."""
    for part in reversed(shown.lower().split("/")):
        named = {_SPLIT_NAMES[word] for word in _WORDS.findall(part) if word in _SPLIT_NAMES}
        if len(named) == 1:
            return named.pop()
    return None


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(1-based number, bytes) of the lines that are not blank; an overlong one comes cut, never whole."""
    try:
        with gzip.open(file) if file.name.endswith(".gz") else open(file, "rb") as stream:
            for number, data in enumerate(_bounded_lines(stream), start=1):  # type: ignore[arg-type]
                if data.strip():
                    yield number, data
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"expected to read {file} to its end, got {error}: fetch the file again") from error


def _bounded_lines(stream: BinaryIO) -> Iterator[bytes]:
    while data := stream.readline(MAX_LINE_BYTES + 1):
        rest = data
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield data


def _record(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_LINE_BYTES:
        raise _BadLine("line_too_long")
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError:
        raise _BadLine("not_utf8") from None
    except (ValueError, RecursionError):
        raise _BadLine("bad_json") from None
    if not isinstance(record, dict):
        raise _BadLine("not_an_object")
    return record


def _text(record: dict[str, Any], *names: str) -> str | None:
    """The first of these fields that is set: a string that can be stored, or None."""
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise _BadLine("wrong_type")
        if "\0" in value:
            raise _BadLine("has_nul")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise _BadLine("not_unicode")
        return value
    return None


def _joined(record: dict[str, Any], name: str) -> str | None:
    tokens = record.get(name)
    if tokens is None:
        return None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise _BadLine("wrong_type")
    return _text({name: " ".join(tokens)}, name)


def _partition(record: dict[str, Any]) -> str | None:
    named = _text(record, "partition")
    if named is None:
        return None
    split = _SPLIT_NAMES.get(named.lower())
    if split is None:
        raise _BadLine("unknown_partition")
    return split


def _pair(record: dict[str, Any], split: str | None, language: str | None, shown: str, clean: bool) -> Pair | Drop:
    name = (_text(record, "language") or language or "").lower()
    if not LANGUAGE_NAME.fullmatch(name):
        raise _BadLine("no_language")
    code, is_joined = _code(record, name)
    documentation = _text(record, "docstring")
    if documentation is None:
        documentation = _joined(record, "docstring_tokens")
    if documentation is None and split != "codebase":
        raise _BadLine("no_docstring")
    query: str | Drop = clean_query(documentation or "") if clean else " ".join((documentation or "").split())
    if not query:
        query = Drop("no_description")
    if isinstance(query, Drop):
        if split != "codebase":
            return query
        query = ""
    drop = check_code(code) if clean else None
    if drop is not None and not (is_joined and drop.reason == "code_too_short"):
        return drop
    repository, path, line = _origin(record, shown)
    return Pair(query, code, name, repository, path, line, _text(record, "func_name") or "")


def _code(record: dict[str, Any], language: str) -> tuple[str, bool]:
    """The code without its documentation, and whether it is only its tokens joined by spaces."""
    code = _text(record, "code", "original_string")
    tokens = _joined(record, "code_tokens")
    if code is None and tokens is None:
        raise _BadLine("no_code")
    if not (code or tokens or "").strip():
        raise _BadLine("empty_code")
    if code is None or (tokens is not None and code.split() == tokens.split()):
        return tokens or "", True
    entry = LANGUAGES.get(language)
    stripped = strip_documentation(code, entry) if entry is not None else code
    if stripped is not None:
        return stripped, False
    return (tokens, True) if tokens else (code, False)


def _origin(record: dict[str, Any], shown: str) -> tuple[str, str, int]:
    """(package, path, line) from the record's own fields and its url."""
    match = _URL.match(_text(record, "url") or "")
    repository = _text(record, "repo", "repository_name") or (match[1] if match else "")
    path = _text(record, "path", "func_path_in_repository") or (match[2] if match else shown)
    line = int(match[3]) if match and match[3] and len(match[3]) < 10 else 0
    return repository, path, line
