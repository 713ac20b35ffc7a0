"""The search of a cell: seeded, persistent, and deaf to what is no number."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from softnce_ray.config import ArmConfig, Search
from softnce_ray.study.search import CellSearch
from softnce_ray.study.storage import open_storage

SPACE: dict[str, Any] = {
    "temperature": {"low": 0.01, "high": 1.0, "log": True},
    "training.epochs": {"low": 1, "high": 9, "step": 2},
    "training.batch_size": {"low": 16, "high": 256, "log": True},
    "training.batch_tokens": {"low": 1000, "high": 9000, "step": 500},
    "training.warmup": {"low": 0.0, "high": 0.5, "step": 0.25},
    "similarity": {"choices": ["cosine", "dot"]},
}

Open = Callable[..., CellSearch]

_ANSWER = """
import json, sys
from softnce_ray.config import ArmConfig, Search
from softnce_ray.study.search import CellSearch
from softnce_ray.study.storage import open_storage
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


@pytest.fixture(scope="module")
def empty_searches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage without a search, to be copied: making one takes a second."""
    path = tmp_path_factory.mktemp("empty") / "optuna.db"
    open_storage(f"sqlite:///{path}")
    return path


@pytest.fixture
def opened(tmp_path: Path, empty_searches: Path) -> Open:
    """A function that opens the search anew, as another process would."""
    shutil.copy(empty_searches, tmp_path / "optuna.db")

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
        assert isinstance(values["training.batch_tokens"], int)  # a whole number or null
        assert values["training.batch_tokens"] in range(1000, 9001, 500)
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


def test_trials_that_failed_by_their_settings_are_answered_for_good(opened: Open) -> None:
    failed = answer_all(opened(trials=3), lambda values: None)
    again = opened(trials=3)
    assert again.finished and again.ask() is None and again.best() is None
    assert [(answer.proposal.values, answer.failed) for answer in again.answers()] == [(each, True) for each in failed]
    assert len(answer_all(opened(trials=4), lambda values: 0.5)) == 1


def test_a_search_of_which_an_earlier_version_let_all_trials_fail_is_tried_again(opened: Open, tmp_path: Path) -> None:
    """It told failures of the machine as it told those of settings."""
    before = opened(trials=2)
    failed = [before.ask(), before.ask()]
    study = optuna.load_study(study_name="cell", storage=open_storage(f"sqlite:///{tmp_path}/optuna.db"))
    for proposal in failed:
        assert proposal is not None
        study.tell(proposal.number, state=TrialState.FAIL)
    again = opened(trials=2)
    assert not again.finished
    assert answer_all(again, lambda values: 0.5) == [proposal.values for proposal in failed if proposal is not None]
    assert opened(trials=2).finished


def test_what_was_decided_of_an_answered_trial_stands_when_its_epochs_are_told_again(opened: Open) -> None:
    search = opened(trials=2)
    good, bad = search.ask(), search.ask()
    assert good is not None and bad is not None
    for epoch in (1, 2):
        assert not search.report(good.number, epoch, 0.9)
    assert search.report(bad.number, 1, 0.1)
    search.tell(good.number, 0.9)
    search.tell(bad.number, 0.1, stopped_early=True)
    again = opened(trials=2)
    assert [again.report(good.number, epoch, 0.9) for epoch in (1, 2, 3)] == [False, False, False]
    assert again.report(bad.number, 1, 0.1)


def test_cells_of_one_store_do_not_see_each_other(opened: Open) -> None:
    answer_all(opened(trials=2), lambda values: 0.5)
    other = opened(trials=2, name="another")
    assert other.answered == 0
    assert other.best() is None


# --- settings that are searched only where another has some value ---

CONDITIONAL: dict[str, Any] = {  # not in the order in which they must be asked
    "training.warmup": {"low": 0.0, "high": 0.5, "when": {"training.epochs": [3, 9]}},
    "training.epochs": {"choices": [1, 3, 9], "when": {"symmetric": False}},
    "training.learning_rate": {"low": 0.001, "high": 0.1, "log": True, "when": {"symmetric": True}},
    "symmetric": {"choices": [True, False]},
    "temperature": {"low": 0.01, "high": 1.0, "log": True},
}


def settings_of(values: dict[str, Any]) -> set[str]:
    """The settings of `CONDITIONAL` that a trial of these values has, told without the code under test."""
    if values["symmetric"]:
        return {"symmetric", "temperature", "training.learning_rate"}
    more = set() if values["training.epochs"] == 1 else {"training.warmup"}
    return {"symmetric", "temperature", "training.epochs"} | more


def test_without_conditions_the_proposals_are_those_of_plain_optuna(opened: Open) -> None:
    study = optuna.create_study(direction="maximize")
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "temperature": optuna.distributions.FloatDistribution(0.01, 1.0, log=True),
        "training.epochs": optuna.distributions.IntDistribution(1, 9, step=2),
        "training.batch_size": optuna.distributions.IntDistribution(16, 256, log=True),
        "training.batch_tokens": optuna.distributions.IntDistribution(1000, 9000, step=500),
        "training.warmup": optuna.distributions.FloatDistribution(0.0, 0.5, step=0.25),
        "similarity": optuna.distributions.CategoricalDistribution(("cosine", "dot")),
    }
    expected = []
    for number in range(12):
        digest = hashlib.sha256(f"7/cell/{number}".encode()).digest()
        study.sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(digest[:4], "little"), n_startup_trials=4, multivariate=True, constant_liar=True
        )
        trial = study.ask(space)
        expected.append(dict(trial.params))
        study.tell(trial, trial.params["temperature"])
    assert answer_all(opened(trials=12), lambda values: values["temperature"]) == expected


@pytest.mark.filterwarnings("error")
def test_a_proposal_has_the_settings_whose_conditions_hold_and_no_others(opened: Open) -> None:
    search = opened(trials=25, space=CONDITIONAL)
    made = answer_all(search, lambda values: values["temperature"])
    assert len(made) == 25
    assert all(set(values) == settings_of(values) for values in made)
    assert {frozenset(values) for values in made} == {
        frozenset(settings_of({"symmetric": symmetric, "training.epochs": epochs}))
        for symmetric, epochs in ((True, 1), (False, 1), (False, 3))
    }
    assert search.best() == max(made, key=lambda values: values["temperature"])
    assert opened(trials=25, space=CONDITIONAL).best() == search.best()


def test_users_are_not_told_that_optuna_s_grouping_is_experimental(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "always",
        "-c",
        _ANSWER,
        json.dumps(CONDITIONAL),
        "2",
        f"sqlite:///{tmp_path}/w.db",
    ]
    assert "group" not in subprocess.run(command, check=True, capture_output=True, text=True).stderr


def test_a_conditional_search_that_goes_on_makes_the_proposals_that_one_alone_would_make(
    opened: Open, tmp_path: Path
) -> None:
    first = opened(trials=12, space=CONDITIONAL)
    made = []
    for _ in range(7):
        proposal = first.ask()
        assert proposal is not None
        made.append(proposal.values)
        first.tell(proposal.number, proposal.values["temperature"])
    made += answer_all(opened(trials=12, space=CONDITIONAL), lambda values: values["temperature"])
    command = [sys.executable, "-c", _ANSWER, json.dumps(CONDITIONAL), "12", f"sqlite:///{tmp_path}/other.db"]
    assert json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == made


def test_the_best_branch_is_searched_more_often(opened: Open) -> None:
    made = answer_all(
        opened(trials=40, space=CONDITIONAL),
        lambda values: -abs(values["training.learning_rate"] - 0.02) if values["symmetric"] else -1.0,
    )
    assert sum(values["symmetric"] for values in made[20:]) > sum(values["symmetric"] for values in made[:13])


def test_a_conditional_proposal_that_a_dead_process_left_open_is_handed_out_again(opened: Open) -> None:
    dead = opened(trials=6, space=CONDITIONAL)
    left = [dead.ask() for _ in range(6)]
    assert {len(each.values) for each in left if each} > {3}  # several kinds
    again = opened(trials=6, space=CONDITIONAL)
    assert [again.ask() for _ in range(6)] == left
    assert again.ask() is None


@pytest.mark.parametrize("reached", [(), ("symmetric",), ("symmetric", "temperature")])
def test_a_trial_whose_process_died_before_it_had_all_its_values_is_given_up(
    opened: Open, tmp_path: Path, reached: tuple[str, ...]
) -> None:
    opened(trials=2, space=CONDITIONAL)
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db")
    trial = optuna.load_study(study_name="cell", storage=storage).ask()
    if "symmetric" in reached:
        trial.suggest_categorical("symmetric", [True, False])
    if "temperature" in reached:
        trial.suggest_float("temperature", 0.01, 1.0, log=True)
    search = opened(trials=2, space=CONDITIONAL)
    assert states(tmp_path) == [TrialState.FAIL]
    assert len(answer_all(search, lambda values: 0.5)) == 2


def test_after_a_change_of_a_condition_the_trials_that_fit_it_count(opened: Open) -> None:
    def space(epochs: list[int]) -> dict[str, Any]:
        return {
            "training.epochs": {"choices": [1, 3, 9]},
            "temperature": {"low": 0.01, "high": 1.0, "when": {"training.epochs": epochs}},
        }

    made = answer_all(opened(trials=20, space=space([1])), lambda values: 0.5)
    assert {values["training.epochs"] for values in made} == {1, 3, 9}
    fitting = sum(values["training.epochs"] == 9 for values in made)  # without a temperature before and after
    assert opened(trials=20, space=space([3])).answered == fitting
    more = opened(trials=20, space=space([1, 3]))
    assert more.answered == sum(values["training.epochs"] != 3 for values in made)
    assert len(answer_all(more, lambda values: 0.6)) == sum(values["training.epochs"] == 3 for values in made)
    assert more.finished


SWITCHES: dict[str, list[Any]] = {
    "symmetric": [True, False],
    "similarity": ["cosine", "dot"],
    "training.epochs": [0, 1, 2],
    "training.warmup": [0.0, 0.5, 1.0],
}
INTERVALS = ("temperature", "training.learning_rate", "training.max_gradient_norm")


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Small spaces in any order, with conditions on switches, and on switches that have some themselves."""
    paths: list[str] = draw(st.lists(st.sampled_from([*SWITCHES, *INTERVALS]), min_size=1, max_size=6, unique=True))
    space: dict[str, Any] = {}
    for path in paths:
        space[path] = {"choices": SWITCHES[path]} if path in SWITCHES else {"low": 0.1, "high": 0.9}
        earlier = [other for other in space if other in SWITCHES and other != path]
        if earlier and draw(st.sampled_from([True, False])):
            others = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=2, unique=True))
            space[path]["when"] = {
                other: draw(st.lists(st.sampled_from(SWITCHES[other]), min_size=1, max_size=2, unique=True))
                for other in others
            }
    return {path: space[path] for path in draw(st.permutations(paths))}


