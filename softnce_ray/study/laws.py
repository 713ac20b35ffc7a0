"""Laws of a study that pydantic does not check: searched settings and equal arms."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from softnce_ray.config import (
    ArmConfig,
    BM25Estimator,
    Choices,
    Range,
    SearchSpace,
    StudyConfig,
    arm_settings,
    resolved,
    variants,
    with_values,
)
from softnce_ray.config.search import ARM, LANGUAGES, Search
from softnce_ray.config.search_space import in_order, is_among, searched
from softnce_ray.config.settings import kind_of
from softnce_ray.config.variants import KINDS
from softnce_ray.study.joint import joint_space
from softnce_ray.study.problems import Key, suggestion, text_of
from softnce_ray.study.samplers import Distributions, sampler_problems
from softnce_ray.study.search import distributions_of

_CORNERS, _ALL_CORNERS = 256, 20_000  # of an arm's space, and about so many of all arms' together

_NAMES = tuple(f"{group}.name" for group in KINDS)
"""Settings whose other values bring settings of their own."""

_PREPARED = ("tokens", "encoder.model", "encoder.query_prompt", "encoder.code_prompt", "encoder.flow_length")
"""Settings, or groups of them, that decide token ids, which are made once for all trials of an arm."""


def search_problems(study: StudyConfig, aside: frozenset[str] = frozenset()) -> Iterator[tuple[Key, str]]:
    wrong_spaces = False
    for arm, config in study.arms.items():
        if arm in aside:
            continue
        if config.search and study.search is None:
            yield ("arms", arm, "search"), "the study has no search: add search: {trials: …} or remove it here"
        settings, reached = arm_settings(config), variants(config, study.space(arm))
        valid: SearchSpace = {}
        for path, space in study.space(arm).items():
            own = path in config.search
            place: Key = ("arms", arm, "search", path) if own else ("search", "space", path)
            found = [(each, _path_problem(each, path)) for each in reached]
            having = next((each for each, problem in found if problem is None), None)
            message = None if having else found[0][1]
            wrong = None if having is None else _range_problem(having, path, space)
            wrong_spaces |= bool(wrong or message)
            if wrong:
                yield place, wrong
            elif message:
                hint = "" if own else f"; settings that only some arms have go under arms.{arm}.search or its like"
                yield place, f"{message} (arm {arm}){hint}"
            else:
                valid[path] = space
        for path, other, message in _condition_problems(arm, study.space(arm)):
            inner = () if other is None else (other,)
            own = path in config.search
            wrong_spaces = True
            yield (("arms", arm, "search", path) if own else ("search", "space", path)) + ("when", *inner), message
            valid.pop(path, None)
        most = min(_CORNERS, max(16, _ALL_CORNERS // len(study.arms)))
        for values in _corners({path: valid[path] for path in in_order(valid)}, most):
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

    if study.search is not None and not aside and not wrong_spaces:
        yield from _start_problems(study, study.search)
        yield from _sampler_problems(study, study.search)


def _condition_problems(arm: str, space: SearchSpace) -> Iterator[tuple[str, str | None, str]]:
    """(setting, setting that its condition names or None for all, what is wrong) of each wrong condition."""
    sound = dict(space)
    for path, each in space.items():
        for other, values in (each.when or {}).items():
            message = _condition_problem(arm, space, path, other, values)
            if message:
                yield path, other, message
                sound.pop(path, None)
    # What is not sound is taken as searched without conditions, so that nothing is said that only follows from it.
    sound = {path: each if path in sound else each.model_copy(update={"when": None}) for path, each in space.items()}
    while circle := _circle(sound):
        shown = " when ".join([*circle, circle[0]])
        yield circle[0], circle[1], f"the conditions of arm {arm} go in a circle ({shown}): remove one"
        sound |= {path: sound[path].model_copy(update={"when": None}) for path in circle}
    for path in in_order(sound):
        empty = [other for other, values in _required(sound, path).items() if not values]
        if empty:
            yield (
                path,
                None,
                f"arm {arm} can never search {path}: its conditions, with those of the settings that they name, "
                f"leave no value of {', '.join(empty)}; remove one",
            )
            sound[path] = sound[path].model_copy(update={"when": None})


def _condition_problem(arm: str, space: SearchSpace, path: str, other: str, values: tuple[Any, ...]) -> str | None:
    """Why a condition of `path` on `other` makes no sense, or None."""
    condition = space.get(other)
    possible = [name for name, each in space.items() if isinstance(each, Choices) and name != path]
    expected = f"expected a setting that arm {arm} searches by choices, got {other}"
    if other == path:
        return f"{expected} itself; possible: {', '.join(possible) or 'none'}"
    if condition is None:
        return f"{expected}, which it does not search{suggestion(other, possible) or '; possible: none'}"
    if isinstance(condition, Range):
        return f"{expected}, which it searches as a range; possible: {', '.join(possible) or 'none'}"
    strange = [value for value in values if not is_among(value, condition.choices)]
    if strange:
        return (
            f"expected values that arm {arm} searches for {other}, got {', '.join(map(json.dumps, strange))}; "
            f"possible: {', '.join(map(json.dumps, condition.choices))}"
        )
    return None


def _circle(space: SearchSpace) -> list[str]:
    """Settings of which each has a condition on the next, and the last on the first; empty when there are none."""
    rest = set(space) - set(in_order(space))
    walk: list[str] = []
    path = next((path for path in space if path in rest), None)
    while path is not None and path not in walk:
        walk.append(path)
        path = next(other for other in space[path].when or () if other in rest)
    return [] if path is None else walk[walk.index(path) :]


def _required(space: SearchSpace, path: str) -> dict[str, tuple[Any, ...]]:
    """The values of other settings with which a setting is searched, conditions of conditions included."""
    needed: dict[str, tuple[Any, ...]] = {}
    for other, values in (space[path].when or {}).items():
        for name, those in [*_required(space, other).items(), (other, values)]:
            needed[name] = tuple(value for value in needed.get(name, those) if is_among(value, those))
    return needed


def _corners(space: SearchSpace, most: int) -> Iterator[dict[str, Any]]:
    """The extremes of a search space that can occur: where it breaks a law, it breaks it there. Of more than `most`, a
    fixed sample that has each end of each setting. Settings come after those that their conditions name."""
    ends = {path: (s.choices if isinstance(s, Choices) else (s.low, s.high)) for path, s in space.items()}
    if not ends:
        return
    few = list(itertools.islice(_combinations(space, ends, {}), most + 1))
    if len(few) <= most:
        yield from few
        return

    def occurring(values: dict[str, Any]) -> dict[str, Any]:
        return {path: values[path] for path in searched(space, values)}

    first = {path: values[0] for path, values in ends.items()}
    for path, values in ends.items():
        needed = {other: those[0] for other, those in _required(space, path).items()}
        yield from (occurring({**first, **needed, path: value}) for value in values)
    chance = random.Random(0)
    yield from (occurring({path: chance.choice(values) for path, values in ends.items()}) for _ in range(most))


def _combinations(
    space: SearchSpace, ends: dict[str, tuple[Any, ...]], values: dict[str, Any], start: int = 0
) -> Iterator[dict[str, Any]]:
    """All ways to go on from `values`, those of the first `start` settings."""
    if start == len(ends):
        yield values
        return
    path = list(ends)[start]
    if not space[path].applies(values):
        yield from _combinations(space, ends, values, start + 1)
        return
    for value in ends[path]:
        yield from _combinations(space, ends, {**values, path: value}, start + 1)


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
    if path in _NAMES:
        return None
    if path in ("search", "preset") or last in ("kind", "name"):
        return f"{path} makes another arm: write one arm for each"
    if any(path == each or path.startswith(f"{each}.") for each in _PREPARED):
        return f"{path} decides what texts are read, once for all trials of an arm: write one arm for each"
    if _is_prepared(arm, path):
        return f"{path} decides what is prepared once for all trials of an arm: write one arm for each"
    return None


def _is_prepared(arm: ArmConfig, path: str) -> bool:
    """Return True for a setting of what all trials of an arm share: a search over it would change nothing."""
    group, *keys = path.split(".")
    if group == "hard_negatives":
        return keys != ["count"]
    if group != "estimator":
        return False
    has_own_statistics = isinstance(arm.estimator, BM25Estimator) and arm.estimator.statistics == "batch"
    return keys[-1] not in ("temperature", *(("k1", "b") if has_own_statistics else ()))


def _range_problem(arm: ArmConfig, path: str, space: Range | Choices) -> str | None:
    """Why an interval or choices do not fit a setting, or None. Ends are checked with all others of the space."""
    if path in _NAMES:
        return _names_problem(path, space)
    if isinstance(space, Choices):
        return None
    kind = kind_of(arm, path)
    if kind is bool:
        return f"{path} is true or false: expected choices: [true, false], got low and high"
    if kind is int and space.step is not None and space.step != int(space.step):
        return f"{path} is a whole number: expected a whole step, got {space.step:g}"
    return None


def _names_problem(path: str, space: Range | Choices) -> str | None:
    """Why a loss or an estimator cannot be searched by these names, or None."""
    group = path.partition(".")[0]
    possible = list(KINDS[group])
    if isinstance(space, Range):
        return f"{path} is a name: expected choices, got low and high; possible: {', '.join(possible)}"
    strange = [name for name in space.choices if name not in possible]
    if strange:
        return f"expected names of a{'n' if group == 'estimator' else ''} {group}, got {strange[0]!r}" + (
            suggestion(str(strange[0]), possible) or f"; possible: {', '.join(possible)}"
        )
    return None


def _start_problems(study: StudyConfig, search: Search) -> Iterator[tuple[Key, str]]:
    """What no arm can try of the points that are to be tried first."""
    searched_by = {arm: study.space(arm) for arm in study.arms}
    languages = dict.fromkeys(study.language_names, True) if len(study.joint_groups[0]) > 1 else {}
    for number, point in enumerate(search.start):
        place: Key = ("search", "start", number)
        own = {path: value for path, value in point.items() if not (search.is_joint and path in (ARM, LANGUAGES))}
        if search.is_joint and len(study.arms) > 1 and point.get(ARM) not in study.arms:
            got = point.get(ARM, "none")
            yield place, f"expected arm: one of {', '.join(study.arms)}, got {got}"
            continue
        if search.is_joint and LANGUAGES in point and point[LANGUAGES] not in languages:
            yield place, f"expected {LANGUAGES}: one of {', '.join(languages) or 'none'}, got {point[LANGUAGES]}"
        arms = [str(point[ARM])] if search.is_joint and ARM in point else list(study.arms)
        having = [arm for arm in arms if own.keys() <= searched_by[arm].keys()]
        if not having:
            known = sorted({path for arm in arms for path in searched_by[arm]})
            strange = next((path for path in own if path not in known), None)
            which = f"no arm searches {strange}{suggestion(strange, known)}" if strange else "no arm searches all of it"
            yield place, f"{which}: leave it out, or add it to the space"
            continue
        for path, value in own.items():
            if not any(searched_by[arm][path].holds(value) for arm in having):
                yield (*place, path), f"expected a value of the space of {path}, got {json.dumps(value)}"


def _sampler_problems(study: StudyConfig, search: Search) -> Iterator[tuple[Key, str]]:
    """What the sampler cannot do with the space of any search."""
    spaces: list[tuple[SearchSpace, Distributions]] = []
    if search.is_joint:
        spaces = [joint_space(study, languages) for languages in study.joint_groups[:1]]
    else:
        own = {arm: study.space(arm) for arm in study.arms}
        spaces = [(space, distributions_of(study.arms[arm], space)) for arm, space in own.items() if space]
    seen = dict.fromkeys(each for space, found in spaces for each in sampler_problems(search, space, found))
    yield from ((("search", *key.split(".")), message) for key, message in seen)
    if search.is_joint and not spaces[0][0]:
        yield ("search", "mode"), "expected several arms, training sets or searched settings, got one of each"


def _unknown(path: str, key: str, model: Any) -> str:
    possible = (
        [name for name in type(model).model_fields if name not in ("search", "preset", "kind", "name")]
        if isinstance(model, BaseModel)
        else []
    )
    return f"no setting {path}{suggestion(key, possible)}"


LEFT_TO_MODELS = (
    "encoder.pooling",
    "similarity",
    "tokens.query_length",
    "tokens.code_length",
    "encoder.query_prompt",
    "encoder.code_prompt",
)
"""Settings that the files of a named model decide in arms that do not give them."""


def is_given(arm: ArmConfig, path: str) -> bool:
    """Return True if the arm's study, or its kind of encoder, gives a setting."""
    *groups, last = path.split(".")
    settings: BaseModel = arm
    for group in groups:
        if group not in settings.model_fields_set:
            return False
        settings = getattr(settings, group)
    return last in settings.model_fields_set or last not in type(settings).model_fields


def same_arms(
    study: StudyConfig, aside: frozenset[str] = frozenset(), *, settled: bool = False
) -> Iterator[tuple[Key, str]]:
    """Arms that would be the same trials; before the files of named models have `settled` what arms leave to them, arms
    that leave them other settings are not the same."""
    seen: dict[str, str] = {}
    for name, arm in study.arms.items():
        if name in aside:
            continue
        left: list[str] = []
        if not settled and getattr(arm.encoder, "model", None) is not None:
            left = [path for path in LEFT_TO_MODELS if not is_given(arm, path)]
        same = seen.setdefault(json.dumps([{**resolved(arm), "preset": None}, left], sort_keys=True), name)
        if same != name:
            yield ("arms", name), f"has the same settings as arm {same}: they would be trained twice; remove one"
