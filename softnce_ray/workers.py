"""Processes that train one model together: each encodes its share of a batch, and all see the scores of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Workers:
    """This process among `count`, of which the first, `rank` 0, evaluates and reports.

    With more than one, torch's default process group must stand, and all must make the same calls in the same order.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Which of `total` texts are this process'; shares differ by one at most."""
        bounds = self._bounds(total)
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    def together(self, encoder: nn.Module) -> nn.Module:
        """The encoder to train: one whose gradients are means over all processes. All begin with the first's weights.

        A loss of the whole batch has, in each process, a gradient through the process' own texts alone: `scaled` makes
        the mean of those their sum, which is the gradient of one process with the whole batch.
        """
        if self.count == 1:
            return encoder
        return nn.parallel.DistributedDataParallel(encoder, forward_sync_buffers=False)

    def unsynced(self, encoder: nn.Module) -> AbstractContextManager[None]:
        """A context in which gradients of what `together` gave are added up here, and wait for the next backward pass
        outside it."""
        return encoder.no_sync() if isinstance(encoder, nn.parallel.DistributedDataParallel) else nullcontext()

    def scaled(self, loss: Tensor) -> Tensor:
        """See `together`."""
        return loss if self.count == 1 else loss * self.count

    def gather(self, vectors: Tensor, total: int) -> Tensor:
        """The vectors of all processes' shares, (total, D), of which those of this process, `vectors`, have their
        gradient."""
        if self.count == 1:
            return vectors
        bounds = self._bounds(total)
        longest = int(np.diff(bounds).max())
        padded = vectors.new_zeros(longest, vectors.shape[1])
        padded[: len(vectors)] = vectors.detach()
        everyone = vectors.new_empty(self.count * longest, vectors.shape[1])
        dist.all_gather_single(everyone, padded)
        parts = [everyone[rank * longest :][: bounds[rank + 1] - bounds[rank]] for rank in range(self.count)]
        parts[self.rank] = vectors
        return torch.cat(parts)

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first's values, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def _bounds(self, total: int) -> np.ndarray:
        return np.arange(self.count + 1) * total // self.count


ALONE = Workers()
