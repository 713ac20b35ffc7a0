"""Checkpoints of models that preparation trains: one that was killed goes on after its last epoch."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from softnce_ray import storage
from softnce_ray.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from softnce_ray.storage import Location


@dataclass(frozen=True)
class ModelCheckpoint:
    """The latest checkpoint of a model, in a folder of the storage beside the one that is made of the model. Another
    machine goes on with it too."""

    place: Location

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint in the place of the one before.

        Raises:
          OSError, StorageError: it cannot be written.
        """
        if (path := self.place.path) is not None:
            path.mkdir(parents=True, exist_ok=True)
            save_checkpoint(checkpoint, path)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(checkpoint, Path(folder))
            storage.upload(Path(folder), self.place, [CHECKPOINT_FILE])

    def load(self, identity: str) -> Checkpoint | None:
        """Return the checkpoint to go on from; None where there is none that can be read, or one of another identity.

        Raises:
          StorageError: the storage cannot be read.
        """
        try:
            with storage.on_disk(self.place, (CHECKPOINT_FILE,)) as folder:
                found = load_checkpoint(folder)
        except (FileNotFoundError, SafetensorError):
            return None
        return found if found.progress.identity == identity else None

    def remove(self) -> None:
        """Remove the checkpoint of a model that is done; one that cannot be removed stays, and is never read again."""
        with contextlib.suppress(OSError):
            storage.remove(self.place)
