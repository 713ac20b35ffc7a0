"""Readers of other people's data sets. Each gives the same: a `PairStream`, or a `Reading` held in memory.

Broken lines are counted with their file and line, never raised, until they are more than a set share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from softnce_ray.corpus.formats.codesearchnet import (
    LISTS,
    SUFFIXES,
    codesearchnet_rows,
    graphcodebert_rows,
    list_folders,
)
from softnce_ray.corpus.formats.cosqa import MAP_NAMES, cosqa_rows
from softnce_ray.corpus.formats.judgements import Judgements, is_judgements, read_judgements
from softnce_ray.corpus.formats.lines import files_at, json_array, lines_of, object_of
from softnce_ray.corpus.formats.reading import BadLine, PairStream, Reading, Row
from softnce_ray.corpus.formats.records import check_language
from softnce_ray.corpus.formats.tables import SUFFIXES as TABLE_SUFFIXES
from softnce_ray.corpus.formats.tables import is_table_folder, table_rows
from softnce_ray.corpus.pairs import CorpusError

__all__ = [
    "FORMATS",
    "Format",
    "Judgements",
    "PairStream",
    "Reading",
    "detect_format",
    "open_pairs",
    "read_codesearchnet",
    "read_cosqa",
    "read_graphcodebert",
    "read_judgements",
    "read_table",
]

JUDGEMENTS = "judgements"


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of input is read.

    `rows` takes a path and the keywords `language` and `clean`, and `columns` where `takes_columns`; `clean` is
    whether our data rules are applied when nobody says, None: to records that name no split, for others are of a
    published benchmark; `what` describes it in a line.
    """

    rows: Callable[..., Iterator[Row]]
    clean: bool | None
    what: str
    takes_columns: bool = False


FORMATS: dict[str, Format] = {
    "codesearchnet": Format(codesearchnet_rows, None, "CodeSearchNet's .jsonl or .jsonl.gz files"),
    "graphcodebert": Format(
        graphcodebert_rows, False, f"{', '.join(LISTS)} of urls, beside CodeSearchNet's .jsonl.gz files"
    ),
    "cosqa": Format(cosqa_rows, False, f"CoSQA's .json files, with {MAP_NAMES[0]}"),
    "table": Format(table_rows, None, "parquet, arrow, csv or json files with named columns", takes_columns=True),
}


def open_pairs(
    path: str | Path,
    *,
    format: str | None = None,
    language: str | None = None,
    clean: bool | None = None,
    columns: Mapping[str, str] | None = None,
    max_bad_share: float = 0.01,
) -> PairStream:
    """The pairs at `path`, to be read one by one.

    `format` is one of `FORMATS`, or found by `detect_format`. `clean` applies our data rules to queries and codes; None
    does so to records that name no split, where the format is no published benchmark's (`Format.clean`). `columns` is
    for tables. See `read_codesearchnet`, `read_graphcodebert`, `read_cosqa` and `read_table`.

    Raises:
        CorpusError: nothing is there, or of no known format; `columns` for another format than tables; a share that
            is not in 0 to 1. What is wrong with the files is raised while they are read.
    """
    check_language(language)
    name = format or ("table" if columns else detect_format(path))
    if name == JUDGEMENTS:
        raise CorpusError(
            f"expected pairs at {path}, got graded judgements: they are no training data; "
            "read them with read_judgements and evaluate on them"
        )
    if name not in FORMATS:
        raise CorpusError(f"expected a format of {', '.join(FORMATS)}, got {name!r}: correct it, or leave it out")
    entry = FORMATS[name]
    options: dict[str, Any] = {"language": language, "clean": entry.clean if clean is None else clean}
    if entry.takes_columns:
        options["columns"] = columns
    elif columns:
        raise CorpusError(f"expected columns for the format table only, got them for {name}: leave them out")
    recipe = {"format": name, **{option: value for option, value in options.items() if value is not None}}
    return PairStream(Path(path), partial(entry.rows, Path(path), **options), max_bad_share, recipe)


def detect_format(path: str | Path) -> str:
    """The name of the format at `path`: one of `FORMATS`, or `judgements`.

    Names tell it where they can; else the fields of the first record do.

    Raises:
        CorpusError: nothing is there, or nothing that is known; it says what would be.
    """
    given = Path(path)
    name = given.name
    if is_judgements(given):
        return JUDGEMENTS
    if list_folders(given):
        return "graphcodebert"
    if given.is_dir() and any((given / each).is_file() for each in MAP_NAMES):
        return "cosqa"
    if (
        is_table_folder(given)
        if given.is_dir()
        else name.endswith((".parquet", ".arrow", ".feather", ".csv", ".csv.gz"))
    ):
        return "table"
    try:
        files = files_at(given, TABLE_SUFFIXES)
    except CorpusError as error:
        known = "; ".join(f"{each}: {entry.what}" for each, entry in FORMATS.items())
        raise CorpusError(f"{error}. What can be read: {known}") from error
    for file, _ in files:
        fields = _first_fields(file)
        if not fields:
            continue
        if file.name.endswith(SUFFIXES):
            has_code = fields & {"code", "original_string", "code_tokens"}
            return "codesearchnet" if has_code and fields & {"docstring", "docstring_tokens", "url"} else "table"
        return "cosqa" if {"doc", "code"} <= fields and fields & {"retrieval_idx", "label"} else "table"
    # Nothing tells; the reader of the likelier format says what is wrong with the files.
    return "codesearchnet" if files[0][0].name.endswith(SUFFIXES) else "table"


