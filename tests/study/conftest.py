"""What the tests of a study share: studies small enough to be trained in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from softnce_ray.config import StudyConfig
from softnce_ray.study.file import parse_study


@pytest.fixture(scope="session")
def plain_study(tiny_corpus: Path) -> Callable[..., dict[str, Any]]:
    """A function that gives a study as plain data, with `changes` laid over it: two arms of a tiny bag."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "study": "tiny",
            "corpus": str(tiny_corpus),
            "languages": ["python"],
            "seeds": [1, 2],
            "defaults": {
                "encoder": {"kind": "bag", "width": 8},
                "tokens": {"vocabulary": 400},
                "training": {"epochs": 2, "batch_size": 16},
            },
            "arms": {
                "infonce": {},
                "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}},
            },
            **changes,
        }

    return make


@pytest.fixture(scope="session")
def tiny_study(plain_study: Callable[..., dict[str, Any]]) -> Callable[..., StudyConfig]:
    """`plain_study`, read as a study file is."""

    def make(**changes: Any) -> StudyConfig:
        return parse_study(yaml.safe_dump(plain_study(**changes), sort_keys=False))

    return make
