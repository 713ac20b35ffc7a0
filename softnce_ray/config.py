"""Settings of a trial and of a study: validated, frozen, hashable.

Everything that changes what is computed lives in `ArmConfig` and `TrialConfig` and enters a trial's
identity. Everything that only changes where and how fast it is computed lives in `Resources` and does not.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

METHOD_VERSION = 1
"""Raised whenever a change makes the same settings train or evaluate differently: old results then no
longer count as results of the new code."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt key is an error instead of a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _wrong(key: str, message: str) -> PydanticCustomError:
    """An error of a law between several keys, blamed on `key` (relative to the model that checks)."""
    return PydanticCustomError("law", "{message}", {"key": key, "message": message})


# --- what an arm is made of -------------------------------------------------------------------------


class TokenSettings(Settings):
    """How text becomes token ids. Lengths count tokens, special ones included."""

    vocabulary: int = Field(
        16_000,
        ge=300,
        le=500_000,
        description="subwords of the BPE tokenizer trained on the corpus; unused when the encoder brings a tokenizer",
    )
    query_length: int = Field(64, ge=2, le=8192, description="tokens of a query that are read")
    code_length: int = Field(256, ge=2, le=8192, description="tokens of a function that are read")
    split_identifiers: bool = Field(
        True, description="camelCase and snake_case become words; unused when the encoder brings a tokenizer"
    )


class BagEncoder(Settings):
    """Mean of learned subword vectors, each scaled by a learned weight of its subword."""

    kind: Literal["bag"] = "bag"
    width: int = Field(256, ge=1, le=8192, description="length of a vector")


class TransformerEncoder(Settings):
    """A transformers model by name or folder, or a small RoBERTa from scratch when `model` is null."""

    kind: Literal["transformer"] = "transformer"
    model: str | None = Field(None, description="name or local folder; null: from scratch")
    width: int = Field(128, ge=8, le=8192, description="hidden size, from scratch only")
    layers: int = Field(2, ge=1, le=96, description="layers, from scratch only")
    heads: int = Field(2, ge=1, le=128, description="attention heads, from scratch only")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout, from scratch only")
    pooling: Literal["mean", "first", "pooler"] = "mean"

    @model_validator(mode="after")
    def _check(self) -> TransformerEncoder:
        if self.model is None and self.width % self.heads:
            raise _wrong("heads", f"expected a divisor of width {self.width}, got {self.heads}")
        return self


Encoder = Annotated[BagEncoder | TransformerEncoder, Field(discriminator="kind")]


class InfoNCE(Settings):
    """Cross entropy of the right code among all codes of the batch."""

    name: Literal["infonce"] = "infonce"


class SoftInfoNCE(Settings):
    """InfoNCE whose negatives are weighed by w = max(floor, (β - αp) / (β - α/(N-1)))."""

    name: Literal["soft_infonce"] = "soft_infonce"
    alpha: float = Field(1.5, ge=0, description="how strongly a likely negative is played down")
    beta: float | None = Field(None, gt=0, description="null: 2 - alpha, as in the paper")
    floor: float = Field(0.1, gt=0, le=1, description="the least weight of a negative")

    @model_validator(mode="after")
    def _check(self) -> SoftInfoNCE:
        if self.beta is None and self.alpha >= 2:
            raise _wrong(
                "alpha",
                f"beta defaults to 2 - alpha, so expected alpha < 2, got {self.alpha}: lower alpha or give beta",
            )
        return self

    @property
    def resolved_beta(self) -> float:
        return 2.0 - self.alpha if self.beta is None else self.beta


Loss = Annotated[InfoNCE | SoftInfoNCE, Field(discriminator="name")]


class BM25Estimator(Settings):
    """BM25 of query i against query j, each query standing for its code."""

    name: Literal["bm25"] = "bm25"
    temperature: float = Field(1.0, gt=0, description="p = softmax(similarity / temperature)")
    k1: float = Field(1.5, ge=0)
    b: float = Field(0.75, ge=0, le=1)
    epsilon: float = Field(
        0.25, ge=0, description="idf of words in more than half of the queries, as a share of the mean idf"
    )


class UniformEstimator(Settings):
    """Every negative alike: any weighted loss falls back to its unweighted form."""

    name: Literal["uniform"] = "uniform"
    temperature: float = Field(1.0, gt=0)


Estimator = Annotated[BM25Estimator | UniformEstimator, Field(discriminator="name")]


class TrainingSettings(Settings):
    """Optimisation. The learning rate rises linearly over `warmup` and falls linearly to zero."""

    epochs: int = Field(3, ge=1, le=10_000)
    batch_size: int = Field(128, ge=2, le=1_000_000, description="pairs; a last short batch is left out")
    learning_rate: float = Field(0.01, gt=0, le=10)
    warmup: float = Field(0.1, ge=0, le=1, description="share of all steps")
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="AdamW's; a bag of embeddings, whose updates are sparse, takes none"
    )
    max_gradient_norm: float = Field(1.0, gt=0)
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: autocast, float32 weights")


