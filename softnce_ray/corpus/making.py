"""The whole way to a corpus in one call: from source files, or from files of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softnce_ray.corpus.build import build_corpus, check_output
from softnce_ray.corpus.formats import read_codesearchnet
from softnce_ray.corpus.languages import Language
from softnce_ray.corpus.mining import Progress, merge_batches, mine_sources
from softnce_ray.corpus.sources import SourceSet
from softnce_ray.corpus.store import Manifest


def mine_corpus(
    sources: SourceSet,
    language: Language,
    out: str | Path,
    *,
    limit: int | None = None,
    valid: int = 1000,
    test: int = 1000,
    codebase: int = 0,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Mine at most `limit` pairs from `sources` and build the corpus `out` of them.

    The other options are those of `mine_sources` and `build_corpus`; `recipe` is added to what they were
    given.

    Raises:
        CorpusError: `out` is taken, or the sources have no pairs or too few to split.
    """
    check_output(out, overwrite=overwrite)
    batches = mine_sources(sources.sources, language, limit=limit, seed=seed, workers=workers, progress=progress)
    mined = merge_batches(batches)
    asked = {"limit": limit, "valid": valid, "test": test, "codebase": codebase, "seed": seed}
    return build_corpus(
        mined.pairs,
        out,
        valid=valid,
        test=test,
        codebase=codebase,
        seed=seed,
        overwrite=overwrite,
        recipe={**asked, "files": len(sources.sources), "files_read": mined.files, **(recipe or {})},
        dropped={"files": sources.skipped + mined.dropped_files, "functions": mined.dropped_functions},
        examples=mined.examples,
        notes=sources.notes,
    )


def import_corpus(
    path: str | Path,
    out: str | Path,
    *,
    language: str | None = None,
    clean: bool = True,
    max_bad_share: float = 0.01,
    valid: int = 1000,
    test: int = 1000,
    codebase: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Manifest:
    """Build the corpus `out` from CodeSearchNet files at `path`, keeping their splits where they have them.

    The options are those of `read_codesearchnet` and `build_corpus`; `recipe` is added to what they were
    given.

    Raises:
        CorpusError: `out` is taken, or the input cannot be read, has too many bad lines, or too few pairs.
    """
    check_output(out, overwrite=overwrite)
    reading = read_codesearchnet(path, language=language, clean=clean, max_bad_share=max_bad_share)
    asked = {"valid": valid, "test": test, "codebase": codebase, "seed": seed, "clean": clean}
    return build_corpus(
        reading.pairs,
        out,
        valid=valid,
        test=test,
        codebase=codebase,
        seed=seed,
        overwrite=overwrite,
        recipe={**asked, "lines": reading.lines, **(recipe or {})},
        dropped={"lines": reading.bad, "records": reading.dropped},
        examples=reading.examples,
    )
