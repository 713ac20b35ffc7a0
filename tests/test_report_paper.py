"""Published numbers beside ours: which row gets which, and what is said of the difference in set-up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_report import build, markdown_rows, study, terminal, trial

from softnce_ray.config import TrainingSet
from softnce_ray.report import Report, to_html, to_json, to_latex, to_markdown
from softnce_ray.report.paper import LANGUAGES
from softnce_ray.report.published import PAPER_HEADING
from softnce_ray.results import TrialResult

BAG = {"encoder.kind": "bag", "encoder.width": "256", "training.batch_size": "64", "similarity": "cosine"}
INFONCE = {"loss.name": "infonce", "estimator.name": "none"}
BM25 = {"loss.name": "soft_infonce", "estimator.name": "bm25", "loss.alpha": "1.5", "loss.beta": "none"}
SIMCSE = {"loss.name": "soft_infonce", "estimator.name": "simcse", "loss.alpha": "1.3", "loss.beta": "0.7"}


def run(arm: str, settings: dict[str, str], language: str = "python") -> TrialResult:
    made = trial(arm, 1, settings={**BAG, **settings}, run_id=f"{arm}-{language}", identity=f"{arm}/{language}")
    return replace(made, language=language)


def beside(*trials: TrialResult, languages: tuple[str, ...] = ("python",), **changes) -> Report:
    arms = tuple(dict.fromkeys(each.arm for each in trials))
    results = study(*trials, arms=arms, languages=languages, seeds=(1,), **{"baseline": arms[0], **changes})
    return build(results, versus_paper=True)


def published(report: Report) -> dict[tuple[str, str | None, str], tuple[float, float | None]]:
    assert report.paper is not None
    return {(each.name, each.language, each.model): (each.mrr, each.difference) for each in report.paper.published}


def test_a_row_is_matched_by_loss_estimator_and_language() -> None:
    """Table 1, Python: InfoNCE .636 .690 .720, BM25 .664 .697 .728."""
    found = published(beside(run("plain", INFONCE), run("weighed", {**BM25, "estimator.temperature": "1.0"})))
    assert found == {
        ("plain", "python", "CodeBERT"): (0.636, None),
        ("plain", "python", "GraphCodeBERT"): (0.690, None),
        ("plain", "python", "UniXcoder"): (0.720, None),
        ("weighed", "python", "CodeBERT"): (0.664, 0.028),
        ("weighed", "python", "GraphCodeBERT"): (0.697, 0.007),
        ("weighed", "python", "UniXcoder"): (0.728, 0.008),
    }


def test_a_mean_over_the_six_languages_is_matched() -> None:
    """Table 2: BCE .641 .679 .686; table 1's means with SimCSE are the .687 .722 .751 that table 2 prints."""
    trials = [run("soft", SIMCSE, language) for language in LANGUAGES]
    trials += [run("bce", {"loss.name": "bce", "estimator.name": "simcse"}, language) for language in LANGUAGES]
    found = published(beside(*trials, languages=LANGUAGES))
    for model, soft, bce in (("CodeBERT", 0.687, 0.641), ("GraphCodeBERT", 0.722, 0.679), ("UniXcoder", 0.751, 0.686)):
        assert found["soft", None, model][0] == pytest.approx(soft, abs=0.0005)
        assert found["bce", None, model][0] == bce
    assert ("bce", "ruby", "CodeBERT") not in found


def test_cancellation_is_matched_by_its_k() -> None:
    """Table 3, GraphCodeBERT on Python: top 1 .685, top 3 .681; Soft-InfoNCE with SimCSE .700."""
    top = {"loss.name": "cancel_top_k", "estimator.name": "simcse"}
    found = published(
        beside(run("soft", SIMCSE), run("one", {**top, "loss.k": "1"}), run("three", {**top, "loss.k": "3"}),
               run("nine", {**top, "loss.k": "9"}))
    )  # fmt: skip
    assert found["one", "python", "GraphCodeBERT"] == (0.685, -0.015)
    assert found["three", "python", "GraphCodeBERT"] == (0.681, -0.019)
    assert not any(name == "nine" for name, *_ in found)


