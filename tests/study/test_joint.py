"""One search over all arms: what it searches, whom its proposals belong to, and what is confirmed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
import pytest
import yaml

from softnce_ray.config import StudyConfig, variants, with_values
from softnce_ray.results import KnownTrial, TrialKey
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.file import parse_study
from softnce_ray.study.joint import JointSearch, joint_name, joint_space
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Planner
from softnce_ray.study.problems import StudyError
from softnce_ray.study.proposing import Proposes
from softnce_ray.study.search import CellSearch

TEMPERATURE = {"low": 0.01, "high": 1.0, "log": True}
ALPHA = {"low": 0.2, "high": 1.9}
SOFT = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}, "search": {"loss.alpha": ALPHA}}


def plain(**changes: Any) -> dict[str, Any]:
    """A study of three arms, as plain data; `search` is merged into its search."""
    search = {"mode": "joint", "trials": 12, "space": {"temperature": TEMPERATURE}, **changes.pop("search", {})}
    return {
        "study": "joint",
        "corpus": "c",
        "languages": ["python"],
        "seeds": [1, 2],
        "baseline": "infonce",
        "arms": {
            "infonce": {},
            "soft": SOFT,
            "mild": {**SOFT, "search": {"loss.alpha": {"low": 0.1, "high": 0.5}}},
        },
        "search": search,
        **changes,
    }


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(plain(**changes))


Open = Callable[..., dict[Cell, Proposes]]


@pytest.fixture
def opened() -> Open:
    """A function that opens a study's joint searches, as another process would; `anew`: in an empty storage."""
    kept = [optuna.storages.InMemoryStorage()]

    def make(config: StudyConfig, *, anew: bool = False) -> dict[Cell, Proposes]:
        if anew:
            kept[0] = optuna.storages.InMemoryStorage()
        shares: dict[Cell, Proposes] = {}
        contents = dict.fromkeys(cells(config), "c")
        for languages in config.joint_groups:
            joint = JointSearch(kept[0], joint_name(config, languages, contents), config, languages)
            shares |= {cell: joint.share(cell) for cell in cells(config) if cell.language in languages}
        return shares

    return make


def known(trials: Sequence[Any]) -> dict[TrialKey, KnownTrial]:
    return {trial.key: KnownTrial("r", "FINISHED", 0.5, 3, False, "") for trial in trials}


Worth = Callable[[str, str, Mapping[str, Any]], float]


def run(
    config: StudyConfig,
    searches: Mapping[Cell, Proposes],
    worth: Worth,
    *,
    most: int = 1000,
    before: Sequence[Any] = (),
) -> list[Any]:
    """Run a study one trial after another, each worth what is said of its arm, language and settings; the store has the
    trials that ran `before`."""
    planner = Planner(config, "c", known(before), searches)
    trials: list[Any] = []
    while len(trials) < most and (trial := planner.next()) is not None:
        trials.append(trial)
        planner.ended(trial.key, worth(trial.key.arm, trial.key.language, trial.config.model_dump()))
    assert len(trials) == most or planner.finished
    return trials


def by_alpha(arm: str, language: str, settings: Mapping[str, Any]) -> float:
    """Soft is best at an alpha of 1; mild is worse, and the baseline the worst."""
    off = abs(math.log10(settings["temperature"] / 0.1)) / 10
    return {"infonce": 0.3, "mild": 0.4, "soft": 0.6 - abs(settings["loss"].get("alpha", 1) - 1) / 5}[arm] - off


def test_a_setting_that_arms_search_alike_is_one_and_another_is_its_arm_s() -> None:
    space, found = joint_space(study(), ["python"])
    assert list(space) == ["arm", "temperature", "soft/loss.alpha", "mild/loss.alpha"]
    assert {name: each.when for name, each in space.items()} == {
        "arm": None,
        "temperature": None,
        "soft/loss.alpha": {"arm": ("soft",)},
        "mild/loss.alpha": {"arm": ("mild",)},
    }
    assert found["arm"].choices == ("infonce", "soft", "mild")  # type: ignore[attr-defined]
    both = study(arms={"infonce": {}, "soft": SOFT, "mild": {**SOFT, "temperature": 0.1}})
    space, _ = joint_space(both, ["python"])
    assert space["loss.alpha"].when == {"arm": ("soft", "mild")}


