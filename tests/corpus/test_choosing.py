"""What goes where: the same rows as ever for one language, the same split of a package in all of several."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softnce_ray.corpus import Corpus, Pair, build_corpus
from softnce_ray.corpus.duplicates import as_hashes, evaluation_duplicates, first_equal, occur_in, text_hash
from softnce_ray.corpus.splitting import assign_everywhere


def varied(number: int) -> list[Pair]:
    """Pairs of 40 packages: each fourth repeats another one's code, nearly or but for its layout, or its query."""
    rng = random.Random(0)
    made: list[Pair] = []
    for index in range(number):
        names = [f"{word}{rng.randrange(10**6)}" for word in ("alpha", "beta", "gamma")]
        lines = [f"    {rng.choice(names)} = {rng.choice(names)} + step{rng.randrange(10**6)}" for _ in range(12)]
        code = "\n".join([f"def f{index}({', '.join(names)}):", *lines, f"    return {names[0]}"])
        query = f"Compute the value number {index}"
        package = f"package{min(rng.randrange(60), 39)}"
        if index % 4 == 3:
            other = rng.choice(made)
            kind = rng.randrange(4)
            if kind == 0:
                query, code = other.query.upper() + "!", other.code.replace("    ", "  ")
            elif kind == 1:
                code = other.code.replace("    ", "\t")
            elif kind == 2:
                code = other.code + " + 1"
            else:
                query = other.query
        made.append(Pair(query, code, "python", package, f"{package}/file{index % 50}.py", index, f"f{index}"))
    return made


def cases() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    made = varied(1000)
    yield "split", made, dict(valid=60, test=50, codebase=20, seed=1)
    yield "given", {"train": made[:600], "valid": made[600:700], "test": made[700:800], "codebase": made[800:]}, {}
    yield "equal_only", made, dict(valid=40, test=90, near_duplicate=None)
    yield "by_file", [pair for pair in made if pair.package == "package39"], dict(valid=10, test=10, codebase=5)


# Made by version 0.1.0, which held all pairs in memory and compared every evaluation code with every training code; but
# `given`, whose evaluation is whole since.
FINGERPRINTS = {
    "split": "2f1a7eed6fd54ac88f719b1b1b0653ab56c03776e3d96f9f6714be13b74f8692",
    "given": "2396fc9be7f596a0e0f4974de1c21a950a56d5beefe59c9e9a4b35523d860706",
    "equal_only": "104e687966bf621d87ff5f0bb97c486b0beb6492f99f4db50f2617cff5e3d201",
    "by_file": "bd98629ede27188793d9ccaceaf86c24516bf2a509b1e6644b7eef1932083382",
}


@pytest.mark.parametrize(("name", "given", "options"), list(cases()), ids=list(FINGERPRINTS))
def test_equal_input_gives_the_fingerprint_that_it_always_gave(tmp_path, name, given, options):
    assert build_corpus(given, tmp_path / "c", **options).fingerprint == FINGERPRINTS[name]
    assert Corpus.open(tmp_path / "c").fingerprint == FINGERPRINTS[name]


def test_a_package_has_the_same_split_in_every_language(tmp_path):
    pairs = [
        replace(pair, language=language, code=f"{pair.code} # {language}")
        for pair in varied(900)
        for language in (("python", "go") if pair.line % 2 else ("python", "ruby"))
    ]
    manifest = build_corpus(pairs, tmp_path / "c", valid=40, test=40)
    assert set(manifest.languages) == {"go", "python", "ruby"}
    split_of: dict[str, set[str]] = {}
    for counts in manifest.languages.values():
        assert all(counts.pairs[split] for split in ("train", "valid", "test"))
        for split, packages in counts.packages.items():
            for package in packages:
                split_of.setdefault(package, set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())


