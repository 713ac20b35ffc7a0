"""The whole way to a corpus in one call: from source files, or from files of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softnce_ray.corpus.build import build_corpus, check_output
from softnce_ray.corpus.choosing import EVALUATION
from softnce_ray.corpus.comparing import check_evaluated
from softnce_ray.corpus.formats import open_pairs
from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.manifest import Manifest
from softnce_ray.corpus.mining import MapChunks, Progress, Tally, mine_sources
from softnce_ray.corpus.published import PUBLISHED, Projects, codesearchnet, describe, part
from softnce_ray.corpus.sources import SourceSet
from softnce_ray.corpus.spool import Spool
from softnce_ray.corpus.store import Corpus


def mine_corpus(
    sources: Mapping[str, SourceSet],
    out: str | Path,
    *,
    limit: int | None = None,
    valid: int = 1000,
    test: int = 1000,
    codebase: int = 0,
    seed: int = 0,
    workers: int = 2,
    map_chunks: MapChunks | None = None,
    strip_names: bool = True,
    overwrite: bool = False,
    drop_repeated_queries: bool = False,
    keep_published_test: bool = True,
    apart_from: Corpus | None = None,
    recipe: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Mine at most `limit` pairs of each language from its `sources` and build the corpus `out` of them. Pairs go to
    disk as they are mined: however many there are, memory holds a few files' worth.

    Files of projects in CodeSearchNet's validation and test splits are left out without `keep_published_test`; with it
    a note names them. `apart_from` is a corpus that what is trained here is to be measured on: files of the projects of
    its valid and test are left out, and functions that repeat one of theirs.

    The other options are those of `mine_sources` and `build_corpus`; `recipe` and `notes` are added to what they were
    given. `progress` counts the files of all languages.

    Raises:
        CorpusError: `out` is taken, the sources have no pairs or too few to split, or `apart_from` evaluates none of
            their languages.
    """
    check_output(out, overwrite=overwrite)
    asked: dict[str, Any] = {"limit": limit, "valid": valid, "test": test, "codebase": codebase, "seed": seed}
    known: list[str] = []
    if apart_from is not None:
        check_evaluated(list(sources), apart_from, "in the sources")
        sources, met = _without(
            sources, _evaluated(apart_from), f"valid or test of {apart_from.location}", "in_apart_from"
        )
        known += met.notes
        asked |= {"apart_from": apart_from.fingerprint, "in_apart_from": met.packages}
    reason = None if keep_published_test else "in_published_test"
    sources, met = _without(sources, codesearchnet(), PUBLISHED, reason)
    if met.packages:
        known += met.notes
        asked |= {"keep_published_test": keep_published_test, "in_published_test": met.packages}
    if any(LANGUAGES[language].without_name for language in sources):
        asked["strip_names"] = strip_names
    tally = Tally()
    skipped: Counter[str] = Counter()
    total = sum(len(each.sources) for each in sources.values())
    files = pairs = 0

    def advance(done: int, _: int, kept: int) -> None:
        if progress is not None:
            progress(files + done, total, pairs + kept)

    with Spool(out) as spool:
        for language, found in sources.items():
            kept = 0
            for batch in mine_sources(
                found.sources,
                LANGUAGES[language],
                limit=limit,
                seed=seed,
                workers=workers,
                map_chunks=map_chunks,
                strip_names=strip_names,
                progress=advance,
            ):
                tally.add(batch)
                spool.add(batch.pairs)
                kept += len(batch.pairs)
            files, pairs = files + len(found.sources), pairs + kept
            skipped += found.skipped
        said = dict.fromkeys(note for each in sources.values() for note in each.notes)
        return build_corpus(
            spool,
            out,
            valid=valid,
            test=test,
            codebase=codebase,
            seed=seed,
            overwrite=overwrite,
            drop_repeated_queries=drop_repeated_queries,
            recipe={**asked, "files": total, "files_read": tally.files, **(recipe or {})},
            dropped={"files": skipped + tally.dropped_files, "functions": tally.dropped_functions},
            examples=tally.examples,
            notes=(*notes, *known, *said),
            apart_from=apart_from,
        )


@dataclass(frozen=True)
class _Met:
    """Packages of known projects, language -> package -> project, and a note for each language that has some."""

    packages: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...]


def _evaluated(corpus: Corpus) -> dict[str, Projects]:
    """The projects of a corpus' valid and test, by language."""
    return {
        language: Projects(language, {name for split in EVALUATION for name in counts.packages.get(split, ()) if name})
        for language, counts in corpus.manifest.languages.items()
    }


def _without(
    sources: Mapping[str, SourceSet], projects: Mapping[str, Projects], where: str, reason: str | None
) -> tuple[Mapping[str, SourceSet], _Met]:
    """The sources without those of projects that stand in `where`, counted under a reason, and which these are; without
    a reason all sources."""
    parted = {name: part(found, projects[name]) for name, found in sources.items() if name in projects}
    parted = {name: each for name, each in parted.items() if each.files}
    met = _Met(
        {name: each.packages for name, each in parted.items()},
        tuple(describe(name, each, where, kept=reason is None) for name, each in parted.items()),
    )
    if reason is None:
        return sources, met
    rest = {
        name: replace(each.rest, skipped=each.rest.skipped + Counter({reason: each.files}))
        for name, each in parted.items()
    }
    return {**sources, **rest}, met


def import_corpus(
    path: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    language: str | None = None,
    clean: bool | None = None,
    columns: Mapping[str, str] | None = None,
    max_bad_share: float = 0.01,
    valid: int = 1000,
    test: int = 1000,
    codebase: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    drop_repeated_queries: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Manifest:
    """Build the corpus `out` from files of pairs at `path`, keeping their splits where they have them. Pairs go to
    disk as they are read.

    The options are those of `open_pairs` and `build_corpus`; `recipe` is added to what they were given.

    Raises:
        CorpusError: `out` is taken, or the input cannot be read, has too many bad lines, or too few pairs.
    """
    check_output(out, overwrite=overwrite)
    stream = open_pairs(
        path, format=format, language=language, clean=clean, columns=columns, max_bad_share=max_bad_share
    )
    asked = {"valid": valid, "test": test, "codebase": codebase, "seed": seed, "clean": clean}
    with Spool(out) as spool:
        for split, pair in stream:
            spool.add((pair,), split)
        return build_corpus(
            spool,
            out,
            valid=valid,
            test=test,
            codebase=codebase,
            seed=seed,
            overwrite=overwrite,
            drop_repeated_queries=drop_repeated_queries,
            recipe={**asked, **stream.recipe, "lines": stream.lines, **(recipe or {})},
            dropped={"lines": stream.bad, "records": stream.dropped},
            examples=stream.examples,
        )
