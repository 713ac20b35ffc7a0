"""Settings of each loss. What a loss computes is said in `softnce_ray.losses`, beside its code."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from softnce_ray.config.settings import Settings, wrong


class InfoNCE(Settings):
    """Cross entropy of the right code among all codes of the batch."""

    name: Literal["infonce"] = "infonce"


class SoftInfoNCE(Settings):
    """InfoNCE whose negatives are weighed by w = max(floor, (β - αp) / (β - α/(N-1)))."""

    name: Literal["soft_infonce"] = "soft_infonce"
    alpha: float = Field(1.5, ge=0, le=1e6, description="how strongly a likely negative is played down")
    beta: float | None = Field(None, ge=1e-30, le=1e6, description="null: 2 - alpha, as in the paper")
    floor: float = Field(0.1, ge=1e-30, le=1, description="the least weight of a negative")

    @model_validator(mode="after")
    def _check(self) -> SoftInfoNCE:
        if self.beta is None and self.alpha >= 2:
            raise wrong(
                "alpha",
                f"beta defaults to 2 - alpha, so expected alpha < 2, got {self.alpha}: lower alpha or give beta",
            )
        return self

    @property
    def resolved_beta(self) -> float:
        return 2.0 - self.alpha if self.beta is None else self.beta


class WeightedInfoNCE(Settings):
    """Cross entropy against 1 for the right code and p for the negatives."""

    name: Literal["weighted_infonce"] = "weighted_infonce"


class BinaryCrossEntropy(Settings):
    """Each entry of the softmax against 1 for the right code and p for the negatives."""

    name: Literal["bce"] = "bce"


class KLRegularised(Settings):
    """β · InfoNCE + α · KL of p from the negatives' softmax."""

    name: Literal["kl_regularised"] = "kl_regularised"
    alpha: float = Field(0.7, ge=0, le=1e6, description="weight of the divergence")
    beta: float = Field(1.3, gt=0, le=1e6, description="weight of InfoNCE")


class CancelTopK(Settings):
    """InfoNCE without each query's k most similar negatives."""

    name: Literal["cancel_top_k"] = "cancel_top_k"
    k: int = Field(1, ge=0)


class CancelThreshold(Settings):
    """InfoNCE without the negatives at least `ratio` times as similar as the query is to itself."""

    name: Literal["cancel_threshold"] = "cancel_threshold"
    ratio: float = Field(0.5, gt=0)


class HardNegative(Settings):
    """HCL: hard negatives weigh more. For similarity cosine only."""

    name: Literal["hard_negative"] = "hard_negative"
    concentration: float = Field(0.5, ge=0, le=100, description="b: how much more hard negatives weigh")
    tau_plus: float = Field(0.1, ge=0, lt=1, description="share of negatives that are positives in truth")


class Debiased(Settings):
    """DCL: corrects for negatives that are positives in truth. For similarity cosine only."""

    name: Literal["debiased"] = "debiased"
    tau_plus: float = Field(0.1, ge=0, lt=1, description="share of negatives that are positives in truth")


class SubsampledInfoNCE(Settings):
    """InfoNCE with k negatives of the batch, drawn for each query."""

    name: Literal["subsampled_infonce"] = "subsampled_infonce"
    k: int = Field(ge=1)


class PositiveEqual(Settings):
    """PNE: pairs with the same query or code are positives of one another."""

    name: Literal["positive_equal"] = "positive_equal"


Loss = Annotated[
    InfoNCE
    | SoftInfoNCE
    | WeightedInfoNCE
    | BinaryCrossEntropy
    | KLRegularised
    | CancelTopK
    | CancelThreshold
    | HardNegative
    | Debiased
    | SubsampledInfoNCE
    | PositiveEqual,
    Field(discriminator="name"),
]

USES_ESTIMATOR = (SoftInfoNCE, WeightedInfoNCE, BinaryCrossEntropy, KLRegularised, CancelTopK, CancelThreshold)
"""Losses that read what an estimator says of the negatives."""

UNIT_VECTORS = (HardNegative, Debiased)
"""Losses that are defined for vectors of unit length."""
