"""Settings of a study: its arms, what is searched, and where it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from softnce_ray.config.arm import ArmConfig
from softnce_ray.config.budget import Budget
from softnce_ray.config.languages import ALL, TrainingSet
from softnce_ray.config.presets import PAPER
from softnce_ray.config.seeds import MOST, Precision, Seeds
from softnce_ray.config.settings import Family, LanguageName, Name, Settings, repeated, wrong

Value = str | int | float | bool | None


def _listed(value: Any) -> tuple[Any, ...]:
    """One value or a list of them, as a list."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not values or not all(isinstance(each, Value) for each in values):
        raise ValueError("expected a value (true, false, a number or a string) or a list of values")
    if any(isinstance(each, float) and not math.isfinite(each) for each in values):
        raise ValueError("expected finite numbers")
    return values


OneOrMore = Annotated[
    tuple[Value, ...],
    BeforeValidator(_listed, json_schema_input_type=Value | Annotated[list[Value], Field(min_length=1)]),
]


class _Searched(Settings):
    """What all searched settings have in common."""

    # Left out where there is none: a space without conditions stays the one that it was before there were any.
    when: dict[str, OneOrMore] | None = Field(
        None,
        min_length=1,
        exclude_if=lambda when: when is None,
        description="searched only in trials where each of these settings (dotted paths, searched by choices in the "
        "same arm) takes the value, or one of the values; elsewhere the arm's own value stands",
    )

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the setting is searched in a trial whose searched settings have these `values`."""
        return all(other in values and is_among(values[other], those) for other, those in (self.when or {}).items())


class Range(_Searched):
    """An interval to search: whole numbers where the setting is one."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not self.low < self.high:
            raise wrong("low", f"expected low < high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise wrong("low", f"expected low > 0 with log: true, got {self.low:g}")
        if self.log and self.step is not None:
            raise wrong("step", "log and step exclude each other: remove one")
        if self.step is not None and self.step > self.high - self.low:
            raise wrong("step", f"expected step <= high - low = {self.high - self.low:g}, got {self.step:g}")
        return self

    @property
    def highest(self) -> float:
        """The highest value that is searched: `high`, but where steps do not meet it."""
        if self.step is None:
            return self.high
        # In decimals, as they were written: 0.1 + 3 * 0.3 is 1.
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)


class Choices(_Searched):
    """A list of values to search."""

    choices: tuple[Value, ...] = Field(min_length=2, max_length=MOST)


def _kind_of_space(value: Any) -> str:
    return "choices" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "range"


SearchSpace = dict[
    str,
    Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind_of_space)],
]


