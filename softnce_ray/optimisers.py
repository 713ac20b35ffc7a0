"""Optimisers of an encoder: Adam on the touched rows of embedding tables, AdamW on everything else."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from softnce_ray.config import TrainingSettings
from softnce_ray.encoders import Bag


class RowAdam(torch.optim.Optimizer):
    """Adam for parameters with sparse gradients: only rows that a batch touched are moved.

    The same updates as `torch.optim.SparseAdam` (lazy Adam), without building sparse tensors for them.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
                step = int(state["step"])  # a tensor, and so of another precision, after a checkpoint
                state["step"] = step + 1
                coalesced = _coalesced(parameter)
                rows, gradient = coalesced._indices()[0], coalesced._values()
                tables = (parameter, state["mean"], state["square"])
                values, mean, square = parts = [table.index_select(0, rows) for table in tables]
                adam(
                    [values],
                    [gradient],
                    [mean],
                    [square],
                    [],
                    [torch.tensor(float(step), device=rows.device)],
                    fused=True,
                    amsgrad=False,
                    beta1=beta1,
                    beta2=beta2,
                    lr=group["lr"],
                    weight_decay=0.0,
                    eps=group["eps"] / (1 - beta2 ** (step + 1)) ** 0.5,  # SparseAdam adds it before the correction
                    maximize=False,
                )
                for table, part in zip(tables, parts, strict=True):
                    table.index_copy_(0, rows, part)


def build_optimisers(encoder: nn.Module, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """RowAdam for the tables of a bag, AdamW for dense weights (none on biases and norms)."""
    tables = [p for module in encoder.modules() if isinstance(module, Bag) for p in module.parameters(recurse=False)]
    known = set(map(id, tables))
    dense = [p for p in encoder.parameters() if p.requires_grad and id(p) not in known]
    optimisers: list[torch.optim.Optimizer] = []
    if tables:
        optimisers.append(RowAdam(tables, settings.learning_rate))
    if dense:
        groups = [
            {"params": [p for p in dense if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in dense if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimisers.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, fused=True))
    return optimisers


def learning_rate(step: int, total: int, settings: TrainingSettings) -> float:
    """Rate of step `step` (from 0) of `total`: a linear rise over the warm-up, then a linear fall to zero."""
    rise = max(1, round(settings.warmup * total))
    if step < rise:
        return settings.learning_rate * (step + 1) / rise
    return settings.learning_rate * (total - step) / max(1, total - rise + 1)


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale all gradients, sparse and dense, so that their joint norm is at most `limit`; returns the norm.

    They are scaled where they lie: no two parameters may share the memory of a gradient.
    """
    given = [_coalesced(p) if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    gradients = [each._values() if each.is_sparse else each for each in given]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _coalesced(parameter: Tensor) -> Tensor:
    """A parameter's sparse gradient, from now on with each row once: on GPUs a sum of two has rows twice."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_coalesced():
        rows = gradient._indices()[0]
        if (rows[1:] > rows[:-1]).all():  # it is, but autograd has not kept that: sorting and copying takes longer
            gradient._coalesced_(True)
        else:
            parameter.grad = gradient = gradient.coalesce()
    return gradient
