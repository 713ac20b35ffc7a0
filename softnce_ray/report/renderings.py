"""A comparison of arms, written down: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from rich.console import Group
from rich.table import Table
from rich.text import Text

from softnce_ray.ranks_file import Measure
from softnce_ray.report.comparison import OVERALL, Problem, Report, Row
from softnce_ray.statistics import Interval

_COLUMNS = ("arm", "language", "seeds", "MRR", "interval", "spread", "difference", "p (Holm)", "failed")
_NOTHING = "–"
_MEASURES: dict[Measure, tuple[str, str]] = {
    "reciprocal_rank": ("MRR", "Mean reciprocal rank"),
    "graded_ndcg": ("nDCG", "Mean nDCG of the whole ranking (grade 2: the query's own code, 1: codes of its meaning)"),
}


def method_line(report: Report) -> str:
    """What exactly was computed, in a few sentences on one line."""
    sizes = "; ".join(
        f"{language} {n:,} queries"
        + (f" among {report.codebase[language]:,} codes" if language in report.codebase else "")
        for language, n in report.queries.items()
    )
    overall = any(row.language is None for row in report.rows)
    return (
        f"{_MEASURES[report.measure][1]} on {report.split} ({sizes or 'no queries yet'}; "
        f"corpus {report.corpus_fingerprint[:12]}). Intervals: {_percent(report.level)} percentile bootstrap over "
        f"queries and seeds, {report.resamples:,} resamples. Spread: standard deviation over seeds. p: "
        "two-sided paired sign-flip test over queries of the seed-averaged values, "
        f"{report.permutations:,} permutations (the trained models taken as given), Holm-corrected over the "
        f"arms compared with {report.baseline} within each language"
        + (", and overall (mean over languages)." if overall else ".")
        + _training_sets_text(report)
    )


def _training_sets_text(report: Report) -> str:
    """What the rows of training sets are, after another sentence; nothing where there are none."""
    if not report.training_sets:
        return ""
    names = ", ".join(f"[{name}] on {', '.join(languages)}" for name, languages in report.training_sets.items())
    return (
        f" Rows with brackets are of one model trained on all of these together: {names}; they are compared with "
        f"{report.baseline} trained on the same, and corrected with all rows of their language."
    )


def to_terminal(report: Report, *, width: int = 120) -> Group:
    """For rich: ``console.print(to_terminal(report, width=console.width))``.

    Below 110 columns an interval stands under its number instead of beside it.
    """
    narrow = width < 110
    table = Table(box=None, header_style="bold", padding=(0, 1 if narrow else 2, 0, 0), pad_edge=False)
    shown = [name for name in _COLUMNS if not (narrow and name == "interval")]
    headings = dict(zip(_COLUMNS, _headings(report), strict=True))
    for name in shown:
        heading = headings[name].replace(" ", "\n") if narrow else headings[name]
        if name in ("arm", "language"):
            texts = [row.name if name == "arm" else _language(report, row) for row in report.rows]
            longest = max(map(len, texts), default=0)
            table.add_column(heading, overflow="fold", min_width=min(longest, 24))
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    last_of_table = {row.languages: row for row in report.rows}
    for row in report.rows:
        cells = dict(zip(_COLUMNS, _cells(report, row), strict=True))
        if row.is_best:
            cells["MRR"] = f"*{cells['MRR']}"
        if narrow and row.mean:
            cells["MRR"] += "\n" + cells["interval"].replace(" ", "")
            cells["difference"] = cells["difference"].replace(" [", "\n[").replace(", ", ",")
        styles = ["bold" if row.is_best and name in ("MRR", "interval") else "" for name in shown]
        table.add_row(*(Text(cells[name], style) for name, style in zip(shown, styles, strict=True)))
        if row is last_of_table[row.languages] and row is not report.rows[-1]:
            table.add_row()
    parts: list[Text | Table] = [Text(report.title, "bold"), Text(report.question), Text(), table, Text()]
    if any(row.is_best for row in report.rows):
        parts.append(Text(f"* best mean; {_legend(report)}", "dim"))
    parts.append(Text(method_line(report), "dim"))
    parts += _block("Settings that differ:", _differing(report))
    if report.common_settings:
        parts.append(Text(f"Common settings: {_settings_text(report, report.common_settings)}", "dim"))
    parts += [Text(f"Note: {note}", "yellow") for note in report.notes]
    parts += _block("Not in the table:", [_problem_text(p) for p in report.problems], "red")
    return Group(*parts)


def to_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown; ends with a newline."""
    table = [[*_headings(report), "settings"]]
    table.append(["---" if i in (0, 1, 9) else "---:" for i in range(len(table[0]))])
    for row in report.rows:
        cells = [*_cells(report, row), _settings_text(report, row.settings)]
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        if row.is_best:
            cells[3] = f"**{cells[3]}**"
        table.append(cells)
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    blocks = [f"## {report.title}", report.question, "\n".join(lines)]
    if any(row.is_best for row in report.rows):
        blocks.append(f"**Bold**: best mean; {_legend(report)}")
    blocks.append(method_line(report))
    if report.common_settings:
        blocks.append(f"Common settings: {_settings_text(report, report.common_settings)}")
    blocks += [f"**Note:** {note}" for note in report.notes]
    if report.problems:
        blocks.append("Not in the table:")
        blocks.append("\n".join(f"- {_problem_text(p)}" for p in report.problems))
    return "\n\n".join(block for block in blocks if block) + "\n"


