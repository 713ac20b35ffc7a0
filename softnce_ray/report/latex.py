"""A comparison of arms as a LaTeX table that needs only booktabs, and compiles as it is."""

from __future__ import annotations

import unicodedata

from softnce_ray.report import columns
from softnce_ray.report.columns import Column, format_row
from softnce_ray.report.published import TEXT_COLUMNS, paper_lines, paper_table
from softnce_ray.report.values import Report, Row
from softnce_ray.report.wording import MEASURES, inference_text, language_text, shared_text

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
# What is wider than the page is set once more in smaller letters.
_SMALLER = (
    r"\sbox0{{\softncetable}}\ifdim\wd0>\linewidth\fontsize{{{size}}}{{{line}}}\selectfont"
    r"\setlength{{\tabcolsep}}{{2pt}}\fi"
)

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
    "±": r"$\pm$",
    "≥": r"$\ge$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
    "\n": " ",
}


def to_latex(report: Report) -> str:
    r"""A `table` of booktabs with a group of rows for each language, the best mean in bold; ends with a newline.

    The text compiles by itself and can be put into a document that has booktabs with `\input`. The caption says n, how
    intervals and p were made, and what stands as notes elsewhere; with published numbers a second table follows.
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
    shown = _shown(report)
    lines = [_row([_title(report, column) for column in shown])]
    before: tuple[str, ...] | None = None
    for row in report.rows:
        if row.languages != before:
            lines += [r"\midrule", _group(report, row, len(shown))]
        before = row.languages
        cells = {key: escaped(cell) for key, cell in format_row(report, row).items()}
        lines.append(
            _row(
                [
                    rf"\textbf{{{cells[column.key]}}}" if row.is_best and column.is_best else cells[column.key]
                    for column in shown
                ]
            )
        )
    alignment = "".join("l" if column.is_text else "r" for column in shown)
    return _table(alignment, lines, _caption(report), f"tab:{_label(report.study)}")


def _title(report: Report, column: Column) -> str:
    title = escaped(column.title(report))
    return title.replace("p", "$p$", 1) if column.key == "p" else title


def _shown(report: Report) -> list[Column]:
    """Return the columns of the table. The caption reports counts of 0: a column would cost width."""
    return [
        column
        for column in columns.COLUMNS
        if not column.is_group and not (column.is_count and all(column.text(report, row) == "0" for row in report.rows))
    ]


def _failures(report: Report) -> bool:
    return any(row.failures for row in report.rows)


def _group(report: Report, row: Row, columns: int) -> str:
    name = language_text(report, row)
    if row.language in report.queries:
        size = f"{report.queries[str(row.language)]:,} queries"
        if row.language in report.codebase:
            size += f" among {report.codebase[str(row.language)]:,} codes"
        name = f"{name} ({size})"
    return rf"\multicolumn{{{columns}}}{{@{{}}l}}{{\textit{{{escaped(name)}}}}} \\"


def _caption(report: Report) -> str:
    queries = "; ".join(f"{language} {n:,}" for language, n in report.queries.items()) or "none yet"
    name, whole = MEASURES[report.measure]
    short = any(row.seeds_done < row.seeds_asked for row in report.rows)
    counts = sorted({row.seeds_asked for row in report.rows})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) + (" seed" if counts[-1] == 1 else " seeds")
    several = len({row.languages for row in report.rows}) > 1
    parts = [
        escaped(f"{report.title}."),
        escaped(
            f"{whole}{'' if name in whole else f' ({name})'} of the {report.split} queries (number: {queries}), "
            f"averaged over {'those that finished of ' if short else ''}{seeds}."
        ),
        escaped(inference_text(report)).replace(r" \%", r"~\%").replace(" p:", " $p$:").replace(" p ", " $p$ "),
        "Spread: standard deviation of the seeds' means.",
    ]
    if any(row.is_best for row in report.rows):
        parts.append(
            f"Bold: the best mean{' of a group' if several else ''}; "
            rf"$\approx$: not significantly different from it ($p \ge {1 - report.level:.2g}$)."
        )
    if not _failures(report):
        parts.append("No trial failed.")
    if any(row.language is None for row in report.rows):
        parts.append(escaped(f"Overall: mean over languages.{shared_text(report)}"))
    if report.training_sets:
        sets = "; ".join(f"[{name}] {', '.join(languages)}" for name, languages in report.training_sets.items())
        parts.append(
            escaped(f"In brackets: one model trained on several languages ({sets}), compared with the baseline's.")
        )
    parts += [escaped(note) for note in report.notes]
    return " ".join(parts)


def _paper(report: Report) -> str:
    titles, *rows = paper_table(report)
    lines = [_row([escaped(cell) for cell in titles]), r"\midrule"]
    lines += [_row([escaped(cell) for cell in cells]) for cells in rows]
    caption = escaped(" ".join(["Published mean reciprocal ranks beside ours.", *paper_lines(report)]))
    alignment = "".join("l" if title in TEXT_COLUMNS else "r" for title in titles)
    return _table(alignment, lines, caption, f"tab:{_label(report.study)}-published")


def _table(columns: str, lines: list[str], caption: str, label: str) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\par\medskip",
            rf"\def\softncetable{{\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            *(_SMALLER.format(size=size, line=size + 1) for size in (6, 5)),
            r"\softncetable",
            r"\end{table}",
        ]
    )


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _label(study: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in study)
