"""The page: whole HTML that needs nothing else, what it draws, and what it says where something is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from test_report import SEEDS, TONGUES, build, complete, study, tongues, trial

from softnce_ray.distributions import RELATIVE_EDGES, SCORE_EDGES, Distributions, Histogram
from softnce_ray.report import Evidence, Report, Text, gather, report_files, shown_queries, to_html, wanted_histories
from softnce_ray.report import with_texts as told
from softnce_ray.report.html import arm_classes
from softnce_ray.report.svg import Scale, escape, number, scale, short_path
from softnce_ray.report.wording import signed
from softnce_ray.results import StudyResults, TrialResult

VOID = {"meta", "link", "br", "img", "hr"}
CELL = ("python", "python")


class Reader(HTMLParser):
    """Fails where an element is not closed in turn; keeps texts by element, and all attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def searched(number_: int, status: Any = "FINISHED", **settings: Any) -> TrialResult:
    return trial(
        "soft",
        9,
        phase="search",
        status=status,
        run_id=f"search{number_}",
        reciprocal_ranks={},
        settings={"loss.name": "soft", **{key: str(value) for key, value in settings.items()}},
        metrics={"best_valid_mrr": 0.3 + number_ / 100, "epoch": 2.0, "train_seconds": 5.0}
        if status == "FINISHED"
        else {},
    )


