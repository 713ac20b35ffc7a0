"""What a study found, in sentences and in the numbers of its arms' runs."""

from __future__ import annotations

import math

from softnce_ray.report.values import OVERALL, Report, Row
from softnce_ray.report.wording import bounds, p_heading, p_text, signed

ALPHA = 0.05
"""Corrected p below which a difference is called one."""


def findings(report: Report) -> list[str]:
    """A sentence for each arm in each language: how it stands beside the baseline, or that it has no mean."""
    return [_sentence(report, row) for row in report.rows if row.arm != report.baseline]


def arm_metrics(report: Report, arm: str) -> dict[str, float]:
    """Means of an arm with their intervals and its differences from the baseline, by names that MLflow's compare page
    shows beside one another: `python_test_mrr`, `python_test_mrr_low`, `…_high`, `…_difference`, `…_p`."""
    found: dict[str, float] = {}
    for row in report.rows:
        if row.arm != arm or row.mean is None:
            continue
        where = "_".join(each for each in (row.training_set, row.language or OVERALL) if each)
        name = f"{where}_{report.split}_mrr"
        found |= {name: row.mean.mean, f"{name}_low": row.mean.low, f"{name}_high": row.mean.high}
        if row.together is not None:
            difference = row.together
            found |= {f"{name}_difference": difference.mean}
            found |= {f"{name}_difference_low": difference.low, f"{name}_difference_high": difference.high}
        if row.p_holm is not None:
            found[f"{name}_p"] = row.p_holm
        found[f"{name}_seeds"] = row.seeds_done
    # Of one query the bounds are infinite, which MLflow would show as the largest number.
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _sentence(report: Report, row: Row) -> str:
    difference, p = row.together, row.p_holm
    if difference is None:
        return f"{row.label}: no mean that could be compared ({row.seeds_done} of {row.seeds_asked} seeds finished)."
    direction = "better" if difference.mean > 0 else "worse"
    if p is None or p >= ALPHA:
        verdict = f"does not differ from {report.baseline} beyond chance"
    else:
        verdict = f"is {direction} than {report.baseline}"
    shown = "" if p is None else f", {p_heading(report)} {p_text(p)}"
    return f"{row.label}: {verdict} ({signed(difference.mean)} {bounds(difference, signed)}{shown})."
