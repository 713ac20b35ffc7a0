"""Training that gives the same bits again, also on GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from softnce_ray.errors import ResourcesError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REFUSED = ("does not have a deterministic implementation", "operation is not deterministic")

# What this package does on a GPU, beside the documentation of torch.use_deterministic_algorithms in torch 2.13 (nothing
# of it could be run on one):
# - in its list of operations that become deterministic: index_add (nodes of graphs), index_select with a gradient,
#   index_copy (rows of a bag's tables), gather, scatter, index_put (the gradient of indexing);
# - not in its lists: embedding_bag of mean and sum (only max raises), bincount without weights and cumsum of whole
#   numbers (only weights and floating point raise), segment_reduce, sort and argsort (stable where they order sums),
#   coalescing, which sorts too, pdist, and fused AdamW, which changes each number alone;
# - NLLLoss, which is in its list of what raises: of (N, C) scores, as cross_entropy has them here, it does not, only
#   that of images (nll_loss2d);
# - scaled_dot_product_attention: flash and memory-efficient kernels take their deterministic way back unless
#   `warn_only`; cuDNN's asks for cudnn.deterministic;
# - products: cuBLAS must have a workspace of its own size, which it reads when it is first used.
# Across GPUs, NCCL sums in the order of its rings, which torch promises nothing of.


@contextmanager
def deterministic_algorithms(on: bool) -> Iterator[None]:
    """Have torch use deterministic algorithms alone, where `on`; afterwards all is as it was.

    On processors training gives the same bits without it, and costs more time with it. On a GPU it must be entered
    before the process multiplies its first matrix there.

    Raises:
      ResourcesError: an operation within has no deterministic algorithm.
    """
    if not on:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, deterministic, workspace = cudnn.benchmark, cudnn.deterministic, os.environ.get(_WORKSPACE)
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if not any(each in str(error) for each in _REFUSED):
            raise
        reason = str(error).partition(", but")[0]
        raise ResourcesError(
            "resources.deterministic: expected operations that have a deterministic algorithm, got one without "
            f"({reason}): set it to false, or device to cpu"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
