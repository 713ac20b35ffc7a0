"""What a study found, in sentences and in the numbers of its arms' runs."""

from __future__ import annotations

from softnce_ray.report.values import OVERALL, Report, Row
from softnce_ray.report.wording import bounds, signed

ALPHA = 0.05
"""Holm's p below which a difference is called one."""


def findings(report: Report) -> list[str]:
    """A sentence for each arm in each language: how it stands beside the baseline."""
    return [_sentence(report, row) for row in report.rows if row.difference is not None]


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
        if row.difference is not None:
            difference = row.difference
            found |= {f"{name}_difference": difference.mean}
            found |= {f"{name}_difference_low": difference.low, f"{name}_difference_high": difference.high}
        if row.p_holm is not None:
            found[f"{name}_p"] = row.p_holm
    return found


def _sentence(report: Report, row: Row) -> str:
    difference, p = row.difference, row.p_holm
    assert difference is not None
    interval = f"{signed(difference.mean)} {bounds(difference, signed)}"
    if p is None or p >= ALPHA:
        verdict = f"does not differ from {report.baseline} beyond chance"
    else:
        verdict = f"is {'better' if difference.mean > 0 else 'worse'} than {report.baseline}"
    shown = "" if p is None else f", p {p:.3f}"
    return f"{row.label}: {verdict} ({interval}{shown})."
