"""Losses against arithmetic by hand, an independent float64 formula, their limits, and the laws that all keep."""

from __future__ import annotations

import inspect
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import REFERENCE, value_and_gradient
from torch import Tensor

from softnce_ray.losses import (
    LOSSES,
    bce,
    cancel_threshold,
    cancel_top_k,
    debiased,
    hard_negative,
    infonce,
    kl_regularised,
    positive_equal,
    soft_infonce,
    soft_weights,
    subsampled_infonce,
    weighted_infonce,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "infonce": {},
    "soft_infonce": {"alpha": 1.5, "beta": 0.5, "floor": 0.1},
    "weighted_infonce": {},
    "bce": {},
    "kl_regularised": {"alpha": 0.7, "beta": 1.3},
    "cancel_top_k": {"k": 2},
    "cancel_threshold": {"ratio": 0.7},
    "hard_negative": {"concentration": 0.5, "tau_plus": 0.1},
    "debiased": {"tau_plus": 0.1},
    "subsampled_infonce": {"k": 3},
    "positive_equal": {},
}
"""Settings of every loss that are valid from N = 5, for the laws that all of them keep: a new loss adds its row."""

SPREAD = {"weighted_infonce", "bce"}
"""Losses that want a share of the softmax for the negatives, so that the right code can have too much of it."""

DRAWN = {"subsampled_infonce"}
"""Losses that draw at random."""

