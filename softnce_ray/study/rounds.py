"""Rounds of searches: each cell has one more search trial, or none has, as far as a budget goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

CellT = TypeVar("CellT")


@dataclass(frozen=True)
class Standing(Generic[CellT]):
    """Where the trials of a cell stand.

    Attributes:
      searches: search trials that it may have in all.
      begun: search trials that have ended or run.
      lost: of a search that is over, those to be handed out once more; None while it is not over.
      confirm: confirm trials to be handed out.
      later: further ones, of seeds that may be added.
    """

    cell: CellT
    searches: int
    begun: int
    lost: int | None
    confirm: int
    later: int


class Rounds(Generic[CellT]):
    """Opens one round after another while a budget `allows` the search and confirm trials of all cells, beside a number
    that have ended or run. The first is always open, since nothing can be confirmed without."""

    def __init__(
        self, allows: Callable[[list[tuple[CellT, int, int]], int], bool] | None = None, *, ended: bool = False
    ) -> None:
        self._allows, self.closed = allows, ended  # closed: there is no room for another round
        self._open = 1 if allows else sys.maxsize

    def allow(self, begun: int, standings: Callable[[], Sequence[Standing[CellT]]], counted: int) -> bool:
        """Return True if a cell with so many search trials may have another."""
        while begun >= self._open and not self.closed:
            more = self._left(standings(), self._open + 1, later=True)
            self.closed = self._allows is not None and not self._allows(more, counted)
            self._open += not self.closed
        return begun < self._open

    def over(self, begun: int) -> bool:
        """Return True if a cell with so many search trials never has another."""
        return self.closed and begun >= self._open

    def at_most(self, searches: int, begun: int) -> int:
        """Return how many search trials a cell has in the end, as far as that is known."""
        return min(searches, max(self._open, begun)) if self.closed else searches

    def left(self, standings: Sequence[Standing[CellT]]) -> list[tuple[CellT, int, int]]:
        """Return the search and confirm trials of each cell that are still to be handed out."""
        return self._left(standings, self._open if self.closed else sys.maxsize)

    def _left(
        self, standings: Sequence[Standing[CellT]], rounds: int, *, later: bool = False
    ) -> list[tuple[CellT, int, int]]:
        return [
            (
                each.cell,
                max(0, min(rounds, each.searches) - each.begun) if each.lost is None else each.lost,
                each.confirm + each.later * later,
            )
            for each in standings
        ]
