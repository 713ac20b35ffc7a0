"""Study files that are larger or deeper than anybody needs are one line, within seconds, that can be read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from softnce_ray.study.file import parse_study
from softnce_ray.study.planned import planned_trials
from softnce_ray.study.problems import StudyError

ARMS = "arms:\n  infonce: {}\n"


@pytest.fixture
def study(tiny_corpus: Path) -> Callable[[str], str]:
    """A function that gives a study file's text, from the line after the head that all have."""
    head = f"study: tiny\ncorpus: {tiny_corpus}\nlanguages: [python]\nseeds: [1, 2]\n"
    return lambda rest: head + rest


def wrong(text: str) -> list[str]:
    with pytest.raises(StudyError) as caught:
        parse_study(text, source="f.yaml")
    return str(caught.value).splitlines()


def bomb(inner: str) -> str:
    """Twelve levels, each naming the one before nine times: 9 ** 12 values."""
    levels = [f"a{n}: &a{n} " + inner.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 13)]
    return "\n".join(["a0: &a0 {k: v}", *levels])


@pytest.mark.parametrize("inner", ["[{}]", "{{<<: [{}]}}", "{{k: [{}]}}"])
def test_aliases_and_merges_that_grow_without_bound_are_one_line_in_seconds(inner: str) -> None:
    began = time.process_time()
    (found,) = wrong(bomb(inner))
    assert time.process_time() - began < 5
    assert re.fullmatch(r"f\.yaml:\d+: expected at most 500,000 values, with those of aliases .*: write fewer", found)


def test_a_chain_of_aliases_is_as_deep_as_what_it_stands_for() -> None:
    chain = "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))])
    (found,) = wrong(chain)
    assert found.startswith("f.yaml:50: expected values at most 50 levels deep, got deeper ones")


def test_merged_keys_have_the_lines_where_they_were_written(study) -> None:
    text = "defaults: &shared\n  training: {epoch: 3}\narms:\n  infonce:\n    <<: *shared\n"
    assert wrong(study(text)) == [line for line in wrong(study(text)) if line.startswith("f.yaml:6: ")]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (range(100_000), "f.yaml:4: seeds: expected at most 1,000, got 100,000: write fewer"),
        ([7] * 1000, "f.yaml:4: seeds: expected each once, got more than one 7, got [7, 7, 7, 7, 7, 7, ...]"),
    ],
)
def test_a_hundred_thousand_seeds_are_one_line_in_seconds(tiny_corpus: Path, seeds, expected: str) -> None:
    began = time.process_time()
    head = f"study: tiny\ncorpus: {tiny_corpus}\nlanguages: [python]\nseeds: {list(seeds)}\n"
    assert wrong(head + ARMS) == [expected]
    assert time.process_time() - began < 10


def test_a_thousand_seeds_are_listed_so_that_people_can_read_it(study) -> None:
    made = parse_study(study(ARMS).replace("[1, 2]", str(list(range(1000)))))
    found = [what for _, _, _, what in planned_trials(made)]
    assert found == [*(f"seed {number}" for number in range(19)), "981 more seeds to 999"]


@pytest.mark.parametrize(
    "text",
    [
        "arms: {" + ", ".join(f"a{n}: {{loss: {{name: infonce}}, x{n}: 1}}" for n in range(1000)) + "}",
        "arms: {infonce: {" + ", ".join(f"x{n}: 1" for n in range(20_000)) + "}}",
        "defaults: {" + ", ".join(f"x{n}: 1" for n in range(1000)) + "}\narms: {a: {}, b: {}}",
        "arms: {" + ", ".join(f"A{n}: {{}}" for n in range(20_000)) + "}",
    ],
)
def test_many_mistakes_are_told_in_seconds_and_can_be_read(study, text: str) -> None:
    began = time.process_time()
    with pytest.raises(StudyError) as caught:
        parse_study(study(text))
    lines = str(caught.value).splitlines()
    assert len(lines) <= 101
    assert max(map(len, lines)) < 2100
    assert len(lines) < 101 or re.search(r"study: [\d,]+ more problems: correct these first", lines[-1])
    assert time.process_time() - began < 20


def test_defaults_and_arms_that_multiply_are_one_line(study) -> None:
    large = "defaults: {" + ", ".join(f"x{n}: 1" for n in range(2000)) + "}\n"
    (found,) = wrong(study(large + "arms: {" + ", ".join(f"a{n}: {{}}" for n in range(900)) + "}"))
    assert found == (
        "f.yaml:5: defaults: expected at most 250,000 values in all arms together, got 1,800,900: write fewer"
    )
