"""Estimates of how long a study takes: worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from softnce_ray.results import TimedTrial
from softnce_ray.study.estimate import (
    SEARCHED,
    Planned,
    Running,
    Work,
    cell_time,
    how_long,
    likeness,
    wall_seconds,
)

SETTINGS = {
    "encoder.kind": "bag",
    "encoder.width": "64",
    "tokens.code_length": "256",
    "training.batch_size": "32",
    "training.epochs": "4",
    "loss.name": "infonce",
    "temperature": "0.05",
    "language": "python",
    "seed": "1",
}


def timed(
    seconds: float = 20, epochs: int = 4, epoch: float = 4, *, phase: str = "confirm", **changes: Any
) -> TimedTrial:
    settings = {**SETTINGS, **changes.pop("settings", {})}
    values = {"corpus": "c", "pairs": 1000, "resources": "1 CPUs", **changes}
    return TimedTrial(phase=phase, settings=settings, seconds=seconds, epochs=epochs, epoch_seconds=epoch, **values)


def planned(search: int = 0, confirm: int = 2, *, epochs: int = 4, **changes: Any) -> Planned:
    settings = {**SETTINGS, "training.epochs": str(epochs), **changes.pop("settings", {})}
    values = {"corpus": "c", "pairs": 1000, "resources": "1 CPUs", **changes}
    return Planned("arm", "python", settings, epochs=epochs, search=search, confirm=confirm, **values)


@pytest.mark.parametrize(
    ("trial", "to", "expected"),
    [
        (timed(), planned(), 0),
        (timed(settings={"seed": "9"}), planned(epochs=7), 0),
        (timed(settings={"temperature": "0.3"}), planned(), 1),
        (timed(settings={"temperature": "0.3"}), planned(settings={"temperature": SEARCHED}), 0),
        (timed(settings={"loss.name": "soft_infonce", "loss.alpha": "1"}), planned(), 1),
        (timed(phase="measured"), planned(settings={"loss.name": "soft_infonce"}), 2),
        (timed(corpus="other"), planned(), 3),
        (timed(settings={"language": "ruby"}), planned(), 3),
        (timed(settings={"training.batch_size": "64"}), planned(), 4),
        (timed(settings={"encoder.width": "9"}), planned(), 4),
        (timed(settings={"encoder.width": "9"}, pairs=0), planned(), None),
        (timed(settings={"encoder.kind": "minilm"}), planned(), None),
        (timed(resources="1 CPUs, 1 GPUs"), planned(), None),
        (timed(resources=""), planned(), 0),
        (timed(epochs=0), planned(), None),
        (timed(), planned(model="trained"), 1),
        (timed(settings={"encoder.width": "9"}), planned(model="trained"), 4),
        (timed(phase="simcse"), planned(), None),
        (timed(phase="simcse"), planned(model="trained"), None),
        (timed(phase="simcse"), planned(model="simcse"), 5),
        (timed(phase="simcse", settings={"encoder.width": "9"}), planned(model="simcse"), 6),
        (timed(settings={"training.batch_size": "64"}), planned(model="simcse"), 7),
        (timed(settings={"encoder.width": "9"}), planned(model="simcse"), 8),
        (timed(phase="measured simcse"), planned(model="simcse"), 2),
        (timed(phase="measured simcse"), planned(), None),
        (timed(phase="measured"), planned(model="simcse"), None),
    ],
)
def test_the_more_alike_the_lower(trial: TimedTrial, to: Planned, expected: int | None) -> None:
    assert likeness(to, trial) == expected


def test_what_is_beside_the_epochs_does_not_grow_with_them() -> None:
    """4 epochs of 4 s in 20 s: 4 s beside them. 10 epochs take 44 s."""
    found = cell_time(planned(epochs=10), [timed()])
    assert found is not None
    assert (found.confirm_seconds, found.factor, found.timed) == (44, 1.5, 1)


def test_the_first_trial_of_a_process_is_counted_once() -> None:
    """4 s and 14 s beside the epochs: 4 s is the rule, and 10 s more the start."""
    found = cell_time(planned(), [timed(20), timed(30)])
    assert found is not None
    assert (found.confirm_seconds, found.start, found.factor) == (20, 10, 1.2)


def test_the_factor_is_two_standard_deviations_of_the_logarithms() -> None:
    """Epochs of 4 s and 16 s and nothing beside: 16 and 64 s, whose logarithms are 2 ln 2 apart, a deviation of
    sqrt(2) ln 2. The factor is 2^(2 sqrt(2)), and the mean 40 s."""
    found = cell_time(planned(), [timed(16, epoch=4), timed(64, epoch=16)])
    assert found is not None
    assert found.confirm_seconds == 40
    assert found.factor == pytest.approx(2 ** (2 * 2**0.5))


def test_other_data_takes_as_much_longer_as_it_has_more_pairs() -> None:
    """1,000 pairs in 4 s: 3,000 pairs in 12 s, four times, and 4 s beside."""
    found = cell_time(planned(pairs=3000), [timed(corpus="other"), timed(corpus="other")])
    assert found is not None
    assert (found.confirm_seconds, found.factor) == (52, 2.0)
    assert found.basis.startswith("with the same encoder and batches on other data")


def test_only_the_most_alike_count() -> None:
    found = cell_time(planned(), [timed(999, epoch=200, settings={"encoder.width": "9"}), timed(), timed(20.0)])
    assert found is not None
    assert (found.confirm_seconds, found.timed, found.basis) == (20, 2, "of the same arm")


def test_searches_that_stop_early_are_expected_to_again() -> None:
    """Two search trials, of 4 epochs and 1 of 4: on average 5/8. Of 8 epochs of 4 s that is 20 s, and 4 s beside."""
    trials = [timed(20, phase="search"), timed(8, epochs=1, phase="search"), timed(22)]
    settings = planned(search=3, epochs=8)
    found = cell_time(settings, trials)
    assert found is not None
    assert (found.search_seconds, found.confirm_seconds) == (24, 38)
    whole = cell_time(planned(search=3, epochs=8, stops=False), trials)
    assert whole is not None
    assert whole.search_seconds == 36


def test_slots_are_filled_and_confirmations_wait_for_their_search() -> None:
    # Two cells on two slots. At 0 and 0 both begin a search trial of 10 s; 10 to 20 the second of each; then one
    # confirmation of each, 20 to 50.
    assert wall_seconds([Work(2, 10, 1, 30)] * 2, 2) == 50
    # One cell: three search trials on two slots end at 20, one slot being idle from 10; then 30 s.
    assert wall_seconds([Work(3, 10, 1, 30)], 2) == 50
    # A trial that runs holds its cell's confirmation up; the other slot has nothing to do.
    assert wall_seconds([Work(0, 10, 1, 30)], 2, [Running(0, True, 7)]) == 37
    assert wall_seconds([Work(0, 10, 1, 30)], 2, [Running(0, False, 7)]) == 30
    assert wall_seconds([Work(0, 10, 3, 30)], 1, [Running(0, False, 7)]) == 97
    assert wall_seconds([], 2) == 0


def test_of_many_trials_the_mean_is_told() -> None:
    assert wall_seconds([Work(100_000, 2, 10, 5)], 4) == 200_050 / 4


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5_399, "90 min"),
        (5_400, "1.5 h"),
        (129_600, "1.5 days"),
        (36_000, "10 h"),
    ],
)
def test_times_have_two_figures(seconds: float, expected: str) -> None:
    assert how_long(seconds) == expected