def test_the_best_arms_and_the_baseline_are_confirmed_with_their_best_values(opened: Open) -> None:
    config = study(search={"trials": 24, "confirm": 1, "baseline_trials": 4})
    trials = run(config, opened(config), by_alpha)
    searched = [trial for trial in trials if trial.key.phase == "search"]
    confirmed = [trial for trial in trials if trial.key.phase == "confirm"]
    counts = Counter(trial.key.arm for trial in searched)
    assert counts.total() == 24 and counts["infonce"] >= 4
    assert sorted((trial.key.arm, trial.key.seed) for trial in confirmed) == [
        ("infonce", 1),
        ("infonce", 2),
        ("soft", 1),
        ("soft", 2),
    ]
    for arm in ("infonce", "soft"):
        own = [trial for trial in searched if trial.key.arm == arm]
        best = max(own, key=lambda trial: by_alpha(arm, "", trial.config.model_dump()))
        expected = best.config.model_copy(update={"seed": 1})
        assert next(trial.config for trial in confirmed if trial.key.arm == arm) == expected


def test_a_search_that_was_cut_off_goes_on_as_the_undisturbed_one(opened: Open) -> None:
    config = study()
    whole = [trial.key for trial in run(config, opened(config), by_alpha)]
    opened(config, anew=True)
    first = run(config, opened(config), by_alpha, most=5)
    left_open = Planner(config, "c", known(first), opened(config)).next()  # this process dies before it ends
    rest = run(config, opened(config), by_alpha, before=first)
    assert left_open is not None and rest[0].key == left_open.key
    assert [trial.key for trial in (*first, *rest)] == whole


def test_more_trials_go_on_with_the_same_search(opened: Open) -> None:
    config, more = study(), study(search={"trials": 15})
    before = run(config, opened(config), by_alpha)
    further = run(more, opened(more), by_alpha, before=before)
    assert sum(trial.key.phase == "search" for trial in further) == 3


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_no_slot_waits_and_all_trials_are_handed_out_once(opened: Open, slots: int) -> None:
    config, chance = study(search={"trials": 20}), random.Random(1)
    planner = Planner(config, "c", {}, opened(config))
    live: list[Any] = []
    seen: list[Any] = []
    while not planner.finished:
        while len(live) < slots and (trial := planner.next()) is not None:
            live.append(trial)
            seen.append(trial.key)
        assert live
        trial = live.pop(chance.randrange(len(live)))
        planner.ended(trial.key, by_alpha(trial.key.arm, "python", trial.config.model_dump()))
        assert planner.done() <= planner.total()
    assert planner.done() == planner.total() == len(seen) == len(set(seen)) == 20 + 2 * 3


def test_a_trial_that_the_machine_failed_halts_the_search_of_all_arms(opened: Open) -> None:
    config = study()
    planner = Planner(config, "c", {}, opened(config))
    trial = planner.next()
    assert trial is not None
    planner.failed(trial.key, "worker", answers=False)
    assert planner.next() is None and planner.finished and planner.halted
    again = run(config, opened(config), by_alpha)
    assert again[0].key == trial.key
    assert sum(each.key.phase == "search" for each in again) == 12


def test_training_sets_are_searched_and_the_baseline_is_confirmed_in_those_that_are_chosen(opened: Open) -> None:
    config = study(
        languages={
            "choices": ["ruby", "all", {"name": "dynamic", "train": ["python", "ruby"], "test": ["ruby"]}],
            "target": ["ruby"],
        },
        search={"trials": 30, "confirm": 2},
    ).with_all(["go", "python", "ruby"])
    assert {name: config.training_set(name).train for name in config.language_names} == {
        "ruby": ("ruby",),
        "all": ("go", "python", "ruby"),
        "dynamic": ("python", "ruby"),
    }
    assert {config.training_set(name).test for name in config.language_names} == {("ruby",)}
    gain = {"ruby": 0.0, "dynamic": 0.2, "all": 0.05}
    trials = run(config, opened(config), lambda arm, language, values: by_alpha(arm, language, values) + gain[language])
    confirmed = {(trial.key.arm, trial.key.language) for trial in trials if trial.key.phase == "confirm"}
    assert {arm for arm, _ in confirmed} == {"infonce", "soft", "mild"}
    assert ("soft", "dynamic") in confirmed
    assert {language for _, language in confirmed} == {language for arm, language in confirmed if arm == "infonce"}


