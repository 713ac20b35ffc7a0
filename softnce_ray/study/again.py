"""How a study that was stopped goes on: a job's user has another command for it than a launch's."""

from __future__ import annotations

import os

VARIABLE = "SOFTNCE_AGAIN"
"""Set for launches that were sent to a cluster: what its sender types to go on."""


def command(study: str = "", options: str = "") -> str:
    """What to type so that a study goes on; `options` are those of a launch on this machine."""
    own = " ".join(each for each in ("softnce-ray resume", study) if each) + options
    return os.environ.get(VARIABLE) or own


def giving_up() -> str:
    """What to type so that a launch ends."""
    return "softnce-ray stop" if os.environ.get(VARIABLE, "").startswith("softnce-ray submit") else "Ctrl-C"
