"""Plots as inline SVG: scales, axes and marks that take their colours from the page, so that they are light or dark
and print as the page does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8
"""Classes c0 to c7 of the page's style sheet."""

_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_DIGIT = 7.0
"""Width of a digit of the axis' numbers, in pixels, about."""


@dataclass(frozen=True)
class Scale:
    """From data to pixels: `low` lies at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(each) if self.logarithmic else each for each in (self.low, self.high, value))
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the scale."""
        if self.high <= self.low:
            return [self.low]
        if self.logarithmic:
            found = [
                digit * 10.0**power
                for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                for digit in (1, 2, 3, 5, 7)
                if self.low * 0.999 <= digit * 10.0**power <= self.high * 1.001
            ]
            if len(found) > 1:
                return found
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(
    values: Iterable[float], start: float, end: float, *, logarithmic: bool = False, margin: float = 0.05
) -> Scale:
    """Return a scale that holds all values, with a share `margin` of their range as room at both ends: 0 for none.

    A single value lies in the middle. Bars begin at 0: give them a `Scale` of their own.
    """
    found = list(values)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if logarithmic and low > 0:
        room = (math.log(high) - math.log(low)) * margin if high > low else 0.1
        return Scale(low * math.exp(-room), high * math.exp(room), start, end, True)
    room = (high - low) * margin if high > low else abs(low) * margin or 0.5
    return Scale(low - room, high + room, start, end)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)


def number(value: float) -> str:
    """A tick's label: short, with a true minus."""
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return ("0" if text == "-0" else text).replace("-", "−")


def pixels(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element; `_` in names of attributes stands for `-`, a last one is dropped (`class_`)."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{pixels(value) if isinstance(value, float) else escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(x: float, y: float, content: str, *, anchor: str = "start", class_: str | None = None, **more: object) -> str:
    return tag(
        "text", escape(content), x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_, **more
    )


def title(content: str) -> str:
    """What a pointer shows over a mark."""
    return f"<title>{escape(content)}</title>"


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def polyline(points: Sequence[tuple[float, float]], class_: str, content: str = "", **more: object) -> str:
    return tag(
        "polyline", content, points=" ".join(f"{pixels(x)},{pixels(y)}" for x, y in points), class_=class_, **more
    )


def polygon(points: Sequence[tuple[float, float]], class_: str) -> str:
    return tag("polygon", points=" ".join(f"{pixels(x)},{pixels(y)}" for x, y in points), class_=class_)


def x_axis(
    place: Scale,
    top: float,
    bottom: float,
    label: str,
    *,
    labels: Callable[[float], str] = number,
    ticks: Sequence[float] | None = None,
) -> str:
    """Ticks with thin lines through the plot, numbers beneath, the axis' name under them."""
    widest = max(1, int(abs(place.end - place.start) / 55))
    at = list(ticks) if ticks is not None else place.ticks(widest)
    at = at[:: max(1, -(-len(at) // (widest + 2)))]
    parts = [line(place(value), top, place(value), bottom, "grid") for value in at]
    parts += [text(place(value), bottom + 14, labels(value), anchor="middle", class_="tick") for value in at]
    parts.append(text((place.start + place.end) / 2, bottom + 31, label, anchor="middle", class_="axis"))
    return "".join(parts)


def y_axis(
    place: Scale,
    left: float,
    right: float,
    label: str,
    *,
    labels: Callable[[float], str] = number,
    ticks: Sequence[float] | None = None,
) -> str:
    """Ticks with thin lines through the plot, numbers beside, the axis' name upright."""
    at = _upright_ticks(place, ticks)
    parts = [line(left, place(value), right, place(value), "grid") for value in at]
    parts += [text(left - 5, place(value) + 4, labels(value), anchor="end", class_="tick") for value in at]
    widest = max((len(labels(value)) for value in at), default=0) * _DIGIT
    x, y = left - 14 - widest, (place.start + place.end) / 2
    parts.append(text(x, y, label, anchor="middle", class_="axis", transform=f"rotate(-90 {pixels(x)} {pixels(y)})"))
    return "".join(parts)


def left_of(place: Scale, labels: Callable[[float], str] = number, ticks: Sequence[float] | None = None) -> float:
    """Where a plot begins, so that an upright axis' numbers and name have room beside it."""
    return 30 + max(map(len, map(labels, _upright_ticks(place, ticks))), default=0) * _DIGIT


def _upright_ticks(place: Scale, ticks: Sequence[float] | None) -> list[float]:
    return list(ticks) if ticks is not None else place.ticks(max(2, int(abs(place.end - place.start) / 35)))


def colour(share: float) -> str:
    """From 0 (dark violet) over green to 1 (yellow), told apart by people who see colours differently too."""
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    lower = min(int(at), len(_STOPS) - 2)
    mixed = (round(a + (b - a) * (at - lower)) for a, b in zip(_STOPS[lower], _STOPS[lower + 1], strict=True))
    return "#" + "".join(f"{each:02x}" for each in mixed)


def colour_bar(values: Scale, x: float, y: float, width: float, label: str) -> str:
    """A legend of `colour`, with the numbers at its ends."""
    steps = 24
    parts = [
        tag("rect", x=x + width * n / steps, y=y, width=width / steps + 0.6, height=8.0, fill=colour((n + 0.5) / steps))
        for n in range(steps)
    ]
    parts.append(text(x - 4, y + 8, f"{label}  {values.low:.4f}", anchor="end", class_="tick"))
    parts.append(text(x + width + 4, y + 8, f"{values.high:.4f}", class_="tick"))
    return "".join(parts)


def drawing(width: float, height: float, label: str, content: str) -> str:
    """The whole picture; `label` says to those who cannot see it what it shows."""
    return tag(
        "svg", content, viewBox=f"0 0 {pixels(width)} {pixels(height)}", width=width, role="img", aria_label=label
    )


def short(name: str, longest: int = 28) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def short_path(key: str, longest: int) -> str:
    """A dotted key that loses letters before its last part, which tells it from its neighbours."""
    last = key.rpartition(".")[2]
    head = longest - len(last) - 1
    return key if len(key) <= longest else f"{key[:head]}…{last}" if head > 0 else short(last, longest)