def test_points_that_are_given_and_those_of_a_preset_are_tried_first(opened: Open) -> None:
    arms = {**plain()["arms"], "soft": {**SOFT, "preset": "paper", "loss": {"name": "soft_infonce", "alpha": 1.5}}}
    points = [{"arm": "mild", "loss.alpha": 0.25}, {"arm": "infonce", "temperature": 0.07}]
    config = study(arms=arms, search={"start": points})
    first = [trial for trial in run(config, opened(config), by_alpha) if trial.key.phase == "search"][:3]
    assert [trial.key.arm for trial in first] == ["infonce", "soft", "mild"]
    values = [trial.config.model_dump() for trial in first]
    assert values[0]["temperature"] == 0.07
    assert values[1]["loss"]["alpha"] == 1.5
    assert values[2]["loss"]["alpha"] == 0.25


def test_a_grid_has_every_point_once(opened: Open) -> None:
    grid = {"temperature": {"low": 0.1, "high": 0.3, "step": 0.1}}
    arms = {"infonce": {}, "soft": {**SOFT, "search": {"loss.alpha": {"choices": [0.5, 1.0]}}}}
    config = study(arms=arms, search={"trials": 9, "space": grid, "sampler": "grid", "baseline_trials": 1})
    trials = [t for t in run(config, opened(config), lambda *args: 0.5) if t.key.phase == "search"]
    got = {(t.key.arm, t.config.temperature, getattr(t.config.loss, "alpha", None)) for t in trials}
    assert got == {
        *(("infonce", each, None) for each in (0.1, 0.2, 0.3)),
        *(("soft", each, alpha) for each in (0.1, 0.2, 0.3) for alpha in (0.5, 1.0)),
    }
    assert "a grid of 9 points" in next(iter(planned_trials(config)))[3]


