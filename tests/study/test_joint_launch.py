"""Launches of joint searches: what is searched, confirmed and said; an interrupt changes nothing."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from softnce_ray.report import build_report
from softnce_ray.store import Store

from .launching import Meddling, go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_joint_search_is_run_cut_off_resumed_and_ends_as_an_undisturbed_one(plain_study, tmp_path) -> None:
    soft = {
        "loss": {"name": "soft_infonce"},
        "estimator": {"name": "bm25"},
        "search": {"loss.alpha": {"low": 0.2, "high": 1.5}, "estimator.name": {"choices": ["bm25", "uniform"]}},
    }
    arms = {
        "infonce": {},
        "soft": soft,
        "weighted": {"loss": {"name": "weighted_infonce"}, "estimator": {"name": "bm25"}},
    }
    search: dict[str, Any] = {
        "mode": "joint",
        "trials": 6,
        "confirm": 1,
        "baseline_trials": 2,
        "start": [{"arm": "soft", "estimator.name": "uniform", "loss.alpha": 1.0}],
        "space": {"temperature": {"low": 0.03, "high": 0.3, "log": True}},
    }
    study = plain_study(arms=arms, baseline="infonce", seeds=[1, 2], search=search)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    whole = go(study, Store.at(tmp_path / "one" / "runs"))
    assert (whole.failed, whole.problems) == (0, ())
    phases = [trial.phase for trial in whole.results.trials]
    confirmed = {trial.arm for trial in whole.results.trials if trial.phase == "confirm"}
    assert (phases.count("search"), phases.count("confirm")) == (6, 4)
    assert "infonce" in confirmed and len(confirmed) == 2
    first = whole.results.trials[0]
    assert (first.arm, first.settings["estimator.name"], float(first.settings["loss.alpha"])) == (
        "soft",
        "uniform",
        1.0,
    )

    report = build_report(whole.results)
    assert {row.arm for row in report.rows} == confirmed and not report.problems
    assert any(note.startswith("One search chose among all arms") for note in report.notes)

    store = Store.at(tmp_path / "other" / "runs")
    cut = go(study, store, Meddling("epoch infonce 1", lambda: signal.raise_signal(signal.SIGINT)))
    assert cut.interrupted
    again = go(study, store)
    assert not again.interrupted and again.ran + again.already_done >= 10
    assert _values(again) == _values(whole)


def _values(done: Any) -> set[tuple[str, str, str, float]]:
    return {
        (trial.arm, trial.phase, trial.identity, trial.metrics.get("test_mrr", 0.0))
        for trial in done.results.trials
        if trial.status == "FINISHED"
    }
