"""Which arm is shipped, and which of its models: chosen by validation alone, with the runner-up and what lies between.

The test split takes no part: what is read of a store is `tracking.selecting.load_validation`.
"""

from softnce_ray.selection.choosing import best_trial, choose, language_of
from softnce_ray.selection.recording import best, query_milliseconds, recorded
from softnce_ray.selection.values import (
    METRICS,
    RULES,
    Candidate,
    Choice,
    Cost,
    Metric,
    Recorded,
    Rule,
    Scales,
    SelectionError,
    as_plain,
)

__all__ = [
    "METRICS",
    "RULES",
    "Candidate",
    "Choice",
    "Cost",
    "Metric",
    "Recorded",
    "Rule",
    "Scales",
    "SelectionError",
    "as_plain",
    "best",
    "best_trial",
    "choose",
    "language_of",
    "query_milliseconds",
    "recorded",
]
