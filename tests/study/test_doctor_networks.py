"""The doctor on networks: how much of them is trained, what they do not have, and processors without bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoder_kinds import encoder_of, write_model

from softnce_ray.config import ArmConfig, StudyConfig
from softnce_ray.corpus.store import Corpus
from softnce_ray.encoders import build_encoder
from softnce_ray.study.doctor.asking import Node
from softnce_ray.study.doctor.facts import NodeFacts, Questions, facts_here
from softnce_ray.study.doctor.judging import versions
from softnce_ray.study.doctor.needs import WORKER, folder_of, needs
from softnce_ray.study.doctor.networks import adapters, misfits, precision, trained_share

SCRATCH: dict[str, Any] = {"kind": "transformer", "width": 16, "layers": 3, "heads": 2}
TOKENS = {"vocabulary": 500, "query_length": 20, "code_length": 40}
LORA = {"lora": {"rank": 2}}


@pytest.fixture(scope="module")
def codebert(tiny_pairs: list[Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a CodeBERT of 2 layers of width 24."""
    folder = tmp_path_factory.mktemp("models") / "codebert"
    return encoder_of("codebert", write_model(folder, "codebert", [pair.code for pair in tiny_pairs]))


def arm(encoder: dict[str, Any]) -> ArmConfig:
    return ArmConfig.model_validate({"encoder": encoder, "tokens": TOKENS})


def study(**arms: dict[str, Any]) -> StudyConfig:
    return StudyConfig.model_validate(
        {"study": "s", "corpus": "c", "languages": ["python"], "seeds": [1], "baseline": next(iter(arms)), "arms": arms}
    )


def node(name: str = "10.0.0.1", cpus: float = 4, bf16: bool | None = True, **versions: str) -> Node:
    facts = NodeFacts("3.11.7", {"torch": "2.13.0", **versions}, "", "", True, 1, 1, 1, 1, 1, 0.0, bf16=bf16)
    return Node(name, cpus, 0, facts)


# --- how much is trained ---


@pytest.mark.parametrize(
    "settings",
    [{}, {"freeze": {"embeddings": True}}, {"freeze": {"embeddings": True, "layers": 2}}, {"freeze": {"layers": 3}}],
)
def test_a_share_is_that_of_the_encoder_that_is_built(settings: dict[str, Any]) -> None:
    each = arm({**SCRATCH, **settings})
    built = list(build_encoder(each, 500).parameters())
    trained = sum(parameter.numel() for parameter in built if parameter.requires_grad)
    assert trained_share(each, None) == pytest.approx(trained / sum(parameter.numel() for parameter in built))


def test_a_share_of_adapters_is_theirs_and_of_a_model_that_is_not_here_all(codebert: dict[str, Any]) -> None:
    each = arm({**codebert, **LORA})
    built = list(build_encoder(each, 700).parameters())
    trained = sum(parameter.numel() for parameter in built if parameter.requires_grad)
    share = trained_share(each, folder_of(each))
    assert share == pytest.approx(
        trained / sum(parameter.numel() for parameter in built if not parameter.requires_grad)
    )
    assert 0 < share < 0.05
    assert trained_share(each, None) == 1
    assert trained_share(arm(codebert), folder_of(each)) == 1


def test_what_is_frozen_is_in_no_checkpoint_and_has_no_moments(
    tiny_study: Callable[..., StudyConfig], tiny_corpus: Path
) -> None:
    manifest = Corpus.open(tiny_corpus).manifest

    def need(**freeze: Any) -> Any:
        encoder = {**SCRATCH, "freeze": freeze}
        return needs(tiny_study(arms={"infonce": {"encoder": encoder, "tokens": TOKENS}}), manifest)

    whole, part = need(), need(embeddings=True, layers=2)
    # A layer of width 16 has 4 · (16² + 16) of attention, 2 · 4 · 16² + 5 · 16 of its two maps and 4 · 16 of norms.
    assert part.checkpoint == 16 * (4 * 272 + 2128 + 64)
    frozen = (whole.checkpoint - part.checkpoint) // 16
    assert whole.memory - part.memory == 12 * frozen
    assert part.memory > WORKER + 4 * frozen
    assert part.lasting == whole.lasting


# --- what networks do not have ---


def test_layers_and_matrices_that_a_network_does_not_have_are_errors_before_anything_runs(
    codebert: dict[str, Any],
) -> None:
    asked = study(
        well={"encoder": {**codebert, **LORA, "freeze": {"layers": 1}}},
        deep={"encoder": {**codebert, "freeze": {"layers": 3}}},
        named={"encoder": {**codebert, "lora": {"targets": ["q_proj"]}}},
        again={"encoder": {**codebert, "lora": {"targets": ["q_proj"]}}, "symmetric": True},
        absent={"encoder": {**codebert, "model": "nobody/has-this", "freeze": {"layers": 99}}},
        bag={"encoder": {"kind": "bag"}},
    )
    found = list(misfits(asked, folder_of))
    assert [(each.check, each.level) for each in found] == [("models", "error")] * 2
    assert found[0].text == ("arm deep: encoder.freeze.layers: expected at most 2, the layers of the network, got 3")
    assert "arms named, again: encoder.lora.targets: expected the end of the name" in found[1].text
    assert found[1].remedy == "possible: dense, key, query, value"


