"""Settings as MLflow's parameters: of a trial, and of an arm, whose trials may differ in what is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from softnce_ray.config import (
    ArmConfig,
    Choices,
    SearchSpace,
    StudyConfig,
    arm_settings,
    flatten,
    resolved,
    with_values,
)
from softnce_ray.yaml_text import YamlError, load

SEARCHED = "searched"
_NONE = "none"


def params_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as MLflow's parameters; no estimator has the name of one: `estimator.name` is `none`."""
    return current_names({name: _NONE if value is None else str(value) for name, value in settings.items()})


def current_names(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters by the names that they have now, also those of a run from before."""
    named = {name: value for name, value in params.items() if (name, value) != ("estimator", _NONE)}
    return named if len(named) == len(params) else {**named, "estimator.name": _NONE}


def arm_params(text: str, arm: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """An arm's settings as its trials have them, every default resolved; `searched` in the place of what is searched
    and of what follows from that, as `loss.beta` from a searched `loss.alpha`.

    Args:
      text: the study as YAML. Of one that this version does not read, or that has another such arm, the settings are
        told as they are given.
      settings: the arm's, flat, as its study file has them.
    """
    try:
        study = StudyConfig.model_validate(load(text))
        fixed, space = arm_settings(study.arms[arm]), study.space(arm)
    except (YamlError, ValidationError, KeyError):
        return params_of(settings)
    if flatten(fixed) != settings:
        return params_of(settings)
    seen = [params_of(flatten(resolved(config))) for config in _reached(fixed, space)]
    names = dict.fromkeys(name for each in seen for name in each)
    return {
        name: SEARCHED if name in space or len({each.get(name) for each in seen}) > 1 else seen[0][name]
        for name in names
    }


def _reached(fixed: dict[str, Any], space: SearchSpace) -> Iterator[ArmConfig]:
    """The arm as it is written, and with each searched setting at each end of its range or at each choice, as far as
    such an arm can be: enough to see what changes with it."""
    yield ArmConfig.model_validate(fixed)
    for path, each in space.items():
        for value in each.choices if isinstance(each, Choices) else (each.low, each.high):
            try:
                yield ArmConfig.model_validate(with_values(fixed, {path: value}))
            except (ValidationError, KeyError, TypeError):
                continue
