"""Tables with named columns: parquet, arrow, csv, jsonl and json files, as Hugging Face data sets are kept.

Parquet and arrow are read through pyarrow. The text formats are not: pyarrow stops at the first broken line,
while here one is counted and passed over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from softnce_ray.corpus.formats.lines import (
    as_object,
    files_at,
    files_below,
    first_character,
    json_array,
    lines_of,
    object_of,
    open_bytes,
    raw_lines,
    split_in_name,
)
from softnce_ray.corpus.formats.reading import Bad, BadLine, Row
from softnce_ray.corpus.formats.records import pair_of, partition_of
from softnce_ray.corpus.pairs import CorpusError

KINDS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "csv": (".csv", ".csv.gz"),
    "json": (".jsonl", ".jsonl.gz", ".json", ".json.gz"),
}
SUFFIXES = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)
_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_BATCH_ROWS = 256
_BROKEN_TABLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, TypeError)

# Role -> CodeSearchNet's name of the field, and the names that columns of this role usually have.
_ROLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "query": ("docstring", ("query", "docstring", "func_documentation_string", "documentation", "doc", "nl")),
    "query_tokens": ("docstring_tokens", ("docstring_tokens", "func_documentation_tokens")),
    "code": ("code", ("code", "func_code_string", "original_string", "whole_func_string", "func", "function")),
    "code_tokens": ("code_tokens", ("code_tokens", "func_code_tokens")),
    "language": ("language", ("language", "lang")),
    "package": ("repo", ("repo", "repository_name", "repo_name", "package")),
    "path": ("path", ("path", "func_path_in_repository")),
    "url": ("url", ("url", "func_code_url")),
    "name": ("func_name", ("func_name", "identifier", "name")),
    "split": ("partition", ("partition", "split_name", "split")),
}
_TOKENS_OF = {"query": "query_tokens", "code": "code_tokens"}


def table_rows(
    path: Path, *, language: str | None, clean: bool | None, columns: Mapping[str, str] | None
) -> Iterator[Row]:
    """A row for each row of the files at `path`; the rules are those of `read_table`."""
    given = dict(columns or {})
    for role in given:
        if role not in _ROLES:
            raise CorpusError(f"expected columns for {', '.join(_ROLES)}, got one for {role!r}: correct its name")
    for file, shown in table_files(path):
        file_split = split_in_name(shown)
        for number, cells in _cells(file, shown, file_split, given):
            if isinstance(cells, Bad):
                yield Row(shown, number, file_split, cells)
                continue
            try:
                record = _record(cells)
                split = file_split or partition_of(record)
            except BadLine as error:
                yield Row(shown, number, file_split, Bad(str(error)))
                continue
            own = split is None if clean is None else clean
            of_tokens = not own and "query" not in given
            result = pair_of(record, split, language=language, place=shown, clean=own, query_of_tokens=of_tokens)
            yield Row(shown, number, split, result)


def table_files(path: Path) -> list[tuple[Path, str]]:
    """(file, name to show) of a table's files, without the notes that data sets on disk hold beside them.

    Raises:
        CorpusError: there are none, or they are of several kinds.
    """
    found = [
        (file, shown)
        for file, shown in files_at(path, SUFFIXES)
        if path.is_file() or not (file.name in _METADATA or file.name.startswith("cache-"))
    ]
    kinds = sorted({_kind(file) for file, _ in found})
    if len(kinds) > 1:
        raise CorpusError(
            f"expected files of one kind below {path}, got {' and '.join(kinds)} files: give the folder of one kind"
        )
    if not found:
        raise CorpusError(f"expected {', '.join(SUFFIXES)} files below {path}, got none: correct the path")
    return found


def is_table_folder(folder: Path) -> bool:
    """Whether there are files that only a table can be."""
    return bool(files_below(folder, (*KINDS["parquet"], *KINDS["arrow"], *KINDS["csv"])))


def _kind(file: Path) -> str:
    return next(kind for kind, suffixes in KINDS.items() if file.name.endswith(suffixes))


def _record(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Cells by role become fields by CodeSearchNet's names; a list in a text's place is its tokens."""
    record: dict[str, Any] = {}
    for role, value in cells.items():
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise BadLine("not_utf8") from None
        if isinstance(value, list) and role in _TOKENS_OF:
            role = _TOKENS_OF[role]
        record.setdefault(_ROLES[role][0], value)
    return record


