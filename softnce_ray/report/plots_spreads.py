"""Pictures of how scores and the estimator's p are distributed, arms laid over one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from softnce_ray.distributions import Histogram
from softnce_ray.report import svg
from softnce_ray.report.plots_arms import WIDTH

Drawn = tuple[str, Histogram, str]
"""An arm, what was counted of it, and what a pointer shows over its line."""


def overlaid(
    drawn: Sequence[Drawn],
    name: str,
    label: str,
    classes: Mapping[str, str],
    *,
    ticks: Sequence[float] | None = None,
    labels: Callable[[float], str] = svg.number,
) -> str:
    """The share of values in each bin, a line of steps for each arm; bins that are empty in all arms at either end are
    left out. `name` is that of the axis, `label` what the picture shows."""
    edges = drawn[0][1].edges
    filled = [at for _, histogram, _ in drawn for at, count in enumerate(histogram.counts) if count]
    first, last = min(filled, default=0), max(filled, default=len(edges) - 2)
    right, top, bottom = WIDTH - 22, 8.0, 8 + WIDTH * 0.36
    shares = [[100 * count / max(1, histogram.total) for count in histogram.counts] for _, histogram, _ in drawn]
    y = svg.Scale(0.0, max(map(max, shares)) * 1.05 or 1.0, bottom, top)
    left = svg.left_of(y)
    x = svg.Scale(edges[first], edges[last + 1], left, right)
    at = None if ticks is None else [tick for tick in ticks if x.low <= tick <= x.high]
    parts = [
        svg.x_axis(x, top, bottom, name, ticks=at, labels=labels),
        svg.y_axis(y, left, right, "share of the pairs [%]"),
    ]
    lines = sorted(zip(drawn, shares, strict=True), key=lambda each: classes[each[0][0]] != "rest")
    for (arm, _, told), share in lines:
        points = [(x(edges[first]), y(0))]
        for place in range(first, last + 1):
            points += [(x(edges[place]), y(share[place])), (x(edges[place + 1]), y(share[place]))]
        points.append((x(edges[last + 1]), y(0)))
        parts.append(svg.tag("g", svg.polyline(points, "line", svg.title(told)), class_=classes[arm]))
    return svg.drawing(WIDTH, bottom + 36, f"{label}, of {', '.join(arm for arm, _, _ in drawn)}", "".join(parts))
