"""From source files to pairs, in parallel and in a seeded order that does not depend on the parallelism."""

from __future__ import annotations

import codecs
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial

from softnce_ray.corpus.cleaning import Drop, check_code, clean_query
from softnce_ray.corpus.languages import LANGUAGES, Language, functions_in
from softnce_ray.corpus.pairs import Pair
from softnce_ray.corpus.sources import Source
from softnce_ray.corpus.spreading import Spread

MAX_FILE_BYTES = 1_000_000
MAX_MEAN_LINE = 200
MAX_EXAMPLES = 3
_CHUNK_FILES = 32
_AHEAD = 4
"""Chunks that each worker may be ahead of what is read."""
_HEADER_BYTES = 1_000
_COMMENT = rb"^[ \t]*(?:#|//+|/?\*+|--|;+|\"\"\"|''')[!\s]*"
_MARK = _COMMENT + rb".{0,200}?"
_GENERATED = re.compile(
    _MARK
    + rb"(?:do not (?:edit|modify)|@generated|auto-?generated|(?:automatically|machine)[- ]generated)|"
    + _COMMENT
    + rb"(?:(?:this|the) (?:file|module|code|script|class|source)?\W*)?(?:(?:is|was|has been|were) )?(?:\w+ ){0,2}?"
    rb"generated (?:by|from|with|using|on)\b|"
    rb"^this (?:file|module|code|script) (?:is|was|has been) (?:auto\S* |machine )?generated\b",
    re.IGNORECASE | re.MULTILINE,
)

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Example:
    """One thing that was dropped: `line` is 0 for a whole file."""

    reason: str
    path: str
    line: int


@dataclass(frozen=True)
class Batch:
    """What some files gave: pairs in the files' order, and how much was dropped, by reason."""

    files: int
    pairs: tuple[Pair, ...]
    dropped_files: Counter[str] = field(default_factory=Counter)
    dropped_functions: Counter[str] = field(default_factory=Counter)
    examples: tuple[Example, ...] = ()


def file_exclusion(source: bytes) -> str | None:
    """Why a file's content is not mined, or None: its size, its encoding, who wrote it."""
    if len(source) > MAX_FILE_BYTES:
        return "file_too_large"
    if _GENERATED.search(source, 0, _HEADER_BYTES):
        return "generated_file"
    if len(source) > MAX_MEAN_LINE * (source.count(b"\n") + 1):
        return "minified_file"
    if b"\0" in source:
        return "binary_file"
    try:
        source.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def read_source(source: Source) -> tuple[bytes, str | None]:
    """A file's content without a byte order mark, and why it is not mined, or None."""
    try:
        if not os.path.isfile(source.file):  # opening a pipe would wait for ever
            raise FileNotFoundError(source.file)
        with open(source.file, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1).removeprefix(codecs.BOM_UTF8)
    except OSError:
        return b"", "unreadable_file"
    return data, file_exclusion(data)


def mine_file(source: Source, language: Language, *, strip_names: bool = True) -> Batch:
    """The pairs of one file. Whatever is wrong with the file is counted, never raised.

    `strip_names` takes the function's name out of its documentation in languages where it stands there by habit.
    """
    data, reason = read_source(source)
    if reason is not None:
        return Batch(1, (), Counter([reason]), examples=(Example(reason, source.path, 0),))
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    examples: list[Example] = []
    for function in functions_in(data, language):
        reason = function.reason
        query: str | Drop = ""
        if reason is None:
            text = function.documentation
            if strip_names and language.without_name is not None:
                text = language.without_name(text, function.name)
            query = clean_query(text)
            drop = query if isinstance(query, Drop) else check_code(function.code)
            reason = drop.reason if drop else None
        if reason is None and isinstance(query, str):
            pairs.append(
                Pair(
                    query=query,
                    code=function.code,
                    language=language.name,
                    package=source.package,
                    path=source.path,
                    line=function.line,
                    name=function.name,
                )
            )
        elif reason is not None:
            dropped[reason] += 1
            if dropped[reason] == 1:
                examples.append(Example(reason, source.path, function.line))
    return Batch(1, tuple(pairs), dropped_functions=dropped, examples=tuple(examples))


Work = Callable[[Sequence[Source]], "list[Batch]"]
"""The batches of some files, in their order; it can be pickled."""

MapChunks = Callable[[Work, Iterable[Sequence[Source]]], "Iterator[list[Batch]]"]
"""Does the work for every chunk and gives the results in the chunks' order, as they come. Chunks are to be taken, and
results kept, only some way ahead of the one that is asked for: they are all that mining has in memory, and with a limit
what comes next depends on results. A chunk may be empty."""


