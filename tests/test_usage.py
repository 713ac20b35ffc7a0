"""What is told of a wrong value of an option."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "x", "--inference", "these-model"], "got 'these-model'; did you mean 'these-models'?"),
        (
            ["report", "x", "--format", "foo"],
            "expected one of 'terminal', 'markdown', 'latex', 'html', 'json', got 'foo'",
        ),
        (["power", "--effect", "x"], "expected a number, got 'x'"),
        (["extend", "x", "--seed", "1.5"], "expected a whole number, got '1.5'"),
        (["power", "--seeds", "0"], "expected at least 1, got '0'"),
        (["corpus", "mine", "--out", "c", "--limit", "x"], "expected a whole number, got 'x'"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_expected_and_not_in_the_words_of_a_library(arguments, said) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert f"Error: Invalid value for '{arguments[-2]}': " in done.stderr
    assert done.stderr.rstrip("\n").endswith(said)
