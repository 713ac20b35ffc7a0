"""The planner after damage, and where several arms come to the same settings: each trial once, nothing left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest

from softnce_ray.results import KnownTrial, TrialKey
from softnce_ray.study.cells import Cell, Trial
from softnce_ray.study.planner import Planner
from softnce_ray.study.search import CellSearch

from .test_planner import CELL, FakeSearch, drain, known, name, study, temperatures


def test_a_search_of_which_nothing_came_is_a_problem_and_is_not_confirmed() -> None:
    decided: list[Cell] = []
    search = FakeSearch(temperatures(0.1, 0.2))
    planner = Planner(
        study(arms=1, trials=2), "c", {}, {Cell("arm0", "python"): search}, lambda cell, _: decided.append(cell)
    )
    for trial in drain(planner):
        planner.failed(trial.key, "diverged", answers=True)
    assert planner.next() is None
    assert planner.finished and not planner.halted
    assert planner.done() == planner.total() == 2
    assert planner.problems == ["arm0/python: no search trial ran to its end, so there is nothing to confirm"]
    assert not decided


@pytest.mark.parametrize("told", [0, 2])
def test_a_cell_that_is_given_up_has_ended_with_what_was_answered_before(told: int) -> None:
    """So many of its three search trials had ended; its two confirmations fail, and two of arm1 are run."""
    config = study(seeds=2, trials=3)
    before = drain(Planner(config, "c", {}, {CELL: FakeSearch(temperatures(0.1, 0.2, 0.3))}))
    searched = [trial for trial in before if trial.key.phase == "search"][:told]
    seen = {key: each for trial in searched for key, each in known(trial).items()}
    search = FakeSearch(temperatures(0.1, 0.2, 0.3), told={n: (0.5, False) for n in range(told)}, asked=told)
    planner = Planner(config, "c", seen, {CELL: search})
    assert (planner.done(), planner.total()) == (told, 3 + 2 + 2)
    first = planner.next()
    assert first is not None
    planner.again(first)
    assert len(planner.give_up(CELL, "no such model")) == 2
    for trial in drain(planner):
        planner.ended(trial.key, 0.5)
    assert planner.next() is None and planner.finished
    assert planner.done() == planner.total() == told + 2 + 2


@pytest.mark.parametrize("kind", ["worker", "memory", "disk", "files", "error"])
def test_a_search_trial_that_the_machine_failed_waits_for_the_next_launch_and_its_search_with_it(kind: Any) -> None:
    search = FakeSearch(temperatures(0.1, 0.2, 0.3))
    planner = Planner(study(trials=3), "c", {}, {CELL: search})
    first, other, second = (planner.next() for _ in range(3))
    assert first is not None and second is not None and other is not None and other.key.arm == "arm1"
    planner.failed(first.key, kind, answers=False)
    assert planner.halted and not planner.finished
    assert [name(trial) for trial in drain(planner)] == ["arm1/python confirm 2"]  # no other proposal, no confirmation
    planner.ended(second.key, 0.9)
    for key in planner.live():
        planner.ended(key, 0.5)
    assert planner.next() is None and planner.finished
    assert search.told == {1: (0.9, False)}
    assert len(planner.problems) == 1
    assert planner.problems[0].startswith("arm0/python: its search waits for a trial that failed")


def test_a_search_that_is_disturbed_by_the_machine_proposes_and_chooses_as_undisturbed() -> None:
    config = study(arms=1, seeds=1, trials=9)
    rules = config.search
    assert rules is not None

    def value(trial: Trial) -> float:
        return 1 - abs(trial.config.resolved_temperature - 0.4)

    def run(fails: Callable[[int], bool]) -> tuple[list[Any], Trial]:
        storage = optuna.storages.InMemoryStorage()
        done: dict[TrialKey, KnownTrial] = {}
        attempts = 0
        while True:  # launch after launch
            search = CellSearch(storage, "cell", config.arms["arm0"], config.space("arm0"), rules)
            planner = Planner(config, "c", done, {CELL: search})
            while (trial := planner.next()) is not None:
                attempts += 1
                if trial.key.phase == "confirm":
                    return search.answers(), trial
                if fails(attempts):
                    planner.failed(trial.key, "worker", answers=False)
                else:
                    planner.report(trial.key, 1, value(trial))
                    planner.ended(trial.key, value(trial))
                    done |= known(trial, best_valid_mrr=value(trial))

    undisturbed = run(lambda attempt: False)
    assert len(undisturbed[0]) == 9
    assert run(lambda attempt: attempt % 3 != 0) == undisturbed


def test_a_search_trial_that_the_store_has_lost_is_run_once_more_and_answers_nothing_anew() -> None:
    searched = study(arms=1, seeds=1, trials=4)
    told = {0: (0.3, True), 1: (0.9, False), 2: (0.9, False), 3: (None, False)}
    search = FakeSearch(temperatures(0.1, 0.2, 0.2, 0.3), stops={0}, asked=4, told=dict(told))
    planner = Planner(searched, "c", {}, {CELL: search})
    assert (planner.already_done, planner.done(), planner.total()) == (0, 1, 5)  # the twin of the second
    trials = drain(planner)
    assert [trial.config.temperature for trial in trials] == [0.1, 0.2, 0.3, 0.2]
    assert [trial.key.phase for trial in trials] == ["search", "search", "search", "confirm"]
    assert [planner.report(trial.key, 1, 0.3) for trial in trials] == [True, False, False, False]
    for trial, kind in zip(trials, (None, "disk", "diverged", None), strict=True):
        if kind is None:
            planner.ended(trial.key, 0.3)
        else:
            planner.failed(trial.key, kind, answers=kind == "diverged")  # type: ignore[arg-type]
    assert planner.finished and not planner.halted
    assert search.told == told
    again = Planner(
        searched, "c", {**known(trials[0], stopped_early=True), **known(trials[2], "FAILED")}, {CELL: search}
    )
    assert [name(trial) for trial in drain(again)] == ["arm0/python search 0", "arm0/python confirm 1"]


def test_a_search_that_was_lost_hears_again_what_the_store_knows_of_its_trials() -> None:
    heard: list[tuple[int, int, float]] = []

    class Listening(FakeSearch):
        def report(self, number: int, epoch: int, value: float) -> bool:
            heard.append((number, epoch, value))
            return False

    searched = study(arms=1, trials=1)
    done = known(drain(Planner(searched, "c", {}, {CELL: FakeSearch(temperatures(0.1))}))[0])
    search = Listening(temperatures(0.1))
    drain(Planner(searched, "c", done, {CELL: search}, history=lambda trial: ((1, 0.2), (2, 0.4))))
    assert heard == [(0, 1, 0.2), (0, 2, 0.4)]
    assert search.told == {0: (0.5, False)}


@pytest.mark.parametrize(
    ("values", "in_store", "on_disk", "again"),
    [
        ((0.4, 0.6), (), (), [2]),
        ((0.4, 0.6), (2,), (), []),
        ((0.4, 0.6), (), (2,), []),
        ((0.4, 0.6), (1,), (1,), [2]),
        ((0.6, 0.6), (), (), [1, 2]),
        ((0.6, 0.6), (1,), (), []),
        ((0.6, 0.6), (), (1,), [2]),
    ],
)
def test_the_best_trial_of_a_cell_is_trained_again_where_its_model_is_nowhere(
    values: tuple[float, float], in_store: tuple[int, ...], on_disk: tuple[int, ...], again: list[int]
) -> None:
    done: dict[TrialKey, KnownTrial] = {}
    for trial, value in zip(drain(Planner(study(arms=1), "c", {}, {})), values, strict=True):
        done |= known(trial, best_valid_mrr=value, has_model=trial.key.seed in in_store)
    planner = Planner(study(arms=1), "c", done, {}, keeps_model=lambda key: key.seed in on_disk)
    assert [trial.key.seed for trial in drain(planner)] == again
    assert planner.already_done == 2 - len(again)


# --- arms that come to the same settings ---


def test_a_trial_waits_while_another_arm_s_is_trained_with_the_same_settings() -> None:
    planner = Planner(study(alike=True), "c", {}, {})
    first, second = drain(planner)
    assert [name(trial) for trial in (first, second)] == ["arm0/python confirm 1", "arm0/python confirm 2"]
    assert not planner.finished
    assert planner.awaits(first.key.training) and planner.awaits(second.key.training)
    planner.ended(second.key, 0.5)
    assert [name(trial) for trial in drain(planner)] == ["arm1/python confirm 2"]
    assert not planner.awaits(second.key.training)
    planner.again(first)  # its worker was lost: it is the next, and the one that waits goes on waiting
    assert [name(trial) for trial in drain(planner)] == ["arm0/python confirm 1"]
    planner.failed(first.key, "disk", answers=False)
    (last,) = drain(planner)
    assert name(last) == "arm1/python confirm 1"
    for key in planner.live():
        planner.ended(key, 0.5)
    assert planner.finished


def test_searches_that_propose_the_same_are_trained_one_after_the_other() -> None:
    searches = {Cell(arm, "python"): FakeSearch(temperatures(0.1, 0.2)) for arm in ("arm0", "arm1")}
    planner = Planner(study(trials=2, alike=True), "c", {}, searches)
    live = drain(planner)
    assert [(trial.key.arm, trial.config.temperature) for trial in live] == [("arm0", 0.1), ("arm0", 0.2)]
    planner.ended(live[0].key, 0.7)
    (same,) = drain(planner)
    assert (same.key.arm, same.key.training) == ("arm1", live[0].key.training)
    planner.ended(same.key, 0.7)
    assert searches[Cell("arm1", "python")].told == {0: (0.7, False)}


def test_a_search_trial_and_a_confirmation_are_no_training_of_one_another() -> None:
    key = TrialKey("a", "python", "search", 1, "c0ffee")
    assert key.training != TrialKey("a", "python", "confirm", 1, "c0ffee").training == "c0ffee"
