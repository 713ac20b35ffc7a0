"""From pairs to a corpus folder: duplicates out, packages split, tables and manifest written at once."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softnce_ray.commands import command
from softnce_ray.corpus import cleaning
from softnce_ray.corpus.checking import Contents, examine
from softnce_ray.corpus.choosing import Options, Splits, choose
from softnce_ray.corpus.duplicates import NEAR_DUPLICATE, SHINGLE_TOKENS
from softnce_ray.corpus.manifest import (
    MANIFEST_NAME,
    UNKNOWN_LICENCE,
    DroppedExample,
    Manifest,
    manifest_text,
    read_manifest,
)
from softnce_ray.corpus.mining import Example
from softnce_ray.corpus.pairs import CorpusError, Pair
from softnce_ray.corpus.qrels import write_qrels
from softnce_ray.corpus.spool import Part, Spool, take_rows
from softnce_ray.corpus.store import Corpus, digests_of, fingerprint, tables
from softnce_ray.corpus.writing import write_language, write_meanings
from softnce_ray.folders import appearing, others
from softnce_ray.storage import local


def check_output(out: str | Path, *, overwrite: bool = False) -> None:
    """See before any work that a corpus may be written to `out`.

    Raises:
        CorpusError: something is there already and `overwrite` is off, or it is not a corpus and nothing else.
        StorageError: `out` lies in an object store or below a file.
    """
    path = local(
        out, "--out", f"make it in a folder, and then `{command('softnce-ray', 'corpus', 'copy', 'FOLDER', out)}`"
    )
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if not overwrite:
        raise CorpusError(
            f"expected nothing at {path}, got a file or folder: give another --out, or --overwrite to replace it"
        )
    try:
        manifest = read_manifest(path)
    except CorpusError as error:
        raise CorpusError(
            f"expected a corpus to overwrite at {path}, got something else, which is left alone: "
            f"give another --out ({error})"
        ) from error
    if more := others(path, {MANIFEST_NAME, *tables(manifest)}.__contains__):
        raise CorpusError(
            f"expected a corpus alone to overwrite at {path}, got what is no part of it: {more}: move that elsewhere, "
            "or give another --out"
        )


def build_corpus(
    pairs: Iterable[Pair] | Mapping[str, Iterable[Pair]] | Spool,
    out: str | Path,
    *,
    valid: int = 1000,
    test: int = 1000,
    codebase: int = 0,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    near_duplicate: float | None = NEAR_DUPLICATE,
    drop_repeated_queries: bool = False,
    dropped: Mapping[str, Mapping[str, int]] | None = None,
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
    licence: str = UNKNOWN_LICENCE,
    meanings: Mapping[str, Mapping[str, int]] | None = None,
    apart_from: Corpus | None = None,
    answers: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> Manifest:
    """Write the corpus folder `out` and return its manifest.

    `pairs` are split here by package, or come split: a mapping of `train`, `valid`, `test`, `codebase` to pairs keeps
    its splits, and valid and test are kept whole. Pairs are read once and kept on disk beside `out`, so that any
    iterator will do; a `Spool` is for a caller who knows only when all pairs are there what else to say of them. A
    package goes to the same split in every language. `valid` and `test` are the pairs wanted per language, at most a
    tenth of all of them; `codebase` is how many distractors to keep of the evaluation packages' surplus. With fewer
    than three packages a split by package is impossible: it is then by file for that language, and a note says so.
    Evaluation pairs that repeat a training code (equal, or with a Jaccard index of 5-token shingles of at least
    `near_duplicate`; None: only equal) are dropped; where pairs come split, it is the training pairs that are. With
    `drop_repeated_queries` go evaluation pairs whose query a training pair has too. Pairs whose code repeats, in the
    same way, one of valid or test of `apart_from` are dropped; of pairs that come split, those of training. `dropped`
    (stage -> reason -> count), `examples` and `notes` are what mining or reading found, for the manifest, and `recipe`
    is what was asked.
    `meanings` (language -> pair id -> number of 0 or more) says which pairs answer the same queries; it is
    for evaluation, so what it says of pairs that are in training, or were dropped, is not written.
    `answers` (language -> id of a pair of valid or test -> ids of pairs of valid, test or codebase) is for pairs that
    come split: whose codes answer the query too. Equal codes of evaluation pairs are one code, which is right for the
    queries of all.
    The folder appears complete or not at all, and equal pairs, meanings, answers, sizes and seed give an equal
    fingerprint.

    Raises:
        CorpusError: `out` is taken; there are no pairs, or too few to split; a number is negative; a split
            or a language has an impossible name; `meanings` or `answers` name a language or an id that no pair has,
            or there are meanings of a language whose queries do not each have a code of their own.
    """
    check_output(out, overwrite=overwrite)
    if valid < 0 or test < 0 or codebase < 0:
        raise CorpusError(f"expected 0 or more pairs, got valid={valid}, test={test}, codebase={codebase}")
    if not isinstance(pairs, Spool):
        with Spool(out) as spool:
            for split, rows in (pairs if isinstance(pairs, Mapping) else {None: pairs}).items():
                spool.add(rows, split)
            return build_corpus(
                spool,
                out,
                valid=valid,
                test=test,
                codebase=codebase,
                seed=seed,
                recipe=recipe,
                overwrite=overwrite,
                near_duplicate=near_duplicate,
                drop_repeated_queries=drop_repeated_queries,
                dropped=dropped,
                examples=examples,
                notes=notes,
                licence=licence,
                meanings=meanings,
                apart_from=apart_from,
                answers=answers,
            )
    parts = pairs.parts()
    counts = {stage: dict(sorted(reasons.items())) for stage, reasons in (dropped or {}).items()}
    if not parts:
        seen = "; ".join(f"{stage}: {reasons}" for stage, reasons in counts.items()) or "nothing was read"
        raise CorpusError(f"expected pairs to build a corpus from, got none ({seen}): give other sources")
    _check_meanings(meanings or {}, parts)
    if unknown := set(answers or {}) - set(parts if pairs.is_split else ()):
        raise CorpusError(
            f"expected answers for languages of pairs that come split, got {min(unknown)!r}: give pairs of it in "
            "splits, or leave its answers out"
        )
    choice = choose(pairs, Options(valid, test, codebase, seed, near_duplicate, drop_repeated_queries, apart_from))
    if choice.drops:
        counts["pairs"] = dict(sorted(choice.drops.items()))
    rules = {
        **cleaning.RULES,
        "near_duplicate": near_duplicate,
        "shingle_tokens": SHINGLE_TOKENS,
        "split": "as given" if pairs.is_split else "by package",
        **({"split_by_file": choice.by_file} if choice.by_file else {}),
        **({"drop_repeated_queries": True} if drop_repeated_queries else {}),
    }
    by_package = frozenset() if pairs.is_split else frozenset(choice.splits) - set(choice.by_file)
    with appearing(Path(out), may_go=lambda there: check_output(there, overwrite=overwrite)) as folder:
        languages = {
            name: write_language(folder / name, splits, pairs.packages) for name, splits in choice.splits.items()
        }
        for language, splits in choice.splits.items() if pairs.is_split else ():
            digest = write_qrels(folder / language, splits, parts[language], (answers or {}).get(language, {}))
            if digest is not None and meanings and language in meanings:
                raise CorpusError(
                    f"{language}: expected queries of valid and test with a code of their own each where meanings are "
                    "given, got some that share one or have several: leave meanings out"
                )
            languages[language] = languages[language].model_copy(update={"qrels": digest})
        for language, groups in (meanings or {}).items():
            digest = write_meanings(folder / language, list(choice.splits[language]), groups)
            languages[language] = languages[language].model_copy(update={"meanings": digest})
        manifest = Manifest(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            fingerprint=fingerprint({language: digests_of(each) for language, each in languages.items()}),
            languages=languages,
            dropped=counts,
            examples=tuple(DroppedExample(reason=e.reason, path=e.path, line=e.line) for e in examples),
            notes=(*notes, *choice.notes, *_shortfalls(choice.splits, valid, test, is_split=pairs.is_split)),
            rules=rules,
            recipe=dict(recipe or {}),
            licence=licence,
            findings=examine(_contents(choice.splits, pairs.packages), by_package=by_package),
        )
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
    return manifest


def _shortfalls(languages: Mapping[str, Splits], valid: int, test: int, *, is_split: bool) -> list[str]:
    """A note for each evaluation split with fewer pairs than were asked, or with none as it was given."""
    notes = []
    for language, splits in languages.items():
        for split, asked in (("valid", valid), ("test", test)):
            pairs = len(splits[split].queries) if split in splits else 0
            if asked and not pairs:
                notes.append(f"{language}: no pair in {split}: no study can be run on this language")
            elif pairs < asked and not is_split:
                notes.append(
                    f"{language}: {pairs:,} of {asked:,} asked pairs in {split}: it gets at most a tenth of all, "
                    "in whole packages, without repeats of training"
                )
    return notes


def _contents(languages: Mapping[str, Splits], packages: Sequence[str]) -> dict[str, dict[str, Contents]]:
    return {
        language: {
            split: Contents(each.queries, each.codes, frozenset(packages[n] for n in np.unique(each.packages)))
            for split, each in splits.items()
        }
        for language, splits in languages.items()
    }


def _check_meanings(meanings: Mapping[str, Mapping[str, int]], given: Mapping[str, Mapping[str | None, Part]]) -> None:
    for language, groups in meanings.items():
        if language not in given:
            raise CorpusError(
                f"expected meanings for languages of {', '.join(sorted(given))}, got {language!r}: "
                "give pairs of it, or leave its meanings out"
            )
        unknown = set(groups)
        for part in given[language].values():
            for rows in take_rows(part.file, np.arange(len(part)), ["id"]):
                unknown.difference_update(rows.column("id").to_pylist())
        if unknown:
            raise CorpusError(
                f"{language}: expected meanings for ids of pairs, got {len(unknown)} of no pair, as {min(unknown)!r}: "
                "take the ids from the pairs that are given"
            )
        wrong = sorted(value for value in groups.values() if not 0 <= value < 2**31)
        if wrong:
            raise CorpusError(f"{language}: expected meanings of 0 to {2**31 - 1}, got {wrong[0]}: number them from 0")
