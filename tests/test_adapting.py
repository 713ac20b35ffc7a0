"""Networks of which only a part is trained, and layers that are computed twice: what is trained, kept and merged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import encoder_of, write_model
from servers import free_port
from tokenizers import Tokenizer, models
from torch import Tensor, distributed, multiprocessing
from torch.autograd.graph import saved_tensors_hooks
from transformers import DistilBertConfig, DistilBertModel

from softnce_ray.checkpoint import CHECKPOINT_FILE, Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from softnce_ray.config import ArmConfig, TrainingSettings, TransformerEncoder, TrialConfig
from softnce_ray.corpus.ragged import Ragged
from softnce_ray.encoders import (
    DualEncoder,
    EncoderError,
    adapting,
    build_encoder,
    frozen_digest,
    load_trained,
    merged,
    recompute,
    tensors_of,
    trained_numbers,
    trained_state,
)
from softnce_ray.export import cards
from softnce_ray.graph_inputs import GraphTensors
from softnce_ray.model import Model, load_model, save_model
from softnce_ray.optimisers import build_optimisers
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import TrainResult, train
from softnce_ray.training_data import TrainingData
from softnce_ray.workers import ALONE, Workers

VOCABULARY = 700
SCRATCH: dict[str, Any] = {"kind": "transformer", "width": 16, "layers": 3, "heads": 2, "dropout": 0.1}
LORA: dict[str, Any] = {"rank": 2, "alpha": 8}


@pytest.fixture(scope="module")
def folder(tiny_pairs: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CodeBERT of 3 layers."""
    texts = [text for pair in tiny_pairs for text in (pair.query, pair.code)]
    return write_model(tmp_path_factory.mktemp("models") / "codebert", "codebert", texts, layers=3)


def arm(encoder: dict[str, Any]) -> ArmConfig:
    return ArmConfig.model_validate({"encoder": encoder, "tokens": {"vocabulary": VOCABULARY}})


def build(encoder: dict[str, Any], seed: int = 0) -> DualEncoder:
    torch.manual_seed(seed)
    return build_encoder(arm(encoder), VOCABULARY)


def scratch(**freeze: Any) -> DualEncoder:
    return build({**SCRATCH, "freeze": freeze})


def adapted(folder: Path, lora: dict[str, Any], **freeze: Any) -> DualEncoder:
    return build({**encoder_of("codebert", folder), "lora": lora, "freeze": freeze})