def test_a_network_of_which_nothing_is_left_to_train_is_an_error_before_anything_runs(
    codebert: dict[str, Any],
) -> None:
    mean = {**codebert, "kind": "transformer"}  # which leaves the pooler out
    asked = study(
        none={"encoder": {**mean, "freeze": {"embeddings": True, "layers": 2}}},
        pooler={"encoder": {**codebert, "freeze": {"embeddings": True, "layers": 2}}},
        adapters={"encoder": {**mean, **LORA, "freeze": {"layers": 2}}},
        deep={"encoder": {**mean, **LORA, "freeze": {"layers": 3}}},
    )
    found = {each.text.split(":")[0]: each for each in misfits(asked, folder_of)}
    assert list(found) == ["arm none", "arm adapters", "arm deep"]
    assert "nothing is left to train: its embeddings and all its 2 layers are frozen" in found["arm none"].text
    assert found["arm none"].remedy.startswith("lower freeze.layers or leave out embeddings")
    assert "encoder.freeze.layers: expected at most 1 of 2 layers with lora, got 2" in found["arm adapters"].text
    assert found["arm adapters"].remedy == "lower it, or remove lora"
    assert "encoder.freeze.layers: expected at most 2, the layers of the network, got 3" in found["arm deep"].text


def test_settings_that_a_search_reaches_are_tried_on_the_network(codebert: dict[str, Any]) -> None:
    mean = {**codebert, "kind": "transformer"}
    space = {
        "encoder.freeze.layers": {"low": 0, "high": 2},
        "encoder.freeze.embeddings": {"choices": [False, True], "when": {"encoder.pooling": "mean"}},
        "encoder.pooling": {"choices": ["mean", "pooler"]},
    }

    def found(**changes: Any) -> list[str]:
        wanted = {**space, **changes}
        arms = {"plain": {"encoder": mean}}
        asked = {**study(**arms).model_dump(), "search": {"trials": 2, "space": wanted}}
        return [each.text for each in misfits(StudyConfig.model_validate(asked), folder_of)]

    (told,) = found()
    assert "arm plain: encoder.freeze: nothing is left to train" in told
    unsearched = {"encoder.freeze.embeddings": {"choices": [False, True], "when": {"encoder.pooling": "pooler"}}}
    assert found(**unsearched) == []
    (deep,) = found(**unsearched, **{"encoder.freeze.layers": {"low": 0, "high": 9}})
    assert "expected at most 2, the layers of the network, got 9" in deep


def test_a_damaged_configuration_is_left_to_the_trial_that_loads_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    each = arm({"kind": "transformer", "model": str(tmp_path), "freeze": {"layers": 1}})
    assert trained_share(each, str(tmp_path)) == 1


# --- what nodes lack ---


def test_a_node_without_peft_is_an_error_where_an_arm_has_adapters(codebert: dict[str, Any]) -> None:
    nodes = [node(peft="0.21.2"), node("10.0.0.2")]
    assert adapters(study(plain={"encoder": codebert}), nodes) == []
    (found,) = adapters(study(plain={"encoder": codebert}, lora={"encoder": {**codebert, **LORA}}), nodes)
    assert (found.level, found.text) == (
        "error",
        "10.0.0.2: encoder.lora of arm lora needs peft, which is not installed there",
    )
    assert "pip install 'softnce-ray[lora]'" in found.remedy


def test_peft_may_be_missing_but_not_another(codebert: dict[str, Any]) -> None:
    here = node(peft="0.21.2").facts
    assert here is not None
    assert versions(here, [node()])[0].level == "ok"
    assert versions(here, [node(peft="0.20.0")])[0].level == "error"


def test_bf16_on_a_processor_without_it_is_a_warning() -> None:
    arms: dict[str, Any] = {
        "exact": {"encoder": SCRATCH},
        "rough": {"encoder": SCRATCH, "training": {"precision": "bf16"}},
        "bag": {"training": {"precision": "bf16"}},
    }
    nodes = [node(), node("10.0.0.2", bf16=False), node("10.0.0.3", bf16=None), node("small", cpus=0.5, bf16=False)]
    (found,) = precision(study(**arms), nodes)
    assert found.level == "warning" and found.text.startswith("10.0.0.2: training.precision of arm rough is bf16")
    assert precision(study(exact=arms["exact"], bag=arms["bag"]), nodes) == []
    on_gpus = study(**arms).model_copy(update={"resources": study(**arms).resources.model_copy(update={"gpus": 1})})
    assert precision(on_gpus, nodes) == []


def test_a_searched_precision_counts_too() -> None:
    asked = StudyConfig.model_validate(
        {
            **study(one={"encoder": SCRATCH}).model_dump(),
            "search": {"trials": 2, "space": {"training.precision": {"choices": ["float32", "bf16"]}}},
        }
    )
    assert [each.level for each in precision(asked, [node(bf16=False)])] == ["warning"]


def test_a_node_says_what_its_processor_can(tmp_path: Path) -> None:
    found = facts_here(Questions(tmp_path, "")).bf16
    text = Path("/proc/cpuinfo")
    if not text.is_file():
        assert found is None
    else:
        words = text.read_text().split()
        assert found == any(word in words for word in ("amx_bf16", "bf16"))
