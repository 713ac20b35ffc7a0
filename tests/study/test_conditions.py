"""Conditions of searched settings: their form, their laws, and what a trial without the setting has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from softnce_ray.config import Choices, Range, SearchSpace, StudyConfig
from softnce_ray.config.search_space import in_order, searched
from softnce_ray.study import laws
from softnce_ray.study.cells import Cell
from softnce_ray.study.definitions import search_name
from softnce_ray.study.file import parse_study
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.planner import Planner
from softnce_ray.study.problems import StudyError, StudyFile
from softnce_ray.study.search import CellSearch

CELL = Cell("soft", "python")
MASK = "      mask_duplicates: {choices: [true, false]}\n"
HEAD = """\
arms:
  infonce: {}
  soft:
    loss: {name: soft_infonce}
    estimator: {name: bm25}
    search:
"""  # the next line is the 11th of the file
SEARCH = "search: {trials: 2}\n"


def text(corpus: Path, rest: str) -> str:
    return f"study: tiny\ncorpus: {corpus}\nlanguages: [python]\nseeds: [1, 2]\n" + rest


def wrong(corpus: Path, rest: str) -> list[str]:
    """The lines of the error of a study, with `f.yaml` as its file."""
    with pytest.raises(StudyError) as caught:
        parse_study(text(corpus, rest), source="f.yaml")
    return str(caught.value).splitlines()


def space(**values: dict[str, Any]) -> SearchSpace:
    return {path: (Choices if "choices" in each else Range).model_validate(each) for path, each in values.items()}


# --- their form ---


def test_one_value_and_a_list_of_one_are_the_same_condition() -> None:
    one = Range.model_validate({"low": 0, "high": 1, "when": {"a": False}})
    assert one == Range.model_validate({"low": 0, "high": 1, "when": {"a": [False]}})
    assert one.when == {"a": (False,)}
    assert Range.model_validate(one.model_dump()) == one
    assert Range.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("value", [True, 0, 1, 0.5, "cosine", "", None])
def test_a_value_keeps_its_type(value: Any) -> None:
    each = Choices.model_validate({"choices": [1, 2], "when": {"a": value, "b": [value, 7]}})
    assert each.when == {"a": (value,), "b": (value, 7)}
    assert type((each.when or {})["a"][0]) is type(value)


def test_without_a_condition_a_space_is_written_as_it_was_before_there_were_any() -> None:
    """So that the searches of earlier studies go on: their names have a hash of it."""
    assert Range(low=0, high=1).model_dump(mode="json") == {"low": 0, "high": 1, "log": False, "step": None}
    assert Choices(choices=(1, 2)).model_dump(mode="json") == {"choices": [1, 2]}
    assert Range(low=0, high=1, when=None) == Range(low=0, high=1)


@pytest.mark.parametrize(
    "when", [{}, 3, {"a": []}, {"a": {}}, {"a": [[1]]}, {"a": float("nan")}, {"a": [1, -float("inf")]}]
)
def test_what_is_no_condition_is_one_error(when: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Range.model_validate({"low": 0, "high": 1, "when": when})
    assert caught.value.error_count() == 1
    assert caught.value.errors()[0]["loc"][0] == "when"


def test_a_wrong_condition_is_named_with_its_line_and_key(tiny_corpus: Path) -> None:
    rest = HEAD + MASK + "      loss.alpha: {low: 0.2, high: 1.9, when: {mask_duplicates: {a: 1}}}\n" + SEARCH
    assert wrong(tiny_corpus, rest) == [
        "f.yaml:12: arms.soft.search.loss.alpha.when.mask_duplicates: expected a value (true, false, a number or a "
        "string) or a list of values, got {'a': 1}"
    ]


def test_the_schema_describes_conditions() -> None:
    schema = StudyFile.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    def accepts(when: Any) -> bool:
        study = {"study": "s", "corpus": "c", "languages": ["python"], "seeds": [1], "arms": {"infonce": {}}}
        each = {"low": 0, "high": 1, "when": when}
        study["search"] = {"trials": 1, "space": {"temperature": each}}  # type: ignore[assignment]
        return jsonschema.Draft202012Validator(schema).is_valid(study)

    assert all(map(accepts, [None, {"a": True}, {"a": "x", "b": 1}, {"a": [1, 2.5, "x", False]}]))
    assert not any(map(accepts, [3, {}, {"a": []}, {"a": {"b": 1}}, {"a": [[1]]}]))
    assert "searched only in trials where" in json.dumps(schema)


# --- their laws ---

LAWS = [
    (
        HEAD + MASK + "      loss.alpha: {low: 0.2, high: 1.9, when: {mask_duplicate: false}}\n" + SEARCH,
        "f.yaml:12: arms.soft.search.loss.alpha.when.mask_duplicate: expected a setting that arm soft searches by "
        "choices, got mask_duplicate, which it does not search; did you mean 'mask_duplicates'? possible: "
        "mask_duplicates",
    ),
    (
        HEAD + "      loss.alpha:\n        low: 0.2\n        high: 1.9\n        when:\n"
        "          symmetric: true\n" + SEARCH,
        "f.yaml:15: arms.soft.search.loss.alpha.when.symmetric: expected a setting that arm soft searches by choices, "
        "got symmetric, which it does not search; possible: none",
    ),
    (
        HEAD + MASK + "      temperature: {low: 0.1, high: 1}\n"
        "      loss.alpha: {low: 0.2, high: 1.9, when: {temperature: 0.5}}\n" + SEARCH,
        "f.yaml:13: arms.soft.search.loss.alpha.when.temperature: expected a setting that arm soft searches by "
        "choices, got temperature, which it searches as a range; possible: mask_duplicates",
    ),
    (
        HEAD + MASK + "      loss.alpha: {low: 0.2, high: 1.9, when: {mask_duplicates: [false, 1, 'no']}}\n" + SEARCH,
        "f.yaml:12: arms.soft.search.loss.alpha.when.mask_duplicates: expected values that arm soft searches for "
        'mask_duplicates, got 1, "no"; possible: true, false',
    ),
    (
        HEAD + MASK.replace("]}", "], when: {mask_duplicates: true}}") + SEARCH,
        "f.yaml:11: arms.soft.search.mask_duplicates.when.mask_duplicates: expected a setting that arm soft searches "
        "by choices, got mask_duplicates itself; possible: none",
    ),
    (
        HEAD + MASK.replace("]}", "], when: {symmetric: true}}")
        + "      symmetric: {choices: [true, false], when: {mask_duplicates: true}}\n"
        + "      loss.alpha: {low: 0.2, high: 1.9, when: {symmetric: true}}\n" + SEARCH,
        "f.yaml:11: arms.soft.search.mask_duplicates.when.symmetric: the conditions of arm soft go in a circle "
        "(mask_duplicates when symmetric when mask_duplicates): remove one",
    ),
    (
        HEAD + MASK + "      symmetric: {choices: [true, false], when: {mask_duplicates: true}}\n"
        "      loss.alpha: {low: 0.2, high: 1.9, when: {symmetric: true, mask_duplicates: false}}\n" + SEARCH,
        "f.yaml:13: arms.soft.search.loss.alpha.when: arm soft can never search loss.alpha: its conditions, with those "
        "of the settings that they name, leave no value of mask_duplicates; remove one",
    ),
    (  # in the space of all arms, a condition on what only one of them searches
        HEAD + MASK + "search:\n  trials: 2\n  space:\n"
        "    temperature: {low: 0.1, high: 1, when: {mask_duplicates: true}}\n",
        "f.yaml:15: search.space.temperature.when.mask_duplicates: expected a setting that arm infonce searches by "
        "choices, got mask_duplicates, which it does not search; possible: none",
    ),
    # impossible settings that a trial can reach
    (
        HEAD + MASK + "      loss.alpha: {low: 0.2, high: 2.5, when: {mask_duplicates: false}}\n" + SEARCH,
        "f.yaml:11: arms.soft.search.mask_duplicates: the space of arm soft reaches an impossible setting "
        "(mask_duplicates = False, loss.alpha = 2.5): beta defaults to 2 - alpha, so expected alpha < 2",
    ),
    (  # where the condition does not hold, the arm's own batch size stands, and that is too small
        HEAD.replace("soft_infonce}", "soft_infonce, alpha: 1, beta: 1}\n    training: {batch_size: 3}")
        + "      loss.beta: {choices: [0.3, 1]}\n"
        + "      training.batch_size: {low: 16, high: 32, when: {loss.beta: 1}}\n" + SEARCH,
        "f.yaml:12: arms.soft.search.loss.beta: the space of arm soft reaches an impossible setting (loss.beta = 0.3): "
        "expected beta > alpha / (batch_size - 1)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rest", "expected"), LAWS, ids=[str(number) for number in range(len(LAWS))])
def test_a_condition_that_makes_no_sense_is_one_problem(tiny_corpus: Path, rest: str, expected: str) -> None:
    found = wrong(tiny_corpus, rest)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_what_no_trial_can_reach_is_no_problem(tiny_corpus: Path) -> None:
    """Small batches are impossible with the small beta, and are searched only with the large one."""
    search = (
        "      loss.beta: {choices: [0.3, 1]}\n"
        "      training.batch_size: {choices: [3, 16], when: {loss.beta: 1}}\n"
        "      loss.floor: {low: 0.1, high: 0.5, when: {training.batch_size: 3, loss.beta: [1]}}\n"
    )
    parse_study(text(tiny_corpus, HEAD + search + SEARCH))
    found = wrong(tiny_corpus, HEAD + search.replace(", when: {loss.beta: 1}", "") + SEARCH)
    assert "reaches an impossible setting (loss.beta = 0.3, training.batch_size = 3" in found[0]


def test_each_wrong_condition_is_reported_and_nothing_that_follows_from_it(tiny_corpus: Path) -> None:
    rest = (
        HEAD + MASK + "      symmetric: {choices: [true, false], when: {loss.bta: 1, mask_duplicates: maybe}}\n"
        "      loss.alpha: {low: 0.2, high: 2.5, when: {symmetric: true}}\n"
        "      loss.floor: {low: 0.2, high: 0.5, when: {loss.alpha: 1}}\n" + SEARCH
    )
    assert [line.split(": ")[:2] for line in wrong(tiny_corpus, rest)] == [
        ["f.yaml:12", "arms.soft.search.symmetric.when.loss.bta"],
        ["f.yaml:12", "arms.soft.search.symmetric.when.mask_duplicates"],
        ["f.yaml:14", "arms.soft.search.loss.floor.when.loss.alpha"],
    ]


def test_two_circles_are_two_problems(tiny_corpus: Path) -> None:
    def choices(*when: str) -> str:
        return f"{{choices: [true, false], when: {{{', '.join(f'{other}: true' for other in when)}}}}}\n"

    rest = (
        HEAD.replace("soft:\n", "soft:\n    encoder: {kind: transformer}\n")
        + f"      symmetric: {choices('mask_duplicates')}      mask_duplicates: {choices('symmetric')}"
        + f"      tokens.split_identifiers: {choices('similarity', 'symmetric')}"
        + "      similarity: {choices: [cosine, dot], when: {tokens.split_identifiers: true}}\n"
        + SEARCH
    ).replace("similarity: true", "similarity: dot")
    found = [line for line in wrong(tiny_corpus, rest) if "circle" in line]
    assert len(found) == 2
    assert "(symmetric when mask_duplicates when symmetric)" in found[0]
    assert "(tokens.split_identifiers when similarity when tokens.split_identifiers)" in found[1]


def test_an_arm_s_own_setting_replaces_the_condition_of_the_space_of_all(tiny_corpus: Path) -> None:
    both = "search:\n  trials: 2\n  space:\n    symmetric: {choices: [true, false]}\n"
    both += "    temperature: {low: 0.1, high: 1, when: {symmetric: true}}\n"
    study = parse_study(text(tiny_corpus, HEAD + "      temperature: {low: 0.1, high: 2}\n" + both))
    assert study.space("soft")["temperature"].when is None
    assert study.space("infonce")["temperature"].when == {"symmetric": (True,)}


def test_of_a_large_space_each_end_of_each_setting_is_visited_where_it_can_occur() -> None:
    many = space(
        **{f"s{number}": {"choices": [0, 1]} for number in range(9)},
        deep={"low": 0, "high": 1, "when": {"s1": 1, "branch": "b"}},
        branch={"choices": ["a", "b"], "when": {"s0": 1}},
    )
    visited = list(laws._corners({path: many[path] for path in in_order(many)}, laws._CORNERS))
    assert all(set(values) == set(searched(many, values)) for values in visited)
    ends = {(path, value) for values in visited for path, value in values.items()}
    assert ends == {(f"s{n}", v) for n in range(9) for v in (0, 1)} | {("branch", "a"), ("branch", "b")} | {
        ("deep", 0),
        ("deep", 1),
    }


def test_branches_that_exclude_each_other_are_visited_whole() -> None:
    """16 combinations in each of four branches: all of the 64, of which without conditions there were 2^18."""
    branches = space(
        kind={"choices": ["a", "b", "c", "d"]},
        **{f"{kind}{number}": {"low": 0, "high": 1, "when": {"kind": kind}} for kind in "abcd" for number in range(4)},
    )
    visited = [tuple(sorted(values.items())) for values in laws._corners(branches, laws._CORNERS)]
    assert len(visited) == len(set(visited)) == 4 * 2**4


NAMES = ("a", "b", "c", "d")


@st.composite
def any_space(draw: st.DrawFn) -> SearchSpace:
    """Spaces with any conditions at all, senseless ones too."""
    made: dict[str, dict[str, Any]] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True)):
        made[name] = {"choices": [0, 1, True]} if draw(st.booleans()) else {"low": 0, "high": 1}
        if draw(st.booleans()):
            values = st.lists(st.sampled_from([0, 1, True, 2]), min_size=1, max_size=2)
            made[name]["when"] = draw(st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=2))
    return space(**made)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(any_space())
def test_a_space_without_problems_has_an_order_and_every_setting_of_it_occurs(any_space: SearchSpace) -> None:
    if list(laws._condition_problems("arm", any_space)):
        return
    order = in_order(any_space)
    assert sorted(order) == sorted(any_space)
    visited = list(laws._corners({path: any_space[path] for path in order}, laws._CORNERS))
    assert {path for values in visited for path in values} == set(any_space)
    for values in visited:
        for path, each in any_space.items():
            holds = all(
                other in values and any(values[other] is value for value in those)
                for other, those in (each.when or {}).items()
            )
            assert (path in values) == holds


# --- what a trial without the setting has ---


def study(alpha: float = 1.3, low: float = 0.2, when: Any = False, **searched: Any) -> StudyConfig:
    soft = {
        "loss": {"name": "soft_infonce", "alpha": alpha},
        "estimator": {"name": "bm25"},
        "search": {
            "loss.alpha": {"low": low, "high": 1.9, "when": {"mask_duplicates": when}},
            "mask_duplicates": {"choices": [True, False]},
            **searched,
        },
    }
    return StudyConfig.model_validate(
        {
            "study": "plan",
            "corpus": "c",
            "languages": ["python"],
            "seeds": [1, 2],
            "baseline": "soft",
            "arms": {"soft": soft},
            "search": {"trials": 10, "seed": 4},
        }
    )


@pytest.mark.parametrize("mask", [True, False])
def test_where_a_condition_does_not_hold_a_trial_has_the_arm_s_own_value(mask: bool) -> None:
    """Trials without alpha are all the same one, which runs once; the best of them is confirmed as it was."""
    config = study()
    assert config.search is not None
    storage = optuna.storages.InMemoryStorage()
    search = CellSearch(
        storage, search_name(config, CELL, "f"), config.arms["soft"], config.space("soft"), config.search
    )
    planner = Planner(config, "f", {}, {CELL: search})
    trials = []
    while (trial := planner.next()) is not None:
        trials.append(trial)
        loss = trial.config.loss
        planner.ended(trial.key, 0.9 if trial.config.mask_duplicates == mask else loss.alpha / 10)  # type: ignore[union-attr]
    assert planner.finished
    assert planner.done() == planner.total() == 12
    tried = [each.config for each in trials if each.key.phase == "search"]
    assert sum(each.mask_duplicates for each in tried) == 1
    assert {each.loss.alpha for each in tried if each.mask_duplicates} == {1.3}  # type: ignore[union-attr]
    assert len({each.loss.alpha for each in tried if not each.mask_duplicates}) == len(tried) - 1 > 1  # type: ignore[union-attr]
    assert len({each.key.identity for each in trials}) == len(trials)
    confirmed = [each.config for each in trials if each.key.phase == "confirm"]
    assert [each.seed for each in confirmed] == [1, 2]
    assert all(each.mask_duplicates == mask for each in confirmed)
    assert {each.loss.alpha == 1.3 for each in confirmed} == {mask}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ({}, False),
        ({"when": [False]}, False),
        ({"when": True}, True),
        ({"when": [True, False]}, True),
        ({"alpha": 1.4}, True),  # what trials without alpha have
        ({"low": 0.3}, True),
    ],
)
def test_a_changed_condition_and_the_value_that_stands_without_it_make_another_search(
    change: dict[str, Any], another: bool
) -> None:
    assert (search_name(study(), CELL, "f") != search_name(study(**change), CELL, "f")) == another


def test_the_plan_of_a_dry_run_shows_conditions() -> None:
    more: dict[str, Any] = {
        "similarity": {"choices": ["cosine", "dot"]},
        "temperature": {"low": 0.1, "high": 1, "when": {"similarity": ["cosine", "dot"], "mask_duplicates": True}},
    }
    _, _, phase, what = next(iter(planned_trials(study(**more))))
    assert (phase, what) == (
        "search",
        "10 trials over loss.alpha (when mask_duplicates is false), mask_duplicates, similarity, "
        "temperature (when similarity is cosine or dot and mask_duplicates is true)",
    )


def test_the_readme_s_example_is_a_right_study(tiny_corpus: Path) -> None:
    lines = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    example = next(line for line in lines if "when: {" in line).strip().removesuffix(".").strip("`")
    parsed = yaml.safe_load(example)
    head = yaml.safe_load(text(tiny_corpus, HEAD.replace("    search:\n", "") + SEARCH))
    head["arms"]["soft"] |= parsed
    assert parse_study(yaml.safe_dump(head)).space("soft")["loss.alpha"].when == {"mask_duplicates": (False,)}
