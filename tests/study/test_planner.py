"""The planner: which trial comes next, and when a study has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.config import StudyConfig
from softnce_ray.results import KnownTrial, TrialKey
from softnce_ray.study.cells import Cell, Trial, cells
from softnce_ray.study.definitions import definition, search_name
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Planner
from softnce_ray.study.search import Answer, Proposal

SPACE = {"temperature": {"low": 0.01, "high": 1}}


def study(
    arms: int = 2, seeds: int = 2, trials: int = 0, languages: tuple[str, ...] = ("python",), *, alike: bool = False
) -> StudyConfig:
    """A study; `alike`: of arms whose settings are the same."""
    values: dict[str, Any] = {
        "study": "plan",
        "corpus": "c",
        "languages": languages,
        "seeds": list(range(1, seeds + 1)),
        "baseline": "arm0",
        "arms": {f"arm{n}": {"encoder": {"kind": "bag", "width": 1 if alike else n + 1}} for n in range(arms)},
    }
    if trials:
        values["search"] = {"trials": trials, "space": SPACE}
    return StudyConfig.model_validate(values)


@dataclass
class FakeSearch:
    """Proposes the given values in turn; stops the trials of the numbers in `stops` at their first report."""

    proposals: list[dict[str, Any]]
    stops: set[int] = field(default_factory=set)
    told: dict[int, tuple[float | None, bool]] = field(default_factory=dict)
    asked: int = 0
    is_confirmed: bool = True

    @property
    def answered(self) -> int:
        return len(self.told)

    @property
    def finished(self) -> bool:
        return len(self.told) == len(self.proposals)

    def answers(self) -> list[Answer]:
        return [
            Answer(Proposal(number, self.proposals[number]), failed=value is None)
            for number, (value, _) in self.told.items()
        ]

    def ask(self) -> Proposal | None:
        if self.asked == len(self.proposals):
            return None
        self.asked += 1
        return Proposal(self.asked - 1, self.proposals[self.asked - 1])

    def report(self, number: int, epoch: int, value: float) -> bool:
        return number in self.stops

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None:
        assert number not in self.told, "answered twice"
        self.told[number] = (value, stopped_early)

    def best(self) -> dict[str, Any] | None:
        complete = {number: value for number, (value, early) in self.told.items() if value is not None and not early}
        return self.proposals[max(complete, key=lambda number: complete[number])] if complete else None


CELL = Cell("arm0", "python")


def temperatures(*values: Any) -> list[dict[str, Any]]:
    return [{"temperature": value} for value in values]


def drain(planner: Planner) -> list[Trial]:
    """All trials that may start now."""
    trials = []
    while (trial := planner.next()) is not None:
        trials.append(trial)
    return trials


def name(trial: Trial) -> str:
    return f"{trial.key.arm}/{trial.key.language} {trial.key.phase} {trial.key.seed}"


def known(trial: Trial, status: str = "FINISHED", **changes: Any) -> dict[TrialKey, KnownTrial]:
    values = {
        "run_id": "r",
        "status": status,
        "best_valid_mrr": 0.5,
        "epochs": 3,
        "stopped_early": False,
        "failure": "",
    }
    return {trial.key: KnownTrial(**{**values, **changes})}


def test_a_grid_is_handed_out_cell_by_cell_in_turn() -> None:
    planner = Planner(study(languages=("python", "ruby")), "c", {}, {})
    assert [name(trial) for trial in drain(planner)] == [
        f"{arm}/{language} confirm {seed}"
        for seed in (1, 2)
        for arm in ("arm0", "arm1")
        for language in ("python", "ruby")
    ]


def test_a_trial_has_the_settings_of_its_arm_and_the_values_proposed() -> None:
    search = FakeSearch(temperatures(0.25))
    planner = Planner(study(arms=1, trials=1), "c", {}, {Cell("arm0", "python"): search})
    trial = planner.next()
    assert trial is not None
    assert (trial.config.temperature, trial.config.seed, trial.key.phase) == (0.25, 0, "search")


def test_confirmation_waits_for_every_trial_of_its_own_search() -> None:
    search = FakeSearch(temperatures(0.1, 0.2))
    planner = Planner(study(arms=1, trials=2), "c", {}, {Cell("arm0", "python"): search})
    first, second = drain(planner)
    planner.ended(first.key, 0.9)
    assert planner.next() is None
    assert not planner.finished
    planner.ended(second.key, 0.3)
    confirm = drain(planner)
    assert [(trial.key.phase, trial.key.seed, trial.config.temperature) for trial in confirm] == [
        ("confirm", 1, 0.1),
        ("confirm", 2, 0.1),
    ]


def test_confirmation_of_a_cell_does_not_wait_for_the_search_of_another() -> None:
    searches = {Cell(arm, "python"): FakeSearch(temperatures(0.1, 0.2)) for arm in ("arm0", "arm1")}
    planner = Planner(study(trials=2), "c", {}, searches)
    live = drain(planner)
    for trial in live:
        if trial.key.arm == "arm1":
            planner.ended(trial.key, 0.5)
    assert [name(trial) for trial in drain(planner)] == ["arm1/python confirm 1", "arm1/python confirm 2"]


def test_a_cell_without_a_search_is_confirmed_at_once_beside_one_that_has_one() -> None:
    planner = Planner(study(trials=2), "c", {}, {Cell("arm1", "python"): FakeSearch(temperatures(0.1, 0.2))})
    assert [name(trial) for trial in drain(planner)] == [
        "arm0/python confirm 1",
        "arm1/python search 0",
        "arm0/python confirm 2",
        "arm1/python search 0",
    ]


def test_a_finished_trial_is_never_handed_out_again() -> None:
    first = drain(Planner(study(), "c", {}, {}))[0]
    planner = Planner(study(), "c", known(first), {})
    assert first.key not in [trial.key for trial in drain(planner)]
    assert planner.already_done == planner.done() == 1


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_trial_that_did_not_finish_is_handed_out_again(status: str) -> None:
    first = drain(Planner(study(), "c", {}, {}))[0]
    planner = Planner(study(), "c", known(first, status), {})
    assert first.key in [trial.key for trial in drain(planner)]
    assert planner.already_done == 0


def test_another_corpus_makes_another_trial() -> None:
    everything = {key: done for trial in drain(Planner(study(), "c", {}, {})) for key, done in known(trial).items()}
    assert not drain(Planner(study(), "c", everything, {}))
    assert len(drain(Planner(study(), "other", everything, {}))) == 4


def test_an_added_seed_alone_is_missing() -> None:
    everything = {key: done for trial in drain(Planner(study(), "c", {}, {})) for key, done in known(trial).items()}
    planner = Planner(study(seeds=3), "c", everything, {})
    assert [name(trial) for trial in drain(planner)] == ["arm0/python confirm 3", "arm1/python confirm 3"]


def test_a_finished_search_trial_answers_its_proposal_without_running() -> None:
    def plan(done: dict[TrialKey, KnownTrial]) -> tuple[Planner, FakeSearch]:
        search = FakeSearch(temperatures(0.1, 0.2, 0.3))
        return Planner(study(arms=1, trials=3), "c", done, {Cell("arm0", "python"): search}), search

    first, second, _ = drain(plan({})[0])
    planner, search = plan({**known(first), **known(second, stopped_early=True, best_valid_mrr=0.1)})
    assert [trial.config.temperature for trial in drain(planner)] == [0.3]
    assert search.told == {0: (0.5, False), 1: (0.1, True)}
    assert planner.already_done == 2


def test_the_same_proposal_twice_is_answered_by_one_run() -> None:
    search = FakeSearch(temperatures(0.1, 0.1, 0.2))
    planner = Planner(study(arms=1, seeds=1, trials=3), "c", {}, {Cell("arm0", "python"): search})
    trials = drain(planner)
    assert [trial.config.temperature for trial in trials] == [0.1, 0.2]
    planner.ended(trials[0].key, 0.7)
    assert search.told == {0: (0.7, False), 1: (0.7, False)}
    assert (planner.done(), planner.total()) == (2, 4)


@pytest.mark.parametrize("value", [0.7, None])
def test_a_proposal_of_a_trial_that_has_ended_is_answered_by_it(value: float | None) -> None:
    search = FakeSearch(temperatures(0.1, 0.1))
    planner = Planner(study(arms=1, trials=2), "c", {}, {Cell("arm0", "python"): search})
    first = planner.next()
    assert first is not None
    planner.ended(first.key, value)
    following = planner.next()
    assert following is None or following.key.phase == "confirm"
    assert search.told == {0: (value, False), 1: (value, False)}


def test_a_proposal_that_was_stopped_early_stops_its_twin() -> None:
    search = FakeSearch(temperatures(0.1, 0.1), stops={0})
    planner = Planner(study(arms=1, trials=2), "c", {}, {Cell("arm0", "python"): search})
    (trial,) = drain(planner)
    assert planner.report(trial.key, 1, 0.2)
    planner.ended(trial.key, 0.2)
    assert search.told == {0: (0.2, True), 1: (0.2, True)}


def test_an_impossible_proposal_is_answered_as_failed_and_told() -> None:
    search = FakeSearch(temperatures(-1, 0.2))
    planner = Planner(study(arms=1, trials=2), "c", {}, {Cell("arm0", "python"): search})
    assert [trial.config.temperature for trial in drain(planner)] == [0.2]
    assert search.told == {0: (None, False)}
    assert not planner.problems
    assert len(planner.notes) == 1
    assert "arm0/python: the search reached an impossible setting (temperature = -1): input" in planner.notes[0]
    assert planner.done() == 1


def test_a_failed_confirmation_ends_like_another() -> None:
    planner = Planner(study(arms=1), "c", {}, {})
    for trial, kind in zip(drain(planner), ("worker", "diverged"), strict=True):
        planner.failed(trial.key, kind, answers=kind == "diverged")  # type: ignore[arg-type]
    assert planner.finished and not planner.halted
    assert planner.done() == planner.total() == 2


def test_only_search_trials_are_stopped_early() -> None:
    search = FakeSearch(temperatures(0.1, 0.2), stops={0, 1})
    planner = Planner(study(trials=2), "c", {}, {Cell("arm0", "python"): search})
    trials = {name(trial): trial for trial in drain(planner)}
    confirm, searched = trials["arm1/python confirm 1"], trials["arm0/python search 0"]
    assert not planner.report(confirm.key, 1, 0.0)
    assert not planner.stopped_early(confirm.key)
    assert planner.report(searched.key, 1, 0.0)
    assert planner.stopped_early(searched.key)


def test_confirmation_is_announced_once_for_each_cell_with_all_its_trials() -> None:
    announced: list[tuple[Cell, list[int]]] = []
    done = known(drain(Planner(study(), "c", {}, {}))[0])
    planner = Planner(
        study(), "c", done, {}, lambda cell, trials: announced.append((cell, [trial.key.seed for trial in trials]))
    )
    drain(planner)
    drain(planner)
    assert announced == [(Cell("arm0", "python"), [1, 2]), (Cell("arm1", "python"), [1, 2])]


def test_what_earlier_launches_answered_is_counted_from_the_start() -> None:
    done = known(drain(Planner(study(arms=1, trials=1), "c", {}, {CELL: FakeSearch(temperatures(0.1))}))[0])
    search = FakeSearch(temperatures(0.1, 0.2), asked=1, told={0: (0.5, False)})
    planner = Planner(study(arms=1, trials=2), "c", done, {CELL: search})
    assert (planner.already_done, planner.done(), planner.total()) == (1, 1, 4)


def test_the_plan_of_a_dry_run_names_searches_and_seeds() -> None:
    planned = list(planned_trials(study(arms=1, trials=3)))
    assert planned == [
        ("arm0", "python", "search", "3 trials over temperature"),
        ("arm0", "python", "confirm", "seed 1"),
        ("arm0", "python", "confirm", "seed 2"),
    ]


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ({"arms": {"arm0": {"encoder": {"kind": "bag", "width": 99}}}}, True),
        ({"search": {"trials": 3, "space": {"temperature": {"low": 0.02, "high": 1}}}}, True),
        ({"search": {"trials": 3, "space": SPACE, "seed": 9}}, True),
        ({"search": {"trials": 3, "space": SPACE, "early_stopping": None}}, True),
        ({"search": {"trials": 30, "space": SPACE}}, False),
        ({"arms": {"arm0": {"encoder": {"kind": "bag", "width": 1}, "temperature": 0.5}}}, False),  # it is searched
        ({"seeds": [5]}, False),
        ({"resources": {"cpus": 2}}, False),
        ({"corpus": "moved"}, False),
    ],
)
def test_a_search_goes_on_only_where_its_answers_still_hold(change: dict[str, Any], another: bool) -> None:
    before = study(arms=1, trials=3)
    after = StudyConfig.model_validate({**before.model_dump(), **change})
    cell = Cell("arm0", "python")
    assert (search_name(before, cell, "c") != search_name(after, cell, "c")) == another


def test_another_corpus_is_another_search() -> None:
    cell = Cell("arm0", "python")
    assert search_name(study(trials=1), cell, "c") != search_name(study(trials=1), cell, "d")


@pytest.mark.parametrize(
    ("arm", "space", "before", "same"),
    [
        ({}, {}, "6efd5d8d063b518e", True),
        ({"loss": {"name": "debiased"}}, {}, "1a2562ac08b83bd2", True),
        ({"loss": {"name": "subsampled_infonce", "k": 8}}, {}, "83c721e1ff5c5e1c", False),
        ({"similarity": "dot"}, {}, "f8447d31b0f3ca23", False),
        ({}, {"similarity": {"choices": ["cosine", "dot"]}}, "90e4e25f88ab3dbc", False),
    ],
)
def test_a_search_is_the_one_that_it_was_unless_a_revision_of_the_method_concerns_it(
    arm: dict[str, Any], space: dict[str, Any], before: str, same: bool
) -> None:
    """`before`: what each was called before any revision concerned some settings only."""
    searched = StudyConfig.model_validate(
        {
            "study": "s",
            "corpus": "c",
            "languages": ["python"],
            "seeds": [1],
            "baseline": "arm",
            "arms": {"arm": {**arm, "search": space}},
            "search": {"trials": 2, "space": {"temperature": {"low": 0.03, "high": 0.1}}},
        }
    )
    assert (definition(searched, "arm", "c0ffee", "python") == before) == same


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.lists(st.sampled_from([0.1, 0.2, 0.3, -1.0]), max_size=4), max_size=3),
    st.integers(1, 4),
    st.booleans(),
)
def test_any_order_of_events_ends_with_each_trial_run_once(
    data: st.DataObject, arms: int, seeds: int, proposals: list[list[float]], slots: int, alike: bool
) -> None:
    config = study(arms, seeds, trials=1, alike=alike)
    searches: dict[Cell, FakeSearch] = {
        cell: FakeSearch(temperatures(*values), stops={0, 2})
        for cell, values in zip(cells(config), proposals, strict=False)
        if values
    }
    planner = Planner(config, "c", {}, searches)
    started: list[TrialKey] = []
    live: list[TrialKey] = []
    choose: Callable[[int], int] = lambda below: data.draw(st.integers(0, below - 1))  # noqa: E731
    for _ in range(1000):
        trial = planner.next() if len(live) < slots else None
        assert sorted(map(str, planner.live())) == sorted(map(str, [*live, *([trial.key] if trial else [])]))
        if trial is not None:
            assert trial.key not in started, "handed out twice"
            assert trial.key.training not in [key.training for key in live], "trained twice at once"
            started.append(trial.key)
            live.append(trial.key)
            assert not planner.finished
        if planner.finished:
            break
        assert live, "nothing runs and nothing comes, yet the study has not ended"
        if trial is None or len(live) == slots or data.draw(st.booleans()):
            key = live.pop(choose(len(live)))
            if data.draw(st.booleans()) and planner.report(key, 1, 0.1):
                assert key.phase == "search"
            planner.ended(key, data.draw(st.sampled_from([None, 0.2, 0.9])))
    assert planner.finished
    assert not live
    assert planner.next() is None
    assert planner.finished
    confirmed = {(key.arm, key.language) for key in started if key.phase == "confirm"}
    for cell in cells(config):
        search = searches.get(cell)
        assert search is None or search.finished
        possible = search is None or search.best() is not None
        assert ((cell.arm, cell.language) in confirmed) == possible
        runs = [
            key for key in started if key.phase == "confirm" and (key.arm, key.language) == (cell.arm, cell.language)
        ]
        assert len(runs) == (seeds if possible else 0)
