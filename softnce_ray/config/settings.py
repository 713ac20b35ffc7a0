"""What all settings have in common."""

from __future__ import annotations

import functools
import types
import typing
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from softnce_ray.config.values import with_checks

NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
NAME_RULE = "a name of at most 63 lower-case letters, digits, - and _, the first a letter or a digit"
Name = Annotated[str, Field(pattern=NAME)]

LANGUAGE = r"^[a-z0-9]([a-z0-9_+#.* -]{0,61}[a-z0-9_+#*-])?$"
"""Of languages: `c++`, `c#`, `visual basic .net`. It is also the name of a folder."""
LANGUAGE_RULE = (
    "a language's name of at most 63 lower-case letters, digits, spaces and _ - + # . *, the first of them a letter or "
    "a digit, the last no space and no dot"
)
LanguageName = Annotated[str, Field(pattern=LANGUAGE)]


Family = Literal["study", "language"]
"""Differences that are corrected for together: all of a study, or those of each language."""


Temperature = Annotated[float, Field(ge=1e-6)]
"""Divisor of scores or similarities. They are float32, exact to some 1e-7 of 1: below, a softmax would be made
of their rounding, and further below leave float32's range."""


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt key is an error instead of a silent default, as is a value of
    another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return with_checks(handler(source))


def wrong(key: str, message: str) -> PydanticCustomError:
    """An error of a law between several keys, blamed on `key` (relative to the model that checks)."""
    return PydanticCustomError("law", "{message}", {"key": key, "message": message})


def repeated(values: Iterable[Any]) -> str:
    """Return those of `values` that come more than once, for a message; at most ten."""
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    return ", ".join(map(str, twice[:10])) + (f" and {len(twice) - 10:,} others" if len(twice) > 10 else "")


def has_setting(settings: BaseModel, path: str) -> bool:
    """Return True if settings have one at a dotted path."""
    inner: Any = settings
    *parents, last = path.split(".")
    for key in parents:
        inner = getattr(inner, key, None)
    return isinstance(inner, BaseModel) and last in type(inner).model_fields


def kind_of(settings: BaseModel, path: str) -> Any:
    """Return the type of the setting at a dotted path, without `None` and bounds: `int` of `int | None`."""
    *parents, last = path.split(".")
    annotation = type(functools.reduce(getattr, parents, settings)).model_fields[last].annotation
    kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
    is_nullable = len(kinds) == 1 and types.NoneType in typing.get_args(annotation)
    kind = kinds[0] if is_nullable else annotation
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
