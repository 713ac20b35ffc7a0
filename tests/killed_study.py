"""The study that is killed: seven trials of four short epochs, of which no decision depends on time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from conftest import NOUNS, OWNERS, VERBS
from conftest import _pair as pair

from softnce_ray.corpus import build_corpus

STUDY, EPOCHS, TRIALS = "killed", 4, 7


def study_of(corpus: Path) -> dict[str, Any]:
    """Seven trials: five to confirm or search `soft`, two of `infonce`; epochs of about half a second.

    No decision depends on time: nothing stops early, and three proposals are Optuna's random start. The learning
    rate is low, so that ranks are far from perfect and a step too many shows.
    """
    return {
        "study": STUDY,
        "corpus": str(corpus),
        "languages": ["python"],
        "seeds": [1, 2],
        "defaults": {
            "encoder": {"kind": "bag", "width": 64},
            "tokens": {"vocabulary": 1000},
            "training": {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.0005},
        },
        "arms": {
            "infonce": {},
            "soft": {
                "loss": {"name": "soft_infonce"},
                "estimator": {"name": "bm25"},
                "search": {"loss.alpha": {"low": 0.2, "high": 1.5}},
            },
        },
        "search": {"trials": 3, "seed": 9, "early_stopping": None},
        "resources": {"max_concurrent": 2},
        "failures": {"retries": 5},
    }


def precise_study_of(corpus: Path) -> dict[str, Any]:
    """The same, asking for a half-width instead of two seeds: further ones follow them."""
    return {**study_of(corpus), "seeds": {"at_least": 2, "at_most": 6, "half_width": 0.015}}


def larger_corpus(folder: Path) -> Path:
    """A corpus of 1,000 different pairs in `folder`/corpus: every query and every code occurs once."""
    words = [(verb, noun, owner) for verb in VERBS for noun in NOUNS for owner in OWNERS]
    random.Random(0).shuffle(words)
    packages = ["large"] * 700 + [f"small{number % 15}" for number in range(300)]
    pairs = [pair(*each, package, n) for n, (each, package) in enumerate(zip(words, packages, strict=True))]
    build_corpus(pairs, folder / "corpus", valid=60, test=60, codebase=60)
    return folder / "corpus"
