"""Which arm wins, and is that luck? One frozen value, several renderings."""

from softnce_ray.report.cells import planned_comparisons
from softnce_ray.report.comparison import build_report
from softnce_ray.report.evidence import Evidence, Text
from softnce_ray.report.files import report_files
from softnce_ray.report.finding import arm_metrics, findings
from softnce_ray.report.gathering import gather, shown_queries, wanted_histories, with_texts
from softnce_ray.report.html import to_html
from softnce_ray.report.latex import to_latex
from softnce_ray.report.renderings import to_json, to_markdown, to_terminal
from softnce_ray.report.values import PaperComparison, Problem, Published, Report, ReportError, Row
from softnce_ray.report.wording import method_line

__all__ = [
    "Evidence",
    "PaperComparison",
    "Problem",
    "Published",
    "Report",
    "ReportError",
    "Row",
    "Text",
    "arm_metrics",
    "build_report",
    "findings",
    "gather",
    "method_line",
    "planned_comparisons",
    "report_files",
    "shown_queries",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "wanted_histories",
    "with_texts",
]
