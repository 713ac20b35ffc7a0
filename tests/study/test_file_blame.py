"""What people write into study files, and are told: how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from softnce_ray.config import Range, StudyConfig
from softnce_ray.study.doctor.steps import uneven_steps
from softnce_ray.study.file import parse_study
from softnce_ray.study.problems import StudyError

NAME = "a name of at most 63 lower-case letters, digits, - and _, the first a letter or a digit"
LANGUAGE = (
    "a language's name of at most 63 lower-case letters, digits, spaces and _ - + # . *, the first of them a letter or "
    "a digit, the last no space and no dot"
)
HEAD = {"study": "tiny", "languages": "[python]", "seeds": "[1, 2]", "arms": "{infonce: {}}"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"arms": "{infonce: {}, no: {symmetric: true}}"},
            ["5: arms.no: expected text as key, got no, which YAML reads as true or false: quote it, as in 'no'"],
        ),
        (
            {"arms": "{infonce: {}, 1: {symmetric: true}}"},
            ["5: arms.1: expected text as key, got 1, which YAML reads as a number: quote it, as in '1'"],
        ),
        (
            {"arms": "{infonce: {}, 1.0e-4: {symmetric: true}}"},
            [
                "5: arms.1.0e-4: expected text as key, got 1.0e-4, which YAML reads as a number: quote it, as in "
                "'1.0e-4'",
                f"5: arms.1.0e-4: expected {NAME}, got '1.0e-4'",
            ],
        ),
        (
            {"arms": "{infonce: {}, null: {symmetric: true}}"},
            ["5: arms.null: expected text as key, got null, which YAML reads as nothing: quote it, as in 'null'"],
        ),
        (
            {"study": "on"},
            ["1: study: expected text, got on, which YAML reads as true or false: quote it, as in 'on'"],
        ),
        (
            {"study": "2020-01-01"},
            ["1: study: expected text, got 2020-01-01, which YAML reads as a date: quote it, as in '2020-01-01'"],
        ),
        (
            {"languages": "[no]"},
            ["3: languages.0: expected text, got no, which YAML reads as true or false: quote it, as in 'no'"],
        ),
        (
            {"languages": "[{name: 1, train: [python, 2], test: [python]}]"},
            [
                "3: languages.0.name: expected text, got 1, which YAML reads as a number: quote it, as in '1'",
                "3: languages.0.train.1: expected text, got 2, which YAML reads as a number: quote it, as in '2'",
            ],
        ),
        ({"study": "My Study"}, [f"1: study: expected {NAME}, got 'My Study'"]),
        (
            {"languages": "[{name: C++, train: [python], test: [python]}]"},
            [f"3: languages.0.name: expected {LANGUAGE}, got 'C++'"],
        ),
        (
            {"arms": "{infonce: {training: {learning_rate: [0.1, 0.2]}}}"},
            [
                "5: arms.infonce.training.learning_rate: expected one value, got [0.1, 0.2]: to search several write "
                "search: {training.learning_rate: {choices: [0.1, 0.2]}} in an arm, or write one arm for each"
            ],
        ),
        (
            {"arms": "{infonce: {similarity: [dot]}}"},
            ["5: arms.infonce.similarity: expected one value, got ['dot']: write it without the brackets"],
        ),
        (
            {"arms": "{infonce: {search: {temperature: [0.1, 0.2]}}}", "search": "{trials: 2}"},
            [
                "5: arms.infonce.search.temperature: expected {low: …, high: …} or {choices: […]}, got [0.1, 0.2]: "
                "write {choices: [0.1, 0.2]}"
            ],
        ),
        ({"arms": "{infonce: !own {}}"}, ["5: expected values without tags, got !own: remove it, or quote the text"]),
        ({"question": "a\x1b[31m"}, ["6: not YAML: a control character, 0x1b: remove it"]),
        (
            {"defaults": "{trainin: {}}", "arms": "{infonce: {}, soft: {symmetric: true}}"},
            [
                "6: defaults.trainin: unknown key; did you mean 'training'? possible: encoder, estimator, "
                "hard_negatives, loss, mask_duplicates, similarity, symmetric, temperature, tokens, training"
            ],
        ),
        (
            {"search": "{trials: 2, space: {temperature: 0.1}}"},
            [
                "6: search.space.temperature: expected {low: …, high: …} or {choices: […]}, got 0.1: a fixed value "
                "stands in the arm"
            ],
        ),
        (
            {"search": "{trials: 2, space: {temperature: {low: 0.1, high: 1, choice: [1, 2]}}}"},
            [
                "6: search.space.temperature.choice: unknown key; did you mean 'choices'? possible: choices, high, "
                "log, low, step, when"
            ],
        ),
    ],
)
def test_what_is_meant_is_said(tiny_corpus: Path, changes: dict[str, str], expected: list[str]) -> None:
    written = {"study": "", "corpus": str(tiny_corpus), **HEAD, **changes}
    with pytest.raises(StudyError) as caught:
        parse_study("".join(f"{key}: {value}\n" for key, value in written.items()), source="f.yaml")
    assert str(caught.value).splitlines() == [f"f.yaml:{line}" for line in expected]


def test_quoted_names_are_names(tiny_corpus: Path) -> None:
    written = {"study": "", "corpus": str(tiny_corpus), **HEAD}
    written |= {"study": "'on'", "baseline": "'no'", "arms": "{'no': {}, '1': {symmetric: true}}"}
    study = parse_study("".join(f"{key}: {value}\n" for key, value in written.items()))
    assert (study.study, list(study.arms), study.baseline) == ("on", ["no", "1"], "no")


@pytest.mark.parametrize(
    ("low", "high", "step", "highest"),
    [(1, 10, 4, 9), (0.1, 1, 0.3, 1), (0.1, 1, 0.4, 0.9), (0.1, 1, None, 1), (0, 1, 0.1, 1), (1e-3, 1, 0.5, 0.501)],
)
def test_the_highest_value_of_a_range_is_where_its_steps_end(low, high, step, highest) -> None:
    assert Range(low=low, high=high, step=step).highest == highest


def test_steps_that_do_not_meet_high_are_a_warning_with_what_it_becomes() -> None:
    study = StudyConfig.model_validate(
        {
            "study": "s",
            "corpus": "c",
            "languages": ["python"],
            "seeds": [1],
            "arms": {
                "infonce": {},
                "own": {"search": {"temperature": {"low": 0.1, "high": 1, "step": 0.5}}},
            },
            "search": {
                "trials": 2,
                "space": {
                    "training.epochs": {"low": 1, "high": 10, "step": 4},
                    "training.warmup": {"low": 0, "high": 0.4, "step": 0.1},
                },
            },
        }
    )
    assert [(each.level, each.text, each.remedy) for each in uneven_steps(study)] == [
        (
            "warning",
            "arms infonce, own: training.epochs: steps of 4 from 1 do not meet high: 10, which becomes 9",
            "write high: 9, or another step",
        ),
        (
            "warning",
            "arm own: temperature: steps of 0.5 from 0.1 do not meet high: 1, which becomes 0.6",
            "write high: 0.6, or another step",
        ),
    ]
