"""Laws of a study that pydantic does not check: searched settings, equal arms, the corpus."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

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
from softnce_ray.study.problems import Key, suggestion, text_of

_CORNERS = 256


def search_problems(study: StudyConfig, aside: frozenset[str] = frozenset()) -> Iterator[tuple[Key, str]]:
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
                    f"the space of arm {arm} reaches an impossible setting ({shown}): {text_of(first, first['loc'])}",
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
    if path in ("search", "preset") or last in ("kind", "name"):
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
        [name for name in type(model).model_fields if name not in ("search", "preset", "kind", "name")]
        if isinstance(model, BaseModel)
        else []
    )
    return f"no setting {path}{suggestion(key, possible)}"


def same_arms(study: StudyConfig, aside: frozenset[str] = frozenset()) -> Iterator[tuple[Key, str]]:
    seen: dict[str, str] = {}
    for name, arm in study.arms.items():
        if name in aside:
            continue
        same = seen.setdefault(json.dumps({**resolved(arm), "preset": None}, sort_keys=True), name)
        if same != name:
            yield ("arms", name), f"has the same settings as arm {same}: they would be trained twice; remove one"


def corpus_problems(raw: dict[str, Any]) -> Iterator[tuple[Key, str]]:
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
