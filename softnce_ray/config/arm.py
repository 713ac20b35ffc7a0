"""Settings of an arm and of a trial: everything that changes what is computed, and so enters an identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from softnce_ray.config.encoders import PUBLISHED_KINDS, PUBLISHED_LENGTHS, BagEncoder, Encoder
from softnce_ray.config.estimators import BM25CodeEstimator, BM25Estimator, Estimator, MixEstimator
from softnce_ray.config.hard_negatives import HardNegatives
from softnce_ray.config.languages import TrainingSet
from softnce_ray.config.losses import (
    UNIT_VECTORS,
    USES_ESTIMATOR,
    CancelThreshold,
    CancelTopK,
    InfoNCE,
    Loss,
    PositiveEqual,
    SoftInfoNCE,
    SubsampledInfoNCE,
)
from softnce_ray.config.rates import with_rates
from softnce_ray.config.settings import LanguageName, Settings, Temperature, flatten, wrong

METHOD_VERSION = 2
"""Raised whenever a change makes all settings train or evaluate differently: old results then no longer count as
results of the new code. A change that concerns some settings only is one of `_REVISIONS`."""


class TokenSettings(Settings):
    """How text becomes token ids. Lengths count tokens, special ones included."""

    vocabulary: int = Field(
        16_000,
        ge=300,
        le=500_000,
        description="subwords of the BPE tokenizer trained on the corpus; unused when the encoder brings a tokenizer",
    )
    query_length: int = Field(
        64, ge=2, le=8192, description="tokens of a query that are read; 128 unless given with a published encoder"
    )
    code_length: int = Field(256, ge=2, le=8192, description="tokens of a function that are read")
    split_identifiers: bool = Field(
        True, description="camelCase and snake_case become words; unused when the encoder brings a tokenizer"
    )


class TrainingSettings(Settings):
    """Optimisation. The learning rate rises linearly over `warmup` and falls linearly to zero."""

    epochs: int = Field(3, ge=0, le=10_000, description="0: the encoder is evaluated as it is")
    batch_size: int = Field(128, ge=2, le=1_000_000, description="pairs; a last short batch is left out")
    learning_rate: float = Field(
        0.01,
        gt=0,
        le=10,
        description="unless given 0.01 for a bag, 0.001 for a network from scratch, 2e-5 for a pretrained one, 2e-4 "
        "for its adapters",
    )
    warmup: float = Field(0.1, ge=0, le=1, description="share of all steps")
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="AdamW's; a bag of embeddings, whose updates are sparse, takes none"
    )
    max_gradient_norm: float = Field(1.0, gt=0)
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: autocast, float32 weights")

    # Left out where they do nothing: identities are those that there were before there was anything of it.
    batch_tokens: int | None = Field(
        None,
        ge=8,
        exclude_if=lambda tokens: tokens is None,
        description="tokens of queries and codes that a batch has at most, beside batch_size pairs; null: any number",
    )
    length_buckets: int = Field(
        1,
        ge=1,
        le=100,
        exclude_if=lambda buckets: buckets == 1,
        description="groups of pairs of like length, each of which makes batches of its own",
    )


class ArmConfig(Settings):
    """All that an arm fixes: with a language and a seed it is a trial."""

    encoder: Encoder = BagEncoder()
    tokens: TokenSettings = TokenSettings()
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: Temperature | None = Field(
        None, le=1000, description="scores are divided by it; null: 0.05 for cosine, 1 for dot"
    )
    loss: Loss = InfoNCE()
    estimator: Estimator | None = None
    training: TrainingSettings = TrainingSettings()
    hard_negatives: HardNegatives | None = Field(None, exclude_if=lambda settings: settings is None)

    symmetric: bool = Field(False, description="also from code to query, the mean of both")
    mask_duplicates: bool = Field(
        False, description="leave out negatives with the same normalised query or code as the right answer"
    )

    @model_validator(mode="before")
    @classmethod
    def _rates_of_its_kind(cls, given: Any) -> Any:
        """Fill in the learning rates that are not given, by the kind of what is trained."""
        return with_rates(given) if isinstance(given, Mapping) else given

    @model_validator(mode="before")
    @classmethod
    def _published_lengths(cls, given: Any) -> Any:
        """A published encoder reads texts of the published lengths, but for those that are given."""
        if not isinstance(given, Mapping):
            return given
        encoder, tokens = given.get("encoder"), given.get("tokens", {})
        kind = encoder.get("kind") if isinstance(encoder, Mapping) else getattr(encoder, "kind", None)
        if not isinstance(kind, str) or kind not in PUBLISHED_KINDS:
            return given
        if isinstance(tokens, TokenSettings):
            tokens = tokens.model_dump(exclude_unset=True)
        return {**given, "tokens": {**PUBLISHED_LENGTHS, **tokens}} if isinstance(tokens, Mapping) else given

    @model_validator(mode="after")
    def _check(self) -> ArmConfig:
        for key, message in self._broken_laws():
            raise wrong(key, message)
        return self

    def _broken_laws(self) -> Iterator[tuple[str, str]]:
        loss, size = self.loss, self.smallest_batch
        if size < 2:
            yield (
                "training.batch_tokens",
                f"expected room for two of the longest pairs, {2 * self.longest_pair} tokens, got "
                f"{self.training.batch_tokens}: raise it, or lower tokens.query_length or tokens.code_length",
            )
            return
        which = "batch_size" if size == self.training.batch_size else "the smallest batch"
        if isinstance(loss, USES_ESTIMATOR) and self.estimator is None:
            yield (
                "estimator",
                f"loss {loss.name} weighs negatives: expected an estimator, got none; give estimator: {{name: bm25}}",
            )
        if not isinstance(loss, USES_ESTIMATOR) and self.estimator is not None:
            yield (
                "estimator",
                f"loss {loss.name} uses no estimator, got {self.estimator.name}: "
                "remove it here or give the estimator in the arms that use it",
            )
        if isinstance(loss, SoftInfoNCE) and not loss.resolved_beta > (even := loss.alpha / (size - 1)):
            yield (
                "loss.alpha",
                f"expected beta > alpha / ({which} - 1), got beta {loss.resolved_beta:g} and "
                f"{loss.alpha:g} / {size - 1} = {even:g}: likelier negatives would weigh "
                "more; lower alpha, raise beta or the batch size",
            )
        most = {CancelTopK: size - 2, SubsampledInfoNCE: size - 1}.get(type(loss))
        if most is not None and loss.k > most:  # type: ignore[union-attr]
            yield (
                "loss.k",
                f"expected k <= {most} with {which} {size}, got {loss.k}: "  # type: ignore[union-attr]
                "lower k or raise the batch size",
            )
        if isinstance(loss, UNIT_VECTORS) and self.similarity != "cosine":
            yield "similarity", f"loss {loss.name} is defined for unit vectors: expected cosine, got {self.similarity}"
        if isinstance(loss, CancelThreshold) and isinstance(self.estimator, MixEstimator):
            yield "estimator", "loss cancel_threshold compares similarities, and a mix has none: expected one estimator"
        if self.symmetric and isinstance(self.estimator, MixEstimator):
            yield "symmetric", "a mix is a distribution over each query's negatives only: expected false, got true"
        if isinstance(loss, PositiveEqual) and self.mask_duplicates:
            yield "mask_duplicates", "loss positive_equal takes duplicates as positives: expected false, got true"
        if isinstance(self.encoder, BagEncoder) and self.training.weight_decay:
            yield (
                "training.weight_decay",
                "encoder bag has sparse updates and takes no weight decay: "
                f"expected 0, got {self.training.weight_decay:g}",
            )

    @property
    def all_estimators(self) -> dict[str, Estimator]:
        """Those that its estimator is made of and the one that hard negatives are mined with, by the key of their
        settings."""
        found: dict[str, Estimator] = {}
        if isinstance(self.estimator, MixEstimator):
            found = {f"estimator.parts.{name}": self.estimator.settings(name) for name in self.estimator.mix}
        elif self.estimator is not None:
            found = {"estimator": self.estimator}
        if self.hard_negatives is not None:
            found["hard_negatives"] = self.hard_negatives.ranking
        return found

    @property
    def longest_pair(self) -> int:
        """Places that a pair takes in the network at most."""
        return self.tokens.query_length + self.tokens.code_length + (self.encoder.inputs.flow_length or 0)

    @property
    def smallest_batch(self) -> int:
        """Pairs that a batch has at least."""
        size, tokens = self.training.batch_size, self.training.batch_tokens
        return size if tokens is None else min(size, tokens // self.longest_pair)

    @property
    def resolved_temperature(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return 0.05 if self.similarity == "cosine" else 1.0


class TrialConfig(ArmConfig):
    """One training run, fully resolved."""

    language: LanguageName = Field(description="a language, or the name of the training set")
    seed: int = Field(ge=0, lt=2**31)

    # Left out for a language alone: its identity is the one that it had before there was anything else.
    train_languages: tuple[LanguageName, ...] | None = Field(None, min_length=1, exclude_if=lambda names: names is None)
    test_languages: tuple[LanguageName, ...] | None = Field(None, min_length=1, exclude_if=lambda names: names is None)

    @model_validator(mode="after")
    def _check_languages(self) -> TrialConfig:
        if (self.train_languages is None) != (self.test_languages is None):
            raise wrong("train_languages", "expected train_languages and test_languages together, got one of them")
        return self

    @property
    def training_set(self) -> TrainingSet:
        if self.train_languages is None or self.test_languages is None:
            return TrainingSet.of(self.language)
        return TrainingSet(name=self.language, train=self.train_languages, test=self.test_languages)


def trial_languages(training_set: TrainingSet) -> dict[str, Any]:
    """The settings of a trial that say what it is trained on and tested on."""
    if training_set.is_language:
        return {"language": training_set.name}
    return {
        "language": training_set.name,
        "train_languages": training_set.train,
        "test_languages": training_set.test,
    }


def resolved(config: ArmConfig) -> dict[str, Any]:
    """The full configuration as plain data, with every default and every `null` that stands for a value
    written out: what a trial's identity and its MLflow parameters are made of."""
    settings = config.model_dump(mode="json")
    settings["temperature"] = config.resolved_temperature
    if isinstance(config.loss, SoftInfoNCE):
        settings["loss"]["beta"] = config.loss.resolved_beta
    if isinstance(config.estimator, BM25Estimator | BM25CodeEstimator):
        settings["estimator"]["k1"] = config.estimator.resolved_k1
        if config.estimator.resolved_delta is not None:
            settings["estimator"]["delta"] = config.estimator.resolved_delta
    return settings


