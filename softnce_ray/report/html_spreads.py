"""The part of the page that shows how the estimator's p and the scores are distributed, arm by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from softnce_ray.distributions import Histogram
from softnce_ray.report import plots_spreads, svg
from softnce_ray.report.evidence import Spread
from softnce_ray.report.html_evidence import arm_legend, figure, paragraph

_PARTS = (
    (
        "relative",
        "Weights of the estimator",
        "p · (N − 1), logarithmic",
        "p of each negative relative to a uniform p: 1 where the estimator calls it as likely as any other of its "
        "query, above it likelier. Soft-InfoNCE's weight falls linearly in it, down to its floor. The outermost "
        "steps also have what lies beyond.",
    ),
    (
        "negatives",
        "Scores of the negatives",
        "cosine of a query and another pair's code",
        "Before the division by the temperature; an arm of raw dot products is shown by its cosines too.",
    ),
    ("positives", "Scores of the positives", "cosine of a query and its own code", ""),
)
_POWERS = tuple(range(-5, 4))


def spreads_part(spreads: Sequence[Spread], classes: Mapping[str, str]) -> str:
    """One picture a language of each of the three; nothing where nothing was recorded."""
    parts = []
    for name, heading, axis, meaning in _PARTS:
        figures = []
        for language in dict.fromkeys(spread.language for spread in spreads):
            found = [
                (spread, histogram)
                for spread in spreads
                if spread.language == language and (histogram := getattr(spread.found, name)) is not None
            ]
            if found:
                figures.append(_figure(name, heading, axis, language, found, classes))
        if figures:
            text = paragraph(meaning)
            parts.append(f'<h3>{escape(heading)}</h3>{text}<div class="pictures">{"".join(figures)}</div>')
    if not parts:
        return ""
    told = (
        "Counted once at the end of each confirm trial, with the weights of its best epoch, on batches of its training "
        "pairs; counts of an arm's seeds are added."
    )
    return paragraph(told) + arm_legend({spread.arm for spread in spreads}, classes) + "".join(parts)


def _figure(
    name: str,
    heading: str,
    axis: str,
    language: str,
    found: Sequence[tuple[Spread, Histogram]],
    classes: Mapping[str, str],
) -> str:
    drawn = [
        (spread.arm, histogram, f"{spread.arm}: {_counted(spread, histogram)}, N = {spread.found.batch_size}")
        for spread, histogram in found
    ]
    caption = f"{language} (n = {_range([histogram.total for _, histogram in found])} pairs an arm, {_seeds(found)})"
    label = f"{heading}, {language}"
    if name == "relative":
        return figure(
            caption,
            plots_spreads.overlaid(drawn, axis, label, classes, ticks=_POWERS, labels=lambda at: svg.number(10.0**at)),
        )
    return figure(caption, plots_spreads.overlaid(drawn, axis, label, classes))


def _counted(spread: Spread, histogram: Histogram) -> str:
    seeds = "1 seed" if spread.seeds == 1 else f"{spread.seeds} seeds"
    batches = "1 batch" if spread.found.batches == 1 else f"{spread.found.batches} batches"
    return f"{histogram.total:,} pairs in {batches} of {seeds}"


def _seeds(found: Sequence[tuple[Spread, Histogram]]) -> str:
    few = _range([spread.seeds for spread, _ in found])
    return "1 seed" if few == "1" else f"{few} seeds"


def _range(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"
