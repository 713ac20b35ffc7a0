"""Which arm wins, and is that luck? One frozen value, several renderings."""

from softnce_ray.report.comparison import Problem, Report, ReportError, Row, build_report
from softnce_ray.report.renderings import method_line, to_json, to_markdown, to_terminal

__all__ = [
    "Problem",
    "Report",
    "ReportError",
    "Row",
    "build_report",
    "method_line",
    "to_json",
    "to_markdown",
    "to_terminal",
]
