"""Values of options that are wrong, in the words of all other errors."""

from __future__ import annotations

import difflib
import re
from typing import Any

import typer
from typer.core import TyperGroup

_CHOICE = re.compile("Value error, .* is not one of (.*)[.]", re.DOTALL)
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}


class Commands(TyperGroup):
    """The commands of this package. Typer would show pydantic's words for a wrong value."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _in_our_words(error)
            raise


def _in_our_words(error: typer.BadParameter) -> str:
    from pydantic import ValidationError

    if not isinstance(error.__cause__, ValidationError):
        return error.message
    item = error.__cause__.errors()[0]
    got = item["input"]
    if choice := _CHOICE.fullmatch(item["msg"]):
        close = difflib.get_close_matches(str(got), re.findall("'([^']*)'", choice[1]), n=1)
        return f"expected one of {choice[1]}, got {got!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if (expected := _EXPECTED.get(item["type"])) is not None:
        return f"expected {expected.format(**item.get('ctx', {}))}, got {got!r}"
    return f"{item['msg'].removeprefix('Value error, ')}, got {got!r}"
