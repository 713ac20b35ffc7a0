"""What a fresh process does with an exported folder: run the recipe of its card, and write down the vectors.

Run as a program it knows nothing of this package, as whoever gets the folder does:
`python -P reader.py REQUEST.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_BATCH = 64

_OPENLY = "import softnce_ray.export"
"""How a recipe begins that says that it needs this package."""


def read(recipe: str, folder: str, jobs: Sequence[tuple[Any, ...]]) -> list[np.ndarray]:
    """Vectors of each job's texts by a recipe: Python that defines `encode(texts, side)` for the folder in `folder`.

    `jobs` are (texts, side) with side `query` or `code`, or (texts, side, language) where a recipe asks for the
    language of functions; the result has (n, width) float32 for each. Texts of similar length go together, so that
    little is padded.
    """
    space: dict[str, Any] = {"folder": folder}
    exec(recipe, space)
    return [_in_batches(space["encode"], *job) for job in jobs]


def _in_batches(encode: Any, texts: Sequence[str], *what: str) -> np.ndarray:
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = [
        np.asarray(encode([texts[row] for row in order[start : start + _BATCH]], *what), np.float32)
        for start in range(0, len(order), _BATCH)
    ]
    vectors = np.concatenate(parts)
    result = np.empty_like(vectors)
    result[order] = vectors
    return result


def main(path: str) -> None:
    """Do what the request in a file asks: recipe, folder, jobs, and where each job's vectors go."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    found = read(request["recipe"], request["folder"], [(job["texts"], *job["what"]) for job in request["jobs"]])
    if "softnce_ray" in sys.modules and not request["recipe"].startswith(_OPENLY):
        raise RuntimeError("the folder needs softnce_ray to be read")
    for job, vectors in zip(request["jobs"], found, strict=True):
        np.save(job["out"], vectors)


if __name__ == "__main__":
    main(sys.argv[1])
