"""Metrics as MLflow has them: `test_recall@1/c++` is `test_recall_at_1/c.2B.2B` there, and when a value is new."""

from __future__ import annotations

import math

from softnce_ray.plain_names import plain, spelt


def stored(name: str) -> str:
    """A metric's name in MLflow."""
    return "/".join(map(plain, name.replace("@", "_at_").split("/")))


def original(name: str) -> str:
    """The name that `stored` wrote. A language may be called `look_at_me`: only what stands before it is a metric."""
    metric, slash, language = name.partition("/")
    return metric.replace("_at_", "@") + slash + spelt(language)


def is_same(before: float, now: float) -> bool:
    """Return True where two values of a summary are one: it may be made anew, and come out with another last digit."""
    return math.isclose(before, now, rel_tol=1e-9) or (math.isnan(before) and math.isnan(now))
