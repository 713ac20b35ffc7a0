"""Published settings, by name: what `preset:` in an arm of a study file stands for."""

from __future__ import annotations

from typing import Any

PAPER = {"bm25": (1.5, 0.5, 1.0), "simcse": (1.3, 0.7, 0.1), "trained": (1.3, 0.7, 5.0)}
"""Estimator → alpha, beta and weight temperature of Soft-InfoNCE; table 7 of arXiv 2310.08069."""


def preset_settings(preset: str, estimator: str) -> dict[str, Any]:
    """Settings of an arm that a preset fixes, as in a study file; {} where it says nothing of the estimator."""
    if preset != "paper" or estimator not in PAPER:
        return {}
    alpha, beta, temperature = PAPER[estimator]
    return {
        "loss": {"name": "soft_infonce", "alpha": alpha, "beta": beta},
        "estimator": {"name": estimator, "temperature": temperature},
    }
