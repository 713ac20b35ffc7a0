"""Names of languages and metrics where few characters are allowed: reversible, and unchanged where they may be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

from softnce_ray.config.settings import LANGUAGE, NAME
from softnce_ray.plain_names import plain, spelt
from softnce_ray.tracking.choices import choice_tag
from softnce_ray.tracking.metric_names import original, stored


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("python", "python"),
        ("objective-c_2", "objective-c_2"),
        ("c++", "c.2B.2B"),
        ("c#", "c.23"),
        ("visual basic .net", "visual.20basic.20.2Enet"),
        ("a~b%2", "a.7Eb.252"),
    ],
)
def test_names_are_spelt_in_letters_and_digits(name: str, expected: str) -> None:
    assert plain(name) == expected
    assert spelt(expected) == name


@given(st.text())
def test_every_name_comes_back_from_plain_characters(name: str) -> None:
    assert spelt(plain(name)) == name
    assert re.fullmatch(r"[A-Za-z0-9_.-]*", plain(name))


@given(st.from_regex(NAME, fullmatch=True))
def test_names_that_were_possible_before_are_themselves(name: str) -> None:
    assert plain(name) == name.rstrip("\n")


@given(language=st.from_regex(LANGUAGE, fullmatch=True).map(str.strip))
@pytest.mark.parametrize("metric", ["test_mrr", "valid_recall@10"])
def test_mlflow_takes_a_metric_of_every_language(metric: str, language: str) -> None:
    for name in (f"{metric}/{language}", metric):
        _validate_metric_name(stored(name))
        assert original(stored(name)) == name
    _validate_tag_name(choice_tag(language))


def test_metrics_of_languages_with_plain_names_are_stored_as_before() -> None:
    assert stored("test_recall@1/ruby") == "test_recall_at_1/ruby"
    assert original("test_recall_at_1/look_at_me") == "test_recall@1/look_at_me"
