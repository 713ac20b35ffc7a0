"""Every loss a second time, straight from its formula: plain exponentials in float64, one query at a time.

A loss is given as what one query adds to it. `s` holds the query's scores against the codes that are visible to it,
its own at place `own`; what an estimator says comes in the same order. Nothing is taken in the log domain, so scores
must be moderate.

Scores may be complex, and a trailing axis holds several copies of them. That gives the gradient by complex steps:
`f'(x) = Im f(x + ih) / h`, which subtracts nothing and is exact to rounding. Where a formula asks which number is
larger, or takes a number without its gradient, it looks at the real part alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STEP = 1e-30


def infonce(s: np.ndarray, own: int) -> np.ndarray:
    return -np.log(np.exp(s[own]) / sum(np.exp(score) for score in s))


def soft_infonce(
    s: np.ndarray, own: int, *, negatives: np.ndarray, alpha: float, beta: float, floor: float
) -> np.ndarray:
    count = len(s) - 1
    below = np.exp(s[own])
    for j in _others(s, own):
        weight = max(floor, (beta - alpha * negatives[j]) / (beta - alpha / count))
        below = below + weight * np.exp(s[j])
    return -np.log(np.exp(s[own]) / below)


def weighted_infonce(s: np.ndarray, own: int, *, negatives: np.ndarray) -> np.ndarray:
    total = sum(np.exp(score) for score in s)
    loss = -np.log(np.exp(s[own]) / total)
    for j in _others(s, own):
        loss = loss - negatives[j] * np.log(np.exp(s[j]) / total)
    return loss


def bce(s: np.ndarray, own: int, *, negatives: np.ndarray) -> np.ndarray:
    """The sum over the entries of a row: the mean is over all entries of the batch."""
    e = np.exp(s)
    total = e.sum(axis=0)
    loss = np.zeros_like(total)
    for j in range(len(s)):
        target = 1.0 if j == own else negatives[j]
        others = np.delete(e, j, axis=0).sum(axis=0)  # total - e_j without its rounding
        loss = loss - target * np.log(e[j] / total)
        if target < 1:
            loss = loss - (1 - target) * np.log(others / total)
    return loss


def kl_regularised(s: np.ndarray, own: int, *, negatives: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    total = sum((np.exp(s[j]) for j in _others(s, own)), np.zeros_like(s[own]))
    divergence = np.zeros_like(total)
    for j in _others(s, own):
        if negatives[j] > 0:
            divergence = divergence + negatives[j] * np.log(negatives[j] / (np.exp(s[j]) / total))
    return beta * infonce(s, own) + alpha * divergence


def cancel_top_k(s: np.ndarray, own: int, *, similarity: np.ndarray, k: int) -> np.ndarray:
    cancelled = sorted(_others(s, own), key=lambda j: -similarity[j])[:k]
    return _infonce_among(s, own, [j for j in _others(s, own) if j not in cancelled])


def cancel_threshold(s: np.ndarray, own: int, *, similarity: np.ndarray, ratio: float) -> np.ndarray:
    return _infonce_among(s, own, [j for j in _others(s, own) if similarity[j] < ratio * similarity[own]])


def hard_negative(s: np.ndarray, own: int, *, temperature: float, concentration: float, tau_plus: float) -> np.ndarray:
    count = len(s) - 1
    if not count:
        return np.zeros_like(s[own])
    weighted = sum(np.exp(concentration * s[j]) * np.exp(s[j]) for j in _others(s, own))
    weights = sum(np.exp(concentration * s[j]) for j in _others(s, own))
    mean = count * weighted / weights
    corrected = (mean - tau_plus * count * np.exp(s[own])) / (1 - tau_plus)
    least = count * np.exp(-1 / temperature)
    below = np.where(corrected.real > least, corrected, least)
    return -np.log(np.exp(s[own]) / (np.exp(s[own]) + below))


def debiased(s: np.ndarray, own: int, *, temperature: float, tau_plus: float) -> np.ndarray:
    """Chuang et al. directly, without the weights that HCL adds."""
    count = len(s) - 1
    total = sum((np.exp(s[j]) for j in _others(s, own)), np.zeros_like(s[own]))
    corrected = (total - tau_plus * count * np.exp(s[own])) / (1 - tau_plus)
    least = count * np.exp(-1 / temperature)
    below = np.where(corrected.real > least, corrected, least)
    return -np.log(np.exp(s[own]) / (np.exp(s[own]) + below))


def subsampled_infonce(s: np.ndarray, own: int, *, kept: np.ndarray) -> np.ndarray:
    """`kept` (bool) says which negatives were drawn."""
    return _infonce_among(s, own, [j for j in _others(s, own) if kept[j]])


def positive_equal(s: np.ndarray, own: int, *, positives: np.ndarray) -> np.ndarray:
    right = [j for j in range(len(s)) if positives[j]]
    shares = np.exp(s.real) / sum(np.exp(s[j].real) for j in right)  # no gradient
    above = sum(shares[j] * np.exp(s[j]) for j in right)
    below = sum((np.exp(s[j]) for j in range(len(s)) if not positives[j]), np.zeros_like(s[own]))
    return np.log(1 + below / above)


REFERENCE: dict[str, Callable[..., np.ndarray]] = {
    "infonce": infonce,
    "soft_infonce": soft_infonce,
    "weighted_infonce": weighted_infonce,
    "bce": bce,
    "kl_regularised": kl_regularised,
    "cancel_top_k": cancel_top_k,
    "cancel_threshold": cancel_threshold,
    "hard_negative": hard_negative,
    "debiased": debiased,
    "subsampled_infonce": subsampled_infonce,
    "positive_equal": positive_equal,
}


def value_and_gradient(
    name: str, scores: np.ndarray, *, hidden: np.ndarray | None = None, **options: Any
) -> tuple[float, np.ndarray]:
    """A loss of (N, N) scores and its (N, N) gradient. Options that are (N, N) arrays are what an estimator, a draw
    or the corpus says; a hidden negative is left out of its row as if it had never been there."""
    size = len(scores)
    visible = np.ones((size, size), bool) if hidden is None else ~hidden
    entries = visible.sum() if name == "bce" else size
    value, gradient = 0.0, np.zeros((size, size))
    for i in range(size):
        places = np.flatnonzero(visible[i])
        own = int(np.flatnonzero(places == i)[0])
        given = {
            option: content[i, places] if isinstance(content, np.ndarray) else content
            for option, content in options.items()
        }
        if "negatives" in given:
            total = np.delete(given["negatives"], own).sum()  # p of what is left
            given["negatives"] = given["negatives"] / total if total else given["negatives"]
        stepped = scores[i, places][:, None] + 1j * STEP * np.eye(len(places))
        row = REFERENCE[name](stepped, own, **given)
        value += row[0].real / entries
        gradient[i, places] = row.imag / STEP / entries
    return value, gradient


def _others(s: np.ndarray, own: int) -> list[int]:
    return [j for j in range(len(s)) if j != own]


def _infonce_among(s: np.ndarray, own: int, negatives: list[int]) -> np.ndarray:
    total = np.exp(s[own])
    for j in negatives:
        total = total + np.exp(s[j])
    return -np.log(np.exp(s[own]) / total)
