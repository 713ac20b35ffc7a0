"""Cells of a study, their trials, and where each stands."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from softnce_ray.config import StudyConfig, TrialConfig
from softnce_ray.results import TrialKey
from softnce_ray.study.proposing import Proposes


@dataclass(frozen=True)
class Cell:
    """What is tuned as one."""

    arm: str
    language: str

    def __str__(self) -> str:
        return f"{self.arm}/{self.language}"


@dataclass(frozen=True)
class Trial:
    """A training run to be done."""

    key: TrialKey
    config: TrialConfig


@dataclass
class CellState:
    """Where a cell stands."""

    cell: Cell
    search: Proposes | None
    numbers: dict[TrialKey, list[int]] = field(default_factory=dict)  # live search trials → proposals they answer
    confirm: deque[Trial] | None = None  # to be handed out; None: not decided yet
    asked: list[Trial] = field(default_factory=list)  # confirm trials that are part of the study so far
    later: deque[Trial] = field(default_factory=deque)  # confirm trials of the seeds that may be added
    live: set[TrialKey] = field(default_factory=set)
    done: int = 0  # trials that have ended, in this launch or before it, one way or another
    unrecorded: dict[TrialKey, int] = field(default_factory=dict)  # search trials that the store lost → proposals
    lost: deque[Trial] = field(default_factory=deque)  # of these, the ones to be handed out
    given_up: bool = False  # nothing of it can run in this launch
    halted: bool = False  # a search trial failed for a cause of the machine: the search goes on with the next launch

    searched: int = 0  # trials of a search that has ended

    @property
    def begun(self) -> int:
        """Number of search trials that have ended or run."""
        if self.confirm is not None:
            return self.searched
        return self.done + sum(map(len, self.numbers.values())) + len(self.live - self.numbers.keys())

    @property
    def is_over(self) -> bool:
        return not self.live and not self.lost and (self.halted or (self.confirm is not None and not self.confirm))


def cells(study: StudyConfig) -> list[Cell]:
    """All cells of a study, languages within arms."""
    return [Cell(arm, language) for arm in study.arms for language in study.language_names]


def search_groups(study: StudyConfig) -> list[list[Cell]]:
    """Return the cells that are searched together: each by itself, or those of a joint search."""
    if not study.is_joint:
        return [[cell] for cell in cells(study)]
    return [[cell for cell in cells(study) if cell.language in languages] for languages in study.joint_groups]
