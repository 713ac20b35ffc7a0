"""The LaTeX table: well formed by a strict reading, and compiled where there is an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import LIFTS, QUERIES, TONGUES, build, complete, study, tongues, trial

from softnce_ray.report import Report, to_latex
from softnce_ray.report.latex import escaped

ENGINE = shutil.which("pdflatex")
COMMANDS = {
    "makeatletter", "makeatother", "ifx", "documentclass", "@twoclasseserror", "let", "softnceend", "relax", "else",
    "usepackage", "def", "begin", "end", "fi", "centering", "scriptsize", "setlength", "tabcolsep", "caption", "label",
    "toprule", "midrule", "bottomrule", "multicolumn", "textit", "textbf", "approx", "ge", "textbackslash", "textbar",
    "textasciitilde", "textasciicircum", "textless", "textgreater", "alpha", "beta", "tau", "par", "medskip", "sbox",
    "softncetable", "ifdim", "wd", "linewidth", "fontsize", "selectfont", "pm",
}  # fmt: skip


def without_escapes(text: str) -> str:
    return re.sub(r"\\[{}$&#%_]", "", text)


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each tabular, cell by cell; fails on anything that is not balanced, or a row of another width."""
    assert text.isascii()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[#%]", body)
    assert set(re.findall(r"\\([a-zA-Z@]+)", body)) <= COMMANDS
    plain = without_escapes(body)
    assert plain.count("$") % 2 == 0
    depth = 0
    for letter in plain:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body.replace(r"\def\softnceend{\end{document}}", "")):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == ["document"]  # which \softnceend ends
    found = []
    for columns, content in re.findall(
        r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", body, re.DOTALL
    ):
        rows = []
        for line in content.strip().splitlines():
            if line in (r"\toprule", r"\midrule", r"\bottomrule"):
                continue
            assert line.endswith(r" \\")
            spanned = re.match(r"\\multicolumn\{(\d+)\}", line)
            cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
            assert (int(spanned[1]) if spanned else len(cells)) == len(columns)
            rows.append([cell.strip() for cell in cells])
        found.append(rows)
    return found


