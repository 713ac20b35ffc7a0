"""CodeSearchNet's jsonl files, as published and as GraphCodeBERT's lists of urls select from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from softnce_ray.corpus.cleaning import Drop
from softnce_ray.corpus.formats.lines import files_at, files_below, lines_of, object_of, split_in_name
from softnce_ray.corpus.formats.reading import Bad, BadLine, Row
from softnce_ray.corpus.formats.records import pair_of, partition_of, text_of
from softnce_ray.corpus.pairs import SPLITS, CorpusError

SUFFIXES = (".jsonl", ".jsonl.gz")
LISTS = tuple(f"{split}.txt" for split in SPLITS)


def codesearchnet_rows(path: Path, *, language: str | None, clean: bool | None) -> Iterator[Row]:
    """A row for each line of the files at `path`; the rules are those of `read_codesearchnet`."""
    for file, shown in files_at(path, SUFFIXES):
        file_split = split_in_name(shown)
        for number, data in lines_of(file):
            try:
                record = object_of(data)
                split = file_split or partition_of(record)
            except BadLine as error:
                yield Row(shown, number, file_split, Bad(str(error)))
                continue
            own = split is None if clean is None else clean
            result = pair_of(record, split, language=language, place=shown, clean=own, query_of_tokens=not own)
            yield Row(shown, number, split, result)


def list_folders(path: Path) -> list[Path]:
    """The folders at or just below `path` that hold GraphCodeBERT's lists, sorted."""
    if not path.is_dir():
        return []
    folders = [path, *sorted(each for each in path.iterdir() if each.is_dir())]
    return [folder for folder in folders if any((folder / name).is_file() for name in LISTS)]


def graphcodebert_rows(path: Path, *, language: str | None, clean: bool) -> Iterator[Row]:
    """Rows of the records whose url one of the lists names, in the lists' splits.

    A record comes once for each list that names it. GraphCodeBERT's codebase names the functions of valid and test
    too: `build_corpus` takes answers out of it, and a pair that it drops still leaves its code as a candidate.
    """
    folders = list_folders(path)
    if not folders:
        raise CorpusError(
            f"expected {', '.join(LISTS)} in {path} or in the language folders below it, got none: unpack "
            "GraphCodeBERT's dataset.zip, and put CodeSearchNet's jsonl.gz files beside the lists"
        )
    for folder in folders:
        yield from _selected(path, folder, language, clean)


def _selected(root: Path, folder: Path, language: str | None, clean: bool) -> Iterator[Row]:
    name = language or folder.resolve().name.lower()
    listed: dict[bytes, int] = {}  # digest of a url -> bits of the splits that list it, none once it was found
    for bit, split in enumerate(SPLITS):
        if (folder / f"{split}.txt").is_file():
            for _, data in lines_of(folder / f"{split}.txt"):
                url = _digest(data or b"")
                listed[url] = listed.get(url, 0) | 1 << bit
    for file, shown in _records_of(root, folder, name):
        for number, data in lines_of(file):
            try:
                record = object_of(data)
                url = _digest((text_of(record, "url") or "").encode())
            except BadLine as error:
                yield Row(shown, number, None, Bad(str(error)))
                continue
            splits = [split for bit, split in enumerate(SPLITS) if listed.get(url, 0) & 1 << bit]
            if not splits:
                # GraphCodeBERT's script writes its choice beside the originals: the second copy is no news.
                yield Row(shown, number, None, Drop("url_repeated" if url in listed else "url_not_listed"))
                continue
            listed[url] = 0
            for index, split in enumerate(splits):
                result = pair_of(record, split, language=name, place=shown, clean=clean, query_of_tokens=not clean)
                yield Row(shown, number, split, result, is_line=index == 0)
                if isinstance(result, Bad):
                    break
    for bit, split in enumerate(SPLITS):
        place = (folder / f"{split}.txt").relative_to(root).as_posix()
        for _ in range(sum(bool(bits & 1 << bit) for bits in listed.values())):
            yield Row(place, 0, split, Drop("listed_url_without_record"), is_line=False)


def _records_of(root: Path, folder: Path, language: str) -> list[tuple[Path, str]]:
    """The record files of one language: below its folder, else those that name it below the root."""
    if found := files_below(folder, SUFFIXES):
        return [(file, file.relative_to(root).as_posix()) for file, _ in found]
    named = [
        (file, shown) for file, shown in files_below(root, SUFFIXES) if language in re.findall(r"[a-z]+", shown.lower())
    ]
    return named or files_at(folder, SUFFIXES)  # which says what is missing, pickles included


def _digest(url: bytes) -> bytes:
    # A million urls are held while the records pass by; 16 bytes each instead of 120.
    return hashlib.blake2b(url.strip(), digest_size=16).digest()
