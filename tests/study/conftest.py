"""What the tests of a study share: a corpus of synthetic pairs, studies small enough to train in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.corpus.build import build_corpus
from softnce_ray.corpus.pairs import Pair

VERBS = ("parse", "read", "write", "sort", "merge", "close", "open", "count", "split", "join", "load", "send")
NOUNS = ("file", "table", "date", "list", "socket", "image", "header", "token", "matrix", "queue", "path", "user")


def _pair(number: int, chance: random.Random) -> Pair:
    verb, noun, other = chance.choice(VERBS), chance.choice(NOUNS), chance.choice(NOUNS)
    package = f"pack{number % 12}"
    words = [f"{noun}_{chance.randrange(1000)}" for _ in range(4)]
    return Pair(
        query=f"{verb.capitalize()} the {noun} of a {other} for case {number}",
        code=(
            f"def {verb}_{noun}_{number}({words[0]}, {words[1]}):\n"
            f"    {words[2]} = {verb}({words[0]}, {other}_{number})\n"
            f"    {words[3]} = {words[1]} + {number}\n    return {words[2]}, {words[3]}"
        ),
        language="python",
        package=package,
        path=f"{package}/file{number}.py",
        line=1,
        name=f"{verb}_{noun}_{number}",
    )


@pytest.fixture(scope="session")
def study_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built corpus of about 300 pairs of 12 packages in one language."""
    folder = tmp_path_factory.mktemp("corpora") / "synthetic"
    chance = random.Random(0)
    build_corpus([_pair(number, chance) for number in range(300)], folder, valid=30, test=30)
    return folder


@pytest.fixture(scope="session")
def tiny_study(study_corpus: Path) -> Callable[..., dict[str, Any]]:
    """A function that gives a study as plain data, `changes` laid over it: two arms of a tiny bag, two seeds."""

    def make(**changes: Any) -> dict[str, Any]:
        defaults = {
            "encoder": {"kind": "bag", "width": 8},
            "tokens": {"vocabulary": 400},
            "training": {"epochs": 2, "batch_size": 16},
        }
        return {
            "study": "tiny",
            "corpus": str(study_corpus),
            "languages": ["python"],
            "seeds": [1, 2],
            "defaults": defaults,
            "arms": {
                "infonce": {},
                "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}},
            },
            **changes,
        }

    return make
