"""Settings of a search: its budget, sampler and first points, arm by arm or over all arms at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from softnce_ray.config.search_space import SearchSpace, Value
from softnce_ray.config.settings import Settings, wrong

ARM = "arm"
"""Name of the arm among the values of a joint search."""
LANGUAGES = "languages"
"""Name of the training set among the values of a search over training sets."""

SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "cmaes", "auto"]


class EarlyStopping(Settings):
    """Asynchronous successive halving (ASHA) among the trials of one search."""

    min_epochs: int = Field(1, ge=1, description="no trial is stopped before")
    reduction: int = Field(2, ge=2, description="at each rung the best 1/reduction go on")


class Sampler(Settings):
    """One of Optuna's samplers; further keys are options of its constructor, under their names there."""

    model_config = ConfigDict(extra="allow")

    name: SamplerName = Field(
        "tpe",
        description="auto: gp for small searches without conditions, else tpe; grid: all points of choices, whole "
        "numbers and steps, in a seeded order",
    )

    @property
    def options(self) -> dict[str, Any]:
        """Options of the constructor."""
        return dict(self.model_extra or {})


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Search(Settings):
    """Optuna's search before the confirmation on the study's seeds."""

    trials: int = Field(ge=1, le=100_000, description="search trials of each cell; of all arms together with joint")
    # Left out at their defaults: a search without them stays the one that it was before there were any.
    mode: Literal["equal", "joint"] = Field(
        "equal",
        exclude_if=lambda mode: mode == "equal",
        description="equal: a search of its own for each arm in each language, all with the same number of trials; "
        "joint: one search over all arms, which spends its trials where they pay",
    )
    sampler: Annotated[Sampler, BeforeValidator(_by_name)] = Field(
        Sampler(),
        exclude_if=lambda sampler: sampler == Sampler(),
        description="which of Optuna's samplers proposes: a name, or a name with options of its constructor",
    )
    start: tuple[dict[str, Value], ...] = Field(
        (),
        max_length=1000,
        exclude_if=lambda start: not start,
        description="points that are tried first: values of searched settings; of those that are left out the sampler "
        "chooses",
    )
    confirm: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda count: count is None,
        description="joint: how many arms, beside the baseline, are confirmed with their best configuration; null: 3",
    )
    baseline_trials: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda count: count is None,
        description="joint: trials that the baseline gets at least; null: a tenth of all, and no fewer than 3",
    )
    space: SearchSpace = Field(default_factory=dict, description="settings of every arm, as dotted paths")
    seed: int = Field(0, ge=0, lt=2**31, description="seeds the sampler and the search trials")
    early_stopping: EarlyStopping | None = EarlyStopping()

    @model_validator(mode="after")
    def _check(self) -> Search:
        for key, message in self._broken_laws():
            raise wrong(key, message)
        return self

    def _broken_laws(self) -> Iterator[tuple[str, str]]:
        if self.mode == "equal":
            for key in ("confirm", "baseline_trials"):
                if getattr(self, key) is not None:
                    yield key, "belongs to a joint search: remove it, or write mode: joint"
        elif self.least_of_baseline > self.trials:
            yield (
                "baseline_trials",
                f"expected at most trials = {self.trials}, got {self.least_of_baseline}: lower it, or raise trials",
            )

    @property
    def is_joint(self) -> bool:
        return self.mode == "joint"

    @property
    def confirmed(self) -> int:
        """Number of arms beside the baseline that a joint search confirms, where there are so many."""
        return 3 if self.confirm is None else self.confirm

    @property
    def least_of_baseline(self) -> int:
        """Number of trials that the baseline of a joint search gets at least."""
        return max(3, self.trials // 10) if self.baseline_trials is None else self.baseline_trials
