"""What a comparison could see: by hand, beside SciPy's noncentral t, and beside how often simulated studies see it."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.cli.power import _show
from softnce_ray.report.sensitivity import needed, sensitivity
from softnce_ray.statistics import Components, Design, detectable, difference, power_of, queries_needed, seeds_needed
from softnce_ray.statistics.power import shares, standard_error

MIXED = Components(seeds=0.004**2, queries=0.05**2, interaction=0.2**2)
BY_QUERIES = Components(seeds=None, queries=0.3**2, interaction=None)
PLAIN = Design(components=(MIXED,), queries=(1000,), seeds=5)


def test_variances_and_shares_by_hand() -> None:
    # 1.6e-5 / 5, 2.5e-3 / 1000 and 4e-2 / 5000.
    seeds, queries, rest = 3.2e-6, 2.5e-6, 8e-6
    error, df = standard_error(PLAIN)
    assert error == pytest.approx(math.sqrt(seeds + queries + rest))
    spread = (seeds + rest) ** 2 / 4 + (queries + rest) ** 2 / 999 + rest**2 / (4 * 999)
    assert df == pytest.approx((seeds + queries + rest) ** 2 / spread)
    found = shares(PLAIN)
    assert found is not None
    whole = seeds + queries + rest
    expected = (seeds / whole, queries / whole, rest / whole)
    assert (found.seeds, found.queries, found.interaction) == pytest.approx(expected)
    six = replace(PLAIN, components=(MIXED,) * 6, queries=(1000,) * 6)
    assert standard_error(six) == pytest.approx((error / math.sqrt(6), 6 * df))


def test_power_of_one_seed_is_that_of_the_paired_t_test() -> None:
    design = Design(components=(BY_QUERIES,), queries=(200,), seeds=1)
    limit = scipy.stats.t.ppf(0.975, 199)
    expected = scipy.stats.nct.sf(limit, 199, 0.05 / (0.3 / math.sqrt(200)))
    assert power_of(design, 0.05) == power_of(design, -0.05) == pytest.approx(expected)
    family = replace(design, comparisons=10)
    limit = scipy.stats.t.ppf(1 - 0.005 / 2, 199)
    assert power_of(family, 0.05) == pytest.approx(scipy.stats.nct.sf(limit, 199, 0.05 / (0.3 / math.sqrt(200))))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(10, 5000), st.floats(0.5, 0.95), st.integers(1, 12))
def test_what_is_detectable_is_detected_with_that_power(
    seeds: int, queries: int, power: float, comparisons: int
) -> None:
    design = Design(components=(MIXED,), queries=(queries,), seeds=seeds, comparisons=comparisons)
    assert power_of(design, detectable(design, power)) == pytest.approx(power, abs=1e-4)


@pytest.mark.parametrize("effect", [0.008, 0.01, 0.02])
def test_what_is_needed_is_the_least_that_is_enough(effect: float) -> None:
    seeds, queries = seeds_needed(PLAIN, effect), queries_needed(PLAIN, effect)
    assert seeds is not None and queries is not None
    assert power_of(replace(PLAIN, seeds=seeds), effect) >= 0.8 > power_of(replace(PLAIN, seeds=seeds - 1), effect)
    fewer = replace(PLAIN, queries=(queries - 1,))
    assert power_of(replace(PLAIN, queries=(queries,)), effect) >= 0.8 > power_of(fewer, effect)


def test_what_no_number_of_seeds_or_queries_shows_is_none() -> None:
    assert seeds_needed(PLAIN, 0.001) is None  # the queries' part alone is too large
    assert queries_needed(PLAIN, 0.001) is None  # and so is the seeds'
    assert seeds_needed(Design(components=(BY_QUERIES,), queries=(200,), seeds=1), 0.05) is None  # not known


@pytest.mark.parametrize("seeds", [3, 10])
def test_simulated_studies_see_it_about_as_often_as_said(seeds: int) -> None:
    """The floors of the variance cost some power where seeds hardly differ: a few in a hundred."""
    rng, design = np.random.default_rng(seeds), replace(PLAIN, seeds=seeds, queries=(300,))
    effect, repetitions, seen = detectable(design), 600, 0
    for _ in range(repetitions):
        values = effect + 0.004 * rng.normal(size=(seeds, 1)) + 0.05 * rng.normal(size=(1, 300))
        seen += difference(values + 0.2 * rng.normal(size=(seeds, 300)), np.zeros((seeds, 300))).p < 0.05
    assert 0.72 <= seen / repetitions <= 0.86


def test_nothing_that_varies_shows_everything() -> None:
    still = Design(components=(Components(seeds=0, queries=0, interaction=0),), queries=(10,), seeds=2)
    assert (detectable(still), power_of(still, 1e-9), shares(still)) == (0, 1, None)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="components and queries of the same languages, got 1 and 2"):
        replace(PLAIN, queries=(10, 10))
    with pytest.raises(ValueError, match="at least 1 seed, 1 comparison and 2 queries, got 0, 1 and 1000"):
        replace(PLAIN, seeds=0)
    with pytest.raises(ValueError, match=r"95 % is 0\.95"):
        replace(PLAIN, level=95)
    with pytest.raises(ValueError, match="a number other than 0, got 0"):
        seeds_needed(PLAIN, 0)
    with pytest.raises(ValueError, match=r"80 % is 0\.8"):
        detectable(PLAIN, 80)


# --- the command ---


STATED = ["--seed-sd", "0.004", "--query-sd", "0.05", "--rest-sd", "0.2", "--seeds", "5", "--queries", "1000"]


def test_the_command_answers_before_any_study() -> None:
    done = CliRunner().invoke(app, ["power", "--effect", "0.01", *STATED, "--format", "json"])
    (found,) = json.loads(done.stdout)
    assert found["detectable"] == pytest.approx(detectable(PLAIN))
    assert found["power"] == {"0.01": pytest.approx(power_of(PLAIN, 0.01))}
    assert found["seeds"] == {"0.01": seeds_needed(PLAIN, 0.01)}
    assert found["queries"] == {"0.01": queries_needed(PLAIN, 0.01)}
    shown = CliRunner().invoke(app, ["power", "--effect", "0.01", *STATED]).stdout
    assert f"{detectable(PLAIN):.4f}" in shown and f"{queries_needed(PLAIN, 0.01):,}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--effect", "0.01", *STATED[:4]], "got no --rest-sd and no --seeds and no --queries: give them, or a study"),
        *[
            (["--effect", each, *STATED], f"rank, above 0 and below 1, got {each}: give the size")
            for each in ("0", "-0.01", "5", "nan")
        ],
        *[
            ([*STATED, "--seed-sd", each], f"ranks lie between -1 and 1, got {each}: give one in these units")
            for each in ("1e+09", "-0.1", "inf", "nan")
        ],
        ([*STATED, "--seeds", "1001"], "--seeds: expected at most 1,000, got 1,001: give fewer"),
        ([*STATED, "--languages", "1001"], "--languages: expected at most 1,000, got 1,001: give fewer"),
        (["small", "--seed-sd", "0.1"], "--seed-sd: expected none with a study, which tells it, got one: leave it out"),
        (["small", "--languages", "6"], "--languages: expected none with a study, which tells it, got one"),
        (["folder/small.yaml"], "got 'folder/small.yaml': give what its file has as `study:`"),
    ],
)
def test_what_is_missing_or_too_much_is_told(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["power", *arguments])
    assert said in str(done.exception)


def test_a_table_in_a_pipe_has_a_comparison_in_a_line_and_says_in_words_what_is_no_number() -> None:
    label = "soft_infonce_with_a_name_that_fills_a_line_of_a_terminal (a language of a long name)"
    mixed, one_seed = (
        sensitivity(label, each, (1e-4,)) for each in (PLAIN, replace(PLAIN, components=(BY_QUERIES,), seeds=1))
    )
    assert needed(mixed) == ["no number", "no number"]
    assert needed(one_seed)[0] == "unknown"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        _show([mixed, one_seed], 1e-4)
    lines = out.getvalue().splitlines()
    assert [line.startswith(f"{label} ") for line in lines] == [False, True, True, False]
    assert "unknown" in lines[2] and "unknown" not in lines[1]
    assert lines[3].endswith("no number: none is enough; unknown: one seed does not tell how much seeds vary.")
