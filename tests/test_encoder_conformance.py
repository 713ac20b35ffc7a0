"""What every kind of encoder must do, each small: `encoder_kinds` has them."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import ADAPTED, KINDS, PUBLISHED, encoder_of, fresh_encoder, published_kind, write_model

from softnce_ray.checkpoint import load_checkpoint, save_checkpoint
from softnce_ray.config import ArmConfig, TrialConfig
from softnce_ray.corpus.ragged import Ragged, concatenate
from softnce_ray.encoders import build_encoder, tensors_of
from softnce_ray.export import FORMATS, load_export
from softnce_ray.export.checking import TEXTS, expect
from softnce_ray.export.fresh import in_a_fresh_process, in_this_process
from softnce_ray.export.writing import possible, write_formats
from softnce_ray.model import Model, encode, load_model, save_model
from softnce_ray.preparation import open_data, prepare
from softnce_ray.training import TrainResult, train
from softnce_ray.training_data import TrainingData

LENGTHS = {"query_length": 12, "code_length": 40}
HAND = (
    "def f(a, b):\n    c = a + b\n    for d in c:\n        a = d\n    return a",
    "",
    "x",
    "class {{{ not python",
    "def long(values):\n    total = 0\n" + "    total += values[0] * 3\n" * 200 + "    return total",
)
"""Functions to read, beside those of the corpus: with data flow, empty, short, wrong, and longer than is read."""

NEEDS_ONNX = pytest.mark.skipif(
    FORMATS["onnx"].problem(None) is not None,  # type: ignore[arg-type]
    reason="onnx, onnxruntime and onnxscript are not installed",
)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tiny_pairs: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """That of a published kind's model."""
    texts = [text for pair in tiny_pairs for text in (pair.query, pair.code)]
    published = published_kind(kind)
    return None if published is None else write_model(tmp_path_factory.mktemp("models") / kind, published, texts)


Configure = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def configure(kind: str, folder: Path | None) -> Configure:
    def make(**changes: Any) -> TrialConfig:
        bag = kind == "bag"
        training = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01 if bag else 0.001}
        settings = {
            "language": "python",
            "seed": 0,
            "encoder": encoder_of(kind, folder),
            "tokens": {"vocabulary": 400, **LENGTHS},
            "training": training,
        }
        return TrialConfig.model_validate({**settings, **changes})

    return make