@pytest.mark.parametrize("sampler", ["random", "qmc", "gp", {"name": "tpe", "n_startup_trials": 2}, "auto"])
def test_every_sampler_proposes_the_same_in_another_process(sampler: Any) -> None:
    config = study(
        arms={"infonce": {}},
        search={
            "mode": "equal",
            "trials": 6,
            "sampler": sampler,
            "space": {"temperature": TEMPERATURE, "training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}},
        },
    )
    assert config.search is not None
    found = []
    for each in ("one", "cut"):
        storage = optuna.storages.InMemoryStorage()
        values: list[dict[str, Any]] = []
        while len(values) < 6:
            search = CellSearch(storage, "cell", config.arms["infonce"], config.space("infonce"), config.search)
            for _ in range(6 if each == "one" else 1):
                proposal = search.ask()
                assert proposal is not None
                values.append(proposal.values)
                search.tell(proposal.number, proposal.values["temperature"])
        found.append(values)
    assert found[0] == found[1]
    assert len({tuple(values.values()) for values in found[0]}) == 6


def test_an_estimator_that_is_searched_by_its_name_brings_its_own_settings(opened: Open) -> None:
    searched = {
        "estimator.name": {"choices": ["bm25", "simcse", "uniform"]},
        "estimator.temperature": {"low": 0.1, "high": 10, "log": True},
        "estimator.seed": {"low": 0, "high": 3},
    }
    config = study(arms={"infonce": {}, "soft": {**SOFT, "search": searched}}, search={"trials": 40})
    assert [each.estimator.name for each in variants(config.arms["soft"], config.space("soft")) if each.estimator] == [
        "bm25",
        "simcse",
        "uniform",
    ]
    assert config.space("soft")["estimator.seed"].when == {"estimator.name": ("simcse",)}
    trials = [t.config for t in run(config, opened(config), lambda *args: 0.5) if t.key.arm == "soft"]
    names = Counter(config.estimator.name for config in trials if config.estimator)
    assert names.keys() == {"bm25", "simcse", "uniform"}
    assert all(
        each.estimator and (each.estimator.name == "simcse") == hasattr(each.estimator, "seed") for each in trials
    )


def test_a_loss_without_an_estimator_leaves_none() -> None:
    settings = {"loss": {"name": "soft_infonce", "alpha": 1.0}, "estimator": {"name": "bm25", "k1": 2.0}}
    assert with_values(settings, {"loss.name": "infonce"}) == {"loss": {"name": "infonce"}, "estimator": None}
    changed = with_values(settings, {"estimator.temperature": 0.2, "estimator.name": "uniform"})
    assert changed["estimator"] == {"name": "uniform", "temperature": 0.2}
    assert with_values(settings, {"estimator.name": "bm25"}) == settings


MISTAKES = [
    ({"search": {"mode": "equal", "confirm": 2}}, "search.confirm: belongs to a joint search"),
    ({"search": {"baseline_trials": 13}}, "search.baseline_trials: expected at most trials = 12, got 13"),
    ({"search": {"sampler": "gp"}}, "search.sampler: gp cannot search settings with conditions (soft/loss.alpha"),
    ({"search": {"sampler": {"name": "tpe", "n_startup": 3}}}, "search.sampler.n_startup: tpe has no option n_startup"),
    ({"search": {"sampler": "grid"}}, "search.sampler: a grid needs settings of finitely many values"),
    ({"search": {"start": [{"temperature": 0.1}]}}, "search.start.0: expected arm: one of infonce, soft, mild"),
    ({"search": {"start": [{"arm": "soft", "loss.alpa": 1}]}}, "search.start.0: no arm searches loss.alpa; did you"),
    ({"search": {"start": [{"arm": "mild", "loss.alpha": 1}]}}, "search.start.0.loss.alpha: expected a value of the"),
    (
        {"languages": {"choices": ["python", "ruby"], "target": ["ruby"]}, "search": {"mode": "equal"}},
        "languages: choi",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), MISTAKES, ids=lambda each: each[:40] if isinstance(each, str) else "")
def test_what_a_search_cannot_do_is_told_with_its_key(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(StudyError) as error:
        parse_study(yaml.safe_dump(plain(**changes), sort_keys=False))
    told = [line.partition(": ")[2] for line in str(error.value).splitlines() if "corpus" not in line]
    assert any(line.startswith(expected) for line in told), told


def test_the_best_arm_is_found_more_often_than_with_equal_budgets(opened: Open) -> None:
    """Five arms, of which one is best at a narrow place of its own setting; both searches have 40 trials."""
    names = [f"arm{number}" for number in range(5)]
    own = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}, "search": {"loss.alpha": ALPHA}}
    arms = {"infonce": {}, **{name: {**own, "temperature": 0.01 + number} for number, name in enumerate(names)}}

    def worth(arm: str, language: str, settings: Mapping[str, Any]) -> float:
        if arm == "infonce":
            return 0.3
        height = 0.5 if arm == "arm3" else 0.38
        return height - 0.25 * abs(settings["loss"]["alpha"] - 1.4) - 0.01 * names.index(arm)

    gaps: dict[str, list[float]] = {"joint": [], "equal": []}
    for seed in range(100, 106):
        joint = study(arms=arms, search={"trials": 40, "seed": seed, "confirm": 1, "space": {}})
        trials = run(joint, opened(joint), worth)
        found = {t.key.arm: worth(t.key.arm, "", t.config.model_dump()) for t in trials if t.key.phase == "confirm"}
        gaps["joint"].append(0.5 - 0.03 - max(found.values()))
        equal = study(arms=arms, search={"mode": "equal", "trials": 8, "seed": seed, "space": {}})
        storage = optuna.storages.InMemoryStorage()
        assert equal.search is not None
        searches = {
            cell: CellSearch(storage, str(cell), equal.arms[cell.arm], equal.space(cell.arm), equal.search)
            for cell in cells(equal)
            if equal.space(cell.arm)
        }
        trials = run(equal, searches, worth)
        best = max(worth(t.key.arm, "", t.config.model_dump()) for t in trials if t.key.phase == "confirm")
        gaps["equal"].append(0.5 - 0.03 - best)
    wins = sum(ours < theirs for ours, theirs in zip(gaps["joint"], gaps["equal"], strict=True))
    assert wins >= 5, gaps