def _cells(
    file: Path, shown: str, split: str | None, given: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    kind = _kind(file)
    if kind == "json":
        return _json_cells(file, shown, split, given)
    if kind == "csv":
        return _csv_cells(file, shown, split, given)
    return _arrow_cells(file, shown, split, given, _parquet_batches if kind == "parquet" else _arrow_batches)


def _chosen(names: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """Role -> column: those that are given, and for other roles the first usual name that there is."""
    there = set(names)
    chosen = {role: column for role, column in given.items() if column in there}
    for role, (_, usual) in _ROLES.items():
        # Tokens that were not asked for may belong to another text than the column that was.
        if role in given or any(role == tokens and text in given for text, tokens in _TOKENS_OF.items()):
            continue
        if column := next((name for name in usual if name in there), None):
            chosen[role] = column
    return chosen


def _check_chosen(chosen: Iterable[str], names: Sequence[str], shown: str, split: str | None, given: Mapping) -> None:
    have = set(chosen)
    missing = [role for role in ("query", "code") if not have & {role, _TOKENS_OF[role]}]
    if split == "codebase" and "query" not in given:
        missing = [role for role in missing if role != "query"]
    missing += [role for role in given if role not in have and role not in missing]
    if missing:
        asked = f" (asked for {', '.join(map(repr, given.values()))})" if given else ""
        raise CorpusError(
            f"{shown}: expected a column for {' and '.join(missing)}{asked}, got the columns {', '.join(names)[:500]}: "
            "name them, as in columns={'query': 'docstring', 'code': 'func'}"
        )


def _json_cells(
    file: Path, shown: str, split: str | None, given: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    seen: set[str] = set()
    names: list[str] = []
    # A .json file of a data set is one array, or lines of objects all the same.
    is_array = file.name.endswith(KINDS["json"][2:]) and first_character(file) == b"["
    values = json_array(file) if is_array else lines_of(file)
    for number, value in values:
        try:
            row = as_object(value) if is_array else object_of(value)
        except BadLine as error:
            yield number, Bad(str(error))
            continue
        chosen = _chosen(row, given)
        seen.update(chosen)
        names = names or list(row)
        yield number, {role: row[column] for role, column in chosen.items()}
    if names:  # One row may lack a field; a column that no row has was named wrongly.
        _check_chosen(seen, names, shown, split, given)


def _csv_cells(
    file: Path, shown: str, split: str | None, given: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    too_long: list[int] = []

    def lines() -> Iterator[str]:
        for number, data in raw_lines(file):
            if data is None:
                too_long.append(number)
            yield "\n" if data is None else data.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise CorpusError(f"{shown}: expected a line of column names, got {error}: repair the file") from error
    if header is None:
        return
    chosen = _chosen(header, given)
    _check_chosen(chosen, [name.encode("utf-8", "replace").decode() for name in header], shown, split, given)
    places = {role: header.index(column) for role, column in chosen.items()}
    while True:
        start = reader.line_num + 1
        cells: dict[str, Any] | Bad
        try:
            row = next(reader, None)
            if row is None:
                return
            if not row and not too_long:
                continue
            cells = (
                {role: row[place] or None for role, place in places.items()}
                if len(row) == len(header)
                else Bad("wrong_number_of_cells")
            )
        except csv.Error as error:
            cells = Bad("cell_too_long" if "limit" in str(error) else "bad_csv")
        if too_long:
            cells = Bad("line_too_long")
            too_long.clear()
        yield start, cells


def _arrow_cells(
    file: Path, shown: str, split: str | None, given: Mapping[str, str], batches: Any
) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    number = 0
    if file.stat().st_size == 0:
        return
    try:
        for names, chosen, batch in batches(file, given):
            _check_chosen(chosen, names, shown, split, given)
            batch.validate()
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                part = batch.slice(start, _BATCH_ROWS)
                values = {role: _values(part.column(column)) for role, column in chosen.items()}
                for row in range(part.num_rows):
                    number += 1
                    yield number, {role: column[row] for role, column in values.items()}
    except CorpusError:
        raise
    except _BROKEN_TABLE as error:
        where = f" after row {number}" if number else ""
        raise CorpusError(
            f"expected to read {file} to its end, got {str(error)[:300]}{where}: fetch the file again"
        ) from error


def _parquet_batches(file: Path, given: Mapping[str, str]) -> Iterator[tuple[list[str], dict[str, str], Any]]:
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        names = list(parquet.schema_arrow.names)
        chosen = _chosen(names, given)
        for batch in parquet.iter_batches(
            batch_size=_BATCH_ROWS, columns=list(set(chosen.values())), use_threads=False
        ):
            yield names, chosen, batch


def _arrow_batches(file: Path, given: Mapping[str, str]) -> Iterator[tuple[list[str], dict[str, str], Any]]:
    with open_bytes(file) as stream:
        is_file = stream.read(6) == b"ARROW1"
    # A memory map: what a broken file says about sizes is checked against it, and nothing is reserved.
    with pa.memory_map(str(file)) as source:
        if is_file:
            with pa.ipc.open_file(source) as reader:
                names = list(reader.schema.names)
                for index in range(reader.num_record_batches):
                    yield names, _chosen(names, given), reader.get_batch(index)
            return
        with pa.ipc.open_stream(source) as stream_reader:
            names = list(stream_reader.schema.names)
            for batch in stream_reader:
                yield names, _chosen(names, given), batch


def _values(array: Any) -> list[Any]:
    """Python values of a column, checked first: what a broken arrow file holds is not checked when it is read."""
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    if array.type in kinds:
        # As bytes, so that one row that is not UTF-8 is lost alone and not its whole file.
        array = pa.Array.from_buffers(kinds[array.type], len(array), array.buffers(), array.null_count, array.offset)
    array.validate(full=True)
    values: list[Any] = array.to_pylist()
    return values
