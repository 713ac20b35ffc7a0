"""What is wrong with a study file, told: line, key, what was got, what is possible."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, Field

from softnce_ray.config import (
    ArmConfig,
    StudyConfig,
)
from softnce_ray.config.settings import LANGUAGE, LANGUAGE_RULE, NAME, NAME_RULE
from softnce_ray.errors import UserError

Key = tuple[str | int, ...]
"""Where something stands in a study file."""

_MOST_LINES, _LONGEST_LINE = 100, 2000
"""Of the message of a study with many problems: it is to be read."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60

_SWITCH = "true or false"
TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_KINDS = {
    f"tag:yaml.org,2002:{tag}": kind
    for tag, kind in {
        "bool": _SWITCH,
        "int": "a number",
        "float": "a number",
        "null": "nothing",
        "timestamp": "a date",
    }.items()
}

_RULES = {NAME: NAME_RULE, LANGUAGE: LANGUAGE_RULE}

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": _SWITCH,
    "string_type": "text",
}
"""What pydantic's errors of single values expected; beside them there is `literal_error`."""
_PRECISION = " or {at_least: …, at_most: …, half_width: …}"
_SPACE = "{low: …, high: …} or {choices: […]}"

_TAGGED = ("encoder", "loss", "estimator", "hard_negatives")

_UNIONS: tuple[Key, ...] = (
    *(("arms", "*", group) for group in _TAGGED),
    *(("defaults", group) for group in _TAGGED),
    ("arms", "*", "search", "*"),
    ("search", "space", "*"),
    ("languages",),
    ("languages", "list", "*"),
    ("languages", "choices", "choices", "*"),
    ("seeds",),
)
"""Where pydantic adds the name of the member of a union that it tried."""


class StudyFile(StudyConfig):
    """A study as its file is written: arms name only what differs from `defaults`."""

    defaults: ArmConfig = Field(ArmConfig(), description="settings of every arm that does not name its own")

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """An arm that takes its encoder's kind from the defaults may fit several kinds, which `oneOf` would refuse."""
        return _any_of(super().model_json_schema(*args, **options))


