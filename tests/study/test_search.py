"""The search of a cell: seeded, persistent, and deaf to what is no number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from softnce_ray.config import ArmConfig, Search
from softnce_ray.study.search import CellSearch, open_storage

SPACE: dict[str, Any] = {
    "temperature": {"low": 0.01, "high": 1.0, "log": True},
    "training.epochs": {"low": 1, "high": 9, "step": 2},
    "training.batch_size": {"low": 16, "high": 256, "log": True},
    "training.warmup": {"low": 0.0, "high": 0.5, "step": 0.25},
    "similarity": {"choices": ["cosine", "dot"]},
}

Open = Callable[..., CellSearch]

_ANSWER = """
import json, sys
from softnce_ray.config import ArmConfig, Search
from softnce_ray.study.search import CellSearch, open_storage
space, trials, url = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
settings = Search.model_validate({"trials": trials, "space": space, "seed": 7})
search = CellSearch(open_storage(url), "cell", ArmConfig(), settings.space, settings)
values = []
for _ in range(trials):
    proposal = search.ask()
    values.append(proposal.values)
    search.tell(proposal.number, proposal.values["temperature"])
print(json.dumps(values))
"""


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A function that opens the search anew, as another process would."""

    def make(trials: int = 5, space: dict[str, Any] = SPACE, name: str = "cell", **changes: Any) -> CellSearch:
        settings = Search.model_validate({"trials": trials, "space": space, "seed": 7, **changes})
        storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
        return CellSearch(storage, name, ArmConfig(), settings.space, settings)

    return make


def states(tmp_path: Path) -> list[TrialState]:
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    return [trial.state for trial in optuna.load_study(study_name="cell", storage=storage).trials]


def answer_all(search: CellSearch, value: Callable[[dict[str, Any]], float | None]) -> list[dict[str, Any]]:
    made = []
    while (proposal := search.ask()) is not None:
        made.append(proposal.values)
        search.tell(proposal.number, value(proposal.values))
    return made


def test_a_search_makes_as_many_proposals_as_it_has_trials(opened: Open) -> None:
    search = opened(trials=3)
    assert len(answer_all(search, lambda values: 0.5)) == 3
    assert search.ask() is None
    assert search.finished
    assert search.answered == 3


def test_a_search_has_not_ended_while_a_proposal_is_open(opened: Open) -> None:
    search = opened(trials=2)
    proposals = [search.ask(), search.ask()]
    assert search.ask() is None
    for proposal in proposals:
        assert not search.finished
        assert proposal is not None
        search.tell(proposal.number, 0.1)
    assert search.finished


def test_every_kind_of_setting_is_proposed_within_its_space_and_as_its_type(opened: Open) -> None:
    for values in answer_all(opened(trials=12), lambda values: values["temperature"]):
        assert isinstance(values["temperature"], float)
        assert 0.01 <= values["temperature"] <= 1
        assert isinstance(values["training.epochs"], int)
        assert values["training.epochs"] in (1, 3, 5, 7, 9)
        assert isinstance(values["training.batch_size"], int)
        assert 16 <= values["training.batch_size"] <= 256
        assert values["training.warmup"] in (0.0, 0.25, 0.5)
        assert values["similarity"] in ("cosine", "dot")


def test_a_new_process_with_the_same_seed_makes_the_same_proposals(opened: Open, tmp_path: Path) -> None:
    made = answer_all(opened(trials=6), lambda values: values["temperature"])
    command = [sys.executable, "-c", _ANSWER, json.dumps(SPACE), "6", f"sqlite:///{tmp_path}/other.db"]
    assert json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == made


def test_a_process_that_goes_on_makes_the_proposals_that_one_alone_would_make(opened: Open, tmp_path: Path) -> None:
    first = opened(trials=6)
    made = []
    for _ in range(3):
        proposal = first.ask()
        assert proposal is not None
        made.append(proposal.values)
        first.tell(proposal.number, proposal.values["temperature"])
    made += answer_all(opened(trials=6), lambda values: values["temperature"])
    command = [sys.executable, "-c", _ANSWER, json.dumps(SPACE), "6", f"sqlite:///{tmp_path}/other.db"]
    assert json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == made


def test_another_seed_makes_other_proposals(opened: Open, tmp_path: Path) -> None:
    one = opened().ask()
    other = opened(name="another", seed=8).ask()
    assert one is not None
    assert other is not None
    assert one.values != other.values


def test_proposals_that_a_dead_process_left_open_are_handed_out_again_first(opened: Open) -> None:
    dead = opened(trials=3)
    left = [dead.ask(), dead.ask()]
    again = opened(trials=3)
    assert [again.ask(), again.ask()] == left
    third = again.ask()
    assert third is not None
    assert third.number == 2
    assert again.ask() is None


def test_more_trials_ask_for_what_is_missing_only(opened: Open) -> None:
    before = answer_all(opened(trials=3), lambda values: 0.5)
    extended = opened(trials=5)
    assert not extended.finished
    more = answer_all(extended, lambda values: 0.5)
    assert len(more) == 2
    assert not any(values in before for values in more)
    assert extended.finished


def test_fewer_trials_ask_for_nothing(opened: Open) -> None:
    answer_all(opened(trials=5), lambda values: 0.5)
    assert opened(trials=3).ask() is None
    assert opened(trials=3).finished


