"""The study's own run, which all others lie below: how it is found, and what its tags say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType

from softnce_ray.config import Precision
from softnce_ray.plain_names import plain
from softnce_ray.results import SeedsAsked, StudyRecord
from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, deleted, not_begun, search_runs, without_password
from softnce_ray.tracking.known import rank
from softnce_ray.tracking.long_tags import from_pieces, in_pieces


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
            (not_begun(store, study) if experiment is None else "")
            or f"no study {study!r} in {without_password(store.tracking_uri)}; "
            f"possible: {', '.join(studies_of(client)) or 'none yet'}"
        )
    return min(found, key=rank)


def studies_of(client: MlflowClient) -> list[str]:
    """Names of the studies, the latest first."""
    return [experiment.name for experiment in experiments_of(client)]


def experiments_of(client: MlflowClient) -> list[Experiment]:
    """Return the experiments of all studies, the latest first."""
    return [
        experiment
        for experiment in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
        if experiment.tags.get("softnce_ray") == "study"
    ]


def record_tags(record: StudyRecord) -> dict[str, str]:
    """Return what a study's run says of it; `seeds` are a list, or the settings of a precision."""
    sets = {name: each.model_dump(mode="json") for name, each in record.training_sets.items()}
    seeds = record.seeds.model_dump(mode="json") if isinstance(record.seeds, Precision) else record.seeds
    return {
        "study": record.study,
        "role": "study",
        "question": record.question,
        "baseline": record.baseline,
        "family": record.family,
        "search_mode": "joint" if record.is_joint else "equal",
        **in_pieces("arms", json.dumps(record.arms)),
        **in_pieces("languages", json.dumps(record.languages)),
        **in_pieces("seeds", json.dumps(seeds)),
        "corpus": record.corpus,
        "corpus_fingerprint": record.corpus_fingerprint,
        **in_pieces("definitions", json.dumps(dict(record.definitions))),
        **in_pieces("training_sets", json.dumps(sets)),
        **(in_pieces("models", json.dumps(dict(record.models))) if record.models else {}),
    }


def asked_tags(language: str, asked: SeedsAsked) -> dict[str, str]:
    """Return the tag that says how many seeds a language is asked for."""
    width = asked.half_width
    content = {"count": asked.count, "half_width": width if width is None else str(width), "why": asked.why}
    return {f"seeds_asked.{plain(language)}": json.dumps(content)}


def that_matter(tags: Mapping[str, str], runs: Iterable[Run]) -> dict[str, str]:
    """Return tags without those that are empty and that none of these runs has."""
    having = {name for run in runs for name in run.data.tags}
    return {name: text for name, text in tags.items() if text or name in having}


def seeds_in(tags: Mapping[str, str], languages: tuple[str, ...]) -> dict[str, Any]:
    """Return the seeds of a study by the tags of its run, as `StudyResults` has them."""
    seeds = json.loads(from_pieces("seeds", tags, ""))
    if not isinstance(seeds, dict):
        return {"seeds": tuple(seeds)}
    precision, asked = Precision.model_validate(seeds), {}
    for language in languages:
        if text := tags.get(f"seeds_asked.{plain(language)}"):
            content = json.loads(text)
            width = content["half_width"]
            asked[language] = SeedsAsked(content["count"], None if width is None else float(width), content["why"])
    most = max([precision.at_least, *(min(each.count, precision.at_most) for each in asked.values())])
    return {"seeds": precision.first(most), "precision": precision, "asked": asked}
