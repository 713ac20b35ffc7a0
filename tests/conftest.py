"""Fixtures that several rooms share: a small corpus that can be learned, made once per run."""

from __future__ import annotations

import dataclasses
import os
import random
from collections import Counter
from pathlib import Path

import pytest

# No test asks the network, and those that run at once do not wait for one another's threads; set before any library
# reads it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from softnce_ray.corpus import Pair, build_corpus

pytest_plugins = ["servers"]

# A query's word and the word that code has in its place: a text and its code share none, so that what an
# encoder finds it has learned.
VERBS = {
    "parse": "decode",
    "remove": "purge",
    "count": "tally",
    "find": "locate",
    "write": "dump",
    "merge": "combine",
    "check": "validate",
    "sort": "arrange",
    "split": "partition",
    "copy": "clone",
}
NOUNS = {
    "date": "calendar",
    "price": "cost",
    "name": "label",
    "address": "street",
    "colour": "shade",
    "size": "extent",
    "message": "mail",
    "picture": "image",
    "password": "secret",
    "number": "digit",
}
OWNERS = {
    "customer": "buyer",
    "server": "host",
    "file": "document",
    "student": "pupil",
    "robot": "machine",
    "garden": "yard",
    "river": "stream",
    "teacher": "tutor",
    "lamp": "light",
    "engine": "motor",
}
_PACKAGES = {"large": 160, **{f"small{number}": 14 for number in range(10)}}


def _pair(verb: str, noun: str, owner: str, package: str, number: int) -> Pair:
    act, thing, holder = VERBS[verb], NOUNS[noun], OWNERS[owner]
    name = f"{act}_{thing}_of_{holder}"
    code = (
        f"def {name}({holder}s, {thing}Format):\n"
        f"    result = {holder}s.{thing}.{act}({thing}Format)\n"
        f"    return {holder}Result(result)"
    )
    return Pair(
        query=f"{verb.capitalize()} the {noun} of every {owner}.",
        code=code,
        language="python",
        package=package,
        path=f"{package}/module{number % 7}.py",
        line=number + 1,
        name=name,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a slip shows in seconds. Of the slow ones those of the longest files first: two processes that
    share the files then end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (1, -slow[item.path]) if item.get_closest_marker("slow") else (0, 0))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run beside one another and expect the same bits on every machine's number of cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_pairs() -> list[Pair]:
    """300 different pairs of 11 packages: every query and every code occurs once, each word about 30 times."""
    words = [(verb, noun, owner) for verb in VERBS for noun in NOUNS for owner in OWNERS]
    chosen = random.Random(0).sample(words, sum(_PACKAGES.values()))
    packages = [package for package, size in _PACKAGES.items() for _ in range(size)]
    return [_pair(*each, package, number) for number, (each, package) in enumerate(zip(chosen, packages, strict=True))]


@pytest.fixture(scope="session")
def tiny_corpus(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a corpus of `tiny_pairs`, language python: 30 valid and 30 test pairs, some distractors."""
    folder = tmp_path_factory.mktemp("corpora") / "tiny"
    build_corpus(tiny_pairs, folder, valid=30, test=30, codebase=20)
    return folder


@pytest.fixture(scope="session")
def several_right(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a corpus whose queries share codes and have several: of 30 valid and 30 test queries every third has
    the code of the one before, and every fifth is answered by two distractors too."""
    code = [pair.code for pair in tiny_pairs]
    asked = [
        dataclasses.replace(pair, code=code[number - 1] if number % 3 == 2 else pair.code)
        for number, pair in enumerate(tiny_pairs[:60])
    ]
    others = [dataclasses.replace(pair, query="") for pair in tiny_pairs[60:90]]
    answers = {
        pair.id: [others[number % 30].id, others[(number + 1) % 30].id] for number, pair in enumerate(asked[::5])
    }
    splits = {"train": tiny_pairs[90:], "valid": asked[:30], "test": asked[30:], "codebase": others}
    folder = tmp_path_factory.mktemp("corpora") / "several"
    build_corpus(splits, folder, near_duplicate=None, answers={"python": answers})
    return folder


@pytest.fixture(scope="session")
def two_languages(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a corpus of two languages: python has `tiny_pairs`, ruby the last 220 of them."""
    ruby = [dataclasses.replace(pair, language="ruby") for pair in tiny_pairs[80:]]
    folder = tmp_path_factory.mktemp("corpora") / "two"
    build_corpus([*tiny_pairs, *ruby], folder, valid=22, test=22, codebase=20)
    return folder
