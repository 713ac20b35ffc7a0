"""Reading a study file: every problem at once, each with its line, its key, what was got and what is possible."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
import random
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from softnce_ray.config import (
    ArmConfig,
    Choices,
    Range,
    SearchSpace,
    StudyConfig,
    arm_settings,
    resolved,
    with_values,
)
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.errors import UserError

_CORNERS = 256

Key = tuple[str | int, ...]


class StudyFile(StudyConfig):
    """A study as its file is written: arms name only what differs from `defaults`."""

    defaults: ArmConfig = Field(ArmConfig(), description="settings of every arm that does not name its own")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a study."""

    key: str
    message: str
    line: int | None = None


class StudyError(UserError, ValueError):
    """A study that cannot run, with all its problems."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source, self.problems = source, problems
        super().__init__(
            "\n".join(
                " ".join(
                    f"{source}{f':{p.line}' if p.line else ''}: {f'{p.key}: ' if p.key else ''}{p.message}".split()
                )
                for p in problems
            )
        )


def load_study(path: str | Path) -> StudyConfig:
    """Read and check a study file, its corpus included.

    Raises:
      StudyError: the file is missing or wrong; the message has a line for each problem.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(
            str(path), [Problem("", "no such study file; the studies that ship lie in search_spaces/")]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(str(path), [Problem("", f"cannot be read: {error}")]) from None
    return parse_study(text, source=str(path))


def parse_study(text: str, *, source: str = "study") -> StudyConfig:
    """Check a study given as YAML; see `load_study`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
        lines, repeated = dict(_lines(node)), list(_repeated(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise StudyError(
            source, [Problem("", f"not YAML: {getattr(error, 'problem', error)}", mark.line + 1 if mark else None)]
        ) from None
    except Exception as error:  # PyYAML's own: a value that is no such date or number, or endless nesting
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudyError(source, [Problem("", f"not YAML that can be read: {reason}")]) from None
    if not isinstance(raw, dict):
        raise StudyError(
            source, [Problem("", f"expected keys such as study, corpus and arms, got {type(raw).__name__}")]
        )
    problems = [Problem(".".join(map(str, key)), "given twice: remove one", line) for key, line in repeated]
    try:
        ArmConfig.model_validate(raw.get("defaults") or {})
    except ValidationError as error:  # laws are checked arm by arm, when each has its own settings
        problems += [
            _problem(("defaults", *item["loc"]), item, lines) for item in error.errors() if item["type"] != "law"
        ]
    study, found, aside = _validated(_with_defaults(raw))
    problems += [_problem(item["loc"], item, lines) for item in found]
    if study is not None:
        beyond = (*_search_problems(study, aside), *_same_arms(study, aside))
        problems += [_place(key, message, lines) for key, message in beyond]
    problems += [_place(key, message, lines) for key, message in _corpus_problems(raw)]
    if problems or study is None:
        unique = dict.fromkeys(problems)
        raise StudyError(source, sorted(unique, key=lambda problem: problem.line or 0))
    return study


def check_study(study: StudyConfig) -> StudyConfig:
    """The checks of `load_study` for a study made in Python."""
    found = [*_search_problems(study), *_same_arms(study), *_corpus_problems(study.model_dump())]
    if found:
        raise StudyError(f"study {study.study}", [_place(key, message, {}) for key, message in found])
    return study


# --- from the file to whole arms --------------------------------------------------------------------


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """The study with `defaults` merged into each arm; what is not a mapping is left for validation to name."""
    defaults, arms = raw.get("defaults"), raw.get("arms")
    whole = {key: value for key, value in raw.items() if key != "defaults"}
    if isinstance(arms, dict):
        base = defaults if isinstance(defaults, dict) else {}
        whole["arms"] = {name: _merged(base, {} if arm is None else arm) for name, arm in arms.items()}
    return whole


def _merged(base: Any, over: Any) -> Any:
    """`over` on `base`, key by key; another `kind` or `name` is another thing and takes nothing from the base."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    for tag in ("kind", "name"):
        if tag in over and over[tag] != base.get(tag):
            return over
    return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}


