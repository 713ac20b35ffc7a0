"""Numbers and truth values of settings: none is taken for another, as pydantic would."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic_core import CoreSchema, PydanticKnownError, core_schema

_WITHOUT_A_POINT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""`1e-3`: a number to its writer and to YAML 1.2, text to YAML 1.1, which asks for a point and a sign."""


def _whole(value: Any) -> Any:
    """Return what may be a whole number: not true, and not the text "3"."""
    return _number(value, "int_type")


def _number(value: Any, wrong: Any = "float_type") -> Any:
    """Return what may be a number: not true, and not the text "3"."""
    if isinstance(value, str) and _WITHOUT_A_POINT.fullmatch(value):
        return float(value)
    if isinstance(value, bool | str | bytes):
        raise PydanticKnownError(wrong)
    return value


def _switch(value: Any) -> Any:
    """Return what may be true or false: not 1, and not the text "yes"."""
    if not isinstance(value, bool):
        raise PydanticKnownError("bool_type")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {"int": _whole, "float": _number, "bool": _switch}

_INNER = ("schema", "fields", "items_schema", "keys_schema", "values_schema", "choices")
"""Where pydantic-core's schemas have others."""


def with_checks(model: CoreSchema) -> CoreSchema:
    """Return pydantic-core's schema of a model with a check before each of its numbers and truth values, however deep
    in lists. Models within it have theirs."""
    return _checked(model, within=False)


def _checked(schema: Any, *, within: bool) -> Any:
    if isinstance(schema, list):
        return [_checked(each, within=within) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if not isinstance(kind, str):  # fields or choices by their names, of which one may be `type`
        return {name: _checked(each, within=within) for name, each in schema.items()}
    if kind in _CHECKS:
        # Outside of the bounds, which are part of the schema: what describes studies for editors keeps them.
        return core_schema.no_info_before_validator_function(_CHECKS[kind], schema)  # type: ignore[arg-type]
    if kind == "union" or (kind == "model" and within):  # a union of plain types takes each as it is
        return schema
    inner = {key: _checked(schema[key], within=within or kind == "model") for key in _INNER if key in schema}
    return {**schema, **inner}
