"""A report as one page that needs nothing else: its table, and pictures of what stands behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from softnce_ray.report import columns, plots_arms, svg
from softnce_ray.report.columns import Column
from softnce_ray.report.evidence import Evidence
from softnce_ray.report.html_evidence import (
    costs_part,
    curves_part,
    diagnostics_part,
    duel_part,
    figure,
    paragraph,
    searches_part,
)
from softnce_ray.report.html_spreads import spreads_part
from softnce_ray.report.published import PAPER_HEADING, TEXT_COLUMNS, paper_lines, paper_table
from softnce_ray.report.sensitivity import (
    COMPARISON,
    SENSITIVITY_HEADING,
    sensitivities,
    sensitivity_legend,
    sensitivity_table,
)
from softnce_ray.report.values import Report, Row
from softnce_ray.report.wording import (
    differing,
    language_text,
    legend,
    method_line,
    percent,
    problem_text,
    settings_text,
)
from softnce_ray.results import state_of


def to_html(report: Report, evidence: Evidence | None = None) -> str:
    """One page: no network, no script needed to read it, light and dark, fit for print.

    Without evidence it has the table and the differences alone. Equal arguments give equal text.
    """
    found = evidence or Evidence(lacking={"everything": "Curves, searches, queries and costs were not asked for."})
    classes = arm_classes(report)
    sections = [
        ("table", "Comparison", _table(report)),
        ("differences", f"Differences from {report.baseline}", _differences(report, classes)),
        ("sensitivity", SENSITIVITY_HEADING, _sensitivity(report)),
        ("published", PAPER_HEADING, _published(report)),
        ("curves", "Learning curves", curves_part(report, found, classes)),
        ("queries", "Queries won and lost", "".join(duel_part(report, duel, classes) for duel in found.duels)),
        ("search", "Searches", searches_part(found)),
        ("diagnostics", "Diagnostics by epoch", diagnostics_part(found, classes)),
        ("distributions", "Weights and scores", spreads_part(found.spreads, classes)),
        ("cost", "Time", costs_part(report, found.costs, classes)),
        ("missing", "Not in the table", _problems(report)),
        ("method", "Method and settings", _method(report)),
    ]
    body = []
    for name, heading, content in sections:
        lacking = "".join(paragraph(found.lacking[key]) for key in _LACKING.get(name, ()) if key in found.lacking)
        if content or lacking:
            body.append(f'<section id="{name}"><h2>{escape(heading)}</h2>{content}{lacking}</section>')
    links = "".join(
        f'<a href="#{name}">{escape(heading.split(" (")[0])}</a>' for name, heading, content in sections if content
    )
    if "everything" in found.lacking:
        body.append(paragraph(found.lacking["everything"]))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_resource('page.css')}</style></head>\n<body>"
        f"<header><h1>{escape(report.title)}</h1>{paragraph(report.question)}{paragraph(_state(report))}<nav>{links}</nav></header>\n"
        f"<main>{chr(10).join(body)}</main>\n<script>{_resource('page.js')}</script></body></html>\n"
    )


_LACKING = {
    "curves": ("curves",),
    "queries": ("queries", "texts"),
    "search": ("search", "importances"),
    "diagnostics": ("diagnostics",),
    "distributions": ("distributions",),
}


def arm_classes(report: Report) -> dict[str, str]:
    """Arm -> class of the style sheet: a colour for the baseline and the best others, `rest` for what is beyond."""
    arms = list(dict.fromkeys(row.arm for row in report.rows))
    if len(arms) > svg.COLOURS:
        means: dict[str, list[float]] = {arm: [] for arm in arms}
        for row in report.rows:
            if row.mean:
                means[row.arm].append(row.mean.mean)
        worth = {arm: sum(found) / len(found) if found else 0.0 for arm, found in means.items()}
        arms.sort(key=lambda arm: (arm != report.baseline, -worth[arm]))
    return {arm: f"c{number}" if number < svg.COLOURS else "rest" for number, arm in enumerate(arms)}


def _state(report: Report) -> str:
    parts = []
    for phase in ("confirm", "search"):
        counts = report.counts.get(phase, {})
        if counts:
            states = ", ".join(f"{n} {state_of(outcome)}" for outcome, n in sorted(counts.items()))
            parts.append(f"{sum(counts.values())} {phase} trials ({states})")
    return "Trials: " + ("; ".join(parts) or "none yet") + "."


def _table(report: Report) -> str:
    shown = [column for column in columns.COLUMNS if not column.is_group]
    head = "".join(
        f'<th scope="col" class="{"l" if column.is_text else "r"}">{escape(column.title(report))}</th>'
        for column in shown
    )
    bodies, group = [], []
    for number, row in enumerate(report.rows):
        group.append(_row(report, row, shown))
        after = report.rows[number + 1] if number + 1 < len(report.rows) else None
        if after is None or after.languages != row.languages:
            heading = f'<tr class="group"><th colspan="{len(shown)}" scope="rowgroup">{_group(report, row)}</th></tr>'
            bodies.append(f"<tbody>{heading}{''.join(group)}</tbody>")
            group = []
    note = ""
    if any(row.is_best for row in report.rows):
        note = paragraph(f"Bold: best mean of a language; {legend(report)}")
    notes = "".join(paragraph(f"Note: {each}", "note") for each in report.notes)
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table>'
    return f'<div class="wide">{table}</div>{note}{notes}'


def _group(report: Report, row: Row) -> str:
    if row.language is None:
        return escape(f"{language_text(report, row)}: mean over languages")
    if row.language not in report.queries:
        return escape(row.language)
    codes = f" among {report.codebase[row.language]:,} codes" if row.language in report.codebase else ""
    return escape(f"{row.language}: {report.queries[row.language]:,} queries{codes}")


def _row(report: Report, row: Row, shown: Sequence[Column]) -> str:
    written = []
    for column in shown:
        content = escape(column.text(report, row))
        if column.key == "arm":
            written.append(f'<th scope="row">{content}</th>')
            continue
        value = _sorted_by(report, row, column)
        data = "" if value is None else f' data-v="{value:.6g}"'
        if row.is_best and column.is_best:
            content = f"<b>{content}</b>"
        written.append(f"<td{data}>{content}</td>")
    style = ' class="best"' if row.is_best else ""
    return f"<tr{style}>{''.join(written)}</tr>"


def _sorted_by(report: Report, row: Row, column: Column) -> float | None:
    """Return the number that the page sorts a cell by: the baseline differs by 0 from itself."""
    if column.key == "difference" and row.arm == report.baseline:
        return 0.0
    return column.value(row)


def _by_language(report: Report) -> Iterable[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in report.rows:
        groups.setdefault(row.languages, []).append(row)
    return groups.values()


def _differences(report: Report, classes: Mapping[str, str]) -> str:
    parts = []
    for rows in _by_language(report):
        picture = plots_arms.forest(report, rows, classes)
        if picture:
            queries = max(row.together.queries for row in rows if row.together)
            parts.append(figure(f"{language_text(report, rows[0])} (n = {queries:,} queries)", picture))
    if not parts:
        return ""
    return (
        paragraph(
            f"Mean differences with {percent(report.level)} intervals that hold together; filled: corrected p < "
            f"{1 - report.level:.2g}, where the interval leaves out 0."
        )
        + f'<div class="pictures">{"".join(parts)}</div>'
    )


def _published(report: Report) -> str:
    if report.paper is None:
        return ""
    return (
        _plain_table(paper_table(report))
        + "<ul>"
        + "".join(f"<li>{escape(line)}</li>" for line in paper_lines(report))
        + "</ul>"
    )


def _sensitivity(report: Report) -> str:
    table = _plain_table(sensitivity_table(sensitivities(report)))
    return table + paragraph(sensitivity_legend()) if table else ""


def _plain_table(rows: list[list[str]]) -> str:
    """Return a table whose first row is its headings, texts on the left; empty without rows."""
    if not rows:
        return ""
    sides = ["l" if heading in (*TEXT_COLUMNS, COMPARISON) else "r" for heading in rows[0]]
    head = "".join(f'<th class="{side}">{escape(cell)}</th>' for side, cell in zip(sides, rows[0], strict=True))
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f'<td class="l">{escape(cell)}</td>' if side == "l" else f"<td>{escape(cell)}</td>"
            for side, cell in zip(sides[1:], rest, strict=True)
        )
        + "</tr>"
        for name, *rest in rows[1:]
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _problems(report: Report) -> str:
    if not report.problems:
        return ""
    return "<ul>" + "".join(f"<li>{escape(problem_text(each))}</li>" for each in report.problems) + "</ul>"


def _method(report: Report) -> str:
    parts = [paragraph(method_line(report))]
    if lines := differing(report):
        parts.append(
            "<h3>Settings that differ</h3><ul>" + "".join(f"<li>{escape(each)}</li>" for each in lines) + "</ul>"
        )
    if report.common_settings:
        parts.append(f"<h3>Common settings</h3>{paragraph(settings_text(report.common_settings))}")
    return "".join(parts)


def _resource(name: str) -> str:
    return files("softnce_ray.report").joinpath(name).read_text(encoding="utf-8").strip()
