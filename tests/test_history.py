"""What the store knows beside results: metrics by epoch, ids of queries, the study's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from reported_study import ARMS, DEFINITIONS, SEEDS, make, valid_mrr

from softnce_ray.corpus import Corpus
from softnce_ray.store import Store
from softnce_ray.tracking import TrackingError, load_results
from softnce_ray.tracking.history import load_background, load_histories, load_query_ids


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Store:
    return make(tmp_path_factory.mktemp("history"), tiny_corpus, search=2)


def test_a_history_is_each_epoch_once(store: Store) -> None:
    """The last epoch is recorded twice, at its end and with the result."""
    runs = {(each.arm, each.seed, each.phase): each.run_id for each in load_results(store, "small").trials}
    wanted = [runs[arm, seed, "confirm"] for arm in ARMS for seed in SEEDS]
    found = load_histories(store, dict.fromkeys(wanted, ("valid_mrr", "no_such_metric")))
    for arm in ARMS:
        for seed in SEEDS:
            history = found[runs[arm, seed, "confirm"]]
            assert set(history) == {"valid_mrr"}
            assert [epoch for epoch, _ in history["valid_mrr"]] == [1, 2]
            values = [value for _, value in history["valid_mrr"]]
            assert values == pytest.approx([valid_mrr(arm, seed, epoch) for epoch in (1, 2)])


def test_the_background_is_that_of_the_launch(store: Store, tiny_corpus: Path) -> None:
    found = load_background(store, "small")
    assert found.corpus == str(tiny_corpus)
    assert found.definitions == DEFINITIONS
    assert set(yaml.safe_load(found.text)["arms"]) == set(ARMS)


def test_the_trial_that_the_search_stopped_is_known(store: Store) -> None:
    stopped = [trial for trial in load_results(store, "small").trials if trial.stopped_early]
    assert [(trial.identity, trial.status, trial.outcome) for trial in stopped] == [("s0", "FINISHED", "STOPPED_EARLY")]


def test_ids_are_in_the_order_of_the_stored_ranks(store: Store, tiny_corpus: Path) -> None:
    run = next(each for each in load_results(store, "small").trials if each.phase == "confirm")
    ids = Corpus.open(tiny_corpus).table("python", "test", ["id"]).column("id").to_pylist()
    assert load_query_ids(store, run.run_id) == {"test": tuple(ids)}


def test_what_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(TrackingError, match="no study 'other'"):
        load_background(store, "other")
    search = next(each for each in load_results(store, "small").trials if each.phase == "search")
    with pytest.raises(TrackingError, match=r"expected reciprocal_ranks\.parquet of run"):
        load_query_ids(store, search.run_id)
