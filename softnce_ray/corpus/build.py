"""From pairs to a corpus folder: duplicates out, packages split, tables and manifest written at once."""

from __future__ import annotations

import datetime
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from softnce_ray.corpus import cleaning
from softnce_ray.corpus.duplicates import (
    NEAR_DUPLICATE,
    SHINGLE_TOKENS,
    evaluation_duplicates,
    normalise_code,
    normalise_query,
)
from softnce_ray.corpus.mining import Example
from softnce_ray.corpus.pairs import LANGUAGE_NAME, SPLITS, CorpusError, Pair, pairs_to_table
from softnce_ray.corpus.splitting import assign_units, evaluation_size
from softnce_ray.corpus.store import (
    MANIFEST_NAME,
    MEANINGS,
    UNKNOWN_LICENCE,
    DroppedExample,
    LanguageCounts,
    Manifest,
    fingerprint,
    meanings_digest,
    meanings_to_table,
    read_manifest,
    table_digest,
)

_EVALUATION = ("test", "valid")  # test comes first: of two equal functions it keeps its own
_MANY = 0.1

Splits = dict[str, list[Pair]]


@dataclass(frozen=True)
class _Options:
    valid: int
    test: int
    codebase: int
    seed: int
    near_duplicate: float | None


def check_output(out: str | Path, *, overwrite: bool = False) -> None:
    """See before any work that a corpus may be written to `out`.

    Raises:
        CorpusError: something is there already and `overwrite` is off, or it is not a corpus.
    """
    path = Path(out)
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if not overwrite:
        raise CorpusError(
            f"expected nothing at {path}, got a file or folder: give another --out, or --overwrite to replace it"
        )
    try:
        read_manifest(path)
    except CorpusError as error:
        raise CorpusError(
            f"expected a corpus to overwrite at {path}, got something else, which is left alone: "
            f"give another --out ({error})"
        ) from error


