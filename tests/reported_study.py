"""A small study in a SQLite store, written by the tracker as a launch writes it, with known numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from softnce_ray.corpus import Corpus
from softnce_ray.distributions import (
    DISTRIBUTIONS_FILE,
    RELATIVE_EDGES,
    SCORE_EDGES,
    Distributions,
    Histogram,
    write_distributions,
)
from softnce_ray.ranks_file import write_ranks
from softnce_ray.results import StudyRecord, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking import Tracker

ARMS = ("infonce", "soft", "flat")
LIFTS = {"infonce": 0.0, "soft": 0.15, "flat": 0.0}
SEEDS = (1, 2, 3)
SPACE = {"loss.alpha": {"low": 0.2, "high": 1.8}, "temperature": {"low": 0.01, "high": 1.0, "log": True}}
DEFINITIONS = {"infonce": "d1", "soft": "d2", "flat": "d3"}


def reciprocal_ranks(arm: str, seed: int, queries: int) -> np.ndarray:
    """(Q,): hard and easy queries, the same for all arms, with a lift and the noise of the seed."""
    hardness = np.random.default_rng(0).uniform(0.1, 0.7, queries)
    noise = np.random.default_rng([seed, *arm.encode()]).normal(0, 0.05, queries)
    return np.clip(hardness + noise + LIFTS[arm], 0, 1)


def valid_mrr(arm: str, seed: int, epoch: int) -> float:
    return 0.3 + 0.05 * epoch + 0.01 * seed + LIFTS[arm]


def distributions(arm: str, seed: int) -> Distributions:
    """Of 4 batches of 16 pairs; only `soft` has an estimator."""
    random = np.random.default_rng([1, seed, *arm.encode()])
    return Distributions(
        16,
        4,
        Histogram.of(random.normal(0, 0.2, 960), SCORE_EDGES),
        Histogram.of(random.normal(0.5, 0.1, 64), SCORE_EDGES),
        Histogram.of(random.normal(0, 0.5, 960), RELATIVE_EDGES) if arm == "soft" else None,
    )


def search_settings(number: int) -> dict[str, float]:
    return {"loss.alpha": 0.2 + 0.2 * number, "temperature": 0.01 * 2**number}


def make(
    folder: Path,
    corpus: Path,
    *,
    running: bool = False,
    search: int = 6,
    diagnostics: Mapping[str, float] | None = None,
    name: str = "small",
    counted: bool = True,
) -> Store:
    """Three arms on python, three seeds, a search of `soft`, in the store of `folder`. With `running`, the last seed of
    `flat` has had one epoch of two and the study has not ended. `counted`: trials have
    distributions."""
    opened = Corpus.open(corpus)
    ids = opened.table("python", "test", ["id"]).column("id").to_pylist()
    text = yaml.safe_dump({"arms": {arm: {} for arm in ARMS} | {"soft": {"search": SPACE}}, "search": {"space": {}}})
    store = Store.at(folder, f"sqlite:///{folder / 'mlflow.db'}")
    record = StudyRecord(
        name,
        "Does it <help> & how?",
        "infonce",
        ARMS,
        ("python",),
        SEEDS,
        str(corpus),
        opened.fingerprint,
        text,
        DEFINITIONS,
    )
    tracker = Tracker(store, record, versions={})
    tracker.known()
    for arm in ARMS:
        tracker.arm_started(arm, {"loss.name": arm})
    for number in range(search):
        key = TrialKey("soft", "python", "search", 0, f"s{number}")
        tracker.trial_started(key, {"loss.name": "soft", **search_settings(number)})
        metrics = {"epoch": 1, "valid_mrr": 0.3, "best_valid_mrr": 0.3 + 0.01 * number, "train_seconds": 2.0}
        tracker.epoch(key, metrics)
        tracker.trial_ended(key, "FINISHED", stopped_early=number == 0)
    for arm in ARMS:
        for seed in SEEDS:
            key = TrialKey(arm, "python", "confirm", seed, f"{arm}{seed}")
            chosen = search_settings(search - 1) if arm == "soft" and search else {}
            tracker.trial_started(key, {"loss.name": arm, "training.batch_size": 64, **chosen})
            half = running and (arm, seed) == ("flat", SEEDS[-1])
            for epoch in (1, 2)[: 1 if half else 2]:
                mrr = valid_mrr(arm, seed, epoch)
                found = {name: value * epoch for name, value in (diagnostics or {}).items()} if arm == "soft" else {}
                metrics = {"epoch": epoch, "valid_mrr": mrr, "best_valid_mrr": mrr, "train_seconds": 2.0 * seed}
                tracker.epoch(key, {**metrics, "pairs_per_second": 100.0, **found})
            if half:
                continue
            path = folder / f"{arm}{seed}" / "reciprocal_ranks.parquet"
            path.parent.mkdir(parents=True)
            ranks = reciprocal_ranks(arm, seed, len(ids))
            write_ranks(path, {"test": ids}, {"reciprocal_rank": {"test": ranks}})
            final = {"epoch": 2, "valid_mrr": valid_mrr(arm, seed, 2), "test_mrr": float(ranks.mean())}
            beside = path.with_name(DISTRIBUTIONS_FILE)
            if counted:
                write_distributions(beside, distributions(arm, seed))
            final |= {"test_codebase": 80.0}
            tracker.trial_ended(key, "FINISHED", metrics=final, ranks=path, distributions=beside)
    if not running:
        tracker.study_ended("FINISHED")
    assert not tracker.close()
    return store
