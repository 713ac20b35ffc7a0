"""Values of study files that are of another type, or none of those that are possible: each is told with a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from softnce_ray.config import Settings
from softnce_ray.study.file import parse_study
from softnce_ray.study.problems import StudyError

ARMS = "arms: {infonce: {}}\n"


@pytest.fixture
def found(tiny_corpus: Path) -> Callable[..., list[str]]:
    """A function that gives what is wrong with a study file of these last lines, without its name and line."""

    def problems(rest: str, *, seeds: str = "[1]") -> list[str]:
        head = f"study: tiny\ncorpus: {tiny_corpus}\nlanguages: [python]\nseeds: {seeds}\n"
        try:
            parse_study(head + rest, source="f")
        except StudyError as error:
            return [line.split(": ", 1)[1] for line in str(error).splitlines()]
        return []

    return problems


SEARCH = "search: {trials: 2, space: {temperature: {low: 0.1, high: 1}}}\n"


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (f"{SEARCH}budget: {{hours: true}}\n", "budget.hours: expected a number, got true: write the number"),
        (f"{SEARCH}budget: {{trials: yes}}\n", "budget.trials: expected a whole number, got true: write the number"),
        (f"{SEARCH}budget: {{hours: '6'}}\n",
         "budget.hours: expected a number, got '6', which is text: write it without quotes"),
        ("search: {trials: 2, seed: false}\n", "search.seed: expected a whole number, got false: write the number"),
        ("search: {trials: 2, early_stopping: {reduction: '3'}}\n",
         "search.early_stopping.reduction: expected a whole number, got '3', which is text: write it without quotes"),
        ("search: {trials: 2, space: {temperature: {low: '0.1', high: true, log: 1}}}\n",
         "search.space.temperature.low: expected a number, got '0.1', which is text: write it without quotes\n"
         "search.space.temperature.high: expected a number, got true: write the number\n"
         "search.space.temperature.log: expected true or false, got 1"),
        ("resources: {cpus: true, workers: two}\n",
         "resources.cpus: expected a number, got true: write the number\n"
         "resources.workers: expected a whole number, got 'two'"),
        ("resources: {autoscale: 'no', max_concurrent: 1.5}\n",
         "resources.max_concurrent: expected a whole number, got 1.5\n"
         "resources.autoscale: expected true or false, got 'no', which is text: write it without quotes"),
        ("defaults: {estimator: {name: mix, mix: {bm25: true}}}\n",
         "defaults.estimator.mix.bm25: expected a number, got true: write the number"),
        ("defaults: false\n", "defaults: expected settings, {key: value}, got false; possible: encoder, "),
    ],
)  # fmt: skip
def test_no_number_and_no_truth_value_is_taken_for_another(found, rest: str, expected: str) -> None:
    said = found(rest + ARMS)
    assert len(said) == len(wanted := expected.split("\n"))
    assert all(line.startswith(each) for line, each in zip(said, wanted, strict=True)), said


def test_seeds_are_numbers(found) -> None:
    assert found(ARMS, seeds="[1, true, '2']") == [
        "seeds.1: expected a whole number, got true: write the number",
        "seeds.2: expected a whole number, got '2', which is text: write it without quotes",
    ]
    assert found(ARMS, seeds="{at_least: '3', at_most: 4, half_width: true}") == [
        "seeds.at_least: expected a whole number, got '3', which is text: write it without quotes",
        "seeds.half_width: expected a number, got true: write the number",
    ]


def test_a_whole_number_is_a_number_and_1e_3_too(tiny_corpus: Path) -> None:
    """YAML 1.1 reads `1e-3` as text, since it has no point."""
    text = (
        f"study: tiny\ncorpus: {tiny_corpus}\nlanguages: [python]\nseeds: [1]\nbaseline: 1e-3\n"
        "arms:\n  1e-3: {temperature: 1, training: {learning_rate: 1e-3, epochs: 3.0}}\n"
        "  other: {training: {learning_rate: 2E+0}, search: {temperature: {low: 1e-2, high: 1}}}\n"
        "search: {trials: 1}\n"
    )
    arms = parse_study(text).arms
    assert (arms["1e-3"].temperature, arms["1e-3"].training.learning_rate) == (1.0, 0.001)
    assert (arms["1e-3"].training.epochs, arms["other"].training.learning_rate) == (3, 2.0)


def _settings(kind: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for each in kind.__subclasses__():
        yield each
        yield from _settings(each)


def test_every_setting_of_a_number_or_truth_value_is_exact() -> None:
    other: dict[Any, tuple[Any, str]] = {bool: (1, "bool_type"), int: (True, "int_type"), float: (True, "float_type")}
    seen = 0
    for settings in set(_settings()):
        for name, field in settings.model_fields.items():
            kinds = [kind for kind in other if field.annotation in (kind, kind | None)]
            for value, error in map(other.__getitem__, kinds):
                with pytest.raises(ValidationError) as caught:
                    settings.model_validate({name: value})
                errors = {item["loc"]: item["type"] for item in caught.value.errors()}
                assert errors.get((name,)) == error, (settings, name)
                seen += 1
    assert seen > 60


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("family: languages\n",
         "family: unknown value 'languages'; did you mean 'language'? possible: study, language"),
        ("resources: {device: cude}\n",
         "resources.device: unknown value 'cude'; did you mean 'cuda'? possible: auto, cpu, cuda"),
        ("failures: {retry: [workers, disk]}\n",
         "failures.retry.0: unknown value 'workers'; did you mean 'worker'? possible: worker, memory, disk, files, "
         "error, diverged, settings"),
        ("defaults: {training: {precision: bf61}}\n",
         "defaults.training.precision: unknown value 'bf61'; did you mean 'bf16'? possible: float32, bf16"),
        ("defaults: {similarity: 3}\n", "defaults.similarity: expected cosine or dot, got 3"),
        ("family: null\n", "family: expected study or language, got null: give a value, or leave the key out"),
        ("resources: {cpus: null}\n",
         "resources.cpus: expected a number, got null: give a value, or leave the key out"),
    ],
)  # fmt: skip
def test_what_is_possible_is_told_with_what_was_meant(found, rest: str, expected: str) -> None:
    assert found(rest + ARMS) == [expected]


def test_null_is_a_value_where_none_is_possible(found) -> None:
    """As `search: null` always was: no budget, no search, no hard negatives."""
    assert found("budget: null\nsearch: null\ndefaults: {hard_negatives: null, estimator: null}\n" + ARMS) == []
