"""A report as files, to be kept beside the study that it is of."""

from __future__ import annotations

from softnce_ray.report.evidence import Evidence
from softnce_ray.report.html import to_html
from softnce_ray.report.latex import to_latex
from softnce_ray.report.renderings import to_json, to_markdown
from softnce_ray.report.values import Report


def report_files(report: Report, evidence: Evidence | None = None) -> dict[str, str]:
    """File name -> content, of every rendering that is a file."""
    return {
        "report.html": to_html(report, evidence),
        "report.md": to_markdown(report),
        "report.tex": to_latex(report),
        "report.json": to_json(report),
    }
