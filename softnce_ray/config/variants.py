"""Arms with values in the place of what is searched, loss and estimator included."""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from softnce_ray.config.arm import ArmConfig
from softnce_ray.config.estimators import Estimator, MixEstimator
from softnce_ray.config.losses import USES_ESTIMATOR, Loss
from softnce_ray.config.search_space import Choices, SearchSpace, is_among

_MIX = MixEstimator.model_fields["name"].default


def _by_name(union: Any) -> dict[str, type[BaseModel]]:
    return {kind.model_fields["name"].default: kind for kind in typing.get_args(typing.get_args(union)[0])}


KINDS: dict[str, dict[str, type[BaseModel]]] = {
    "loss": _by_name(Loss),
    "estimator": {name: kind for name, kind in _by_name(Estimator).items() if name != _MIX},
}
"""What can be searched by its name: losses and estimators, but for mixtures, whose parts are settings of their own."""


def with_values(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested `settings` in which dotted paths are set to `values`.

    Another loss or estimator, by its name, has its own settings: those of the one that was there go. A loss that uses
    no estimator leaves none.
    """
    result = json.loads(json.dumps(settings))
    for path in sorted(values, key=lambda path: not path.endswith(".name")):
        *parents, last = path.split(".")
        inner = result
        for key in parents:
            if inner.get(key) is None:
                inner[key] = {}  # a group that says nothing may have been left out
            inner = inner[key]
        if path in ("loss.name", "estimator.name") and values[path] not in (None, inner.get(last)):
            inner.clear()
        inner[last] = values[path]
    kind = KINDS["loss"].get(values.get("loss.name") or "")
    if kind is not None and not issubclass(kind, USES_ESTIMATOR):
        result["estimator"] = None
    return result


def conditioned(space: SearchSpace) -> SearchSpace:
    """Return a space in which settings that only some of the searched losses or estimators have are searched with those
    alone."""
    found = dict(space)
    for group, kinds in KINDS.items():
        names = space.get(f"{group}.name")
        if not isinstance(names, Choices):
            continue
        for path in space:
            first, _, rest = path.partition(".")
            if first == group and rest != "name":
                having = [name for name in names.choices if name in kinds and rest in kinds[name].model_fields]  # type: ignore[index]
                found = _only_with(found, path, f"{group}.name", names, having)
            elif group == "loss" and first == "estimator":
                using = [n for n in names.choices if n in kinds and issubclass(kinds[n], USES_ESTIMATOR)]  # type: ignore[index]
                found = _only_with(found, path, "loss.name", names, using)
    return found


def _only_with(space: SearchSpace, path: str, other: str, names: Choices, having: list[Any]) -> SearchSpace:
    when = space[path].when or {}
    if len(having) == len(names.choices) or not having:
        return space
    allowed = tuple(name for name in when.get(other, tuple(having)) if is_among(name, tuple(having)))
    # A condition that leaves nothing stays as it was given: it is refused as such.
    conditions = {**when, other: allowed or when[other]}
    return {**space, path: space[path].model_copy(update={"when": conditions})}


def variants(arm: ArmConfig, space: SearchSpace) -> tuple[ArmConfig, ...]:
    """Return the arms that a search over the names of losses and estimators reaches, all else as it is written; the arm
    alone where no such name is searched."""
    names = {path: each for path in ("loss.name", "estimator.name") if isinstance(each := space.get(path), Choices)}
    settings = arm.model_dump(mode="json", include=set(ArmConfig.model_fields))
    found: dict[str, ArmConfig] = {}
    for chosen in itertools.product(*(each.choices for each in names.values())) if names else ():
        try:
            variant = ArmConfig.model_validate(with_values(settings, dict(zip(names, chosen, strict=True))))
        except ValidationError:  # told where the study is read
            continue
        found.setdefault(variant.model_dump_json(), variant)
    return tuple(found.values()) or (arm,)
