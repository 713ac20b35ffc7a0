"""How often intervals hold the truth where seeds are added until they are narrow: simulated, and from real ranks.

    python tests/stopping.py [--repetitions 4000] [--ranks FILE.npz]

Differences have the standard deviations that `tests/benchmarks/inference_errors.py` measured (a query .05, a single
value .2); a seed's is none, as measured (.003), thrice that, and so large that nothing else counts. Of half-widths
between that which all seeds and that which the first seeds reach in the median, where every decision is close, the one
with the least coverage is shown. With `--ranks`, arrays (seeds, queries) of an arm each, seeds and queries of these are
drawn instead, and the truth is the difference of all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.special

AT_MOST = 12
QUERY_SD, REST_SD = 0.05, 0.2
SEED_SDS = {"none": 0.0, "as measured": 0.003, "thrice that": 0.009, "alone": 1.0}
BETWEEN = np.linspace(0, 1, 21)
"""How far a half-width lies from what `AT_MOST` seeds reach in the median to what the first seeds reach."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""So many sets of differences without an effect, (R, AT_MOST, Q)."""


class Looks(NamedTuple):
    """Means and half-widths after 1, 2, … seeds, each (R, AT_MOST); after one seed the half-width is infinite."""

    means: np.ndarray
    halves: np.ndarray


def looks(differences: np.ndarray, level: float = 0.95) -> Looks:
    """Return what `difference` finds in each of (R, S, Q) sets after every seed; a test holds one beside the other."""
    sets, seeds, queries = differences.shape
    rows, squares = differences.mean(axis=2), (differences**2).sum(axis=2)
    columns = np.zeros((sets, queries))
    means, halves = np.empty((sets, seeds)), np.full((sets, seeds), np.inf)
    for k in range(1, seeds + 1):
        columns += differences[:, k - 1]
        mean = means[:, k - 1] = rows[:, :k].mean(axis=1)
        if k == 1:
            continue
        of_seeds = queries * ((rows[:, :k] - mean[:, None]) ** 2).sum(axis=1)
        of_queries = k * ((columns / k - mean[:, None]) ** 2).sum(axis=1)
        of_rest = np.maximum(squares[:, :k].sum(axis=1) - k * queries * mean**2 - of_seeds - of_queries, 0)
        a, b = of_seeds / (k - 1) / (k * queries), of_queries / (queries - 1) / (k * queries)
        e = of_rest / ((k - 1) * (queries - 1)) / (k * queries)
        variance = np.maximum(a + b - e, np.maximum(a, b))
        spread = a**2 / (k - 1) + b**2 / (queries - 1) + e**2 / ((k - 1) * (queries - 1))
        df = np.maximum(variance**2 / spread, min(k - 1, queries - 1))
        halves[:, k - 1] = scipy.special.stdtrit(df, (1 + level) / 2) * np.sqrt(variance)
    return Looks(means, halves)


def drawn(draw: Draw, repetitions: int, rng: np.random.Generator, level: float = 0.95) -> Looks:
    """Return the looks at so many sets, which are drawn a few at a time."""
    parts = [looks(draw(rng, min(100, repetitions - at)), level) for at in range(0, repetitions, 100)]
    return Looks(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def stopped(found: Looks, at_least: int, half_width: float) -> tuple[float, float]:
    """Return the share of sets whose interval holds 0 when it is narrow enough, and the mean number of seeds."""
    narrow = found.halves <= half_width
    narrow[:, : at_least - 1] = False
    narrow[:, -1] = True
    seeds, sets = narrow.argmax(axis=1), np.arange(len(narrow))
    held = np.abs(found.means[sets, seeds]) <= found.halves[sets, seeds]
    return float(held.mean()), float(seeds.mean()) + 1


def half_widths(found: Looks, at_least: int) -> list[float]:
    """Return half-widths that study after study reaches with another number of seeds."""
    least, most = (float(np.median(found.halves[:, k - 1])) for k in (AT_MOST, at_least))
    return [least + share * (most - least) for share in BETWEEN.tolist()]


def simulated(queries: int, seed_sd: float) -> Draw:
    """Return a source of normal differences; a `seed_sd` of 1 leaves nothing else of account."""

    def draw(rng: np.random.Generator, sets: int) -> np.ndarray:
        rest = rng.standard_normal(size=(sets, AT_MOST, queries), dtype=np.float32)
        of_seeds, of_queries = rng.normal(size=(sets, AT_MOST, 1)), rng.normal(size=(sets, 1, queries))
        return seed_sd * of_seeds + QUERY_SD * of_queries + REST_SD * rest

    return draw


def resampled(differences: np.ndarray, queries: int) -> Draw:
    """Return a source of differences whose seeds and queries are drawn from real ones."""
    whole = differences - differences.mean()

    def draw(rng: np.random.Generator, sets: int) -> np.ndarray:
        return np.stack(
            [
                whole[np.ix_(rng.choice(len(whole), AT_MOST, replace=False), rng.integers(0, whole.shape[1], queries))]
                for _ in range(sets)
            ]
        )

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--ranks", type=Path, default=None)
    parser.add_argument("--baseline", default="infonce", help="the arm of FILE that others are compared with")
    parser.add_argument("--queries", type=int, nargs="+", default=(300, 1000))
    parser.add_argument("--at-least", type=int, nargs="+", default=(3, 4, 5, 6))
    parser.add_argument("--comparisons", type=int, default=1, help="in the family: intervals are Bonferroni's")
    options = parser.parse_args()
    if options.ranks is None:
        draws = {
            f"{queries:,} | {name}": simulated(queries, sd)
            for queries in options.queries
            for name, sd in SEED_SDS.items()
        }
    else:
        arms = {name: np.asarray(values, float) for name, values in np.load(options.ranks).items()}
        whole = {arm: arms[arm] - arms[options.baseline] for arm in sorted(arms.keys() - {options.baseline})}
        draws = {
            f"{queries:,} | {arm}": resampled(each, queries)
            for arm, each in whole.items()
            for queries in options.queries
        }
    print(f"{options.repetitions} repetitions, standard error of .95: {(0.95 * 0.05 / options.repetitions) ** 0.5:.4f}")
    print("Coverage of the half-width that has least, and the mean number of seeds that it takes\n")
    print(f"| queries | seeds differ | {' | '.join(f'at_least {each} | seeds' for each in options.at_least)} |")
    print(f"| ---: | --- |{' ---: |' * 2 * len(options.at_least)}")
    for number, (label, draw) in enumerate(draws.items()):
        rng = np.random.default_rng([1, number])
        found = drawn(draw, options.repetitions, rng, 1 - 0.05 / options.comparisons)
        cells = []
        for at_least in options.at_least:
            came = [stopped(found, at_least, each) for each in half_widths(found, at_least)]
            cells.append("{:.3f} | {:.1f}".format(*min(came)))
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
