"""The report: what enters the table, what is named beneath it, and that every rendering says so."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from softnce_ray.report import Report, ReportError, Row, build_report, to_json, to_markdown, to_terminal
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.statistics import holm, mean_interval, paired_difference, paired_randomisation_test

SEEDS = (1, 2, 3)
QUERIES = {"python": 60, "ruby": 40}


def trial(arm: str, seed: int, language: str = "python", *, lift: float = 0.0, **changes) -> TrialResult:
    """A finished run; all arms find the same queries hard, and ``lift`` is what the arm adds."""
    hardness = np.random.default_rng(len(language)).uniform(0.1, 0.6, QUERIES[language])
    noise = np.random.default_rng([seed, *arm.encode()]).normal(0, 0.03, QUERIES[language])
    ranks = np.clip(hardness + noise + lift, 0, 1)
    values = {
        "run_id": f"{arm}-{language}-{seed}",
        "arm": arm,
        "language": language,
        "seed": seed,
        "phase": "confirm",
        "status": "FINISHED",
        "identity": f"{arm}/{language}/{seed}",
        "settings": {"loss.name": arm, "training.batch_size": "64", "training.seed": str(seed)},
        "metrics": {"test_mrr": float(ranks.mean()), "test_codebase": 500.0, "train_seconds": 10.0 * seed},
        "reciprocal_ranks": {"test": ranks},
    }
    return TrialResult(**{**values, **changes})


def study(*trials: TrialResult, arms=("infonce", "soft", "same"), languages=("python",), **changes) -> StudyResults:
    values = {
        "study": "quickstart",
        "question": "Does it help?",
        "baseline": "infonce",
        "arms": arms,
        "languages": languages,
        "seeds": SEEDS,
        "corpus_fingerprint": "c0ffee",
        "trials": trials,
        "status": "FINISHED",
    }
    return StudyResults(**{**values, **changes})


LIFTS = {"infonce": 0.0, "soft": 0.1, "same": 0.002}


def complete(languages: tuple[str, ...] = ("python",)) -> list[TrialResult]:
    return [
        trial(arm, seed, language, lift=lift) for arm, lift in LIFTS.items() for language in languages for seed in SEEDS
    ]


def build(results: StudyResults, **options) -> Report:
    return build_report(results, **{"resamples": 200, "permutations": 400, **options})


def row_of(report: Report, arm: str, language: str | None = "python") -> Row:
    (row,) = [row for row in report.rows if (row.arm, row.language) == (arm, language)]
    return row


def terminal(report: Report, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(to_terminal(report, width=width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- the table -------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_stored_ranks():
    trials = complete()
    report = build(study(*trials))
    ranks = {arm: np.stack([t.reciprocal_ranks["test"] for t in trials if t.arm == arm]) for arm in LIFTS}
    p_values = [paired_randomisation_test(ranks[arm], ranks["infonce"], permutations=400) for arm in ("soft", "same")]
    for arm, p, corrected in zip(("soft", "same"), p_values, holm(p_values), strict=True):
        row = row_of(report, arm)
        assert row.mean and row.difference
        interval = mean_interval(ranks[arm], resamples=200)
        assert (row.mean.mean, row.mean.low) == pytest.approx((interval.mean, interval.low))
        difference = paired_difference(ranks[arm], ranks["infonce"], resamples=200)
        assert (row.difference.mean, row.difference.high) == pytest.approx((difference.mean, difference.high))
        assert (row.p_value, row.p_holm) == pytest.approx((p, corrected))
        assert row.spread == pytest.approx(ranks[arm].mean(axis=1).std(ddof=1))
    baseline = row_of(report, "infonce")
    assert (baseline.difference, baseline.p_value, baseline.p_holm) == (None, None, None)
    assert (baseline.seeds_done, baseline.seeds_asked, baseline.failures) == (3, 3, 0)
    assert baseline.metrics["train_seconds"] == pytest.approx((10 + 20 + 30) / 3)


def test_best_and_ties_are_marked():
    report = build(study(*complete(), trial("twin", 1, lift=0.1), arms=(*LIFTS, "twin")))
    assert [row.arm for row in report.rows if row.is_best or row.ties_best] == ["soft", "twin"]
    assert sum(row.is_best for row in report.rows) == 1
    cells = {cells[0]: cells[3] for cells in markdown_rows(to_markdown(report))}
    assert sorted(cells[arm][:1] for arm in ("soft", "twin")) == ["*", "≈"]
    assert cells["infonce"][0] == "0"


def test_another_baseline_turns_the_difference_round():
    results = study(*complete())
    ours, theirs = build(results), build(results, baseline="soft")
    there, back = row_of(ours, "soft").difference, row_of(theirs, "infonce").difference
    assert there and back
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert "difference from soft" in to_markdown(theirs)


def test_common_settings_are_factored_out():
    report = build(study(*complete()))
    assert report.common_settings == {"training.batch_size": "64"}
    assert row_of(report, "soft").settings == {"loss.name": "soft"}
    text = to_markdown(report)
    assert text.count("batch_size=64") == 1
    assert markdown_rows(text)[-1][-1] == "name=same"


def test_short_names_stay_unambiguous():
    settings = {"loss.name": "x", "estimator.name": "bm25", "loss.alpha": "1.5"}
    report = build(study(trial("infonce", 1, settings=settings), arms=("infonce",)))
    assert report.key_names == {
        "loss.name": "loss.name",
        "estimator.name": "estimator.name",
        "loss.alpha": "alpha",
    }


def test_settings_that_vary_between_seeds_are_all_shown():
    trials = [trial("infonce", seed, settings={"lr": value}) for seed, value in ((1, "0.1"), (2, "0.2"))]
    assert row_of(build(study(*trials, arms=("infonce",))), "infonce").settings == {"lr": "0.1 | 0.2"}


def test_overall_is_the_mean_over_languages():
    languages = ("python", "ruby")
    report = build(study(*complete(languages), languages=languages))
    assert [row.language for row in report.rows] == ["python"] * 3 + ["ruby"] * 3 + [None] * 3
    parts = [row_of(report, "soft", language) for language in languages]
    overall = row_of(report, "soft", None)
    assert overall.mean and overall.difference and overall.spread is not None
    assert overall.mean.mean == pytest.approx(sum(r.mean.mean for r in parts if r.mean) / 2)
    assert overall.difference.mean == pytest.approx(sum(r.difference.mean for r in parts if r.difference) / 2)
    assert overall.mean.queries == 100
    assert report.queries == QUERIES
    assert "overall (mean over languages)" in to_markdown(report)
    assert ["soft", "overall"] in [cells[:2] for cells in markdown_rows(to_markdown(report))]


def test_search_trials_do_not_enter():
    lucky = trial("infonce", 1, lift=0.3, phase="search", run_id="lucky")
    with_search, without = build(study(lucky, *complete())), build(study(*complete()))
    assert with_search.rows == without.rows
    assert any("1 search trials" in note for note in with_search.notes)


# --- what is missing is named ----------------------------------------------------------------------------


def test_every_trial_without_a_result_is_named():
    trials = [
        *(t for t in complete() if t.arm != "soft" and t.run_id != "same-python-3"),
        trial("soft", 1),
        trial("soft", 2, status="FAILED", failure="CUDA out of memory", reciprocal_ranks={}),
        trial("soft", 3, status="KILLED", failure="", reciprocal_ranks={}),
        trial("soft", 9, run_id="odd"),
        trial("infonce", 7, run_id="probe", phase="search", status="FAILED", failure="nan loss"),
    ]
    report = build(study(*trials))
    row = row_of(report, "soft")
    assert (row.seeds_done, row.failures, row.spread) == (1, 2, None)
    assert row.mean and row.mean.seeds == 1
    for text in (to_markdown(report), terminal(report)):
        assert "soft, python: failed, seed 2 (run soft-python-2): CUDA out of memory" in text
        assert "soft, python: killed, seed 3 (run soft-python-3): no reason recorded" in text
        assert "soft, python: unusable, seed 9 (run odd): the study does not ask for this seed" in text
        assert "same, python: missing, seed 3: never started" in text
        assert "infonce, python: search trial failed, seed 7 (run probe): nan loss" in text
        assert "Fewer than 3 seeds" in text
        assert "Not the same seeds as the baseline's" in text
    assert row.difference and not row.difference.seeds_paired


def test_trials_of_one_reason_share_a_line():
    trials = [trial("infonce", s, status="FAILED", failure="no disk", reciprocal_ranks={}) for s in SEEDS]
    report = build(study(*trials, arms=("infonce",)))
    assert "failed, seeds 1, 2, 3 (runs infonce-python-1, infonce-python-2, infonce-python-3): no disk" in (
        to_markdown(report)
    )


def test_a_failure_that_was_repeated_is_still_counted():
    failed = trial("infonce", 1, run_id="first", status="FAILED", failure="node lost", reciprocal_ranks={})
    report = build(study(failed, *complete()))
    assert row_of(report, "infonce").failures == 1
    assert row_of(report, "infonce").seeds_done == 3
    assert "node lost; finished in run infonce-python-1" in to_markdown(report)


def test_finished_without_ranks_is_unusable():
    report = build(study(*complete()), split="valid")
    assert all(row.mean is None for row in report.rows)
    assert all(problem.kind == "unusable" for problem in report.problems)
    assert "no values of the queries of split 'valid'" in to_markdown(report)


def test_a_trial_recorded_twice_counts_once():
    twice = trial("infonce", 1, run_id="again")
    report = build(study(*complete(), twice))
    assert row_of(report, "infonce").seeds_done == 3
    assert "the same trial as run infonce-python-1" in to_markdown(report)


def test_running_study_says_so():
    running = trial("infonce", 2, status="RUNNING", reciprocal_ranks={})
    report = build(study(trial("infonce", 1), running, arms=("infonce",), status="RUNNING"))
    assert report.title == "quickstart (still running: 1 of 3 confirm trials finished)"
    text = to_markdown(report)
    assert "infonce, python: running, seed 2 (run infonce-python-2)\n" in text
    assert "missing, seed 3: not started yet" in text
    assert build(study(*complete(), status="KILLED")).title.startswith("quickstart (killed: 9 of 9")


def test_no_finished_trial_is_a_report():
    report = build(study())
    assert [row.mean for row in report.rows] == [None] * 3
    for text in (to_markdown(report), terminal(report)):
        assert "No confirm trial has finished" in text
        assert "no queries yet" in text
        assert "infonce, python: missing, seeds 1, 2, 3: never started" in text
    assert not any(row.is_best for row in report.rows)


def test_one_arm_has_neither_best_nor_difference():
    report = build(study(*(trial("infonce", s) for s in SEEDS), arms=("infonce",)))
    (row,) = report.rows
    assert not row.is_best and row.difference is None and row.mean
    assert "best mean" not in to_markdown(report)


def test_without_the_baseline_there_are_means_but_no_differences():
    report = build(study(*(t for t in complete() if t.arm != "infonce")))
    row = row_of(report, "soft")
    assert row.mean and row.difference is None and row.p_value is None
    assert any("Without a finished trial of the baseline" in note for note in report.notes)


def test_an_arm_missing_in_one_language_has_no_overall_row():
    languages = ("python", "ruby")
    trials = [t for t in complete(languages) if (t.arm, t.language) != ("soft", "ruby")]
    report = build(study(*trials, languages=languages))
    assert row_of(report, "soft", None).mean is None
    assert row_of(report, "same", None).mean is not None
    assert any(note.startswith("No overall row for soft") for note in report.notes)


def test_overall_row_counts_the_seeds_of_the_poorest_language():
    languages = ("python", "ruby")
    trials = [t for t in complete(languages) if (t.arm, t.language, t.seed) != ("soft", "ruby", 2)]
    row = row_of(build(study(*trials, languages=languages)), "soft", None)
    assert (row.seeds_done, row.seeds_asked) == (2, 3)
    assert row.mean and row.mean.seeds == 2
    assert row.spread is None  # seeds 1, 2, 3 in one language and 1, 3 in the other have no common spread


def test_problems_follow_the_order_of_the_study():
    trials = [trial(arm, 1, status="FAILED", failure="x", reciprocal_ranks={}) for arm in ("same", "infonce")]
    report = build(study(*trials, seeds=(1,)))
    assert [(p.arm, p.kind) for p in report.problems] == [
        ("infonce", "failed"),
        ("soft", "missing"),
        ("same", "failed"),
    ]


@pytest.mark.parametrize("seeds, warned", [(1, True), (2, True), (3, False)])
def test_few_seeds_are_admitted(seeds: int, warned: bool):
    report = build(study(*(t for t in complete() if t.seed <= seeds), seeds=SEEDS[:seeds]))
    assert any("hardly known" in note for note in report.notes) == warned
    assert (row_of(report, "soft").spread is None) == (seeds == 1)


# --- errors ----------------------------------------------------------------------------------------------


def test_unknown_baseline_names_the_arms():
    with pytest.raises(ReportError, match="got 'nonsense'; its arms are infonce, soft, same"):
        build(study(*complete()), baseline="nonsense")


def test_different_queries_name_the_runs():
    short = trial("soft", 1, run_id="short", reciprocal_ranks={"test": np.full(50, 0.5)})
    named = r"60 queries in run infonce-python-1 .*; 50 queries in run short \(soft"
    with pytest.raises(ReportError, match=named):
        build(study(trial("infonce", 1), short))


def test_different_codebases_name_the_runs():
    easy = trial("soft", 1, run_id="easy", metrics={"test_codebase": 10.0})
    with pytest.raises(ReportError, match=r"500 codes in .*; 10 codes in run easy"):
        build(study(trial("infonce", 1), easy))


def test_two_configurations_of_one_trial_name_the_runs():
    named = r"infonce, python, seed 1 must be one trial.*runs infonce-python-1 and other"
    with pytest.raises(ReportError, match=named):
        build(study(trial("infonce", 1), trial("infonce", 1, run_id="other", identity="else")))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"status": "DONE"}, "status must be one of FINISHED, FAILED, KILLED, RUNNING, got 'DONE'"),
        ({"phase": "train"}, "phase must be one of search, confirm, got 'train'"),
        ({"reciprocal_ranks": {"test": np.ones((2, 2))}}, r"shape \(queries,\), got \(2, 2\)"),
        ({"reciprocal_ranks": {"test": np.array([1.0, 7.0])}}, "ranks stored instead of their reciprocals"),
        ({"reciprocal_ranks": {"test": np.array([np.nan])}}, r"must lie in \[0, 1\]"),
    ],
)
def test_impossible_trials_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        trial("infonce", 1, **changes)


def test_impossible_studies_are_refused():
    with pytest.raises(ValueError, match="run x-python-1 has arm 'x', which is none of"):
        study(trial("x", 1))
    with pytest.raises(ValueError, match="seeds must not repeat"):
        study(seeds=(1, 1))


# --- renderings ------------------------------------------------------------------------------------------


def test_markdown_table_parses_whatever_the_names():
    odd = "a|b\nc"
    trials = [trial("infonce", 1), trial(odd, 1, settings={"k": "x|y"})]
    rows = markdown_rows(to_markdown(build(study(*trials, arms=("infonce", odd)))))
    assert len(rows) == 2 + 2
    assert {len(cells) for cells in rows} == {10}
    assert all(re.fullmatch("-+:?", cell) for cell in rows[1])
    assert rows[3][0] == "a\\|b c"


def test_a_difference_never_stands_without_its_interval():
    report = build(study(*complete()))
    number = r"[+−]0\.\d{4}"
    for cells in markdown_rows(to_markdown(report))[3:]:
        assert re.fullmatch(rf"{number} \[{number}, {number}\]", cells[6])
    for width in (80, 160):
        found = re.findall(rf"(?<![\[,\d]){number}(?![\],\d])", terminal(report, width).replace(", ", ","))
        intervals = re.findall(rf"\[{number},{number}\]", terminal(report, width).replace(", ", ","))
        assert len(found) == len(intervals) == 2


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_fits_its_width(width: int):
    text = terminal(build(study(*complete())), width)
    assert max(map(len, text.splitlines())) <= width
    assert "[0." in text and "0/3" not in text and "3/3" in text
    assert "*0." in text  # the best is marked even where bold cannot be seen


def test_terminal_does_not_read_names_as_markup():
    report = build(study(trial("[red]x[/red]", 1), arms=("[red]x[/red]",), baseline="[red]x[/red]"))
    assert "[red]x[/red]" in terminal(report)


def test_method_line_says_what_was_computed():
    text = to_markdown(build(study(*complete())))
    for part in (
        "python 60 queries among 500 codes",
        "corpus c0ffee",
        "95 % percentile bootstrap over queries and seeds, 200 resamples",
        "sign-flip test over queries of the seed-averaged values, 400 permutations",
        "Holm-corrected over the arms compared with infonce",
    ):
        assert part in text


def test_json_is_complete_stable_and_unrounded():
    results = study(*complete())
    text = to_json(build(results))
    assert text == to_json(build(results))
    value = json.loads(text)
    row = row_of(build(results), "soft")
    (found,) = [r for r in value["rows"] if r["arm"] == "soft"]
    assert row.difference
    assert found["difference"]["low"] == row.difference.low
    assert (found["p_value"], found["p_holm"]) == (row.p_value, row.p_holm)
    assert set(Report.__dataclass_fields__) <= set(value)
    assert value["report_version"] == 1


def test_json_has_no_nan():
    report = build(study(trial("infonce", 1, metrics={"test_recall@1": float("nan")}), arms=("infonce",)))
    assert json.loads(to_json(report))["rows"][0]["metrics"] == {"test_recall@1": None}
    assert json.loads(to_json(replace(report, level=float("inf"))))["level"] is None


def test_report_needs_no_heavy_library():
    code = "import sys, softnce_ray.report; print({'mlflow', 'ray', 'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- another measure ---------------------------------------------------------------------------------------


def test_graded_ndcg_is_compared_as_reciprocal_ranks_are():
    graded = {arm: np.linspace(0.2, 0.8, QUERIES["python"]) + lift for arm, lift in (("infonce", 0.0), ("soft", 0.1))}
    trials = [
        trial(arm, seed, graded_ndcg={"test": values + seed / 1000})
        for arm, values in graded.items()
        for seed in (1, 2, 3)
    ]
    results = study(*trials, arms=("infonce", "soft"))
    report = build_report(results, measure="graded_ndcg", resamples=200, permutations=200)
    plain, soft = report.rows
    assert plain.mean is not None
    assert plain.mean.mean == pytest.approx(0.502)
    assert soft.difference is not None
    assert soft.difference.mean == pytest.approx(0.1)
    assert report.measure == "graded_ndcg"
    for text in (to_markdown(report), terminal(report)):
        assert "test nDCG" in text
        assert "MRR" not in text
    by_rank = build_report(results, resamples=200, permutations=200)
    assert "test MRR" in to_markdown(by_rank)
    assert by_rank.rows[0].mean != plain.mean


def test_a_measure_that_nothing_has_is_an_error_that_says_where_it_comes_from():
    with pytest.raises(ReportError, match=r"has no graded nDCG: its corpus does not know .* `softnce-ray corpus"):
        build_report(study(trial("infonce", 1)), measure="graded_ndcg")
    assert not any(row.mean for row in build_report(study(), measure="graded_ndcg").rows)  # nothing finished yet


def test_a_trial_without_the_measure_is_named_beside_the_table():
    results = study(
        trial("infonce", 1, graded_ndcg={"test": np.full(QUERIES["python"], 0.5)}),
        trial("soft", 1),
        arms=("infonce", "soft"),
    )
    report = build_report(results, measure="graded_ndcg", resamples=100, permutations=100)
    assert [(p.arm, p.kind, p.reason) for p in report.problems if p.arm == "soft" and p.kind == "unusable"] == [
        ("soft", "unusable", "no values of the queries of split 'test' were stored")
    ]
