"""Reading a study file: every problem at once, each with its line, its key, what was got and what is possible."""

from __future__ import annotations

import difflib
import itertools
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
    SearchSpace,
    StudyConfig,
    arm_settings,
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
                f"{source}{f':{p.line}' if p.line else ''}: {f'{p.key}: ' if p.key else ''}{p.message}"
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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise StudyError(
            source, [Problem("", f"not YAML: {getattr(error, 'problem', error)}", mark.line + 1 if mark else None)]
        ) from None
    if not isinstance(raw, dict):
        raise StudyError(
            source, [Problem("", f"expected keys such as study, corpus and arms, got {type(raw).__name__}")]
        )
    lines = dict(_lines(node))
    problems = [Problem(".".join(map(str, key)), "given twice: remove one", line) for key, line in _repeated(node)]
    study = None
    try:
        study = StudyConfig.model_validate(_with_defaults(raw))
    except ValidationError as error:
        problems += _problems(error, lines)
    if study is not None:
        problems += [_place(key, message, lines) for key, message in (*_search_problems(study), *_same_arms(study))]
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
    whole = {key: value for key, value in raw.items() if key != "defaults" or not isinstance(value, dict | None)}
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


# --- what is wrong beyond a single value ------------------------------------------------------------


def _search_problems(study: StudyConfig) -> Iterator[tuple[Key, str]]:
    for arm, config in study.arms.items():
        if config.search and study.search is None:
            yield ("arms", arm, "search"), "the study has no search: add search: {trials: …} or remove it here"
        settings = arm_settings(config)
        valid: SearchSpace = {}
        for path, space in study.space(arm).items():
            own = path in config.search
            place: Key = ("arms", arm, "search", path) if own else ("search", "space", path)
            message = _path_problem(config, path)
            if message:
                hint = "" if own else f"; settings that only some arms have go under arms.{arm}.search or its like"
                yield place, f"{message} (arm {arm}){hint}"
            else:
                valid[path] = space
        for values in _corners(valid):
            try:
                ArmConfig.model_validate(with_values(settings, values))
            except ValidationError as error:
                shown = ", ".join(f"{path} = {value}" for path, value in values.items())
                last = next(iter(values))
                own = last in config.search
                yield (
                    ("arms", arm, "search", last) if own else ("search", "space", last),
                    f"the space of arm {arm} reaches an impossible setting ({shown}): {_text(error.errors()[0])}",
                )
                break


def _corners(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """The extremes of a search space: where it breaks a law, it breaks it there."""
    ends = {path: (s.choices if isinstance(s, Choices) else (s.low, s.high)) for path, s in space.items()}
    for combination in itertools.islice(itertools.product(*ends.values()), _CORNERS):
        if ends:
            yield dict(zip(ends, combination, strict=True))


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


def _unknown(path: str, key: str, model: Any) -> str:
    possible = (
        [name for name in type(model).model_fields if name not in ("search", "kind", "name")]
        if isinstance(model, BaseModel)
        else []
    )
    return f"no setting {path}{_suggestion(key, possible)}"


def _same_arms(study: StudyConfig) -> Iterator[tuple[Key, str]]:
    seen: dict[str, str] = {}
    for name, arm in study.arms.items():
        same = seen.setdefault(arm.model_dump_json(), name)
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
    for number, language in enumerate(languages if isinstance(languages, list | tuple) else ()):
        if language not in corpus.languages:
            yield (
                ("languages", number),
                (f"the corpus {folder} has no language {language!r}; possible: {', '.join(corpus.languages)}"),
            )


# --- from pydantic's errors to ours -----------------------------------------------------------------


def _problems(error: ValidationError, lines: dict[Key, int]) -> list[Problem]:
    found = []
    for item in error.errors():
        key = _without_tags(item["loc"])
        if item["type"] == "law":
            key += tuple(item["ctx"]["key"].split("."))
        found.append(_place(key, _text(item), lines))
    return found


def _text(item: Any) -> str:
    got = item["input"]
    if item["type"] == "law":
        return item["msg"]
    if item["type"] == "extra_forbidden":
        possible = _fields(StudyFile, item["loc"][:-1])
        return f"unknown key{_suggestion(str(item['loc'][-1]), possible)}"
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
    return (f"; did you mean {close[0]!r}?" if close else "") + (
        f" possible: {', '.join(possible)}" if possible else ""
    )


def _without_tags(loc: Key) -> Key:
    """A location without the names that pydantic adds for the member of a union that it tried."""
    key: list[str | int] = []
    for number, part in enumerate(loc):
        if (
            number
            and (loc[number - 1] in ("loss", "estimator", "encoder") or part in ("range", "choices"))
            and _is_tag(loc[:number], part)
        ):
            continue
        key.append(part)
    return tuple(key)


def _is_tag(parents: Key, part: str | int) -> bool:
    if part in ("range", "choices"):
        return len(parents) > 1 and parents[-2] in ("space", "search")
    return parents[-1] in ("loss", "estimator", "encoder")


def _fields(model: type[BaseModel], loc: Key) -> list[str]:
    """Names of the keys that are possible at a pydantic location below `model`."""
    options: list[type[BaseModel]] = [model]
    for part in loc:
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
    if key not in lines and key[:1] == ("arms",) and ("defaults", *key[2:]) in lines:
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
