"""Diagnostics by hand, against plain loops in float64, and at the ends of their ranges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softnce_ray.diagnostics import SAMPLE, batch_diagnostics, batch_distributions, space_diagnostics
from softnce_ray.distributions import RELATIVE_EDGES, SCORE_EDGES, Histogram
from softnce_ray.estimators import negative_distribution
from softnce_ray.losses import infonce, soft_infonce, soft_weights


def test_the_space_of_four_points_by_hand():
    # on a square: neighbours are sqrt(2) apart, opposites 2
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    turned = square.roll(1, dims=0)
    found = space_diagnostics(square, turned * 7)  # lengths do not count
    assert found["alignment"] == pytest.approx(2.0)
    uniform = math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6)
    assert found["uniformity_queries"] == pytest.approx(uniform, abs=1e-5)
    assert found["uniformity_codes"] == pytest.approx(uniform, abs=1e-5)


def test_a_collapsed_space_is_aligned_and_not_uniform():
    found = space_diagnostics(torch.ones(30, 4), torch.ones(30, 4))
    assert found == pytest.approx({"alignment": 0.0, "uniformity_queries": 0.0, "uniformity_codes": 0.0}, abs=1e-6)


def test_one_pair_is_no_space():
    assert space_diagnostics(torch.ones(1, 4), torch.ones(1, 4)) == {}


def test_of_many_pairs_an_even_sample_is_judged():
    generator = torch.Generator().manual_seed(0)
    q, c = (torch.randn(4 * SAMPLE, 8, generator=generator) for _ in range(2))
    every = [round(place * (4 * SAMPLE - 1) / (SAMPLE - 1)) for place in range(SAMPLE)]
    whole = space_diagnostics(q, c)
    assert whole["alignment"] == pytest.approx(space_diagnostics(q[every], c[every])["alignment"], rel=0.02)
    assert whole["alignment"] == pytest.approx(2.0, rel=0.1)  # directions that know nothing of each other


def some(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(size, size, generator=generator)
    return scores, negative_distribution(torch.randn(size, size, generator=generator), temperature=0.7)


@given(size=st.integers(2, 12), seed=st.integers(0, 1000))
def test_information_is_log_n_less_the_loss(size, seed):
    scores, p = some(size, seed)
    assert float(batch_diagnostics(scores)["information"]) == pytest.approx(
        math.log(size) - float(infonce(scores)), abs=1e-4
    )
    if size > 2:
        options: dict[str, Any] = {"alpha": 0.6, "beta": 1.4}
        weights = soft_weights(p, **options)
        found = batch_diagnostics(scores, negatives=p, weights=weights, floor=0.1)
        expected = math.log(size) - float(soft_infonce(scores, negatives=p, **options))
        assert float(found["information"]) == pytest.approx(expected, abs=1e-4)


@given(size=st.integers(2, 10), seed=st.integers(0, 1000))
def test_entropy_and_divergence_are_those_of_plain_loops(size, seed):
    scores, p = some(size, seed)
    found = batch_diagnostics(scores, negatives=p)
    entropy = divergence = 0.0
    for i in range(size):
        others = [j for j in range(size) if j != i]
        top = max(float(scores[i, j]) for j in others)
        total = sum(math.exp(float(scores[i, j]) - top) for j in others)
        for j in others:
            q = math.exp(float(scores[i, j]) - top) / total
            entropy -= float(p[i, j]) * math.log(float(p[i, j]))
            divergence += float(p[i, j]) * (math.log(float(p[i, j])) - math.log(q))
    assert float(found["weight_entropy"]) == pytest.approx(entropy / size, abs=1e-4)
    assert float(found["kl_negatives"]) == pytest.approx(divergence / size, abs=1e-3)


def test_equal_scores_diverge_from_uniform_p_by_nothing():
    size = 9
    p = negative_distribution(torch.zeros(size, size), temperature=1.0)
    found = batch_diagnostics(torch.zeros(size, size), negatives=p)
    assert float(found["kl_negatives"]) == pytest.approx(0.0, abs=1e-6)
    assert float(found["weight_entropy"]) == pytest.approx(math.log(size - 1))
    assert float(found["information"]) == pytest.approx(0.0, abs=1e-6)


def test_the_share_at_the_floor_is_counted_among_negatives():
    p = torch.tensor([[0.0, 0.98, 0.01, 0.01], [0.25, 0.0, 0.5, 0.25], [0.9, 0.05, 0.0, 0.05], [0.4, 0.3, 0.3, 0.0]])
    weights = soft_weights(p, alpha=1.0, beta=1.0, floor=0.2)  # (1 - p) / (2/3), so at the floor from p = 0.867
    found = batch_diagnostics(torch.zeros(4, 4), negatives=p, weights=weights, floor=0.2)
    assert float(found["floor_share"]) == pytest.approx(2 / 12)


def test_hidden_pairs_do_not_count():
    """As if they were not in the batch: a row whose fourth pair is hidden is a row of three."""
    scores, similarity = some(4, 3)[0], torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[:3, 3] = True
    p = negative_distribution(similarity.masked_fill(hidden, -1e30), temperature=1.0)
    small = negative_distribution(similarity[:3, :3], temperature=1.0)
    rows = batch_diagnostics(scores, negatives=p, hidden=hidden)
    inner = batch_diagnostics(scores[:3, :3], negatives=small)
    log_q = scores[3, :3].log_softmax(dim=0)
    last = {  # of the fourth row, that hides nothing
        "information": math.log(4) - float(scores[3].logsumexp(dim=0) - scores[3, 3]),
        "weight_entropy": -float((p[3, :3] * p[3, :3].log()).sum()),
        "kl_negatives": float((p[3, :3] * (p[3, :3].log() - log_q)).sum()),
    }
    for name, value in last.items():
        assert float(rows[name]) == pytest.approx((3 * float(inner[name]) + value) / 4, abs=1e-5)


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_great_scores_stay_finite(scale, kind):
    scores = torch.full((5, 5), scale, dtype=kind)
    scores[0, 1] = -scale
    p = negative_distribution(torch.eye(5).roll(1, dims=0) * 1e4, temperature=0.1)
    weights = soft_weights(p, alpha=0.5, beta=1.5)
    hidden = torch.zeros(5, 5, dtype=torch.bool)
    hidden[2] = True
    hidden[2, 2] = False  # a row without a negative left
    found = batch_diagnostics(scores, negatives=p, weights=weights, floor=0.1, hidden=hidden)
    assert all(bool(torch.isfinite(value)) for value in found.values())


def filled(histogram: Histogram | None) -> dict[float, int]:
    """Left edge of each bin that has something -> count."""
    assert histogram is not None
    return {edge: count for edge, count in zip(histogram.edges, histogram.counts, strict=False) if count}


def test_the_distributions_of_three_pairs_by_hand():
    queries = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])  # lengths do not count
    codes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -5.0]])
    # cosines: 1, -1, 0 / 0, 0, -1 / .707, -.707, -.707
    p = torch.tensor([[0.0, 0.5, 0.5], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0]])
    found = batch_distributions(queries, codes, negatives=p)
    assert filled(found.negatives) == {-1.0: 2, -0.75: 1, 0.0: 2, 0.7: 1}
    assert filled(found.positives) == {-0.75: 1, 0.0: 1, 0.95: 1}
    # log10 of 2p: 0, 0, .26, -.70, .30 and, of the p that is nothing, what lies before the first edge
    assert filled(found.relative) == {-0.1: 2, 0.1: 1, -0.7: 1, 0.3: 1, -5.1: 1}
    assert (found.batch_size, found.batches) == (3, 1)
    assert batch_distributions(queries, codes).relative is None


def test_hidden_pairs_are_not_counted_and_p_is_relative_to_the_rest():
    hidden = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    p = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    found = batch_distributions(torch.eye(3), torch.eye(3), negatives=p, hidden=hidden)
    assert filled(found.relative) == {-0.1: 4}
    assert (found.negatives.total, found.positives.total) == (4, 3)


@given(size=st.integers(2, 12), seed=st.integers(0, 1000))
def test_every_pair_of_a_batch_is_counted_where_it_lies(size, seed):
    generator = torch.Generator().manual_seed(seed)
    q, c = torch.randn(2, size, 3, generator=generator).numpy().astype(np.float64)
    _, p = some(size, seed)
    found = batch_distributions(torch.from_numpy(q), torch.from_numpy(c), negatives=p)
    assert found.relative is not None
    assert (found.negatives.edges, found.relative.edges) == (SCORE_EDGES, RELATIVE_EDGES)
    for histogram, near in (
        (found.negatives, lambda i, j: q[i] @ c[j] / math.sqrt((q[i] @ q[i]) * (c[j] @ c[j]))),
        (found.relative, lambda i, j: math.log10(float(p[i, j]) * (size - 1))),
    ):
        values = [near(i, j) for i in range(size) for j in range(size) if i != j]
        assert histogram.total == len(values)
        for at, edge in enumerate(histogram.edges[1:-1]):
            below = [value < edge for value in values]
            close = sum(abs(value - edge) < 1e-5 for value in values)  # float32 may put them on either side
            assert abs(sum(below) - sum(histogram.counts[: at + 1])) <= close


def test_a_uniform_estimator_is_one_bin():
    p = negative_distribution(torch.zeros(257, 257), temperature=1.0)
    found = batch_distributions(torch.eye(257), torch.eye(257), negatives=p)
    assert filled(found.relative) == {-0.1: 257 * 256}