def _mine_chunk(chunk: Sequence[Source], *, language: str, strip_names: bool) -> list[Batch]:
    return [mine_file(source, LANGUAGES[language], strip_names=strip_names) for source in chunk]


def _start_worker(parent: int) -> None:
    # An interrupt on the terminal reaches every process; only the parent is to answer it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this process when the one that started it is gone: killed, it can tell nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _context() -> multiprocessing.context.BaseContext:
    # Forking is quick and needs nothing of the caller's script, but is safe only without threads.
    can_fork = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
    return multiprocessing.get_context("fork" if can_fork else "spawn")


def process_pool(workers: int) -> MapChunks:
    """Work in processes of this machine; what a broken pool leaves behind is done in this process, and with one
    worker all is."""

    def map_chunks(work: Work, chunks: Iterable[Sequence[Source]]) -> Iterator[list[Batch]]:
        if workers <= 1:
            yield from map(work, chunks)
            return
        pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker, initargs=(os.getpid(),))
        waiting: deque[tuple[Sequence[Source], Future[list[Batch]] | None]] = deque()
        try:
            for chunk in chunks:
                future: Future[list[Batch]] | None
                try:
                    future = pool.submit(work, chunk)
                except BrokenProcessPool:
                    future = None
                waiting.append((chunk, future))
                if len(waiting) == _AHEAD * workers:
                    yield _result(work, *waiting.popleft())
            while waiting:
                yield _result(work, *waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return map_chunks


def _result(work: Work, chunk: Sequence[Source], future: Future[list[Batch]] | None) -> list[Batch]:
    try:
        return work(chunk) if future is None else future.result()
    except BrokenProcessPool:
        return work(chunk)


def mine_sources(
    sources: Iterable[Source],
    language: Language,
    *,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 2,
    map_chunks: MapChunks | None = None,
    strip_names: bool = True,
    progress: Progress | None = None,
) -> Iterator[Batch]:
    """Mine files in a seeded shuffled order, one batch per file, until `limit` pairs are kept, spread over packages: as
    many of each as of any other, as long as it has them.

    The batches are the same for any number of `workers` (processes; 1 stays in this one), and wherever the work is
    done: `map_chunks` does it elsewhere, on a cluster say, instead of in `workers` processes. `strip_names` is that of
    `mine_file`. `progress` is called with (files done, files in all, pairs so far). With a limit a last batch of no
    file has the pairs that waited until all packages were known, and counts what is left of them as `over_limit`.
    """
    order = list(sources)
    random.Random(seed).shuffle(order)
    spread = None if limit is None else Spread(order, limit)
    chunks: Iterable[Sequence[Source]]
    if spread is None:
        chunks = (order[start : start + _CHUNK_FILES] for start in range(0, len(order), _CHUNK_FILES))
    else:
        chunks = spread.chunks(_CHUNK_FILES)
    done = kept = 0
    if map_chunks is None:
        map_chunks = process_pool(workers if len(order) > _CHUNK_FILES else 1)
    results = map_chunks(partial(_mine_chunk, language=language.name, strip_names=strip_names), chunks)
    try:
        for mined in results:
            for batch in mined:
                done += 1
                if spread is not None:
                    batch = replace(batch, pairs=spread.add(batch.pairs))
                kept += len(batch.pairs)
                yield batch
            if mined and progress is not None:
                progress(done, len(order), kept)
    finally:
        if isinstance(results, Generator):  # nothing more is wanted of a pool
            results.close()
    if spread is not None:
        pairs, over = spread.rest()
        if pairs or over:
            yield Batch(0, pairs, dropped_functions=over)
        if progress is not None:
            progress(done, len(order), kept + len(pairs))


class Tally:
    """What batches left out: counts by reason, and of each reason the first `MAX_EXAMPLES` examples."""

    def __init__(self) -> None:
        self.files = 0
        self.dropped_files: Counter[str] = Counter()
        self.dropped_functions: Counter[str] = Counter()
        self.examples: list[Example] = []
        self._seen: Counter[str] = Counter()

    def add(self, batch: Batch) -> None:
        self.files += batch.files
        self.dropped_files.update(batch.dropped_files)
        self.dropped_functions.update(batch.dropped_functions)
        for example in batch.examples:
            self._seen[example.reason] += 1
            if self._seen[example.reason] <= MAX_EXAMPLES:
                self.examples.append(example)


def merge_batches(batches: Iterable[Batch]) -> Batch:
    """One batch of all, in memory: for what is no whole corpus. See `Tally` for the examples."""
    tally = Tally()
    pairs: list[Pair] = []
    for batch in batches:
        tally.add(batch)
        pairs.extend(batch.pairs)
    return Batch(tally.files, tuple(pairs), tally.dropped_files, tally.dropped_functions, tuple(tally.examples))
