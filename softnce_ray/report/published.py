"""The table of published numbers beside a study's, as text."""

from __future__ import annotations

from softnce_ray.report.columns import difference_text
from softnce_ray.report.values import Published, Report
from softnce_ray.report.wording import NOTHING, language_text, signed

PAPER_HEADING = "Beside the published numbers (Li et al., EMNLP 2023, arXiv 2310.08069)"

TEXT_COLUMNS = ("arm", "language")
"""Headings of the columns that hold names; they come first. All others hold numbers."""


def paper_table(report: Report) -> list[list[str]]:
    """Return headings and rows of published numbers beside ours; empty where there are none, or none were asked for."""
    if report.paper is None or not report.paper.published:
        return []
    models = list(dict.fromkeys(each.model for each in report.paper.published))
    ours = {(row.name, row.language): row for row in report.rows}
    found = {(each.name, each.language, each.model): each for each in report.paper.published}
    table = [[*TEXT_COLUMNS, "ours", f"difference from {report.baseline}", *models, "table"]]
    for name, language in dict.fromkeys((each.name, each.language) for each in report.paper.published):
        row = ours[name, language]
        beside = [found.get((name, language, model)) for model in models]
        tables = dict.fromkeys(each.table for each in beside if each is not None)
        table.append(
            [
                name,
                language_text(report, row),
                f"{row.mean.mean:.4f}" if row.mean else NOTHING,
                difference_text(report, row),
                *(_published(each) for each in beside),
                "; ".join(tables),
            ]
        )
    return table


def _published(each: Published | None) -> str:
    if each is None:
        return NOTHING
    difference = "" if each.difference is None else f" ({signed(each.difference, 3)})"
    return f"{each.mrr:.3f}{difference}"


def paper_lines(report: Report) -> list[str]:
    """Return what a reader of the published numbers must know, a sentence a line."""
    if report.paper is None:
        return []
    if not report.paper.published:
        return [
            "No published number stands for a row of this table: they are test MRR of InfoNCE and Soft-InfoNCE by "
            "language, of other losses with SimCSE over six languages, and of cancellation with SimCSE on Python."
        ]
    lines = ["In brackets: the published difference from what the baseline is.", *report.paper.set_up]
    if report.paper.unmatched:
        lines.append(f"No published number for {'; '.join(report.paper.unmatched)}.")
    return lines