every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(size: int, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, dict[str, Any]]:
    """Random float64 scores, and all that a loss may need to know beside them."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(size, size, dtype=torch.float64, generator=generator)

    scores = scale * torch.randn(size, size, dtype=torch.float64, generator=generator)
    groups = torch.randint(0, max(2, 2 * size // 3), (size,), generator=generator)
    needs = {
        "negatives": (4 * uniform()).fill_diagonal_(-math.inf).softmax(dim=1),
        "similarity": 4 * uniform() - 0.5 + torch.eye(size),
        "positives": groups[:, None] == groups[None, :],
        "temperature": 0.3,
        "generator": None,
    }
    return scores, needs


def inputs(name: str, needs: dict[str, Any]) -> dict[str, Any]:
    return {need: needs[need] for need in LOSSES[name].needs}


def loss_of(
    name: str, scores: Tensor, needs: dict[str, Any], *, hidden: Tensor | None = None, seed: int = 0, **changes: Any
) -> Tensor:
    """A loss with its settings of this file, and with the same draw whenever the seed is the same."""
    torch.manual_seed(seed)
    return LOSSES[name].function(scores, **inputs(name, needs), **(SETTINGS[name] | changes), hidden=hidden)


def some_hidden(size: int, seed: int = 0, share: float = 0.3) -> Tensor:
    """Random hidden negatives; the first row has at least one."""
    hidden = torch.rand(size, size, generator=torch.Generator().manual_seed(seed)) < share
    hidden[0, 1] = True
    return hidden.fill_diagonal_(False)


def uniform(size: int) -> Tensor:
    return (torch.ones(size, size, dtype=torch.float64) / (size - 1)).fill_diagonal_(0)


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_every_loss_has_a_row_in_these_tests():
    assert set(SETTINGS) == set(REFERENCE) == set(DRAWS) == set(LOSSES)


@every_loss
def test_a_loss_takes_what_it_needs_and_its_settings_by_name_and_no_more(name):
    parameters = inspect.signature(LOSSES[name].function).parameters
    assert set(parameters) == {"scores", "hidden"} | LOSSES[name].needs | set(SETTINGS[name])
    assert {name for name, each in parameters.items() if each.kind is not each.KEYWORD_ONLY} == {"scores"}
    assert parameters["hidden"].default is None


# --- by hand ---------------------------------------------------------------------------------------------

# Each row's exponentials are 4, 2 and 1: query 0 has 4 for its own code, query 1 has 2, query 2 has 1.
SCORES = matrix([[4, 2, 1]] * 3).log()
NEGATIVES = matrix([[0, 0.75, 0.25], [0.5, 0, 0.5], [1, 0, 0]])


def mean_of_minus_logs(*rows: float) -> Any:
    return pytest.approx(-sum(map(math.log, rows)) / len(rows), rel=1e-12)


def test_infonce_by_hand():
    # e^{log 3} = 3, e^{log 2} = 2, e^0 = 1
    scores = matrix([[math.log(3), 0], [math.log(2), 0]])
    assert infonce(scores).item() == mean_of_minus_logs(3 / (3 + 1), 1 / (1 + 2))
    assert infonce(SCORES).item() == mean_of_minus_logs(4 / 7, 2 / 7, 1 / 7)


def test_soft_weights_by_hand():
    # N - 1 = 2, so the denominator is 1 - 1/2 = 1/2; (1 - 1) / (1/2) = 0 is lifted to the floor
    expected = [[1, (1 - 0.75) / 0.5, (1 - 0.25) / 0.5], [(1 - 0.5) / 0.5, 1, (1 - 0.5) / 0.5], [0.1, 1 / 0.5, 1]]
    torch.testing.assert_close(soft_weights(NEGATIVES, alpha=1.0, beta=1.0), matrix(expected))


def test_soft_infonce_by_hand():
    expected = mean_of_minus_logs(
        4 / (4 + 0.5 * 2 + 1.5 * 1),
        2 / (2 + 1.0 * 4 + 1.0 * 1),
        1 / (1 + 0.1 * 4 + 2.0 * 2),
    )
    assert soft_infonce(SCORES, negatives=NEGATIVES, alpha=1.0, beta=1.0).item() == expected


def test_the_floor_is_the_least_weight():
    negatives = matrix([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    assert soft_weights(negatives, alpha=1.0, beta=0.8, floor=0.3).min().item() == pytest.approx(0.3)
    # (0.8 - 1) / (0.8 - 0.5) < 0 in the rows that have all of p in one place
    loss = soft_infonce(torch.zeros(3, 3).double(), negatives=negatives, alpha=1.0, beta=0.8, floor=0.3)
    likely = 1 / (1 + 0.3 + 0.8 / 0.3)
    assert loss.item() == mean_of_minus_logs(likely, 1 / (1 + 1 + 1), likely)


def test_the_weights_of_a_row_with_hidden_negatives_by_hand():
    negatives = matrix([[0, 0.5, 0.3, 0.2], [0.25, 0, 0.25, 0.5], [0.2, 0.2, 0, 0.6], [0.1, 0.1, 0.8, 0]])
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[0, 1] = hidden[1, 0] = hidden[1, 2] = True
    hidden[3, :3] = True
    weights = soft_weights(negatives, alpha=1.0, beta=1.0, hidden=hidden)
    # row 0: p becomes 0.3 / 0.5 and 0.2 / 0.5 over two negatives, and the denominator 1 - 1/2
    torch.testing.assert_close(weights[0, 2:], matrix([[(1 - 0.6) / 0.5, (1 - 0.4) / 0.5]])[0])
    # row 1: one negative is left, where beta = alpha / 1 would divide by zero: it is not weighed
    assert weights[1, 3] == 1
    # row 2: nothing is hidden, three negatives, and the denominator 1 - 1/3
    torch.testing.assert_close(weights[2, [0, 1, 3]], matrix([[0.8 * 1.5, 0.8 * 1.5, 0.4 * 1.5]])[0])
    assert weights[3].isfinite().all()


def test_weighted_infonce_by_hand():
    rows = [
        math.log(4 / 7) + 0.75 * math.log(2 / 7) + 0.25 * math.log(1 / 7),
        math.log(2 / 7) + 0.5 * math.log(4 / 7) + 0.5 * math.log(1 / 7),
        math.log(1 / 7) + 1.0 * math.log(4 / 7) + 0.0 * math.log(2 / 7),
    ]
    assert weighted_infonce(SCORES, negatives=NEGATIVES).item() == pytest.approx(-sum(rows) / 3)


def test_bce_by_hand():
    def entry(target: float, p: float) -> float:
        return target * math.log(p) + (1 - target) * math.log(1 - p)

    entries = [
        *(entry(1, 4 / 7), entry(0.75, 2 / 7), entry(0.25, 1 / 7)),
        *(entry(0.5, 4 / 7), entry(1, 2 / 7), entry(0.5, 1 / 7)),
        *(entry(1, 4 / 7), entry(0, 2 / 7), entry(1, 1 / 7)),
    ]
    assert bce(SCORES, negatives=NEGATIVES).item() == pytest.approx(-sum(entries) / 9)


def test_kl_regularised_by_hand():
    # softmax over the negatives alone: 2/3 and 1/3, 4/5 and 1/5, 4/6 and 2/6
    divergences = [
        0.75 * math.log(0.75 / (2 / 3)) + 0.25 * math.log(0.25 / (1 / 3)),
        0.5 * math.log(0.5 / (4 / 5)) + 0.5 * math.log(0.5 / (1 / 5)),
        1.0 * math.log(1.0 / (4 / 6)),
    ]
    own = -(math.log(4 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 3
    loss = kl_regularised(SCORES, negatives=NEGATIVES, alpha=3.0, beta=2.0)
    assert loss.item() == pytest.approx(2 * own + 3 * sum(divergences) / 3)


def test_cancel_top_k_by_hand():
    similarity = matrix([[1, 5, 1], [2, 1, 8], [3, 4, 1]])  # a query's similarity to itself does not count
    loss = cancel_top_k(SCORES, similarity=similarity, k=1)
    assert loss.item() == mean_of_minus_logs(4 / (4 + 1), 2 / (2 + 4), 1 / (1 + 4))


def test_cancel_threshold_by_hand():
    # at least 4.5 is cancelled, at least 2 (which 2 is), at least 5
    similarity = matrix([[9, 5, 4.4], [2, 4, 1.9], [1, 2, 10]])
    loss = cancel_threshold(SCORES, similarity=similarity, ratio=0.5)
    assert loss.item() == mean_of_minus_logs(4 / (4 + 1), 2 / (2 + 1), 1 / 7)


def test_a_query_that_loses_all_its_negatives_adds_nothing():
    similarity = matrix([[1, 5, 4], [0, 1, 0], [0, 0, 1]])
    loss = cancel_threshold(SCORES, similarity=similarity, ratio=0.5)
    assert loss.item() == mean_of_minus_logs(1, 2 / 7, 1 / 7)


def test_hard_negative_by_hand():
    # b = 1, so each negative is weighed by its own exponential; N - 1 = 2; the bound is 2 e^{-1/0.5} = 0.27
    below = [
        (2 * (2 * 2 + 1 * 1) / (2 + 1) - 0.25 * 2 * 4) / 0.75,
        (2 * (4 * 4 + 1 * 1) / (4 + 1) - 0.25 * 2 * 2) / 0.75,
        (2 * (4 * 4 + 2 * 2) / (4 + 2) - 0.25 * 2 * 1) / 0.75,
    ]
    assert min(below) > 2 * math.exp(-1 / 0.5)
    loss = hard_negative(SCORES, temperature=0.5, concentration=1.0, tau_plus=0.25)
    assert loss.item() == mean_of_minus_logs(4 / (4 + below[0]), 2 / (2 + below[1]), 1 / (1 + below[2]))


def test_debiased_by_hand():
    below = [((2 + 1) - 0.25 * 2 * 4) / 0.75, ((4 + 1) - 0.25 * 2 * 2) / 0.75, ((4 + 2) - 0.25 * 2 * 1) / 0.75]
    loss = debiased(SCORES, temperature=0.5, tau_plus=0.25)
    assert loss.item() == mean_of_minus_logs(4 / (4 + below[0]), 2 / (2 + below[1]), 1 / (1 + below[2]))


def test_the_lower_bound_of_the_debiased_losses_by_hand():
    # row 0: 1 - 0.25 * 16 < 0; row 1: (9 - 0.25 * 35.9) / 0.75 = 0.03 lies above 0 and below the bound
    scores = matrix([[16, 1], [9, 35.9]]).log()
    bound = math.exp(-1 / 0.5)
    expected = mean_of_minus_logs(16 / (16 + bound), 35.9 / (35.9 + bound))
    assert debiased(scores, temperature=0.5, tau_plus=0.25).item() == expected
    assert hard_negative(scores, temperature=0.5, concentration=2.0, tau_plus=0.25).item() == expected


def test_subsampled_infonce_by_hand_draws_each_choice_about_as_often():
    # one of two negatives for each query: eight outcomes
    scores = matrix([[4, 2, 1], [4, 2, 1], [8, 2, 1]]).log()
    choices = product([4 / (4 + 2), 4 / (4 + 1)], [2 / (2 + 4), 2 / (2 + 1)], [1 / (1 + 8), 1 / (1 + 2)])
    outcomes = [round(-sum(map(math.log, rows)) / 3, 9) for rows in choices]
    assert len(set(outcomes)) == 8
    torch.manual_seed(0)
    found = [round(subsampled_infonce(scores, k=1).item(), 9) for _ in range(400)]
    assert set(found) == set(outcomes)
    assert all(25 <= found.count(outcome) <= 80 for outcome in outcomes)  # 50 are expected, with deviation 6.6


def test_positive_equal_by_hand():
    positives = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    # codes 0 and 1 share 4/6 and 2/6, in the rows of both
    above = 4 / 6 * 4 + 2 / 6 * 2
    expected = (math.log(1 + 1 / above) + math.log(1 + 1 / above) + math.log(1 + (4 + 2) / 1)) / 3
    assert positive_equal(SCORES, positives=positives).item() == pytest.approx(expected, rel=1e-12)


# --- an independent formula ------------------------------------------------------------------------------

DRAWS: dict[str, Any] = {
    "infonce": lambda size, draw: {},
    "soft_infonce": lambda size, draw: {
        "alpha": (alpha := 2 * draw.random()),
        "beta": alpha / (size - 1) + draw.uniform(0.01, 2),
        "floor": draw.uniform(0.01, 1),
    },
    "weighted_infonce": lambda size, draw: {},
    "bce": lambda size, draw: {},
    "kl_regularised": lambda size, draw: {"alpha": 2 * draw.random(), "beta": draw.uniform(0.1, 2)},
    "cancel_top_k": lambda size, draw: {"k": int(draw.integers(0, size - 1))},
    "cancel_threshold": lambda size, draw: {"ratio": draw.uniform(0.1, 2)},
    "hard_negative": lambda size, draw: {"concentration": 2 * draw.random(), "tau_plus": 0.9 * draw.random()},
    "debiased": lambda size, draw: {"tau_plus": 0.9 * draw.random()},
    "subsampled_infonce": lambda size, draw: {"k": int(draw.integers(1, size))},
    "positive_equal": lambda size, draw: {},
}
"""Random settings of every loss that are valid for a batch of `size`: a new loss adds its row."""


def agrees_with_its_formula(
    name: str, scores: Tensor, needs: dict[str, Any], options: dict[str, Any], hidden: Tensor | None = None
) -> None:
    """Value and gradient, which the reference takes by complex steps."""
    scores = scores.clone().requires_grad_()
    loss = LOSSES[name].function(scores, **inputs(name, needs), **options, hidden=hidden)
    loss.backward()
    assert scores.grad is not None
    gradient = scores.grad.numpy()
    plain = {need: each.numpy() if isinstance(each, Tensor) else each for need, each in inputs(name, needs).items()}
    if name in DRAWN:  # what was drawn is what has a gradient
        options = {"kept": gradient != 0}
        del plain["generator"]
    expected, slope = value_and_gradient(
        name, scores.detach().numpy(), hidden=None if hidden is None else hidden.numpy(), **plain, **options
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9)


sizes, seeds = st.integers(2, 64), st.integers(0, 10_000)


@every_loss
@settings(max_examples=20, deadline=None)
@given(size=sizes, seed=seeds)
def test_a_loss_and_its_gradient_are_those_of_its_formula(name, size, seed):
    scores, needs = batch(size, seed)
    agrees_with_its_formula(name, scores, needs, DRAWS[name](size, np.random.default_rng(seed)))


@every_loss
@settings(max_examples=10, deadline=None)
@given(size=st.integers(3, 40), seed=seeds, share=st.sampled_from([0.1, 0.5]))
def test_a_loss_with_hidden_negatives_is_its_formula_without_them(name, size, seed, share):
    scores, needs = batch(size, seed)
    hidden = some_hidden(size, seed, share)
    options = DRAWS[name](size, np.random.default_rng(seed))
    if name == "soft_infonce":
        options["beta"] += options["alpha"]  # so that every row is weighed
    agrees_with_its_formula(name, scores, needs, options, hidden)


@settings(max_examples=20, deadline=None)
@given(size=sizes, seed=seeds)
def test_exactly_k_negatives_are_drawn_from_those_that_are_visible(size, seed):
    scores, _ = batch(size, seed, scale=1.0)
    k = int(np.random.default_rng(seed).integers(1, size))
    for hidden in (None, some_hidden(size, seed, 0.5)):
        scores = scores.detach().requires_grad_()
        subsampled_infonce(scores, k=k, hidden=hidden).backward()
        assert scores.grad is not None
        drawn = scores.grad.fill_diagonal_(0) != 0
        left = torch.full((size,), size - 1) if hidden is None else size - 1 - hidden.sum(dim=1)
        assert torch.equal(drawn.sum(dim=1), left.clamp_max(k))


@every_loss
@settings(max_examples=10, deadline=None)
@given(size=st.integers(5, 64), seed=seeds)
def test_float32_gives_the_numbers_of_float64(name, size, seed):
    scores, needs = batch(size, seed)
    narrow = {need: each.float() if need in ("negatives", "similarity") else each for need, each in needs.items()}
    needs = {need: each.double() if need in ("negatives", "similarity") else each for need, each in narrow.items()}
    exact = loss_of(name, scores.float().double(), needs)
    single = loss_of(name, scores.float(), narrow)
    assert single.dtype == torch.float32
    if name not in DRAWN:
        assert single.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


# --- limits ----------------------------------------------------------------------------------------------

some_sizes = pytest.mark.parametrize("size", [2, 3, 17, 64])


def is_infonce(loss: Tensor, scores: Tensor) -> None:
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.arange(len(scores))), rtol=1e-13, atol=1e-13)


@some_sizes
def test_infonce_is_cross_entropy_of_the_diagonal(size):
    scores, _ = batch(size)
    is_infonce(infonce(scores), scores)


@some_sizes
def test_without_alpha_soft_infonce_is_infonce_to_the_bit(size):
    scores, needs = batch(size)
    loss = soft_infonce(scores, negatives=needs["negatives"], alpha=0.0, beta=0.7)
    assert loss.item() == F.cross_entropy(scores, torch.arange(size)).item()
    hidden = some_hidden(size)
    loss = soft_infonce(scores, negatives=needs["negatives"], alpha=0.0, beta=0.7, hidden=hidden)
    assert loss.item() == infonce(scores, hidden=hidden).item()


@pytest.mark.parametrize("size", [5, 17, 64])
def test_with_a_uniform_distribution_soft_infonce_is_infonce(size):
    scores, _ = batch(size)
    is_infonce(soft_infonce(scores, negatives=uniform(size), alpha=1.5, beta=0.5), scores)
    hidden = some_hidden(size)
    loss = soft_infonce(scores, negatives=uniform(size), alpha=1.5, beta=0.5, hidden=hidden)
    torch.testing.assert_close(loss, infonce(scores, hidden=hidden), rtol=1e-13, atol=1e-13)


@some_sizes
def test_without_alpha_kl_regularised_is_a_multiple_of_infonce(size):
    scores, needs = batch(size)
    is_infonce(kl_regularised(scores, negatives=needs["negatives"], alpha=0.0, beta=2.0) / 2, scores)


@some_sizes
def test_the_divergence_is_zero_where_the_negatives_softmax_is_p(size):
    scores, _ = batch(size)
    p = scores.clone().fill_diagonal_(-math.inf).softmax(dim=1)
    is_infonce(kl_regularised(scores, negatives=p, alpha=5.0, beta=1.0), scores)


@some_sizes
def test_with_p_all_zero_weighted_infonce_is_infonce(size):
    scores, _ = batch(size)
    is_infonce(weighted_infonce(scores, negatives=torch.zeros_like(scores)), scores)


@some_sizes
def test_cancelling_none_is_infonce(size):
    scores, needs = batch(size)
    is_infonce(cancel_top_k(scores, similarity=needs["similarity"], k=0), scores)


@some_sizes
@pytest.mark.parametrize("ratio", [math.inf, 1e6])
def test_a_threshold_that_nothing_reaches_is_infonce(size, ratio):
    scores, needs = batch(size)
    is_infonce(cancel_threshold(scores, similarity=needs["similarity"].abs() + 0.1, ratio=ratio), scores)


def test_an_infinite_ratio_is_infonce_for_any_similarity():
    scores, _ = batch(8)
    for similarity in (torch.zeros(8, 8), -torch.ones(8, 8)):
        is_infonce(cancel_threshold(scores, similarity=similarity, ratio=math.inf), scores)


@some_sizes
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.9])
def test_without_concentration_hard_negative_is_debiased_to_the_bit(size, tau_plus):
    scores, _ = batch(size)
    hard = hard_negative(scores, temperature=0.3, concentration=0.0, tau_plus=tau_plus)
    assert hard.item() == debiased(scores, temperature=0.3, tau_plus=tau_plus).item()


@some_sizes
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_without_bias_debiased_is_infonce_for_vectors_of_unit_length(size, temperature):
    generator = torch.Generator().manual_seed(size)
    queries, codes = F.normalize(torch.randn(2, size, 8, dtype=torch.float64, generator=generator), dim=2)
    scores = queries @ codes.T / temperature
    # softplus leaves out what is below e^-20
    torch.testing.assert_close(
        debiased(scores, temperature=temperature, tau_plus=0.0), infonce(scores), rtol=1e-9, atol=1e-9
    )


def test_without_bias_debiased_is_above_infonce_only_below_the_least_score_of_unit_vectors():
    scores = torch.full((4, 4), -5.0, dtype=torch.float64)  # cosines of -2.5 at temperature 0.5
    loss = debiased(scores, temperature=0.5, tau_plus=0.0)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-1 / 0.5) / math.exp(-5)))


@some_sizes
def test_hard_negatives_weigh_more_the_higher_the_concentration(size):
    scores, _ = batch(size)
    losses = torch.stack(
        [hard_negative(scores, temperature=0.05, concentration=b, tau_plus=0.0) for b in (0.0, 0.5, 1.0, 50.0)]
    )
    assert losses.diff().min() > (-1e-12 if size == 2 else 0)  # of one negative there is no harder
    # in the limit all negatives are like the hardest
    hardest = scores.clone().fill_diagonal_(-math.inf).amax(dim=1)
    limit = F.softplus(math.log(size - 1) + hardest - scores.diagonal()).mean().item()
    most = hard_negative(scores, temperature=0.05, concentration=1e4, tau_plus=0.0).item()
    assert most == pytest.approx(limit, rel=1e-3)


@some_sizes
def test_drawing_all_negatives_is_infonce(size):
    scores, _ = batch(size)
    is_infonce(subsampled_infonce(scores, k=size - 1), scores)


def test_negatives_are_drawn_anew_by_the_generator():
    scores, _ = batch(16)
    for generator in (torch.default_generator, torch.Generator()):
        given: dict[str, Any] = {} if generator is torch.default_generator else {"generator": generator}
        generator.manual_seed(1)
        first, second = (subsampled_infonce(scores, k=4, **given).item() for _ in range(2))
        generator.manual_seed(1)
        assert subsampled_infonce(scores, k=4, **given).item() == first != second


@some_sizes
def test_without_duplicates_positive_equal_is_infonce(size):
    scores, _ = batch(size)
    is_infonce(positive_equal(scores, positives=torch.eye(size, dtype=torch.bool)), scores)


def test_when_all_pairs_are_positives_there_is_nothing_to_learn():
    scores, _ = batch(8)
    scores.requires_grad_()
    loss = positive_equal(scores, positives=torch.ones(8, 8, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@given(size=st.integers(3, 64), seed=st.integers(0, 1000), alpha=st.floats(0, 1.5), share=st.sampled_from([0, 0.4]))
def test_without_the_floor_the_weights_of_a_row_sum_to_the_number_of_its_negatives(size, seed, alpha, share):
    negatives = batch(size, seed)[1]["negatives"]
    hidden = some_hidden(size, seed, share) if share else None
    beta = alpha + 0.01  # more than alpha p: the floor is not used
    weights = soft_weights(negatives, alpha=alpha, beta=beta, floor=1e-12, hidden=hidden)
    count = torch.full((size,), float(size), dtype=torch.float64)
    if hidden is not None:
        weights, count = weights.masked_fill(hidden, 0), count - hidden.sum(dim=1)
    torch.testing.assert_close(weights.sum(dim=1), count)
    assert (weights.diagonal() == 1).all()


def test_likelier_negatives_weigh_less():
    negatives = batch(16)[1]["negatives"]
    weights = soft_weights(negatives, alpha=1.0, beta=1.0)[0, 1:]
    assert weights[negatives[0, 1:].argsort()].diff().max() <= 0


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
    scores, needs = batch(size)
    with pytest.raises(ValueError, match=message):
        soft_infonce(scores, negatives=needs["negatives"], alpha=alpha, beta=beta)


def test_the_least_batch_of_the_published_settings_is_five():
    scores, needs = batch(5)
    assert soft_infonce(scores, negatives=needs["negatives"], alpha=1.5, beta=0.5).isfinite()


BAD: list[tuple[str, str, list[float], str]] = [
    ("soft_infonce", "alpha", [-0.1], "expected alpha >= 0"),
    ("soft_infonce", "alpha", [4, math.nan, math.inf], "expected beta > alpha"),
    ("soft_infonce", "beta", [0.2, -1, math.nan], "expected beta > alpha"),
    ("soft_infonce", "floor", [0, -0.1, math.nan], "expected floor > 0"),
    ("kl_regularised", "alpha", [-0.1, math.nan], "expected alpha >= 0"),
    ("kl_regularised", "beta", [0, -1, math.nan], "beta > 0"),
    ("cancel_top_k", "k", [-1, 7, 8, 99], "expected k from 0 to 6 for batches of 8"),
    ("cancel_threshold", "ratio", [0, -1, math.nan, -math.inf], "expected ratio > 0"),
    ("hard_negative", "tau_plus", [-0.1, 1, math.nan], "expected 0 <= tau_plus < 1"),
    ("hard_negative", "concentration", [-0.1, math.nan], "concentration >= 0"),
    ("hard_negative", "temperature", [0, -1, math.nan], "temperature > 0"),
    ("debiased", "tau_plus", [-0.1, 1, math.nan], "expected 0 <= tau_plus < 1"),
    ("debiased", "temperature", [0, -1, math.nan], "temperature > 0"),
    ("subsampled_infonce", "k", [0, -1, 8, 99], "expected k from 1 to 7 for batches of 8"),
]


@pytest.mark.parametrize(
    ("name", "key", "value", "message"), [(name, key, value, text) for name, key, bad, text in BAD for value in bad]
)
def test_a_setting_that_has_no_meaning_is_an_error_that_says_what_is_expected(name, key, value, message):
    scores, needs = batch(8)
    given = inputs(name, needs) | SETTINGS[name] | {key: value}
    with pytest.raises(ValueError, match=message):
        LOSSES[name].function(scores, **given)


def test_every_setting_has_a_bad_value_in_these_tests():
    tried = {(name, key) for name, key, _, _ in BAD}
    scalars = {(name, "temperature") for name, loss in LOSSES.items() if "temperature" in loss.needs}
    assert tried == {(name, key) for name, each in SETTINGS.items() for key in each} | scalars


@every_loss
def test_what_a_loss_needs_in_another_shape_than_the_scores_is_an_error(name):
    scores, needs = batch(8)
    for need in LOSSES[name].needs - {"temperature", "generator"}:
        wrong = inputs(name, needs) | {need: batch(7)[1][need]}
        with pytest.raises(ValueError, match=rf"expected {need} of shape \(8, 8\), got \(7, 7\)"):
            LOSSES[name].function(scores, **wrong, **SETTINGS[name])


@every_loss
def test_one_pair_has_no_negatives_and_is_an_error(name):
    needs = {need: each[:1, :1] if isinstance(each, Tensor) else each for need, each in batch(5)[1].items()}
    with pytest.raises(ValueError, match="expected at least 2 codes in a batch, got 1"):
        loss_of(name, torch.zeros(1, 1), needs)


@every_loss
@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (4,), (2, 2, 2), ()])
def test_scores_of_fewer_codes_than_queries_or_of_no_matrix_are_an_error(name, shape):
    needs = {
        "negatives": torch.zeros(shape),
        "similarity": torch.zeros(shape),
        "positives": torch.ones(shape, dtype=torch.bool),
        "temperature": 1.0,
        "generator": None,
    }
    with pytest.raises(ValueError, match=r"expected a \(B, N\) matrix"):
        loss_of(name, torch.zeros(shape), needs)


# --- what every loss keeps -------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("size", [5, 6, 32, 64])
def test_a_loss_is_a_finite_scalar_and_not_below_zero(name, size):
    for seed in range(5):
        loss = loss_of(name, *batch(size, seed))
        assert loss.shape == ()
        assert loss.isfinite()
        assert loss >= 0


@every_loss
def test_a_loss_does_not_rise_as_the_right_codes_gain(name):
    scores, needs = batch(16)
    scores.requires_grad_()
    loss_of(name, scores, needs).backward()
    assert scores.grad is not None
    if name not in SPREAD:
        assert (scores.grad.diagonal() <= 0).all()
    assert scores.grad.diagonal().sum() < 0


@every_loss
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)))
def test_the_order_of_the_pairs_does_not_matter_to_a_loss(name, order):
    scores, needs = batch(12)
    there = torch.tensor(order)
    turned = {need: each[there][:, there] if isinstance(each, Tensor) else each for need, each in needs.items()}
    changes: dict[str, Any] = {"k": 11} if name in DRAWN else {}
    torch.testing.assert_close(
        loss_of(name, scores[there][:, there], turned, **changes), loss_of(name, scores, needs, **changes)
    )


def parts(name: str, size: int, rows: list[int], hidden: Tensor | None) -> Tensor:
    """The loss of some queries of a batch, whose other codes nobody asks for; the chosen ones' codes stand first."""
    scores, needs = batch(size)
    columns = torch.tensor([*rows, *(row for row in range(size) if row not in rows)])
    own = torch.tensor(rows)
    taken = {need: each[own][:, columns] if isinstance(each, Tensor) else each for need, each in needs.items()}
    changes: dict[str, Any] = {"k": size - 1} if name in DRAWN else {}
    shown = None if hidden is None else hidden[own][:, columns]
    return loss_of(name, scores[own][:, columns], taken, hidden=shown, **changes)


