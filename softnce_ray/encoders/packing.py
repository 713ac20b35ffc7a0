"""Rows in which texts follow one another, and the groups of texts that attention sees at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

_SPREAD = 1.2
"""A group's longest text over its shortest: with more there is more padding, with less there are more groups."""


@dataclass
class Row:
    """Texts that follow one another, the shortest first, as attention is told of them."""

    groups: list[Group]
    read: bool = False
    """Whether attention has seen them: else every token has seen those of all texts."""


@dataclass(frozen=True)
class Group:
    """n texts that stand next to each other in a row of tokens, for h heads of attention, padded to L places each.

    Each head's part of a token is a row of its own, in (tokens·h, size): the first token's heads, the second's, and so
    on. All indices count from the first token of the group.
    """

    shape: tuple[int, int, int]
    """(n, h, L)"""

    seen: Tensor | None
    """(n, L) bool: where the tokens are. None: everywhere."""

    source: Tensor
    """(n·h·L,) int64: the row that stands at each place; at those of padding, any."""

    place: Tensor
    """(tokens·h,) int64: the place of each row."""

    @cached_property
    def bias(self) -> Tensor | None:
        """(n·h, 1, L), to add to scores: minus infinity where there is no token. None: no padding."""
        if self.seen is None:
            return None
        texts, heads, longest = self.shape
        bias = torch.zeros(texts, 1, longest, device=self.seen.device).masked_fill_(~self.seen[:, None], -torch.inf)
        return bias.expand(texts, heads, longest).reshape(-1, 1, longest)


def groups(lengths: Sequence[int], heads: int, device: torch.device) -> list[Group]:
    """Those of a row: texts of these lengths in tokens, the shortest first and none of them empty."""
    cuts = [0, *similar(lengths), len(lengths)]
    return [group(lengths[first:last], heads, device) for first, last in pairwise(cuts)]


def group(lengths: Sequence[int], heads: int, device: torch.device) -> Group:
    longest, tokens = max(lengths), sum(lengths)
    sizes = torch.tensor(lengths, device=device)
    starts = sizes.cumsum(0) - sizes
    head, along = torch.arange(heads, device=device), torch.arange(longest, device=device)
    seen = along < sizes[:, None]
    token = torch.where(seen, starts[:, None] + along, 0)
    text = torch.repeat_interleave(sizes, output_size=tokens)
    within = torch.arange(tokens, device=device) - starts[text]
    return Group(
        shape=(len(lengths), heads, longest),
        seen=None if min(lengths) == longest else seen,
        source=(token[:, None] * heads + head[:, None]).flatten(),
        place=((text[:, None] * heads + head) * longest + within[:, None]).flatten(),
    )


def similar(lengths: Sequence[int], spread: float = _SPREAD) -> list[int]:
    """Where to cut texts, ordered by length, so that the longest of a part is at most `spread` times its shortest."""
    cuts, first = [], 0
    for number, length in enumerate(lengths):
        if length > spread * max(lengths[first], 8):
            cuts.append(number)
            first = number
    return cuts
