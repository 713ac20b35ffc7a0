"""Which of the pairs that came go into which split: repeats out, packages apart, evaluation clean of training."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from softnce_ray.corpus.duplicates import Hashes, evaluation_duplicates, first_equal, normalise_code, occur_in, repeats
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.splitting import assign_everywhere, assign_units, evaluation_size
from softnce_ray.corpus.spool import Part, Spool, take_rows
from softnce_ray.corpus.store import Corpus

EVALUATION = ("test", "valid")  # test comes first: of two equal functions it keeps its own
_MANY = 0.1

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """What `build_corpus` was asked for."""

    valid: int
    test: int
    codebase: int
    seed: int
    near_duplicate: float | None
    drop_repeated_queries: bool
    apart_from: Corpus | None = None


@dataclass(frozen=True)
class Chosen:
    """Some rows of a part, in the order in which they are to be written."""

    part: Part
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def packages(self) -> npt.NDArray[np.int32]:
        return self.part.packages[self.rows]

    @property
    def queries(self) -> Hashes:
        return self.part.queries[self.rows]

    @property
    def codes(self) -> Hashes:
        return self.part.codes[self.rows]

    def where(self, kept: npt.NDArray[np.bool_]) -> Chosen:
        return Chosen(self.part, self.rows[kept])

    def normalised_codes(self) -> Iterator[str]:
        """The codes, read from disk."""
        for table in take_rows(self.part.file, self.rows, ["code"]):
            yield from map(normalise_code, table.column("code").to_pylist())


Splits = dict[str, Chosen]


@dataclass(frozen=True)
class Choice:
    """What of a spool goes where: language -> split -> pairs.

    `by_file` names the languages that had too few packages to split by them.
    """

    splits: dict[str, Splits]
    drops: Counter[str]
    notes: list[str]
    by_file: list[str]


def choose(spool: Spool, options: Options) -> Choice:
    """Split, without repeats, what a spool holds.

    Raises:
        CorpusError: too few files to split.
    """
    drops: Counter[str] = Counter()
    notes: list[str] = []
    by_file: list[str] = []
    chosen = {}
    if spool.is_split:
        for language, parts in spool.parts().items():
            given = {split: part for split, part in parts.items() if split is not None}
            chosen[language] = _as_given(language, given, options, drops)
            _note_shared_packages(language, chosen[language], spool.packages, notes)
            _note_shared_codes(language, chosen[language], notes)
    else:
        whole = {
            language: _apart(language, _without_repeats(parts[None], drops), options, drops)
            for language, parts in spool.parts().items()
        }
        for language, splits in _split(whole, spool, options, notes, by_file).items():
            chosen[language] = _decontaminated(splits, options, drops)
    return Choice(chosen, +drops, notes, by_file)


def _as_given(language: str, parts: Mapping[str, Part], options: Options, drops: Counter[str]) -> Splits:
    """Splits that others have made. Their evaluation stays whole, pairs that repeat each other too: what repeats it
    leaves training. The codebase has each code once, and no answer.
    """
    splits = {split: Chosen(part, np.arange(len(part))) for split, part in parts.items()}
    nothing = Chosen(next(iter(parts.values())), np.zeros(0, np.int64))
    evaluation = {split: splits.get(split, nothing) for split in EVALUATION}
    train = _without_repeats(parts["train"], drops) if "train" in parts else nothing
    found = repeats(
        (code for chosen in evaluation.values() for code in chosen.normalised_codes()),
        train.normalised_codes(),
        threshold=options.near_duplicate,
    )
    known = found.others_equal | found.others_near
    drops["train_repeats_evaluation"] += int(known.sum())
    train = _apart(language, train.where(~known), options, drops)
    if options.drop_repeated_queries:
        for split, chosen in evaluation.items():
            known = occur_in(chosen.queries, train.queries)
            drops["evaluation_query_in_train"] += int(known.sum())
            evaluation[split] = chosen.where(~known)
    distractors = splits.get("codebase", nothing)
    different = distractors.where(first_equal(distractors.codes) == np.arange(len(distractors)))
    drops["repeated_distractor"] += len(distractors) - len(different)
    return _joined(train, evaluation, different, drops)


def _without_repeats(part: Part, drops: Counter[str]) -> Chosen:
    first = first_equal(np.concatenate([part.queries, part.codes], axis=1))
    rows = np.flatnonzero(first == np.arange(len(part)))
    drops["exact_duplicate"] += len(part) - len(rows)
    return Chosen(part, rows)


def _apart(language: str, chosen: Chosen, options: Options, drops: Counter[str]) -> Chosen:
    """Return the pairs that repeat no evaluation code of `options.apart_from`."""
    corpus = options.apart_from
    if corpus is None or language not in corpus.languages:
        return chosen
    evaluation = (
        normalise_code(code)
        for split in EVALUATION
        for rows in corpus.batches(language, split, ["code"])
        for code in rows.column("code").to_pylist()
    )
    found = repeats(evaluation, chosen.normalised_codes(), threshold=options.near_duplicate)
    known = found.others_equal | found.others_near
    drops["repeats_apart_from"] += int(known.sum())
    return chosen.where(~known)


def _note_shared_packages(language: str, splits: Splits, names: Sequence[str], notes: list[str]) -> None:
    of_split = {split: {names[number] for number in np.unique(each.packages)} for split, each in splits.items()}
    for split in EVALUATION:
        shared = (of_split.get("train", set()) & of_split.get(split, set())) - {""}  # no name says nothing
        if shared:
            notes.append(f"{language}: {len(shared)} packages of {split} are also in train, as the splits were given")


def _note_shared_codes(language: str, splits: Splits, notes: list[str]) -> None:
    codes = np.concatenate([splits[split].codes for split in EVALUATION])
    different = len(np.unique(first_equal(codes)))
    if different < len(codes):
        notes.append(
            f"{language}: the {len(codes):,} queries of valid and test have {different:,} different codes: one of "
            "several queries stands once in the codebase, and is right for each"
        )


def _targets(pairs: int, options: Options) -> dict[str, int]:
    asked = {"test": options.test, "valid": options.valid}
    return {split: evaluation_size(asked[split], pairs) for split in EVALUATION}


def _split(
    languages: Mapping[str, Chosen], spool: Spool, options: Options, notes: list[str], by_file: list[str]
) -> dict[str, Splits]:
    """Pairs to splits by package, more than asked in the evaluation splits; a package has one split, whatever
    language its pairs are of."""
    targets = {language: _targets(len(rows), options) for language, rows in languages.items()}
    needed = {language: 1 + sum(target > 0 for target in each.values()) for language, each in targets.items()}
    names = np.array(spool.packages, dtype=object)
    units = {language: np.unique(rows.packages, return_inverse=True) for language, rows in languages.items()}
    enough = [language for language in languages if len(units[language][0]) >= needed[language]]
    sizes = {
        language: dict(zip(names[units[language][0]], np.bincount(units[language][1]).tolist(), strict=True))
        for language in enough
    }
    assigned = assign_everywhere(sizes, {language: targets[language] for language in enough}, seed=options.seed)
    splits = {}
    for language, rows in languages.items():
        if language in sizes:
            of_unit = [assigned[name] for name in names[units[language][0]]]
            of_row = units[language][1]
        else:
            by_file.append(language)
            packages = len(units[language][0])
            of_unit, of_row = _by_file(language, rows, names, packages, needed[language], targets[language], options)
            notes.append(
                f"{language}: {packages} package(s) cannot make {needed[language]} splits, so the split is by file: "
                "evaluation functions come from projects seen in training, which flatters the figures"
            )
        where = np.array(of_unit)[of_row]
        splits[language] = {split: rows.where(where == split) for split in ("train", *EVALUATION)}
        _note_sizes(language, splits[language], targets[language], len(rows), notes)
    return splits


def _by_file(
    language: str,
    rows: Chosen,
    names: npt.NDArray[np.object_],
    packages: int,
    needed: int,
    targets: Mapping[str, int],
    options: Options,
) -> tuple[list[str], Rows]:
    """The split of every file, and every row's file."""
    numbers: dict[str, int] = {}
    paths = (
        path for table in take_rows(rows.part.file, rows.rows, ["path"]) for path in table.column("path").to_pylist()
    )
    of_row = np.fromiter(
        (
            numbers.setdefault(f"{names[package]}/{path}", len(numbers))
            for package, path in zip(rows.packages.tolist(), paths, strict=True)
        ),
        np.int64,
        len(rows),
    )
    if len(numbers) < needed:
        raise CorpusError(
            f"expected functions of at least {needed} files for {needed} splits, got {len(numbers)}: "
            "give more sources, or ask for no valid and test pairs"
        )
    sizes = dict(zip(numbers, np.bincount(of_row).tolist(), strict=True))
    assigned = assign_units(sizes, targets, seed=options.seed)
    return [assigned[unit] for unit in numbers], of_row