def is_among(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is one of `values`; true is not 1, as Python has it."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


def in_order(space: SearchSpace) -> list[str]:
    """The settings of a space, each after those that its conditions name.

    Left out are those whose conditions can never be looked up: they name a setting that is not searched, or go in
    a circle.
    """
    order: list[str] = []
    rest = list(space)
    while ready := [path for path in rest if all(other in order for other in space[path].when or ())]:
        order += ready
        rest = [path for path in rest if path not in ready]
    return order


def searched(space: SearchSpace, values: Mapping[str, Any]) -> list[str]:
    """The settings that are searched in a trial where they have these `values`: those whose conditions hold.

    A condition on a setting that is itself not searched there does not hold, whatever `values` says of it.
    """
    found: dict[str, Any] = {}
    for path in in_order(space):
        if space[path].applies(found):
            found[path] = values.get(path, _NO_VALUE)
    return list(found)


_NO_VALUE = object()


class EarlyStopping(Settings):
    """Asynchronous successive halving (ASHA) among the search trials of one cell."""

    min_epochs: int = Field(1, ge=1, description="no trial is stopped before")
    reduction: int = Field(2, ge=2, description="at each rung the best 1/reduction go on")


class Search(Settings):
    """Optuna's search within each cell, before the confirmation on the study's seeds."""

    trials: int = Field(ge=1, le=100_000, description="search trials of each cell")
    space: SearchSpace = Field(default_factory=dict, description="settings of every arm, as dotted paths")
    seed: int = Field(0, ge=0, lt=2**31, description="seeds the sampler and the search trials")
    early_stopping: EarlyStopping | None = EarlyStopping()


class StudyArm(ArmConfig):
    """An arm as a study file names it: its settings and a search space that only it has."""

    search: SearchSpace = Field(default_factory=dict, description="settings of this arm only")
    preset: Literal["paper"] | None = Field(
        None, description="paper: alpha, beta and weight temperature that were published for the arm's estimator"
    )

    @model_validator(mode="after")
    def _check_preset(self) -> StudyArm:
        if self.preset is not None and (self.estimator is None or self.estimator.name not in PAPER):
            got = "none" if self.estimator is None else self.estimator.name
            raise wrong("preset", f"expected an estimator of {', '.join(PAPER)}, got {got}: no settings were published")
        return self


class Resources(Settings):
    """Where trials run. Never part of an identity."""

    cpus: float = Field(1, gt=0, description="processors that Ray reserves for a trial, or each of its workers")
    gpus: float = Field(
        0, ge=0, description="the same for GPUs: 1, or a fraction, which lets several trials of one worker share one"
    )
    memory: float = Field(0, ge=0, description="the same for memory, in gigabytes (10^9 bytes); 0: not reserved")
    workers: int = Field(
        1, ge=1, le=1024, description="processes that train a trial together, with the whole batch as negatives"
    )
    chunk_size: int | None = Field(
        None, ge=1, description="pairs that a worker encodes with gradient at one time; null: its share of a batch"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep only the input of each layer of a network and compute the rest twice: less memory, more time",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="threads of the tensor operations of a worker; null: one for each processor reserved for it",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where gpus > 0, else cpu")
    deterministic: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="use deterministic algorithms alone, which are slower: a GPU gives the same numbers again, as "
        "processors do anyway",
    )
    max_concurrent: int | None = Field(None, ge=1, description="null: as many trials as fit")
    autoscale: bool = Field(
        False, description="the cluster adds nodes where trials wait: max_concurrent of them may, whatever fits now"
    )

    @model_validator(mode="after")
    def _check(self) -> Resources:
        for key, message in self._broken_laws():
            raise wrong(key, message)
        return self

    def _broken_laws(self) -> Iterator[tuple[str, str]]:
        if self.autoscale and self.max_concurrent is None:
            yield "max_concurrent", "expected a number of trials with autoscale: true, got null"
        if self.gpus > 1:
            whole = self.gpus == int(self.gpus)
            instead = f"workers: {self.workers * int(self.gpus)}, gpus: 1" if whole else "gpus: 1"
            yield "gpus", f"expected at most 1, as a worker trains on one GPU, got {self.gpus:g}: write {instead}"
        if self.workers > 1 and 0 < self.gpus < 1:
            yield (
                "gpus",
                f"expected 1 with workers: {self.workers}, as no two workers of a trial can share a GPU, got "
                f"{self.gpus:g}: write workers: {self.workers}, gpus: 1, or workers: 1, gpus: {self.gpus:g}",
            )
        if self.device == "cpu" and self.gpus:
            yield (
                "device",
                f"expected auto or cuda with gpus: {self.gpus:g}, got cpu, and trials would reserve GPUs without using "
                "them: write device: cpu, gpus: 0, or remove device",
            )
        if self.device == "cuda" and not self.gpus:
            yield (
                "gpus",
                "expected 1, or a fraction that trials share, with device: cuda, got 0, and all trials of a node would "
                "use its first GPU: write gpus: 1",
            )

    @property
    def resolved_threads(self) -> int:
        return max(1, int(self.cpus)) if self.threads is None else self.threads

    @property
    def asked(self) -> dict[str, float]:
        """What a worker takes, as Ray counts it: memory in bytes."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory * 1e9}


FailureKind = Literal["worker", "memory", "disk", "files", "error", "diverged", "settings"]
"""Kinds of failures of a trial: its worker was killed or its node lost; no memory; no disk space; a file, model or
package that is gone; anything unforeseen; a loss that is no number; settings that cannot work."""


OF_THE_SETTINGS: tuple[FailureKind, ...] = ("diverged", "settings")
"""Failures that another attempt would only repeat. All others are the machine's."""


class Failures(Settings):
    """What happens to a trial that fails. Each attempt goes on from the last checkpoint."""

    retries: int = Field(
        2, ge=0, le=100, description="further attempts of a trial; those that came a checkpoint further do not count"
    )
    retry: tuple[FailureKind, ...] = Field(
        ("worker", "memory", "disk", "files", "error"), description="failures after which another attempt is made"
    )


def _kind_of_entry(value: Any) -> str:
    return "trainingset" if isinstance(value, dict | TrainingSet) else "name"


LanguageEntry = Annotated[
    Annotated[LanguageName, Tag("name")] | Annotated[TrainingSet, Tag("trainingset")], Discriminator(_kind_of_entry)
]
"""A language by its name, `all`, or a training set."""


