"""CoSQA (Huang et al., ACL 2021): web queries with Python functions, and one map of all candidate codes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softnce_ray.corpus.cleaning import Drop
from softnce_ray.corpus.formats.lines import as_object, json_array, json_object, split_in_name
from softnce_ray.corpus.formats.reading import Bad, BadLine, Row
from softnce_ray.corpus.formats.records import pair_of, text_of
from softnce_ray.corpus.pairs import CorpusError, Pair

MAP_NAMES = ("code_idx_map.txt", "code_idx_map.txt.gz", "code_idx_map.json")
_SUFFIXES = (".json", ".json.gz")


def cosqa_rows(path: Path, *, language: str | None, clean: bool) -> Iterator[Row]:
    """Rows of the json files at `path`, then of all codes in the map beside them.

    The rules are those of `read_cosqa`.
    """
    files, codes = _files(path)
    name = language or "python"
    known: dict[int, bytes] = {}
    for _, (code, index) in json_object(codes) if codes else ():
        if _is_index(index):
            known.setdefault(index, _digest(code))
    answers: dict[int, str] = {}
    for file in files:
        split = split_in_name(file.name)
        for number, value in json_array(file):
            result = _record_pair(value, split, name, file.name, clean, known)
            if isinstance(result, Pair) and split in ("valid", "test"):
                answers[value.get("retrieval_idx", -1)] = result.code
            yield Row(file.name, number, split, result)
    if codes:
        yield from _candidates(codes, name, answers)


def _files(path: Path) -> tuple[list[Path], Path | None]:
    folder = path if path.is_dir() else path.parent
    codes = next((folder / name for name in MAP_NAMES if (folder / name).is_file()), None)
    if path.is_file() and path.name.endswith(_SUFFIXES) and path.name not in MAP_NAMES:
        return [path], codes
    files = sorted(f for f in folder.iterdir() if f.name.endswith(_SUFFIXES) and f.is_file()) if path.is_dir() else []
    files = [file for file in files if file.name not in MAP_NAMES and not file.name.startswith(".")]
    if not files:
        raise CorpusError(
            f"expected CoSQA's json files, as cosqa-retrieval-dev-500.json, at {path}, got none: "
            f"give the folder that holds them and {MAP_NAMES[0]}"
        )
    unnamed = [file.name for file in files if split_in_name(file.name) is None]
    if codes and unnamed:
        # The map is the split `codebase`, and an input has splits for all of its records or for none.
        raise CorpusError(
            f"expected train, dev or test in the name of every json file beside {codes.name}, got {unnamed[0]}: "
            "rename or remove it"
        )
    return files, codes


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _digest(code: str) -> bytes:
    return hashlib.blake2b(code.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _record_pair(
    value: Any, split: str | None, language: str, place: str, clean: bool, known: dict[int, bytes]
) -> Pair | Drop | Bad:
    try:
        record = as_object(value)
        query = text_of(record, "doc")
        if query is None:
            raise BadLine("no_query")
        code, tokens = text_of(record, "code"), text_of(record, "code_tokens")
        label = record.get("label", 1)
        if isinstance(label, bool) or label not in (0, 1):
            raise BadLine("wrong_type")
        index = record.get("retrieval_idx")
        if index is not None and not _is_index(index):
            raise BadLine("wrong_type")
        # The two ways to name the answer must name the same one, or the codebase would hold it twice.
        if index is not None and known and code and code.strip() and known.get(index) != _digest(code):
            raise BadLine("code_is_not_of_its_index")
    except BadLine as error:
        return Bad(str(error))
    if label == 0:
        return Drop("labelled_no_answer")
    fields = {"docstring": query, "code": code, "code_tokens": None if tokens is None else [tokens]}
    return pair_of(fields, split, language=language, place=place, clean=clean)


def _candidates(codes: Path, language: str, answers: dict[int, str]) -> Iterator[Row]:
    """Every code of the map, short ones too: they are what the queries are searched in.

    One that is an answer has the answer's text, so that `build_corpus` sees that they are the same.
    """
    seen: set[int] = set()
    for number, (code, index) in json_object(codes):
        result: Pair | Drop | Bad
        if not _is_index(index):
            result = Bad("wrong_type")
        elif index in seen:
            result = Bad("repeated_index")
        else:
            result = pair_of({"code": code}, "codebase", language=language, place=codes.name, clean=False)
            if isinstance(result, Pair) and index in answers:
                result = dataclasses.replace(result, code=answers[index])
        seen.add(index if _is_index(index) else -1)
        yield Row(codes.name, number, "codebase", result)