def identity(config: TrialConfig, corpus_fingerprint: str) -> str:
    """Hash (16 hex digits) of all that decides a trial's result.

    The full configuration with every default written out, the corpus' content, the version of the method and its
    revisions. Where and how fast a trial runs is left out: equal identity means the same trial.
    """
    content: dict[str, Any] = {"config": resolved(config), "corpus": corpus_fingerprint, "method": METHOD_VERSION}
    if revised := revisions(content["config"]):  # left out where there is none: those trials stay what they were
        content["revisions"] = revised
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_REVISIONS: dict[str, dict[str, Any]] = {
    # Each worker drew negatives of its own, after its dropout.
    "draws of (seed, epoch, step)": {"loss.name": "subsampled_infonce"},
    # The longest code of all decided which scores were ties.
    "ties by pairs of codes": {"similarity": "dot"},
}
"""Changes of the method since `METHOD_VERSION` that concern trials with these settings only. Their names are part of
identities: they stay until the version is raised."""


def revisions(settings: dict[str, Any], choices: Mapping[str, Collection[Any]] | None = None) -> list[str]:
    """Return the revisions of the method that concern an arm with these settings.

    Args:
      settings: of an arm, nested.
      choices: values of settings that are searched, by dotted path.
    """
    flat, several = flatten(settings), choices or {}
    return [
        name
        for name, concerned in _REVISIONS.items()
        if all(flat.get(path) == value or value in several.get(path, ()) for path, value in concerned.items())
    ]