def _any_of(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {"anyOf" if key == "oneOf" else key: _any_of(value) for key, value in schema.items()}
    return [_any_of(each) for each in schema] if isinstance(schema, list) else schema


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a study."""

    key: str
    message: str
    line: int | None = None


class StudyError(UserError, ValueError):
    """A study that cannot run, with its problems; so many `more` were found."""

    def __init__(self, source: str, problems: list[Problem], *, more: int = 0) -> None:
        self.source, self.problems = source, problems
        lines = [
            " ".join(f"{source}{f':{p.line}' if p.line else ''}: {f'{p.key}: ' if p.key else ''}{p.message}".split())
            for p in problems[:_MOST_LINES]
        ]
        lines = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…" for line in lines]
        if more := more + len(problems) - len(lines):
            lines.append(f"{source}: {more:,} more problems: correct these first")
        super().__init__("\n".join(lines))


def problem_of(loc: Key, item: Any, nodes: dict[Key, yaml.Node], lines: dict[Key, int]) -> Problem:
    key = _without_tags(loc)
    if item["type"] == "law":
        key += tuple(item["ctx"]["key"].split("."))
    node = nodes.get(key, nodes.get(("defaults", *key[2:])) if key[:1] == ("arms",) else None)
    if item["type"] == "string_type" and isinstance(node, yaml.ScalarNode) and node.value:
        return place(key, f"expected text, got {read_otherwise(node)}", lines)
    return place(key, text_of(item, loc), lines)


def text_of(item: Any, loc: Key = ()) -> str:
    got = shown(item["input"])
    if item["type"] == "law":
        return item["msg"]
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] in _RULES:
        return f"expected {_RULES[item['ctx']['pattern']]}, got {got}"
    key = _without_tags(loc)
    is_space = key[:2] == ("search", "space") or (key[:1] == ("arms",) and key[2:3] == ("search",))
    if is_space and item["type"] == "model_type":
        write = f"write {{choices: {got}}}" if isinstance(item["input"], list) else "a fixed value stands in the arm"
        return f"expected {_SPACE}, got {got}: {write}"
    is_one_value = item["type"] in (*_EXPECTED, "literal_error")
    if is_one_value and isinstance(item["input"], list) and key[:1] in (("arms",), ("defaults",)):
        path = ".".join(map(str, key[2:] if key[0] == "arms" else key[1:]))
        if len(item["input"]) < 2:
            return f"expected one value, got {got}: write it without the brackets"
        return (
            f"expected one value, got {got}: to search several write search: {{{path}: {{choices: {got}}}}} in an arm, "
            "or write one arm for each"
        )
    if is_one_value:
        return _text_of_value(item, got)
    if item["type"] == "extra_forbidden":
        possible = _fields(StudyFile, loc[:-1]) + (["choices"] if "range" in loc else [])
        return f"unknown key{suggestion(str(loc[-1]), sorted(possible))}"
    if item["type"] == "missing":
        return "missing: give a value"
    if item["type"] == "union_tag_not_found":
        return f"expected the key {item['ctx']['discriminator']}, got {got}"
    if item["type"] == "union_tag_invalid":
        possible = [tag.strip(" '") for tag in item["ctx"]["expected_tags"].split(",")]
        return f"unknown {item['ctx']['discriminator'].strip(chr(39))} {item['ctx']['tag']!r}" + suggestion(
            item["ctx"]["tag"], possible
        )
    if item["type"] == "tuple_type":
        return f"expected a list{_PRECISION if key == ('seeds',) else ''}, got {got}"
    if item["type"] == "too_long":
        return f"expected at most {item['ctx']['max_length']:,}, got {len(item['input']):,}: write fewer"
    if item["type"] == "too_short":
        return f"expected at least {item['ctx']['min_length']} of a list, got {got}"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"expected settings, {{key: value}}, got {got}; possible: {', '.join(_fields(StudyFile, loc))}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}, got {got}"


def _text_of_value(item: Any, got: str) -> str:
    """Return what is said of a single value of another type, or that is none of those that are possible."""
    value, is_choice = item["input"], item["type"] == "literal_error"
    possible = re.findall("'([^']*)'", item["ctx"]["expected"]) if is_choice else []
    expected = " or ".join(possible) if is_choice else _EXPECTED[item["type"]]
    if value is None:
        return f"expected {expected}, got null: give a value, or leave the key out"
    if isinstance(value, str) and is_choice:
        return f"unknown value {got}{suggestion(value, possible)}"
    message = f"expected {expected}, got {got}"
    if isinstance(value, str) and _is_switch(expected) is _is_switch(_kind_of(value)):
        return f"{message}, which is text: write it without quotes"
    if isinstance(value, bool) and not is_choice:
        return f"{message}: write the number"
    return message


def _kind_of(text: str) -> str:
    """Return what YAML reads a text as that stands without quotes."""
    return _KINDS.get(yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False)), "text")


def _is_switch(kind: str) -> bool | None:
    """Return True for true or false, False for numbers, None for all else."""
    return {_SWITCH: True, "a number": False, "a whole number": False}.get(kind)


def shown(value: Any) -> str:
    """Return a value for people, as YAML has it, however large it is."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else type(value).__name__


def suggestion(got: str, possible: list[str]) -> str:
    close = difflib.get_close_matches(got, possible, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";" if possible else "") + (
        f" possible: {', '.join(possible)}" if possible else ""
    )


def _without_tags(loc: Key) -> Key:
    """A location as the file has it, without what pydantic adds to it."""
    key: list[str | int] = []
    for number, part in enumerate(loc):
        above = loc[:number]
        tag = any(
            len(place) == number and all(want in ("*", got) for want, got in zip(place, above, strict=True))
            for place in _UNIONS
        )
        if not tag and part != "[key]":
            key.append(part)
    return tuple(key)


def _fields(model: type[BaseModel], loc: Key) -> list[str]:
    """Names of the keys that are possible at a pydantic location below `model`."""
    options: list[type[BaseModel]] = [model]
    for part in (*loc[:1], *loc[2:]) if loc[:1] == ("arms",) else loc:
        inner: list[type[BaseModel]] = []
        for option in options:
            if part in option.model_fields:
                inner += _models(option.model_fields[str(part)].annotation)
        tagged = [o for o in options if part in (_default(o, "kind"), _default(o, "name"), o.__name__.lower())]
        options = inner or tagged or options
    return sorted({name for option in options for name in option.model_fields})


def _default(model: type[BaseModel], field: str) -> Any:
    return model.model_fields[field].default if field in model.model_fields else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def place(key: Key, message: str, lines: dict[Key, int]) -> Problem:
    """The problem at the line of its key, of `defaults` where an arm has it from there, or of a parent."""
    shown = ".".join(map(str, key))
    if key not in lines and key[:1] == ("arms",) and len(key) > 2 and ("defaults", *key[2:]) in lines:
        key = ("defaults", *key[2:])
        shown = ".".join(map(str, key))
    while key and key not in lines:
        key = key[:-1]
    return Problem(shown, message, lines.get(key))


def nodes_of(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, int, yaml.Node]]:
    """Where everything stands: its key, its line, its value."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            yield inner, name.start_mark.line + 1, value
            yield from nodes_of(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*key, number), value.start_mark.line + 1, value
            yield from nodes_of(value, (*key, number))


def lines_of(node: yaml.Node | None) -> dict[Key, int]:
    return {key: line for key, line, _ in nodes_of(node)}


def repeated(node: yaml.Node | None, key: Key = ()) -> Iterator[Problem]:
    """Keys that YAML would silently overwrite."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            inner = (*key, name.value)
            if name.value in seen:
                yield Problem(".".join(map(str, inner)), "given twice: remove one", name.start_mark.line + 1)
            seen.add(name.value)
            yield from repeated(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from repeated(value, (*key, number))


def unquoted_keys(node: yaml.Node | None, key: Key = ()) -> Iterator[Problem]:
    """Keys that YAML takes for another thing than text. They are made text, so that the rest can be checked."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            if name.tag not in (TEXT, _MERGE):
                message = f"expected text as key, got {read_otherwise(name)}"
                yield Problem(".".join(map(str, inner)), message, name.start_mark.line + 1)
                name.tag = TEXT
            yield from unquoted_keys(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from unquoted_keys(value, (*key, number))


def read_otherwise(node: yaml.ScalarNode) -> str:
    """What is said of a scalar that is text for its writer and not for YAML."""
    kind = _KINDS.get(node.tag, "another thing than text")
    return f"{node.value or 'nothing'}, which YAML reads as {kind}: quote it, as in '{node.value}'"