def _validated(whole: dict[str, Any]) -> tuple[StudyConfig | None, list[Any], frozenset[str]]:
    """The study, pydantic's errors on the way to it, and the arms (and "search") that had some.

    A law between keys is only checked when the keys themselves are right. So what is wrong is set aside, replaced
    by something harmless, and the rest is checked again: all errors are found at once, and none that only follows
    from another.
    """
    found: list[Any] = []
    aside: set[str] = set()
    while True:
        try:
            return StudyConfig.model_validate(whole), found, frozenset(aside)
        except ValidationError as error:
            new = error.errors()
        # pydantic does not count wrong items, and then finds the list too short
        inner = {item["loc"][:-1] for item in new}
        new = [item for item in new if item["type"] != "too_short" or item["loc"] not in inner]
        found += new
        mended = dict(whole)
        if not isinstance(mended.get("arms"), dict):  # nothing more can be checked without arms
            return None, found, frozenset(aside)
        for item in new:
            loc = item["loc"]
            top = str(item["ctx"]["key"] if item["type"] == "law" and not loc else loc[0] if loc else "").split(".")[0]
            if top == "arms":
                if len(loc) < 2:  # there are none, so there is nothing more to check
                    return None, found, frozenset(aside)
                aside.add(str(loc[1]))
                mended["arms"] = {name: {} if name == loc[1] else arm for name, arm in mended["arms"].items()}
                if loc[2:] == ("[key]",):
                    mended["arms"].pop(loc[1], None)
            elif top == "search" and not loc:
                mended["search"] = {**mended["search"], "seed": _HARMLESS["search"]["seed"]}
            elif item["type"] == "extra_forbidden" or top not in StudyConfig.model_fields:
                mended.pop(top, None)
            else:
                aside.add(top)
                mended[top] = {**_HARMLESS, "baseline": next(iter(mended["arms"]), "")}.get(top)
                if mended[top] is None:
                    del mended[top]
        if mended == whole:
            return None, found, frozenset(aside)
        whole = mended


_HARMLESS: dict[str, Any] = {
    "study": "study",
    "corpus": "",
    "languages": ["language"],
    "seeds": [2**31 - 1],
    "search": {"trials": 1, "seed": 2**31 - 2},
}


# --- what is wrong beyond a single value ------------------------------------------------------------


def _search_problems(study: StudyConfig, aside: frozenset[str] = frozenset()) -> Iterator[tuple[Key, str]]:
    for arm, config in study.arms.items():
        if arm in aside:
            continue
        if config.search and study.search is None:
            yield ("arms", arm, "search"), "the study has no search: add search: {trials: …} or remove it here"
        settings = arm_settings(config)
        valid: SearchSpace = {}
        for path, space in study.space(arm).items():
            own = path in config.search
            place: Key = ("arms", arm, "search", path) if own else ("search", "space", path)
            message = _path_problem(config, path)
            wrong = None if message else _range_problem(config, path, space)
            if wrong:
                yield place, wrong
            elif message:
                hint = "" if own else f"; settings that only some arms have go under arms.{arm}.search or its like"
                yield place, f"{message} (arm {arm}){hint}"
            else:
                valid[path] = space
        for values in _corners(valid):
            try:
                ArmConfig.model_validate(with_values(settings, values))
            except ValidationError as error:
                first = error.errors()[0]
                shown = ", ".join(f"{path} = {value}" for path, value in values.items())
                last = next(iter(values))
                own = last in config.search
                yield (
                    ("arms", arm, "search", last) if own else ("search", "space", last),
                    f"the space of arm {arm} reaches an impossible setting ({shown}): {_text(first, first['loc'])}",
                )
                break


