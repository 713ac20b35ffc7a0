"""Pictures of arms: differences with their intervals, learning curves, queries won and lost, what training cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from softnce_ray.report import svg
from softnce_ray.report.evidence import Cost, Curve, Duel
from softnce_ray.report.values import Report, Row
from softnce_ray.report.wording import MEASURES, bounds, language_text, p_heading, p_text, percent, signed

WIDTH = 600.0
_ROW = 22.0
_LETTER = 7.5


def forest(report: Report, rows: Sequence[Row], classes: Mapping[str, str]) -> str:
    """Differences of a language's rows from the baseline with their intervals; filled where the corrected p is below
    1 - level."""
    shown = [row for row in rows if row.together]
    if not shown:
        return ""
    left = 14 + _LETTER * min(28, max(len(row.name) for row in shown))
    right, top = WIDTH - 186, 8.0
    bottom = top + _ROW * len(shown)
    bars = [each for row in shown if (each := row.together)]
    ends = [end for each in bars for end in (each.low, each.mean, each.high, 0.0) if math.isfinite(end)]
    x = svg.scale(ends, left, right)
    measure = MEASURES[report.measure][0]
    parts = [
        svg.x_axis(x, top, bottom, f"difference of {report.split} {measure} from {report.baseline}", labels=_signed),
        svg.line(x(0), top, x(0), bottom, "zero"),
    ]
    for number, row in enumerate(shown):
        assert row.together is not None
        y = top + _ROW * (number + 0.5)
        found = row.together
        significant = row.p_holm is not None and row.p_holm < 1 - report.level
        told = f"{signed(found.mean)} {bounds(found, signed)}"
        p = "" if row.p_holm is None else f", {p_heading(report)} {p_text(row.p_holm)}"
        parts.append(svg.text(left - 8, y + 4, svg.short(row.name), anchor="end"))
        parts.append(
            svg.tag(
                "g",
                svg.title(f"{row.name}: {told}{p} (n = {found.queries:,} queries, {found.seeds} seeds)")
                + (svg.line(x(found.low), y, x(found.high), y, "whisker") if math.isfinite(found.low) else "")
                + svg.tag("circle", cx=x(found.mean), cy=y, r=4.5, class_="mark" if significant else "mark open"),
                class_=classes[row.arm],
            )
        )
        parts.append(svg.text(right + 8, y + 4, told, class_="tick"))
    label = f"Differences from {report.baseline}, {language_text(report, shown[0])}, {percent(report.level)} intervals"
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def learning(curves: Sequence[Curve], metric: str, classes: Mapping[str, str]) -> str:
    """Curves of one language with a band from the least to the greatest seed; arms told apart by colour and dash."""
    right, top, bottom = WIDTH - 10, 8.0, 8 + WIDTH * 0.36
    y = svg.scale([value for curve in curves for value in (*curve.low, *curve.high)], bottom, top)
    left = svg.left_of(y)
    x = svg.scale([epoch for curve in curves for epoch in curve.epochs], left, right, margin=0.03)
    epochs = sorted({epoch for curve in curves for epoch in curve.epochs})
    parts = [svg.x_axis(x, top, bottom, "epoch", ticks=epochs), svg.y_axis(y, left, right, metric)]
    for curve in curves:
        if max(curve.seeds) > 1 and len(curve.epochs) > 1:
            band = [(x(e), y(v)) for e, v in zip(curve.epochs, curve.high, strict=True)]
            band += [(x(e), y(v)) for e, v in zip(curve.epochs[::-1], curve.low[::-1], strict=True)]
            parts.append(svg.tag("g", svg.polygon(band, "band"), class_=classes[curve.arm]))
    for curve in sorted(curves, key=lambda curve: classes[curve.arm] != "rest"):  # grey ones lie below
        points = [(x(e), y(v)) for e, v in zip(curve.epochs, curve.mean, strict=True)]
        seeds = _seeds(curve)
        told = svg.title(f"{curve.name}: {curve.mean[-1]:.4f} after epoch {curve.epochs[-1]}, {seeds}")
        style = "line set" if curve.name != curve.arm else "line"
        drawn = svg.polyline(points, style, told)
        drawn += "".join(svg.tag("circle", cx=px, cy=py, r=2.2, class_="mark") for px, py in points)
        parts.append(svg.tag("g", drawn, class_=classes[curve.arm]))
    label = f"{metric} by epoch, {curves[0].language}, of {', '.join(curve.name for curve in curves)}"
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def _seeds(curve: Curve) -> str:
    least, most = min(curve.seeds), max(curve.seeds)
    return f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"


def changes(duel: Duel, measure: str, classes: str) -> str:
    """Every query's difference, from the greatest gain to the greatest loss: n queries wide."""
    left, right, top, bottom = 62.0, WIDTH - 20, 8.0, 190.0
    count = len(duel.differences)
    x, y = svg.Scale(0, count, left, right), svg.Scale(-1, 1, bottom, top)
    kept = _steps(duel.differences)
    outline = [(x(0), y(0))]
    for start, end in zip(kept, [*kept[1:], count], strict=True):
        height = y(duel.differences[start])
        outline += [(x(start), height), (x(end), height)]
    outline.append((x(count), y(0)))
    parts = [
        svg.x_axis(x, top, bottom, f"queries of {duel.language}, by what they gained (n = {count:,})"),
        svg.y_axis(y, left, right, f"difference of {measure}", labels=_signed),
        svg.tag("g", svg.polygon(outline, "area"), class_=classes),
        svg.line(left, y(0), right, y(0), "zero"),
    ]
    label = (
        f"{duel.name} against {duel.against} on {duel.language}: {duel.wins} won, {duel.losses} lost, {duel.ties} equal"
    )
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def _steps(values: Sequence[float]) -> list[int]:
    """Where a falling staircase takes a step that can be seen."""
    kept = [0]
    for at in range(1, len(values)):
        if (
            values[kept[-1]] - values[at] > 0.004
            or (values[at] < 0) != (values[kept[-1]] < 0)
            or ((values[at] == 0) != (values[kept[-1]] == 0))
        ):
            kept.append(at)
    return kept


def costs(found: Sequence[Cost], classes: Mapping[str, str]) -> str:
    """Seconds of an epoch of each arm in a language: mean, and least to most of the trials."""
    left = 14 + _LETTER * min(28, max(len(cost.arm) for cost in found))
    right, top = WIDTH - 186, 8.0
    bottom = top + _ROW * len(found)
    x = svg.Scale(0.0, max(cost.most for cost in found) or 1.0, left, right)
    parts = [svg.x_axis(x, top, bottom, "training time of an epoch [s]")]
    for number, cost in enumerate(found):
        y = top + _ROW * (number + 0.5)
        pairs = "" if cost.pairs is None else f", {cost.pairs:,.0f} pairs/s"
        told = f"{cost.seconds:.3g} s{pairs} (n = {cost.trials})"
        parts.append(svg.text(left - 8, y + 4, svg.short(cost.arm), anchor="end"))
        parts.append(
            svg.tag(
                "g",
                svg.title(f"{cost.arm}: {told}")
                + svg.tag("rect", x=left, y=y - 6, width=max(x(cost.seconds) - left, 0.5), height=12.0, class_="bar")
                + svg.line(x(cost.least), y, x(cost.most), y, "whisker"),
                class_=classes[cost.arm],
            )
        )
        parts.append(svg.text(right + 8, y + 4, told, class_="tick"))
    label = f"Training time of an epoch, {found[0].language}"
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def _signed(value: float) -> str:
    text = svg.number(value)
    return text if text.startswith("−") or text == "0" else f"+{text}"
