"""Languages that ask the same queries: found from what was stored, and no more evidence than one of them."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from test_report import BOTH, build, row_of, study

from softnce_ray.ranks_file import place
from softnce_ray.report import Report, to_latex, to_markdown, to_terminal
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.statistics import mean_interval

QUERIES = 300
ARMS = ("infonce", "soft")
VERSIONS = ("share_0", "share_10", "share_30")


def values(arm: str, seed: int, *, queries: int = 0, noise: int | None = None) -> np.ndarray:
    """(QUERIES,): which queries are hard is drawn by `queries`; `noise` is a version's own, none where it is None."""
    hardness = np.random.default_rng([7, queries]).uniform(0.1, 0.8, QUERIES)
    of_arm = np.random.default_rng([8, *arm.encode()]).normal(0, 0.05, QUERIES)
    own = 0 if noise is None else np.random.default_rng([9, noise, seed, *arm.encode()]).normal(0, 0.05, QUERIES)
    return np.clip(hardness + of_arm + own + (0.02 if arm == "soft" else 0), 0, 1)


def trial(arm: str, language: str, seed: int, ranks: np.ndarray) -> TrialResult:
    name = f"{arm}-{language}-{seed}"
    return TrialResult(
        run_id=name,
        arm=arm,
        language=language,
        seed=seed,
        phase="confirm",
        status="FINISHED",
        identity=name,
        metrics={"test_mrr": float(ranks.mean())},
        reciprocal_ranks={"test": ranks},
    )


def of(trials: list[TrialResult], languages: tuple[str, ...], **changes: object) -> StudyResults:
    return study(*trials, arms=ARMS, languages=languages, seeds=(1, 2), **changes)


def width(report: Report, arm: str, language: str | None) -> float:
    mean = row_of(report, arm, language).mean
    assert mean
    return mean.high - mean.low


def test_versions_that_are_answered_alike_have_overall_the_interval_and_p_of_one() -> None:
    trials = [trial(arm, each, seed, values(arm, seed)) for arm in ARMS for each in VERSIONS for seed in (1, 2)]
    report = build(of(trials, VERSIONS))
    (shared,) = report.shared
    assert shared.languages == VERSIONS and shared.correlation == pytest.approx(1)
    one, overall = row_of(report, "soft", "share_0"), row_of(report, "soft", None)
    assert one.mean and one.difference and overall.mean and overall.difference
    assert (overall.mean.low, overall.mean.high) == pytest.approx((one.mean.low, one.mean.high))
    assert (overall.difference.low, overall.difference.high) == pytest.approx((one.difference.low, one.difference.high))
    assert overall.difference.p == pytest.approx(one.difference.p)
    assert overall.mean.queries == QUERIES


def test_versions_with_noise_of_their_own_are_found_and_no_narrower_than_the_variance_says() -> None:
    trials = [
        trial(arm, each, seed, values(arm, seed, noise=number))
        for arm in ARMS
        for number, each in enumerate(VERSIONS)
        for seed in (1, 2)
    ]
    report = build(of(trials, VERSIONS))
    assert [each.languages for each in report.shared] == [VERSIONS]
    mean = np.mean([each.reciprocal_ranks["test"] for each in trials if each.arm == "soft"], axis=0)
    # One mean over the versions for each query, and 300 of these: the width of a normal interval.
    assert width(report, "soft", None) == pytest.approx(2 * 1.96 * mean.std() / np.sqrt(QUERIES), rel=0.06)


def test_languages_with_queries_of_their_own_are_drawn_apart() -> None:
    languages = ("python", "ruby")
    trials = [
        trial(arm, each, seed, values(arm, seed, queries=number, noise=number))
        for arm in ARMS
        for number, each in enumerate(languages)
        for seed in (1, 2)
    ]
    report = build(of(trials, languages))
    assert report.shared == ()
    rows = [np.stack([t.reciprocal_ranks["test"] for t in trials if (t.arm, t.language) == ("soft", each)])
            for each in languages]  # fmt: skip
    apart = mean_interval(rows)
    mean = row_of(report, "soft", None).mean
    assert mean and (mean.low, mean.high) == pytest.approx((apart.low, apart.high))
    assert mean.queries == 2 * QUERIES


def test_other_numbers_of_queries_and_values_that_do_not_vary_are_never_the_same() -> None:
    short = [trial(arm, "ruby", seed, values(arm, seed)[:-1]) for arm in ARMS for seed in (1, 2)]
    flat = [trial(arm, "go", seed, np.full(QUERIES, 0.5)) for arm in ARMS for seed in (1, 2)]
    plain = [trial(arm, "python", seed, values(arm, seed)) for arm in ARMS for seed in (1, 2)]
    report = build(of([*plain, *short, *flat], ("python", "ruby", "go")))
    assert report.shared == ()
    assert row_of(report, "soft", None).mean


def test_every_rendering_says_which_queries_are_taken_to_be_the_same() -> None:
    languages = (*VERSIONS, "ruby")
    trials = [
        trial(arm, each, seed, values(arm, seed, queries=each == "ruby", noise=number))
        for arm in ARMS
        for number, each in enumerate(languages)
        for seed in (1, 2)
    ]
    report = build(of(trials, languages))
    console = Console(file=io.StringIO(), width=5000)
    console.print(to_terminal(report, width=5000))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    said = "share_0, share_10 and share_30 are taken to ask the same queries in the same order"
    assert said in to_markdown(report) and said in shown and said.replace("_", r"\_") in to_latex(report)
    assert "All others are taken to be different." in shown
    apart = build(of([each for each in trials if each.language in ("share_0", "ruby")], ("share_0", "ruby")))
    assert "Queries of different languages are taken to be different." in to_markdown(apart)
    alone = build(of([each for each in trials if each.language == "ruby"], ("ruby",)))
    assert "are taken to" not in to_markdown(alone)


def test_seeds_of_models_of_several_languages_are_drawn_once_for_all() -> None:
    """Queries all alike, seeds apart: overall the interval is that of two seeds, as in each language."""
    trials = []
    for arm in ARMS:
        for seed, level in ((1, 0.2), (2, 0.6)):
            ranks = {place("test", each): np.full(40, level) for each in BOTH.test}
            trials.append(replace(trial(arm, "all", seed, np.full(40, level)), reciprocal_ranks=ranks))
    report = build(of(trials, ("all",), training_sets={"all": BOTH}))
    alone = mean_interval(np.repeat([[0.2], [0.6]], 40, axis=1))
    for row in report.rows:
        assert row.mean and (row.mean.low, row.mean.high) == pytest.approx((alone.low, alone.high)), row.label
