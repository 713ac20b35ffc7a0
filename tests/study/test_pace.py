"""When a launch will have ended, by its own trials: worked by hand on a clock of the test's own."""

from __future__ import annotations

from softnce_ray.results import TrialKey
from softnce_ray.study.cells import Cell
from softnce_ray.study.pace import Pace
from softnce_ray.study.planner import Planner

from .test_planner import FakeSearch, drain, study, temperatures

A, B = Cell("a", "python"), Cell("b", "python")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key(cell: Cell, phase: str, number: int) -> TrialKey:
    return TrialKey(cell.arm, cell.language, phase, number, f"{phase}{number}")


def run(pace: Pace, clock: Clock, of: TrialKey, seconds: float, share: float | None = 1.0) -> None:
    pace.began(of)
    clock.now += seconds
    pace.ended(of, share)


def test_nothing_is_told_before_a_trial_has_ended() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.began(key(A, "confirm", 1))
    clock.now += 1000
    assert pace.left([(A, 0, 3)]) is None
    pace.ended(key(A, "confirm", 1), None)  # it failed, or took another's result
    assert pace.left([(A, 0, 3)]) is None


def test_a_confirmation_takes_all_epochs_that_a_search_trial_left_out() -> None:
    """Search trials of 10 s, one of them stopped after half its epochs, took 10 and 5 s: the next will take 7.5 s and a
    confirmation 10 s."""
    clock = Clock()
    pace = Pace(clock=clock)
    run(pace, clock, key(A, "search", 0), 10)
    run(pace, clock, key(A, "search", 1), 5, 0.5)
    assert (pace.seconds(A, "search"), pace.seconds(A, "confirm")) == (7.5, 10)
    assert (pace.seconds(B, "search"), pace.seconds(B, "confirm")) == (10, 10)  # by those of the other
    run(pace, clock, key(A, "confirm", 1), 12)
    assert (pace.seconds(A, "search"), pace.seconds(A, "confirm")) == (7.5, 12)


def test_what_is_left_is_played_through_with_the_trials_that_run() -> None:
    """Trials of 20 s on two slots. One of b has run for 15 s: it ends in 5. Three of a: at 0, 5 and 20, to 40."""
    clock = Clock()
    pace = Pace(clock=clock)
    pace.slots = 2
    run(pace, clock, key(A, "confirm", 1), 20)
    pace.began(key(B, "confirm", 1))
    clock.now += 15
    assert pace.left([(A, 0, 3), (B, 0, 0)]) == 40
    clock.now += 100  # later than expected: any moment now
    assert pace.left([(A, 0, 3), (B, 0, 0)]) == 40
    assert pace.left([(A, 0, 0), (B, 0, 0)]) == 0


def test_a_trial_that_is_tried_again_is_timed_anew() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    run(pace, clock, key(A, "confirm", 1), 500, None)
    run(pace, clock, key(A, "confirm", 1), 8, 0.5)  # from its checkpoint on
    assert pace.seconds(A, "confirm") == 16


def test_what_is_left_is_what_was_not_handed_out() -> None:
    searches = {Cell("arm0", "python"): FakeSearch(temperatures(0.1, 0.2, 0.3))}
    planner = Planner(study(trials=3), "c", {}, searches)
    assert planner.left() == [(Cell("arm0", "python"), 3, 2), (Cell("arm1", "python"), 0, 2)]
    first, other = planner.next(), planner.next()
    assert first is not None
    assert other is not None
    assert planner.left() == [(Cell("arm0", "python"), 2, 2), (Cell("arm1", "python"), 0, 1)]
    planner.ended(first.key, 0.5)
    assert planner.left()[0] == (Cell("arm0", "python"), 2, 2)
    for trial in drain(planner):
        planner.ended(trial.key, 0.4)
    assert [trial.key.seed for trial in (planner.next(), planner.next()) if trial] == [1, 2]
    assert planner.left() == [(Cell("arm0", "python"), 0, 0), (Cell("arm1", "python"), 0, 0)]
