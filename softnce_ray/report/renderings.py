"""A comparison of arms, written down: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Group
from rich.table import Table
from rich.text import Text

from softnce_ray.report import columns
from softnce_ray.report.columns import format_row
from softnce_ray.report.published import PAPER_HEADING, TEXT_COLUMNS, paper_lines, paper_table
from softnce_ray.report.sensitivity import (
    COMPARISON,
    SENSITIVITY_HEADING,
    sensitivities,
    sensitivity_legend,
    sensitivity_line,
    sensitivity_table,
)
from softnce_ray.report.values import Report
from softnce_ray.report.wording import differing, legend, method_line, problem_text, settings_text


def to_terminal(report: Report, *, width: int = 120) -> Group:
    """For rich: ``console.print(to_terminal(report, width=console.width))``.

    Below 110 columns an interval stands under its number instead of beside it.
    """
    narrow = width < 110
    table = Table(box=None, header_style="bold", padding=(0, 1 if narrow else 2, 0, 0), pad_edge=False)
    shown = [column for column in columns.COLUMNS if not (narrow and column.key == "interval")]
    for column in shown:
        title = column.title(report)
        heading = title.replace(" ", "\n") if narrow else title
        if column.is_text:
            longest = max((len(column.text(report, row)) for row in report.rows), default=0)
            table.add_column(heading, overflow="fold", min_width=min(longest, 24))
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    last_of_table = {row.languages: row for row in report.rows}
    for row in report.rows:
        cells = format_row(report, row)
        if row.is_best:
            cells["MRR"] = f"*{cells['MRR']}"
        if narrow and row.mean:
            cells["MRR"] += "\n" + cells["interval"].replace(", ", ",")
            cells["difference"] = cells["difference"].replace(" [", "\n[").replace(", ", ",")
        table.add_row(*(Text(cells[column.key], "bold" if row.is_best and column.is_best else "") for column in shown))
        if row is last_of_table[row.languages] and row is not report.rows[-1]:
            table.add_row()
    parts: list[Text | Table] = [Text(report.title, "bold"), Text(report.question), Text(), table, Text()]
    if any(row.is_best for row in report.rows):
        parts.append(Text(f"* best mean; {legend(report)}", "dim"))
    parts.append(Text(method_line(report), "dim"))
    if seen := sensitivity_line(report):
        parts.append(Text(seen, "dim"))
    parts += _block("Settings that differ:", differing(report))
    if report.common_settings:
        parts.append(Text(f"Common settings: {settings_text(report.common_settings)}", "dim"))
    parts += _paper(report)
    parts += [Text(f"Note: {note}", "yellow") for note in report.notes]
    parts += _block("Not in the table:", [problem_text(p) for p in report.problems], "red")
    return Group(*parts)


def to_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown; ends with a newline."""
    table = [[*(column.title(report) for column in columns.COLUMNS), "settings"]]
    table.append([*("---" if column.is_text else "---:" for column in columns.COLUMNS), "---"])
    for row in report.rows:
        cells = {key: _escaped(cell) for key, cell in format_row(report, row).items()}
        if row.is_best:
            cells["MRR"] = f"**{cells['MRR']}**"
        table.append([*cells.values(), _escaped(settings_text(row.settings))])
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    blocks = [f"## {report.title}", report.question, "\n".join(lines)]
    if any(row.is_best for row in report.rows):
        blocks.append(f"**Bold**: best mean; {legend(report)}")
    blocks.append(method_line(report))
    if report.common_settings:
        blocks.append(f"Common settings: {settings_text(report.common_settings)}")
    if report.paper is not None:
        blocks.append(f"### {PAPER_HEADING}")
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in _markdown(paper_table(report))))
        blocks.append("\n".join(f"- {line}" for line in paper_lines(report)))
    if seen := sensitivity_table(sensitivities(report)):
        blocks.append(f"### {SENSITIVITY_HEADING}")
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in _markdown(seen)))
        blocks.append(sensitivity_legend())
    blocks += [f"**Note:** {note}" for note in report.notes]
    if report.problems:
        blocks.append("Not in the table:")
        blocks.append("\n".join(f"- {problem_text(p)}" for p in report.problems))
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_json(report: Report) -> str:
    """The whole value, floats unrounded; equal reports give equal text. NaN and infinity become null."""
    seen = [asdict(each) for each in sensitivities(report)]
    value = {"report_version": 2, **asdict(report), "sensitivity": seen, "method": method_line(report)}
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _paper(report: Report) -> list[Text | Table]:
    if report.paper is None:
        return []
    parts: list[Text | Table] = [Text(), Text(PAPER_HEADING, "bold")]
    if rows := paper_table(report):
        table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
        for heading in rows[0]:
            table.add_column(heading, justify="left" if heading in TEXT_COLUMNS else "right", overflow="fold")
        for cells in rows[1:]:
            table.add_row(*(Text(cell) for cell in cells))
        parts.append(table)
    return [*parts, *(Text(line, "dim") for line in paper_lines(report)), Text()]


def _markdown(table: list[list[str]]) -> list[list[str]]:
    """Return the rows of a Markdown table, with the line beneath its headings."""
    if not table:
        return []
    headings, *rows = [[_escaped(cell) for cell in cells] for cells in table]
    return [headings, ["---" if heading in (*TEXT_COLUMNS, COMPARISON) else "---:" for heading in headings], *rows]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _block(heading: str, lines: Sequence[str], style: str = "") -> list[Text]:
    return [Text("\n  ".join([heading, *lines]), style)] if lines else []


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
