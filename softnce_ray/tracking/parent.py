"""The study's own run, which all others lie below."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType

from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, deleted, search_runs, without_password
from softnce_ray.tracking.known import rank


def parent_of(client: MlflowClient, store: Store, study: str) -> Run:
    """The study's own run; of several, which a lost answer can leave, the one that counts.

    Raises:
      TrackingError: no such study, and the message names those that there are; or its experiment was deleted.
    """
    experiment: Experiment | None = client.get_experiment_by_name(study)
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise TrackingError(deleted(store, experiment))
    found = search_runs(client, experiment.experiment_id, "tags.role = 'study'") if experiment else []
    if not found:
        raise TrackingError(
            f"no study {study!r} in {without_password(store.tracking_uri)}; "
            f"possible: {', '.join(studies_of(client)) or 'none yet'}"
        )
    return min(found, key=rank)


def studies_of(client: MlflowClient) -> list[str]:
    """Names of the studies, the latest first."""
    return [
        experiment.name
        for experiment in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
        if experiment.tags.get("softnce_ray") == "study"
    ]