def randomised(encoder: DualEncoder) -> DualEncoder:
    """Adapters begin as nothing; these do something."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.5)
    return encoder


def trained(encoder: DualEncoder) -> set[str]:
    return {name.removeprefix("tower.model.") for name, each in encoder.named_parameters() if each.requires_grad}


def some_texts(count: int = 6, length: int = 9) -> Ragged:
    chance = np.random.default_rng(0)
    return Ragged(chance.integers(5, VOCABULARY, count * length), np.arange(0, count * length + 1, length))


def vectors_of(encoder: DualEncoder) -> Tensor:
    return encoder(*tensors_of(some_texts(), "cpu"))


# --- what is trained -------------------------------------------------------------------------------------


def test_by_default_all_is_trained() -> None:
    encoder = scratch()
    assert trained(encoder) == {name.removeprefix("tower.model.") for name in encoder.state_dict()}
    assert trained_state(encoder).keys() == encoder.state_dict().keys()
    assert frozen_digest(encoder) is None
    assert merged(encoder) is encoder


def test_frozen_are_the_embeddings_and_the_lowest_layers_that_the_settings_name() -> None:
    names = trained(scratch())
    below = {name for name in names if name.startswith("embeddings.")}
    first = {name for name in names if name.startswith("encoder.layer.0.")}
    second = {name for name in names if name.startswith("encoder.layer.1.")}
    assert below and first and second
    assert trained(scratch(embeddings=True)) == names - below
    assert trained(scratch(layers=1)) == names - first
    assert trained(scratch(embeddings=True, layers=2)) == names - below - first - second


def test_of_adapted_matrices_the_adapters_alone_are_trained(folder: Path) -> None:
    encoder = adapted(folder, LORA)
    at = [f"encoder.layer.{layer}.attention.self.{part}" for layer in range(3) for part in ("query", "value")]
    assert trained(encoder) == {f"{name}.lora_{side}.default.weight" for name in at for side in "AB"}
    sizes = {name: tuple(each.shape) for name, each in encoder.named_parameters() if each.requires_grad}
    assert set(sizes.values()) == {(2, 24), (24, 2)}


def test_frozen_layers_get_no_adapters(folder: Path) -> None:
    names = trained(adapted(folder, LORA, layers=2, embeddings=True))
    assert {name.split(".")[2] for name in names} == {"2"}


def test_targets_are_the_ends_of_names(folder: Path) -> None:
    def matrices(*targets: str) -> set[str]:
        names = trained(adapted(folder, {**LORA, "targets": targets}, layers=2))
        return {name.partition(".lora_")[0].removeprefix("encoder.layer.2.") for name in names}

    assert matrices("key") == {"attention.self.key"}
    assert matrices("attention.output.dense", "key") == {"attention.self.key", "attention.output.dense"}
    # The pooler of a CodeBERT is above all layers.
    assert matrices("dense") == {"attention.output.dense", "intermediate.dense", "output.dense", "pooler.dense"}


@pytest.mark.parametrize("settings", [{}, {"freeze": {"embeddings": True, "layers": 2}}, {"freeze": {"layers": 1}}])
def test_trained_numbers_can_be_told_before_anything_is_built(settings: dict[str, Any]) -> None:
    config = arm({**SCRATCH, **settings})
    network = build(SCRATCH).tower.model
    assert isinstance(config.encoder, TransformerEncoder)
    expected = sum(each.numel() for each in build({**SCRATCH, **settings}).parameters() if each.requires_grad)
    assert trained_numbers(network, config.encoder) == expected  # type: ignore[arg-type]


def test_trained_numbers_of_adapters_by_hand(folder: Path) -> None:
    network: Any = build(encoder_of("codebert", folder)).tower.model
    settings: Any = arm({**encoder_of("codebert", folder), "lora": LORA}).encoder
    # 3 layers of a query and a value, each with A (2, 24) and B (24, 2)
    assert trained_numbers(network, settings) == 3 * 2 * (2 * 24 + 24 * 2)


def test_optimisers_have_what_is_trained_and_decay_as_ever(folder: Path) -> None:
    settings = TrainingSettings(weight_decay=0.3)
    for encoder in (scratch(embeddings=True, layers=1), adapted(folder, LORA)):
        held = [
            (id(each), group["weight_decay"])
            for optimiser in build_optimisers(encoder, settings)
            for group in optimiser.param_groups
            for each in group["params"]
        ]
        assert sorted(held) == sorted(
            (id(each), 0.3 if each.ndim > 1 else 0.0) for each in encoder.parameters() if each.requires_grad
        )


# --- what is refused -------------------------------------------------------------------------------------


def test_more_layers_than_a_named_model_has_are_refused(folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"encoder\.freeze\.layers: expected at most 3, the layers of .*, got 4"):
        build({**encoder_of("codebert", folder), "freeze": {"layers": 4}})


def test_a_network_that_would_not_be_trained_at_all_is_refused() -> None:
    with pytest.raises(EncoderError, match="nothing is left to train: its embeddings and all its 3 layers are frozen"):
        scratch(embeddings=True, layers=3)
    assert trained(build({**SCRATCH, "pooling": "pooler", "freeze": {"embeddings": True, "layers": 3}})) == {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }


def test_a_target_that_no_matrix_has_is_refused_with_those_that_there_are(folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"got 'q_proj', which none has; possible: dense, key, query, value$"):
        adapted(folder, {**LORA, "targets": ["query", "q_proj"]})


def test_layers_of_which_adapters_would_be_frozen_are_refused_with_how_many_may_be(folder: Path) -> None:
    expected = (
        r"freeze\.layers: expected at most 2 of 3 layers with lora, got 3: .* all matrices 'query' are in them; lower"
    )
    with pytest.raises(EncoderError, match=rf"{expected} it, or give encoder\.lora\.targets of dense$"):
        adapted(folder, {**LORA, "targets": ["query"]}, layers=3)
    model = str(folder)
    without_pooler = {"kind": "transformer", "model": model, "lora": LORA, "freeze": {"layers": 3}}
    with pytest.raises(EncoderError, match=rf"{expected} it, or remove lora$"):
        build(without_pooler)
    with pytest.raises(EncoderError, match=r"freeze\.layers: expected at most 3, the layers of the network, got 4$"):
        build({**without_pooler, "freeze": {"layers": 4}})


def test_a_network_without_matrices_that_could_have_adapters_is_told(folder: Path) -> None:
    settings: Any = arm({"kind": "transformer", "model": "x", "lora": LORA}).encoder
    with pytest.raises(
        EncoderError, match=r"encoder\.lora: expected a network that has matrices .* got Embedding; remove"
    ):
        adapting.adapted_matrices(torch.nn.Embedding(3, 2), settings)


def test_other_architectures_have_other_names() -> None:
    network = DistilBertModel(DistilBertConfig(vocab_size=50, dim=8, hidden_dim=8, n_layers=2, n_heads=2))
    settings: Any = arm({"kind": "transformer", "model": "x", "lora": LORA, "freeze": {"layers": 1}}).encoder
    assert list(adapting.adapted_matrices(network, settings)) == [
        "transformer.layer.1.attention.q_lin",
        "transformer.layer.1.attention.v_lin",
    ]
    with pytest.raises(EncoderError, match=r"encoder\.lora: cannot tell the query and value .* give targets, of 0, 1"):
        adapting.adapted_matrices(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), settings)


def test_without_peft_adapters_are_refused_with_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"pip install 'softnce-ray\[lora\]'"):
        adapted(folder, LORA)
    build({**encoder_of("codebert", folder), "freeze": {"layers": 1}})


# --- adapters by hand ------------------------------------------------------------------------------------


def test_an_adapted_matrix_is_w_plus_alpha_over_rank_b_a(folder: Path) -> None:
    encoder = randomised(adapted(folder, LORA)).double().eval()
    inputs = torch.randn(5, 24, dtype=torch.float64)
    (name, *_) = (name for name in encoder.state_dict() if name.endswith("query.lora_A.default.weight"))
    module: Any = encoder.get_submodule(name.partition(".lora_A")[0])
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    base = module.base_layer
    expected = inputs @ (base.weight + 8 / 2 * b @ a).T + base.bias
    torch.testing.assert_close(module(inputs), expected, rtol=1e-12, atol=1e-12)


def test_adapters_begin_as_nothing(folder: Path) -> None:
    plain = build(encoder_of("codebert", folder)).eval()
    torch.testing.assert_close(vectors_of(adapted(folder, LORA).eval()), vectors_of(plain), rtol=0, atol=1e-6)


def test_merging_changes_no_vector_and_leaves_a_network_as_any_other(folder: Path) -> None:
    plain = build(encoder_of("codebert", folder)).eval()
    encoder = randomised(adapted(folder, {**LORA, "targets": ["query", "dense"]})).double().eval()
    before = vectors_of(encoder)
    assert (before - vectors_of(plain)).abs().max() > 0.01
    whole = merged(encoder)
    torch.testing.assert_close(vectors_of(whole), before, rtol=0, atol=1e-12)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    assert not hasattr(whole.tower.model, "peft_config")
    assert {type(each) for each in whole.modules()} == {type(each) for each in plain.modules()}


def test_an_encoder_of_graphs_is_adapted_and_merged_as_others(tiny_pairs: list[Any], tmp_path: Path) -> None:
    model = write_model(tmp_path / "graph", "graphcodebert", [pair.code for pair in tiny_pairs])
    lora = {**LORA, "targets": ["dense", "key"]}
    encoder = randomised(build({**encoder_of("graphcodebert", model), "lora": lora})).double().eval()
    pieces = [[0, 5, 9, 7, 2], [0, 8, 2]]
    ids, offsets = torch.tensor([each for piece in pieces for each in piece]), torch.tensor([0, 5, 8])
    graphs = GraphTensors(
        torch.tensor([[1, 3], [3, 4], [1, 2]]),
        torch.tensor([0, 2, 3]),
        torch.tensor([[1], [0]]),
        torch.tensor([0, 1, 1]),
    )
    before = encoder(ids, offsets, graphs)
    assert (before - encoder(ids, offsets)).abs().max() > 1e-3
    torch.testing.assert_close(merged(encoder)(ids, offsets, graphs), before, rtol=0, atol=1e-12)


# --- checkpoints -----------------------------------------------------------------------------------------


def test_what_is_trained_can_be_put_back_and_nothing_else(folder: Path) -> None:
    encoder = randomised(adapted(folder, LORA)).eval()
    state = {name: tensor.clone() for name, tensor in trained_state(encoder).items()}
    before = vectors_of(encoder)
    again = adapted(folder, LORA).eval()
    load_trained(again, state)
    assert torch.equal(vectors_of(again), before)
    with pytest.raises(RuntimeError, match="expected the trained weights of this encoder, got others"):
        load_trained(again, dict(list(state.items())[1:]))
    with pytest.raises(RuntimeError, match="got others"):
        load_trained(again, {**state, "other": torch.zeros(1)})


def test_the_digest_is_of_all_that_is_frozen_and_of_nothing_else() -> None:
    encoder = scratch(embeddings=True)
    digest = frozen_digest(encoder)
    assert digest == frozen_digest(scratch(embeddings=True))
    assert digest != frozen_digest(scratch(embeddings=True, layers=1))
    state = encoder.state_dict()
    with torch.no_grad():
        state["tower.model.encoder.layer.0.output.dense.weight"].add_(1)
        assert frozen_digest(encoder) == digest
        table = state["tower.model.embeddings.word_embeddings.weight"]
        table[5, 3] = torch.nextafter(table[5, 3], torch.tensor(9.0))
    assert frozen_digest(encoder) != digest


TRAINED: dict[str, dict[str, Any]] = {
    "frozen": {**SCRATCH, "freeze": {"embeddings": True, "layers": 2}},
    "adapted": {"kind": "codebert", "lora": {**LORA, "dropout": 0.2}},
}


def config(name: str, model: Path, **changes: Any) -> TrialConfig:
    encoder = {**TRAINED[name], **({"model": str(model)} if name == "adapted" else {}), **changes}
    return TrialConfig.model_validate(
        {
            "encoder": encoder,
            "tokens": {"vocabulary": 400, "query_length": 12, "code_length": 24},
            "training": {"epochs": 3, "batch_size": 26, "learning_rate": 0.01},
            "language": "python",
            "seed": 3,
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


def data_of(settings: TrialConfig, corpus: Path, root: Path) -> TrainingData:
    return open_data(prepare(settings, corpus, "python", root), settings, "python")


def equal(one: TrainResult, other: TrainResult) -> bool:
    theirs = other.model.encoder.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.model.encoder.state_dict().items())


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_run_equals_one_that_was_not_interrupted_and_checkpoints_are_small(
    name: str, folder: Path, tiny_corpus: Path, root: Path, tmp_path: Path
) -> None:
    settings = config(name, folder)
    data = data_of(settings, tiny_corpus, root)

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        place = tmp_path / str(checkpoint.progress.epoch)
        place.mkdir()
        save_checkpoint(checkpoint, place)

    whole = train(settings, data, report, read_test=True)
    torch.manual_seed(settings.seed)
    start = build_encoder(settings, data.tokenizer.get_vocab_size())
    kept = trained_state(start).keys()
    for epoch in (1, 2):
        saved = load_checkpoint(tmp_path / str(epoch))
        assert saved.encoder.keys() == saved.best.keys() == kept < start.state_dict().keys()
        resumed = train(settings, data, resume=saved, read_test=True)
        assert equal(resumed, whole)
        assert resumed.metrics == whole.metrics
        np.testing.assert_array_equal(resumed.reciprocal_ranks["test"], whole.reciprocal_ranks["test"])
    numbers = sum(tensor.numel() for tensor in trained_state(start).values())
    assert (tmp_path / "1" / CHECKPOINT_FILE).stat().st_size < 4 * 4 * numbers + 20_000

    after = whole.model.encoder.state_dict()
    changed = {key for key, tensor in merged(start).state_dict().items() if not torch.equal(tensor, after[key])}
    if name == "frozen":
        assert changed <= kept and len(changed) > len(kept) - 2
    else:
        assert changed == {key for key in after if key.endswith(("query.weight", "value.weight"))}


@pytest.mark.parametrize("name", TRAINED)
def test_other_frozen_weights_than_a_run_began_with_are_refused(
    name: str, folder: Path, tiny_pairs: list[Any], tiny_corpus: Path, root: Path, tmp_path: Path
) -> None:
    settings = config(name, folder)
    data = data_of(settings, tiny_corpus, root)
    saved: list[Checkpoint] = []
    train(settings, data, lambda metrics, checkpoint: saved.append(checkpoint))
    if name == "frozen":
        other = settings.model_copy(update={"seed": 4})
    else:
        texts = [pair.query for pair in tiny_pairs]
        moved = write_model(tmp_path / "other", "codebert", texts, layers=3, seed=2)
        other = config(name, moved)
    with pytest.raises(CheckpointError, match=r"expected the frozen weights that trial .* began with, got others"):
        train(other, data, resume=saved[0])


def test_a_trained_model_has_its_adapters_merged_and_is_read_without_peft(
    folder: Path, tiny_corpus: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("adapted", folder)
    model = train(settings, data_of(settings, tiny_corpus, root)).model
    save_model(model, tmp_path)
    monkeypatch.setattr(adapting, "find_spec", lambda name: None)
    again = load_model(tmp_path)
    assert again.config.encoder == settings.encoder
    queries = ["Sort the price of every robot.", "Copy the name of every lamp."]
    np.testing.assert_array_equal(again.encode_queries(queries), model.encode_queries(queries))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "begun from `x`, pooling"),
        (
            {"lora": {"rank": 3}},
            "begun from `x`, trained by adapters of rank 3 (LoRA) that are merged into it, pooling",
        ),
        ({"freeze": {"embeddings": True}}, "begun from `x`, with its embeddings as they were, pooling"),
        (
            {"freeze": {"embeddings": True, "layers": 2}},
            "begun from `x`, with its embeddings and lowest 2 layers as they were, pooling",
        ),
    ],
)
def test_the_card_of_a_model_says_what_was_trained(settings: dict[str, Any], said: str, folder: Path) -> None:
    named = ArmConfig.model_validate({"encoder": {"kind": "codebert", "model": "x", **settings}})
    model = Model(build(encoder_of("codebert", folder)), Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), named)
    assert said in cards._encoder(model)


# --- layers that are computed twice ----------------------------------------------------------------------


def gradients(encoder: DualEncoder) -> dict[str, Tensor]:
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    vectors = vectors_of(encoder.train())
    (vectors * torch.linspace(-1, 1, vectors.numel(), dtype=vectors.dtype).reshape(vectors.shape)).sum().backward()
    return {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("kind", ["scratch", "frozen", "adapted"])
def test_layers_that_are_computed_twice_have_the_same_gradients_with_dropout(kind: str, folder: Path) -> None:
    def fresh() -> DualEncoder:
        made = {
            "scratch": lambda: scratch(),
            "frozen": lambda: scratch(embeddings=True, layers=1),
            "adapted": lambda: randomised(adapted(folder, {**LORA, "dropout": 0.3})),
        }
        return made[kind]().double()

    torch.manual_seed(1)
    expected = gradients(fresh())
    torch.manual_seed(1)
    encoder = fresh()
    recompute(encoder)
    found = gradients(encoder)
    assert found.keys() == expected.keys() and len(found) > 5
    assert max(float(each.abs().max()) for each in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15, msg=name)


def kept_bytes(encoder: DualEncoder) -> int:
    """Of what the forward pass keeps for the gradients, weights left out."""
    weights = {each.data_ptr() for each in encoder.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        held = vectors_of(encoder.train())
    assert held.requires_grad
    return sum(kept.values())


def test_layers_that_are_computed_twice_keep_less() -> None:
    plain, twice = build({**SCRATCH, "layers": 8}), build({**SCRATCH, "layers": 8})
    recompute(twice)
    inputs = 8 * 6 * 9 * 16 * 4  # which layers are computed from again: their bytes do not pass through the hooks
    assert kept_bytes(twice) + inputs < 0.4 * kept_bytes(plain)


def computed(encoder: DualEncoder) -> list[int]:
    """How often each layer is computed in a step."""
    counts = [0] * 8

    def count(layer: int) -> Any:
        def hook(*args: Any) -> None:
            counts[layer] += 1

        return hook

    for number, layer in enumerate(adapting.layers(encoder.tower.model)):  # type: ignore[arg-type]
        layer.attention.register_forward_hook(count(number))  # type: ignore[union-attr]
    gradients(encoder)
    return counts


def test_frozen_layers_keep_nothing_and_are_not_computed_twice() -> None:
    def frozen(layers: int) -> DualEncoder:
        return build({**SCRATCH, "layers": 8, "freeze": {"embeddings": layers > 0, "layers": layers}})

    assert kept_bytes(frozen(6)) < 0.4 * kept_bytes(frozen(0))
    for layers, expected in ((0, [2] * 8), (6, [1] * 6 + [2] * 2)):
        encoder = frozen(layers)
        recompute(encoder)
        assert computed(encoder) == expected


def test_a_run_whose_layers_are_computed_twice_is_the_same_run(tiny_corpus: Path, root: Path) -> None:
    settings = config("frozen", Path())
    data = data_of(settings, tiny_corpus, root)
    once, twice = (train(settings, data, gradient_checkpointing=each) for each in (False, True))
    for name, tensor in once.model.encoder.state_dict().items():
        torch.testing.assert_close(twice.model.encoder.state_dict()[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_a_bag_has_no_layers_to_compute_twice() -> None:
    encoder = build({"kind": "bag", "width": 8})
    recompute(encoder)
    assert gradients(encoder).keys() == {"tower.table", "tower.log_weight"}


# --- several processes -----------------------------------------------------------------------------------


def run(name: str, model: Path, corpus: Path, root: Path, workers: Workers) -> TrainResult:
    settings = config(name, model, **({"dropout": 0.0} if name == "frozen" else {"lora": LORA}))
    data = data_of(settings, corpus, root)
    return train(settings, data, workers=workers, gradient_checkpointing=True, chunk_size=6)


def _member(rank: int, count: int, port: int, model: Path, corpus: Path, root: Path, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=count)
    for name in TRAINED:
        result = run(name, model, corpus, root, Workers(rank, count))
        if rank == 0:
            torch.save(result.model.encoder.state_dict(), out / f"{name}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_train_the_same_parts_as_one(
    tiny_pairs: list[Any], tiny_corpus: Path, root: Path, tmp_path: Path
) -> None:
    texts = [text for pair in tiny_pairs for text in (pair.query, pair.code)]
    calm: dict[str, Any] = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # what is dropped is each process' own
    model = write_model(tmp_path / "model", "codebert", texts, layers=2, **calm)
    for name in TRAINED:
        data_of(config(name, model), tiny_corpus, root)
    multiprocessing.spawn(_member, (2, free_port(), model, tiny_corpus, root, tmp_path), nprocs=2)
    for name in TRAINED:
        alone = run(name, model, tiny_corpus, root, ALONE).model.encoder.state_dict()
        together = torch.load(tmp_path / f"{name}.pt")
        for key, tensor in alone.items():
            if not key.endswith("key.bias"):  # whose gradient is rounding, which AdamW makes steps of
                torch.testing.assert_close(together[key], tensor, atol=1e-4, rtol=0, msg=f"{name} {key}")
