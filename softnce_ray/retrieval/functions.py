"""Every function of a tree of sources, documented or not, with its file and line: what an index is made of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tree_sitter import Node

from softnce_ray import json_text
from softnce_ray.corpus.archives import is_archive, unpack_archive
from softnce_ray.corpus.cleaning import first_paragraph, strip_markup
from softnce_ray.corpus.languages import LANGUAGES, Language, function_nodes
from softnce_ray.corpus.manifest import MANIFEST_NAME
from softnce_ray.corpus.mining import Batch, Example, process_pool, read_source
from softnce_ray.corpus.pairs import SPLITS, CorpusError, Pair
from softnce_ray.corpus.sources import Source, path_exclusion
from softnce_ray.corpus.store import Corpus
from softnce_ray.files import read_file
from softnce_ray.storage import Location
from softnce_ray.temporary import temporary_folder

_CHUNK_FILES = 32
_ASIDE = ("test_file", "example_file")
"""Why files are not mined into a corpus, though they are code that somebody may look for."""

Steps = Callable[[int, int, int], None]
"""Called with (files done, files in all, functions so far)."""


@dataclass(frozen=True)
class Found:
    """Functions sorted by path and line; `query` of each is its documentation's first paragraph, or empty.

    `kind` says what was read: `sources` or `corpus`. `passed_over` counts files, and functions of those that were
    read, by the reason why they are not among them.
    """

    kind: str
    functions: tuple[Pair, ...]
    files: int
    passed_over: Counter[str]


def find_functions(
    source: str | Path, *, tests: bool = True, workers: int = 2, steps: Steps = lambda done, total, found: None
) -> Found:
    """All functions of a folder of sources, a source file, an archive of sources, or a corpus, which may lie in an
    object store.

    Of sources: functions and methods of the known languages with a body and a name, also without documentation;
    one inside another is part of that one, but in JavaScript, where modules often are functions, it counts as well.
    Hidden folders, vendored and generated code, minified and overlong files are passed over, as mining does; tests
    and examples are not, unless `tests` is False.

    Raises:
      CorpusError: nothing is there, or it has no function.
    """
    if is_corpus(source):
        functions = tuple(_of_corpus(Corpus.open(source)))
        return Found("corpus", functions, len({(each.package, each.path) for each in functions}), Counter())
    path = Path(source)
    with ExitStack() as held:
        passed: Counter[str] = Counter()
        if path.is_dir():
            sources = sorted(_files(path, tests, passed), key=lambda each: each.path)
        elif not path.exists():
            raise CorpusError(f"expected sources or a corpus at {path}, got nothing: correct the path")
        elif is_archive(path):
            cache_folder = held.enter_context(temporary_folder())
            unpacked = unpack_archive(path, cache_folder)
            sources = sorted(_files(unpacked.folder, tests, passed), key=lambda each: each.path)
        elif language_of(path.name):
            sources = [Source(path.stem, path.name, str(path))]
        else:
            suffixes = ", ".join(suffix for each in LANGUAGES.values() for suffix in each.suffixes)
            raise CorpusError(
                f"expected a folder, an archive, a corpus or a source file ({suffixes}), got {path}: give one of these"
            )
        functions = tuple(_of_files(sources, tests, workers, steps, passed))
    if not functions:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(passed.items())) or "none at all"
        raise CorpusError(
            f"expected functions of {', '.join(LANGUAGES)} in {path}, got none (passed over: {reasons}): give a folder "
            "with sources of these languages"
        )
    return Found("sources", functions, len(sources), passed)


def is_corpus(place: str | Path) -> bool:
    """Whether a folder is a corpus of ours: other projects have a manifest.json too. In an object store nothing else
    is looked for."""
    folder = Location.at(place).path
    if folder is None:
        return True
    try:
        content = json_text.load(read_file(folder / MANIFEST_NAME))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"fingerprint", "languages"} <= content.keys()


def language_of(name: str) -> Language | None:
    """The language of a file by its name's ending."""
    return next((each for each in LANGUAGES.values() if name.endswith(each.suffixes)), None)


def _of_corpus(corpus: Corpus) -> Iterator[Pair]:
    """The functions of all languages and splits."""
    for language in corpus.languages:
        for split in SPLITS:
            for rows in corpus.batches(language, split):
                for row in rows.to_pylist():
                    del row["id"]
                    yield Pair(**row)


def _files(root: Path, tests: bool, passed: Counter[str]) -> Iterator[Source]:
    def unreadable(error: OSError) -> None:
        passed["unreadable_folder"] += 1

    package = root.resolve().name or "sources"
    for folder, names, files in os.walk(root, onerror=unreadable):
        names[:] = [name for name in names if not name.startswith(".") and name != "__pycache__"]
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in files:
            language = language_of(name)
            if language is None:
                continue
            path = name if relative == "." else f"{relative}/{name}"
            reason = path_exclusion(path, language)
            if reason in _ASIDE and tests:
                reason = None
            if any("\ud800" <= character <= "\udfff" for character in path):
                reason = "name_not_utf8"
            if reason is None:
                yield Source(package, path, os.path.join(folder, name))
            else:
                passed[reason] += 1


def _of_files(
    sources: Sequence[Source], tests: bool, workers: int, steps: Steps, passed: Counter[str]
) -> Iterator[Pair]:
    chunks = (sources[start : start + _CHUNK_FILES] for start in range(0, len(sources), _CHUNK_FILES))
    map_chunks = process_pool(workers if len(sources) > _CHUNK_FILES else 1)
    done = found = 0
    for batches in map_chunks(partial(_read_chunk, tests=tests), chunks):
        for batch in batches:
            done += 1
            found += len(batch.pairs)
            passed.update(batch.dropped_files)
            passed.update(batch.dropped_functions)
            yield from batch.pairs
        steps(done, len(sources), found)


def _read_chunk(chunk: Sequence[Source], *, tests: bool) -> list[Batch]:
    return [functions_of_file(source, tests=tests) for source in chunk]


def functions_of_file(source: Source, *, tests: bool = True) -> Batch:
    """The functions of one file, in its order. Whatever is wrong with the file is counted, never raised."""
    language = language_of(source.file)
    assert language is not None, source
    data, reason = read_source(source)
    if reason is not None:
        return Batch(1, (), Counter([reason]), examples=(Example(reason, source.path, 0),))
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for node in _outermost(data, language):
        name = language.function_name(node)
        why = _left_out(node, name, language, tests)
        if why is not None:
            dropped[why] += 1
            continue
        said = language.documentation(node)
        pairs.append(
            Pair(
                query=strip_markup(first_paragraph(said)) if said else "",
                code=language.code(node, data),
                language=language.name,
                package=source.package,
                path=source.path,
                line=node.start_point[0] + 1,
                name=name,
            )
        )
    return Batch(1, tuple(pairs), dropped_functions=dropped)


def _left_out(node: Node, name: str, language: Language, tests: bool) -> str | None:
    if not name:
        return "no_name"
    why = language.exclusion(node, name)
    # Constructors, trivial bodies and the like make no good training pair, but may be what somebody looks for.
    return why if why == "no_body" or (why == "test_function" and not tests) else None


def _outermost(data: bytes, language: Language) -> Iterator[Node]:
    """The functions of a file; without those inside another one, unless the language looks inside."""
    end_of_outer = -1
    for node in function_nodes(data, language):
        if node.start_byte >= end_of_outer:
            yield node
            if not language.looks_inside:
                end_of_outer = node.end_byte
