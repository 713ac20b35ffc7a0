"""What BM25 of a batch costs: our sparse product beside rank_bm25's loops, on the same queries.

python tests/benchmarks/bm25_batch.py corpora/python
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
from rank_bm25 import BM25Okapi
from turns import explain

from softnce_ray.bm25_formulas import Formula
from softnce_ray.corpus import Corpus
from softnce_ray.estimators import BM25, words

REPEATS = 15
BATCH = 64


def main(folder: str) -> None:
    texts = [words(query) for query in Corpus.open(folder).table("python", "train", ["query"]).column(0).to_pylist()]
    ours = BM25.fit(texts, texts, Formula(k1=1.5, b=0.75))
    theirs = BM25Okapi(texts)
    generator = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"sparse product": [], "rank_bm25": []}
    difference = 0.0
    for _ in range(REPEATS):
        rows = generator.choice(len(texts), BATCH, replace=False)
        started = time.perf_counter()
        product = ours.similarity(rows)
        middle = time.perf_counter()
        loops = np.array([theirs.get_batch_scores(texts[row], rows.tolist()) for row in rows])
        seconds["sparse product"].append(middle - started)
        seconds["rank_bm25"].append(time.perf_counter() - middle)
        difference = max(difference, float(np.abs(product - loops).max()))
    for name, values in seconds.items():
        print(
            f"{name:15s} median {1e3 * statistics.median(values):8.2f} ms a batch of {BATCH} "
            f"({1e3 * min(values):.2f} to {1e3 * max(values):.2f})"
        )
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    print(f"ratio {ratio:,.0f}; largest difference of a score {difference:.1e}")


if __name__ == "__main__":
    explain(__doc__)
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/benchmarks/bm25_batch.py CORPUS")
    main(sys.argv[1])
