"""Reading a study file: every problem at once, each with its line, its key, what was got and what is possible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from softnce_ray.config import (
    ArmConfig,
    StudyConfig,
)
from softnce_ray.config.presets import preset_settings
from softnce_ray.study.corpus_laws import corpus_problems
from softnce_ray.study.laws import same_arms, search_problems
from softnce_ray.study.problems import (
    Key,
    Problem,
    StudyError,
    lines_of,
    nodes_of,
    place,
    problem_of,
    repeated,
    unquoted_keys,
)
from softnce_ray.yaml_text import YamlError, compose, text_at, value_of

_MOST_VALUES = 250_000
"""In the defaults, times the number of arms, each of which has them."""

_UNKNOWN = re.compile("(?<=^unknown key);.*")

_MOST_TOLD = 1_000
"""Mistakes of a file for which words are found."""


def load_study(path: str | Path) -> StudyConfig:
    """Read and check a study file, its corpus included.

    Raises:
      StudyError: the file is missing or wrong; the message has a line for each problem.
    """
    path = Path(path)
    try:
        text = text_at(path)
    except FileNotFoundError:
        raise StudyError(
            str(path), [Problem("", "no such study file; the studies that ship lie in search_spaces/")]
        ) from None
    except YamlError as error:
        raise StudyError(str(path), [Problem("", str(error), error.line)]) from None
    except (OSError, ValueError) as error:  # the latter of names that no file can have
        raise StudyError(str(path), [Problem("", f"cannot be read: {error}")]) from None
    return parse_study(text, source=str(path))


def parse_study(text: str, *, source: str = "study") -> StudyConfig:
    """Check a study given as YAML; see `load_study`."""
    try:
        node = compose(text)
        # Before merges are made part of mappings, which may have the same keys.
        problems = [*repeated(node), *unquoted_keys(node)]
        raw = value_of(node)
    except YamlError as error:
        raise StudyError(source, [Problem("", str(error), error.line)]) from None
    lines = lines_of(node)
    if not isinstance(raw, dict):
        raise StudyError(
            source, [Problem("", f"expected keys such as study, corpus and arms, got {type(raw).__name__}")]
        )
    defaults, arms = raw.get("defaults"), raw.get("arms")
    if isinstance(arms, dict) and (values := _count(defaults) * len(arms)) > _MOST_VALUES:
        said = f"expected at most {_MOST_VALUES:,} values in all arms together, got {values:,}: write fewer"
        raise StudyError(source, [place(("defaults",), said, lines)])
    found: list[tuple[Key, Any]] = []
    try:
        ArmConfig.model_validate({} if defaults is None else defaults)
    except ValidationError as error:  # laws are checked arm by arm, when each has its own settings
        found += [(("defaults", *item["loc"]), item) for item in error.errors() if item["type"] != "law"]
    study, wrong, aside = _validated(_with_defaults(raw))
    found += [(item["loc"], item) for item in wrong]
    nodes = {key: each for key, _, each in nodes_of(node)} if found else {}
    problems += [problem_of(loc, item, nodes, lines) for loc, item in found[:_MOST_TOLD]]
    if study is not None:
        beyond = (*search_problems(study, aside), *same_arms(study, aside))
        problems += [place(key, message, lines) for key, message in beyond]
    problems += [place(key, message, lines) for key, message in corpus_problems(raw, study, aside)]
    if problems or study is None:
        # An unknown key that arms have from the defaults is said once, though other keys are possible in arms.
        unique = {(each.key, each.line, _UNKNOWN.sub("", each.message)): each for each in reversed(problems)}
        more = max(0, len(found) - _MOST_TOLD)
        raise StudyError(source, sorted(reversed(unique.values()), key=lambda problem: problem.line or 0), more=more)
    return study


def _count(value: Any) -> int:
    """How many values there are in one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return 1 + sum(map(_count, inner))


def check_study(study: StudyConfig) -> StudyConfig:
    """The checks of `load_study` for a study made in Python."""
    found = [*search_problems(study), *same_arms(study), *corpus_problems(study.model_dump(), study)]
    if found:
        raise StudyError(f"study {study.study}", [place(key, message, {}) for key, message in found])
    return study


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """The study with `defaults` merged into each arm; what is not a mapping is left for validation to name."""
    defaults, arms = raw.get("defaults"), raw.get("arms")
    whole = {key: value for key, value in raw.items() if key != "defaults"}
    if isinstance(arms, dict):
        base = defaults if isinstance(defaults, dict) else {}
        whole["arms"] = {name: _whole_arm(base, {} if arm is None else arm) for name, arm in arms.items()}
    return whole


def _whole_arm(base: dict[str, Any], arm: Any) -> Any:
    """An arm on its preset, where it has one, on the defaults."""
    if isinstance(arm, dict) and isinstance(arm.get("preset"), str):
        estimator = _merged(base, arm).get("estimator")
        name = estimator.get("name") if isinstance(estimator, dict) else None
        if isinstance(name, str):
            base = _merged(base, preset_settings(arm["preset"], name))
    return _merged(base, arm)


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
        inner = {item["loc"][:length] for item in new for length in range(len(item["loc"]))}
        new = [item for item in new if item["type"] != "too_short" or item["loc"] not in inner]
        found += new
        mended = dict(whole)
        if not isinstance(mended.get("arms"), dict):  # nothing more can be checked without arms
            return None, found, frozenset(aside)
        harmless: dict[Any, bool] = {}  # arm: whether its name is wrong too
        for item in new:
            loc = item["loc"]
            top = str(item["ctx"]["key"] if item["type"] == "law" and not loc else loc[0] if loc else "").split(".")[0]
            if top == "arms":
                if len(loc) < 2:  # there are none, or too many, so there is nothing more to check
                    return None, found, frozenset(aside)
                aside.add(str(loc[1]))
                harmless[loc[1]] = harmless.get(loc[1], False) or loc[2:] == ("[key]",)
            elif top == "search" and not loc:
                mended["search"] = {**mended["search"], "seed": _HARMLESS["search"]["seed"]}
            elif top not in StudyConfig.model_fields:
                mended.pop(top, None)
            else:
                aside.add(top)
                mended[top] = {**_HARMLESS, "baseline": next(iter(mended["arms"]), "")}.get(top)
                if mended[top] is None:
                    del mended[top]
        mended["arms"] = {
            name: {} if name in harmless else arm for name, arm in mended["arms"].items() if not harmless.get(name)
        }
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