class ArmConfig(Settings):
    """All that an arm fixes: with a language and a seed it is a trial."""

    encoder: Encoder = BagEncoder()
    tokens: TokenSettings = TokenSettings()
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float | None = Field(
        None, gt=0, le=1000, description="scores are divided by it; null: 0.05 for cosine, 1 for dot"
    )
    loss: Loss = InfoNCE()
    estimator: Estimator | None = None
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _check(self) -> ArmConfig:
        negatives = self.training.batch_size - 1
        if isinstance(self.loss, SoftInfoNCE):
            alpha, beta = self.loss.alpha, self.loss.resolved_beta
            if self.estimator is None:
                raise _wrong(
                    "estimator",
                    "loss soft_infonce weighs negatives: expected an estimator, got none; give estimator: {name: bm25}",
                )
            if not beta > alpha / negatives:
                raise _wrong(
                    "loss.alpha",
                    f"expected beta > alpha / (batch_size - 1), got beta {beta:g} and "
                    f"{alpha:g} / {negatives} = {alpha / negatives:g}: likelier negatives would weigh "
                    "more; lower alpha, raise beta or the batch size",
                )
        elif self.estimator is not None:
            raise _wrong(
                "estimator",
                f"loss {self.loss.name} uses no estimator, got {self.estimator.name}: "
                "remove it here or give the estimator in the arms that use it",
            )
        if isinstance(self.encoder, BagEncoder) and self.training.weight_decay:
            raise _wrong(
                "training.weight_decay",
                "encoder bag has sparse updates and takes no weight decay: "
                f"expected 0, got {self.training.weight_decay:g}",
            )
        return self

    @property
    def resolved_temperature(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return 0.05 if self.similarity == "cosine" else 1.0


class TrialConfig(ArmConfig):
    """One training run, fully resolved."""

    language: Name
    seed: int = Field(ge=0, lt=2**31)


# --- what a study adds ------------------------------------------------------------------------------


class Range(Settings):
    """An interval to search: whole numbers where the setting is one."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not self.low < self.high:
            raise _wrong("low", f"expected low < high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise _wrong("low", f"expected low > 0 with log: true, got {self.low:g}")
        if self.log and self.step is not None:
            raise _wrong("step", "log and step exclude each other: remove one")
        if self.step is not None and self.step > self.high - self.low:
            raise _wrong("step", f"expected step <= high - low = {self.high - self.low:g}, got {self.step:g}")
        return self


class Choices(Settings):
    """A list of values to search."""

    choices: tuple[str | int | float | bool | None, ...] = Field(min_length=2)


def _kind_of_space(value: Any) -> str:
    return "choices" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "range"


SearchSpace = dict[
    str,
    Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind_of_space)],
]


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


class Resources(Settings):
    """Where trials run. Never part of an identity."""

    cpus: float = Field(1, gt=0, description="processors that Ray reserves for a trial")
    gpus: float = Field(0, ge=0)
    threads: int = Field(1, ge=1, le=1024, description="threads of a trial's tensor operations")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where gpus > 0, else cpu")
    max_concurrent: int | None = Field(None, ge=1, description="null: as many trials as fit")


class Failures(Settings):
    """What happens to a trial that fails."""

    retries: int = Field(1, ge=0, le=100, description="restarts from the last checkpoint")


class StudyConfig(Settings):
    """A whole study: arms × languages × seeds, searched first where `search` says so."""

    study: Name
    question: str = Field("", description="what the study asks; shown with its results")
    corpus: str = Field(description="folder of a built corpus, from the working directory")
    languages: tuple[Name, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(min_length=1)
    baseline: str = Field("infonce", description="the arm that the others are compared with")
    arms: dict[Name, StudyArm] = Field(min_length=1)
    search: Search | None = None
    resources: Resources = Resources()
    failures: Failures = Failures()

    @field_validator("languages", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"expected each once, got more than one {', '.join(map(str, twice))}")
        return values

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        if self.baseline not in self.arms:
            raise _wrong(
                "baseline", f"expected an arm of this study, got {self.baseline!r}; possible: {', '.join(self.arms)}"
            )
        if self.search is not None and self.search.seed in self.seeds:
            raise _wrong(
                "search.seed",
                f"expected a seed that no confirmation uses, got {self.search.seed}: a "
                "configuration tuned on a seed looks better on it",
            )
        return self

    def space(self, arm: str) -> SearchSpace:
        """The search space of an arm: the study's, and the arm's own."""
        return {} if self.search is None else {**self.search.space, **self.arms[arm].search}


def arm_settings(arm: StudyArm) -> dict[str, Any]:
    """The settings of an arm as plain data, its search space left out."""
    return arm.model_dump(mode="json", exclude={"search"})


def with_values(settings: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested `settings` in which dotted paths are set to `values`."""
    result = json.loads(json.dumps(settings))
    for path, value in values.items():
        *parents, last = path.split(".")
        inner = result
        for key in parents:
            inner = inner[key]
        inner[last] = value
    return result


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def resolved(config: ArmConfig) -> dict[str, Any]:
    """The full configuration as plain data, with every default and every `null` that stands for a value
    written out: what a trial's identity and its MLflow parameters are made of."""
    settings = config.model_dump(mode="json")
    settings["temperature"] = config.resolved_temperature
    if isinstance(config.loss, SoftInfoNCE):
        settings["loss"]["beta"] = config.loss.resolved_beta
    return settings


def identity(config: TrialConfig, corpus_fingerprint: str) -> str:
    """Hash (16 hex digits) of all that decides a trial's result.

    The full configuration with every default written out, the corpus' content and the version of the
    method. Where and how fast a trial runs is left out: equal identity means the same trial.
    """
    content = {"config": resolved(config), "corpus": corpus_fingerprint, "method": METHOD_VERSION}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
