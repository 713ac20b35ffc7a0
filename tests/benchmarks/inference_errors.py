"""How often p is under .05 without an effect, how often intervals hold the truth, how wide they are: before and now.

    python tests/benchmarks/inference_errors.py [--repetitions 400] [--ranks FILE.npz] [--figure FILE.svg]

`before`: a percentile bootstrap over queries and seeds beside a sign-flip test over queries, as reports had them.
`now`: crossed random effects. Simulated differences have the standard deviations that were measured on real ranks (a
query .05, a single value .2); a seed's is 0, as measured (.003), and thrice that. With `--ranks`, arrays (seeds,
queries) of an arm each, seeds and queries of these are drawn instead, and the truth is the difference of all of them.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from softnce_ray.statistics import difference, randomisation_p_values

SEEDS, QUERIES, LANGUAGES = (3, 5, 10), (300, 1000, 15_000), (1, 6)
SEED_SDS = {"none": 0.0, "as measured": 0.003, "thrice that": 0.009}
QUERY_SD, REST_SD = 0.05, 0.2
RESAMPLES, FLIPS = 400, 400

Draw = Callable[[np.random.Generator], list[np.ndarray]]
"""Differences without an effect, (S, Q) for each language."""


def bootstrap(values: list[np.ndarray], rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval; each language's queries and seeds are drawn with replacement, as a whole."""
    means = np.zeros(RESAMPLES)
    for each in values:
        seeds, queries = each.shape
        chosen = rng.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries
        rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        means += ((chosen @ each.T) * rows).sum(axis=1) / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def measured(draw: Draw, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """Return false positives, coverage and mean width of `before`, and then those of `now`: (6,)."""
    counts = np.zeros(6)
    for _ in range(repetitions):
        values = draw(rng)
        nothing = [np.zeros_like(each) for each in values]
        low, high = bootstrap(values, rng)
        flipped = randomisation_p_values(
            {"a": values, "b": nothing}, "b", permutations=FLIPS, seed=int(rng.integers(2**31))
        )["a"]
        now = difference(values, nothing)
        counts += (flipped < 0.05, low <= 0 <= high, high - low, now.p < 0.05, now.low <= 0 <= now.high,
                   now.high - now.low)  # fmt: skip
    return counts / repetitions


def simulated(seeds: int, queries: int, languages: int, seed_sd: float) -> Draw:
    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [
            seed_sd * rng.normal(size=(seeds, 1))
            + QUERY_SD * rng.normal(size=(1, queries))
            + REST_SD * rng.normal(size=(seeds, queries))
            for _ in range(languages)
        ]

    return draw


def resampled(differences: np.ndarray, seeds: int, queries: int) -> Draw:
    whole = differences - differences.mean()

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        rows = rng.choice(len(whole), seeds, replace=False)
        columns = rng.integers(0, whole.shape[1], queries)
        return [whole[np.ix_(rows, columns)]]

    return draw


def settings(ranks: Path | None, baseline: str, counts: list[int], languages: list[int]) -> Iterator[tuple[str, Draw]]:
    if ranks is None:
        for several, seeds, queries in itertools.product(languages, SEEDS, counts):
            for name, seed_sd in SEED_SDS.items():
                yield f"{several} | {seeds} | {queries:,} | {name}", simulated(seeds, queries, several, seed_sd)
        return
    arms = {name: np.asarray(values, float) for name, values in np.load(ranks).items()}
    for arm in sorted(arms.keys() - {baseline}):
        for seeds, queries in ((3, 300), (3, 1000), (5, 300), (5, 1000), (10, 1000)):
            yield f"1 | {seeds} | {queries:,} | {arm}", resampled(arms[arm] - arms[baseline], seeds, queries)


def row(label: str, found: np.ndarray) -> str:
    return f"| {label} | {' | '.join(f'{value:.{4 if i % 3 == 2 else 3}f}' for i, value in enumerate(found))} |"


def draw_figure(found: dict[str, np.ndarray], repetitions: int, path: Path) -> None:
    """Draw how often each method's p is under .05, a line for each setting."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "softnce_ray"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.8 + 0.28 * len(found)), layout="constrained")
    places = np.arange(len(found))[::-1]
    for first, name, colour, marker in ((0, "before", "#b2182b", "s"), (3, "now", "#2166ac", "o")):
        shares = np.array([each[first] for each in found.values()])
        errors = 1.96 * np.sqrt(shares * (1 - shares) / repetitions)
        axes.errorbar(shares, places, xerr=errors, fmt=marker, color=colour, label=name, markersize=5, capsize=2)
    axes.axvline(0.05, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(places, list(found))
    axes.set_xlim(left=0)
    axes.set_xlabel("share of comparisons without an effect whose p is under .05")
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--ranks", type=Path, default=None)
    parser.add_argument("--baseline", default="infonce", help="the arm of FILE that others are compared with")
    parser.add_argument("--queries", type=int, nargs="+", default=QUERIES)
    parser.add_argument("--languages", type=int, nargs="+", default=LANGUAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--figure", type=Path, default=None, help="a file for a picture of the shares (SVG)")
    options = parser.parse_args()
    error = (0.05 * 0.95 / options.repetitions) ** 0.5
    print(f"{options.repetitions} repetitions (standard error of .05: {error:.3f}), seed {options.seed}\n")
    columns = ["languages", "seeds", "queries", "seeds differ"]
    columns += [f"{when}: {what}" for when in ("before", "now") for what in ("p < .05", "covers", "width")]
    print(f"| {' | '.join(columns)} |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    found = {}
    for number, (label, draw) in enumerate(
        settings(options.ranks, options.baseline, options.queries, options.languages)
    ):
        found[label] = measured(draw, options.repetitions, np.random.default_rng([options.seed, number]))
        print(row(label, found[label]), flush=True)
    if options.figure is not None:
        draw_figure(
            {"{3}, {1} seeds, {2} queries".format(*label.split(" | ")): each for label, each in found.items()},
            options.repetitions,
            options.figure,
        )


if __name__ == "__main__":
    main()
