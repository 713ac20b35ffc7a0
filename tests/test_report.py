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
import scipy.stats
from rich.console import Console

from softnce_ray.config import TrainingSet
from softnce_ray.ranks_file import place
from softnce_ray.report import (
    Report,
    ReportError,
    Row,
    build_report,
    columns,
    to_html,
    to_json,
    to_latex,
    to_markdown,
    to_terminal,
)
from softnce_ray.report.columns import Column
from softnce_ray.report.finding import arm_metrics
from softnce_ray.report.sensitivity import sensitivities
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.statistics import (
    Design,
    detectable,
    difference,
    holm,
    mean_interval,
    queries_needed,
    seeds_needed,
    simultaneous_levels,
)

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
    return build_report(results, **options)


def row_of(report: Report, arm: str, language: str | None = "python") -> Row:
    (row,) = [row for row in report.rows if (row.arm, row.language) == (arm, language)]
    return row


def terminal(report: Report, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(to_terminal(report, width=width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def markdown_rows(text: str) -> list[list[str]]:
    """The cells of the first table."""
    first = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = first[0].splitlines() if first else []
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize(("queries", "text"), [(1, "none of 1 query"), (12, "of 12 queries")])
def test_the_number_of_few_queries_stands_beside_every_interval(queries: int, text: str) -> None:
    few = [replace(each, reciprocal_ranks={"test": each.reciprocal_ranks["test"][:queries]}) for each in complete()]
    report = build(study(*few))
    for made in (terminal(report), to_markdown(report), to_latex(report), to_html(report)):
        assert " ".join(made.split()).count(text) >= 5, made  # of three means and two differences
    assert any("1 query alone (python): it gives no interval" in note for note in report.notes) == (queries == 1)
    whole = build(study(*complete()))
    assert not re.search(r"\] of \d+ queries|1 query", terminal(whole) + to_markdown(whole))


# --- the table -------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_stored_ranks():
    trials = complete()
    report = build(study(*trials))
    ranks = {arm: np.stack([t.reciprocal_ranks["test"] for t in trials if t.arm == arm]) for arm in LIFTS}
    differences = {arm: difference(ranks[arm], ranks["infonce"]) for arm in LIFTS if arm != "infonce"}
    p_values = [each.p for each in differences.values()]
    for (arm, expected), corrected, level in zip(
        differences.items(), holm(p_values), simultaneous_levels(p_values), strict=True
    ):
        row = row_of(report, arm)
        assert row.mean == mean_interval(ranks[arm])
        assert row.difference == expected
        assert row.p_holm == pytest.approx(corrected)
        assert row.together == expected.at(level)
        assert row.spread == pytest.approx(ranks[arm].mean(axis=1).std(ddof=1))
    baseline = row_of(report, "infonce")
    assert (baseline.difference, baseline.together, baseline.p_holm) == (None, None, None)
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
    assert text.count("training.batch_size=64") == 1
    assert markdown_rows(text)[-1][-1] == "loss.name=same"


def test_settings_have_their_whole_names_where_they_differ_and_where_they_do_not():
    mined = {"hard_negatives.name": "bm25_code", "hard_negatives.depth": "20", "symmetric": "False"}
    trials = [
        trial(arm, 1, settings={**mined, "hard_negatives.count": count})
        for arm, count in (("infonce", "1"), ("soft", "2"))
    ]
    report = build(study(*trials, arms=("infonce", "soft")))
    common = "hard_negatives.depth=20, hard_negatives.name=bm25_code, symmetric=False"
    for text in (to_markdown(report), " ".join(terminal(report).split()), to_html(report)):
        assert common in text
        assert "hard_negatives.count=1" in text and "hard_negatives.count=2" in text
        assert not re.search(r"[^.](count|depth)=", text)


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
    assert "Overall: mean over languages." in to_markdown(report)
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
    assert (row.seeds_done, row.failures, row.stopped, row.spread) == (1, 1, 1, None)
    assert row.mean and row.mean.seeds == 1
    for text in (to_markdown(report), terminal(report)):
        assert "soft, python: failed, seed 2 (run soft-python-2): CUDA out of memory" in text
        assert "soft, python: stopped, seed 3 (run soft-python-3): the next launch goes on with it" in text
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


def test_a_trial_that_was_stopped_and_run_again_is_named_with_the_run_that_finished():
    stopped = trial("infonce", 1, run_id="first", status="KILLED", reciprocal_ranks={})
    report = build(study(stopped, *complete()))
    assert [(row.failures, row.stopped) for row in report.rows if row.arm == "infonce"] == [(0, 1)]
    assert "infonce, python: stopped, seed 1 (run first): finished in run infonce-python-1" in to_markdown(report)


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
    assert report.title == "quickstart (still running: 1 of 3 confirm trials finished, 1 trial running)"
    text = to_markdown(report)
    assert "infonce, python: running, seed 2 (run infonce-python-2)\n" in text
    assert "missing, seed 3: not started yet" in text
    assert build(study(*complete(), status="KILLED")).title.startswith("quickstart (stopped: 9 of 9")


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
    assert row.mean and row.difference is None and row.p_holm is None
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


def test_a_column_that_is_added_appears_in_every_rendering_and_moves_no_mark(monkeypatch):
    column = Column("codes", lambda report, row: f"c{row.seeds_done}", heading=lambda report: "added column")
    monkeypatch.setattr(columns, "COLUMNS", (columns.COLUMNS[0], column, *columns.COLUMNS[1:]))
    report = build(study(*complete()))
    best = next(row for row in report.rows if row.is_best)
    assert best.mean is not None
    mean = f"{best.mean.mean:.4f}"

    titles, _, *rows = markdown_rows(to_markdown(report))
    assert titles[1] == "added column" and {row[1] for row in rows} == {"c3"}
    bold = [(title, cell) for row in rows for title, cell in zip(titles, row, strict=True) if cell.startswith("**")]
    assert bold == [("test MRR", f"**{mean}**")]
    latex = to_latex(report)
    assert "added column" in latex and f"& c3 & {best.seeds_done}/3 & \\textbf{{{mean}}} & \\textbf{{" in latex
    page = to_html(report)
    assert ">added column</th>" in page and re.findall("<b>([^<]*)</b>", page)[0] == mean
    assert "added" in terminal(report, 160) and f"*{mean}" in terminal(report, 160)


def test_p_is_named_for_what_it_says():
    report = build(study(*complete()))
    assert "p (Holm)" in markdown_rows(to_markdown(report))[0]
    assert "$p$ (Holm)" in to_latex(report)
    given = build(study(*complete()), inference="these-models", permutations=400)
    assert "p (Holm, these models)" in markdown_rows(to_markdown(given))[0]
    assert "$p$ (Holm, these models)" in to_latex(given)
    assert "these trained models on other queries and say nothing of other seeds" in to_markdown(given)
    assert "two-sided paired sign-flip test, 400 permutations" in to_markdown(given)


def test_all_arms_and_languages_are_one_family_whose_p_and_intervals_agree():
    report = build(study(*complete(("python", "ruby")), languages=("python", "ruby")))
    compared = [row for row in report.rows if row.difference]
    assert [row.language for row in compared] == ["python", "python", "ruby", "ruby", None, None]
    corrected = holm([row.difference.p for row in compared if row.difference])
    assert [row.p_holm for row in compared] == pytest.approx(corrected.tolist())
    assert all(
        (row.p_holm < 0.05) == (not row.together.low <= 0 <= row.together.high)
        for row in compared
        if row.together and row.p_holm is not None
    )
    assert "All 6 differences from infonce are one family" in to_markdown(report)
    alone = build(study(*[t for t in complete() if t.arm != "soft"], arms=("infonce", "same")))
    assert "family" not in to_markdown(alone)


def test_each_language_is_a_family_where_the_study_says_so():
    report = build(study(*complete(("python", "ruby")), languages=("python", "ruby"), family="language"))
    for language in ("python", "ruby", None):
        rows = [row for row in report.rows if row.language == language and row.difference]
        corrected = holm([row.difference.p for row in rows if row.difference]).tolist()
        assert [row.p_holm for row in rows] == pytest.approx(corrected)
        levels = simultaneous_levels([row.difference.p for row in rows if row.difference])
        assert [row.together.level for row in rows if row.together] == pytest.approx(levels.tolist())
    text = to_markdown(report)
    assert "The differences from infonce in each language are a family: p is Holm-corrected" in text
    assert [each.design.comparisons for each in sensitivities(report)] == [2] * 6


def test_a_difference_never_stands_without_its_interval():
    report = build(study(*complete()))
    number = r"[+−]0\.\d{4}"
    for cells in markdown_rows(to_markdown(report))[3:]:
        assert re.fullmatch(rf"{number} \[{number}, {number}\]", cells[6])
    for width in (80, 160):
        found = re.findall(rf"(?<![\[,\d]){number}(?![\],\d])", terminal(report, width).replace(", ", ","))
        intervals = re.findall(rf"\[{number},{number}\]", terminal(report, width).replace(", ", ","))
        assert len(found) == len(intervals) == 2


def test_what_a_study_could_see_is_told_by_every_rendering():
    report = build(study(*complete()))
    found = {each.label: each for each in sensitivities(report)}
    soft = found["soft, python"]
    row = row_of(report, "soft")
    assert row.difference
    design = Design(components=row.difference.components, queries=(60,), seeds=3, comparisons=2)
    assert soft.design == design
    assert soft.detectable == detectable(design)
    assert soft.seeds == {effect: seeds_needed(design, effect) for effect in (0.002, 0.005, 0.01)}
    assert soft.queries[0.01] == queries_needed(design, 0.01)
    seen = f"{soft.detectable:.4f}"
    for text in (to_markdown(report), to_html(report)):
        assert "What could this study see?" in text and seen in text
    assert f"This study could see (80 % power) differences of {seen} (soft, python)" in terminal(report)
    assert json.loads(to_json(report))["sensitivity"][0]["detectable"] == soft.detectable
    assert sensitivities(build(study(*complete()), inference="these-models")) == ()


def test_numbers_of_arms_have_the_bounds_that_go_with_p_and_none_that_are_infinite():
    report = build(study(*complete()))
    row, found = row_of(report, "soft"), arm_metrics(report, "soft")
    assert row.together
    name = "python_test_mrr_difference"
    assert (found[f"{name}_low"], found[f"{name}_high"]) == (row.together.low, row.together.high)
    assert found["python_test_mrr_p"] == row.p_holm
    one = [replace(each, reciprocal_ranks={"test": each.reciprocal_ranks["test"][:1]}) for each in complete()]
    lone = arm_metrics(build(study(*one)), "soft")
    assert "python_test_mrr_difference" in lone and "python_test_mrr_low" not in lone
    assert all(map(np.isfinite, lone.values()))


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
        "Intervals (95 %) and p speak of other seeds and other queries: crossed random effects of both",
        "Both differences from infonce are one family: p is Holm-corrected, and their intervals hold together",
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
    assert (found["difference"]["p"], found["p_holm"]) == (row.difference.p, row.p_holm)
    assert set(Report.__dataclass_fields__) <= set(value)
    assert value["report_version"] == 2


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
    report = build_report(results, measure="graded_ndcg")
    plain, soft = report.rows
    assert plain.mean is not None
    assert plain.mean.mean == pytest.approx(0.502)
    assert soft.difference is not None
    assert soft.difference.mean == pytest.approx(0.1)
    assert report.measure == "graded_ndcg"
    for text in (to_markdown(report), terminal(report)):
        assert "test nDCG" in text
        assert "MRR" not in text
    by_rank = build_report(results)
    assert "test MRR" in to_markdown(by_rank)
    assert by_rank.rows[0].mean != plain.mean


def test_a_measure_that_nothing_has_is_an_error_that_says_where_it_comes_from():
    with pytest.raises(ReportError, match=r"has no graded nDCG: its corpus does not know .* `corpus plant`"):
        build_report(study(trial("infonce", 1)), measure="graded_ndcg")
    assert not any(row.mean for row in build_report(study(), measure="graded_ndcg").rows)  # nothing finished yet


def test_a_trial_without_the_measure_is_named_beside_the_table():
    results = study(
        trial("infonce", 1, graded_ndcg={"test": np.full(QUERIES["python"], 0.5)}),
        trial("soft", 1),
        arms=("infonce", "soft"),
    )
    report = build_report(results, measure="graded_ndcg")
    assert [(p.arm, p.kind, p.reason) for p in report.problems if p.arm == "soft" and p.kind == "unusable"] == [
        ("soft", "unusable", "no values of the queries of split 'test' were stored")
    ]


# --- models of several languages ---------------------------------------------------------------------------

BOTH = TrainingSet.of_all(["python", "ruby"])
TO_RUBY = TrainingSet(name="to_ruby", train=("python",), test=("ruby",))


def ranked(arm: str, training: str | TrainingSet, **ranks: list[float]) -> TrialResult:
    """A finished trial of these reciprocal ranks of each language's queries."""
    several = len(ranks) > 1
    means = {language: float(np.mean(values)) for language, values in ranks.items()}
    name = training if isinstance(training, str) else training.name
    of_each = {f"test_mrr/{language}": mean for language, mean in means.items()} if several else {}
    return replace(
        trial(arm, 1),
        run_id=f"{arm}-{name}",
        identity=f"{arm}-{name}",
        language=name,
        metrics={"test_mrr": sum(means.values()) / len(means), "best_valid_mrr": 0.5, **of_each},
        settings={"loss.name": arm, "train_languages": name},
        reciprocal_ranks={
            place("test", language if several else None): np.array(values) for language, values in ranks.items()
        },
    )


def tongues(*trials: TrialResult, languages=("python", "ruby", "all", "to_ruby"), **changes) -> StudyResults:
    sets = {each.name: each for each in (BOTH, TO_RUBY) if each.name in languages}
    values = {"arms": ("infonce", "soft"), "languages": languages, "seeds": (1,), "training_sets": sets, **changes}
    return study(*trials, **values)


TONGUES = [
    ranked("infonce", "python", python=[0.5, 0.5, 0.5, 0.5]),
    ranked("soft", "python", python=[0.6, 0.6, 0.6, 0.6]),
    ranked("infonce", "ruby", ruby=[0.2, 0.4]),
    ranked("soft", "ruby", ruby=[0.4, 0.4]),
    ranked("infonce", BOTH, python=[0.7, 0.7, 0.7, 0.7], ruby=[0.3, 0.5]),
    ranked("soft", BOTH, python=[0.4, 0.8, 0.8, 0.4], ruby=[0.9, 0.5]),
    ranked("infonce", TO_RUBY, ruby=[0.1, 0.1]),
    ranked("soft", TO_RUBY, ruby=[0.2, 0.4]),
]


def test_a_model_of_several_languages_stands_beside_those_of_each_language():
    report = build(tongues(*TONGUES))
    found = [(row.name, row.language, row.mean and round(row.mean.mean, 6)) for row in report.rows]
    assert found == [
        ("infonce", "python", 0.5),
        ("soft", "python", 0.6),
        ("infonce [all]", "python", 0.7),
        ("soft [all]", "python", 0.6),
        ("infonce", "ruby", 0.3),
        ("soft", "ruby", 0.4),
        ("infonce [all]", "ruby", 0.4),
        ("soft [all]", "ruby", 0.7),
        ("infonce [to_ruby]", "ruby", 0.1),
        ("soft [to_ruby]", "ruby", 0.3),
        ("infonce", None, 0.4),
        ("soft", None, 0.5),
        ("infonce [all]", None, 0.55),
        ("soft [all]", None, 0.65),
    ]
    assert report.queries == {"python": 4, "ruby": 2}


def test_a_difference_is_from_the_baseline_with_the_same_training_set():
    report = build(tongues(*TONGUES))
    differences = {(row.name, row.language): row.difference for row in report.rows if row.arm == "soft"}
    means = {key: each.mean for key, each in differences.items() if each}
    expected = {
        ("soft", "python"): 0.1,
        ("soft [all]", "python"): -0.1,
        ("soft", "ruby"): 0.1,
        ("soft [all]", "ruby"): 0.3,
        ("soft [to_ruby]", "ruby"): 0.2,
        ("soft", None): 0.1,
        ("soft [all]", None): 0.1,
    }
    assert means == pytest.approx(expected)
    assert all(row.difference is None and row.p_holm is None for row in report.rows if row.arm == "infonce")


def test_p_is_corrected_over_all_rows_of_the_report():
    """One seed, so paired t over queries. Python: 0.1 four times has no variance, p 0; -0.3, 0.1, 0.1, -0.3 of `all`
    has mean -0.1 and standard error 0.2 / √3. Ruby: two queries, so Student's with one degree of freedom."""
    report = build(tongues(*TONGUES))
    found = {(row.name, row.language): row for row in report.rows if row.difference}
    p = {key: row.difference.p for key, row in found.items() if row.difference}
    assert p["soft", "python"] == pytest.approx(0)
    assert p["soft [all]", "python"] == pytest.approx(2 * scipy.stats.t.sf(np.sqrt(3) / 2, 3))
    assert [found[key].p_holm for key in p] == pytest.approx(holm(list(p.values())).tolist())
    assert len(p) == 7
    assert [row.label for row in report.rows if row.is_best] == [
        "infonce [all], python",
        "soft [all], ruby",
        "soft [all], overall",
    ]


def test_the_numbers_of_one_training_set_do_not_depend_on_those_beside_it():
    alone, beside = build(tongues(*TONGUES[:4], languages=("python", "ruby"))), build(tongues(*TONGUES))
    for row in alone.rows:
        (same,) = [each for each in beside.rows if (each.name, each.language) == (row.name, row.language)]
        assert (same.mean, same.difference) == (row.mean, row.difference)


def test_means_over_some_of_the_languages_say_which():
    php = TrainingSet(name="few", train=("php",), test=("python", "ruby"))
    results = tongues(
        TONGUES[0],
        TONGUES[2],
        ranked("infonce", "php", php=[0.6]),
        ranked("infonce", php, python=[0.5, 0.5, 0.5, 0.5], ruby=[0.1, 0.1]),
        languages=("python", "ruby", "php", "few"),
        training_sets={"few": php},
        arms=("infonce",),
    )
    report = build(results)
    overall = [(row.name, row.languages, row.mean and round(row.mean.mean, 6)) for row in report.rows[-2:]]
    assert overall == [
        ("infonce", ("python", "ruby", "php"), round((0.5 + 0.3 + 0.6) / 3, 6)),
        ("infonce [few]", ("python", "ruby"), 0.3),
    ]
    cells = [row[:2] for row in markdown_rows(to_markdown(report))]
    assert cells[-2:] == [["infonce", "overall"], ["infonce [few]", "overall (python, ruby)"]]


def test_a_failed_trial_of_several_languages_is_named_once_and_counted_in_each():
    failed = trial("soft", 1, run_id="broken", status="FAILED", failure="no disk", reciprocal_ranks={})
    failed = replace(failed, language="all")
    report = build(tongues(*(each for each in TONGUES if each.run_id != "soft-all"), failed))
    assert [row.failures for row in report.rows if row.name == "soft [all]"] == [1, 1, 1]
    assert to_markdown(report).count("no disk") == 1
    assert "soft, all: failed, seed 1 (run broken): no disk" in to_markdown(report)
    assert "No overall row for soft [all]" in to_markdown(report)
    assert "missing" not in to_markdown(report)


def test_a_trial_that_lacks_one_of_its_languages_is_no_result():
    half = replace(TONGUES[5], reciprocal_ranks={"test/python": np.full(4, 0.5)})
    report = build(tongues(*TONGUES[:5], half, *TONGUES[6:]))
    assert [(p.arm, p.language, p.kind) for p in report.problems] == [("soft", "all", "unusable")]
    assert not any(row.mean for row in report.rows if row.name == "soft [all]")


def test_queries_of_a_language_agree_across_training_sets():
    other = ranked("soft", BOTH, python=[0.5, 0.5, 0.5, 0.5], ruby=[0.5, 0.5, 0.5])
    with pytest.raises(ReportError, match=r"ruby: .* 2 queries in run .*; 3 queries in run soft-all"):
        build(tongues(*TONGUES[:5], other))


def test_metrics_of_a_row_are_those_of_its_language():
    report = build(tongues(*TONGUES))
    rows = {(row.name, row.language): row.metrics for row in report.rows}
    assert rows["soft [all]", "ruby"] == pytest.approx({"test_mrr": 0.7, "best_valid_mrr": 0.5})
    assert rows["soft", "ruby"] == pytest.approx({"test_mrr": 0.4, "best_valid_mrr": 0.5})


def test_renderings_say_what_the_training_sets_are():
    report = build(tongues(*TONGUES))
    for text in (to_markdown(report), " ".join(terminal(report).split())):
        assert "[all] on python, ruby, [to_ruby] on python; they are compared with infonce trained on the same" in text
        assert "train_languages" not in text
    lines = terminal(report, 120).splitlines()
    assert max(map(len, lines)) <= 120
    assert len([line for line in lines if line.startswith("  soft [all]: ")]) == 1  # its settings are told once
    value = json.loads(to_json(report))
    assert value["training_sets"] == {"all": ["python", "ruby"], "to_ruby": ["python"]}
    assert {row["training_set"] for row in value["rows"]} == {None, "all", "to_ruby"}
    assert "brackets" not in to_markdown(build(study(*complete())))
