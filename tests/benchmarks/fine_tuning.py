"""What training a part of a network saves: memory and time of a step, and the size of a checkpoint.

    python tests/benchmarks/fine_tuning.py corpora/python [LAYERS WIDTH HEADS]

Each row is a process of its own: its greatest memory, less what it had with the network loaded and before the first
step; the median of a step's processor time; the bytes of a checkpoint whose best epoch is an earlier one. The network
has random weights (memory and time do not ask for others) and the size of MiniLM: 6 layers of 384 with 12 heads. 128
tokens of code, batch 32, float32, one thread.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from turns import explain

from softnce_ray.allocation import freed_memory_kept
from softnce_ray.batching import random_batches
from softnce_ray.checkpoint import CHECKPOINT_FILE, Checkpoint, Progress, optimiser_state, save_checkpoint
from softnce_ray.config import TrialConfig
from softnce_ray.encoders import build_encoder, recompute, trained_state
from softnce_ray.export import hf
from softnce_ray.model import Model
from softnce_ray.objective import prepared
from softnce_ray.optimisers import build_optimisers
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import _step
from softnce_ray.workers import ALONE

ROWS: dict[str, dict[str, Any]] = {
    "all": {},
    "all, gradient_checkpointing": {"recompute": True},
    "all, chunk_size 8": {"chunk_size": 8},
    "freeze embeddings": {"freeze": {"embeddings": True}},
    "freeze embeddings and half": {"freeze": {"embeddings": True, "layers": 3}},
    "lora, rank 8": {"lora": {}},
    "lora, rank 8, upper half": {"lora": {}, "freeze": {"layers": 3}},
    "lora, gradient_checkpointing": {"lora": {}, "recompute": True},
}
STEPS = 4


def config(encoder: dict[str, Any]) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "encoder": {"kind": "transformer", **encoder},
            "tokens": {"query_length": 32, "code_length": 128},
            "training": {"batch_size": 32, "epochs": 1, "learning_rate": 0.001},
            "language": "python",
            "seed": 1,
        }
    )


@freed_memory_kept()
def measure(corpus: str, root: str, model: str, name: str) -> None:
    """Print bytes of memory, seconds and bytes of a checkpoint as JSON."""
    torch.set_num_threads(1)
    row = dict(ROWS[name])
    again, chunk_size = row.pop("recompute", False), row.pop("chunk_size", None)
    if row.get("freeze", {}).get("layers"):
        half = json.loads((Path(model) / "config.json").read_text())["num_hidden_layers"] // 2
        row["freeze"] = {**row["freeze"], "layers": half}
    settings = config({"model": model, **row})
    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    encoder = build_encoder(settings, data.tokenizer.get_vocab_size()).train()
    if again:
        recompute(encoder)
    optimisers = build_optimisers(encoder, settings.training)
    rows = islice(cycle(random_batches(len(data.train.queries), 32, 0, 1)), STEPS)
    batches = ((each, each) for each in rows)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for batch in prepared(batches, settings, data):
        started = time.process_time()
        _step(encoder, optimisers, 1e-3, batch, settings, data, "cpu", ALONE, chunk_size)
        seconds.append(time.process_time() - started)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = trained_state(encoder)
    best = {key: tensor.clone() for key, tensor in state.items()}
    saved = Checkpoint(Progress("", 2, 1, 0.5), state, best, [optimiser_state(each) for each in optimisers])
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(saved, Path(folder))
        size = (Path(folder) / CHECKPOINT_FILE).stat().st_size
    print(json.dumps([(most - before) * 1024, statistics.median(seconds[1:]), size]))


def write_network(corpus: str, root: str, folder: Path, layers: int, width: int, heads: int) -> None:
    settings = config({"layers": layers, "width": width, "heads": heads})
    data = open_data(prepare(settings, corpus, "python", root), settings, "python")
    encoder = build_encoder(settings, data.tokenizer.get_vocab_size())
    print(f"{sum(each.numel() for each in encoder.parameters()):,} numbers, {layers} layers of {width}")
    hf.write(Model(encoder.eval(), data.tokenizer, settings), folder)


def main(corpus: str, layers: int, width: int, heads: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        model, root = Path(work) / "model", str(Path(work) / "prepared")
        model.mkdir()
        write_network(corpus, root, model, layers, width, heads)
        prepare(config({"model": str(model)}), corpus, "python", root)
        print(f"{'':30} {'MB':>7} {'s a step':>9} {'checkpoint MB':>14}")
        for name in ROWS:
            command = [sys.executable, __file__, corpus, root, str(model), name]
            memory, seconds, size = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(f"{name:30} {memory / 1e6:7.0f} {seconds:9.2f} {size / 1e6:14.1f}", flush=True)


if __name__ == "__main__":
    explain(__doc__)
    if len(sys.argv) == 5 and sys.argv[4] in ROWS:
        measure(*sys.argv[1:])
    elif len(sys.argv) in (2, 5):
        layers, width, heads = map(int, sys.argv[2:] or (6, 384, 12))
        main(sys.argv[1], layers, width, heads)
    else:
        sys.exit("usage: python tests/benchmarks/fine_tuning.py CORPUS [LAYERS WIDTH HEADS]")
