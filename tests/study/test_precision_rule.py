"""Seeds by precision: whether a language takes another one, and what a report says of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from softnce_ray.config import Precision, TrainingSet
from softnce_ray.ranks_file import write_ranks
from softnce_ray.report import build_report, planned_comparisons, to_latex
from softnce_ray.results import SeedsAsked, StudyRecord, StudyResults, TrialKey, TrialResult
from softnce_ray.statistics import difference
from softnce_ray.study.precision import SeedsByWidth
from softnce_ray.tracking.parent import asked_tags, record_tags, seeds_in

MOST = 6


def precision(half_width: float, at_most: int = MOST) -> Precision:
    return Precision(at_least=2, at_most=at_most, half_width=half_width)


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
    _, asked = decided(two_by_two(), 0.5, of=whole)
    assert asked.half_width == pytest.approx(half(1 - 0.05 / 6))
    _, asked = decided(two_by_two(), 0.5, of=dataclasses.replace(whole, family="language"))
    assert asked.half_width == pytest.approx(half(1 - 0.05 / 2))


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
    for arm, seed in (("soft", 2), ("infonce", 1)):
        del ranks[arm, seed]
        _, asked = decided(ranks, 0.001, count=3)
        soft, infonce = (np.stack([ranks[each] for each in ranks if each[0] == arm]) for arm in ("soft", "infonce"))
        found = difference(soft, infonce, seeds_paired=False)
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
    latex = to_latex(report)
    assert "averaged over 3 to 5 seeds." in latex
    assert r"python 3 seeds, $\pm$ 0.0037 (narrow enough); ruby 5 seeds, $\pm$ 0.0061 (at\_most reached)." in latex


def test_a_report_of_a_study_that_is_not_done_says_what_is_missing_of_the_seeds_so_far() -> None:
    whole = by_precision()
    without = tuple(trial for trial in whole.trials if (trial.language, trial.seed, trial.arm) != ("ruby", 4, "soft"))
    asked = {"python": SeedsAsked(2, None, "nothing to compare"), "ruby": SeedsAsked(4, 0.005, "")}
    report = build_report(dataclasses.replace(whole, trials=without, asked=asked, status="KILLED"))
    assert report.notes[-1].endswith(": python 2 seeds so far; ruby 4 seeds so far.")
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
    compared = [row.languages for row in build_report(whole).rows if row.difference]
    assert planned_comparisons(whole, "python") == len(compared)
    whole = dataclasses.replace(whole, family="language")
    for language in ("python", "ruby"):
        assert planned_comparisons(whole, language) == compared.count((language,))


def test_what_was_decided_comes_back_from_the_tags_of_the_study() -> None:
    record = StudyRecord("s", "", "infonce", ("infonce",), ("c++", "go"), precision(0.004, 5), "c", "f", "study: s\n")
    asked = {"c++": SeedsAsked(4, math.inf, ""), "go": SeedsAsked(9, None, "nothing to compare")}
    tags = record_tags(record)
    for language, each in asked.items():
        tags |= asked_tags(language, each)
    found = seeds_in(tags, record.languages)
    assert found == {"seeds": (1, 2, 3, 4, 5), "precision": record.seeds, "asked": asked}
    whole = results(languages=record.languages, **found)
    assert [len(whole.seeds_of(language)) for language in ("c++", "go")] == [4, 5]  # there are no more than at_most
    listed = dataclasses.replace(record, seeds=(7, 9))
    assert seeds_in({**tags, **record_tags(listed)}, record.languages) == {"seeds": (7, 9)}
