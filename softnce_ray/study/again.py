"""How a study that was stopped goes on: a job's user has another command for it than a launch's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from softnce_ray.environment import unset, variables
from softnce_ray.store import Store

VARIABLE = "SOFTNCE_AGAIN"
"""What its user types so that a launch goes on; of one that was sent to a cluster, what its sender types."""


@contextlib.contextmanager
def by(store: Store, study: str, *options: str) -> Iterator[None]:
    """Let `command` name a study, its store and further options, unless somebody has said before how it goes on."""
    with variables(unset({VARIABLE: store.command("resume", study, *options)})):
        yield


def command() -> str:
    """Return what to type so that the study goes on."""
    return os.environ.get(VARIABLE) or "the same call"


def is_job() -> bool:
    """Return True in a job of a cluster, whose lines its sender reads."""
    return os.environ.get(VARIABLE, "").startswith("softnce-ray submit")


def giving_up() -> str:
    """Return what to type so that a launch ends."""
    return "stopping the job" if is_job() else "Ctrl-C"
