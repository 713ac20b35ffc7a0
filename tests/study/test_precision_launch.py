"""Studies that ask for precision, launched: they stop where their ranks say, also when they are killed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from killed_study import larger_corpus, precise_study_of
from killing import Bench, bench, table_row
from moments import Kill, checkpoint, last_epoch

from softnce_ray.corpus import Corpus
from softnce_ray.report import build_report
from softnce_ray.results import StudyResults
from softnce_ray.selection import choose
from softnce_ray.statistics import difference
from softnce_ray.study.costs import costs
from softnce_ray.tracking.selecting import load_validation

from .launching import Said, go, runs, scores

HALF_WIDTH = 0.02
CELL = ("soft", "python")


def width(results: StudyResults, language: str, count: int) -> float:
    """Half-width of the difference of the two arms on the first seeds, one of three that the report compares."""
    ranks = {
        arm: [
            next(
                trial.reciprocal_ranks["test"]
                for trial in results.trials
                if (trial.arm, trial.language, trial.seed, trial.status) == (arm, language, seed, "FINISHED")
            )
            for seed in range(1, count + 1)
        ]
        for arm in ("infonce", "soft")
    }
    found = difference(np.stack(ranks["soft"]), np.stack(ranks["infonce"]), level=1 - 0.05 / 3)
    return found.high - found.mean


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_stops_in_each_language_at_the_first_seed_that_makes_it_narrow_enough(
    plain_study, tiny_study, two_languages, store, cluster
) -> None:
    two = {"corpus": str(two_languages), "languages": ["python", "ruby"]}
    shown = Said()
    done = go(plain_study(**two, seeds={"at_least": 2, "at_most": 6, "half_width": HALF_WIDTH}), store, shown)
    counts = {language: len(done.results.seeds_of(language)) for language in ("python", "ruby")}
    assert len(set(counts.values())) == 2 and min(counts.values()) > 2 and max(counts.values()) < 6
    for language, count in counts.items():
        reached = width(done.results, language, count)
        assert reached <= HALF_WIDTH < min(width(done.results, language, fewer) for fewer in range(2, count))
        assert done.results.asked[language].half_width == pytest.approx(reached)
        assert done.results.asked[language].why == "narrow enough"
    trials = 2 * sum(counts.values())
    assert (done.ran, len(done.results.trials), shown.counts[-1]) == (trials, trials, (trials, trials))
    assert f"python: no seed is added to its {counts['python']}: narrow enough" in shown.said
    (study,) = runs(store, "study")
    told = json.loads(study.data.tags["seeds_asked.ruby"])
    assert (told["count"], told["why"]) == (counts["ruby"], "narrow enough")
    note = build_report(done.results).notes[-1]
    assert f"ruby {counts['ruby']} seeds, ± " in note
    assert note in study.data.tags["mlflow.note.content"]
    assert len(choose(load_validation(store, "tiny"), language="ruby").chosen.trials) == counts["ruby"]
    # Launched again there is nothing to do, nor with a list of the same seeds: a seed's trial is the same.
    again = go(plain_study(**two, seeds={"at_least": 2, "at_most": 6, "half_width": HALF_WIDTH}), store)
    assert (again.ran, again.already_done, again.results.asked) == (0, trials, done.results.asked)
    corpus, seeds = Corpus.open(two_languages), {"at_least": 2, "at_most": 6}
    decided = costs(tiny_study(**two, seeds={**seeds, "half_width": HALF_WIDTH}), corpus, store)
    assert decided == [f"nothing to do: all {trials} trials are there"]
    narrower = costs(tiny_study(**two, seeds={**seeds, "half_width": 1e-4}), corpus, store)
    assert narrower[0].startswith(f"0 to {2 * 12 - trials} trials to run, ")
    assert f": 0 s for {min(counts.values())} seeds to " in narrower[0]
    # A wider half-width asks for fewer: what was trained for the narrower one is named, and in no mean.
    fewer = go(plain_study(**two, seeds={"at_least": 2, "at_most": 6, "half_width": 0.5}), store)
    assert (fewer.ran, fewer.already_done, fewer.results.seeds) == (0, 8, (1, 2))
    first = [each for each in fewer.results.trials if (each.arm, each.language) == CELL and each.seed <= 2]
    (arm,) = (run for run in runs(store, "arm") if run.data.tags["arm"] == "soft")
    assert arm.data.metrics["python_test_mrr"] == pytest.approx(sum(each.metrics["test_mrr"] for each in first) / 2)
    reasons = {problem.reason for problem in build_report(fewer.results).problems}
    assert reasons == {"the study does not ask for this seed"}
    listed = go(plain_study(**two, seeds=[1, 2, 3]), store)
    assert (listed.ran, listed.already_done) == (0, 12)
    assert scores(listed.results.trials) == {
        key: each for key, each in scores(done.results.trials).items() if key[2] <= 3
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(larger_corpus(tmp_path_factory.mktemp("corpus")), study_of=precise_study_of) as made:
        yield made


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_study_that_asks_for_precision_and_is_killed_twice_ends_as_the_undisturbed_one(made: Bench) -> None:
    """Seeds, ranks, tags and report are the same; one kill comes before a seed is added, one while it is trained."""
    (study,) = (run for name, run in made.expected["runs"].items() if name == "study")
    asked = json.loads(study["tags"]["seeds_asked.python"])
    assert 2 < asked["count"] < 6 and asked["why"] == "narrow enough"
    before, within = Kill("driver", *last_epoch(7, 0.0)), Kill("driver", *checkpoint(3, 0.0))
    played = made.play([before, within])
    assert not played.faults, table_row(1, played)
    assert played.landed == (before, within)
