"""The training step beside sentence-transformers' trainer: pairs a second, from raw pairs to updated weights.

    python tests/benchmarks/training_step.py corpora/python [--repeats 5] [--models bag small minilm] [--precisions ...]

Both train the same network from the same weights on the pairs of the same random batches (ours takes more of them,
their trainer mixes the pairs anew), cut at the same lengths, with in-batch negatives (InfoNCE here,
MultipleNegativesRankingLoss there, both at temperature 0.05), AdamW (the bag here: Adam on the rows of a batch) and
clipped gradients, on two threads. Each measurement is a process of its own; the two take turns, and the ratio is taken
within a turn. The first steps of a process are left out. What is measured is the whole loop: here token ids are read
that were prepared once, there the trainer tokenises every batch.

sentence-transformers' trainer needs `datasets` and `accelerate`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import in_turns, machine, ratios, spread

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import random_batches
from softnce_ray.config import TrialConfig
from softnce_ray.corpus.store import Corpus
from softnce_ray.encoders import build_encoder
from softnce_ray.export import sentence_modules
from softnce_ray.model import Model
from softnce_ray.objective import Batch, prepared
from softnce_ray.optimisers import build_optimisers
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import _step
from softnce_ray.workers import ALONE

WARM_UP = 3
MODELS: dict[str, tuple[dict[str, Any], int, int, int, int]] = {
    # settings, batch, tokens of a text, steps measured here and there
    "bag": ({"kind": "bag", "width": 256}, 64, 160, 200, 40),
    "small": ({"kind": "transformer", "width": 128, "layers": 2, "heads": 2}, 64, 160, 15, 6),
    "minilm": ({"kind": "minilm"}, 32, 96, 5, 3),
}
RATE = 1e-4


def config(model: str, precision: str) -> TrialConfig:
    encoder, batch_size, tokens, _, _ = MODELS[model]
    return TrialConfig.model_validate(
        {
            "encoder": encoder,
            "tokens": {"query_length": tokens, "code_length": tokens},
            "training": {"batch_size": batch_size, "epochs": 1, "learning_rate": RATE, "precision": precision},
            "language": "python",
            "seed": 1,
        }
    )


def rate_of_steps(ends: list[float], batch_size: int) -> float:
    """Pairs a second of the steps after the warm-up, from the times at which steps ended."""
    return batch_size * (len(ends) - WARM_UP) / (ends[-1] - ends[WARM_UP - 1])


def drawn_rows(pairs: int, batch_size: int, batches: int) -> Iterator[np.ndarray]:
    """The rows of the first batches: the same for all who ask."""
    return itertools.islice(random_batches(pairs, batch_size, 0, 1), batches)


def stepping(
    corpus: str, root: str, model: str, precision: str, steps: int
) -> tuple[Iterator[Batch], Callable[[Batch], object]]:
    """The batches of a warm-up and of so many steps, and what takes a step on one."""
    settings = config(model, precision)
    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    torch.manual_seed(0)
    encoder = build_encoder(settings, data.tokenizer.get_vocab_size()).train()
    optimisers = build_optimisers(encoder, settings.training)
    drawn = drawn_rows(len(data.train.queries), settings.training.batch_size, WARM_UP + steps)
    batches = prepared(((rows, rows) for rows in drawn), settings, data)
    return batches, lambda batch: _step(encoder, optimisers, RATE, batch, settings, data, "cpu", ALONE, None)


@freed_memory_kept()
def ours(corpus: str, root: str, model: str, precision: str) -> float:
    batches, step = stepping(corpus, root, model, precision, MODELS[model][3])
    ends = []
    for batch in batches:
        step(batch)
        ends.append(time.perf_counter())
    return rate_of_steps(ends, MODELS[model][1])


def theirs(corpus: str, root: str, model: str, precision: str) -> float:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    settings, steps = config(model, precision), MODELS[model][4]
    size = settings.training.batch_size
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        network: Any = SentenceTransformer(str(modules(settings, corpus, root)), device="cpu")
        length = settings.tokens.code_length
        if model == "bag":
            network[0].tokenizer.enable_truncation(length)
        else:
            network.max_seq_length = length
        table = Corpus.open(corpus).table("python", "train", ["query", "code"])
        rows = table.take(np.concatenate(list(drawn_rows(len(table), size, WARM_UP + steps))))
        options = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=WARM_UP + steps,
            per_device_train_batch_size=size,
            learning_rate=RATE,
            bf16=precision == "bf16",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SentenceTransformerTrainer(
            model=network,
            args=options,
            train_dataset=Dataset.from_dict(
                {"anchor": rows["query"].to_pylist(), "positive": rows["code"].to_pylist()}
            ),
            loss=MultipleNegativesRankingLoss(network),
            callbacks=[Clock()],
        )
        trainer.train()
    return rate_of_steps(ends, size)


def modules(settings: TrialConfig, corpus: str, root: str) -> Path:
    """The network of this package before its first step, as sentence-transformers reads it."""
    folder = Path(root) / f"modules-{settings.encoder.kind}"
    if not folder.exists():
        data = open_data(prepare(settings, corpus, "python", root), settings, "python")
        torch.manual_seed(0)
        encoder = build_encoder(settings, data.tokenizer.get_vocab_size())
        folder.mkdir()
        sentence_modules.write(Model(encoder, data.tokenizer, settings), folder)
    return folder


def measured(way: str, options: argparse.Namespace, root: str, model: str, precision: str) -> Callable[[], float]:
    command = [sys.executable, __file__, options.corpus, "--measure", way, root, model, precision]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}

    def run() -> float:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        return float(done.stdout.split()[-1])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"], choices=["float32", "bf16"])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(2)
        way, root, model, precision = options.measure
        print({"ours": ours, "theirs": theirs}[way](options.corpus, root, model, precision))
        return
    print(machine())
    print(f"{'model':8} {'precision':9} {'softnce_ray, pairs/s':>28} {'sentence-transformers':>28} {'ratio':>24}")
    with tempfile.TemporaryDirectory() as root:
        for model, precision in itertools.product(options.models, options.precisions):
            if model == "bag" and precision == "bf16":
                continue  # a bag looks up and adds: it has no matrix product
            modules(config(model, precision), options.corpus, root)
            ways = {way: measured(way, options, root, model, precision) for way in ("ours", "theirs")}
            found = in_turns(ways, options.repeats)
            ratio = spread(ratios(found["ours"], found["theirs"]))
            print(
                f"{model:8} {precision:9} {spread(found['ours'], ',.1f'):>28} {spread(found['theirs'], ',.1f'):>28} "
                f"{ratio:>24}",
                flush=True,
            )


if __name__ == "__main__":
    main()