def test_another_space_starts_afresh(opened: Open, tmp_path: Path) -> None:
    old = opened(trials=2)
    first = old.ask()
    assert first is not None
    old.tell(first.number, 0.9)
    old.ask()  # left open by a process that died
    new = opened(trials=2, space={"temperature": {"low": 0.2, "high": 0.3, "log": True}})
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.FAIL]
    assert new.answered == 0
    assert new.best() is None
    made = answer_all(new, lambda values: 0.1)
    assert len(made) == 2
    assert all(set(values) == {"temperature"} and 0.2 <= values["temperature"] <= 0.3 for values in made)
    assert new.best() in made


def test_the_best_is_the_highest_value_of_those_that_ran_to_their_end(opened: Open) -> None:
    search = opened(trials=4)
    proposals = [search.ask() for _ in range(4)]
    for proposal, (value, early) in zip(
        proposals, [(0.2, False), (0.4, False), (0.9, True), (None, False)], strict=True
    ):
        assert proposal is not None
        search.tell(proposal.number, value, stopped_early=early)
    assert search.finished
    assert search.best() == proposals[1].values  # type: ignore[union-attr]


def test_of_equal_values_the_first_is_the_best(opened: Open) -> None:
    made = answer_all(opened(trials=3), lambda values: 0.5)
    assert opened(trials=3).best() == made[0]


def test_a_search_without_a_complete_trial_has_no_best(opened: Open) -> None:
    search = opened(trials=1)
    assert search.best() is None
    proposal = search.ask()
    assert proposal is not None
    search.tell(proposal.number, None)
    assert search.best() is None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_reaches_optuna_as_a_failure(opened: Open, tmp_path: Path, value: float | None) -> None:
    search = opened(trials=2)
    proposal = search.ask()
    assert proposal is not None
    search.tell(proposal.number, value)
    assert states(tmp_path) == [TrialState.FAIL]
    assert search.answered == 1


@pytest.mark.filterwarnings("error")
def test_an_epoch_s_value_that_is_no_number_or_told_before_is_not_told(opened: Open, tmp_path: Path) -> None:
    search = opened(trials=2)
    proposal = search.ask()
    assert proposal is not None
    assert not search.report(proposal.number, 1, float("nan"))
    assert not search.report(proposal.number, 1, 0.5)
    assert not search.report(proposal.number, 1, 0.1)
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    (trial,) = optuna.load_study(study_name="cell", storage=storage).trials
    assert trial.intermediate_values == {1: 0.5}


def test_early_stopping_remembers_the_trials_of_another_process(opened: Open) -> None:
    before = opened(trials=4)
    good = before.ask()
    assert good is not None
    assert not any(before.report(good.number, epoch, 0.9) for epoch in (1, 2, 3))
    before.tell(good.number, 0.9)

    after = opened(trials=4)
    bad, better = after.ask(), after.ask()
    assert bad is not None
    assert better is not None
    assert after.report(bad.number, 1, 0.1)
    assert not after.report(better.number, 1, 0.95)


def test_a_trial_left_open_keeps_the_epochs_it_had_reached(opened: Open, tmp_path: Path) -> None:
    before = opened(trials=2)
    proposal = before.ask()
    assert proposal is not None
    before.report(proposal.number, 1, 0.3)
    after = opened(trials=2)
    assert after.ask() == proposal
    after.report(proposal.number, 2, 0.4)
    after.tell(proposal.number, 0.4)
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    assert optuna.load_study(study_name="cell", storage=storage).trials[0].intermediate_values == {1: 0.3, 2: 0.4}


def test_without_early_stopping_no_trial_is_stopped(opened: Open) -> None:
    search = opened(trials=2, early_stopping=None)
    good, bad = search.ask(), search.ask()
    assert good is not None
    assert bad is not None
    assert not any(search.report(good.number, epoch, 0.9) for epoch in (1, 2, 3))
    assert not any(search.report(bad.number, epoch, 0.1) for epoch in (1, 2, 3))


def test_no_trial_is_stopped_before_its_least_epochs(opened: Open) -> None:
    search = opened(trials=2, early_stopping={"min_epochs": 3})
    good, bad = search.ask(), search.ask()
    assert good is not None
    assert bad is not None
    assert not any(search.report(good.number, epoch, 0.9) for epoch in (1, 2, 3))
    assert [search.report(bad.number, epoch, 0.1) for epoch in (1, 2, 3)] == [False, False, True]


def test_a_trial_stopped_early_counts_as_answered_and_may_have_no_value(opened: Open, tmp_path: Path) -> None:
    search = opened(trials=2)
    first, twin = search.ask(), search.ask()
    assert first is not None
    assert twin is not None
    search.report(first.number, 1, 0.4)
    search.tell(first.number, 0.4, stopped_early=True)
    search.tell(twin.number, 0.4, stopped_early=True)  # the same values: it never ran
    assert states(tmp_path) == [TrialState.PRUNED, TrialState.PRUNED]
    assert search.finished
    assert search.best() is None


def test_a_search_of_which_all_trials_failed_is_tried_again_with_the_same_proposals(opened: Open) -> None:
    failed = answer_all(opened(trials=3), lambda values: None)
    again = opened(trials=3)
    assert not again.finished
    assert answer_all(again, lambda values: 0.5) == failed
    assert again.finished
    assert opened(trials=3).finished
    assert opened(trials=3).best() in failed


def test_a_search_of_which_some_trials_failed_is_not_tried_again(opened: Open) -> None:
    values = iter([None, 0.5, None])
    answer_all(opened(trials=3), lambda _: next(values))
    assert opened(trials=3).finished


def test_cells_of_one_store_do_not_see_each_other(opened: Open) -> None:
    answer_all(opened(trials=2), lambda values: 0.5)
    other = opened(trials=2, name="another")
    assert other.answered == 0
    assert other.best() is None
