"""Budgets: where searches end so that confirmations fit, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from softnce_ray.config import Budget, StudyConfig
from softnce_ray.results import KnownTrial, TrialKey
from softnce_ray.study.budget import Limit, budget_left, budget_text, is_larger, left_out, rounds_within
from softnce_ray.study.cells import Cell, Trial, cells
from softnce_ray.study.pace import Pace
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Planner

from .test_pace import Clock
from .test_planner import FakeSearch, drain, known, study, temperatures

VALUES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def budgeted(budget: Budget, arms: int = 2, seeds: int = 2) -> StudyConfig:
    plain = study(arms=arms, seeds=seeds, trials=len(VALUES)).model_dump(mode="json")
    return StudyConfig.model_validate({**plain, "budget": budget.model_dump()})


def searches(config: StudyConfig, told: int = 0) -> dict[Cell, FakeSearch]:
    """A search for each cell, of which so many proposals are answered, each better than the one before."""
    return {
        cell: FakeSearch(temperatures(*VALUES), told={n: (n / 10, False) for n in range(told)}, asked=told)
        for cell in cells(config)
    }


def plan(config: StudyConfig, found: dict[Cell, FakeSearch], limit: Limit | None = None, **more: Any) -> Planner:
    assert config.budget is not None
    return Planner(
        config, "c", more.pop("known", {}), found, allows=(limit or Limit(config.budget, Pace())).allows, **more
    )


def run(planner: Planner, at_once: int = 1, *, better: float = 0.0) -> list[Trial]:
    """All trials to the end, the first to begin ending first, each better than the one before."""
    live: list[Trial] = []
    ran: list[Trial] = []
    while True:
        while len(live) < at_once and (trial := planner.next()) is not None:
            live.append(trial)
            ran.append(trial)
        if not live:
            return ran
        planner.ended(live.pop(0).key, better + len(ran) / 100)


def everything(config: StudyConfig) -> dict[TrialKey, KnownTrial]:
    """All search trials, as a store that has them knows them."""
    found: dict[TrialKey, KnownTrial] = {}
    for trial in drain(Planner(config, "c", {}, searches(config))):
        found |= known(trial)
    return found


def phases(ran: list[Trial]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for trial in ran:
        counts[trial.key.arm, trial.key.phase] = counts.get((trial.key.arm, trial.key.phase), 0) + 1
    return counts


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_a_budget_of_trials_is_shared_evenly_and_leaves_the_confirmations(at_once: int) -> None:
    """Of 11 trials 4 confirm: 7 are left for two searches, which is 3 rounds and one trial over."""
    config = budgeted(Budget(trials=11))
    planner = plan(config, searches(config))
    assert (planner.total(), planner.left_out()) == (16, [])
    ran = run(planner, at_once)
    assert phases(ran) == {(arm, phase): n for arm in ("arm0", "arm1") for phase, n in (("search", 3), ("confirm", 2))}
    assert planner.finished
    assert (planner.left_out(), planner.done(), planner.total()) == ([3, 3], 10, 10)
    assert rounds_within(11, 2, 4) == 3


def test_one_that_is_large_enough_changes_nothing() -> None:
    config = budgeted(Budget(trials=16, hours=1000))
    planner = plan(config, searches(config))
    assert len(run(planner)) == 16
    assert left_out(Budget(trials=16), planner.left_out(), 6) == ""


def test_a_larger_budget_goes_on_and_the_same_does_nothing() -> None:
    small, large = budgeted(Budget(trials=8)), budgeted(Budget(trials=12))
    found = searches(small)
    store: dict[TrialKey, KnownTrial] = {}
    for trial in run(plan(small, found)):
        store |= known(trial)
    assert {cell: len(search.told) for cell, search in found.items()} == {cell: 2 for cell in cells(small)}
    assert not drain(plan(small, found, known=store))
    ran = run(plan(large, found, known=store), better=0.5)
    # 12 less 4 confirmations are 4 of each; that of arm0 chose other values, which are confirmed anew
    assert {cell: len(search.told) for cell, search in found.items()} == {cell: 4 for cell in cells(small)}
    assert phases(ran)["arm0", "confirm"] == 2
    assert len(run(Planner(study(trials=6), "c", store, found))) >= 4  # without a budget, to the end
    assert all(search.finished for search in found.values())


def test_an_arm_that_came_later_catches_up() -> None:
    """Three of arm0 are done, and 10 less 4 are 3 for each."""
    config = budgeted(Budget(trials=10))
    found = searches(config)
    first = found[Cell("arm0", "python")]
    first.told, first.asked = {n: (n / 10, False) for n in range(3)}, 3
    seen = {
        trial.key: each for trial in drain(Planner(config, "c", {}, searches(config))) for each in known(trial).values()
    }
    planner = plan(config, found, known=seen)
    ran = [trial for trial in run(planner) if trial.key.phase == "search"]
    assert [len(search.told) for search in found.values()] == [3, 3]
    assert all(trial.key.arm == "arm1" for trial in ran)


def test_seeds_that_may_be_added_are_kept_room_for() -> None:
    """Of 13 trials 2 x 4 may confirm: 5 are left for two searches, which is 2 rounds."""
    plain = budgeted(Budget(trials=13)).model_dump(mode="json")
    precision = {"at_least": 2, "at_most": 4, "half_width": 0.01}
    config = StudyConfig.model_validate({**plain, "seeds": precision})
    ran = run(plan(config, searches(config), more_seeds=lambda language, trials: True))
    assert phases(ran) == {(arm, phase): n for arm in ("arm0", "arm1") for phase, n in (("search", 2), ("confirm", 4))}


def test_a_budget_of_hours_begins_no_round_that_leaves_too_little_time() -> None:
    """Trials of 10 minutes one after another, two cells of two seeds: confirmations take 40 minutes, a round 20. After
    two rounds 40 minutes are gone; a third and the confirmations would take 60 more and a tenth: 106 of 105."""
    config, clock = budgeted(Budget(hours=105 / 60)), Clock()
    pace = Pace(clock=clock)
    limit = Limit(Budget(hours=105 / 60), pace, clock=clock)
    planner = plan(config, searches(config), limit)
    ran = []
    while (trial := planner.next()) is not None:
        pace.began(trial.key)
        clock.now += 600
        pace.ended(trial.key, 1.0)
        planner.ended(trial.key, 0.5)
        ran.append(trial)
    assert phases(ran) == {(arm, phase): 2 for arm in ("arm0", "arm1") for phase in ("search", "confirm")}
    assert limit.seconds == 80 * 60
    assert limit.within(9999) == 25 * 60
    assert left_out(Budget(hours=1.75), planner.left_out(), 6) == (
        "the budget of 1.75 hours ended the searches after 2 of 6 trials of each cell, and 8 search trials were left "
        "out: a larger budget, or none, goes on with them"
    )


def test_hours_of_earlier_launches_count_and_what_is_expected_is_used_before_anything_ran() -> None:
    clock = Clock()
    cell = Cell("arm0", "python")
    expected = {(cell, "search"): 600.0, (cell, "confirm"): 600.0}
    for spent, allowed in ((0, True), (2400, True), (2460, False)):  # 1.1 times 1,200 s fit into 1,320 s
        limit = Limit(Budget(hours=3720 / 3600), Pace(expected, clock=clock), spent=spent, clock=clock)
        assert limit.allows([(cell, 1, 1)], 0) == allowed
    assert Limit(Budget(hours=0.001), Pace(clock=clock), clock=clock).allows([(cell, 9, 9)], 0)  # nothing is known


def test_a_search_that_hours_have_ended_goes_on_with_more_of_them_only() -> None:
    config = budgeted(Budget(hours=1))
    assert not is_larger(Budget(hours=1), budget_text(Budget(hours=1)))
    assert is_larger(Budget(hours=2), budget_text(Budget(hours=1)))
    assert is_larger(Budget(trials=20), budget_text(Budget(hours=1)))
    assert is_larger(Budget(hours=1), "")
    planner = plan(config, searches(config, told=3), known=everything(config), ended=True)
    assert [trial.key.phase for trial in drain(planner)] == ["confirm"] * 4


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(trials=11), "3 of 6 trials over temperature, by the budget of 11 trials"),
        (Budget(trials=16), "6 trials over temperature"),
        (Budget(hours=2), "up to 6 trials over temperature, by the budget of 2 hours"),
        (Budget(hours=2, trials=8), "up to 2 of 6 trials over temperature, by the budget of 2 hours and 8 trials"),
    ],
    ids=str,
)
def test_a_dry_run_lists_what_the_budget_leaves(budget: Budget, expected: str) -> None:
    listed = [what for _, _, phase, what in planned_trials(budgeted(budget)) if phase == "search"]
    assert listed == [expected] * 2


@pytest.mark.parametrize(
    ("budget", "begun", "spent", "ended", "expected"),
    [
        (Budget(trials=11), [0, 0], 0, "", ""),  # nothing has begun
        (Budget(trials=11), [2, 3], 0, "", ""),  # a round is left
        (
            Budget(trials=11),
            [3, 3],
            0,
            '{"trials":11}',
            "the budget of 11 trials ended the searches after 3 of 6 trials",
        ),
        (Budget(trials=16), [6, 6], 0, "", ""),  # all of them have ended
        (Budget(hours=2), [3, 3], 1800, "", "of the budget of 2 hours 1.5 h is left"),
        (Budget(hours=2), [3, 2], 7200, "", "the budget of 2 hours ended the searches after 2 to 3 of 6 trials"),
        (Budget(hours=2), [3, 0], 5400, '{"hours":2.0}', "the budget of 2 hours ended the searches after 1 to 3 of 6"),
        (Budget(hours=4), [3, 3], 7200, '{"hours":2.0}', "of the budget of 4 hours 2.0 h is left"),
    ],
)
def test_what_earlier_launches_left_of_a_budget(
    budget: Budget, begun: list[int], spent: float, ended: str, expected: str
) -> None:
    said = budget_left(budgeted(budget), begun, spent, ended)
    assert said.startswith(expected) and bool(said) == bool(expected)


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected at least 6, 4 confirmations and a search trial of each cell"):
        budgeted(Budget(trials=5))
    with pytest.raises(ValidationError, match="expected hours or trials, got neither"):
        Budget()
    with pytest.raises(ValidationError, match="this study has none"):
        StudyConfig.model_validate({**study().model_dump(mode="json"), "budget": {"trials": 50}})


def test_a_study_without_a_budget_is_written_as_before() -> None:
    assert "budget" not in study(trials=3).model_dump(mode="json")
