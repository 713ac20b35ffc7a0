"""Optuna's samplers: which one proposes, with which options, and what each cannot do."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from softnce_ray.commands import command
from softnce_ray.config import Search, SearchSpace
from softnce_ray.study.problems import suggestion

Distribution = BaseDistribution
Distributions = Mapping[str, BaseDistribution]
Storage = optuna.storages.BaseStorage

_CLASSES: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "grid": optuna.samplers.RandomSampler,  # of points that are enqueued
    "qmc": optuna.samplers.QMCSampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}
_MOST_OF_GP = 100
"""Trials up to which `auto` takes a Gaussian process: its time grows with their cube."""
_MOST_POINTS = 100_000


def sampler_for(settings: Search, name: str, made: int, space: SearchSpace) -> optuna.samplers.BaseSampler:
    """Return the sampler of the proposal after `made` others, in the search of this name.

    Its seed depends on the number of proposals, so that another process makes the proposal that this one would have
    made. A sequence (qmc) has one seed: its points belong together.
    """
    is_conditional = any(each.when for each in space.values())
    kind = chosen(settings, space)
    seed = seed_of(settings.seed, name, 0 if kind == "qmc" else made)
    options: dict[str, Any] = dict(settings.sampler.options)
    if kind == "tpe":
        # With conditions, trials differ in the settings that they have: `group` models those that occur together as
        # one. Without it Optuna would model only what all trials have, and each other setting by itself.
        options = {
            "n_startup_trials": min(10, max(3, settings.trials // 3)),
            "multivariate": True,
            "group": is_conditional,
            "constant_liar": True,
            **options,
        }
    elif kind == "qmc":
        options = {"scramble": True, "warn_independent_sampling": False, **options}
    elif kind == "gp":
        options = {"n_startup_trials": min(10, max(3, settings.trials // 3)), **options}
    with warnings.catch_warnings():
        # Whoever searches cannot do anything about what Optuna calls experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _CLASSES[kind](seed=seed, **options)


def chosen(settings: Search, space: SearchSpace) -> str:
    """Return the sampler's name, with `auto` decided."""
    if settings.sampler.name != "auto":
        return settings.sampler.name
    is_conditional = any(each.when for each in space.values())
    return "tpe" if is_conditional or settings.trials > _MOST_OF_GP else "gp"


def sampler_problems(settings: Search, space: SearchSpace, distributions: Distributions) -> Iterator[tuple[str, str]]:
    """Yield (key, why) of what the sampler cannot do with a space, or with its options."""
    kind = chosen(settings, space)
    possible = [name for name in inspect.signature(_CLASSES[kind]).parameters if name != "seed"]
    for option in settings.sampler.options:
        if option not in possible or kind == "grid":
            known = possible if kind != "grid" else []
            yield f"sampler.{option}", f"{kind} has no option {option}{suggestion(option, known) or '; possible: none'}"
    conditional = [path for path, each in space.items() if each.when]
    categorical = [path for path, each in distributions.items() if isinstance(each, CategoricalDistribution)]
    if conditional and kind in ("qmc", "gp", "cmaes"):
        yield "sampler", _cannot(kind, "settings with conditions", conditional, "tpe, random, grid")
    elif categorical and kind in ("qmc", "cmaes"):
        yield "sampler", _cannot(kind, "choices", categorical, "tpe, random, grid, gp")
    if kind == "cmaes" and not _has_cmaes():
        yield (
            "sampler",
            f"cmaes needs a package that is not installed here: `{command('pip', 'install', 'softnce-ray[cmaes]')}`",
        )
    if kind == "grid":
        yield from _grid_problems(settings, space, distributions)


def _cannot(kind: str, what: str, paths: list[str], possible: str) -> str:
    return f"{kind} cannot search {what} ({', '.join(paths)}): expected one of {possible}, auto"


def _has_cmaes() -> bool:
    try:
        import cmaes  # noqa: F401
    except ImportError:
        return False
    return True


def _grid_problems(settings: Search, space: SearchSpace, distributions: Distributions) -> Iterator[tuple[str, str]]:
    endless = [path for path, each in distributions.items() if isinstance(each, FloatDistribution) and not each.step]
    if endless:
        yield (
            "sampler",
            f"a grid needs settings of finitely many values, and {', '.join(endless)} has any between low and high: "
            "give step or choices",
        )
        return
    size = grid_size(space, distributions)
    if size > _MOST_POINTS:
        yield (
            "sampler",
            f"a grid of {size:,} points is more than {_MOST_POINTS:,}: give fewer values, or another sampler",
        )
    elif settings.trials > size:
        yield "trials", f"expected at most {size:,}, the points of the grid, got {settings.trials:,}: lower it"


def values_of(distribution: BaseDistribution) -> list[Any]:
    """Return all values of a setting that has finitely many.

    Raises:
      ValueError: it has any number of values.
    """
    match distribution:
        case CategoricalDistribution(choices=choices):
            return list(choices)
        case IntDistribution(low=low, high=high, step=step):
            return list(range(low, high + 1, step))
        case FloatDistribution(low=low, high=high, step=float(step)):
            return [round(low + number * step, 12) for number in range(math.floor((high - low) / step + 1e-9) + 1)]
    raise ValueError(f"expected a setting of finitely many values, got {distribution}")


def grid_points(space: SearchSpace, distributions: Distributions) -> Iterator[dict[str, Any]]:
    """Yield all points of a space in which each setting has finitely many values; conditions hold in each. Settings
    come after those that their conditions name."""

    def further(values: dict[str, Any], rest: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        if not rest:
            yield values
        elif not space[rest[0]].applies(values):
            yield from further(values, rest[1:])
        else:
            for value in values_of(distributions[rest[0]]):
                yield from further({**values, rest[0]: value}, rest[1:])

    yield from further({}, tuple(space))


def grid_size(space: SearchSpace, distributions: Distributions) -> int:
    """Return the number of points of a grid; of more than can be counted one by one, an upper bound."""
    most = math.prod(len(values_of(each)) for each in distributions.values())
    if most > 10 * _MOST_POINTS or not any(each.when for each in space.values()):
        return most
    return sum(1 for _ in itertools.islice(grid_points(space, distributions), _MOST_POINTS + 1))


def grid_order(settings: Search, name: str, space: SearchSpace, distributions: Distributions) -> list[dict[str, Any]]:
    """Return the points of a grid in the order in which the search of this name tries them."""
    points = list(grid_points(space, distributions))
    random.Random(json.dumps([settings.seed, name])).shuffle(points)
    return points


def seed_of(seed: int, name: str, number: int) -> int:
    """Return the seed of a proposal of a search."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def choice_of(values: Sequence[Any]) -> Distribution:
    """Return Optuna's form of choices."""
    return CategoricalDistribution(values)
