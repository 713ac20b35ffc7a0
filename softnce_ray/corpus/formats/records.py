"""A record with CodeSearchNet's field names becomes a pair, a drop, or a bad line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from softnce_ray.config.settings import LANGUAGE_RULE
from softnce_ray.corpus.cleaning import Drop, check_code, clean_query
from softnce_ray.corpus.formats.lines import split_named
from softnce_ray.corpus.formats.reading import Bad, BadLine
from softnce_ray.corpus.languages import LANGUAGES, strip_documentation
from softnce_ray.corpus.pairs import LANGUAGE_NAME, CorpusError, Pair

# Parsing what is no code takes a time that grows faster than its length: half a minute for this much of "(((".
MAX_CODE_CHARACTERS = 100_000
_URL = re.compile(r"https?://[^/]+/([^/]+/[^/]+)/(?:blob|raw|tree)/[^/]+/([^#]*)(?:#L(\d+))?")

Record = Mapping[str, Any]


def text_of(record: Record, *names: str) -> str | None:
    """The first of these fields that is filled, or else that is there: a string that can be stored, or None.

    Raises:
        BadLine: it is no string, or one that cannot be stored.
    """
    found = None
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise BadLine("wrong_type")
        if "\0" in value:
            raise BadLine("has_nul")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise BadLine("not_unicode")
        if value.strip():
            return value
        found = value if found is None else found
    return found


def check_language(language: str | None) -> None:
    """See that a language which stands in for those of records may be one.

    Raises:
        CorpusError: it may not.
    """
    if language is not None and not LANGUAGE_NAME.fullmatch(language.strip().lower()):
        raise CorpusError(f"--language: expected {LANGUAGE_RULE}, got {language[:80]!r}")


def partition_of(record: Record) -> str | None:
    """The split that a record names itself.

    Raises:
        BadLine: it names something else.
    """
    named = text_of(record, "partition")
    if named is None:
        return None
    split = split_named(named)
    if split is None:
        raise BadLine("unknown_partition")
    return split


def pair_of(
    record: Record,
    split: str | None,
    *,
    language: str | None,
    place: str,
    clean: bool,
    query_of_tokens: bool = False,
) -> Pair | Drop | Bad:
    """The pair of a record: the rules are those of `read_codesearchnet`.

    `query_of_tokens` takes `docstring_tokens` before `docstring`, as GraphCodeBERT's files are made.
    """
    try:
        return _pair(record, split, language, place, clean, query_of_tokens)
    except BadLine as error:
        return Bad(str(error))


def _pair(
    record: Record, split: str | None, language: str | None, place: str, clean: bool, query_of_tokens: bool
) -> Pair | Drop:
    name = ((text_of(record, "language") or "").strip() or language or "").strip().lower()
    if not LANGUAGE_NAME.fullmatch(name):
        raise BadLine("wrong_language" if name else "no_language")
    is_long = len(text_of(record, "code", "original_string") or "") > MAX_CODE_CHARACTERS
    if is_long and (clean or split not in ("valid", "test")):
        return Drop("code_too_long")
    code, is_joined = _code(record, name)
    sides = [_joined(record, "docstring_tokens"), text_of(record, "docstring")]
    given = [side for side in (sides if query_of_tokens else reversed(sides)) if side is not None]
    documentation = next((side for side in given if side.strip()), given[0] if given else None)
    if documentation is None and split != "codebase":
        raise BadLine("no_docstring")
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
    repository, path, line = _origin(record, place)
    return Pair(query, code, name, repository, path, line, text_of(record, "func_name") or "")


def _joined(record: Record, name: str) -> str | None:
    tokens = record.get(name)
    if tokens is None:
        return None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise BadLine("wrong_type")
    return text_of({name: " ".join(tokens)}, name)


def _code(record: Record, language: str) -> tuple[str, bool]:
    """The code without its documentation, and whether it is only its tokens joined by spaces."""
    code = text_of(record, "code", "original_string")
    tokens = _joined(record, "code_tokens")
    if code is None and tokens is None:
        raise BadLine("no_code")
    has_code = bool(code and code.strip())
    if not has_code and not (tokens or "").strip():
        raise BadLine("empty_code")
    if code is None or not has_code or (tokens is not None and code.split() == tokens.split()):
        return tokens or "", True
    entry = LANGUAGES.get(language)
    stripped: str | None = code
    if entry is not None:
        stripped = strip_documentation(code, entry) if len(code) <= MAX_CODE_CHARACTERS else None
    if stripped is not None:
        return stripped, False
    return (tokens, True) if tokens else (code, False)


def _origin(record: Record, place: str) -> tuple[str, str, int]:
    """(package, path, line) from the record's own fields and its url."""
    match = _URL.match(text_of(record, "url") or "")
    repository = text_of(record, "repo", "repository_name") or (match[1] if match else "")
    path = text_of(record, "path", "func_path_in_repository") or (match[2] if match else place)
    line = int(match[3]) if match and match[3] and len(match[3]) < 10 else 0
    return repository, path, line