def consistent(space: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether exactly the settings whose conditions hold have values."""

    def is_searched(path: str) -> bool:
        when = space[path].get("when", {})
        return all(is_searched(other) and values.get(other) in those for other, those in when.items())

    return set(values) == {path for path in space if is_searched(path)}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    spaces(),
    st.integers(1, 8),
    st.lists(st.sampled_from(["ask", "ask", "tell", "fail", "stop", "restart"]), max_size=20),
)
def test_every_proposal_of_any_space_is_consistent_and_their_number_right_after_any_restart(
    space: dict[str, Any], trials: int, events: list[str]
) -> None:
    storage = optuna.storages.InMemoryStorage()
    wanted = Search.model_validate({"trials": trials, "space": space, "seed": 3})

    def opened() -> CellSearch:
        return CellSearch(storage, "cell", ArmConfig(), wanted.space, wanted)

    made: dict[int, dict[str, Any]] = {}
    live: list[int] = []
    search, told = opened(), 0
    for event in [*events, "restart", *["ask", "tell"] * trials]:
        if event == "restart":
            search, live = opened(), []
        elif event == "ask":
            proposal = search.ask()
            if proposal is not None:
                assert proposal.number not in live
                assert made.setdefault(proposal.number, proposal.values) == proposal.values
                assert consistent(space, proposal.values)
                live.append(proposal.number)
        elif live:  # the first has a value: a search of which all trials failed would start again
            value = 0.1 * len(live) if event == "tell" or not told else None
            search.tell(live.pop(0), value, stopped_early=event == "stop" and told > 0)
            told += 1
        assert search.answered == told
    assert len(made) == told == trials
    assert search.ask() is None
    assert search.finished
    best = search.best()
    assert best is not None
    assert consistent(space, best)