def to_json(report: Report) -> str:
    """The whole value, floats unrounded; equal reports give equal text. NaN and infinity become null."""
    value = {"report_version": 1, **asdict(report), "method": method_line(report)}
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _differing(report: Report) -> list[str]:
    """A line for each arm's settings; for each of its languages where they are not the same in all."""
    languages: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        if row.language is not None and row.settings:
            languages.setdefault((row.name, _settings_text(report, row.settings)), []).append(row.language)
    names = [name for name, _ in languages]
    return [
        f"{name}: {text}" if names.count(name) == 1 else f"{name}, {', '.join(found)}: {text}"
        for (name, text), found in languages.items()
    ]


def _block(heading: str, lines: Sequence[str], style: str = "") -> list[Text]:
    return [Text("\n  ".join([heading, *lines]), style)] if lines else []


def _headings(report: Report) -> list[str]:
    headings = {
        "MRR": f"{report.split} {_MEASURES[report.measure][0]}",
        "interval": f"{_percent(report.level)} interval",
        "difference": f"difference from {report.baseline}",
    }
    return [headings.get(name, name) for name in _COLUMNS]


def _cells(report: Report, row: Row) -> list[str]:
    difference = row.difference and f"{_signed(row.difference.mean)} {_bounds(row.difference, _signed)}"
    return [
        row.name,
        _language(report, row),
        f"{row.seeds_done}/{row.seeds_asked}",
        f"{'≈' if row.ties_best else ''}{row.mean.mean:.4f}" if row.mean else _NOTHING,
        _bounds(row.mean, "{:.4f}".format) if row.mean else _NOTHING,
        _NOTHING if row.spread is None else f"{row.spread:.4f}",
        difference or ("baseline" if row.arm == report.baseline else _NOTHING),
        _NOTHING if row.p_holm is None else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}",
        str(row.failures),
    ]


def _language(report: Report, row: Row) -> str:
    """The row's language; of a mean over some of the languages, which."""
    if row.language is not None:
        return row.language
    every = {row.language for row in report.rows} - {None}
    return OVERALL if set(row.languages) == every else f"{OVERALL} ({', '.join(row.languages)})"


def _bounds(interval: Interval, number: Callable[[float], str]) -> str:
    return f"[{number(interval.low)}, {number(interval.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _legend(report: Report) -> str:
    return f"≈: not significantly different from it (sign-flip test, Holm, p ≥ {1 - report.level:.2g})."


def _settings_text(report: Report, settings: Mapping[str, str]) -> str:
    return ", ".join(f"{report.key_names[key]}={_short(settings[key])}" for key in sorted(settings))


def _short(value: str) -> str:
    """Four digits of what is a fraction: the JSON has them all."""
    try:
        return f"{float(value):.4g}" if len(value) > 6 and "." in value else value
    except ValueError:
        return value


def _problem_text(problem: Problem) -> str:
    seeds = f"seed{'s' if len(problem.seeds) > 1 else ''} {', '.join(map(str, problem.seeds))}"
    plural = "s" if len(problem.run_ids) > 1 else ""
    runs = f" (run{plural} {', '.join(problem.run_ids)})" if problem.run_ids else ""
    phase = "search trial " if problem.phase == "search" else ""
    reason = f": {problem.reason}" if problem.reason else ""
    return f"{problem.arm}, {problem.language}: {phase}{problem.kind}, {seeds}{runs}{reason}"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
