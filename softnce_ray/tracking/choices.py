"""The choice that was recorded for a study, read back; `selecting.record_choice` writes it."""

from __future__ import annotations

import json
from typing import Any

from mlflow.exceptions import MlflowException

from softnce_ray.plain_names import plain
from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, connect, first_line
from softnce_ray.tracking.parent import parent_of


def choice_tag(language: str) -> str:
    """Name of the parent run's tag that holds the choice of a language."""
    return f"selection.{plain(language)}"


def read_choice(store: Store, study: str, language: str) -> dict[str, Any] | None:
    """What the parent run has as the choice of a language, or None; what is no JSON object counts as none.

    Raises:
      TrackingError: no such store or study, or it does not answer.
    """
    client = connect(store, must_exist=True)
    try:
        parent = parent_of(client, store, study)
    except MlflowException as error:
        raise TrackingError(f"the choice of study {study} cannot be read: {first_line(error)}") from error
    try:
        found = json.loads(parent.data.tags.get(choice_tag(language), ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
