"""Settings: what an identity is made of, which laws hold between settings, and that nothing changes silently."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from softnce_ray.config import (
    ArmConfig,
    Choices,
    Range,
    Resources,
    StudyArm,
    StudyConfig,
    TrialConfig,
    arm_settings,
    flatten,
    identity,
    resolved,
    with_values,
)

SOFT: dict[str, Any] = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
TRANSFORMER: dict[str, Any] = {"encoder": {"kind": "transformer"}}


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
    ({}, "language", "ruby"),
    ({}, "seed", 2),
    (TRANSFORMER, "training.weight_decay", 0.01),
    (TRANSFORMER, "encoder.model", "some/model"),
    (TRANSFORMER, "encoder.width", 64),
    (TRANSFORMER, "encoder.layers", 3),
    (TRANSFORMER, "encoder.heads", 4),
    (TRANSFORMER, "encoder.dropout", 0.2),
    (TRANSFORMER, "encoder.pooling", "first"),
    (SOFT, "loss.alpha", 1.0),
    (SOFT, "loss.beta", 1.0),
    (SOFT, "loss.floor", 0.2),
    (SOFT, "estimator.temperature", 2.0),
    (SOFT, "estimator.k1", 1.0),
    (SOFT, "estimator.b", 0.5),
    (SOFT, "estimator.epsilon", 0.5),
]


@pytest.mark.parametrize(("arm", "path", "value"), OTHERS, ids=lambda part: part if isinstance(part, str) else "")
def test_every_setting_changes_the_identity(arm: dict[str, Any], path: str, value: Any) -> None:
    before = trial(**arm).model_dump(mode="json")
    assert not same(before, with_values(before, {path: value}))


def test_no_setting_is_missing_from_the_list_of_those_that_change_the_identity() -> None:
    tried = {path for _, path, _ in OTHERS}
    whole = set()
    for arm in ({}, TRANSFORMER, SOFT):
        whole |= set(flatten(trial(**arm).model_dump()))
    # kind and name choose the model; an absent estimator is `estimator` itself
    assert {path for path in whole if path.rpartition(".")[2] not in ("kind", "name")} - {"estimator"} == tried


def test_another_kind_of_part_changes_the_identity() -> None:
    uniform = {**SOFT, "estimator": {"name": "uniform"}}
    assert not same({}, TRANSFORMER)
    assert not same({}, SOFT)
    assert not same(SOFT, uniform)


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


def test_a_loss_that_weighs_needs_an_estimator_and_another_takes_none() -> None:
    with pytest.raises(ValidationError, match="expected an estimator, got none"):
        trial(loss={"name": "soft_infonce"})
    with pytest.raises(ValidationError, match="loss infonce uses no estimator, got bm25"):
        trial(estimator={"name": "bm25"})


def test_a_bag_takes_no_weight_decay_and_a_transformer_does() -> None:
    with pytest.raises(ValidationError, match=r"expected 0, got 0\.1"):
        trial(training={"weight_decay": 0.1})
    assert trial(**TRANSFORMER, training={"weight_decay": 0.1}).training.weight_decay == 0.1


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


def test_flatten_gives_each_value_its_path() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": None, "e": {}}) == {"a.b.c": 1, "d": None}


def test_the_settings_of_an_arm_leave_its_search_out() -> None:
    arm = StudyArm.model_validate({"search": {"temperature": {"low": 0.1, "high": 0.2}}})
    assert ArmConfig.model_validate(arm_settings(arm)) == ArmConfig()