def _first_fields(file: Path) -> set[str]:
    """The names of the first record's fields; none where there is no record near the start."""
    if not file.name.endswith(SUFFIXES):
        try:
            first = next(iter(json_array(file)), (0, None))[1]
        except CorpusError:
            pass
        else:
            return set(first) if isinstance(first, dict) else set()
    try:
        for number, data in lines_of(file):
            try:
                return set(object_of(data))
            except BadLine:
                if number > 20:
                    break
    except CorpusError:
        pass
    return set()


def read_codesearchnet(
    path: str | Path,
    *,
    language: str | None = None,
    clean: bool | None = None,
    max_bad_share: float = 0.01,
) -> Reading:
    """Read CodeSearchNet records from a .jsonl or .jsonl.gz file, or from all of them below a folder.

    The split is named by the file (`python_train_0.jsonl.gz`), else its folder, else the field `partition`. `language`
    stands in where a record names none. The code is `code` or `original_string` without its documentation, or
    `code_tokens` joined where that does not parse (only then may it have fewer than three lines). With `clean` the
    query is made of `docstring`, or of `docstring_tokens` joined; without, it is what was published: `docstring_tokens`
    joined, or `docstring`, but for surrounding space. None cleans records that name no split. Codes of more than
    100,000 characters are dropped, but those of uncleaned valid and test, which are not parsed. Records of `codebase`
    are candidates: they may have no query. The pickles that CodeSearchNet ships beside its files are never opened: they
    run code.

    Raises:
        CorpusError: nothing to read, a broken gzip file, records with and without a split, or more than
            `max_bad_share` (0 to 1) of the lines are not records.
    """
    return _read("codesearchnet", path, max_bad_share, language=language, clean=clean)


def read_graphcodebert(
    path: str | Path,
    *,
    language: str | None = None,
    clean: bool = False,
    max_bad_share: float = 0.01,
) -> Reading:
    """Read what GraphCodeBERT's cleaning left of CodeSearchNet: `train.txt`, `valid.txt`, `test.txt` and
    `codebase.txt` list urls, in one folder per language below `path` or in `path`.

    The records are in .jsonl or .jsonl.gz files below the language's folder, else in those below `path` that name
    the language. Each comes in every split that lists its url: the codebase names those of valid and test again, and
    `build_corpus` takes out what is an answer. Listed urls without a record, and records that are not listed, are
    counted as dropped. Without
    `clean` the queries are `docstring_tokens` joined, as GraphCodeBERT has them. Else as `read_codesearchnet`.

    Raises:
        CorpusError: there are no lists, or there are no records beside them; else as of `read_codesearchnet`.
    """
    return _read("graphcodebert", path, max_bad_share, language=language, clean=clean)


def read_cosqa(
    path: str | Path,
    *,
    language: str | None = None,
    clean: bool = False,
    max_bad_share: float = 0.01,
) -> Reading:
    """Read CoSQA: a folder of its .json files, or one of them, and `code_idx_map.txt` beside them where it is.

    The query is `doc`, what somebody asked the web; `code` is the answer and its documentation is taken out; records
    with `label` 0 are dropped, for their code is no answer. The file's name tells the split. Every code of the map
    becomes a candidate in `codebase`; `build_corpus` takes out those that answer a query of valid or test.
    `clean` applies our rules to the queries and answers, never to the candidates. `language` is Python unless given.

    Raises:
        CorpusError: there is no such file, it is no JSON or breaks off, or more than `max_bad_share` (0 to 1) of the
            records are bad.
    """
    return _read("cosqa", path, max_bad_share, language=language, clean=clean)


def read_table(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    clean: bool | None = None,
    max_bad_share: float = 0.01,
) -> Reading:
    """Read a table with named columns: a file or folder of parquet, arrow (as Hugging Face's `save_to_disk` writes it),
    csv, jsonl or json; text formats may end in .gz.

    `columns` says which column is the `query`, `query_tokens`, `code`, `code_tokens`, `language`, `package`, `path`,
    `url`, `name` or `split`, as in {"query": "docstring", "code": "func"}; for roles that it does not name the usual
    names are tried. A column of lists is taken as tokens. The split is named by the file
    (`train-00000-of-00003.parquet`), else its folder, else the column. Documentation is taken out of the code. `clean`
    is as in `read_codesearchnet`, and a column that is given as the query is it, also where there are its tokens. The
    line in counts and examples is the row, but the line in csv and json files.

    Raises:
        CorpusError: nothing to read, files of several kinds, a column that is not there, a broken file, records with
            and without a split, or more than `max_bad_share` (0 to 1) of the rows are bad.
    """
    return _read("table", path, max_bad_share, language=language, clean=clean, columns=columns)


def _read(format: str, path: str | Path, max_bad_share: float, **options: Any) -> Reading:
    return open_pairs(path, format=format, max_bad_share=max_bad_share, **options).read()
