"""What a choice is made of and what it says: values without behaviour, and their form as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from softnce_ray.errors import UserError
from softnce_ray.results import TrialResult
from softnce_ray.statistics import Difference, Interval

Metric = Literal["mrr", "recall@1", "recall@5", "recall@10", "ndcg@10", "graded_ndcg"]
Rule = Literal["best", "one-standard-error"]
METRICS: tuple[Metric, ...] = get_args(Metric)
RULES: tuple[Rule, ...] = get_args(Rule)


class SelectionError(UserError, ValueError):
    """A choice that cannot be made; the message says what is possible."""


@dataclass(frozen=True)
class Cost:
    """What a model costs: parameters, bytes of its files as the store keeps them, and the median milliseconds to encode
    one query on this machine with one thread. None: not measured, as nothing asked for it."""

    bytes: int
    parameters: int | None = None
    milliseconds: float | None = None


@dataclass(frozen=True)
class Scales:
    """How costs are found: `size` gives the bytes of the model that a run keeps, None where it keeps none; `speed` the
    whole cost of one that is kept."""

    size: Callable[[TrialResult], int | None]
    speed: Callable[[TrialResult], Cost]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An arm with all its seeds.

    Attributes:
      trials: one for each seed, in the study's order.
      scores: for each language that it is tested on (S, Q) values of the metric, a row for each seed.
      mean: the metric's mean over languages, queries and seeds, with its interval.
      behind: how far it lies behind the arm with the best mean; None for that arm.
      cost: of the model that the arm keeps; None where nothing asked for it or none is kept.
    """

    arm: str
    trials: tuple[TrialResult, ...]
    scores: tuple[np.ndarray, ...]
    mean: Interval
    behind: Difference | None = None
    cost: Cost | None = None


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen for one language, or training set, of a study, and why.

    Attributes:
      chosen: the arm; `trial` is its seed with the best mean of the metric.
      runner_up, difference: the best of the other candidates, and the chosen arm's mean minus its; None without one.
      candidates: all that could be chosen, by their means, the best first.
      left_out: arm → why it could not be chosen.
      notes: what else the user should know.
      considered: hash of all trials that could have been chosen before limits, see `digest_of`; a record of a choice is
        out of date when the study has others.
    """

    study: str
    language: str
    metric: Metric
    rule: Rule
    limits: Mapping[str, float]
    chosen: Candidate
    trial: TrialResult
    runner_up: Candidate | None
    difference: Difference | None
    candidates: tuple[Candidate, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    considered: str = ""


@dataclass(frozen=True)
class Recorded:
    """A choice that a store remembers for one language, or training set.

    Attributes:
      trial: the chosen one; None where it no longer counts or has not finished.
      current: made of the very trials that could be chosen now.
    """

    arm: str
    metric: str
    rule: str
    limits: Mapping[str, float]
    trial: TrialResult | None
    current: bool


def digest_of(trials: Iterable[TrialResult]) -> str:
    """A hash of which trials these are, in whatever order."""
    return hashlib.sha256("\n".join(sorted(trial.run_id for trial in trials)).encode()).hexdigest()[:16]


def as_plain(choice: Choice) -> dict[str, object]:
    """A choice as JSON holds it; recorded in the store in this form."""
    return {
        "study": choice.study,
        "language": choice.language,
        "metric": choice.metric,
        "split": "valid",
        "rule": choice.rule,
        "limits": dict(choice.limits),
        "arm": choice.chosen.arm,
        "seed": choice.trial.seed,
        "run_id": choice.trial.run_id,
        "mean": _plain_interval(choice.chosen.mean),
        "runner_up": None if choice.runner_up is None else choice.runner_up.arm,
        "difference": None if choice.difference is None else _plain_interval(choice.difference),
        "candidates": [
            {
                "arm": each.arm,
                "mean": each.mean.mean,
                "behind": None if each.behind is None else each.behind.mean,
                "standard_error": None if each.behind is None else each.behind.standard_error,
                "parameters": None if each.cost is None else each.cost.parameters,
                "bytes": None if each.cost is None else each.cost.bytes,
                "milliseconds": None if each.cost is None else each.cost.milliseconds,
            }
            for each in choice.candidates
        ],
        "considered": choice.considered,
        "left_out": dict(choice.left_out),
        "notes": list(choice.notes),
    }


def _plain_interval(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "level": interval.level}