def test_what_was_not_published_has_no_number() -> None:
    report = beside(
        run("plain", INFONCE),
        run("hard", {"loss.name": "hard_negative"}),
        run("uniform", {"loss.name": "soft_infonce", "estimator.name": "uniform"}),
        run("share", INFONCE, "python"),
    )
    assert {name for name, *_ in published(report)} == {"plain", "share"}
    assert report.paper is not None and report.paper.unmatched == ("hard, python", "uniform, python")
    several = TrainingSet(name="both", train=("python", "ruby"), test=("python",))
    sets = beside(run("plain", INFONCE, "both"), languages=("both",), training_sets={"both": several})
    assert published(sets) == {}
    assert published(beside(run("plain", INFONCE, "share_10"), languages=("share_10",))) == {}
    nothing = beside(run("hard", {"loss.name": "hard_negative"}))
    for text in (to_markdown(nothing), terminal(nothing)):
        assert "No published number stands for a row of this table" in " ".join(text.split())


@pytest.mark.parametrize(
    ("key", "said"), [("encoder.lora.rank", "trains adapters alone"), ("encoder.freeze.layers", "freezes a part")]
)
def test_an_encoder_of_which_a_part_is_trained_is_said_to_differ(key: str, said: str) -> None:
    for settings, expected in (({}, False), ({key: "4"}, True)):
        report = beside(run("plain", {**INFONCE, **settings}), run("weighed", {**BM25, "estimator.temperature": "1.0"}))
        assert report.paper is not None
        assert any(said in line for line in report.paper.set_up) == expected


def test_the_set_up_that_differs_is_said_in_words() -> None:
    report = beside(run("plain", INFONCE), run("weighed", {**BM25, "estimator.temperature": "3.9"}))
    assert report.paper is not None
    said = " ".join(report.paper.set_up)
    for part in (
        "a bag of embeddings of width 256, trained from scratch here; CodeBERT, GraphCodeBERT, UniXcoder",
        "CodeSearchNet",
        "python 60 queries among 500 codes here, 14,918 among 43,827 there",
        "batch size 64",
        "cosine at temperature",
        "weighed, python: alpha, beta and weight temperature 1.5, 0.5, 3.9 here; 1.5, 0.5, 1 there.",
        "Seeds: 1 here",
    ):
        assert part in said
    as_published = beside(run("plain", INFONCE), run("weighed", {**BM25, "estimator.temperature": "1.0"}))
    assert as_published.paper is not None
    assert not any("weight temperature" in line for line in as_published.paper.set_up)


def test_the_same_encoder_is_recognised() -> None:
    hub = {"encoder.kind": "transformer", "encoder.model": "microsoft/unixcoder-base"}
    report = beside(run("plain", {**INFONCE, **hub}))
    assert report.paper is not None
    assert "microsoft/unixcoder-base here as there (UniXcoder)" in report.paper.set_up[0]


def test_every_rendering_has_the_published_numbers() -> None:
    report = beside(run("plain", INFONCE), run("weighed", BM25))
    for text in (to_markdown(report), terminal(report), to_latex(report), to_html(report)):
        assert "0.664 (+0.028)" in text
        assert "14,918 among 43,827" in " ".join(text.split())
    assert '"mrr": 0.664' in to_json(report)
    rows = markdown_rows(to_markdown(report).partition(PAPER_HEADING)[2])
    assert [cells[0] for cells in rows] == ["arm", "---", "plain", "weighed"]


def test_without_being_asked_nothing_is_said_of_the_paper() -> None:
    report = build(study(run("plain", INFONCE), arms=("plain",), baseline="plain", seeds=(1,)))
    assert report.paper is None
    assert "CodeBERT" not in to_markdown(report) + to_html(report) + to_latex(report)