def build_corpus(
    pairs: Iterable[Pair] | Mapping[str, Iterable[Pair]],
    out: str | Path,
    *,
    valid: int = 1000,
    test: int = 1000,
    codebase: int = 0,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    near_duplicate: float | None = NEAR_DUPLICATE,
    dropped: Mapping[str, Mapping[str, int]] | None = None,
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
    licence: str = UNKNOWN_LICENCE,
    meanings: Mapping[str, Mapping[str, int]] | None = None,
) -> Manifest:
    """Write the corpus folder `out` and return its manifest.

    `pairs` are split here by package, or come split: a mapping of `train`, `valid`, `test`, `codebase` to
    pairs keeps its splits. `valid` and `test` are the pairs wanted per language, at most a tenth of all of
    them; `codebase` is how many distractors to keep of the evaluation packages' surplus. With fewer than
    three packages a split by package is impossible: it is then by file, and a note says so. Evaluation
    pairs that repeat a training code (equal, or with a Jaccard index of 5-token shingles of at least
    `near_duplicate`; None: only equal) are dropped. `dropped` (stage -> reason -> count), `examples` and
    `notes` are what mining or reading found, for the manifest, and `recipe` is what was asked.
    `meanings` (language -> pair id -> number of 0 or more) says which pairs answer the same queries; it is
    for evaluation, so what it says of pairs that are in training, or were dropped, is not written. The
    folder appears complete or not at all, and equal pairs, meanings, sizes and seed give an equal
    fingerprint.

    Raises:
        CorpusError: `out` is taken; there are no pairs, or too few to split; a number is negative; a split
            or a language has an impossible name; `meanings` names a language or an id that no pair has.
    """
    check_output(out, overwrite=overwrite)
    options = _Options(valid, test, codebase, seed, near_duplicate)
    if valid < 0 or test < 0 or codebase < 0:
        raise CorpusError(f"expected 0 or more pairs, got valid={valid}, test={test}, codebase={codebase}")
    given, is_split = _by_language(pairs)
    counts = {stage: dict(sorted(reasons.items())) for stage, reasons in (dropped or {}).items()}
    if not given:
        seen = "; ".join(f"{stage}: {reasons}" for stage, reasons in counts.items()) or "nothing was read"
        raise CorpusError(f"expected pairs to build a corpus from, got none ({seen}): give other sources")
    _check_meanings(meanings or {}, given)
    said = list(notes)
    pair_drops: Counter[str] = Counter()
    built: dict[str, Splits] = {}
    for language in sorted(given):
        splits = {split: _without_repeats(rows, pair_drops) for split, rows in given[language].items()}
        if is_split:
            _note_shared_packages(language, splits, said)
        else:
            splits = _split(language, splits["train"], options, said)
        built[language] = _decontaminated(splits, is_split, options, pair_drops)
    if pair_drops:
        counts["pairs"] = dict(sorted(pair_drops.items()))
    rules = {
        **cleaning.RULES,
        "near_duplicate": near_duplicate,
        "shingle_tokens": SHINGLE_TOKENS,
        "split": "as given" if is_split else "by package",
    }
    with _replacing(Path(out)) as folder:
        languages = {name: _write_language(folder / name, splits) for name, splits in built.items()}
        for language, groups in (meanings or {}).items():
            digest = _write_meanings(folder / language, built[language], groups)
            languages[language] = languages[language].model_copy(update={"meanings": digest})
        manifest = Manifest(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            fingerprint=fingerprint({language: _digests(each) for language, each in languages.items()}),
            languages=languages,
            dropped=counts,
            examples=tuple(DroppedExample(reason=e.reason, path=e.path, line=e.line) for e in examples),
            notes=tuple(said),
            rules=rules,
            recipe=dict(recipe or {}),
            licence=licence,
        )
        (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _by_language(pairs: Iterable[Pair] | Mapping[str, Iterable[Pair]]) -> tuple[dict[str, Splits], bool]:
    """language -> split -> pairs; pairs without a split are under `train` for now."""
    is_split = isinstance(pairs, Mapping)
    parts: Mapping[str, Iterable[Pair]] = pairs if isinstance(pairs, Mapping) else {"train": pairs}
    result: dict[str, Splits] = {}
    for split, rows in parts.items():
        if split not in SPLITS:
            raise CorpusError(f"expected splits of {', '.join(SPLITS)}, got {split!r}")
        for pair in rows:
            result.setdefault(pair.language, {}).setdefault(split, []).append(pair)
    for language in result:
        if not LANGUAGE_NAME.fullmatch(language):
            raise CorpusError(f"expected a language of small letters and digits, got {language!r}: correct the input")
    return result, is_split


def _without_repeats(rows: Sequence[Pair], drops: Counter[str]) -> list[Pair]:
    seen: set[tuple[str, str]] = set()
    kept = []
    for pair in rows:
        key = (normalise_query(pair.query), normalise_code(pair.code))
        if key in seen:
            drops["exact_duplicate"] += 1
        else:
            seen.add(key)
            kept.append(pair)
    return kept


def _note_shared_packages(language: str, splits: Splits, notes: list[str]) -> None:
    train = {pair.package for pair in splits.get("train", ())} - {""}
    for split in _EVALUATION:
        shared = train & {pair.package for pair in splits.get(split, ())}
        if shared:
            notes.append(f"{language}: {len(shared)} packages of {split} are also in train, as the splits were given")


def _split(language: str, rows: list[Pair], options: _Options, notes: list[str]) -> Splits:
    """Pairs to splits by package, more than asked in the evaluation splits."""
    asked = {"test": options.test, "valid": options.valid}
    targets = {split: evaluation_size(asked[split], len(rows)) for split in _EVALUATION}
    needed = 1 + sum(target > 0 for target in targets.values())
    units = [pair.package for pair in rows]
    packages = len(set(units))
    if packages < needed:
        units = [f"{pair.package}/{pair.path}" for pair in rows]
        notes.append(
            f"{language}: {packages} package(s) cannot make {needed} splits, so the split is by file: "
            "evaluation functions come from projects seen in training, which flatters the figures"
        )
        if len(set(units)) < needed:
            raise CorpusError(
                f"expected functions of at least {needed} files for {needed} splits, got {len(set(units))}: "
                "give more sources, or ask for no valid and test pairs"
            )
    assigned = assign_units(Counter(units), targets, seed=options.seed)
    splits: Splits = {split: [] for split in ("train", *_EVALUATION)}
    for pair, unit in zip(rows, units, strict=True):
        splits[assigned[unit]].append(pair)
    surplus = sum(len(splits[split]) - targets[split] for split in _EVALUATION)
    if surplus > _MANY * len(rows):
        notes.append(
            f"{language}: packages are few and large: {surplus} of {len(rows)} pairs belong to evaluation "
            "packages but are more than was asked, and cannot be trained on"
        )
    return splits


def _decontaminated(splits: Splits, is_split: bool, options: _Options, drops: Counter[str]) -> Splits:
    """Evaluation without repeats of training and of itself, cut to size; distractors that are no
    answers."""
    train = splits.get("train", [])
    evaluation = [(split, pair) for split in _EVALUATION for pair in splits.get(split, ())]
    codes = [normalise_code(pair.code) for _, pair in evaluation]
    of_train, of_earlier = evaluation_duplicates(
        codes, [normalise_code(pair.code) for pair in train], threshold=options.near_duplicate
    )
    drops["evaluation_repeats_train"] += int(of_train.sum())
    drops["evaluation_repeats_evaluation"] += int(of_earlier.sum())
    kept: Splits = {split: [] for split in _EVALUATION}
    for (split, pair), repeats in zip(evaluation, of_train | of_earlier, strict=True):
        if not repeats:
            kept[split].append(pair)
    distractors = list(splits.get("codebase", ()))
    if not is_split:
        total = sum(map(len, splits.values()))
        surplus: list[Pair] = []
        for split, asked in (("test", options.test), ("valid", options.valid)):
            kept[split], rest = _sample(kept[split], evaluation_size(asked, total), options.seed)
            surplus.extend(rest)
        distractors, left_out = _sample(surplus, options.codebase, options.seed)
        drops["surplus_of_evaluation_packages"] += len(left_out)
    answers = {normalise_code(pair.code) for rows in kept.values() for pair in rows}
    others = [pair for pair in distractors if normalise_code(pair.code) not in answers]
    drops["distractor_is_an_answer"] += len(distractors) - len(others)
    result = {"train": train, "valid": kept["valid"], "test": kept["test"], "codebase": others}
    for reason in [reason for reason, count in drops.items() if not count]:
        del drops[reason]
    return {split: rows for split, rows in result.items() if rows or split != "codebase"}


def _sample(rows: list[Pair], size: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """A seeded sample in the rows' order, and the rest."""
    chosen = set(random.Random(seed).sample(range(len(rows)), min(size, len(rows))))
    return (
        [pair for index, pair in enumerate(rows) if index in chosen],
        [pair for index, pair in enumerate(rows) if index not in chosen],
    )


def _write_language(folder: Path, splits: Splits) -> LanguageCounts:
    folder.mkdir(parents=True)
    digests = {}
    for split, rows in splits.items():
        table = pairs_to_table(rows)
        digests[split] = table_digest(table)
        pq.write_table(table, folder / f"{split}.parquet", compression="zstd")
    queries = {split: [normalise_query(pair.query) for pair in rows] for split, rows in splits.items()}
    in_train = Counter(queries["train"])
    return LanguageCounts(
        pairs={split: len(rows) for split, rows in splits.items()},
        packages={name: dict(sorted(Counter(p.package for p in rows).items())) for name, rows in splits.items()},
        train_pairs_sharing_query=sum(count for count in in_train.values() if count > 1),
        queries_in_train={name: sum(query in in_train for query in queries[name]) for name in _EVALUATION},
        digests=digests,
    )


def _check_meanings(meanings: Mapping[str, Mapping[str, int]], given: Mapping[str, Splits]) -> None:
    for language, groups in meanings.items():
        if language not in given:
            raise CorpusError(
                f"expected meanings for languages of {', '.join(sorted(given))}, got {language!r}: "
                "give pairs of it, or leave its meanings out"
            )
        known = {pair.id for rows in given[language].values() for pair in rows}
        unknown = sorted(groups.keys() - known)
        if unknown:
            raise CorpusError(
                f"{language}: expected meanings for ids of pairs, got {len(unknown)} of no pair, as {unknown[0]!r}: "
                "take the ids from the pairs that are given"
            )
        wrong = sorted(value for value in groups.values() if not 0 <= value < 2**31)
        if wrong:
            raise CorpusError(f"{language}: expected meanings of 0 to {2**31 - 1}, got {wrong[0]}: number them from 0")


def _write_meanings(folder: Path, splits: Splits, groups: Mapping[str, int]) -> str:
    """Write what is known of evaluation pairs, and return its digest."""
    ids = {pair.id for split, rows in splits.items() if split != "train" for pair in rows}
    # An id stands for the contents of a pair, which can also be in train: then nothing is said of it.
    ids -= {pair.id for pair in splits.get("train", ())}
    known = {identity: meaning for identity, meaning in groups.items() if identity in ids}
    pq.write_table(meanings_to_table(known), folder / f"{MEANINGS}.parquet", compression="zstd")
    return meanings_digest(known)


def _digests(counts: LanguageCounts) -> dict[str, str]:
    return counts.digests if counts.meanings is None else {**counts.digests, MEANINGS: counts.meanings}


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of `out` when the block ends well, and goes when it does
    not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # A fresh inner folder, since the temporary one is readable by its owner alone.
    holder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    new, old = holder / "new", holder / "old"
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