@pytest.fixture(scope="module")
def root(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def data(configure: Configure, tiny_corpus: Path, root: Path) -> TrainingData:
    config = configure()
    return open_data(prepare(config, tiny_corpus, "python", root), config, "python")


@pytest.fixture(scope="module")
def model(configure: Configure, data: TrainingData) -> Model:
    """With fresh weights: random, or those of the model's folder; adapters, if any, are random."""
    torch.manual_seed(0)
    encoder = fresh_encoder(configure(), data.tokenizer.get_vocab_size())
    return Model(encoder, data.tokenizer, configure())


@pytest.fixture(scope="module")
def codes(tiny_pairs: list[Any]) -> list[str]:
    return [*(pair.code for pair in tiny_pairs[:20]), *HAND]


def codes_of(model: Model, texts: list[str]) -> np.ndarray:
    return model.encode_codes(texts, "python")


def some_texts(data: TrainingData) -> Ragged:
    """Codes and queries, a batch as in training."""
    rows = np.arange(0, 60, 3)
    return concatenate([data.train.codes.take(rows), data.train.queries.take(rows)])


# --- vectors ---------------------------------------------------------------------------------------------


def test_there_is_a_vector_of_length_one_for_each_text_of_both_sides(model: Model, codes: list[str]) -> None:
    for vectors in (codes_of(model, codes), model.encode_queries(codes)):
        assert vectors.dtype == np.float32
        assert vectors.shape[0] == len(codes) and vectors.shape[1] in (12, 16, 24, 384)
        lengths = np.linalg.norm(vectors, axis=1)
        empty = np.array([not text for text in codes])
        np.testing.assert_allclose(lengths[~empty], 1, rtol=1e-5)
        np.testing.assert_allclose(lengths[empty], 0 if model.config.encoder.kind == "bag" else 1, rtol=1e-5)
    assert codes_of(model, []).shape == (0, vectors.shape[1])


def test_other_texts_have_other_vectors(model: Model, codes: list[str]) -> None:
    # Or all else here says nothing.
    vectors = codes_of(model, codes)
    apart = np.abs(vectors[:, None] - vectors[None]).max(axis=2) + np.eye(len(codes))
    assert apart.min() > 1e-3


def test_a_texts_vector_does_not_depend_on_what_it_is_batched_with(model: Model, codes: list[str]) -> None:
    together = codes_of(model, codes)
    alone = np.concatenate([codes_of(model, [text]) for text in codes])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(codes_of(model, codes[::-1])[::-1], together, rtol=0, atol=1e-5)


def test_both_sides_in_one_batch_are_as_apart(model: Model, data: TrainingData) -> None:
    texts = some_texts(data)
    with torch.inference_mode():
        together = model.encoder(*tensors_of(texts, "cpu")).numpy()
    parts = [texts.take(np.array([row])) for row in range(len(texts))]
    alone = np.concatenate([encode(model.encoder, part).numpy() for part in parts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_stored_texts_are_those_that_the_model_reads(model: Model, data: TrainingData, tiny_corpus: Path) -> None:
    from softnce_ray.corpus import Corpus

    table = Corpus.open(tiny_corpus).table("python", "train")
    for side, texts, read in (
        ("query", data.train.queries, model.encode_queries),
        ("code", data.train.codes, lambda texts: codes_of(model, texts)),
    ):
        stored = encode(model.encoder, texts.take(np.arange(len(texts)))).numpy()
        np.testing.assert_allclose(read(table.column(side).to_pylist()), stored, rtol=0, atol=1e-6)


def test_texts_may_be_as_long_as_the_encoder_reads(configure: Configure, data: TrainingData) -> None:
    kind = configure().encoder.kind
    positions = PUBLISHED[kind].positions - 2 if kind in PUBLISHED else 512 if kind == "minilm" else 600
    beside = configure().encoder.inputs.flow_length or 0
    config = configure(tokens={"query_length": positions, "code_length": positions - beside})
    whole = Model(build_encoder(config, data.tokenizer.get_vocab_size()).eval(), data.tokenizer, config)
    vectors = [codes_of(whole, [HAND[-1], HAND[0]]), whole.encode_queries([HAND[-1]])]
    assert all(np.isfinite(each).all() for each in vectors)
    # What lies beyond is not read.
    cut = codes_of(whole, [HAND[-1] + "\n    values = 7"])
    np.testing.assert_allclose(cut, vectors[0][:1], rtol=0, atol=1e-6)  # sums of a row alone are rounded otherwise


def test_training_mode_and_dropout_do_not_reach_encoding(model: Model, codes: list[str]) -> None:
    before = codes_of(model, codes)
    model.encoder.train()
    np.testing.assert_array_equal(codes_of(model, codes), before)
    assert model.encoder.training
    model.encoder.eval()


# --- stores and exports ----------------------------------------------------------------------------------


def test_a_stored_model_gives_the_same_vectors(model: Model, codes: list[str], tmp_path: Path) -> None:
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == ArmConfig.model_validate(model.config.model_dump(include=set(ArmConfig.model_fields)))
    kept, read = model.encoder.state_dict(), again.encoder.state_dict()
    assert kept.keys() == read.keys()
    assert all(torch.equal(kept[name], read[name]) for name in kept)
    # not bit for bit: weights of a file begin anywhere in memory, and kernels round by where a row begins
    np.testing.assert_allclose(codes_of(again, codes), codes_of(model, codes), rtol=0, atol=1e-6)
    np.testing.assert_allclose(again.encode_queries(codes), model.encode_queries(codes), rtol=0, atol=1e-6)


def formats_of(model: Model, *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if FORMATS[name].problem(model) is None)


def test_an_export_gives_the_same_vectors(model: Model, codes: list[str], tmp_path: Path) -> None:
    formats = formats_of(model, "hf", "sentence-transformers")
    assert formats == (("hf",) if model.graph_limits else ("hf", "sentence-transformers"))
    target = tmp_path / "best"
    found, _ = write_formats(model, target, formats, expect(model), lambda *args: "card", read=in_this_process)
    assert len({stat.S_IMODE(file.stat().st_mode) for file in target.rglob("*") if file.is_file()}) == 1
    for name in formats:
        assert found[name].difference < 1e-5
        again = load_export(target / name if len(formats) > 1 else target)
        np.testing.assert_allclose(codes_of(again, codes), codes_of(model, codes), rtol=0, atol=1e-6)
        np.testing.assert_allclose(again.encode_queries(codes), model.encode_queries(codes), rtol=0, atol=1e-6)


ONE_OF_EACH_FAMILY = [
    each if each in ("transformer", "lora") or not isinstance(each, str) else pytest.param(each, marks=pytest.mark.long)
    for each in KINDS
]
"""Kinds whose exports every run of the tests reads back; the others' only the long one."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_OF_EACH_FAMILY, indirect=True)
def test_an_export_is_read_by_a_fresh_process(model: Model, tmp_path: Path) -> None:
    formats = formats_of(model, "hf", "sentence-transformers")[-1:]
    found, _ = write_formats(
        model, tmp_path / "best", formats, expect(model), lambda *args: "card", read=in_a_fresh_process
    )
    assert 0 < found[formats[0]].difference < 1e-5
    assert found[formats[0]].vectors >= 2 * (len(TEXTS) - 1)


@NEEDS_ONNX
@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_OF_EACH_FAMILY, indirect=True)
def test_the_graph_of_onnx_and_the_mlflow_model_give_the_same_vectors(
    model: Model, codes: list[str], tmp_path: Path
) -> None:
    formats = formats_of(model, "onnx", "mlflow")
    if not formats:
        assert model.graph_limits is not None
        pytest.skip("reads data flow, which needs this package")
    found, _ = write_formats(
        model, tmp_path / "best", formats, expect(model), lambda *args: "card", read=in_this_process
    )
    assert [found[name].difference < 1e-5 for name in ("onnx", "mlflow")] == [True, True]


def test_formats_that_a_kind_cannot_have_are_refused_with_what_is_possible(model: Model) -> None:
    from softnce_ray.export import ExportError

    for name in FORMATS:
        if model.graph_limits is not None and name != "hf" and FORMATS["onnx"].problem(None) is None:  # type: ignore[arg-type]
            with pytest.raises(ExportError, match=r"graphcodebert, which reads the data flow.*--formats hf"):
                possible([name], model)
    possible(["hf"], model)


# --- training --------------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter(kind: str, configure: Configure, data: TrainingData) -> None:
    """Of those that are trained, and no other."""
    torch.manual_seed(0)
    encoder = build_encoder(configure(), data.tokenizer.get_vocab_size()).train()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if ".lora_B." in name:  # as long as it is zero, A has no gradient
                parameter.normal_()
    vectors = encoder(*tensors_of(some_texts(data), "cpu"))
    (vectors * torch.randn(vectors.shape)).sum().backward()
    without = []
    for name, parameter in encoder.named_parameters():
        gradient = parameter.grad
        if not parameter.requires_grad:
            assert gradient is None and kind in ADAPTED
        elif gradient is None or not gradient.to_dense().abs().max() > 0:
            without.append(name)
    # A softmax does not hear what is added to all keys: their bias has a gradient of rounding, or of zero.
    assert [name for name in without if not name.endswith(("key.bias", "key.base_layer.bias"))] == []
    assert (kind in ADAPTED) == any(not parameter.requires_grad for parameter in encoder.parameters())


def run(config: TrialConfig, data: TrainingData, **options: Any) -> TrainResult:
    return train(config, data, read_test=True, **options)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return result.model.encoder.state_dict()


def equal(one: TrainResult, other: TrainResult) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.fixture(scope="module")
def checkpoints(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def whole(configure: Configure, data: TrainingData, checkpoints: Path) -> TrainResult:
    """A run of two epochs, with the checkpoint of each in a folder."""

    def report(metrics: dict[str, float], checkpoint: Any) -> None:
        place = checkpoints / str(checkpoint.progress.epoch)
        place.mkdir()
        save_checkpoint(checkpoint, place)

    return run(configure(), data, report=report)


def test_training_changes_the_encoder_and_is_evaluated(whole: TrainResult, model: Model, data: TrainingData) -> None:
    assert not all(torch.equal(tensor, weights(whole)[name]) for name, tensor in model.encoder.state_dict().items())
    assert 0 < whole.metrics["test_mrr"] <= 1
    assert len(whole.reciprocal_ranks["valid"]) == 30
    assert whole.distributions


def test_equal_seeds_give_equal_runs_and_others_do_not(
    whole: TrainResult, configure: Configure, data: TrainingData
) -> None:
    again = run(configure(), data)
    assert equal(whole, again)
    assert again.metrics["test_mrr"] == whole.metrics["test_mrr"]
    assert not equal(whole, run(configure(seed=1), data))


def test_a_resumed_run_equals_one_that_was_not_interrupted(
    whole: TrainResult, configure: Configure, data: TrainingData, checkpoints: Path
) -> None:
    resumed = run(configure(), data, resume=load_checkpoint(checkpoints / "1"))
    assert equal(whole, resumed)
    for split in ("valid", "test"):
        np.testing.assert_array_equal(resumed.reciprocal_ranks[split], whole.reciprocal_ranks[split])


@pytest.mark.parametrize("estimator", ["simcse", "trained"])
def test_learned_estimators_are_made_of_every_kind(
    estimator: str, configure: Configure, tiny_corpus: Path, root: Path
) -> None:
    settings: dict[str, Any] = {"name": estimator}
    if estimator == "simcse":
        settings |= {"batch_size": 32, "epochs": 1}
    config = configure(loss={"name": "soft_infonce"}, estimator=settings)
    data = open_data(prepare(config, tiny_corpus, "python", root), config, "python")
    assert data.estimator is not None
    similarity = data.estimator.similarity(np.arange(8))
    assert np.isfinite(similarity).all() and similarity.std() > 1e-4
    assert np.isfinite(run(config, data).metrics["test_mrr"])


def test_an_export_of_every_kind_is_an_estimator(
    model: Model, configure: Configure, tiny_corpus: Path, root: Path, tmp_path: Path
) -> None:
    write_formats(model, tmp_path / "best", ("hf",), expect(model), lambda *args: "card", read=in_this_process)
    config = configure(loss={"name": "soft_infonce"}, estimator={"name": "trained", "model": str(tmp_path / "best")})
    data = open_data(prepare(config, tiny_corpus, "python", root), config, "python")
    rows = np.arange(6)
    queries, codes = (encode(model.encoder, side.take(rows)) for side in (data.train.queries, data.train.codes))
    assert data.estimator is not None
    np.testing.assert_allclose(data.estimator.similarity(rows), (queries @ codes.T).numpy(), atol=1e-5)