@every_loss
@pytest.mark.parametrize("shape", ["plain", "hidden"])
def test_codes_that_nobody_asks_for_are_negatives_as_any_other(name, shape):
    # The loss of a batch is the mean of those of its queries, each against all codes.
    size = 9
    hidden = some_hidden(size) if shape == "hidden" else None
    if name == "bce" and hidden is not None:  # a mean over entries, of which not every query has as many
        hidden = torch.eye(size, dtype=torch.bool).roll(1, dims=1)
    whole = parts(name, size, list(range(size)), hidden)
    some = [(parts(name, size, rows, hidden), len(rows)) for rows in ([4], [0, 7, 2], [8, 1, 3, 5, 6])]
    torch.testing.assert_close(sum(loss * count for loss, count in some) / size, whole)


@every_loss
@pytest.mark.parametrize("shape", ["plain", "hidden"])
def test_the_gradient_of_a_loss_is_its_slope(name, shape):
    scores, needs = batch(6)
    needs["positives"] = torch.eye(6, dtype=torch.bool)  # with others their shares move too, without gradient
    hidden = some_hidden(6) if shape == "hidden" else None
    assert torch.autograd.gradcheck(lambda given: loss_of(name, given, needs, hidden=hidden), scores.requires_grad_())


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_of_a_loss_is_like_the_scores_and_none_flows_into_what_it_needs(name, dtype):
    scores, needs = batch(8)
    scores = scores.to(dtype).requires_grad_()
    estimated = [needs[need].requires_grad_() for need in ("negatives", "similarity")]
    loss_of(name, scores, needs).backward()
    assert scores.grad is not None
    assert (scores.grad.shape, scores.grad.dtype) == (scores.shape, dtype)
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0
    assert [each.grad for each in estimated] == [None, None]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", ["visible", "hidden"])
