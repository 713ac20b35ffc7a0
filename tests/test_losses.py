"""Losses against arithmetic by hand, cross entropy in the limits, and an independent float64 formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from softnce_ray.losses import LOSSES, infonce, soft_infonce, soft_weights

SETTINGS: dict[str, dict[str, Any]] = {"infonce": {}, "soft_infonce": {"alpha": 1.5, "beta": 0.5}}
"""Valid settings of every loss, for the laws that all of them keep: a new loss adds its row."""


def batch(size: int, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Random float64 scores and a random distribution over the negatives."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(size, size, dtype=torch.float64, generator=generator)
    likeness = 4 * torch.rand(size, size, dtype=torch.float64, generator=generator)
    return scores, likeness.fill_diagonal_(-math.inf).softmax(dim=1)


def uniform(size: int) -> Tensor:
    return (torch.ones(size, size, dtype=torch.float64) / (size - 1)).fill_diagonal_(0)


# --- by hand ---------------------------------------------------------------------------------------------


def test_infonce_by_hand():
    # e^{log 3} = 3, e^{log 2} = 2, e^0 = 1
    scores = torch.tensor([[math.log(3), 0.0], [math.log(2), 0.0]], dtype=torch.float64)
    assert infonce(scores).item() == pytest.approx((-math.log(3 / (3 + 1)) - math.log(1 / (1 + 2))) / 2)


def test_soft_weights_by_hand():
    negatives = torch.tensor([[0, 0.75, 0.25], [0.5, 0, 0.5], [1.0, 0, 0]], dtype=torch.float64)
    weights = soft_weights(negatives, alpha=1.0, beta=1.0)
    # N - 1 = 2, so the denominator is 1 - 1/2 = 1/2; (1 - 1) / (1/2) = 0 is lifted to the floor
    expected = [[1, (1 - 0.75) / 0.5, (1 - 0.25) / 0.5], [(1 - 0.5) / 0.5, 1, (1 - 0.5) / 0.5], [0.1, 1 / 0.5, 1]]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_soft_infonce_by_hand():
    scores = torch.tensor([[math.log(4), math.log(2), 0.0]] * 3, dtype=torch.float64)
    negatives = torch.tensor([[0, 0.75, 0.25], [0.5, 0, 0.5], [1.0, 0, 0]], dtype=torch.float64)
    rows = [
        -math.log(4 / (4 + 0.5 * 2 + 1.5 * 1)),
        -math.log(2 / (2 + 1.0 * 4 + 1.0 * 1)),
        -math.log(1 / (1 + 0.1 * 4 + 2.0 * 2)),
    ]
    assert soft_infonce(scores, negatives, alpha=1.0, beta=1.0).item() == pytest.approx(sum(rows) / 3)


def test_the_floor_is_the_least_weight():
    negatives = torch.tensor([[0, 1.0, 0], [0.5, 0, 0.5], [0, 1.0, 0]], dtype=torch.float64)
    assert soft_weights(negatives, alpha=1.0, beta=0.8, floor=0.3).min().item() == pytest.approx(0.3)
    # (0.8 - 1) / (0.8 - 0.5) < 0 in the rows that have all of p in one place
    scores = torch.zeros(3, 3, dtype=torch.float64)
    likely = -math.log(1 / (1 + 0.3 + 0.8 / 0.3))
    even = -math.log(1 / (1 + 1 + 1))
    loss = soft_infonce(scores, negatives, alpha=1.0, beta=0.8, floor=0.3)
    assert loss.item() == pytest.approx((likely + even + likely) / 3)


# --- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 17, 64])
def test_infonce_is_cross_entropy_of_the_diagonal(size):
    scores, _ = batch(size)
    torch.testing.assert_close(infonce(scores), F.cross_entropy(scores, torch.arange(size)))


@pytest.mark.parametrize("size", [2, 3, 17, 64])
def test_without_alpha_soft_infonce_is_infonce(size):
    scores, negatives = batch(size)
    loss = soft_infonce(scores, negatives, alpha=0.0, beta=0.7)
    assert loss.item() == F.cross_entropy(scores, torch.arange(size)).item()


@pytest.mark.parametrize("size", [5, 17, 64])
def test_with_a_uniform_distribution_soft_infonce_is_infonce(size):
    scores, _ = batch(size)
    loss = soft_infonce(scores, uniform(size), alpha=1.5, beta=0.5)
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.arange(size)), rtol=1e-13, atol=1e-13)


@given(size=st.integers(3, 64), seed=st.integers(0, 1000), alpha=st.floats(0, 1.5))
def test_without_the_floor_the_weights_of_a_row_sum_to_the_number_of_negatives(size, seed, alpha):
    _, negatives = batch(size, seed)
    weights = soft_weights(negatives, alpha=alpha, beta=alpha + 0.01, floor=1e-12)  # beta > alpha·p: floor unused
    torch.testing.assert_close(weights.sum(dim=1), torch.full((size,), 1.0 + (size - 1), dtype=torch.float64))
    assert (weights.diagonal() == 1).all()


def test_likelier_negatives_weigh_less():
    _, negatives = batch(16)
    weights = soft_weights(negatives, alpha=1.0, beta=1.0)[0, 1:]
    assert weights[negatives[0, 1:].argsort()].diff().max() <= 0


# --- an independent formula ------------------------------------------------------------------------------


def straightforward(scores: np.ndarray, p: np.ndarray, alpha: float, beta: float, floor: float) -> float:
    """Equations 3 and 4 term by term, in float64."""
    size = len(scores)
    total = 0.0
    for i in range(size):
        below = math.exp(scores[i, i])
        for j in range(size):
            if j != i:
                weight = (beta - alpha * p[i, j]) / (beta - alpha / (size - 1))
                below += max(floor, weight) * math.exp(scores[i, j])
        total -= math.log(math.exp(scores[i, i]) / below)
    return total / size


@given(
    size=st.integers(2, 64),
    seed=st.integers(0, 1000),
    alpha=st.floats(0, 2),
    above=st.floats(0.01, 2),
    floor=st.floats(0.01, 1),
)
def test_soft_infonce_is_its_formula(size, seed, alpha, above, floor):
    scores, negatives = batch(size, seed)
    beta = alpha / (size - 1) + above
    loss = soft_infonce(scores, negatives, alpha=alpha, beta=beta, floor=floor)
    expected = straightforward(scores.numpy(), negatives.numpy(), alpha, beta, floor)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = soft_infonce(scores.float(), negatives.float(), alpha=alpha, beta=beta, floor=floor)
    assert single.item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "alpha", "beta", "message"),
    [
        (4, 1.5, 0.5, r"expected beta > alpha / \(N - 1\), got beta 0\.5 and 1\.5 / 3 = 0\.5"),
        (2, 1.0, 0.9, r"got beta 0\.9 and 1 / 1 = 1"),
        (8, 0.0, 0.0, r"got beta 0 and 0 / 7 = 0"),
        (8, 1.0, math.nan, "got beta nan"),
    ],
)
def test_a_beta_that_turns_weights_around_is_an_error(size, alpha, beta, message):
    scores, negatives = batch(size)
    with pytest.raises(ValueError, match=message):
        soft_infonce(scores, negatives, alpha=alpha, beta=beta)


def test_the_least_batch_of_the_published_settings_is_five():
    scores, negatives = batch(5)
    assert soft_infonce(scores, negatives, alpha=1.5, beta=0.5).isfinite()


@pytest.mark.parametrize("floor", [0.0, -0.1])
def test_a_floor_without_logarithm_is_an_error(floor):
    with pytest.raises(ValueError, match="expected floor > 0"):
        soft_weights(uniform(4), alpha=1.0, beta=1.0, floor=floor)


def test_negatives_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r"expected negatives of shape \(8, 8\), got \(7, 7\)"):
        soft_infonce(batch(8)[0], uniform(7), alpha=1.0, beta=1.0)


# --- what every loss keeps -------------------------------------------------------------------------------

every_loss = pytest.mark.parametrize("name", LOSSES)


def test_every_loss_has_a_row_in_these_tests():
    assert set(SETTINGS) == set(LOSSES)


@every_loss
@pytest.mark.parametrize("size", [5, 6, 32, 64])
def test_a_loss_is_a_finite_scalar_above_zero(name, size):
    scores, negatives = batch(size)
    loss = LOSSES[name](scores, negatives, **SETTINGS[name])
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss > 0


@every_loss
def test_a_loss_falls_as_the_right_codes_gain(name):
    scores, negatives = batch(16)
    before, after = (LOSSES[name](scores + gain * torch.eye(16), negatives, **SETTINGS[name]) for gain in (0, 1))
    assert after < before


@every_loss
@given(order=st.permutations(range(12)))
def test_the_order_of_the_pairs_does_not_matter_to_a_loss(name, order):
    scores, negatives = batch(12)
    there = torch.tensor(order)
    shuffled = LOSSES[name](scores[there][:, there], negatives[there][:, there], **SETTINGS[name])
    torch.testing.assert_close(shuffled, LOSSES[name](scores, negatives, **SETTINGS[name]))


@every_loss
def test_the_gradient_of_a_loss_is_its_slope(name):
    scores, negatives = batch(6)
    assert torch.autograd.gradcheck(
        lambda given: LOSSES[name](given, negatives, **SETTINGS[name]), scores.requires_grad_()
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_of_a_loss_is_like_the_scores_and_none_flows_into_the_negatives(name, dtype):
    scores, negatives = (tensor.to(dtype).requires_grad_() for tensor in batch(8))
    LOSSES[name](scores, negatives, **SETTINGS[name]).backward()
    assert scores.grad is not None
    assert (scores.grad.shape, scores.grad.dtype) == (scores.shape, dtype)
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0
    assert negatives.grad is None


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("right", [1e4, -1e4])
def test_a_loss_stays_finite_for_large_scores(name, dtype, right):
    _, negatives = batch(8)
    scores = (torch.full((8, 8), -right) + 2 * right * torch.eye(8)).to(dtype).requires_grad_()
    loss = LOSSES[name](scores, negatives.float(), **SETTINGS[name])
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    if right > 0:
        assert loss.item() == pytest.approx(0, abs=1e-6)
    else:
        assert loss.item() == pytest.approx(2e4, rel=0.01)  # bf16 has three digits


@every_loss
def test_a_loss_of_bf16_scores_is_reckoned_in_float32(name):
    scores, negatives = batch(64)
    loss = LOSSES[name](scores.bfloat16(), negatives.float(), **SETTINGS[name])
    assert loss.dtype == torch.float32
    # the scores are rounded by at most 1/256 of about 3; their sums are not
    exact = LOSSES[name](scores.bfloat16().double(), negatives, **SETTINGS[name])
    torch.testing.assert_close(loss.double(), exact, rtol=2e-3, atol=0)


@every_loss
def test_a_loss_leaves_its_arguments_as_they_were(name):
    scores, negatives = batch(8)
    before = scores.clone(), negatives.clone()
    LOSSES[name](scores, negatives, **SETTINGS[name])
    assert torch.equal(scores, before[0])
    assert torch.equal(negatives, before[1])


@every_loss
def test_one_pair_has_no_negatives_and_is_an_error(name):
    with pytest.raises(ValueError, match="expected at least 2 pairs in a batch, got 1"):
        LOSSES[name](torch.zeros(1, 1), torch.zeros(1, 1), **SETTINGS[name])


@every_loss
@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 2, 2)])
def test_scores_that_are_not_square_are_an_error(name, shape):
    with pytest.raises(ValueError, match=r"expected a \(B, B\) matrix"):
        LOSSES[name](torch.zeros(shape), torch.zeros(shape), **SETTINGS[name])
