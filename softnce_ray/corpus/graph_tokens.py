"""Functions as token ids with their data-flow graphs, in several processes where there are many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from softnce_ray.corpus.dataflow import SYNTAXES, GraphLimits, data_flow, gathered, graph_text, subtokens_of
from softnce_ray.corpus.dataflow.subtokens import Subtokens
from softnce_ray.corpus.mining import process_pool
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.ragged import Ragged

GRAPHS_VERSION = 1
"""Raised when the same functions get other graphs."""

_FEW = 4_000
"""Functions that take less time than processes take to start."""


def check_languages(languages: Iterable[str]) -> None:
    """Refuse languages whose data flow is not known, before any work is done for them.

    Raises:
      CorpusError: there are such.
    """
    if problem := flow_problem(languages):
        raise CorpusError(problem)


def flow_problem(languages: Iterable[str]) -> str:
    """Return why GraphCodeBERT cannot read functions of these languages, or ""."""
    if not (unknown := [name for name in dict.fromkeys(languages) if name not in SYNTAXES]):
        return ""
    return (
        f"encoder graphcodebert reads data flow: expected languages of {', '.join(SYNTAXES)}, got "
        f"{', '.join(unknown)}: use another encoder there, as codebert, or leave them out"
    )


def graph_texts(
    codes: Sequence[str], languages: str | Sequence[str], tokenizer: Tokenizer, limits: GraphLimits
) -> Ragged:
    """Functions with their graphs, as `graph_text` cuts them.

    Args:
      languages: one for all functions, or that of each.
      tokenizer: has `<s>` and `</s>`.

    Raises:
      CorpusError: the data flow of a language is not known.
    """
    check_languages({languages} if isinstance(languages, str) else set(languages))
    return _read(codes, languages, subtokens_of(tokenizer), _ends(tokenizer), limits)


def graph_texts_in_parts(
    parts: Iterable[list[str]], language: str, tokenizer: Path, limits: GraphLimits, *, total: int
) -> Iterator[Ragged]:
    """`graph_texts` of each part, in their order, computed in as many processes as this one has cores.

    Args:
      tokenizer: its file.
      total: how many functions all parts have: a few are read in this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    in_processes: Any = process_pool(cores if total > _FEW else 1)
    work = partial(_read_with_file, language=language, tokenizer=str(tokenizer), limits=limits)
    yield from in_processes(work, parts)


def _read_with_file(codes: Sequence[str], *, language: str, tokenizer: str, limits: GraphLimits) -> Ragged:
    subtokens, ends = _opened(tokenizer, os.stat(tokenizer).st_mtime_ns)
    return _read(codes, language, subtokens, ends, limits)


@lru_cache(1)
def _opened(file: str, _changed: int) -> tuple[Subtokens, tuple[int, int]]:
    """What a process needs of a tokenizer; it reads many parts with the same one."""
    tokenizer = Tokenizer.from_file(file)
    return subtokens_of(tokenizer), _ends(tokenizer)


def _ends(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of `<s>` and `</s>`."""
    begin, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    if begin is None or end is None:
        raise CorpusError(
            "encoder.model: expected a tokenizer with <s> and </s>, as GraphCodeBERT's, got one without: name that "
            "model or a folder with it"
        )
    return begin, end


def _read(
    codes: Sequence[str],
    languages: str | Sequence[str],
    subtokens: Subtokens,
    ends: tuple[int, int],
    limits: GraphLimits,
) -> Ragged:
    each = repeat(languages, len(codes)) if isinstance(languages, str) else languages
    texts = [
        graph_text(data_flow(code, language), code, subtokens, limits, cls_id=ends[0], sep_id=ends[1])
        for code, language in zip(codes, each, strict=True)
    ]
    ids = np.concatenate([np.empty(0, np.int64), *(text.ids for text in texts)])
    return Ragged(ids, np.cumsum([0, *(len(text.ids) for text in texts)]), gathered(texts))
