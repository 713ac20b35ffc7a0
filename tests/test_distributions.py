"""The file of distributions: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softnce_ray.digests import with_checksum
from softnce_ray.distributions import (
    RELATIVE_EDGES,
    SCORE_EDGES,
    Distributions,
    DistributionsError,
    Histogram,
    read_distributions,
    together,
    write_distributions,
)


def some(seed: int, *, estimator: bool = True, batches: int = 2) -> Distributions:
    random = np.random.default_rng(seed)
    return Distributions(
        8,
        batches,
        Histogram.of(random.uniform(-1, 1, 112), SCORE_EDGES),
        Histogram.of(random.uniform(-1, 1, 16), SCORE_EDGES),
        Histogram.of(random.normal(0, 2, 112), RELATIVE_EDGES) if estimator else None,
    )


def test_the_bins_are_those_that_the_page_says():
    assert (len(SCORE_EDGES), SCORE_EDGES[0], SCORE_EDGES[20], SCORE_EDGES[-1]) == (41, -1.0, 0.0, 1.0)
    assert (len(RELATIVE_EDGES), RELATIVE_EDGES[0], RELATIVE_EDGES[-1]) == (42, -5.1, 3.1)
    assert RELATIVE_EDGES[25:27] == (-0.1, 0.1)


@given(st.lists(st.floats(allow_nan=False), max_size=50))
def test_every_value_is_in_one_bin_and_what_lies_beyond_in_the_last(values):
    histogram = Histogram.of(np.array(values), (-1.0, 0.0, 2.0, 3.0))
    assert histogram.counts == (
        sum(value < 0 for value in values),
        sum(0 <= value < 2 for value in values),
        sum(value >= 2 for value in values),
    )
    assert histogram.total == len(values)


@pytest.mark.parametrize("estimator", [True, False])
def test_what_is_written_is_read_and_is_small(tmp_path, estimator):
    path = tmp_path / "distributions.json"
    write_distributions(path, some(1, estimator=estimator))
    assert read_distributions(path) == some(1, estimator=estimator)
    assert path.stat().st_size < 3_000
    written = json.loads(path.read_text())
    assert written["version"] == 1 and sum(written["negatives"]["counts"]) == 112
    assert ("relative" in written) == estimator


def test_counts_of_seeds_are_added():
    found = together([some(1), some(2, batches=3), some(3)])
    assert (found.batch_size, found.batches, found.positives.total) == (8, 7, 48)
    assert found.relative is not None
    of_each = [each.relative.counts for each in (some(1), some(2), some(3)) if each.relative]
    assert found.relative.counts == tuple(map(sum, zip(*of_each, strict=True)))
    assert together([some(1), some(2, estimator=False)]).relative is None
    with pytest.raises(ValueError, match="same edges"):
        some(1).negatives + Histogram((0.0, 1.0), (1,))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "expected version 1 of distributions.json, got 2"),
        ({"negatives": None}, "damaged"),
        ({"batches": "many"}, "damaged"),
        ({"positives": {"edges": [0, 1], "counts": [1]}}, "40 bins from -1 to 1 were expected"),
        ({"positives": {"edges": list(SCORE_EDGES), "counts": [1] * 39}}, "40 bins"),
        ({"positives": {"edges": list(SCORE_EDGES), "counts": [-1] * 40}}, "not negative"),
        ({"positives": {"edges": list(SCORE_EDGES), "counts": [0.5] * 40}}, "whole"),
    ],
)
def test_a_damaged_file_and_one_of_another_version_are_refused(tmp_path, change, told):
    path = tmp_path / "distributions.json"
    write_distributions(path, some(1))
    changed = json.loads(path.read_text()) | change
    del changed["checksum"]
    path.write_text(json.dumps(with_checksum(changed)))
    with pytest.raises(DistributionsError, match=told):
        read_distributions(path)


def test_one_count_that_was_changed_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "distributions.json"
    write_distributions(path, some(1))
    content = json.loads(path.read_text())
    content["positives"]["counts"][3] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DistributionsError, match="checksum"):
        read_distributions(path)
    del content["checksum"]  # as earlier versions wrote it
    path.write_text(json.dumps(content))
    assert read_distributions(path).positives.counts[3] == some(1).positives.counts[3] + 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '"x"', '{"version": 1}'])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    path = tmp_path / "distributions.json"
    path.write_text(text)
    with pytest.raises(DistributionsError, match="damaged"):
        read_distributions(path)
