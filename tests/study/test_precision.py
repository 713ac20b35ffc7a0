"""Seeds by precision: when another one is added to a language, and why none is."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.config import Precision, StudyConfig, TrainingSet
from softnce_ray.ranks_file import write_ranks
from softnce_ray.report import build_report, planned_comparisons
from softnce_ray.results import KnownTrial, SeedsAsked, StudyResults, TrialKey, TrialResult
from softnce_ray.statistics import difference
from softnce_ray.study.definitions import definition
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Cell, Planner, Trial
from softnce_ray.study.precision import SeedsByWidth

from . import test_planner
from .test_planner import FakeSearch, drain, known, name, temperatures

MOST = 6


def study(at_least: int = 2, at_most: int = MOST, **options: Any) -> StudyConfig:
    """`test_planner.study` with a precision in the place of its seeds."""
    seeds = {"at_least": at_least, "at_most": at_most, "half_width": 0.01}
    return StudyConfig.model_validate({**test_planner.study(**options).model_dump(), "seeds": seeds})


def precision(half_width: float, at_most: int = MOST) -> Precision:
    return Precision(at_least=2, at_most=at_most, half_width=half_width)


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


# --- the planner ---


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
    recorded = planner.give_up(Cell("arm1", "python"), "no tokens")
    assert [name(trial) for trial in recorded] == ["arm1/python confirm 1", "arm1/python confirm 2"]
    assert end_all(planner) == [f"arm0/python confirm {seed}" for seed in (1, 2, 3)]
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


# --- the rule ---

Ranks = Mapping[tuple[str, int], Any]  # (arm, seed) -> (Q,) of python


def key(arm: str, seed: int, language: str = "python") -> TrialKey:
    return TrialKey(arm, language, "confirm", seed, f"{arm}{seed}")


def results(arms: Sequence[str] = ("infonce", "soft"), languages: Sequence[str] = ("python",), **more: Any) -> Any:
    values: dict[str, Any] = {"question": "", "baseline": "infonce", "seeds": (1, 2), "corpus_fingerprint": "c"}
    values |= {"arms": tuple(arms), "languages": tuple(languages), "trials": (), "status": "FINISHED", **more}
    return StudyResults(study="s", **values)


def decided(
    ranks: Ranks, half_width: float, count: int = 2, of: Any = None, at_most: int = MOST
) -> tuple[bool, SeedsAsked]:
    """What the rule says of python once seeds 1 to `count` have ended, and what it tells."""
    whole = of or results()
    told: list[SeedsAsked] = []
    stored = {key(arm, seed): {"test": np.asarray(each, float)} for (arm, seed), each in ranks.items()}
    rule = SeedsByWidth(whole, precision(half_width, at_most), stored, lambda language, asked: told.append(asked))
    more = rule("python", {arm: [key(arm, seed) for seed in range(1, count + 1)] for arm in whole.arms})
    (asked,) = told
    return more, asked


def two_by_two(shift: float = 0.0) -> dict[tuple[str, int], list[float]]:
    """Differences of 1, 2 thousandths with seed 1 and 5, 8 with seed 2, and so much more."""
    soft = {("soft", 1): [0.001 + shift, 0.002 + shift], ("soft", 2): [0.005 + shift, 0.008 + shift]}
    return {("infonce", 1): [0.0, 0.0], ("infonce", 2): [0.0, 0.0], **soft}


# Of differences 1, 2 and 5, 8: MS_s = 25, MS_q = 4, MS_e = 1; over S Q = 4: 6.25, 1, 0.25; 6.25 + 1 - 0.25 = 7.
VARIANCE, DF = 7e-6, 7**2 / (6.25**2 + 1 + 0.25**2)


def half(level: float) -> float:
    return float(scipy.stats.t.ppf((1 + level) / 2, DF)) * math.sqrt(VARIANCE)


def test_the_half_width_by_hand_is_what_the_study_asks_for() -> None:
    more, asked = decided(two_by_two(), half(0.95) + 1e-9)
    assert (more, asked.count, asked.why) == (False, 2, "narrow enough")
    assert asked.half_width == pytest.approx(half(0.95))
    assert decided(two_by_two(), half(0.95) - 1e-9) == (True, SeedsAsked(3, asked.half_width, ""))
    assert decided(two_by_two(), half(0.95) - 1e-9, at_most=2) == (
        False,
        SeedsAsked(2, asked.half_width, "at_most reached"),
    )


def test_the_level_is_that_of_all_comparisons_of_the_report() -> None:
    # Two arms against the baseline, in python, in ruby and over both: six.
    whole = results(arms=("infonce", "soft", "other"), languages=("python", "ruby"))
    assert planned_comparisons(whole) == 6
    _, asked = decided(two_by_two(), 0.5, of=whole)
    assert asked.half_width == pytest.approx(half(1 - 0.05 / 6))


def test_it_stops_by_width_and_never_by_what_the_difference_is() -> None:
    for width in (half(0.95) + 1e-6, half(0.95) - 1e-6):
        near, far = decided(two_by_two(), width), decided(two_by_two(shift=-0.4), width)
        assert near[0] == far[0] and near[1].why == far[1].why
        assert near[1].half_width == pytest.approx(far[1].half_width)


def test_the_widest_difference_counts() -> None:
    same = {("other", seed): [0.0, 0.0] for seed in (1, 2)}
    whole = results(arms=("infonce", "other", "soft"))
    more, asked = decided({**two_by_two(), **same}, half(1 - 0.05 / 2) - 1e-6, of=whole)
    assert more and asked.half_width == pytest.approx(half(1 - 0.05 / 2))


def test_a_baseline_that_is_alone_is_asked_for_its_own_mean() -> None:
    ranks = {("infonce", seed): each for (arm, seed), each in two_by_two().items() if arm == "soft"}
    more, asked = decided(ranks, half(0.95) + 1e-9, of=results(arms=("infonce",)))
    assert not more and asked.half_width == pytest.approx(half(0.95))


def test_one_seed_of_an_arm_is_never_enough_and_an_arm_without_any_is_left_out() -> None:
    ranks = two_by_two()
    del ranks["soft", 2]
    assert decided(ranks, 0.9) == (True, SeedsAsked(3, math.inf, ""))
    del ranks["soft", 1]
    assert decided(ranks, 0.9) == (False, SeedsAsked(2, None, "nothing to compare"))
    whole = results(arms=("infonce", "other", "soft"))
    more, asked = decided(two_by_two(), 0.9, of=whole)
    assert asked.half_width == pytest.approx(half(1 - 0.05 / 2)) and not more
    without = {name: each for name, each in two_by_two().items() if name[0] == "soft"}
    assert decided(without, 0.9)[1].why == "nothing to compare"


def test_arms_of_other_seeds_are_compared_as_the_report_does() -> None:
    rng = np.random.default_rng(1)
    ranks = {(arm, seed): rng.uniform(size=40) for arm in ("infonce", "soft") for seed in (1, 2, 3)}
    del ranks["soft", 2]
    _, asked = decided(ranks, 0.001, count=3)
    soft, infonce = ([ranks[arm, seed] for seed in seeds] for arm, seeds in (("soft", (1, 3)), ("infonce", (1, 2, 3))))
    found = difference(np.stack(soft), np.stack(infonce), seeds_paired=False)
    assert asked.half_width == pytest.approx((found.high - found.low) / 2)


def test_every_language_that_a_training_set_is_tested_on_counts(tmp_path: Path) -> None:
    both = TrainingSet(name="both", train=("python", "ruby"), test=("python", "ruby"))
    whole = results(languages=("both",), training_sets={"both": both})
    told: list[SeedsAsked] = []
    rule = SeedsByWidth(whole, precision(0.01), {}, lambda language, asked: told.append(asked))
    for (arm, seed), ranks in two_by_two().items():
        values = {"test/python": np.zeros(2), "test/ruby": np.array(ranks), "valid/ruby": np.ones(2)}
        write_ranks(tmp_path / "ranks", {name: ["a", "b"] for name in values}, {"reciprocal_rank": values})
        rule.learn(key(arm, seed, "both"), tmp_path / "ranks")
    assert rule("both", {arm: [key(arm, seed, "both") for seed in (1, 2)] for arm in whole.arms})
    # One difference for each of two languages, and one of the mean.
    assert told[0].half_width == pytest.approx(half(1 - 0.05 / 3))


def test_a_file_of_ranks_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "ranks").write_bytes(b"PAR1")
    told: list[SeedsAsked] = []
    rule = SeedsByWidth(results(), precision(0.01), {}, lambda language, asked: told.append(asked))
    rule.learn(key("infonce", 1), tmp_path / "ranks")
    rule("python", {"infonce": [key("infonce", 1)]})
    assert told[0].why == "nothing to compare"


def test_steps_that_an_earlier_launch_has_told_of_are_not_told_again() -> None:
    rng = np.random.default_rng(2)
    stored = {key(arm, seed): {"test": rng.uniform(size=9)} for arm in ("infonce", "soft") for seed in (1, 2, 3)}
    told: list[SeedsAsked] = []
    rule = SeedsByWidth(results(), precision(0.01), stored, lambda language, asked: told.append(asked))
    for count in (2, 3):
        assert rule("python", {arm: [key(arm, n + 1) for n in range(count)] for arm in ("infonce", "soft")})
    assert [asked.count for asked in told] == [4]


# --- the report ---


def finished(arm: str, language: str, seed: int, test: tuple[str, ...] = ()) -> TrialResult:
    rng = np.random.default_rng([seed, len(arm), len(language)])
    ranks = {f"test/{each}": rng.uniform(size=20) for each in test} or {"test": rng.uniform(size=20)}
    run = f"{arm}-{language}-{seed}"
    return TrialResult(run, arm, language, seed, "confirm", "FINISHED", run, reciprocal_ranks=ranks)


def by_precision(**changes: Any) -> StudyResults:
    """Two languages: python has stopped at 3 seeds, ruby had 5 and would have had more."""
    asked = {"python": SeedsAsked(3, 0.00371, "narrow enough"), "ruby": SeedsAsked(5, 0.0061, "at_most reached")}
    counts = {"python": 3, "ruby": 5}
    trials = [finished(arm, lang, n + 1) for arm in ("infonce", "soft") for lang in counts for n in range(counts[lang])]
    values = {
        "seeds": (1, 2, 3, 4, 5),
        "precision": precision(0.004, at_most=5),
        "asked": asked,
        "trials": tuple(trials),
        **changes,
    }
    return results(languages=("python", "ruby"), **values)


def test_a_report_counts_the_seeds_of_each_language_and_says_why_there_are_no_more() -> None:
    report = build_report(by_precision())
    assert [(row.language, row.seeds_done, row.seeds_asked) for row in report.rows] == [
        *[("python", 3, 3)] * 2,
        *[("ruby", 5, 5)] * 2,
        *[(None, 3, 3)] * 2,
    ]
    assert report.problems == ()
    assert report.notes == (
        "Seeds were added until every difference from infonce was known to ± 0.004 (95 %, together with all other "
        "differences), 2 at least and 5 at most: python 3 seeds, ± 0.0037 (narrow enough); ruby 5 seeds, ± 0.0061 "
        "(at_most reached).",
    )


def test_a_report_of_a_study_that_is_not_done_says_what_is_missing_of_the_seeds_so_far() -> None:
    whole = by_precision()
    without = tuple(trial for trial in whole.trials if (trial.language, trial.seed, trial.arm) != ("ruby", 4, "soft"))
    asked = {"python": SeedsAsked(2, None, "nothing to compare"), "ruby": SeedsAsked(4, 0.005, "")}
    report = build_report(dataclasses.replace(whole, trials=without, asked=asked, status="KILLED"))
    assert report.notes[-1].endswith(": python 2 seeds (nothing to compare); ruby 4 seeds so far.")
    assert [(row.name, row.seeds_done, row.seeds_asked) for row in report.rows if row.language is None] == [
        ("infonce", 2, 2),
        ("soft", 2, 2),
    ]
    found = {(each.arm, each.language, each.kind, each.seeds) for each in report.problems}
    assert found == {
        ("infonce", "python", "unusable", (3,)),
        ("soft", "python", "unusable", (3,)),
        ("infonce", "ruby", "unusable", (5,)),
        ("soft", "ruby", "unusable", (5,)),
        ("soft", "ruby", "missing", (4,)),
    }
    assert "11 of 12 confirm trials finished" in report.title


@pytest.mark.parametrize("at", ["python", "python and ruby", "two sets"])
def test_planned_comparisons_are_those_of_a_report_of_a_study_that_is_done(at: str) -> None:
    arms = ("infonce", "soft", "other")
    languages = {"python": ("python",), "python and ruby": ("python", "ruby"), "two sets": ("python", "both", "x")}[at]
    sets = {
        "both": TrainingSet(name="both", train=("python", "ruby"), test=("python", "ruby")),
        "x": TrainingSet(name="x", train=("python",), test=("ruby",)),
    }
    used = {name: each for name, each in sets.items() if name in languages}
    trials = tuple(
        finished(arm, language, seed, used[language].test if language in used and len(used[language].test) > 1 else ())
        for arm in arms
        for language in languages
        for seed in (1, 2)
    )
    whole = results(arms=arms, languages=languages, trials=trials, training_sets=used)
    assert planned_comparisons(whole) == sum(row.difference is not None for row in build_report(whole).rows)
