"""Where a worker of a study works: its directory and its device."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path


def working_in(directory: str) -> AbstractContextManager[None]:
    """Work where a study's relative paths mean what they mean where it was launched.

    Ray's workers start elsewhere, and Tune gives each trial a folder of its own. A machine without that directory stays
    where it is.
    """
    return contextlib.chdir(directory) if directory and Path(directory).is_dir() else contextlib.nullcontext()


def device_for(device: str, gpus: float) -> str:
    """Return the torch device of a trial."""
    return ("cuda" if gpus > 0 else "cpu") if device == "auto" else device
