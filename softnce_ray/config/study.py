"""Settings of a study: its arms, what is searched, and where it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from softnce_ray.config.arm import ArmConfig
from softnce_ray.config.budget import Budget
from softnce_ray.config.languages import ALL, LanguageChoices, LanguageEntry, Languages, TrainingSet, each_once
from softnce_ray.config.presets import PAPER
from softnce_ray.config.search import ARM, LANGUAGES, Search
from softnce_ray.config.search_space import SearchSpace, Value
from softnce_ray.config.seeds import MOST, Precision, Seeds
from softnce_ray.config.settings import Family, Name, Settings, flatten, wrong
from softnce_ray.config.variants import conditioned


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


class StudyConfig(Settings):
    """A whole study: arms × languages × seeds, searched first where `search` says so."""

    study: Name
    question: str = Field("", description="what the study asks; shown with its results")
    corpus: str = Field(description="folder of a built corpus, from the working directory")
    languages: Languages = Field(
        description="each a language (a model of its own), all (one model for all languages of the corpus, tested on "
        "each), or a name with the languages to train on together and those to test on; or {choices, target}: a joint "
        "search over what to train on",
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
    def _distinct(cls, values: Any) -> Any:
        return values if isinstance(values, Precision | LanguageChoices) else each_once(values)

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
        if isinstance(self.languages, LanguageChoices) and (self.search is None or not self.search.is_joint):
            raise wrong("languages", "choices of languages are searched: expected search: {mode: joint, trials: …}")
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
        return tuple(entry.name if isinstance(entry, TrainingSet) else entry for entry in self.entries)

    @property
    def entries(self) -> tuple[LanguageEntry, ...]:
        """Languages and training sets, those that are searched included."""
        return self.languages.choices if isinstance(self.languages, LanguageChoices) else self.languages

    @property
    def is_joint(self) -> bool:
        """Whether one search goes over all arms."""
        return self.search is not None and self.search.is_joint

    @property
    def joint_groups(self) -> tuple[tuple[str, ...], ...]:
        """Languages, or training sets, of each joint search."""
        if isinstance(self.languages, LanguageChoices):
            return (self.language_names,)
        return tuple((name,) for name in self.language_names)

    @property
    def searches(self) -> int:
        """Number of searches: of cells, arm × language, or of joint ones."""
        if self.is_joint:
            return len(self.joint_groups)
        return sum(bool(self.space(arm)) for arm in self.arms) * len(self.entries)

    @property
    def confirmed_cells(self) -> int:
        """Number of cells that are confirmed, as far as that is known before a search."""
        if self.search is not None and self.search.is_joint:
            return min(self.search.confirmed + 1, len(self.arms)) * len(self.joint_groups)
        return len(self.arms) * len(self.entries)

    @property
    def confirmations(self) -> int:
        """Number of confirmations, of all seeds that may be asked for."""
        return self.confirmed_cells * len(self.possible_seeds)

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
        entry = self.entries[self.language_names.index(name)]
        if isinstance(self.languages, LanguageChoices):
            return self.languages.training_set(entry)
        return TrainingSet.of(entry)

    def with_all(self, languages: Iterable[str]) -> StudyConfig:
        """The study with the languages of its corpus in the place of `all`. A corpus that has a language of that name
        means the language."""
        every = tuple(languages)
        if ALL in every:
            return self
        entries = tuple(TrainingSet.of_all(every) if entry == ALL else entry for entry in self.entries)
        if isinstance(self.languages, LanguageChoices):
            return self.model_copy(update={"languages": self.languages.model_copy(update={"choices": entries})})
        return self.model_copy(update={"languages": entries})

    def space(self, arm: str) -> SearchSpace:
        """The search space of an arm: the study's, and the arm's own."""
        return {} if self.search is None else conditioned({**self.search.space, **self.arms[arm].search})

    def start_points(self, arm: str) -> list[dict[str, Value]]:
        """Values of an arm's searched settings that its search tries first, or a joint search with it: those that are
        given, and those of its preset."""
        space = self.space(arm)
        if self.search is None or not (space or self.is_joint):
            return []
        points: list[dict[str, Value]] = []
        for point in self.search.start:
            own = {path: value for path, value in point.items() if path not in (ARM, LANGUAGES)}
            if point.get(ARM, arm) == arm and own.keys() <= space.keys():
                points.append(dict(point) if self.is_joint else own)
        if self.arms[arm].preset is not None:
            written = flatten(arm_settings(self.arms[arm]))
            preset = {path: written.get(path) for path, each in space.items() if not each.when}
            points.append({path: value for path, value in preset.items() if space[path].holds(value)})
        return [point for point in points if point]


def arm_settings(arm: StudyArm) -> dict[str, Any]:
    """The settings of an arm as plain data, its search space left out."""
    return arm.model_dump(mode="json", exclude={"search", "preset"})