def _note_sizes(language: str, splits: Splits, targets: Mapping[str, int], total: int, notes: list[str]) -> None:
    surplus = sum(len(splits[split]) - targets[split] for split in EVALUATION)
    if surplus > _MANY * total:
        notes.append(
            f"{language}: packages are few and large: {surplus} of {total} pairs belong to evaluation "
            "packages but are more than valid and test take (what was asked, at most a tenth of all), and cannot be "
            "trained on"
        )
    for split in EVALUATION:
        if targets[split] and not len(splits[split]):
            notes.append(
                f"{language}: no package is left for {split}, since a package has the same split in all languages: "
                "give more packages, or build this language by itself"
            )


def _decontaminated(splits: Splits, options: Options, drops: Counter[str]) -> Splits:
    """Evaluation without repeats of training and of itself, cut to size; distractors that are no
    answers."""
    train = splits["train"]
    evaluation = {split: splits[split] for split in EVALUATION}
    of_train, of_earlier = evaluation_duplicates(
        (code for chosen in evaluation.values() for code in chosen.normalised_codes()),
        train.normalised_codes(),
        threshold=options.near_duplicate,
    )
    drops["evaluation_repeats_train"] += int(of_train.sum())
    drops["evaluation_repeats_evaluation"] += int(of_earlier.sum())
    stays = ~(of_train | of_earlier)
    kept: Splits = {}
    start = 0
    for split, chosen in evaluation.items():
        kept[split] = chosen.where(stays[start : start + len(chosen)])
        start += len(chosen)
        if options.drop_repeated_queries:
            known = occur_in(kept[split].queries, train.queries)
            drops["evaluation_query_in_train"] += int(known.sum())
            kept[split] = kept[split].where(~known)
    surplus = []
    for split, target in _targets(sum(map(len, splits.values())), options).items():
        kept[split], rest = _sample(kept[split], target, options.seed)
        surplus.append(rest.rows)
    distractors, left_out = _sample(Chosen(train.part, np.concatenate(surplus)), options.codebase, options.seed)
    drops["surplus_of_evaluation_packages"] += len(left_out)
    return _joined(train, kept, distractors, drops)


def _joined(train: Chosen, evaluation: Mapping[str, Chosen], distractors: Chosen, drops: Counter[str]) -> Splits:
    """All splits, the distractors without those that are an answer; an empty codebase is none."""
    answers = np.concatenate([chosen.codes for chosen in evaluation.values()])
    others = distractors.where(~occur_in(distractors.codes, answers))
    drops["distractor_is_an_answer"] += len(distractors) - len(others)
    result = {"train": train, "valid": evaluation["valid"], "test": evaluation["test"], "codebase": others}
    return {split: chosen for split, chosen in result.items() if len(chosen) or split != "codebase"}


def _sample(chosen: Chosen, size: int, seed: int) -> tuple[Chosen, Chosen]:
    """A seeded sample in the rows' order, and the rest."""
    taken = np.zeros(len(chosen), dtype=bool)
    taken[random.Random(seed).sample(range(len(chosen)), min(size, len(chosen)))] = True
    return chosen.where(taken), chosen.where(~taken)