def histories(results: StudyResults) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Validation of every confirm trial: epoch / 10 + seed / 100."""
    return {
        each.run_id: {"valid_mrr": [(epoch, epoch / 10 + each.seed / 100) for epoch in (1, 2, 3)]}
        for each in results.trials
        if each.phase == "confirm"
    }


def evidence(results: StudyResults, report: Report, **given) -> Evidence:
    return gather(results, report, **{"histories": histories(results), **given})


def plain_text(page: str) -> str:
    return " ".join(text for tag, text in read(page).texts if tag not in ("script", "style"))


def spread_of(arm: str, values: list[float], relative: list[float] | None = None) -> Distributions:
    counted = Histogram.of(np.array(values), SCORE_EDGES)
    return Distributions(
        8, 2, counted, counted, None if relative is None else Histogram.of(np.array(relative), RELATIVE_EDGES)
    )


# --- the page --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("results", [study(*complete()), study(), tongues(*TONGUES)], ids=["whole", "empty", "sets"])
def test_it_is_whole_and_needs_nothing_else(results: StudyResults):
    report = build(results)
    page = to_html(report, evidence(results, report))
    reader = read(page)
    for _, name, value in reader.attributes:
        assert name not in ("src", "srcset", "data") or value.startswith("data:")
        assert name not in ("href", "xlink:href") or value.startswith("#")
    styles = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in styles and "@import" not in styles and "http" not in page
    assert page == to_html(report, evidence(results, report))


def test_names_are_text_wherever_they_stand():
    odd = "<script>alert('x')</script> & \"q\""
    results = study(
        *(trial(arm, seed, lift=lift) for arm, lift in (("infonce", 0.0), (odd, 0.1)) for seed in SEEDS),
        arms=("infonce", odd),
        question=odd,
    )
    report = build(results)
    page = to_html(report, evidence(results, report))
    assert page.count("<script>") == 1
    assert plain_text(page).count(odd) > 3


def test_every_row_and_number_of_the_table_is_on_the_page():
    report = build(study(*complete(("python", "ruby")), languages=("python", "ruby")))
    words = plain_text(to_html(report))
    for row in report.rows:
        assert row.mean and f"{row.mean.mean:.4f}" in words and f"[{row.mean.low:.4f}, {row.mean.high:.4f}]" in words
        if row.difference:
            assert f"{row.difference.mean:+.4f}".replace("-", "−") in words
    bold = [text for tag, text in read(to_html(report)).texts if tag == "b"]
    best = [row for row in report.rows if row.is_best]
    assert [text for text in bold if "[" not in text] == [f"{row.mean.mean:.4f}" for row in best if row.mean]


def test_running_trials_are_counted_and_named():
    running = trial("soft", 3, run_id="now", status="RUNNING", reciprocal_ranks={})
    results = study(*(t for t in complete() if t.run_id != "soft-python-3"), running, status="RUNNING")
    words = plain_text(to_html(build(results)))
    assert "8 of 9 confirm trials finished, 1 trial running" in words
    assert "9 confirm trials (8 finished, 1 running)" in words
    assert "soft, python: running, seed 3 (run now)" in words


def test_what_is_missing_is_said_in_a_sentence():
    results = study()
    report = build(results)
    words = plain_text(to_html(report, gather(results, report, histories={}, lacking={"texts": "No corpus here."})))
    for part in ("No validation by epoch", "No diagnostics", "Nothing was searched", "No two arms", "No corpus here."):
        assert part in words
    assert "were not asked for" in plain_text(to_html(report))


def test_many_arms_keep_colours_for_the_baseline_and_the_best():
    arms = tuple(f"arm{n}" for n in range(12))
    results = study(
        *(trial(arm, 1, lift=n / 100) for n, arm in enumerate(arms)), arms=arms, baseline="arm0", seeds=(1,)
    )
    classes = arm_classes(build(results))
    coloured = {arm for arm, name in classes.items() if name != "rest"}
    assert coloured == {"arm0", *(f"arm{n}" for n in range(5, 12))}
    assert classes["arm0"] == "c0"


def test_the_files_of_a_report():
    report = build(study(*complete()))
    files = report_files(report)
    assert set(files) == {"report.html", "report.md", "report.tex", "report.json"}
    assert all(text.endswith("\n") for text in files.values())


# --- what stands behind it ---------------------------------------------------------------------------------


def test_curves_are_means_over_seeds_with_their_range():
    """Seeds 1, 2, 3 give 0.11, 0.12, 0.13 at epoch 1."""
    results = study(*complete())
    (curve,) = [each for each in evidence(results, build(results)).curves if each.name == "soft"]
    assert curve.epochs == (1, 2, 3)
    assert curve.seeds == (3, 3, 3)
    assert curve.mean == pytest.approx((0.12, 0.22, 0.32))
    assert curve.low == pytest.approx((0.11, 0.21, 0.31))
    assert curve.high == pytest.approx((0.13, 0.23, 0.33))


def test_a_running_trial_is_in_its_curve_as_far_as_it_is():
    running = trial("soft", 3, run_id="now", status="RUNNING", reciprocal_ranks={}, metrics={"valid_mrr": 0.5})
    results = study(*(t for t in complete() if t.run_id != "soft-python-3"), running, status="RUNNING")
    given = histories(results) | {"now": {"valid_mrr": [(1, 0.5)]}}
    (curve,) = [each for each in gather(results, build(results), histories=given).curves if each.name == "soft"]
    assert curve.seeds == (3, 2, 2)
    assert curve.high[0] == 0.5


def test_a_trial_of_several_languages_has_a_curve_in_each():
    results = tongues(*TONGUES)
    given = {
        each.run_id: {f"valid_mrr/{language}": [(1, value)] for language, value in (("python", 0.25), ("ruby", 0.75))}
        for each in results.trials
        if each.language == "all"
    }
    curves = gather(results, build(results), histories=given).curves
    assert {(each.name, each.language, each.mean) for each in curves} == {
        (f"{arm} [all]", language, (value,))
        for arm in ("infonce", "soft")
        for language, value in (("python", 0.25), ("ruby", 0.75))
    }


def test_wins_and_losses_are_of_seed_averages():
    """Soft has 0.6 0.2 0.5 0.5 against 0.5: one won, one lost, two equal."""
    values = {"infonce": [0.5] * 4, "soft": [0.6, 0.2, 0.5, 0.5]}
    trials = [
        replace(trial(arm, seed), reciprocal_ranks={"test": np.array(ranks)}, metrics={"test_codebase": 9.0})
        for arm, ranks in values.items()
        for seed in (1, 2)
    ]
    results = study(*trials, arms=("infonce", "soft"), seeds=(1, 2))
    report = build(results)
    found = evidence(results, report, query_ids={CELL: ["a", "b", "c", "d"]})
    (duel,) = found.duels
    assert (duel.wins, duel.losses, duel.ties) == (1, 1, 2)
    assert duel.differences == pytest.approx((0.1, 0, 0, -0.3))
    assert [(each.id, round(each.difference, 9)) for each in (*duel.gained, *duel.lost)] == [("a", 0.1), ("b", -0.3)]
    assert shown_queries(found) == {"python": {"a", "b"}}
    texts = {"a": Text("Find <it>", "def find(): ...", "x.py:3 find")}
    words = plain_text(to_html(report, told(found, texts, "No corpus.")))
    for part in (
        "Find <it>",
        "def find(): ...",
        "x.py:3 find",
        "+0.100",
        "−0.300",
        "No corpus.",
        "1 queries won, 1 lost",
    ):
        assert part in words


def test_without_ids_nothing_is_said_of_single_queries():
    results = study(*complete())
    (duel,) = evidence(results, build(results), query_ids={CELL: ["too", "few"]}).duels
    assert duel.wins and duel.gained == duel.lost == ()


SPACE = """
search: {space: {temperature: {low: 0.01, high: 1, log: true}}}
arms: {soft: {search: {loss.alpha: {low: 0, high: 2}}}}
"""


def test_searched_settings_are_those_of_the_file():
    trials = [searched(n, temperature=0.1 * (n + 1), **{"loss.alpha": n, "loss.beta": 2 - n}) for n in range(3)]
    trials[0] = replace(trials[0], stopped_early=True)
    trials.append(searched(7, "FAILED", temperature=0.9, **{"loss.alpha": 1, "loss.beta": 1}))
    results = study(*trials, *complete())
    report = build(results)
    shares = {("soft", "python"): {"loss.alpha": 0.9, "temperature": 0.1}}
    (search,) = evidence(results, report, study_text=SPACE, importances=shares).searches
    assert search.searched == ("loss.alpha", "temperature")  # beta follows alpha; the most important first
    assert search.logarithmic == {"temperature"}
    assert [each.state for each in search.trials] == ["stopped early", "finished", "finished", "failed"]
    assert [each.value for each in search.trials] == pytest.approx([0.3, 0.31, 0.32, None])
    (unknown,) = evidence(results, report).searches
    assert set(unknown.searched) == {"temperature", "loss.alpha", "loss.beta"}  # what varies, where no file is known


def test_a_random_search_is_drawn_as_points_and_a_grid_as_a_heat_map():
    rng = np.random.default_rng(0)
    random = [searched(n, temperature=float(rng.uniform()), **{"loss.alpha": float(rng.uniform())}) for n in range(9)]
    grid = [searched(3 * n + m, **{"loss.alpha": n, "loss.beta": m}) for n in range(3) for m in range(3)]
    pages = []
    for trials in (random, grid):
        results = study(*trials, *complete())
        report = build(results)
        page = to_html(report, evidence(results, report, importances={("soft", "python"): {"loss.alpha": 1.0}}))
        pages.append(page[page.index('id="search"') : page.index('id="diagnostics"')])
    assert pages[0].count('class="dot"') == 9 and "PED-ANOVA" in pages[0]
    assert 'class="dot"' not in pages[1]
    cells = re.findall(r"mean (0\.\d{4}) of 1 trials", pages[1])
    assert sorted(cells) == [f"{0.3 + n / 100:.4f}" for n in range(9)]


def test_three_settings_are_drawn_side_by_side_and_one_alone():
    for settings, expected in ((("a", "b", "c"), 5), (("a",), 0)):
        trials = [searched(n, **{key: n * (at + 1) for at, key in enumerate(settings)}) for n in range(1, 6)]
        results = study(*trials, *complete())
        report = build(results)
        page = to_html(report, evidence(results, report))
        assert page.count('class="thread"') == expected
        assert "best validation MRR" in page


def test_searched_settings_are_drawn_with_their_whole_names():
    keys = ("hard_negatives.count", "hard_negatives.depth", "loss.alpha", "encoder.lora.rank")
    trials = [searched(n, **{key: n * (at + 1) for at, key in enumerate(keys)}) for n in range(1, 6)]
    results = study(*trials, *complete())
    report = build(results)
    shares = {("soft", "python"): dict.fromkeys(keys, 0.25)}
    page = to_html(report, evidence(results, report, importances=shares))
    for key in keys:
        assert page.count(f">{key}</text>") >= 2  # side by side, and where it is said what mattered
    assert not re.search(r">(count|depth|alpha|rank)</text>", page)


def test_a_key_that_is_too_long_keeps_its_last_part():
    assert short_path("hard_negatives.count", 20) == "hard_negatives.count"
    assert short_path("hard_negatives.count", 16) == "hard_negat…count"
    assert short_path("similarity", 8) == "similar…"


def test_settings_that_are_names_are_drawn_too():
    trials = [
        replace(searched(n), settings={"loss.k": str(n), "pooling": ("mean", "first")[n % 2]}) for n in range(1, 20)
    ]
    results = study(*trials, *complete())
    report = build(results)
    page = to_html(report, evidence(results, report))
    assert ">mean</text>" in page and ">first</text>" in page


def test_bars_of_time_begin_at_zero():
    results = study(*complete())
    report = build(results)
    page = to_html(report, evidence(results, report))
    cost = page[page.index('<section id="cost">') :].partition("</section>")[0]
    ticks = re.findall(r'<text x="([\d.]+)"[^>]*class="tick">([−\d.,]+)</text>', cost)
    bars = re.findall(r'<rect x="([\d.]+)"', cost)
    assert bars and {x for x, label in ticks if label == "0"} == set(bars)
    assert not [label for _, label in ticks if label.startswith("−")]


def test_a_page_counts_search_trials_the_same_everywhere():
    trials = [replace(searched(0, temperature=0.1), stopped_early=True), searched(1, temperature=0.2)]
    results = study(*trials, searched(2, "FAILED", temperature=0.3), *complete())
    report = build(results)
    words = plain_text(to_html(report, evidence(results, report, study_text=SPACE)))
    assert "3 search trials (1 failed, 1 finished, 1 stopped early)" in words
    assert "Note: 3 search trials (1 failed, 1 finished, 1 stopped early) chose the settings" in words
    assert "soft, python: 3 trials (1 stopped early, 1 finished, 1 failed)" in words


def test_costs_are_means_of_the_finished_trials():
    """train_seconds 10, 20, 30 of the seeds; two search trials of 2 epochs of 5 s."""
    results = study(*complete(), searched(1), searched(2))
    report = build(results)
    cost = next(each for each in evidence(results, report).costs if each.arm == "soft")
    assert (cost.trials, cost.seconds, cost.least, cost.most) == (3, 20, 10, 30)
    assert (cost.search_trials, cost.search_seconds) == (2, 20)
    assert "20 s (n = 3)" in plain_text(to_html(report, evidence(results, report)))


def test_diagnostics_are_drawn_with_their_unit():
    results = study(*complete())
    given = histories(results)
    given["soft-python-1"]["weight_entropy"] = [(1, 3.0), (2, 2.5)]
    report = build(results)
    words = plain_text(to_html(report, gather(results, report, histories=given)))
    assert "entropy of the estimator's weights p [nats]" in words
    assert "No diagnostics" not in words


def test_distributions_are_steps_of_shares_for_each_arm():
    results = study(*complete())
    report = build(results)
    counted = {
        each.run_id: spread_of(each.arm, [0.01, 0.01, 0.01, 0.06], [0.0, 0.0, 1.0] if each.arm == "soft" else None)
        for each in results.trials
    }
    found = evidence(results, report, distributions=counted)
    page = to_html(report, found)
    part = page[page.index('<section id="distributions"') :]
    part = part[: part.index("</section>")]
    assert [part.count(f"<h3>{name}") for name in ("Weights of the est", "Scores of the neg", "Scores of the pos")] == [
        1, 1, 1
    ]  # fmt: skip
    pictures = part.split("<svg")[1:]
    arms = {each.arm for each in results.trials}
    assert [picture.count("<polyline") for picture in pictures] == [1, len(arms), len(arms)]
    # 2 of 3 and 1 of 3 seen in heights above the axis; 3 and 1 of 4 in the scores
    for picture, shares in zip(pictures, ([2 / 3, 0, 0, 0, 0, 1 / 3], [0.75, 0.25]), strict=False):
        points = re.search(r'<polyline points="([^"]+)"', picture)
        assert points
        places = [tuple(map(float, point.split(","))) for point in points.group(1).split()]
        bottom = places[0][1]
        heights = [bottom - y for _, y in places[1:-1:2]]
        assert np.array(heights) / sum(heights) == pytest.approx(np.array(shares), abs=0.005)
        assert places[-1][1] == bottom
    assert ">60</text>" in pictures[0] and ">80</text>" not in pictures[0]  # per cent of all pairs, not of the highest
    assert (
        f"n = {3 * len(SEEDS)} pairs an arm" in part
        and f"n = {4 * len(SEEDS)} pairs an arm, {len(SEEDS)} seeds" in part
    )
    assert to_html(report, evidence(results, report)).count("No distributions of scores") == 1


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.00001, 4, "0.0000"), (0.00001, 4, "0.0000"), (0.0, 3, "0.000"), (-0.00006, 4, "−0.0001"), (0.25, 3, "+0.250")],
)
def test_a_difference_that_rounds_to_nothing_has_no_sign(value: float, digits: int, text: str):
    assert signed(value, digits) == text


def test_only_what_was_recorded_is_asked_for_and_seeds_are_dropped_before_arms():
    metrics = {"valid_mrr": 0.5, "alignment": 1.0, "test_mrr": 0.5}
    few = study(*(replace(each, metrics=metrics) for each in complete()), searched(1))
    wanted = wanted_histories(few)
    assert set(wanted) == {each.run_id for each in complete()}
    assert all(names == ["valid_mrr", "alignment"] for names in wanted.values())
    seeds = tuple(range(1, 801))
    many = study(
        *(trial(arm, seed, metrics=metrics, reciprocal_ranks={}) for arm in ("a", "b") for seed in seeds),
        arms=("a", "b"), seeds=seeds, baseline="a",
    )  # fmt: skip
    wanted = wanted_histories(many)
    with_diagnostics = [run for run, names in wanted.items() if "alignment" in names]
    assert sum(map(len, wanted.values())) <= 2_000
    assert len([run for run in with_diagnostics if run.startswith("a-")]) == 200
    assert len([run for run in with_diagnostics if run.startswith("b-")]) == 200


# --- drawing ---------------------------------------------------------------------------------------------


def test_ticks_are_round_and_within_the_scale():
    assert Scale(0.0, 1.0, 0, 100).ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Scale(0.01, 1.0, 0, 100, True).ticks() == pytest.approx(
        [digit * power for power in (0.01, 0.1) for digit in (1, 2, 3, 5, 7)] + [1]
    )
    assert Scale(3.0, 3.0, 0, 100).ticks() == [3.0]


def test_scales_map_ends_to_ends():
    straight, curved = Scale(2, 4, 10, 30), Scale(1, 100, 0, 20, True)
    assert (straight(2), straight(3), straight(4)) == (10, 20, 30)
    assert (curved(1), curved(10), curved(100)) == pytest.approx((0, 10, 20))
    around = scale([5.0], 0, 10)
    assert around.low < 5 < around.high
    assert scale([], 0, 10).low < scale([], 0, 10).high


@pytest.mark.parametrize(
    "value, text", [(-0.005, "−0.005"), (0.0, "0"), (-0.0, "0"), (1e-7, "1e-7"), (12345.0, "12,345")]
)
def test_numbers_of_an_axis(value: float, text: str):
    assert number(value) == text.replace("e-7", "e−7")


def test_texts_of_pictures_are_escaped():
    assert escape("<a&b>") == "&lt;a&amp;b&gt;"