def _corners(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """The extremes of a search space: where it breaks a law, it breaks it there. Of too many, a fixed sample that
    has each end of each setting."""
    ends = {path: (s.choices if isinstance(s, Choices) else (s.low, s.high)) for path, s in space.items()}
    if not ends:
        return
    if math.prod(map(len, ends.values())) <= _CORNERS:
        yield from (dict(zip(ends, each, strict=True)) for each in itertools.product(*ends.values()))
        return
    first = {path: values[0] for path, values in ends.items()}
    yield from ({**first, path: value} for path, values in ends.items() for value in values)
    chance = random.Random(0)
    yield from ({path: chance.choice(values) for path, values in ends.items()} for _ in range(_CORNERS))


def _path_problem(arm: ArmConfig, path: str) -> str | None:
    """Why a dotted path is no setting that can be searched in this arm, or None."""
    model: Any = arm
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(model, BaseModel) or key not in type(model).model_fields:
            return _unknown(path, key, model)
        model = getattr(model, key)
    if not isinstance(model, BaseModel) or last not in type(model).model_fields:
        return _unknown(path, last, model)
    if isinstance(getattr(model, last), BaseModel):
        return f"{path} is a group of settings, not one"
    if path == "search" or last in ("kind", "name"):
        return f"{path} makes another arm: write one arm for each"
    return None


def _range_problem(arm: ArmConfig, path: str, space: Range | Choices) -> str | None:
    """Why an interval does not fit a setting, or None. Its ends are checked with all others of the space."""
    *parents, last = path.split(".")
    model = functools.reduce(getattr, parents, arm)
    kind = type(model).model_fields[last].annotation
    if isinstance(space, Choices):
        return None
    if kind is bool:
        return f"{path} is true or false: expected choices: [true, false], got low and high"
    if kind is int and space.step is not None and space.step != int(space.step):
        return f"{path} is a whole number: expected a whole step, got {space.step:g}"
    return None


def _unknown(path: str, key: str, model: Any) -> str:
    possible = (
        [name for name in type(model).model_fields if name not in ("search", "kind", "name")]
        if isinstance(model, BaseModel)
        else []
    )
    return f"no setting {path}{_suggestion(key, possible)}"


def _same_arms(study: StudyConfig, aside: frozenset[str] = frozenset()) -> Iterator[tuple[Key, str]]:
    seen: dict[str, str] = {}
    for name, arm in study.arms.items():
        if name in aside:
            continue
        same = seen.setdefault(json.dumps(resolved(arm), sort_keys=True), name)
        if same != name:
            yield ("arms", name), f"has the same settings as arm {same}: they would be trained twice; remove one"


def _corpus_problems(raw: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    folder, languages = raw.get("corpus"), raw.get("languages")
    if not isinstance(folder, str):
        return
    try:
        corpus = Corpus.open(Path(folder))
    except CorpusError as error:
        yield ("corpus",), str(error)
        return
    except (OSError, ValueError) as error:  # a name that no folder can have, or one that may not be read
        yield ("corpus",), f"expected the folder of a corpus, got {folder!r}: {error}"
        return
    for number, language in enumerate(languages if isinstance(languages, list | tuple) else ()):
        if language not in corpus.languages:
            yield (
                ("languages", number),
                (f"the corpus {folder} has no language {language!r}; possible: {', '.join(corpus.languages)}"),
            )


# --- from pydantic's errors to ours -----------------------------------------------------------------


def _problem(loc: Key, item: Any, lines: dict[Key, int]) -> Problem:
    key = _without_tags(loc)
    if item["type"] == "law":
        key += tuple(item["ctx"]["key"].split("."))
    return _place(key, _text(item, loc), lines)


def _text(item: Any, loc: Key = ()) -> str:
    got = item["input"]
    if item["type"] == "law":
        return item["msg"]
    if item["type"] == "extra_forbidden":
        return f"unknown key{_suggestion(str(loc[-1]), _fields(StudyFile, loc[:-1]))}"
    if item["type"] == "missing":
        return "missing: give a value"
    if item["type"] == "union_tag_not_found":
        return f"expected the key {item['ctx']['discriminator']}, got {got!r}"
    if item["type"] == "union_tag_invalid":
        possible = [tag.strip(" '") for tag in item["ctx"]["expected_tags"].split(",")]
        return f"unknown {item['ctx']['discriminator'].strip(chr(39))} {item['ctx']['tag']!r}" + _suggestion(
            item["ctx"]["tag"], possible
        )
    message = item["msg"].removeprefix("Value error, ")
    shown = repr(got) if len(repr(got)) <= 60 else type(got).__name__
    return f"{message[0].lower()}{message[1:]}, got {shown}"


def _suggestion(got: str, possible: list[str]) -> str:
    close = difflib.get_close_matches(got, possible, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";" if possible else "") + (
        f" possible: {', '.join(possible)}" if possible else ""
    )


_UNIONS: tuple[Key, ...] = (
    *(("arms", "*", group) for group in ("encoder", "loss", "estimator")),
    *(("defaults", group) for group in ("encoder", "loss", "estimator")),
    ("arms", "*", "search", "*"),
    ("search", "space", "*"),
)
"""Where pydantic adds the name of the member of a union that it tried."""


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


# --- lines ------------------------------------------------------------------------------------------


def _place(key: Key, message: str, lines: dict[Key, int]) -> Problem:
    """The problem at the line of its key, of `defaults` where an arm has it from there, or of a parent."""
    shown = ".".join(map(str, key))
    if key not in lines and key[:1] == ("arms",) and len(key) > 2 and ("defaults", *key[2:]) in lines:
        key = ("defaults", *key[2:])
        shown = ".".join(map(str, key))
    while key and key not in lines:
        key = key[:-1]
    return Problem(shown, message, lines.get(key))


def _lines(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            yield inner, name.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*key, number), value.start_mark.line + 1
            yield from _lines(value, (*key, number))


def _repeated(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, int]]:
    """Keys that YAML would silently overwrite."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            if name.value in seen:
                yield (*key, name.value), name.start_mark.line + 1
            seen.add(name.value)
            yield from _repeated(value, (*key, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _repeated(value, (*key, number))
