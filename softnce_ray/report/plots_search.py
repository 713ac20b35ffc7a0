"""Pictures of a search: two settings with the value as colour, what mattered, and all settings side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from softnce_ray.report import svg
from softnce_ray.report.evidence import CellSearch, Searched

WIDTH = 600.0
_MOST_LEVELS = 12
_LETTER = 7.5


@dataclass(frozen=True)
class _Setting:
    """A searched setting as an axis: numbers, or names in the order of `levels`."""

    key: str
    label: str
    levels: tuple[str, ...]
    numeric: bool
    logarithmic: bool

    def value(self, trial: Searched) -> float:
        shown = trial.settings[self.key]
        return float(shown) if self.numeric else float(self.levels.index(shown))

    def scale(self, start: float, end: float) -> svg.Scale:
        if self.numeric:
            values = [float(level) for level in self.levels]
            return svg.scale(values, start, end, logarithmic=self.logarithmic and min(values) > 0)
        return svg.scale([0.0, max(len(self.levels) - 1.0, 0.0)], start, end, margin=0.15)

    def tick(self, value: float) -> str:
        if self.numeric:
            return svg.number(value)
        at = round(value)
        return svg.short(self.levels[at], 14) if abs(value - at) < 1e-9 and 0 <= at < len(self.levels) else ""

    def ticks(self, scale: svg.Scale) -> list[float]:
        return scale.ticks(8) if self.numeric else [float(number) for number in range(len(self.levels))]

    @property
    def is_grid(self) -> bool:
        return len(self.levels) <= _MOST_LEVELS


def settings_of(search: CellSearch) -> list[_Setting]:
    """The searched settings that took more than one value, the most important first."""
    found = []
    for key in search.searched:
        levels = {trial.settings[key] for trial in search.trials if key in trial.settings}
        numeric = all(_is_number(level) for level in levels)
        if len(levels) > 1:
            ordered = sorted(levels, key=float) if numeric else sorted(levels)
            logarithmic = key in search.logarithmic
            label = key + (" (log)" if logarithmic else "")
            found.append(_Setting(key, label, tuple(ordered), numeric, logarithmic))
    return found


def drawn_pair(settings: Sequence[_Setting]) -> tuple[_Setting, _Setting]:
    """The two settings that are drawn against each other: alpha and beta where both were searched, else the first."""
    strength = [each for key in ("loss.alpha", "loss.beta") for each in settings if each.key == key]
    first, second = strength if len(strength) == 2 else settings[:2]
    return first, second


def pair(search: CellSearch, first: _Setting, second: _Setting) -> str:
    """Two settings: a heat map where both take few values and pairs of them were tried more than once or all, else a
    point for every trial."""
    rated = [t for t in search.trials if t.value is not None and first.key in t.settings and second.key in t.settings]
    if len(rated) < 2:
        return ""
    places = {(t.settings[first.key], t.settings[second.key]) for t in rated}
    if first.is_grid and second.is_grid and len(places) >= len(first.levels) * len(second.levels) / 2:
        return _heat_map(search, rated, first, second)
    return _scatter(search, rated, first, second)


def single(search: CellSearch, setting: _Setting) -> str:
    """One setting against the value."""
    trials = [trial for trial in search.trials if trial.value is not None and setting.key in trial.settings]
    if len(trials) < 2:
        return ""
    right, top, bottom = WIDTH - 10, 8.0, 220.0
    y = svg.scale([trial.value for trial in trials if trial.value is not None], bottom, top)
    x = setting.scale(svg.left_of(y), right)
    left = x.start
    parts = [
        svg.x_axis(x, top, bottom, setting.label, labels=setting.tick, ticks=setting.ticks(x)),
        svg.y_axis(y, left, right, "best validation MRR"),
    ]
    for trial in trials:
        place = {"cx": x(setting.value(trial)), "cy": y(trial.value or 0.0)}
        radius = 5.0 if trial.state == "finished" else 3.2
        parts.append(svg.tag("circle", svg.title(_told(trial)), **place, r=radius, class_="dot plain"))
    label = f"Best validation MRR of {len(trials)} search trials over {setting.label}"
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def _values(trials: Sequence[Searched]) -> svg.Scale:
    found = [trial.value for trial in trials if trial.value is not None]
    return svg.Scale(min(found), max(found), 0, 1)


def _scatter(search: CellSearch, trials: Sequence[Searched], first: _Setting, second: _Setting) -> str:
    right, top, bottom = WIDTH - 10, 24.0, 300.0
    y, shade = second.scale(bottom, top), _values(trials)
    left = svg.left_of(y, second.tick, second.ticks(y))
    x = first.scale(left, right)
    parts = [
        svg.colour_bar(shade, right - 170, 4, 110, "best validation MRR"),
        svg.x_axis(x, top, bottom, first.label, labels=first.tick, ticks=first.ticks(x)),
        svg.y_axis(y, left, right, second.label, labels=second.tick, ticks=second.ticks(y)),
    ]
    for trial in sorted(trials, key=lambda trial: trial.value or 0.0):
        stopped = trial.state != "finished"
        parts.append(
            svg.tag(
                "circle",
                svg.title(_told(trial)),
                cx=x(first.value(trial)),
                cy=y(second.value(trial)),
                r=3.2 if stopped else 5.0,
                fill=svg.colour(shade(trial.value or 0.0)),
                class_="dot",
            )
        )
    if first.key in search.chosen and second.key in search.chosen:
        chosen = Searched("", "", None, search.chosen)
        try:
            at = x(first.value(chosen)), y(second.value(chosen))
        except ValueError:  # a value that no trial of this search has: chosen by an earlier one
            at = None
        if at:
            parts.append(svg.tag("circle", svg.title("confirmed"), cx=at[0], cy=at[1], r=9.0, class_="chosen"))
    label = f"Best validation MRR of {len(trials)} search trials over {first.label} and {second.label}"
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def _heat_map(search: CellSearch, trials: Sequence[Searched], first: _Setting, second: _Setting) -> str:
    by_place: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        if trial.value is not None:
            by_place.setdefault((trial.settings[first.key], trial.settings[second.key]), []).append(trial.value)
    means = {place: math.fsum(values) / len(values) for place, values in by_place.items()}
    shade = svg.Scale(min(means.values()), max(means.values()), 0, 1)
    left, top = 40 + _LETTER * max(len(svg.short(level, 14)) for level in second.levels), 24.0
    width = min(90.0, (WIDTH - left - 10) / len(first.levels))
    height = 34.0
    bottom = top + height * len(second.levels)
    right = left + width * len(first.levels)
    parts = [svg.colour_bar(shade, WIDTH - 180, 4, 110, "mean best validation MRR")]
    for column, one in enumerate(first.levels):
        middle = left + width * (column + 0.5)
        parts.append(svg.text(middle, bottom + 14, svg.short(_round(one), 14), anchor="middle", class_="tick"))
        for row, other in enumerate(reversed(second.levels)):
            if (one, other) not in means:
                continue
            mean, n = means[one, other], len(by_place[one, other])
            parts.append(
                svg.tag(
                    "g",
                    svg.title(f"{first.key} {one}, {second.key} {other}: mean {mean:.4f} of {n} trials")
                    + svg.tag(
                        "rect",
                        x=left + width * column + 1,
                        y=top + height * row + 1,
                        width=width - 2,
                        height=height - 2,
                        fill=svg.colour(shade(mean)),
                    )
                    + svg.text(
                        middle,
                        top + height * (row + 0.5) + 4,
                        f"{mean:.3f} ({n})",
                        anchor="middle",
                        class_="on-dark" if shade(mean) < 0.55 else "on-light",
                    ),
                )
            )
    for row, other in enumerate(reversed(second.levels)):
        parts.append(
            svg.text(
                left - 6, top + height * (row + 0.5) + 4, svg.short(_round(other), 14), anchor="end", class_="tick"
            )
        )
    parts.append(svg.text((left + right) / 2, bottom + 31, first.label, anchor="middle", class_="axis"))
    y = (top + bottom) / 2
    parts.append(
        svg.text(12, y, second.label, anchor="middle", class_="axis", transform=f"rotate(-90 12 {svg.pixels(y)})")
    )
    label = f"Mean best validation MRR of {len(trials)} search trials over {first.label} and {second.label}"
    return svg.drawing(WIDTH, bottom + 36, label, "".join(parts))


def importances(search: CellSearch) -> str:
    """Shares of the searched settings, as Optuna judges them."""
    shares = sorted(search.importances.items(), key=lambda item: -item[1])
    labels = [svg.short_path(key, 40) for key, _ in shares]
    left, right, top = 14 + _LETTER * max(map(len, labels)), WIDTH - 60, 8.0
    bottom = top + 22 * len(shares)
    x = svg.Scale(0, max(share for _, share in shares) or 1.0, left, right)
    parts = [svg.x_axis(x, top, bottom, "importance for the validation MRR (share, PED-ANOVA)")]
    for number, ((key, share), label) in enumerate(zip(shares, labels, strict=True)):
        y = top + 22 * (number + 0.5)
        parts.append(svg.text(left - 8, y + 4, label, anchor="end"))
        parts.append(
            svg.tag(
                "rect",
                svg.title(f"{key}: {share:.2f}"),
                x=left,
                y=y - 6,
                width=max(x(share) - left, 0.5),
                height=12.0,
                class_="bar plain",
            )
        )
        parts.append(svg.text(max(x(share), left) + 6, y + 4, f"{share:.2f}", class_="tick"))
    return svg.drawing(WIDTH, bottom + 36, "Importance of the searched settings", "".join(parts))


def parallel(search: CellSearch, settings: Sequence[_Setting]) -> str:
    """A line for every trial through its settings to its value, the best ones on top."""
    trials = [
        trial
        for trial in search.trials
        if trial.value is not None and all(each.key in trial.settings for each in settings)
    ]
    if len(trials) < 2:
        return ""
    top, bottom, left, right = 30.0, 250.0, 52.0, WIDTH - 62
    values = svg.scale([t.value for t in trials if t.value is not None], bottom, top)
    shade = _values(trials)
    at = [left + (right - left) * number / len(settings) for number in range(len(settings) + 1)]
    scales = [each.scale(bottom, top) for each in settings]
    lines = []
    for trial in sorted(trials, key=lambda trial: trial.value or 0.0):
        points = [(x, scale(each.value(trial))) for x, scale, each in zip(at, scales, settings, strict=False)]
        points.append((at[-1], values(trial.value or 0.0)))
        lines.append(
            svg.polyline(
                points,
                "thread" if trial.state == "finished" else "thread early",
                svg.title(_told(trial)),
                stroke=svg.colour(shade(trial.value or 0.0)),
            )
        )
    parts = []
    rows = 1 if len(settings) < 4 else 2  # of labels, by turns; that of the value is in the first
    for number, (x, scale, each) in enumerate(zip(at, scales, settings, strict=False)):
        parts.append(_upright(x, top, bottom, scale, each.tick, each.ticks(scale)))
        label = svg.short_path(each.key, max(12, int(rows * (at[1] - at[0]) / _LETTER) - 1))
        y = 16 + 11 * ((len(settings) - number) % rows)
        first = number == 0  # which would begin outside of the picture
        parts.append(svg.text(2 if first else x, y, label, anchor="start" if first else "middle", class_="axis"))
    parts.append(_upright(at[-1], top, bottom, values, svg.number, values.ticks(5)))
    parts.append(svg.text(at[-1], 16, "best valid MRR", anchor="middle", class_="axis"))
    label = f"{len(trials)} search trials: their settings and best validation MRR"
    return svg.drawing(WIDTH, bottom + 14, label, "".join([*lines, *parts]))


def _upright(
    x: float, top: float, bottom: float, scale: svg.Scale, tick: Callable[[float], str], at: Sequence[float]
) -> str:
    parts = [svg.line(x, top, x, bottom, "upright")]
    parts += [svg.text(x + 4, scale(value) + 4, tick(value), class_="tick halo") for value in at]
    return "".join(parts)


def _told(trial: Searched) -> str:
    settings = ", ".join(f"{key} {_round(value)}" for key, value in trial.settings.items())
    value = "no value" if trial.value is None else f"{trial.value:.4f}"
    return f"{value} ({trial.state}): {settings}"


def _round(value: str) -> str:
    return svg.number(float(value)) if _is_number(value) else value


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
