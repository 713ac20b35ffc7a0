"""Folders of models that a study names: what is in them is part of what a trial is.

A trial's identity has a model's name, as it always had. Only where a folder is no longer what it was when the study was
first launched its content is added, so that trials of before do not count for it, and count again when it is put back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softnce_ray.config import ArmConfig, StudyConfig
from softnce_ray.errors import UserError
from softnce_ray.named import located, model_content
from softnce_ray.store import Store
from softnce_ray.study.doctor.models import models_of_arm, named_models
from softnce_ray.tracking import recorded_models


@dataclass(frozen=True)
class ModelContents:
    """Hashes of folders by the models' names: as they are `now`, and as they were `first`."""

    now: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)

    @property
    def recorded(self) -> dict[str, str]:
        """What the study's own run keeps."""
        return {**self.now, **self.first}

    def suffix(self, arm: ArmConfig) -> str:
        """Return what an arm's models add to the identity of what it learns from: "" for folders as they were first."""
        names = {named.model for named in models_of_arm(arm)}
        changed = {name: self.now[name] for name in names & self.now.keys() if self.recorded[name] != self.now[name]}
        if not changed:
            return ""
        return f"+models:{hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]}"


def model_contents(study: StudyConfig, store: Store) -> ModelContents:
    """Return the contents of the folders that a study names, and those that MLflow has of its first launch."""
    now = {named.model: content for named in named_models(study) if (content := _content(named.model))}
    return ModelContents(now, recorded_models(store, study.study)) if now else ModelContents()


def _content(model: str) -> str:
    try:
        place = located(model)
    except UserError:  # told where models are looked for
        return ""
    return model_content(place) if Path(place).is_dir() else ""
