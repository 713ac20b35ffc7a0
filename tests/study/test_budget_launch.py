"""Launches with a budget: what ends, what is told, and what goes on with a larger one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from softnce_ray.corpus import Corpus
from softnce_ray.report import build_report
from softnce_ray.study.costs import costs
from softnce_ray.study.file import parse_study
from softnce_ray.tracking.durations import load_spent

from .launching import go, runs

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("cluster")]


def test_a_budget_ends_searches_and_a_larger_one_goes_on(plain_study, store) -> None:
    def asked(**budget: float) -> dict[str, Any]:
        arms = {"soft": {**plain_study()["arms"]["soft"], "search": {"loss.alpha": {"low": 0.2, "high": 1.5}}}}
        search = {"trials": 4, "seed": 9, "early_stopping": None}
        more = {"budget": budget} if budget else {}
        return plain_study(arms=arms, baseline="soft", seeds=[1], search=search, **more)

    def launched(**budget: float):
        done = go(asked(**budget), store)
        (parent,) = runs(store, "study")
        searched = [trial for trial in done.results.trials if trial.phase == "search"]
        return done, len(searched), parent.data.tags

    first, searched, tags = launched(hours=1e-6)  # one round, and then there is no time for another
    assert (first.ran, searched, first.problems) == (2, 1, ())
    told = "the budget of 1e-06 hours ended the searches after 1 of 4 trials of each cell, and 3 search trials were"
    assert first.notes[0].startswith(told)
    assert (tags["left_out"], tags["budget"]) == (first.notes[0], '{"hours":1e-6}')
    assert build_report(first.results).notes[-1] == f"T{first.notes[0][1:]}."
    spent, ended = load_spent(store, "tiny")
    assert spent > 0
    assert ended == tags["budget"]

    again, searched, tags = launched(hours=1e-6)
    assert (again.ran, again.already_done, searched, again.notes) == (0, 2, 1, first.notes)
    assert tags["left_out"] == first.notes[0]
    study = parse_study(json.dumps(asked(hours=1e-6)))
    assert first.notes[0] in costs(study, Corpus.open(study.corpus), store)

    _, searched, tags = launched(hours=1, trials=3)
    assert searched == 2
    assert tags["left_out"].startswith("the budget of 1 hour and 3 trials ended the searches after 2 of 4 trials")
    assert load_spent(store, "tiny")[0] > spent
    study = parse_study(json.dumps(asked(trials=3)))
    nothing, left = costs(study, Corpus.open(study.corpus), store)
    assert nothing == "nothing to do: all 3 trials are there"
    assert left.startswith("the budget of 3 trials ended the searches after 2 of 4 trials of each cell, and 2 search")

    whole, searched, tags = launched()
    assert (searched, whole.notes) == (4, ())
    assert (tags["budget"], tags["left_out"]) == ("", "")
    assert not [note for note in build_report(whole.results).notes if "budget" in note]
