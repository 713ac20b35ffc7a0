"""A comparison of arms as a LaTeX table that needs only booktabs, and compiles as it is."""

from __future__ import annotations

import unicodedata

from softnce_ray.report.values import Report, Row
from softnce_ray.report.wording import COLUMNS, MEASURES, cells_of, language_text, paper_lines, paper_table, percent

# A table is put into a paper with \input; alone it is a document of its own. \documentclass is another command once a
# document has begun.
_BEGIN = r"""\makeatletter
\ifx\documentclass\@twoclasseserror\let\softnceend\relax\else
\documentclass{article}\usepackage{booktabs}
\def\softnceend{\end{document}}
\begin{document}
\fi
\makeatother"""
_END = r"\softnceend"

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after \\ it would begin a length
    "]": "{]}",
    "−": "$-$",
    "–": "--",
    "≈": r"$\approx$",
    "≥": r"$\ge$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
    "\n": " ",
}
_SHOWN = ("arm", "seeds", "MRR", "interval", "spread", "difference", "p (Holm)", "failed")
_UNIT = {"p (Holm)": r"$p$ (Holm)"}


def to_latex(report: Report) -> str:
    r"""A `table` of booktabs with a group of rows for each language, the best mean in bold; ends with a newline.

    The text compiles by itself and can be put into a document that has booktabs with `\input`. The caption says n, how
    intervals and p were made; with published numbers a second table follows.
    """
    blocks = [
        "% Compiles as it is; in a document that has \\usepackage{booktabs}, \\input it.",
        _BEGIN,
        _comparison(report),
    ]
    if paper_table(report):
        blocks.append(_paper(report))
    return "\n".join([*blocks, _END]) + "\n"


def escaped(text: str) -> str:
    """A text that LaTeX prints as it stands. Of letters that its plain fonts have not, those without their marks; of
    others the code point."""
    return "".join(_letter(each) for each in text)


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter if letter.isprintable() else " "
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if part.isascii())
    return "".join(_letter(part) for part in plain) if plain else f"U+{ord(letter):04X}"


def _comparison(report: Report) -> str:
    headings = {
        "MRR": f"{report.split} {MEASURES[report.measure][0]}",
        "interval": f"{percent(report.level)} interval",
        "difference": f"difference from {report.baseline}",
    }
    lines = [_row([_UNIT.get(name, escaped(headings.get(name, name))) for name in _SHOWN])]
    before: tuple[str, ...] | None = None
    for row in report.rows:
        if row.languages != before:
            lines += [r"\midrule", _group(report, row)]
        before = row.languages
        cells = dict(zip(COLUMNS, map(escaped, cells_of(report, row)), strict=True))
        if row.is_best:
            cells["MRR"], cells["interval"] = rf"\textbf{{{cells['MRR']}}}", rf"\textbf{{{cells['interval']}}}"
        lines.append(_row([cells[name] for name in _SHOWN]))
    return _table("l" + "r" * (len(_SHOWN) - 1), lines, _caption(report), f"tab:{_label(report.study)}")


def _group(report: Report, row: Row) -> str:
    name = language_text(report, row)
    if row.language in report.queries:
        size = f"{report.queries[str(row.language)]:,} queries"
        if row.language in report.codebase:
            size += f" among {report.codebase[str(row.language)]:,} codes"
        name = f"{name} ({size})"
    return rf"\multicolumn{{{len(_SHOWN)}}}{{l}}{{\textit{{{escaped(name)}}}}} \\"


def _caption(report: Report) -> str:
    queries = "; ".join(f"{language} {n:,}" for language, n in report.queries.items()) or "none yet"
    seeds = len(report.seeds)
    parts = [
        report.title + ".",
        f"{MEASURES[report.measure][1]} on {report.split}, mean over {seeds} seed{'s' if seeds > 1 else ''} and all "
        f"queries (n: {queries}).",
        f"Intervals: {percent(report.level)} percentile bootstrap over queries and seeds, "
        f"{report.resamples:,} resamples.",
        "Spread: standard deviation over seeds.",
        f"p: two-sided paired sign-flip test over queries of the seed-averaged values, {report.permutations:,} "
        f"permutations, Holm-corrected over the rows of a language.",
    ]
    if any(row.is_best for row in report.rows):
        parts.append(
            f"Bold: best mean of a language; ≈: not significantly different from it (p ≥ {1 - report.level:.2g})."
        )
    if report.training_sets:
        sets = "; ".join(f"[{name}] {', '.join(languages)}" for name, languages in report.training_sets.items())
        parts.append(f"In brackets: one model trained on several languages ({sets}), compared with the baseline's.")
    return escaped(" ".join(parts))


def _paper(report: Report) -> str:
    headings, *rows = paper_table(report)
    lines = [_row([escaped(cell) for cell in headings]), r"\midrule"]
    lines += [_row([escaped(cell) for cell in cells]) for cells in rows]
    caption = escaped(" ".join(["Published mean reciprocal ranks beside ours.", *paper_lines(report)]))
    return _table("ll" + "r" * (len(headings) - 2), lines, caption, f"tab:{_label(report.study)}-published")


def _table(columns: str, lines: list[str], caption: str, label: str) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _label(study: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in study)