class StudyConfig(Settings):
    """A whole study: arms × languages × seeds, searched first where `search` says so."""

    study: Name
    question: str = Field("", description="what the study asks; shown with its results")
    corpus: str = Field(description="folder of a built corpus, from the working directory")
    languages: tuple[LanguageEntry, ...] = Field(
        min_length=1,
        max_length=MOST,
        description="each a language (a model of its own), all (one model for all languages of the corpus, tested on "
        "each), or a name with the languages to train on together and those to test on",
    )
    seeds: Seeds = Field(
        description="a list of numbers, or {at_least, at_most, half_width}: as many as make differences that certain"
    )
    baseline: str = Field("infonce", description="the arm that the others are compared with")
    # Left out where it is the default: what was recorded of a study before there was a choice stays as it is.
    family: Family = Field(
        "study",
        exclude_if=lambda family: family == "study",
        description="differences that p and simultaneous intervals are corrected for together: all of the study, or "
        "those of each language (and of the means over languages) by themselves",
    )
    arms: dict[Name, StudyArm] = Field(min_length=1, max_length=MOST)
    search: Search | None = None
    budget: Budget | None = Field(None, exclude_if=lambda budget: budget is None)
    resources: Resources = Resources()
    failures: Failures = Failures()

    @field_validator("languages", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...] | Precision) -> tuple[Any, ...] | Precision:
        if isinstance(values, Precision):
            return values
        names = [value.name if isinstance(value, TrainingSet) else value for value in values]
        if twice := repeated(names):
            raise ValueError(f"expected each once, got more than one {twice}")
        return values

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        if self.baseline not in self.arms:
            raise wrong(
                "baseline", f"expected an arm of this study, got {self.baseline!r}; possible: {', '.join(self.arms)}"
            )
        if self.search is not None and self.search.seed in self.possible_seeds:
            raise wrong(
                "search.seed",
                f"expected a seed that no confirmation uses, got {self.search.seed}: a "
                "configuration tuned on a seed looks better on it",
            )
        if self.budget is not None:
            self._check_budget(self.budget)
        workers = self.resources.workers
        for name, arm in self.arms.items() if workers > 1 else ():
            if arm.encoder.kind == "bag":
                raise wrong(
                    "resources.workers",
                    f"expected 1 with a bag of embeddings (arm {name}), got {workers}: it trains in seconds, and its "
                    "gradients are larger than its work",
                )
            if arm.smallest_batch < workers:
                raise wrong(
                    "resources.workers",
                    f"expected at most the batch size {arm.smallest_batch} of arm {name}, got {workers}",
                )
        return self

    def _check_budget(self, budget: Budget) -> None:
        searches, confirmations = self.searches, self.confirmations
        if not searches:
            raise wrong("budget", "a budget ends searches, and this study has none: remove it, or add search")
        if budget.trials is not None and budget.trials < confirmations + searches:
            raise wrong(
                "budget.trials",
                f"expected at least {confirmations + searches}, {confirmations} confirmations and a search trial of "
                f"each cell that is searched, got {budget.trials}: raise it, or leave out seeds or arms",
            )

    @property
    def language_names(self) -> tuple[str, ...]:
        """What runs, folders and reports call the languages and training sets."""
        return tuple(entry.name if isinstance(entry, TrainingSet) else entry for entry in self.languages)

    @property
    def searches(self) -> int:
        """Number of cells, arm × language, that are searched."""
        return sum(bool(self.space(arm)) for arm in self.arms) * len(self.languages)

    @property
    def confirmations(self) -> int:
        """Number of confirmations, of all seeds that may be asked for."""
        return len(self.arms) * len(self.languages) * len(self.possible_seeds)

    @property
    def possible_seeds(self) -> tuple[int, ...]:
        """All seeds that a confirmation may be asked for."""
        return self.seeds.first(self.seeds.at_most) if isinstance(self.seeds, Precision) else self.seeds

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds that every confirmation is asked for: all, but with a precision, which may ask for more."""
        return self.seeds.first(self.seeds.at_least) if isinstance(self.seeds, Precision) else self.seeds

    def training_set(self, name: str) -> TrainingSet:
        """What the language or training set of this name is trained and tested on; see `with_all` for `all`."""
        return TrainingSet.of(self.languages[self.language_names.index(name)])

    def with_all(self, languages: Iterable[str]) -> StudyConfig:
        """The study with the languages of its corpus in the place of `all`. A corpus that has a language of that name
        means the language."""
        every = tuple(languages)
        if ALL in every:
            return self
        entries = tuple(TrainingSet.of_all(every) if entry == ALL else entry for entry in self.languages)
        return self.model_copy(update={"languages": entries})

    def space(self, arm: str) -> SearchSpace:
        """The search space of an arm: the study's, and the arm's own."""
        return {} if self.search is None else {**self.search.space, **self.arms[arm].search}


def arm_settings(arm: StudyArm) -> dict[str, Any]:
    """The settings of an arm as plain data, its search space left out."""
    return arm.model_dump(mode="json", exclude={"search", "preset"})
