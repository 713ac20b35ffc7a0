"""The planner of a study that asks for precision: when another seed is added to a language."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.config import StudyConfig
from softnce_ray.results import KnownTrial, TrialKey
from softnce_ray.study.cells import Cell, Trial
from softnce_ray.study.definitions import definition
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Planner

from . import test_planner
from .test_planner import FakeSearch, drain, known, name, temperatures

MOST = 6


def study(at_least: int = 2, at_most: int = MOST, **options: Any) -> StudyConfig:
    """`test_planner.study` with a precision in the place of its seeds."""
    seeds = {"at_least": at_least, "at_most": at_most, "half_width": 0.01}
    return StudyConfig.model_validate({**test_planner.study(**options).model_dump(), "seeds": seeds})


class UpTo:
    """Asks for seeds up to a number for each language, and keeps what it was given."""

    def __init__(self, **counts: int) -> None:
        self.counts = counts
        self.asked: list[tuple[str, dict[str, list[int]]]] = []

    def __call__(self, language: str, trials: Mapping[str, Sequence[TrialKey]]) -> bool:
        seeds = {arm: [key.seed for key in keys] for arm, keys in sorted(trials.items())}
        self.asked.append((language, seeds))
        return max(map(len, seeds.values())) < self.counts[language]


def end_all(planner: Planner) -> list[str]:
    """Hand out and end whatever there is, one after another."""
    names = []
    while (trial := planner.next()) is not None:
        names.append(name(trial))
        planner.ended(trial.key, 0.5)
    return names


def test_a_seed_is_added_to_all_arms_of_a_language_once_all_of_them_have_ended() -> None:
    more = UpTo(python=3, ruby=2)
    planner = Planner(study(languages=("python", "ruby")), "c", {}, {}, more_seeds=more)
    first = drain(planner)
    assert len(first) == planner.total() == 8
    for trial in first[:-1]:  # the last is of arm1 in ruby
        assert trial.key.language == "python" or name(trial) != "arm1/ruby confirm 2"
        planner.ended(trial.key, 0.5)
    assert name(first[-1]) == "arm1/ruby confirm 2"
    added = drain(planner)
    assert [name(trial) for trial in added] == ["arm0/python confirm 3", "arm1/python confirm 3"]
    assert more.asked == [("python", {"arm0": [1, 2], "arm1": [1, 2]})]
    assert (planner.done(), planner.total(), planner.finished) == (7, 10, False)
    planner.ended(first[-1].key, 0.5)
    planner.ended(added[0].key, 0.5)
    assert planner.next() is None and not planner.finished
    planner.ended(added[1].key, 0.5)
    assert planner.next() is None and planner.finished
    assert more.asked[1:] == [
        ("ruby", {"arm0": [1, 2], "arm1": [1, 2]}),
        ("python", {"arm0": [1, 2, 3], "arm1": [1, 2, 3]}),
    ]
    assert planner.done() == planner.total() == 10


def test_a_study_has_not_finished_while_a_decision_is_open() -> None:
    planner = Planner(study(arms=1), "c", {}, {}, more_seeds=UpTo(python=2))
    for trial in drain(planner):
        planner.ended(trial.key, 0.5)
    assert not planner.finished
    assert planner.next() is None and planner.finished


def test_seeds_that_may_come_supersede_none_that_are_there() -> None:
    told: list[tuple[Cell, list[int]]] = []
    planner = Planner(
        study(arms=1),
        "c",
        {},
        {},
        lambda cell, trials: told.append((cell, [trial.key.seed for trial in trials])),
        more_seeds=UpTo(python=3),
    )
    end_all(planner)
    assert told == [(Cell("arm0", "python"), [1, 2, 3, 4, 5, 6])]


def test_a_trial_is_the_same_whether_its_seed_is_listed_or_comes_by_precision() -> None:
    by_precision, listed = study(), test_planner.study(seeds=4)
    trials = drain(Planner(listed, "c", {}, {}))
    done = {key: each for trial in trials for key, each in known(trial).items()}
    planner = Planner(by_precision, "c", done, {}, more_seeds=UpTo(python=4))
    assert planner.next() is None
    assert (planner.finished, planner.already_done, planner.done(), planner.total()) == (True, 8, 8, 8)
    assert definition(by_precision, "arm0", "c", "python") == definition(listed, "arm0", "c", "python")


def test_a_launch_decides_anew_from_the_first_seeds_and_goes_on_after_those_that_are_there() -> None:
    trials = drain(Planner(test_planner.study(seeds=4), "c", {}, {}))
    done = {
        key: each for trial in trials if name(trial) != "arm1/python confirm 4" for key, each in known(trial).items()
    }
    more = UpTo(python=5)
    planner = Planner(study(), "c", done, {}, more_seeds=more)
    assert end_all(planner) == ["arm1/python confirm 4", "arm0/python confirm 5", "arm1/python confirm 5"]
    assert [len(trials["arm0"]) for _, trials in more.asked] == [2, 3, 4, 5]
    assert planner.finished


def test_a_trial_that_failed_for_good_holds_nothing_up_and_one_that_is_tried_again_does() -> None:
    planner = Planner(study(), "c", {}, {}, more_seeds=UpTo(python=3))
    first, *rest = drain(planner)
    for trial in rest:
        planner.ended(trial.key, 0.5)
    planner.again(first)
    assert planner.next() == first
    assert planner.next() is None
    planner.failed(first.key, "error", answers=False)
    assert [name(trial) for trial in drain(planner)] == ["arm0/python confirm 3", "arm1/python confirm 3"]


def test_an_arm_that_is_given_up_gets_no_further_seeds_and_the_others_do() -> None:
    more = UpTo(python=3)
    planner = Planner(study(), "c", {}, {}, more_seeds=more)
    for trial in drain(planner):  # a launch looks whether there is anything to do before it prepares
        planner.again(trial)
    recorded = planner.give_up(Cell("arm1", "python"), "no tokens")
    assert [name(trial) for trial in recorded] == ["arm1/python confirm 1", "arm1/python confirm 2"]
    assert sorted(end_all(planner)) == [f"arm0/python confirm {seed}" for seed in (1, 2, 3)]
    assert planner.finished
    alone = Planner(study(arms=1), "c", {}, {}, more_seeds=UpTo(python=3))
    alone.give_up(Cell("arm0", "python"), "no tokens")
    assert alone.next() is None and alone.finished


def test_a_language_whose_search_waits_for_the_next_launch_gets_no_seeds_in_this_one() -> None:
    more = UpTo(python=3)
    search = FakeSearch(temperatures(0.1))
    planner = Planner(study(trials=1), "c", {}, {Cell("arm0", "python"): search}, more_seeds=more)
    for trial in drain(planner):
        if trial.key.phase == "search":
            planner.failed(trial.key, "worker", answers=False)
        else:
            planner.ended(trial.key, 0.5)
    assert planner.next() is None
    assert (planner.finished, planner.halted, more.asked) == (True, True, [])


def test_seeds_are_added_once_searches_have_chosen() -> None:
    search = FakeSearch(temperatures(0.1, 0.2))
    planner = Planner(study(arms=1, trials=2), "c", {}, {Cell("arm0", "python"): search}, more_seeds=UpTo(python=4))
    assert planner.total() == 4
    names = end_all(planner)
    assert names[-4:] == [f"arm0/python confirm {seed}" for seed in (1, 2, 3, 4)]
    assert planner.done() == planner.total() == 6


def test_arms_that_share_a_training_wait_for_both() -> None:
    more = UpTo(python=3)
    planner = Planner(study(alike=True), "c", {}, {}, more_seeds=more)
    first, second = drain(planner)
    assert planner.awaits(first.key.training)
    planner.ended(first.key, 0.5)
    planner.ended(second.key, 0.5)
    assert more.asked == []
    names = end_all(planner)
    assert sorted(names) == ["arm0/python confirm 3", *(f"arm1/python confirm {seed}" for seed in (1, 2, 3))]
    assert planner.finished


def test_the_model_of_the_best_of_all_seeds_is_made_again_where_it_is_lost() -> None:
    trials = drain(Planner(test_planner.study(arms=1, seeds=4), "c", {}, {}))
    values = {1: 0.5, 2: 0.4, 3: 0.9, 4: 0.6}
    done: dict[TrialKey, KnownTrial] = {}
    for trial in trials:
        done |= known(trial, best_valid_mrr=values[trial.key.seed])
    options: dict[str, Any] = {"keeps_model": lambda key: False}
    planner = Planner(study(arms=1), "c", done, {}, more_seeds=UpTo(python=4), **options)
    again = planner.next()
    assert again is not None and again.key.seed == 3
    assert not planner.finished
    assert planner.done() == planner.total() - 1 == 3
    planner.ended(again.key, 0.9)
    assert planner.next() is None and planner.finished
    # The best one of this launch is no reason to train an earlier one again.
    del done[trials[3].key]
    planner = Planner(study(arms=1), "c", done, {}, more_seeds=UpTo(python=4), **options)
    last = planner.next()
    assert last is not None and last.key.seed == 4
    planner.ended(last.key, 0.95)
    assert planner.next() is None and planner.finished


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_study_that_is_killed_at_any_points_ends_with_the_seeds_of_the_undisturbed_one(by: int, alike: bool) -> None:
    chance = random.Random(by)
    counts = {language: chance.randint(2, MOST) for language in ("python", "ruby")}
    planned = study(languages=("python", "ruby"), alike=alike)
    done: dict[TrialKey, KnownTrial] = {}
    while True:
        planner = Planner(planned, "c", done, {}, more_seeds=UpTo(**counts))
        live: list[Trial] = []
        for _ in range(chance.randint(1, 40)):
            assert planner.done() <= planner.total()
            trial = planner.next() if chance.random() < 0.5 or not live else None
            if trial is not None:
                live.append(trial)
            elif live:
                ended = live.pop(chance.randrange(len(live)))
                planner.ended(ended.key, 0.5)
                done |= known(ended)
            if planner.finished:
                break
        if planner.finished:
            break
    assert planner.done() == planner.total() == len(done) == 2 * sum(counts.values())
    asked = {language: sorted({key.seed for key in done if key.language == language}) for language in counts}
    assert asked == {language: list(range(1, count + 1)) for language, count in counts.items()}


def test_a_dry_run_says_the_least_the_most_and_the_half_width() -> None:
    assert list(planned_trials(study(at_least=3, at_most=12, arms=1))) == [
        ("arm0", "python", "confirm", "seeds 1 to 3, up to 12 until the half-width is 0.01")
    ]