def test_a_loss_stays_finite_for_large_scores(name, dtype, shape):
    _, needs = batch(8)
    needs["negatives"][3] = torch.eye(8)[2]  # p may be zero in all places but one
    hidden = some_hidden(8) if shape == "hidden" else None
    own = torch.eye(8)
    mixed = 1e4 * (2 * torch.randint(0, 2, (3, 8, 8), generator=torch.Generator().manual_seed(0)) - 1)
    for large in (2e4 * own - 1e4, 1e4 - 2e4 * own, torch.full((8, 8), 1e4), torch.full((8, 8), -1e4), *mixed):
        scores = large.to(dtype).requires_grad_()
        loss = loss_of(name, scores, needs, hidden=hidden)
        loss.backward()
        assert loss.isfinite()
        assert loss >= 0
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


LARGE = {
    # the loss of one query when its own score is 1e4 and all others are -1e4, and the other way round
    "infonce": (0, 2e4),
    "soft_infonce": (0, 2e4),
    "cancel_top_k": (0, 2e4),
    "subsampled_infonce": (0, 2e4),
    "weighted_infonce": (2e4, 2e4),  # p sums to one, and each negative's logarithm is -2e4
    "bce": (2e4 / 8, 2e4 / 8),  # of eight entries
    "kl_regularised": (None, 1.3 * 2e4 + 0.7 * 0.1),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_loss_of_large_scores_is_their_difference(name):
    _, needs = batch(8)
    for sign, expected in zip((1, -1), LARGE[name], strict=True):
        scores = sign * (2e4 * torch.eye(8) - 1e4)
        if expected is not None:
            assert loss_of(name, scores, needs).item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@every_loss
def test_a_loss_of_bf16_scores_is_reckoned_in_float32(name):
    scores, needs = batch(64)
    rounded = scores.bfloat16()
    loss = loss_of(name, rounded, needs | {"negatives": needs["negatives"].float()})
    assert loss.dtype == torch.float32
    exact = loss_of(name, rounded.float().double(), needs)  # the scores are rounded, their sums are not
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


@every_loss
def test_a_loss_leaves_its_arguments_as_they_were(name):
    scores, needs = batch(8)
    hidden = some_hidden(8)
    given = [scores, hidden, *(each for each in needs.values() if isinstance(each, Tensor))]
    before = [each.clone() for each in given]
    loss_of(name, scores, needs)
    loss_of(name, scores, needs, hidden=hidden)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


# --- hidden negatives ------------------------------------------------------------------------------------


@every_loss
def test_nothing_hidden_is_no_hidden(name):
    scores, needs = batch(12)
    none = torch.zeros(12, 12, dtype=torch.bool)
    torch.testing.assert_close(
        loss_of(name, scores, needs, hidden=none), loss_of(name, scores, needs), rtol=1e-12, atol=1e-12
    )


@every_loss
@pytest.mark.parametrize("other", [1e4, -1e4, 7.0])
def test_a_hidden_negative_has_no_influence_and_no_gradient(name, other):
    scores, needs = batch(12)
    hidden = some_hidden(12)
    scores.requires_grad_()
    loss = loss_of(name, scores, needs, hidden=hidden)
    loss.backward()
    assert scores.grad is not None
    assert (scores.grad[hidden] == 0).all()
    changed = scores.detach().masked_fill(hidden, other)
    assert loss_of(name, changed, needs, hidden=hidden).item() == loss.item()
    for need, value in (("negatives", 0.9), ("similarity", other)):
        said = needs | {need: needs[need].masked_fill(hidden, value)}
        assert loss_of(name, scores, said, hidden=hidden).item() == loss.item()


@every_loss
@pytest.mark.parametrize("size", [5, 12])
def test_a_query_whose_negatives_are_all_hidden_adds_nothing(name, size):
    scores, needs = batch(size)
    hidden = torch.zeros(size, size, dtype=torch.bool)
    hidden[2] = True
    hidden[2, 2] = False
    scores.requires_grad_()
    loss = loss_of(name, scores, needs, hidden=hidden)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad[2] == 0).all()
    assert (scores.grad.diagonal()[[0, 1, 3, 4]] != 0).any()
    everything = ~torch.eye(size, dtype=torch.bool)
    assert loss_of(name, scores.detach(), needs, hidden=everything).item() == 0
