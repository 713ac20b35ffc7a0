"""Settings of each estimator. What it computes is said in `softnce_ray.estimators`, beside its code."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from softnce_ray.config.settings import Settings


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
