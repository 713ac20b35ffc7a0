"""Settings: what an identity is made of, which laws hold between settings, and that nothing changes silently."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic import BaseModel, ValidationError

from softnce_ray.config import (
    ArmConfig,
    Choices,
    Loss,
    MixEstimator,
    Range,
    Resources,
    SimCSEEstimator,
    StudyArm,
    StudyConfig,
    TrainingSettings,
    TransformerEncoder,
    TrialConfig,
    arm_settings,
    flatten,
    identity,
    resolved,
    revisions,
    with_values,
)
from softnce_ray.config.settings import kind_of
from softnce_ray.estimators import negative_distribution
from softnce_ray.losses import LOSSES
from softnce_ray.objective import loss_options
from softnce_ray.study.file import _with_defaults

SOFT: dict[str, Any] = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
PLUS: dict[str, Any] = {**SOFT, "estimator": {"name": "bm25", "variant": "plus", "delta": 1.0}}
TRANSFORMER: dict[str, Any] = {"encoder": {"kind": "transformer"}}
ADAPTED: dict[str, Any] = {
    "encoder": {"kind": "transformer", "model": "some/model", "freeze": {"embeddings": True, "layers": 2}, "lora": {}}
}


def arm_of(loss: str, **settings: Any) -> dict[str, Any]:
    """An arm with a loss, an estimator where it needs one, and what the loss has no default for."""
    needed = {"k": 8} if loss == "subsampled_infonce" else {}
    estimated = {"negatives", "similarity"} & LOSSES[loss].needs
    return {
        "loss": {"name": loss, **needed, **settings},
        **({"estimator": {"name": "bm25"}} if estimated else {}),
    }


def trial(**changes: Any) -> TrialConfig:
    return TrialConfig.model_validate({"language": "python", "seed": 1, **changes})


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return identity(trial(**one), "c0ffee") == identity(trial(**other), "c0ffee")


# For each setting another value than its default, in an arm where it has a meaning.
OTHERS: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "encoder.width", 64),
    ({}, "tokens.vocabulary", 500),
    ({}, "tokens.query_length", 32),
    ({}, "tokens.code_length", 128),
    ({}, "tokens.split_identifiers", False),
    ({}, "similarity", "dot"),
    ({}, "temperature", 0.1),
    ({}, "training.epochs", 4),
    ({}, "training.batch_size", 64),
    ({}, "training.learning_rate", 0.02),
    ({}, "training.warmup", 0.2),
    ({}, "training.max_gradient_norm", 2.0),
    ({}, "training.precision", "bf16"),
    ({}, "symmetric", True),
    ({}, "mask_duplicates", True),
    ({}, "language", "ruby"),
    ({}, "seed", 2),
    (TRANSFORMER, "training.weight_decay", 0.01),
    (TRANSFORMER, "encoder.model", "some/model"),
    (TRANSFORMER, "encoder.width", 64),
    (TRANSFORMER, "encoder.layers", 3),
    (TRANSFORMER, "encoder.heads", 4),
    (TRANSFORMER, "encoder.dropout", 0.2),
    (TRANSFORMER, "encoder.pooling", "first"),
    (TRANSFORMER, "encoder.freeze.embeddings", True),
    (TRANSFORMER, "encoder.freeze.layers", 1),
    (ADAPTED, "encoder.lora", None),
    (ADAPTED, "encoder.lora.rank", 4),
    (ADAPTED, "encoder.lora.alpha", 8),
    (ADAPTED, "encoder.lora.dropout", 0.1),
    (ADAPTED, "encoder.lora.targets", ["dense"]),
    (SOFT, "loss.alpha", 1.0),
    (SOFT, "loss.beta", 1.0),
    (SOFT, "loss.floor", 0.2),
    (arm_of("kl_regularised"), "loss.alpha", 1.0),
    (arm_of("kl_regularised"), "loss.beta", 1.0),
    (arm_of("cancel_top_k"), "loss.k", 3),
    (arm_of("cancel_threshold"), "loss.ratio", 0.7),
    (arm_of("hard_negative"), "loss.concentration", 1.0),
    (arm_of("hard_negative"), "loss.tau_plus", 0.2),
    (arm_of("debiased"), "loss.tau_plus", 0.2),
    (arm_of("subsampled_infonce"), "loss.k", 16),
    (SOFT, "estimator.temperature", 2.0),
    (SOFT, "estimator.statistics", "batch"),
    (SOFT, "estimator.k1", 1.0),
    (SOFT, "estimator.b", 0.5),
    (SOFT, "estimator.epsilon", 0.5),
    (SOFT, "estimator.variant", "plus"),
    (PLUS, "estimator.delta", 0.5),
]


@pytest.mark.parametrize(("arm", "path", "value"), OTHERS, ids=lambda part: part if isinstance(part, str) else "")
def test_every_setting_changes_the_identity(arm: dict[str, Any], path: str, value: Any) -> None:
    before = trial(**arm).model_dump(mode="json")
    assert not same(before, with_values(before, {path: value}))


def test_no_setting_is_missing_from_the_list_of_those_that_change_the_identity() -> None:
    tried = {path for _, path, _ in OTHERS}
    whole = set()
    for arm in ({}, TRANSFORMER, ADAPTED, PLUS, *map(arm_of, LOSSES)):
        whole |= set(flatten(trial(**arm).model_dump()))
    # kind and name choose the model; an absent estimator is `estimator` itself, and so are absent adapters
    named = {path for path in whole if path.rpartition(".")[2] not in ("kind", "name")}
    assert named - {"estimator"} == tried - {"encoder.lora"}


PUBLISHED_BEFORE = {
    "codebert": "85e81355e1e6f575",
    "unixcoder": "1a5351c8bd832e6a",
    "graphcodebert": "85d06474db16209a",
}
"""Identities of before any part of a network could be frozen or adapted."""


@pytest.mark.parametrize(
    ("encoder", "before"),
    [
        ({"kind": "bag"}, "edcdd95c3530bd4a"),
        ({"kind": "transformer"}, "20171f89e33a9582"),
        ({"kind": "transformer", "model": "some/model", "pooling": "first"}, "e7253fc5606aea3a"),
        *(({"kind": kind}, before) for kind, before in PUBLISHED_BEFORE.items()),
    ],
)
def test_a_network_that_is_trained_whole_is_the_trial_that_it_was_before_parts_could_be_left_out(
    encoder: dict[str, Any], before: str
) -> None:
    nothing = {} if encoder["kind"] == "bag" else {"freeze": {"embeddings": False, "layers": 0}, "lora": None}
    for settings in (encoder, {**encoder, **nothing}):
        # With the learning rate that every kind had then.
        assert identity(trial(encoder=settings, training={"learning_rate": 0.01}), "c0ffee") == before
        assert not {"freeze", "lora"} & trial(encoder=settings).model_dump()["encoder"].keys()


@pytest.mark.parametrize(
    "settings", [{"freeze": {"layers": 1}}, {"freeze": {"embeddings": True}}, {"lora": {"rank": 2}}]
)
def test_what_is_trained_of_a_network_comes_back_from_its_plain_settings(settings: dict[str, Any]) -> None:
    config = trial(encoder={"kind": "codebert", **settings})
    assert trial(**config.model_dump(mode="json")) == config
    assert not same({"encoder": {"kind": "codebert"}}, {"encoder": {"kind": "codebert", **settings}})


def test_parts_of_a_network_that_does_not_have_them_are_refused() -> None:
    for key, value in (("lora", {}), ("freeze", {"layers": 1})):
        assert blamed(encoder={"kind": "bag", key: value}) == (
            f"encoder.bag.{key}",
            f"encoder bag has no network: expected no {key} here, or another kind of encoder",
        )
    key, message = blamed(encoder={"kind": "transformer", "layers": 3, "freeze": {"layers": 4}})
    assert (key, message) == ("encoder.transformer.freeze.layers", "expected at most layers 3, got 4")
    assert trial(encoder={"kind": "transformer", "layers": 3, "freeze": {"layers": 3}})
    key, message = blamed(encoder={"kind": "transformer", "lora": {}})
    assert key == "encoder.transformer.lora" and "expected a model, got a network from scratch" in message


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("lora.rank", [0, 1.5, None]),
        ("lora.alpha", [0, -1]),
        ("lora.dropout", [-0.1, 1]),
        ("lora.targets", [[], [""], "query"]),
        ("freeze.layers", [-1, 0.5]),
        ("freeze.embeddings", ["perhaps"]),
    ],
)
def test_a_setting_of_what_is_trained_outside_its_range_is_refused(key: str, bad: list[Any]) -> None:
    group, name = key.split(".")
    for value in bad:
        with pytest.raises(ValidationError):
            trial(encoder={"kind": "codebert", group: {name: value}})


def test_another_kind_of_part_changes_the_identity() -> None:
    uniform = {**SOFT, "estimator": {"name": "uniform"}}
    assert not same({}, TRANSFORMER)
    assert not same({}, SOFT)
    assert not same(SOFT, uniform)
    assert len({identity(trial(**arm_of(loss)), "c0ffee") for loss in LOSSES}) == len(LOSSES)


BEFORE_REVISIONS = {
    "infonce": "edcdd95c3530bd4a",
    "soft_infonce": "bbfb7dc2ae98b87a",
    "weighted_infonce": "3462e885abb27007",
    "bce": "7e24b75b9d3142ed",
    "kl_regularised": "4a6ad4f85151c347",
    "cancel_top_k": "403cc37e105cdd5e",
    "cancel_threshold": "df688d4a49d854e6",
    "hard_negative": "8e2d253e44d55077",
    "debiased": "a0ef744a472d4dae",
    "positive_equal": "7aa8f71f28bafbca",
}
"""Identities of before any revision of the method concerned some settings only."""


@pytest.mark.parametrize("loss", BEFORE_REVISIONS)
def test_a_trial_that_no_revision_concerns_is_the_trial_that_it_was(loss: str) -> None:
    assert identity(trial(**arm_of(loss)), "c0ffee") == BEFORE_REVISIONS[loss]


def test_a_trial_that_a_revision_concerns_is_another_than_before() -> None:
    assert identity(trial(**arm_of("subsampled_infonce")), "c0ffee") not in ("a98327664db83fea", *BEFORE_REVISIONS)
    assert revisions(resolved(trial())) == []
    (drawn,) = revisions(resolved(trial(**arm_of("subsampled_infonce"))))
    assert revisions(resolved(trial()), {"loss.name": ("infonce", "subsampled_infonce")}) == [drawn]
    assert revisions(resolved(trial()), {"loss.name": ("infonce", "bce")}) == []
    assert identity(trial(similarity="dot"), "c0ffee") != "cd0fe890480eeeec"


def test_the_corpus_changes_the_identity() -> None:
    assert identity(trial(), "one") != identity(trial(), "other")


def test_a_default_written_out_is_the_same_trial() -> None:
    assert same({}, trial().model_dump(mode="json"))
    assert same({}, {"training": {"epochs": 3}, "encoder": {"kind": "bag"}})
    assert same(SOFT, {**SOFT, "loss": {"name": "soft_infonce", "floor": 0.1, "alpha": 1.5}})


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.5, 1.9])
def test_a_null_beta_is_the_same_trial_as_two_minus_alpha(alpha: float) -> None:
    null = {**SOFT, "loss": {"name": "soft_infonce", "alpha": alpha, "beta": None}}
    given = {**SOFT, "loss": {"name": "soft_infonce", "alpha": alpha, "beta": 2 - alpha}}
    assert same(null, given)
    assert resolved(trial(**null))["loss"]["beta"] == 2 - alpha


@pytest.mark.parametrize(("similarity", "temperature"), [("cosine", 0.05), ("dot", 1.0)])
def test_a_null_temperature_is_the_same_trial_as_the_one_it_stands_for(similarity: str, temperature: float) -> None:
    assert same({"similarity": similarity}, {"similarity": similarity, "temperature": temperature})
    assert resolved(trial(similarity=similarity))["temperature"] == temperature


def test_whole_numbers_and_their_decimal_spelling_are_the_same_trial() -> None:
    assert same({"temperature": 1}, {"temperature": 1.0})
    assert same({"training": {"learning_rate": "1e-4"}}, {"training": {"learning_rate": 0.0001}})


def test_an_identity_is_sixteen_hexadecimal_digits() -> None:
    assert len(identity(trial(), "c")) == 16
    assert int(identity(trial(), "c"), 16) >= 0


def test_what_only_says_where_and_how_fast_is_no_setting_of_a_trial() -> None:
    runtime = set(Resources.model_fields) | {"corpus", "arm", "resources", "failures", "store"}
    assert not runtime & set(TrialConfig.model_fields)
    with pytest.raises(ValidationError):
        trial(cpus=2)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        trial().seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        trial().training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong", [{"sed": 1}, {"training": {"epoch": 3}}, {"encoder": {"kind": "bag", "layers": 2}}, {"search": {}}]
)
def test_an_unknown_key_is_refused_at_every_depth(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        trial(**wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "-inf"])
def test_a_value_that_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        trial(temperature=value)


@pytest.mark.parametrize(("alpha", "batch", "allowed"), [(1.0, 11, True), (1.01, 11, False), (0.99, 11, True)])
def test_beta_must_exceed_alpha_over_the_number_of_negatives(alpha: float, batch: int, allowed: bool) -> None:
    # 10 negatives and beta 0.1000001: alpha / 10 lies just below, above or well below
    settings = {
        "loss": {"name": "soft_infonce", "alpha": alpha, "beta": 0.1000001},
        "estimator": {"name": "bm25"},
        "training": {"batch_size": batch},
    }
    if allowed:
        assert trial(**settings)
    else:
        with pytest.raises(ValidationError, match="batch_size - 1"):
            trial(**settings)


def test_beta_equal_to_alpha_over_the_number_of_negatives_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"0\.5 and 1 / 2 = 0\.5"):
        trial(**{**SOFT, "loss": {"name": "soft_infonce", "alpha": 1, "beta": 0.5}, "training": {"batch_size": 3}})


def test_alpha_of_two_needs_a_beta() -> None:
    with pytest.raises(ValidationError, match="give beta"):
        trial(**{**SOFT, "loss": {"name": "soft_infonce", "alpha": 2}})
    assert trial(**{**SOFT, "loss": {"name": "soft_infonce", "alpha": 2, "beta": 1}})


# --- losses ----------------------------------------------------------------------------------------------


def blamed(**settings: Any) -> tuple[str, str]:
    """The key and the message of the law that an arm breaks."""
    with pytest.raises(ValidationError) as caught:
        trial(**settings)
    (error,) = caught.value.errors()
    inside = ".".join(str(part) for part in error["loc"] if part not in LOSSES)
    key = ".".join(part for part in (inside, error.get("ctx", {}).get("key", "")) if part)
    return key, error["msg"]


SETTINGS_OF = {each.model_fields["name"].default: each for each in get_args(get_args(Loss)[0])}


def test_every_loss_has_settings_and_the_settings_are_what_it_takes() -> None:
    assert set(SETTINGS_OF) == set(LOSSES)
    for name, loss in LOSSES.items():
        taken = set(inspect.signature(loss.function).parameters) - {"scores", "hidden"} - loss.needs
        assert set(SETTINGS_OF[name].model_fields) - {"name"} == taken, name


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_takes_an_estimator_where_it_reads_what_one_says_and_only_there(loss: str) -> None:
    arm = arm_of(loss)
    assert trial(**arm)
    if arm.get("estimator"):
        key, message = blamed(**{**arm, "estimator": None})
        assert message.startswith(f"loss {loss} weighs negatives: expected an estimator, got none")
    else:
        key, message = blamed(**{**arm, "estimator": {"name": "bm25"}})
        assert message.startswith(f"loss {loss} uses no estimator, got bm25")
    assert key == "estimator"


@pytest.mark.parametrize(("loss", "most"), [("cancel_top_k", 8), ("subsampled_infonce", 9)])
def test_k_leaves_a_negative_and_draws_no_more_than_there_are(loss: str, most: int) -> None:
    ten = {"training": {"batch_size": 10}}
    assert trial(**arm_of(loss, k=most), **ten)
    key, message = blamed(**arm_of(loss, k=most + 1), **ten)
    assert (key, message) == (
        "loss.k",
        f"expected k <= {most} with batch_size 10, got {most + 1}: lower k or raise the batch size",
    )


def test_the_k_that_the_law_allows_is_the_k_that_the_loss_takes() -> None:
    scores = torch.randn(10, 10)
    for loss, most in (("cancel_top_k", 8), ("subsampled_infonce", 9)):
        given = {"similarity": scores} if loss == "cancel_top_k" else {}
        assert LOSSES[loss].function(scores, k=most, **given).isfinite()
        with pytest.raises(ValueError, match=f"to {most} for batches of 10"):
            LOSSES[loss].function(scores, k=most + 1, **given)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_unit_vectors_take_cosine_alone(loss: str) -> None:
    if loss in ("hard_negative", "debiased"):
        key, message = blamed(**arm_of(loss), similarity="dot")
        assert (key, message) == (
            "similarity",
            f"loss {loss} is defined for unit vectors: expected cosine, got dot",
        )
    else:
        assert trial(**arm_of(loss), similarity="dot")


@pytest.mark.parametrize("loss", LOSSES)
def test_duplicates_are_masked_or_positives_but_not_both(loss: str) -> None:
    if loss == "positive_equal":
        key, message = blamed(**arm_of(loss), mask_duplicates=True)
        assert (key, message) == (
            "mask_duplicates",
            "loss positive_equal takes duplicates as positives: expected false, got true",
        )
    else:
        assert trial(**arm_of(loss), mask_duplicates=True)


def test_the_laws_of_alpha_and_beta_name_alpha() -> None:
    key, message = blamed(**arm_of("soft_infonce", alpha=1, beta=0.5), training={"batch_size": 3})
    assert key == "loss.alpha"
    assert message.startswith("expected beta > alpha / (batch_size - 1), got beta 0.5 and 1 / 2 = 0.5")
    key, message = blamed(**arm_of("soft_infonce", alpha=2))
    assert key == "loss.alpha"
    assert "give beta" in message


@pytest.mark.parametrize(
    ("loss", "key", "bad"),
    [
        ("soft_infonce", "alpha", [-0.1]),
        ("soft_infonce", "beta", [0, -1]),
        ("soft_infonce", "floor", [0, 1.1]),
        ("kl_regularised", "alpha", [-0.1]),
        ("kl_regularised", "beta", [0]),
        ("cancel_top_k", "k", [-1, 1.5]),
        ("cancel_threshold", "ratio", [0, -1]),
        ("hard_negative", "concentration", [-0.1, 101]),
        ("hard_negative", "tau_plus", [-0.1, 1]),
        ("debiased", "tau_plus", [-0.1, 1]),
        ("subsampled_infonce", "k", [0, 1.5, None]),
    ],
)
def test_a_setting_of_a_loss_outside_its_range_is_refused_by_its_key(loss: str, key: str, bad: list[Any]) -> None:
    for value in [*bad, float("nan"), "x"]:
        assert blamed(**arm_of(loss, **{key: value}))[0] == f"loss.{key}"


def extremes(settings: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """The least and the greatest value of each number with a range, and of all of them at once."""
    ranges: dict[str, list[float]] = {}
    for key, field in settings.model_fields.items():
        found = {}
        for law in field.metadata:
            for name in ("ge", "gt", "le", "lt"):
                if (bound := getattr(law, name, None)) is not None and field.annotation is not int:
                    found[name[0]] = math.nextafter(bound, 0.5) if name.endswith("t") else bound
        if found:
            ranges[key] = list(found.values())
    for values in itertools.product(*ranges.values()):
        yield dict(zip(ranges, values, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_finite_wherever_its_settings_and_temperatures_may_be(loss: str) -> None:
    """Of scores of unit vectors, and of a p that is one-hot as at the lowest temperature of an estimator."""
    cosines = 2 * torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) - 1
    similarity = 30 * torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(16, 16, dtype=torch.bool)
    hidden[0, 3:7] = True
    tried = 0
    for values in extremes(SETTINGS_OF[loss]):
        for temperature in (1e-6, 1000):
            try:
                config = trial(**arm_of(loss, **values), temperature=temperature, training={"batch_size": 16})
            except ValidationError:
                continue
            known = {
                "negatives": negative_distribution(similarity, temperature=1e-6),
                "similarity": similarity,
                "positives": torch.eye(16, dtype=torch.bool),
                "temperature": config.resolved_temperature,
                "generator": None,
            }
            given = {need: known[need] for need in LOSSES[loss].needs}
            for masked in (None, hidden):
                scores = (cosines / temperature).requires_grad_()
                value = LOSSES[loss].function(scores, **given, **loss_options(config), hidden=masked)
                value.backward()
                assert value.isfinite(), (values, temperature)
                assert scores.grad is not None and scores.grad.isfinite().all(), (values, temperature)
                tried += 1
    assert tried >= 4


@pytest.mark.parametrize(
    ("arm", "path"),
    [
        ({}, "temperature"),
        (SOFT, "estimator.temperature"),
        ({**SOFT, "estimator": {"name": "simcse"}}, "estimator.score_temperature"),
        ({**SOFT, "estimator": {"name": "mix", "mix": {"bm25": 1}}}, "estimator.parts.bm25.temperature"),
    ],
)
def test_a_temperature_below_what_float32_can_tell_apart_is_refused(arm: dict[str, Any], path: str) -> None:
    for value, fits in ((1e-6, True), (9e-7, False), (1e-300, False), (0, False)):
        settings = with_values(
            arm, {path: value, "estimator.parts.bm25.name": "bm25"} if "parts" in path else {path: value}
        )
        if fits:
            assert trial(**settings)
            continue
        with pytest.raises(ValidationError, match=r"greater than or equal to 0.000001"):
            trial(**settings)


def test_the_defaults_of_the_losses_are_the_published_settings() -> None:
    def defaults(loss: str) -> dict[str, Any]:
        return trial(**arm_of(loss)).loss.model_dump(exclude={"name"})

    assert defaults("soft_infonce") == {"alpha": 1.5, "beta": None, "floor": 0.1}
    assert defaults("kl_regularised") == {"alpha": 0.7, "beta": 1.3}


def test_a_bag_takes_no_weight_decay_and_a_transformer_does() -> None:
    with pytest.raises(ValidationError, match=r"expected 0, got 0\.1"):
        trial(training={"weight_decay": 0.1})
    assert trial(**TRANSFORMER, training={"weight_decay": 0.1}).training.weight_decay == 0.1


@pytest.mark.parametrize(
    ("estimator", "before"),
    [
        ({"name": "bm25"}, "bbfb7dc2ae98b87a"),
        ({"name": "bm25", "statistics": "batch"}, "81e19054646d53b4"),
        ({"name": "bm25_code", "variant": "okapi", "delta": None}, "ea6c69e14eb9e26c"),
        ({"name": "mix", "mix": {"bm25": 0.5, "bm25_code": 0.5}}, "5dc664efda3c1739"),
    ],
)
def test_okapi_is_the_trial_that_it_was_before_there_were_variants(estimator: dict[str, Any], before: str) -> None:
    assert identity(trial(**{**SOFT, "estimator": estimator}), "c0ffee") == before


@pytest.mark.parametrize(("variant", "delta"), [("plus", 1.0), ("l", 0.5)])
@pytest.mark.parametrize("name", ["bm25", "bm25_code"])
def test_a_variant_has_the_packages_delta_and_comes_back_from_its_written_settings(
    name: str, variant: str, delta: float
) -> None:
    short = trial(**{**SOFT, "estimator": {"name": name, "variant": variant}})
    long = trial(**{**SOFT, "estimator": resolved(short)["estimator"]})
    assert resolved(short)["estimator"]["delta"] == delta
    assert identity(short, "c0ffee") == identity(long, "c0ffee")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delta": 1.0}, "expected none with variant okapi, got 1; give variant: plus or l"),
        ({"variant": "l", "epsilon": 0.5}, "expected none with variant l, got 0.5; remove it"),
        ({"variant": "plus", "statistics": "batch"}, "expected none with statistics: batch, got plus"),
        ({"variant": "adpt"}, "Input should be 'okapi', 'plus' or 'l'"),
    ],
)
def test_settings_of_another_formula_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        trial(**{**SOFT, "estimator": {"name": "bm25", **settings}})


def test_a_named_model_of_the_trained_estimator_takes_no_seed() -> None:
    estimator = {"name": "trained", "model": "exported/best"}
    named = trial(**{**SOFT, "estimator": estimator})
    assert trial(**named.model_dump()) == named  # settings written out with their defaults are settings
    with pytest.raises(ValidationError, match="a named model is not trained: expected no seed, got 3"):
        trial(**{**SOFT, "estimator": {**estimator, "seed": 3}})
    trial(**{**SOFT, "estimator": {"name": "trained", "seed": 3}})


@pytest.mark.parametrize("name", ["trained", "simcse"])
def test_a_named_model_of_an_estimator_changes_the_identity_and_is_not_empty(name: str) -> None:
    automatic, named = ({**SOFT, "estimator": {"name": name, **more}} for more in ({}, {"model": "exported/best"}))
    assert not same(automatic, named)
    with pytest.raises(ValidationError, match="at least 1 character"):
        trial(**{**SOFT, "estimator": {"name": name, "model": ""}})


def test_heads_must_divide_the_width_only_from_scratch() -> None:
    with pytest.raises(ValidationError, match="divisor of width 128, got 3"):
        trial(encoder={"kind": "transformer", "heads": 3})
    assert trial(encoder={"kind": "transformer", "heads": 3, "model": "some/model"})


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        ({"low": 1, "high": 1}, "low < high"),
        ({"low": 0, "high": 1, "log": True}, "low > 0"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "exclude"),
        ({"low": 0, "high": 1, "step": 2}, "high - low"),
    ],
)
def test_an_interval_that_holds_nothing_is_refused(wrong: dict[str, Any], law: str) -> None:
    with pytest.raises(ValidationError, match=law):
        Range.model_validate(wrong)


def test_a_list_to_search_has_two_values_or_more() -> None:
    with pytest.raises(ValidationError):
        Choices(choices=(1,))
    assert Choices(choices=(1, True, 1.0, "1", None)).choices == (1, True, 1.0, "1", None)


def study(**changes: Any) -> StudyConfig:
    arms = {"infonce": {}, "soft": {**SOFT, "search": {"loss.alpha": {"low": 0.1, "high": 1}}}}
    return StudyConfig.model_validate(
        {"study": "s", "corpus": "c", "languages": ["python"], "seeds": [1], "arms": arms, **changes}
    )


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "-a", "a" * 64, "a b", "é"])
def test_a_study_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        study(study=name)


def test_the_space_of_an_arm_is_the_study_s_and_its_own() -> None:
    both = study(search={"trials": 3, "space": {"temperature": {"low": 0.01, "high": 0.1}}})
    assert set(both.space("infonce")) == {"temperature"}
    assert set(both.space("soft")) == {"temperature", "loss.alpha"}
    assert study().space("soft") == {}


def test_with_values_changes_a_copy() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": 3}
    assert with_values(before, {"a.b": 5, "d": None}) == {"a": {"b": 5, "c": 2}, "d": None}
    assert before == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("training.batch_tokens", int),
        ("training.epochs", int),
        ("encoder.freeze.layers", int),
        ("temperature", float),
        ("estimator.k1", float),
        ("tokens.split_identifiers", bool),
    ],
)
def test_the_kind_of_a_setting_is_that_of_its_values_whether_it_may_be_null(path: str, kind: type) -> None:
    assert kind_of(ArmConfig.model_validate({**ADAPTED, **SOFT}), path) is kind


def test_flatten_gives_each_value_its_path() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": None, "e": {}}) == {"a.b.c": 1, "d": None}


def test_the_settings_of_an_arm_leave_its_search_out() -> None:
    arm = StudyArm.model_validate({"search": {"temperature": {"low": 0.1, "high": 0.2}}})
    assert ArmConfig.model_validate(arm_settings(arm)) == ArmConfig()


@pytest.mark.parametrize(
    ("encoder", "training", "simcse"),
    [
        ({"kind": "bag"}, 0.01, 0.001),
        ({"kind": "transformer"}, 0.001, 0.001),
        ({"kind": "transformer", "model": "some/model"}, 2e-5, 3e-5),
        ({"kind": "codebert", "freeze": {"layers": 1}}, 2e-5, 3e-5),
        ({"kind": "minilm"}, 2e-5, 3e-5),
        ({"kind": "minilm", "lora": {}}, 2e-4, 3e-4),
        (TransformerEncoder(model="some/model"), 2e-5, 3e-5),
        (TransformerEncoder(), 0.001, 0.001),
    ],
    ids=str,
)
def test_a_learning_rate_that_is_not_given_is_that_of_what_is_trained(
    encoder: Any, training: float, simcse: float
) -> None:
    def rates(estimator: Any, **settings: Any) -> tuple[float, float]:
        config = trial(**{**SOFT, "encoder": encoder, "estimator": estimator, **settings})
        part: Any = config.all_estimators.get("estimator.parts.simcse", config.estimator)
        assert flatten(resolved(config))["training.learning_rate"] == config.training.learning_rate
        return config.training.learning_rate, part.learning_rate

    half = {"name": "mix", "mix": {"simcse": 0.5, "uniform": 0.5}}
    for estimator in ({"name": "simcse"}, SimCSEEstimator(), half, MixEstimator(mix=half["mix"])):
        assert rates(estimator) == (training, simcse)
        assert rates(estimator, training=TrainingSettings(epochs=2)) == (training, simcse)
    assert rates({"name": "simcse", "learning_rate": 0.2}, training={"learning_rate": 0.3}) == (0.3, 0.2)
    parts = {"parts": {"simcse": {"name": "simcse", "learning_rate": 0.2}}}
    assert rates({**half, **parts}, training=TrainingSettings(learning_rate=0.01)) == (0.01, 0.2)


def test_where_nothing_is_trained_the_learning_rate_and_the_identity_are_what_they_were() -> None:
    untrained = trial(encoder={"kind": "minilm"}, training={"epochs": 0})
    assert untrained.training.learning_rate == 0.01
    named = trial(**{**SOFT, "encoder": {"kind": "minilm"}, "estimator": {"name": "simcse", "model": "minilm"}})
    assert named.estimator.learning_rate == 0.001  # type: ignore[union-attr]


STUDIES = sorted(Path(__file__).parents[1].glob("search_spaces/*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_that_ship_train_no_pretrained_encoder_at_a_rate_that_ruins_it(path: Path) -> None:
    study = StudyConfig.model_validate(_with_defaults(yaml.safe_load(path.read_text(encoding="utf-8"))))
    for name, arm in study.arms.items():
        if getattr(arm.encoder, "model", None) is None or not arm.training.epochs:
            continue
        space: Any = study.space(name).get("training.learning_rate")
        trained = [part for part in arm.all_estimators.values() if isinstance(part, SimCSEEstimator) and not part.model]
        rates = [space.high if space else arm.training.learning_rate, *(part.learning_rate for part in trained)]
        assert max(rates) <= (2e-3 if getattr(arm.encoder, "lora", None) else 1e-4), name
