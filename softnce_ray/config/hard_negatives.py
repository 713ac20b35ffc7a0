"""Settings of hard negatives; how they are mined is said in `softnce_ray.hard_negatives`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from softnce_ray.config.estimators import BM25CodeEstimator, TrainedEstimator
from softnce_ray.config.settings import Settings, wrong


class _HardNegatives(Settings):
    count: int = Field(1, ge=1, le=100, description="codes that are drawn for each query of a batch, anew each epoch")
    depth: int = Field(20, ge=1, le=1000, description="places of a query's ranking, after those skipped, to draw from")
    skip: int = Field(0, ge=0, le=1000, description="best-ranked codes that are passed over: they may be right")

    @model_validator(mode="after")
    def _check(self) -> _HardNegatives:
        if self.depth < self.count:
            raise wrong("depth", f"expected at least count {self.count}, got {self.depth}: raise depth or lower count")
        return self


class BM25HardNegatives(_HardNegatives):
    """Codes that share words with the query, by BM25: estimator `bm25_code`, variant okapi."""

    name: Literal["bm25_code"] = "bm25_code"
    k1: float = Field(1.5, ge=0, le=1e6)
    b: float = Field(0.75, ge=0, le=1)

    @property
    def ranking(self) -> BM25CodeEstimator:
        return BM25CodeEstimator(k1=self.k1, b=self.b)


class TrainedHardNegatives(_HardNegatives):
    """Codes that a frozen dual encoder takes for the query's: a named one, or one with the arm's own settings, which
    InfoNCE trains first with the other pairs of a batch as its only negatives."""

    name: Literal["trained"] = "trained"
    model: str | None = Field(
        None,
        min_length=1,
        description="a folder that `export` made, or a sentence-transformers model, by name or folder; null: train one",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the run that trains it; unused with a model")

    @property
    def ranking(self) -> TrainedEstimator:
        return TrainedEstimator(model=self.model, seed=0 if self.model else self.seed)


HardNegatives = Annotated[BM25HardNegatives | TrainedHardNegatives, Field(discriminator="name")]
