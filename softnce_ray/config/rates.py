"""Learning rates of an arm that gives none, by what it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel


class Rates(NamedTuple):
    """Learning rates of `training` and of a `simcse` estimator that is trained."""

    training: float
    simcse: float


BAG = Rates(training=0.01, simcse=0.001)
FROM_SCRATCH = Rates(training=0.001, simcse=0.001)
PRETRAINED = Rates(training=2e-5, simcse=3e-5)
ADAPTERS = Rates(training=2e-4, simcse=3e-4)


def with_rates(arm: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an arm, not yet validated, with learning rates where they give none.

    Nothing is added where nothing is trained, or where the rate is that of every kind.
    """
    rates = _rates(_plain(arm.get("encoder", {})))
    whole = dict(arm)
    training = _plain(arm.get("training", {}))
    if rates.training != BAG.training and training is not None and training.get("epochs") != 0:
        whole["training"] = {"learning_rate": rates.training, **training}
    estimator = _plain(arm.get("estimator"))
    if rates.simcse == BAG.simcse or estimator is None:
        return whole
    if estimator.get("name") == "simcse":
        whole["estimator"] = _trained_at(rates.simcse, estimator)
    mix, parts = estimator.get("mix"), _plain(estimator.get("parts", {}))
    if isinstance(mix, Mapping) and "simcse" in mix and parts is not None:
        part = _plain(parts.get("simcse", {"name": "simcse"}))
        if part is not None:
            whole["estimator"] = {**estimator, "parts": {**parts, "simcse": _trained_at(rates.simcse, part)}}
    return whole


def _rates(encoder: Mapping[str, Any] | None) -> Rates:
    kind = (encoder or {}).get("kind", "bag")
    if encoder is None or kind == "bag":
        return BAG
    if kind == "transformer" and encoder.get("model") is None:
        return FROM_SCRATCH
    return PRETRAINED if encoder.get("lora") is None else ADAPTERS


def _trained_at(rate: float, simcse: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `simcse` with a rate; a named model is not trained."""
    return dict(simcse) if simcse.get("model") is not None else {"learning_rate": rate, **simcse}


def _plain(settings: Any) -> Mapping[str, Any] | None:
    """Settings as given, without their defaults; None: they are no settings, which is told elsewhere."""
    if isinstance(settings, BaseModel):
        given = settings.model_fields_set | ({"kind", "name"} & type(settings).model_fields.keys())
        return {key: getattr(settings, key) for key in given}
    return settings if isinstance(settings, Mapping) else None
