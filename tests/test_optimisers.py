"""RowAdam against SparseAdam, the learning rate and clipping by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from softnce_ray.config import ArmConfig, BagEncoder, TrainingSettings, TransformerEncoder
from softnce_ray.encoders import build_encoder
from softnce_ray.optimisers import RowAdam, build_optimisers, clip_gradients, learning_rate


def sparse(rows: list[int], shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    values = torch.randn(len(rows), shape[1], dtype=torch.float64, generator=generator)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, is_coalesced=True, check_invariants=False)


# --- RowAdam ---------------------------------------------------------------------------------------------


def test_row_adam_is_sparse_adam_step_by_step():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}
    optimisers = [RowAdam([ours], **settings), torch.optim.SparseAdam([theirs], **settings)]  # type: ignore[arg-type]
    for step in range(25):
        rows = sorted(torch.randperm(20, generator=generator)[: 1 + step % 7].tolist())
        gradient = sparse(rows, (20, 3), generator)
        before = ours.detach().clone()
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = gradient.clone()
            for group in optimiser.param_groups:
                group["lr"] = 0.05 / (1 + step)
            optimiser.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        moved = (ours != before).any(dim=1).nonzero()[:, 0].tolist()
        assert moved == rows


def test_the_first_step_of_row_adam_by_hand():
    parameter = nn.Parameter(torch.zeros(3, 2))
    gradient = torch.tensor([[4.0, -0.5]])
    parameter.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), gradient, (3, 2), check_invariants=True).coalesce()
    RowAdam([parameter], lr=0.1).step()
    # mean / bias = g, square / bias = g², so each number moves by the rate against its sign
    torch.testing.assert_close(parameter.detach(), torch.tensor([[0, 0], [-0.1, 0.1], [0, 0]]))


def test_parameters_without_gradient_stay():
    touched, idle = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimiser = RowAdam([touched, idle], lr=0.1)
    touched.grad = sparse([0], (3, 2), torch.Generator()).float()
    optimiser.step()
    assert (idle == 1).all()
    assert not (touched == 1).all()


# --- which optimiser -------------------------------------------------------------------------------------


def test_tables_get_row_adam_and_dense_weights_adamw_with_decay_on_matrices_alone():
    settings = TrainingSettings(learning_rate=0.02, weight_decay=0.3)
    (of_bag,) = build_optimisers(build_encoder(ArmConfig(encoder=BagEncoder(width=4)), 30), settings)
    assert isinstance(of_bag, RowAdam)
    assert sum(len(group["params"]) for group in of_bag.param_groups) == 2

    encoder = build_encoder(ArmConfig(encoder=TransformerEncoder(width=16, layers=1)), 30)
    (of_transformer,) = build_optimisers(encoder, settings)
    assert isinstance(of_transformer, torch.optim.AdamW)
    decayed, plain = of_transformer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    held = {id(p) for group in of_transformer.param_groups for p in group["params"]}
    assert held == {id(p) for p in encoder.parameters()}


# --- learning rate ---------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand():
    settings = TrainingSettings(learning_rate=0.6, warmup=0.3)
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    rise = [0.6 * 1 / 3, 0.6 * 2 / 3, 0.6]
    fall = [0.6 * left / 8 for left in (7, 6, 5, 4, 3, 2, 1)]  # 0 would be reached one step after the last
    assert rates == pytest.approx(rise + fall)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_the_learning_rate_rises_to_the_full_rate_and_falls_and_is_never_zero(total, warmup):
    settings = TrainingSettings(learning_rate=0.01, warmup=warmup)
    rates = [learning_rate(step, total, settings) for step in range(total)]
    top = max(1, round(warmup * total)) - 1
    assert rates[top] == max(rates) == 0.01
    assert all(early < late for early, late in pairwise(rates[: top + 1]))
    assert all(early > late for early, late in pairwise(rates[top:]))
    assert min(rates) > 0


# --- clipping --------------------------------------------------------------------------------------------


def dense(*shapes: tuple[int, ...], scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_dense_gradients_is_torchs(scale):
    ours, theirs = (dense((3, 4), (5,), (2, 2), scale=scale) for _ in range(2))
    idle = nn.Parameter(torch.zeros(2))
    norm = clip_gradients([*ours, idle], 1.0)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, 1.0))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert idle.grad is None


def test_clipping_sparse_and_dense_gradients_together_by_hand():
    table, weights = nn.Parameter(torch.zeros(5, 2)), nn.Parameter(torch.zeros(2))
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 4]]), torch.tensor([[1.0, 2.0], [2.0, 4.0]]), (5, 2), check_invariants=True
    ).coalesce()
    weights.grad = torch.tensor([12.0, 0.0])
    # 1 + 4 + 4 + 16 + 144 = 169 = 13²
    assert clip_gradients([table, weights], 6.5).item() == pytest.approx(13)
    torch.testing.assert_close(table.grad.to_dense()[[1, 4]], torch.tensor([[0.5, 1.0], [1.0, 2.0]]))
    torch.testing.assert_close(weights.grad, torch.tensor([6.0, 0.0]))
    assert clip_gradients([table, weights], 6.5).item() == pytest.approx(6.5)


def test_gradients_below_the_limit_are_left_as_they_are():
    (parameter,) = dense((4,), scale=1e-3)
    assert parameter.grad is not None
    before = parameter.grad.clone()
    clip_gradients([parameter], 1.0)
    assert torch.equal(parameter.grad, before)


def test_a_norm_that_is_no_number_spoils_no_less_than_the_gradients():
    (parameter,) = dense((4,), scale=1.0)
    assert parameter.grad is not None
    parameter.grad[0] = math.nan
    assert clip_gradients([parameter], 1.0).isnan()


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        ([1, 1, 3], [[1.0], [2.0], [5.0]]),
        ([1, 3, 1], [[1.0], [5.0], [2.0]]),
        ([3, 1, 1], [[5.0], [2.0], [1.0]]),
        ([3, 1], [[5.0], [3.0]]),
    ],
)
def test_a_row_that_stands_twice_in_a_gradient_moves_by_the_sum(rows, values):
    moved = []
    for each, numbers in ((rows, values), ([1, 3], [[3.0], [5.0]])):
        table = torch.nn.Parameter(torch.zeros(4, 1))
        optimiser = RowAdam([table], lr=0.1)
        table.grad = torch.sparse_coo_tensor(torch.tensor([each]), numbers, (4, 1), check_invariants=True)
        norm = clip_gradients([table], 100.0)
        optimiser.step()
        moved.append((float(norm), table.detach().clone()))
    assert moved[0][0] == pytest.approx(34**0.5) == moved[1][0]
    assert torch.equal(moved[0][1], moved[1][1]) and moved[0][1].any()


def test_a_gradient_whose_rows_stand_once_is_not_copied():
    table = torch.nn.Parameter(torch.zeros(4, 1))
    values = torch.tensor([[3.0], [5.0]])
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3]]), values, (4, 1), check_invariants=True)
    assert not table.grad.is_coalesced()
    where = table.grad._values().data_ptr()
    clip_gradients([table], 100.0)
    assert table.grad.is_coalesced()
    assert table.grad._values().data_ptr() == where
