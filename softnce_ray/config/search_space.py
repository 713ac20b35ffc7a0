"""Ranges and choices of settings that a study searches, with their conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from softnce_ray.config.seeds import MOST
from softnce_ray.config.settings import Settings, wrong

Value = str | int | float | bool | None


def _listed(value: Any) -> tuple[Any, ...]:
    """One value or a list of them, as a list."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not values or not all(isinstance(each, Value) for each in values):
        raise ValueError("expected a value (true, false, a number or a string) or a list of values")
    if any(isinstance(each, float) and not math.isfinite(each) for each in values):
        raise ValueError("expected finite numbers")
    return values


OneOrMore = Annotated[
    tuple[Value, ...],
    BeforeValidator(_listed, json_schema_input_type=Value | Annotated[list[Value], Field(min_length=1)]),
]


class _Searched(Settings):
    """Conditions, which all searched settings may have."""

    # Left out where there is none: a space without conditions stays the one that it was before there were any.
    when: dict[str, OneOrMore] | None = Field(
        None,
        min_length=1,
        exclude_if=lambda when: when is None,
        description="searched only in trials where each of these settings (dotted paths, searched by choices in the "
        "same arm) takes the value, or one of the values; elsewhere the arm's own value stands",
    )

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the setting is searched in a trial whose searched settings have these `values`."""
        return all(other in values and is_among(values[other], those) for other, those in (self.when or {}).items())


class Range(_Searched):
    """An interval to search: whole numbers where the setting is one."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not self.low < self.high:
            raise wrong("low", f"expected low < high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise wrong("low", f"expected low > 0 with log: true, got {self.low:g}")
        if self.log and self.step is not None:
            raise wrong("step", "log and step exclude each other: remove one")
        if self.step is not None and self.step > self.high - self.low:
            raise wrong("step", f"expected step <= high - low = {self.high - self.low:g}, got {self.step:g}")
        return self

    def holds(self, value: Any) -> bool:
        """Return True if the interval has a value, on one of its steps where it has steps."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or (Decimal(str(value)) - Decimal(str(self.low))) % Decimal(str(self.step)) == 0

    @property
    def highest(self) -> float:
        """The highest value that is searched: `high`, but where steps do not meet it."""
        if self.step is None:
            return self.high
        # In decimals, as they were written: 0.1 + 3 * 0.3 is 1.
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)


class Choices(_Searched):
    """A list of values to search."""

    choices: tuple[Value, ...] = Field(min_length=2, max_length=MOST)

    def holds(self, value: Any) -> bool:
        """Return True if a value is one of the choices."""
        return is_among(value, self.choices)


def _kind_of_space(value: Any) -> str:
    return "choices" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "range"


SearchSpace = dict[
    str,
    Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind_of_space)],
]


def is_among(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is one of `values`; true is not 1, as Python has it."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


def in_order(space: SearchSpace) -> list[str]:
    """The settings of a space, each after those that its conditions name.

    Left out are those whose conditions can never be looked up: they name a setting that is not searched, or go in
    a circle.
    """
    order: list[str] = []
    rest = list(space)
    while ready := [path for path in rest if all(other in order for other in space[path].when or ())]:
        order += ready
        rest = [path for path in rest if path not in ready]
    return order


def searched(space: SearchSpace, values: Mapping[str, Any]) -> list[str]:
    """The settings that are searched in a trial where they have these `values`: those whose conditions hold.

    A condition on a setting that is itself not searched there does not hold, whatever `values` says of it.
    """
    found: dict[str, Any] = {}
    for path in in_order(space):
        if space[path].applies(found):
            found[path] = values.get(path, _NO_VALUE)
    return list(found)


_NO_VALUE = object()
