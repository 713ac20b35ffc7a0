"""What a page shows beside the table: curves, searches, queries that changed, and costs, as frozen values.

Everything here may be missing: what a store does not have, or what is not on this machine, is named in `lacking`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from softnce_ray.distributions import Distributions

DIAGNOSTICS = (
    "weight_entropy",
    "kl_negatives",
    "floor_share",
    "information",
    "alignment",
    "uniformity_queries",
    "uniformity_codes",
)
"""Metrics of every epoch that show how a loss works; see :mod:`softnce_ray.diagnostics`."""


@dataclass(frozen=True)
class Curve:
    """A metric over the epochs of a row's confirm trials, those that still run among them.

    Attributes:
        name: of the row: the arm, with its training set where that is not the language.
        language: whose queries; of a metric that is not of queries, what the trials were trained on.
        epochs: ascending; `mean`, `low` and `high` (least and greatest of the seeds) and `seeds` (how many) at each.
    """

    metric: str
    arm: str
    name: str
    language: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """How scores and the estimator's p are distributed in an arm's confirm trials: the counts of `seeds` trials, added.

    Attributes:
        language: what the trials were trained on, as the study has it.
    """

    arm: str
    language: str
    seeds: int
    found: Distributions


@dataclass(frozen=True)
class Searched:
    """A trial of a search: `state` is finished, stopped early, failed, stopped or running; `value` its best validation
    MRR, None before the first epoch."""

    run_id: str
    state: str
    value: float | None
    settings: Mapping[str, str]


@dataclass(frozen=True)
class CellSearch:
    """The search of an arm in a language.

    Attributes:
        searched: full keys of the settings, the most important first where that is known.
        logarithmic: those that were searched on a logarithmic scale.
        trials: in the order in which they started.
        importances: setting -> share; empty where unknown.
        chosen: setting -> value of the confirm trials; empty before there are any.
    """

    arm: str
    language: str
    searched: tuple[str, ...]
    logarithmic: frozenset[str]
    trials: tuple[Searched, ...]
    importances: Mapping[str, float]
    chosen: Mapping[str, str]


@dataclass(frozen=True)
class Text:
    """A query with its own code."""

    query: str
    code: str
    where: str


@dataclass(frozen=True)
class Change:
    """A query that changed much: the seed-averaged values of both sides; `text` None where no corpus is at hand."""

    id: str
    ours: float
    theirs: float
    text: Text | None

    @property
    def difference(self) -> float:
        return self.ours - self.theirs


@dataclass(frozen=True)
class Duel:
    """Two rows of a language, query by query.

    Attributes:
        name, against: the rows' names.
        wins, losses, ties: queries whose seed-averaged value is higher, lower, equal under `name`.
        differences: (Q,) of the queries, descending.
        gained, lost: queries that changed most, the most first.
    """

    language: str
    name: str
    against: str
    wins: int
    losses: int
    ties: int
    differences: tuple[float, ...]
    gained: tuple[Change, ...]
    lost: tuple[Change, ...]


@dataclass(frozen=True)
class Cost:
    """What an arm's confirm trials in a language cost.

    Attributes:
        name, language: of the row; language as the study has it.
        trials: finished ones.
        seconds: training of the last epoch, mean over the trials; `least` and `most` among them.
        pairs: pairs a second, mean.
        epochs: of a trial.
        search_trials, search_seconds: trials of its search, and about how long they trained together.
    """

    arm: str
    language: str
    trials: int
    seconds: float
    least: float
    most: float
    pairs: float | None
    epochs: float
    search_trials: int
    search_seconds: float


@dataclass(frozen=True)
class Evidence:
    """All of it; `lacking` says part -> why it is not there, in a whole sentence."""

    curves: tuple[Curve, ...] = ()
    spreads: tuple[Spread, ...] = ()
    searches: tuple[CellSearch, ...] = ()
    duels: tuple[Duel, ...] = ()
    costs: tuple[Cost, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
