"""Checkpoints for tests, without training."""

from __future__ import annotations

from pathlib import Path

import torch

from softnce_ray.checkpoint import Checkpoint, Progress, save_checkpoint


def write_checkpoint(folder: Path, identity: str, epoch: int) -> None:
    """A whole checkpoint of a run after an epoch."""
    folder.mkdir(parents=True)
    one = {"table": torch.full((3,), float(epoch))}
    save_checkpoint(Checkpoint(Progress(identity, epoch, epoch, 0.5), one, one, [], [{"epoch": epoch}]), folder)
