"""Launches with a budget: what ends, what is told, and what goes on with a larger one; and what preparing takes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from softnce_ray.corpus import Corpus
from softnce_ray.report import build_report
from softnce_ray.study.costs import costs
from softnce_ray.study.estimate import how_long
from softnce_ray.study.file import parse_study
from softnce_ray.tracking.durations import load_query_times, load_spent

from .launching import Said, go, runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.mark.long
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


def test_what_preparation_trains_is_told_as_it_goes_recorded_and_estimated(
    plain_study, tiny_study, store, monkeypatch
) -> None:
    soft: dict[str, dict[str, Any]] = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "trained"}}
    alike: dict[str, dict[str, Any]] = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse"}}
    changes = {"arms": {"infonce": {}, "soft": soft, "alike": alike}, "seeds": [1], "resources": {"chunk_size": 3}}
    corpus, said = Corpus.open(plain_study()["corpus"]), Said()
    empty = costs(tiny_study(**changes), corpus, store)
    assert "like infonce/python, soft/python, alike/python, trained of soft/python, simcse of alike/python:" in empty[1]
    monkeypatch.setattr("softnce_ray.study.costs.costs", None)  # a launch has no use for the doctor's estimate
    done = go(plain_study(**changes), store, said)
    assert (done.ran, done.failed) == (3, 0)
    (file,) = store.root.glob("prepared/estimators/trained-*/metrics.json")
    scored = json.loads(file.read_text())["valid_mrr"]
    told = [line for line in said.said if "soft/python" in line and "prepar" in line]
    for epoch, line in enumerate(told[:2], 1):
        assert re.fullmatch(rf"preparing soft/python: trained: epoch {epoch}/2, loss \d\.\d+, valid MRR 0\.\d+", line)
    assert re.fullmatch(rf"prepared soft/python, trained: valid MRR {scored:.4f} \[\d/3\]", told[2])
    assert len(told) == 3
    metrics = {run.data.tags["arm"]: run.data.metrics for run in runs(store, "arm")}
    assert {arm: each.get("python_trained_valid_mrr") for arm, each in metrics.items()} == {
        "infonce": None,
        "soft": scored,
        "alike": None,
    }
    pace = metrics["alike"]["python_simcse_queries_per_second"]
    assert [load_query_times(store, ["bag", "minilm"])[0].pairs] == [pace]

    assert "model" not in "".join(costs(tiny_study(**{**changes, "seeds": [1, 2]}), corpus, store))
    soft["estimator"]["seed"], alike["estimator"]["epochs"] = 1, 50
    more = "\n".join(costs(tiny_study(**changes), corpus, store))
    assert "of it preparing" in more
    assert re.search(r"trained of soft/python: .* a model, by [123] trainings? with the same encoder and batches", more)
    queries = corpus.manifest.languages["python"].pairs["train"]
    took = how_long(50 * queries / pace)
    assert f"simcse of alike/python: {took} a model, by 1 training of simcse with the same encoder, scaled" in more
