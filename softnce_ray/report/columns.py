"""Columns of the comparison table: one list, which every rendering reads.

A column that is added here appears in the terminal, Markdown, LaTeX and HTML; its text is formatted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softnce_ray.report.values import Report, Row
from softnce_ray.report.wording import MEASURES, NOTHING, bounds, language_text, p_heading, p_text, percent, signed


def _no_value(row: Row) -> float | None:
    return None


def _same_heading(report: Report) -> str | None:
    return None


@dataclass(frozen=True)
class Column:
    """A column of the comparison table.

    Attributes:
      key: its name in code, and its heading unless `heading` gives another.
      text: the cell of a row, as plain text.
      heading: the heading in a report; None: `key`.
      value: the number that the column is sorted by; None where the row has none.
      is_text: left-aligned, and as wide as its longest cell.
      is_best: set off in the row of the best mean.
      is_group: the same in all rows of a table: LaTeX and HTML show it as a line above them.
      is_count: left out of LaTeX, where width is short, when it is "0" in all rows.
    """

    key: str
    text: Callable[[Report, Row], str]
    heading: Callable[[Report], str | None] = _same_heading
    value: Callable[[Row], float | None] = _no_value
    is_text: bool = False
    is_best: bool = False
    is_group: bool = False
    is_count: bool = False

    def title(self, report: Report) -> str:
        """Return the heading of the column in a report."""
        return self.heading(report) or self.key


def _mean(report: Report, row: Row) -> str:
    return f"{'≈' if row.ties_best else ''}{row.mean.mean:.4f}" if row.mean else NOTHING


def difference_text(report: Report, row: Row) -> str:
    """Return the difference from the baseline with the interval that goes with the corrected p."""
    if row.together:
        return f"{signed(row.together.mean)} {bounds(row.together, signed)}"
    return "baseline" if row.arm == report.baseline else NOTHING


COLUMNS: tuple[Column, ...] = (
    Column("arm", lambda report, row: row.name, is_text=True),
    Column("language", language_text, is_text=True, is_group=True),
    Column(
        "seeds",
        lambda report, row: f"{row.seeds_done}/{row.seeds_asked}",
        value=lambda row: float(row.seeds_done),
    ),
    Column(
        "MRR",
        _mean,
        heading=lambda report: f"{report.split} {MEASURES[report.measure][0]}",
        value=lambda row: row.mean.mean if row.mean else None,
        is_best=True,
    ),
    Column(
        "interval",
        lambda report, row: bounds(row.mean, "{:.4f}".format) if row.mean else NOTHING,
        heading=lambda report: f"{percent(report.level)} interval",
        value=lambda row: row.mean.low if row.mean else None,
        is_best=True,
    ),
    Column(
        "spread",
        lambda report, row: NOTHING if row.spread is None else f"{row.spread:.4f}",
        value=lambda row: row.spread,
    ),
    Column(
        "difference",
        difference_text,
        heading=lambda report: f"difference from {report.baseline}",
        value=lambda row: row.difference.mean if row.difference else None,
    ),
    Column(
        "p",
        lambda report, row: NOTHING if row.p_holm is None else p_text(row.p_holm),
        heading=p_heading,
        value=lambda row: row.p_holm,
    ),
    Column("failed", lambda report, row: str(row.failures), value=lambda row: float(row.failures), is_count=True),
)


def format_row(report: Report, row: Row) -> dict[str, str]:
    """Return the cell of each column by its key."""
    return {column.key: column.text(report, row) for column in COLUMNS}
