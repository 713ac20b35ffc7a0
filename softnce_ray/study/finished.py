"""The result of a training, in a file beside its model and ranks, so that one training serves several trials.

Arms whose searches choose the same settings have trials of the same identity. The first is trained; the others take its
result from here, in this launch or a later one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from softnce_ray import json_text, storage
from softnce_ray.digests import CHECKSUM, checksum_problem, sha256_of, with_checksum
from softnce_ray.storage import Location

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Finished:
    """What a training came to: its last metrics, and those of each epoch as its worker reported them."""

    metrics: dict[str, float]
    epochs: list[dict[str, float]]


def write_finished(
    folder: Path, identity: str, metrics: Mapping[str, float], epochs: Sequence[Mapping[str, float]]
) -> None:
    """Write the result of a training into the folder with its other files, after them."""
    files = storage.files_below(folder)
    content = {
        "identity": identity,
        "metrics": metrics,
        "epochs": epochs,
        "sizes": {name: (folder / name).stat().st_size for name in files},
        "digests": {name: sha256_of(folder / name) for name in files if "/" not in name},
    }
    (folder / RESULT_FILE).write_text(json.dumps(with_checksum(content)))


def read_finished(place: Location, identity: str) -> Finished | None:
    """Return the result in a folder; None where there is no whole one of this identity.

    Raises:
      StorageError: the storage cannot be read.
    """
    try:
        content = json_text.load(storage.read(place / RESULT_FILE) or b"null")
        whole = (
            CHECKSUM in content
            and not checksum_problem(content)
            and content["identity"] == identity
            and storage.sizes(place, list(content["sizes"])) == content["sizes"]
            and all(_digest(storage.read(place / name) or b"") == each for name, each in content["digests"].items())
        )
        return Finished(content["metrics"], content["epochs"]) if whole else None
    except (ValueError, KeyError, TypeError, AttributeError):  # torn, damaged, or of another version
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
