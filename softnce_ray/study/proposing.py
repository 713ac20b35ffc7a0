"""What a planner needs of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Proposes(Protocol):
    """What a planner needs of a cell's search; `search.CellSearch` and `joint.Share` are real ones."""

    @property
    def finished(self) -> bool: ...

    @property
    def is_confirmed(self) -> bool:
        """Whether the cell's best trial is to be confirmed."""
        ...

    def answers(self) -> Sequence[Any]: ...

    def ask(self) -> Any: ...

    def report(self, number: int, epoch: int, value: float) -> bool: ...

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None: ...

    def best(self) -> dict[str, Any] | None: ...
