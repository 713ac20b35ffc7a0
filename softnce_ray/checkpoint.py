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

from softnce_ray.errors import MachineError
from softnce_ray.files import expect_file
from softnce_ray.storage import Location, StorageError, opened

CHECKPOINT_FILE = "checkpoint.safetensors"

_LONGEST_HEADER = 100_000_000
"""Bytes that safetensors allows."""


class CheckpointError(MachineError, RuntimeError):
    """A checkpoint that a run cannot go on from."""


@dataclass(frozen=True)
class Progress:
    """How far a run had come: all that is not a tensor."""

    identity: str
    epoch: int
    best_epoch: int
    best_valid_mrr: float


@dataclass(frozen=True)
class Checkpoint:
    """State after an epoch. `encoder` and `best` are state dicts of what is trained, `optimisers` those of each
    optimiser; `history` has the metrics of every epoch so far, so that whoever goes on can tell again what nobody may
    have heard. What is frozen is built anew by whoever goes on, and must then have the digest `frozen`."""

    progress: Progress
    encoder: dict[str, Tensor]
    best: dict[str, Tensor]
    optimisers: list[dict[str, dict[str, Tensor]]]
    history: list[dict[str, float]] = field(default_factory=list)
    frozen: str | None = None


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
            **({} if checkpoint.frozen is None else {"frozen": checkpoint.frozen}),
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
    with safe_open(expect_file(folder / CHECKPOINT_FILE), framework="pt") as file:
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
    return Checkpoint(progress, encoder, best or encoder, optimisers, history, metadata.get("frozen"))


def read_progress(place: Location) -> Progress | None:
    """How far a checkpoint had come, or None where there is no whole one; reads no tensor.

    Raises:
      StorageError: its storage cannot be read.
    """
    try:
        with opened(place / CHECKPOINT_FILE) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            if file.seek(0, os.SEEK_END) != 8 + length + max(ends, default=0):  # it was cut off
                return None
            return Progress(**json.loads(header["__metadata__"]["progress"]))
    except StorageError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None
