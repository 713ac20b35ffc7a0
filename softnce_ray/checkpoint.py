"""Everything a resumed run needs, written so that a crash leaves either the old checkpoint or the new one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run had come: all that is not a tensor."""

    identity: str
    epoch: int
    best_epoch: int
    best_valid_mrr: float


@dataclass(frozen=True)
class Checkpoint:
    """State after an epoch. `encoder` and `best` are state dicts, `optimisers` those of each optimiser; `history` has
    the metrics of every epoch so far, so that whoever goes on can tell again what nobody may have heard."""

    progress: Progress
    encoder: dict[str, Tensor]
    best: dict[str, Tensor]
    optimisers: list[dict[str, dict[str, Tensor]]]
    history: list[dict[str, float]] = field(default_factory=list)


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """State of each parameter by its number, as tensors."""
    state = optimiser.state_dict()["state"]
    return {
        str(number): {name: torch.as_tensor(value) for name, value in values.items()}
        for number, values in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, dict[str, Tensor]]) -> None:
    """Put back what `optimiser_state` gave; the optimiser's groups keep their settings."""
    whole = optimiser.state_dict()
    whole["state"] = {  # copies, for optimisers work in place
        int(number): {name: value.clone() for name, value in values.items()} for number, values in saved.items()
    }
    optimiser.load_state_dict(whole)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write one safetensors file into an existing folder, atomically."""
    tensors = {f"encoder/{name}": tensor for name, tensor in checkpoint.encoder.items()}
    if checkpoint.progress.best_epoch != checkpoint.progress.epoch:
        tensors.update({f"best/{name}": tensor for name, tensor in checkpoint.best.items()})
    for number, optimiser in enumerate(checkpoint.optimisers):
        for parameter, values in optimiser.items():
            tensors.update({f"optimiser/{number}/{parameter}/{name}": t for name, t in values.items()})
    partial = folder / f".{CHECKPOINT_FILE}.{os.getpid()}"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        partial,
        metadata={
            "progress": json.dumps(asdict(checkpoint.progress)),
            "history": json.dumps(checkpoint.history),
        },
    )
    os.replace(partial, folder / CHECKPOINT_FILE)


def load_checkpoint(folder: Path) -> Checkpoint:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
      FileNotFoundError: there is no checkpoint in `folder`.
      safetensors.SafetensorError: the file is damaged, or no checkpoint of this version.
    """
    encoder: dict[str, Tensor] = {}
    best: dict[str, Tensor] = {}
    optimisers: list[dict[str, dict[str, Tensor]]] = []
    with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
        try:
            metadata = file.metadata() or {}
            progress = Progress(**json.loads(metadata["progress"]))
            history = json.loads(metadata["history"])
        except (KeyError, TypeError, ValueError) as error:
            raise SafetensorError(f"expected a checkpoint of this version in {folder}, got {error!r}") from error
        for key in file.keys():  # noqa: SIM118 (not a dict)
            kind, rest = key.split("/", 1)
            if kind == "optimiser":
                number, parameter, name = rest.split("/")
                while len(optimisers) <= int(number):
                    optimisers.append({})
                optimisers[int(number)].setdefault(parameter, {})[name] = file.get_tensor(key)
            else:
                (encoder if kind == "encoder" else best)[rest] = file.get_tensor(key)
    return Checkpoint(progress, encoder, best or encoder, optimisers, history)


def read_progress(folder: Path) -> Progress | None:
    """How far the checkpoint in `folder` had come, or None where there is no whole one; reads no tensor."""
    try:
        with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:  # refuses a file that was cut off
            return Progress(**json.loads((file.metadata() or {})["progress"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
