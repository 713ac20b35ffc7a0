"""Settings of each estimator. What it computes is said in `softnce_ray.estimators`, beside its code.

`temperature` turns similarities into p = softmax(similarity / temperature); the defaults are the paper's.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from softnce_ray.config.settings import Settings, Temperature, wrong

BM25Variant = Literal["okapi", "plus", "l"]
"""rank_bm25's BM25Okapi, BM25Plus, BM25L."""

_EPSILON = 0.25
_DELTA: dict[BM25Variant, float] = {"plus": 1.0, "l": 0.5}


class _BM25Formula(Settings):
    """Settings of the formula, with rank_bm25's defaults. `variant` and `delta` are left out where they are not given:
    identities are those that there were before there was a choice."""

    variant: BM25Variant = Field(
        "okapi",
        exclude_if=lambda variant: variant == "okapi",
        description="corpus statistics: rank_bm25's BM25Okapi, BM25Plus or BM25L",
    )
    b: float = Field(0.75, ge=0, le=1)
    epsilon: float = Field(
        _EPSILON,
        ge=0,
        le=1e6,
        description="okapi with corpus statistics: idf of words in more than half of the documents, as a share of the "
        "mean idf",
    )
    delta: float | None = Field(
        None, ge=0, le=1e6, exclude_if=lambda delta: delta is None, description="null: 1 with variant plus, 0.5 with l"
    )

    @model_validator(mode="after")
    def _check_variant(self) -> Self:
        if self.variant == "okapi" and self.delta is not None:
            raise wrong("delta", f"expected none with variant okapi, got {self.delta:g}; give variant: plus or l")
        if self.variant != "okapi" and self.epsilon != _EPSILON:  # the default, as written-out settings have it
            raise wrong("epsilon", f"expected none with variant {self.variant}, got {self.epsilon:g}; remove it")
        return self

    @property
    def resolved_delta(self) -> float | None:
        """None: of okapi, which has none."""
        return _DELTA.get(self.variant) if self.delta is None else self.delta


class BM25Estimator(_BM25Formula):
    """BM25 of query i against query j, each query standing for its code."""

    name: Literal["bm25"] = "bm25"
    temperature: Temperature = 1.0
    statistics: Literal["corpus", "batch"] = Field(
        "corpus", description="what document frequencies are counted in; batch: as the paper's authors code it"
    )
    k1: float | None = Field(
        None, ge=0, le=1e6, description="null: 1.5 with corpus statistics, 1.2 with those of the batch"
    )

    @model_validator(mode="after")
    def _check_statistics(self) -> BM25Estimator:
        if self.statistics == "batch" and self.variant != "okapi":
            raise wrong("variant", f"expected none with statistics: batch, got {self.variant}; remove one")
        return self

    @property
    def resolved_k1(self) -> float:
        if self.k1 is not None:
            return self.k1
        return 1.5 if self.statistics == "corpus" else 1.2


class BM25CodeEstimator(_BM25Formula):
    """BM25 of query i against code j, statistics of the training codes."""

    name: Literal["bm25_code"] = "bm25_code"
    temperature: Temperature = 1.0
    k1: float = Field(1.5, ge=0, le=1e6)

    @property
    def resolved_k1(self) -> float:
        return self.k1


class SimCSEEstimator(Settings):
    """Cosine of queries i and j under a frozen sentence encoder: a named one, or the arm's kind of encoder, trained
    without labels on the training queries of all languages, a query against itself under two dropout masks."""

    name: Literal["simcse"] = "simcse"
    temperature: Temperature = 0.1
    model: str | None = Field(
        None, min_length=1, description="a sentence-transformers model, by name or folder; null: train one"
    )
    epochs: int = Field(1, ge=1, le=1000)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(
        0.001,
        gt=0,
        le=10,
        description="unless given 0.001 for a bag and a network from scratch, 3e-5 for a pretrained one, 3e-4 for its "
        "adapters",
    )
    dropout: float = Field(0.1, gt=0, lt=1, description="share of a bag's tokens that a mask drops")
    score_temperature: Temperature = 0.07
    seed: int = Field(0, ge=0, lt=2**31)


class TrainedEstimator(Settings):
    """Score of query i and code j under a frozen dual encoder: a named one, or one with the arm's own settings, which
    InfoNCE trains first."""

    name: Literal["trained"] = "trained"
    temperature: Temperature = Field(5.0, description="for unit vectors, whose scores lie in [-1, 1], rather 0.1")
    model: str | None = Field(
        None,
        min_length=1,
        description="a folder that `export` made, or a sentence-transformers model, by name or folder; null: train one",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the run that trains it; unused with a model")

    @model_validator(mode="after")
    def _check(self) -> TrainedEstimator:
        if self.model is not None and self.seed:  # 0 is what settings say that were written out with their defaults
            raise wrong(
                "seed", f"a named model is not trained: expected no seed, got {self.seed}; remove it or the model"
            )
        return self


class UniformEstimator(Settings):
    """Every negative alike: any weighted loss falls back to its unweighted form."""

    name: Literal["uniform"] = "uniform"
    temperature: Temperature = 1.0


Part = Annotated[
    BM25Estimator | BM25CodeEstimator | SimCSEEstimator | TrainedEstimator | UniformEstimator,
    Field(discriminator="name"),
]


class MixEstimator(Settings):
    """Convex combination of the p of several estimators, each at its own temperature."""

    name: Literal["mix"] = "mix"
    mix: dict[str, Annotated[float, Field(gt=0)]] = Field(description="weight of each estimator, in all 1")
    parts: dict[str, Part] = Field(default_factory=dict, description="settings of an estimator in the mix")

    @model_validator(mode="after")
    def _check(self) -> MixEstimator:
        possible = ("bm25", "bm25_code", "simcse", "trained", "uniform")
        if unknown := [name for name in (*self.mix, *self.parts) if name not in possible]:
            raise wrong("mix", f"expected names of estimators, got {unknown[0]!r}; possible: {', '.join(possible)}")
        if abs(sum(self.mix.values()) - 1) > 1e-6:
            raise wrong("mix", f"expected weights that sum to 1, got {sum(self.mix.values()):g}")
        if strange := [name for name, part in self.parts.items() if part.name != name or name not in self.mix]:
            raise wrong("parts", f"expected settings of an estimator of the mix under its name, got {strange[0]!r}")
        return self

    @property
    def temperature(self) -> float:
        """The parts have theirs; the mix is a distribution already."""
        return 1.0

    def settings(self, name: str) -> Part:
        """Settings of a part: those given, or the estimator's defaults."""
        return self.parts[name] if name in self.parts else PARTS[name]()


PARTS: dict[str, type[Part]] = {
    "bm25": BM25Estimator,
    "bm25_code": BM25CodeEstimator,
    "simcse": SimCSEEstimator,
    "trained": TrainedEstimator,
    "uniform": UniformEstimator,
}

Estimator = Annotated[
    BM25Estimator | BM25CodeEstimator | SimCSEEstimator | TrainedEstimator | UniformEstimator | MixEstimator,
    Field(discriminator="name"),
]
