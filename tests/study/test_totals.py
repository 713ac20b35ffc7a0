"""Estimates of whole studies, with preparing, budgets and seeds that may be added: worked by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.config import Budget, Resources
from softnce_ray.corpus import Corpus
from softnce_ray.results import SeedsAsked, TimedTrial
from softnce_ray.study.cost_lines import Bounds, lines
from softnce_ray.study.costs import Known, planned_cells
from softnce_ray.study.estimate import Planned
from softnce_ray.study.totals import estimate

from .test_estimate import planned, timed

LIKE = [timed(), timed()]
"""Trials of 20 s, 4 s of them beside four epochs of 4 s; two of them may be off by 1.2."""


def told(found, **bounds) -> list[str]:
    return lines(found, Resources(), "no memory", Bounds(**bounds))


def spans(*seconds: float, by: float = 1.2) -> Any:
    """10 s until workers run, and these seconds, which may be off by a factor."""
    whole = sum(seconds)
    return pytest.approx((10 + whole, 10 + whole / by, 10 + whole * by))


def test_nothing_alike_is_told() -> None:
    found = estimate([planned(), planned(settings={"encoder.kind": "minilm"}), planned(0, 0)], [timed()], 2)
    assert [cell.planned.settings["encoder.kind"] for cell in found.cells] == ["bag"]
    assert [cell.settings["encoder.kind"] for cell in found.unknown] == ["minilm"]
    assert found.seconds() == 40
    assert found.wall == spans(20, by=1.5)


def test_seeds_that_may_be_added_run_one_after_another() -> None:
    """Two arms, three seeds and nine more, on eight slots: six trials at once in 20 s, then nine times two at once."""
    cells = [replace(planned(0, 3, later=9), arm=arm) for arm in ("infonce", "soft")]
    found = estimate(cells, LIKE, 8)
    assert (found.wall, found.most) == (spans(20), spans(20, 9 * 20))
    assert (found.trials, found.later) == (6, 18)
    assert (found.seconds(), found.seconds(later=True)) == (120, 480)
    assert told(found, seeds=(3, 12))[0] == (
        "6 to 24 trials to run, 8 at a time: 30 s for 3 seeds to 4 min for 12 (27 s to 4 min) after preparing, "
        "0.033 to 0.13 core hours; about no memory"
    )


def test_models_are_trained_before_in_the_order_of_preparing() -> None:
    """`trained` as a trial, 4 s and 4 1/3 epochs of 4 s; `simcse` 4 s and two epochs of 3,000 queries, of which 1,000
    are taken for pairs that take 4 s, may be off by 3. They are prepared at once, 10 s after workers were started; then
    trials of 20 s run."""
    trained = planned(0, 1, epochs=4, model="trained")
    trained = replace(trained, epochs=4 + 1 / 3)
    simcse = planned(0, 1, epochs=2, model="simcse", pairs=3000)
    found = estimate([planned()], LIKE, 2, models=[[[]], [[trained], [simcse]]])
    assert [each.confirm_seconds for each in found.models] == pytest.approx([4 + 4 * (4 + 1 / 3), 28])
    assert [each.factor for each in found.models] == [1.3, 3.0]
    low = (4 + 4 * (4 + 1 / 3)) / 1.3  # the other is faster at its least
    assert found.preparing == pytest.approx((38, 10 + low, 94))
    assert found.wall == pytest.approx((68, 20 + low + 20 / 1.2, 20 + 84 + 24))
    assert found.seconds() == pytest.approx(2 * 20 + 28 + 4 + 4 * (4 + 1 / 3))
    assert told(found) == [
        "2 trials to run, 2 at a time: 68 s (53 s to 2 min), 38 s (26 s to 2 min) of it preparing, 0.025 core hours; "
        "about no memory",
        "trained of arm/python: 21 s a model, by 2 trainings with the same encoder and batches",
        "simcse of arm/python: 28 s a model, by 2 trainings with the same encoder, a query taken for a pair",
        "arm/python: 20 s a trial, by 2 trials of the same arm",
    ]
    one = estimate([planned()], LIKE, 1, models=[[[trained]], [[simcse]]])
    assert one.preparing.middle == pytest.approx(10 + 28 + 4 + 4 * (4 + 1 / 3))


def test_one_process_trains_a_model_that_several_workers_of_a_trial_would() -> None:
    """Four workers train an epoch in 4 s, one process in 16 s; a calibration has one process. Its seconds count
    once, and those of two trials of 20 s for each of the workers."""
    model = planned(0, 1, model="trained", workers=4)
    found = estimate([planned()], LIKE, 2, models=[[[model]]])
    assert found.models[0].confirm_seconds == 4 + 4 * 16
    assert found.seconds(workers=4) == 4 * 40 + 68
    assert lines(found, Resources(workers=4), "")[0].endswith(f", {228 / 3600:.2g} core hours; about ")
    measured = estimate([planned()], [timed(phase="measured")], 2, models=[[[model]]])
    assert measured.models[0].confirm_seconds == 20


def test_a_named_model_is_said_not_to_be_in_it() -> None:
    found = estimate([planned()], LIKE, 1, models=[[[Planned("arm", "python", {}, "c", 0, 0, 0, 1, model="minilm")]]])
    assert told(found) == [
        "2 trials to run, 1 at a time: 50 s (43 s to 58 s) after preparing, 0.011 core hours, without minilm of "
        "arm/python; about no memory",
        "arm/python: 20 s a trial, by 2 trials of the same arm",
        "preparing computes vectors with minilm of arm/python: how long that takes is not known",
    ]


def test_a_model_like_nothing_timed_is_left_out_by_name() -> None:
    found = estimate([planned()], LIKE, 1, models=[[[planned(0, 1, model="trained", settings={"encoder.kind": "x"})]]])
    assert (found.models, found.preparing.middle, found.trials) == ((), 0, 2)
    assert "without trained of arm/python;" in told(found)[0]
    assert told(found)[-1].startswith("nothing that was timed is like trained of arm/python: --calibrate measures")


def test_a_recorded_pace_of_queries_replaces_that_of_trials() -> None:
    """500 queries a second: 4 epochs of 2,000 take 16 s."""
    pace = TimedTrial("simcse", timed().settings, "", 1.0, 1, 1.0, 500, "1 CPUs")
    found = estimate([], [*LIKE, pace], 1, models=[[[planned(0, 1, epochs=4, model="simcse", pairs=2000)]]])
    assert found.models[0].confirm_seconds == 16


@pytest.mark.parametrize(("left", "left_out", "wall"), [(256.0, 0, 250), (156.0, 5, 150), (155.9, 6, 130)])
def test_a_budget_of_hours_leaves_out_rounds(left: float, left_out: int, wall: float) -> None:
    """One slot: r search trials and two confirmations take 10 + 20 (r + 2) s. The last round and what follows, 60 s,
    have a margin of a tenth, 6 s: five rounds need 10 + 140 + 6 s."""
    found = estimate([planned(10, 2, stops=False)], LIKE, 1, seconds_left=left)
    assert (found.rounds_left_out, found.wall.middle) == (left_out, wall)


def test_a_budget_of_hours_is_told_with_what_it_leaves_out() -> None:
    """180 s: six rounds need 176 s. Faster by 1.2, eight need 10 + (200 + 6) / 1.2 = 181.7 s, so that seven fit; slower
    by 1.2, four need 10 + 1.2 (120 + 6) = 161.2 s and five 185.2 s."""
    cell = planned(10, 2, stops=False)
    found = estimate([cell], LIKE, 1, seconds_left=180)
    assert found.left_out == (4, 3, 6)
    budget = {"budget": Budget(hours=0.05), "seconds_left": 180.0}
    assert told(found, **budget)[:2] == [
        "8 trials to run, 1 at a time: up to 3 min by its budget, 0.044 core hours; about no memory",
        "the budget of 0.05 hours is expected to leave out 4 of 10 search trials (3 to 6)",
    ]
    rest = told(found, budget=Budget(hours=0.1), seconds_left=180.0)[1]
    assert rest == (
        "the budget of 0.1 hours, of which 3 min is left, is expected to leave out 4 of 10 search trials (3 to 6)"
    )
    assert told(estimate([cell], LIKE, 1, seconds_left=999), budget=Budget(hours=1), seconds_left=999.0) == told(
        estimate([cell], LIKE, 1)
    )


def test_no_budget_ends_a_confirmation_or_the_first_round() -> None:
    """A round and two confirmations take 10 + 60 s, whatever the budget; where rounds were run before, none is left."""
    found = estimate([planned(10, 2, stops=False)], LIKE, 1, seconds_left=30)
    assert (found.left_out.middle, found.wall.middle) == (9, 70)
    lines = told(found, budget=Budget(hours=0.5 / 60), seconds_left=30.0)
    assert ": 70 s (" in lines[0]
    assert lines[2].endswith(
        "is too small for the confirmations, which it never ends: raise it, or leave out seeds or arms"
    )
    later = estimate([planned(10, 2, stops=False, begun=3)], LIKE, 1, seconds_left=30)
    assert (later.left_out.middle, later.wall.middle) == (10, 50)


def test_a_budget_keeps_room_for_seeds_that_may_be_added() -> None:
    """r search trials, two confirmations and three more: 10 + 20 (r + 5) + 12 s within 180 s are r = 2."""
    found = estimate([planned(10, 2, stops=False, later=3)], LIKE, 1, seconds_left=180)
    assert found.most is not None
    assert (found.left_out.middle, found.wall.middle, found.most.middle) == (8, 90, 150)


def test_a_budget_of_trials_says_what_it_leaves_out() -> None:
    found = estimate([planned(3, 2)], LIKE, 1)
    assert told(found, budget=Budget(trials=5), left_out=7)[1] == "the budget of 5 trials leaves out 7 search trials"


def missing(study, corpus: Path, **known) -> list[tuple[int, int, int]]:
    """Search and confirm trials of each cell that are missing, and those that may be added."""
    opened = Corpus.open(corpus)
    found = planned_cells(study, opened.manifest, opened.fingerprint, Known(**known))
    return [(each.search, each.confirm, each.later) for each in found]


def ended(*seeds: int, arms: tuple[str, ...] = ("infonce", "soft")) -> Counter[tuple[str, str, str, int]]:
    return Counter({(arm, "python", "confirm", seed): 1 for arm in arms for seed in seeds})


def test_seeds_are_missing_until_a_language_is_narrow_enough(tiny_study, tiny_corpus: Path) -> None:
    study = tiny_study(seeds={"at_least": 3, "at_most": 5, "half_width": 0.004})
    assert missing(study, tiny_corpus) == [(0, 3, 2)] * 2
    assert missing(study, tiny_corpus, ended=ended(1, 2)) == [(0, 1, 2)] * 2
    assert missing(study, tiny_corpus, ended=ended(1, 2, 3, 4)) == [(0, 0, 1)] * 2
    assert missing(study, tiny_corpus, ended=ended(1, 2, 3, 4, arms=("soft",))) == [(0, 3, 2), (0, 0, 1)]
    for width, why, later in ((0.004, "narrow enough", 0), (0.005, "narrow enough", 1), (0.005, "", 1)):
        asked = {"python": SeedsAsked(4, width, why)}
        assert missing(study, tiny_corpus, ended=ended(1, 2, 3, 4), asked=asked) == [(0, 0, later)] * 2
        assert missing(study, tiny_corpus, ended=ended(1, 2, 4), asked=asked) == [(0, 1, 1)] * 2


def test_searches_that_a_budget_has_ended_are_missing_no_more_but_the_first(tiny_study, tiny_corpus: Path) -> None:
    search = {"trials": 4, "seed": 9, "space": {"temperature": {"low": 0.03, "high": 0.1}}}
    study = tiny_study(search=search, budget={"hours": 1})
    searched = Counter({("soft", "python", "search", 9): 2}) + ended(1, arms=("soft",))
    assert missing(study, tiny_corpus, ended=searched) == [(4, 2, 0), (2, 2, 0)]
    assert missing(study, tiny_corpus, ended=searched, searches_over=True) == [(1, 2, 0), (0, 1, 0)]