def compiled(text: str, folder: Path, name: str = "table") -> str:
    (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    assert ENGINE is not None
    done = subprocess.run(
        [ENGINE, "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def awkward() -> Report:
    """Names of all special letters, two languages, a failure, a running study."""
    odd = "a_b & 50% #1 {x} $y$ \\z ~^ <α> [β] \"q\" 'é' 中"
    arms = ("infonce", odd)
    trials = [
        trial(arm, seed, language, lift=lift)
        for arm, lift in zip(arms, (0.0, 0.1), strict=True)
        for language in QUERIES
        for seed in (1, 2)
    ]
    failed = trial(odd, 3, status="FAILED", failure="x", reciprocal_ranks={})
    return build(study(*trials, failed, arms=arms, languages=tuple(QUERIES), status="RUNNING", study="a_b#"))


def test_every_row_of_the_table_is_there_in_its_language():
    report = build(study(*complete(("python", "ruby")), languages=("python", "ruby")))
    (rows,) = tables(to_latex(report))
    groups = [row[0] for row in rows if len(row) == 1]
    assert [re.sub(r".*\\textit\{(.*)\}\}?$", r"\1", group).rstrip("} ") for group in groups] == [
        "python (60 queries among 500 codes)",
        "ruby (40 queries among 500 codes)",
        "overall",
    ]
    names = [row[0] for row in rows if len(row) > 1]
    assert names == ["arm", *[*LIFTS] * 3]


def test_the_best_mean_is_bold_and_ties_are_marked():
    report = build(study(*complete(), trial("twin", 1, lift=0.1), arms=(*LIFTS, "twin")))
    (rows,) = tables(to_latex(report))
    cells = {row[0]: row[2] for row in rows if len(row) > 1}
    marked = [cells["soft"], cells["twin"]]
    assert sorted(cell.split("{")[0].split("0.")[0] for cell in marked) == [r"$\approx$", r"\textbf"]
    assert cells["infonce"].startswith("0.")


def test_the_caption_says_n_the_intervals_and_the_correction():
    text = to_latex(build(study(*complete())))
    caption = re.search(r"\\caption\{(.*)\}", text)
    assert caption
    for part in ("python 60", "3 seeds", r"Intervals (95~\%) and $p$ speak of other seeds", "Holm"):
        assert part in caption[1]


def test_the_caption_has_what_a_reader_must_know_as_the_other_renderings_do():
    report = build(study(*complete()[:7], left_out="the budget of 40 trials ended the searches"))
    told = [escaped(note) for note in report.notes]
    assert len(told) == 3 and told[-1] == "The budget of 40 trials ended the searches."
    caption = re.search(r"\\caption\{(.*)\}", to_latex(report))
    assert caption and all(f" {note}" in caption[1] for note in told)


def test_failures_have_a_column_where_there_are_any_and_the_caption_says_that_there_are_none():
    trials = complete()
    (rows,), text = tables(to_latex(build(study(*trials)))), to_latex(build(study(*trials)))
    assert "failed" not in rows[0] and "No trial failed." in text
    assert "averaged over 3 seeds." in text
    broken = replace(trials[-1], status="FAILED", failure="x", reciprocal_ranks={})
    (rows,), text = tables(to_latex(build(study(*trials[:-1], broken)))), to_latex(build(study(*trials[:-1], broken)))
    assert rows[0][-1] == "failed" and {row[0]: row[-1] for row in rows if len(row) > 1}["same"] == "1"
    assert "No trial failed." not in text
    assert "averaged over those that finished of 3 seeds." in text


@pytest.mark.parametrize("report", [awkward(), build(study()), build(tongues(*TONGUES))], ids=["odd", "empty", "sets"])
def test_any_report_is_well_formed(report: Report):
    (rows,) = tables(to_latex(report))
    assert len([row for row in rows if len(row) > 1]) == 1 + len(report.rows)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_name_is_escaped_whole(name: str):
    made = escaped(name)
    assert made.isascii() and "\n" not in made
    plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", made)
    plain = re.sub(r"\$(-|\\approx|\\pm|\\ge|\\alpha|\\beta|\\tau)\$", "", plain).replace("{[}", "").replace("{]}", "")
    assert not re.search(r"[\\{}$&#%_~^<>|\[\]]", without_escapes(plain))


@pytest.mark.slow
@pytest.mark.skipif(ENGINE is None, reason="needs pdflatex (Debian: texlive-latex-recommended)")
def test_it_compiles_alone_and_inside_a_paper(tmp_path: Path):
    report = awkward()
    for name, each in (("odd", report), ("sets", build(tongues(*TONGUES), versus_paper=True))):
        assert "Output written" in compiled(to_latex(each), tmp_path, name)
    paper = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{odd}\input{sets}After.\end{document}"
    assert "Output written" in compiled(paper, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(ENGINE is None, reason="needs pdflatex (Debian: texlive-latex-recommended)")
@pytest.mark.parametrize("failed", [False, True])
def test_a_table_is_no_wider_than_an_article_s_page(tmp_path: Path, failed: bool):
    """Names as long as those of the studies that ship, two languages and their mean; a column more with failures."""
    arms = ("infonce", "soft_bm25_paper", "threshold_0_7", "soft_simcse_b")
    trials = [
        trial(arm, seed, language, lift=-0.05 * number)
        for number, arm in enumerate(arms)
        for language in QUERIES
        for seed in (1, 2, 3)
    ]
    if failed:
        trials[-1] = replace(trials[-1], status="FAILED", failure="x", reciprocal_ranks={})
    report = build(study(*trials, arms=arms, languages=tuple(QUERIES)))
    assert "Overfull" not in compiled(to_latex(report), tmp_path)


def test_the_strict_reading_sees_what_is_broken():
    text = to_latex(replace(build(study(*complete())), study="x"))
    for broken in (
        text.replace(r"\end{tabular}", "", 1),
        text.replace(" & ", " ", 1),
        text.replace(r"\textbf{", r"\textbf", 1),
        text.replace("infonce", "in_fonce #", 1),
    ):
        with pytest.raises((AssertionError, IndexError)):
            tables(broken)