def test_the_language_with_the_fewest_packages_chooses_first():
    sizes = {"many": {f"p{number}": 3 for number in range(30)}, "few": {"p1": 4, "p2": 1, "p3": 1}}
    targets = {"many": {"test": 9, "valid": 9}, "few": {"test": 1, "valid": 1}}
    for seed in range(20):
        assigned = assign_everywhere(sizes, targets, seed=seed)
        assert assigned["p0"] == assigned["p1"] == "train"  # the largest of each
        assert {assigned["p2"], assigned["p3"]} == {"test", "valid"}


def test_a_language_that_gets_no_package_for_a_split_says_so(tmp_path):
    # p1 is the largest of one language, p2 of the other: two packages are left for one split of the other language.
    def pair(number: int, language: str, package: str) -> Pair:
        code = f"def f{number}(a{number}):\n    v{number} = a{number}\n    return v{number}"
        return Pair(f"Give {language} {number} back", code, language, package, f"{package}.x", 1, f"f{number}")

    sizes = {"go": {"p1": 9, "p2": 3, "p3": 2}, "python": {"p2": 90, "p4": 5, "p5": 5}}
    rows = [(name, package) for name, each in sizes.items() for package, size in each.items() for _ in range(size)]
    pairs = [pair(number, *row) for number, row in enumerate(rows)]
    notes = build_corpus(pairs, tmp_path / "c", valid=1, test=1).notes
    assert any(note.startswith("go: no package is left for") for note in notes)


def test_evaluation_queries_that_are_in_train_are_dropped_on_request(tmp_path):
    made = varied(8)
    given = {
        "train": made[:2],
        "test": [replace(made[4], query=made[0].query.upper()), made[5]],
        "valid": [replace(made[6], query=made[1].query + "!")],
    }
    kept = build_corpus(given, tmp_path / "kept")
    assert kept.languages["python"].queries_in_train == {"test": 1, "valid": 1}
    assert "drop_repeated_queries" not in kept.rules
    dropped = build_corpus(given, tmp_path / "dropped", drop_repeated_queries=True)
    assert dropped.languages["python"].pairs == {"train": 2, "valid": 0, "test": 1}
    assert dropped.languages["python"].queries_in_train == {"test": 0, "valid": 0}
    assert dropped.dropped["pairs"] == {"evaluation_query_in_train": 2}
    assert dropped.rules["drop_repeated_queries"] is True


def jaccard(one: str, other: str) -> float:
    """By the definition, on words."""

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split(" ")
        width = min(5, len(words))
        return {tuple(words[start : start + width]) for start in range(len(words) - width + 1)}

    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_comparing_all_with_all(threshold):
    rng = random.Random(1)
    texts = [" ".join(rng.choice("abcdefgh") for _ in range(rng.randrange(1, 40))) for _ in range(60)]
    for _ in range(140):  # changed copies, of all degrees
        words = rng.choice(texts).split(" ")
        for _ in range(rng.randrange(4)):
            words[rng.randrange(len(words))] = rng.choice("abcdefghij")
        texts.append(" ".join(words))
    evaluation, train = texts[::2], texts[1::2]
    of_train, of_earlier = evaluation_duplicates(iter(evaluation), iter(train), threshold=threshold)
    near = [any(jaccard(one, other) >= threshold for other in train) for one in evaluation]
    assert of_train.tolist() == near
    stays: list[str] = []
    for one, is_near, repeats in zip(evaluation, of_train, of_earlier, strict=True):
        if not is_near:
            assert repeats == any(jaccard(one, other) >= threshold for other in stays)
            if not repeats:
                stays.append(one)


def test_equal_rows_know_the_first_of_them():
    hashes = as_hashes(b"".join(text_hash(text) for text in ["b", "a", "b", "c", "a", "b"]))
    assert first_equal(hashes).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_equal(hashes[:0]).tolist() == []
    assert occur_in(hashes, hashes[1:2]).tolist() == [False, True, False, False, True, False]
    assert occur_in(hashes, np.zeros((0, 2), np.uint64)).tolist() == [False] * 6
