"""What the tests of a study share: studies small enough to be trained in seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from softnce_ray.config import StudyConfig
from softnce_ray.store import Store
from softnce_ray.study.file import parse_study

from .launching import SEARCH, small_cluster


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all launches of a file of tests, which runs one trial at a time: each process more takes seconds."""
    with small_cluster(1):
        yield


@pytest.fixture(scope="module")
def two_slots() -> Iterator[None]:
    """One Ray for all launches of a file of tests, for two trials at once or a trial of two workers."""
    with small_cluster(2):
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an empty database, to be copied: making one takes seconds."""
    root = tmp_path_factory.mktemp("empty")
    MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db").search_experiments()
    return root


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    root = tmp_path / "store"
    shutil.copytree(empty_store, root)
    return Store(root, f"sqlite:///{root}/mlflow.db")


@pytest.fixture
def two_arms(plain_study: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A function that gives a study of two arms, one of which searches alpha."""

    def make(**changes: Any) -> dict[str, Any]:
        arms = plain_study()["arms"]
        arms["soft"]["search"] = {"loss.alpha": {"low": 0.2, "high": 1.5}}
        return plain_study(arms=arms, search=SEARCH, **changes)

    return make
