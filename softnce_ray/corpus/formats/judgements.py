"""Human judgements of how well codes answer queries: `judgements.jsonl` beside `codes.jsonl`."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softnce_ray.corpus.cleaning import Drop
from softnce_ray.corpus.formats.lines import lines_of, object_of
from softnce_ray.corpus.formats.reading import Bad, BadLine, check_bad_share
from softnce_ray.corpus.formats.records import check_language, pair_of, text_of
from softnce_ray.corpus.mining import MAX_EXAMPLES, Example
from softnce_ray.corpus.pairs import CorpusError, Pair

JUDGEMENTS_NAMES = ("judgements.jsonl", "judgements.jsonl.gz")
CODES_NAMES = ("codes.jsonl", "codes.jsonl.gz")
MAX_RELEVANCE = 3
_CODE_KEYS = ("url", "code_id", "id")


@dataclass(frozen=True)
class Judgements:
    """What people said of queries and codes.

    `queries`, with `languages` in the same order, and `codes`, with `code_ids`, are in the order of the files;
    the same words in two languages are two queries, and the codes have no queries of their own. `relevance` is
    the mean over the annotators, 0 to 3, by (row of the query, row of the code): a pair that is not in it was
    not judged, which is not the same as 0. `annotations` counts the judgements before the mean, `lines` and
    `bad` (by reason, with `examples`) the lines of both files.
    """

    queries: tuple[str, ...]
    languages: tuple[str, ...]
    codes: tuple[Pair, ...]
    code_ids: tuple[str, ...]
    relevance: Mapping[tuple[int, int], float]
    annotations: int
    lines: int
    bad: Counter[str]
    examples: tuple[Example, ...]


def is_judgements(path: Path) -> bool:
    """Whether a folder holds judgements and codes, or a file is one of them."""
    folder = path if path.is_dir() else path.parent
    names = JUDGEMENTS_NAMES + CODES_NAMES
    return (path.is_dir() or path.name in names) and all(
        any((folder / name).is_file() for name in kind) for kind in (JUDGEMENTS_NAMES, CODES_NAMES)
    )


def read_judgements(path: str | Path, *, language: str | None = None, max_bad_share: float = 0.01) -> Judgements:
    """Read the judgements of a folder with `judgements.jsonl` and `codes.jsonl` (or .jsonl.gz), or of the first of
    them.

    A judgement has `query`, `relevance` (0 to 3), the code's `url`, `code_id` or `id`, and perhaps `language`; several
    annotators may judge the same pair. A code has the same key and the fields of `read_codesearchnet`: its
    documentation is taken out. `language` stands in where a code names none.

    Raises:
        CorpusError: a file is missing, empty or breaks off, or more than `max_bad_share` (0 to 1) of its lines are bad:
            no JSON objects, a field that is missing or of the wrong type, a repeated or an unknown code.
    """
    check_language(language)
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    files = [_file(folder, given, names) for names in (CODES_NAMES, JUDGEMENTS_NAMES)]
    tally = _Tally(given, max_bad_share)
    places: dict[str, int] = {}
    codes: list[Pair] = []
    for data, line in tally.lines_of(files[0]):
        try:
            record = object_of(data)
            key = _key(record)
            if key in places:
                raise BadLine("repeated_code")
            pair = pair_of(record, "codebase", language=language, place=files[0].name, clean=False)
            if isinstance(pair, Drop | Bad):
                raise BadLine(pair.reason)
        except BadLine as error:
            tally.add(str(error), files[0], line)
            continue
        places[key] = len(codes)
        codes.append(dataclasses.replace(pair, query=""))
    queries: dict[tuple[str, str], int] = {}
    said: dict[tuple[int, int], list[float]] = {}
    for data, line in tally.lines_of(files[1]):
        try:
            record = object_of(data)
            query = " ".join((text_of(record, "query") or "").split())
            if not query:
                raise BadLine("no_query")
            relevance = _relevance(record)
            code = places.get(_key(record))
            if code is None:
                raise BadLine("unknown_code")
            asked = (text_of(record, "language") or codes[code].language).lower(), query
        except BadLine as error:
            tally.add(str(error), files[1], line)
            continue
        said.setdefault((queries.setdefault(asked, len(queries)), code), []).append(relevance)
    return Judgements(
        queries=tuple(query for _, query in queries),
        languages=tuple(name for name, _ in queries),
        codes=tuple(codes),
        code_ids=tuple(places),
        relevance={place: math.fsum(values) / len(values) for place, values in said.items()},
        annotations=sum(map(len, said.values())),
        lines=tally.lines,
        bad=tally.bad,
        examples=tuple(tally.examples),
    )


class _Tally:
    """Lines and bad lines of both files; each file must keep to the share by itself."""

    def __init__(self, path: Path, max_bad_share: float) -> None:
        if not 0 <= max_bad_share <= 1:
            raise CorpusError(f"expected a share of bad lines from 0 to 1, got {max_bad_share}: correct max_bad_share")
        self.path, self.max_bad_share = path, max_bad_share
        self.lines = 0
        self.bad: Counter[str] = Counter()
        self.examples: list[Example] = []
        self._of_file: Counter[str] = Counter()

    def add(self, reason: str, file: Path, line: int) -> None:
        self.bad[reason] += 1
        self._of_file[reason] += 1
        if self.bad[reason] <= MAX_EXAMPLES:
            self.examples.append(Example(reason, file.name, line))

    def lines_of(self, file: Path) -> Iterator[tuple[bytes | None, int]]:
        self._of_file.clear()
        number = 0
        for line, data in lines_of(file):
            number += 1
            yield data, line
        if not number:
            raise CorpusError(f"expected records in {file}, got an empty file: fetch it again")
        self.lines += number
        check_bad_share(file, number, self._of_file, self.examples, self.max_bad_share)


def _file(folder: Path, given: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CorpusError(
        f"expected {' or '.join(names)} in {folder}, got none: give the folder of both files, not {given}"
    )


def _key(record: dict[str, Any]) -> str:
    key = text_of(record, *_CODE_KEYS)
    if not key:
        raise BadLine("no_code_id")
    return key


def _relevance(record: dict[str, Any]) -> float:
    value = record.get("relevance")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadLine("no_relevance" if value is None else "wrong_type")
    if not 0 <= value <= MAX_RELEVANCE:  # which NaN is not either
        raise BadLine("relevance_out_of_range")
    return float(value)
