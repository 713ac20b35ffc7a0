"""What building, tokenising, preparing and starting to train cost per pair as a corpus grows, and in memory.

Synthetic corpora are made of a real one: each pair several times, with most names in its code and the nouns of its
query numbered anew, so that hardly any two are near duplicates. Every step runs in a process of its own, whose largest
resident set is shown, and its CPU time beside the time on the clock; for the build, the CPU time is with what making
the pairs takes, the other without.

python tests/benchmarks/corpus_scale.py corpora/python WORK_FOLDER 50000 200000 1000000
"""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from softnce_ray.corpus import Pair

PACKAGES = 2_000
EVALUATION = 15_000
STEPS = ("build", "check", "tokenise", "bm25 queries", "bm25 codes", "epoch start")
_NAME = re.compile(r"\b[a-z]\w{3,}\b")


def varied(folder: str, number: int) -> Iterator[Pair]:
    """`number` pairs, made of those of a corpus in turn."""
    from softnce_ray.corpus import Corpus

    corpus = Corpus.open(folder)
    made = 0
    for turn in range(number):
        for rows in corpus.batches("python", "train"):
            for row in rows.to_pylist():
                if made == number:
                    return
                rng = random.Random(made)
                new: dict[str, str] = {}

                def other(match: re.Match, rng: random.Random = rng, new: dict[str, str] = new) -> str:
                    name = match[0]
                    # Few enough different words that a vocabulary grows as one of real code does.
                    return new.setdefault(name, f"{name}_{rng.randrange(300)}" if rng.random() < 0.6 else name)

                yield Pair(
                    query=f"{row['query']} (way {turn} of {rng.randrange(1000)})",
                    code=_NAME.sub(other, row["code"]),
                    language="python",
                    package=f"package{int(PACKAGES * rng.random() ** 2)}",
                    path=row["path"],
                    line=row["line"],
                    name=row["name"],
                )
                made += 1


class Timed:
    """An iterator that knows how long its elements took to make."""

    def __init__(self, rest: Iterator[Pair]) -> None:
        self.seconds = 0.0
        self._rest = rest

    def __iter__(self) -> Timed:
        return self

    def __next__(self) -> Pair:
        started = time.perf_counter()
        try:
            return next(self._rest)
        finally:
            self.seconds += time.perf_counter() - started


def step(name: str, source: str, folder: Path, number: int) -> float:
    """Do one step and return the seconds of what was to be measured."""
    from softnce_ray.corpus import Corpus, build_corpus
    from softnce_ray.corpus.checking import examine_corpus

    corpus = folder / "corpus"
    if name == "build":
        pairs = Timed(varied(source, number))
        started = time.perf_counter()
        manifest = build_corpus(pairs, corpus, valid=EVALUATION, test=EVALUATION)
        print(json.dumps({"pairs": manifest.languages["python"].pairs, "dropped": manifest.dropped}), file=sys.stderr)
        return time.perf_counter() - started - pairs.seconds
    if name == "check":
        started = time.perf_counter()
        assert not examine_corpus(corpus).problems
        return time.perf_counter() - started

    from softnce_ray.config import ArmConfig, BM25CodeEstimator, BM25Estimator, TokenSettings
    from softnce_ray.corpus.tokens import prepare_tokens

    started = time.perf_counter()
    if name == "tokenise":
        prepare_tokens(Corpus.open(corpus), TokenSettings(), folder / "tokens")
        return time.perf_counter() - started

    from softnce_ray.batching import random_batches
    from softnce_ray.preparation import open_data, prepare

    estimators = {"bm25 queries": BM25Estimator(), "bm25 codes": BM25CodeEstimator(), "epoch start": BM25Estimator()}
    arm = ArmConfig.model_validate({"loss": {"name": "soft_infonce"}, "estimator": estimators[name].model_dump()})
    started = time.perf_counter()
    prepared = prepare(arm, corpus, "python", folder)
    if name != "epoch start":
        return time.perf_counter() - started
    data = open_data(prepared, arm, "python")
    for rows in islice(random_batches(len(data.train.queries), 64, 0, 1), 500):
        data.train.queries.take(rows)
        data.train.codes.take(rows)
        data.same(rows, rows)
        assert data.estimator is not None
        data.estimator.similarity(rows)
    return time.perf_counter() - started


def main(source: str, work: Path, sizes: list[int]) -> None:
    print(f"{'step':14s} {'pairs':>10s} {'seconds':>9s} {'us/pair':>9s} {'CPU us/pair':>12s} {'resident MiB':>13s}")
    for size in sizes:
        folder = work / str(size)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in STEPS:
            command = [sys.executable, __file__, "--step", name, source, str(folder), str(size)]
            done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(
                f"{name:14s} {size:10,d} {done['seconds']:9.1f} {1e6 * done['seconds'] / size:9.1f} "
                f"{1e6 * done['cpu'] / size:12.1f} {done['resident'] / 1024:13,.0f}",
                flush=True,
            )
        shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        _, _, name, source, folder, number = sys.argv
        seconds = step(name, source, Path(folder), int(number))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        # ru_maxrss is in KiB on Linux.
        print(json.dumps({"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "resident": usage.ru_maxrss}))
    elif len(sys.argv) > 3:
        main(sys.argv[1], Path(sys.argv[2]), [int(size) for size in sys.argv[3:]])
    else:
        sys.exit("usage: python tests/benchmarks/corpus_scale.py CORPUS WORK_FOLDER SIZE...")
