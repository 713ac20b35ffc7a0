"""Models that preparation trains: within a study's resources, kept after each epoch, and with what they scored."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softnce_ray.checkpoint import CHECKPOINT_FILE
from softnce_ray.config import ArmConfig, Resources, TrainedEstimator, TrainingSet, TrialConfig
from softnce_ray.corpus import build_corpus
from softnce_ray.encoders import Bag, DualEncoder
from softnce_ray.estimators import Embedded
from softnce_ray.export import write_export
from softnce_ray.model import encode
from softnce_ray.preparation import Prepared, open_data, prepare
from softnce_ray.preparation.vectors import infonce_trial
from softnce_ray.training import train

BAG = {"kind": "bag", "width": 8}
NETWORK = {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "pooling": "mean"}
LEARNED: dict[str, dict[str, Any]] = {
    "trained": {"estimator": {"name": "trained"}, "loss": {"name": "soft_infonce"}},
    "simcse": {"estimator": {"name": "simcse", "epochs": 3, "batch_size": 16}, "loss": {"name": "soft_infonce"}},
    "hard_negatives": {"hard_negatives": {"name": "trained", "count": 1, "depth": 2, "skip": 0}},
}


def arm(what: str, encoder: dict[str, Any] = BAG, epochs: int = 3) -> ArmConfig:
    training = {"batch_size": 16, "epochs": epochs}
    tokens = {"vocabulary": 400, "query_length": 8, "code_length": 16}
    return ArmConfig.model_validate({"encoder": encoder, "tokens": tokens, "training": training, **LEARNED[what]})


def vectors(prepared: Prepared, what: str) -> Embedded:
    if what == "hard_negatives":
        (folder,) = (Path(prepared.root) / "estimators").glob("trained-*")
        return Embedded.load(folder)
    return Embedded.load(prepared.folder(prepared.estimators[what]))


def left_over(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".training") or path.name == CHECKPOINT_FILE]


@pytest.mark.parametrize(
    ("what", "encoder", "resources", "texts"),
    [
        ("trained", BAG, {"chunk_size": 3}, 6),  # a pair is two texts
        ("trained", BAG, {"workers": 8}, 4),  # the share of each
        ("trained", NETWORK, {"workers": 2, "chunk_size": 2, "gradient_checkpointing": True}, 4),
        ("simcse", BAG, {"chunk_size": 3}, 3),  # two views, one after the other
        ("simcse", NETWORK, {"workers": 2, "gradient_checkpointing": True}, 8),
        ("hard_negatives", BAG, {"chunk_size": 3}, 6),
    ],
)
def test_models_are_trained_in_chunks_and_are_the_same(
    tiny_corpus, tmp_path, monkeypatch, what, encoder, resources, texts
) -> None:
    whole = prepare(arm(what, encoder, epochs=1), tiny_corpus, "python", tmp_path / "whole")
    seen: list[tuple[int, bool]] = []
    forward = DualEncoder.forward

    def watched(self: DualEncoder, ids: Any, offsets: Any, graphs: Any = None) -> Any:
        if self.training:
            network: Any = getattr(self.tower, "model", None)
            seen.append((len(offsets) - 1, network is not None and network.is_activation_checkpointing))
        return forward(self, ids, offsets, graphs)

    monkeypatch.setattr(DualEncoder, "forward", watched)
    given = Resources.model_validate(resources)
    chunked = prepare(arm(what, encoder, epochs=1), tiny_corpus, "python", tmp_path / "chunked", resources=given)
    assert max(count for count, _ in seen) == texts
    assert {again for _, again in seen} == {given.gradient_checkpointing}
    assert (chunked.estimators, chunked.hard_negatives) == (whole.estimators, whole.hard_negatives)
    for side in ("asking", "answering"):
        found, expected = (getattr(vectors(each, what), side) for each in (chunked, whole))
        np.testing.assert_allclose(found, expected, atol=2e-4)


def _killed(corpus: Path, root: Path, what: str) -> None:
    def say(text: str) -> None:
        if "epoch 2/3" in text:
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(arm(what), corpus, "python", root, say=say)


@pytest.mark.parametrize("what", LEARNED)
def test_a_killed_preparation_goes_on_after_its_last_epoch(tiny_corpus, tmp_path, what) -> None:
    lines: list[str] = []
    root = tmp_path / "killed"
    whole = prepare(arm(what), tiny_corpus, "python", tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tiny_corpus, root, what))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert left_over(root)
    assert not [path for path in (root / "estimators").iterdir() if not path.name.startswith(".")]
    done = prepare(arm(what), tiny_corpus, "python", root, say=lines.append)
    name = "simcse" if what == "simcse" else "trained"
    assert lines[0] == f"{name}: goes on after epoch 2/3"
    assert [line.partition(", ")[0] for line in lines[1:]] == [f"{name}: epoch 3/3"]
    assert done.metrics == whole.metrics
    for side in ("asking", "answering"):
        np.testing.assert_array_equal(getattr(vectors(done, what), side), getattr(vectors(whole, what), side))
    assert left_over(root) == []


def test_another_machine_goes_on_with_what_is_kept_in_an_object_store(
    tiny_corpus, tmp_path, bucket, monkeypatch
) -> None:
    def say(text: str) -> None:
        if "epoch 2/3" in text:
            raise KeyboardInterrupt

    lines: list[str] = []
    whole = prepare(arm("trained"), tiny_corpus, "python", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(arm("trained"), tiny_corpus, "python", bucket, say=say)
    monkeypatch.setenv("SOFTNCE_CACHE", str(tmp_path / "another"))
    done = prepare(arm("trained"), tiny_corpus, "python", bucket, say=lines.append)
    assert lines[0] == "trained: goes on after epoch 2/3"
    np.testing.assert_array_equal(vectors(done, "trained").asking, vectors(whole, "trained").asking)
    assert done.metrics == whole.metrics
    assert prepare(arm("trained"), tiny_corpus, "python", bucket, say=lines.append).metrics == whole.metrics
    assert len(lines) == 2


def _cut_off(root: Path) -> None:
    (file,) = root.rglob(CHECKPOINT_FILE)
    file.write_bytes(file.read_bytes()[:-9])


def _of_another(root: Path) -> None:
    (file,) = root.rglob(CHECKPOINT_FILE)
    content = file.read_bytes()
    assert content.count(b'\\"identity\\": \\".trained') == 1
    file.write_bytes(content.replace(b'\\"identity\\": \\".trained', b'\\"identity\\": \\".xrained'))


@pytest.mark.parametrize("spoil", [_cut_off, _of_another])
def test_a_checkpoint_that_cannot_be_used_is_as_none(tiny_corpus, tmp_path, spoil: Callable[[Path], None]) -> None:
    def say(text: str) -> None:
        raise KeyboardInterrupt

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        prepare(arm("trained"), tiny_corpus, "python", tmp_path, say=say)
    spoil(tmp_path)
    prepare(arm("trained"), tiny_corpus, "python", tmp_path, say=lines.append)
    assert [line.partition(", ")[0] for line in lines] == [f"trained: epoch {number}/3" for number in (1, 2, 3)]
    assert left_over(tmp_path) == []


def test_what_a_model_scored_is_kept_beside_its_vectors_and_told_when_it_is_used_again(tiny_corpus, tmp_path) -> None:
    first = prepare(arm("trained"), tiny_corpus, "python", tmp_path)
    trial = infonce_trial(TrainedEstimator(), arm("trained"), TrainingSet.of("python"))
    expected = train(trial, open_data(first, trial, "python")).metrics
    assert first.metrics == {"trained": expected}
    again = prepare(arm("trained"), tiny_corpus, "python", tmp_path, say=pytest.fail)
    assert again == first
    mined = prepare(arm("hard_negatives"), tiny_corpus, "python", tmp_path, say=pytest.fail)
    assert mined.metrics == {"hard_negatives": expected}  # the same model


def test_simcse_scores_each_training_set_on_the_languages_that_it_is_tested_on(tiny_pairs, tmp_path) -> None:
    """The score of the set that came first stood for all with the same training languages."""
    ruby = [replace(pair, language="ruby", code=f"{pair.code}\n# {n}") for n, pair in enumerate(tiny_pairs[:150])]
    build_corpus([*tiny_pairs, *ruby], tmp_path / "corpus", valid=15, test=15)
    sets = {test: TrainingSet(name=test, train=("python", "ruby"), test=(test,)) for test in ("python", "ruby")}

    def scores(order: list[str]) -> dict[str, float]:
        root = tmp_path / order[0]
        return {
            test: prepare(arm("simcse"), tmp_path / "corpus", sets[test], root).metrics["simcse"]["valid_mrr"]
            for test in order
        }

    found = scores(["python", "ruby"])
    assert found == scores(["ruby", "python"]) and found["python"] != found["ruby"]


def test_simcse_scores_what_its_encoder_would_in_a_search_for_codes(tiny_corpus, tmp_path, monkeypatch) -> None:
    """Nothing was learned of codes: each query beside all codes, by the encoder that its vectors are of."""
    made: list[Bag] = []
    begin = Bag.__init__

    def noted(self: Bag, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Bag, "__init__", noted)
    prepared = prepare(arm("simcse"), tiny_corpus, "python", tmp_path)
    (bag,) = made
    data = open_data(prepared, arm("simcse"), "python").evaluated["python"]
    encoder = DualEncoder(bag, "cosine")
    queries = encode(encoder, data.valid.queries).numpy()
    codes = np.concatenate([encode(encoder, part).numpy() for part in data.codebase])
    scores = queries @ codes.T
    ranks = 1 + (scores > scores[np.arange(30), np.arange(30)][:, None] + 1e-6).sum(axis=1)
    assert prepared.metrics["simcse"]["valid_mrr"] == pytest.approx((1 / ranks).mean(), abs=1e-3)


@pytest.mark.parametrize("name", ["trained", "simcse"])
def test_a_named_model_encodes_no_more_at_one_time_than_a_study_says(tiny_corpus, tmp_path, monkeypatch, name) -> None:
    from sentence_transformers import SentenceTransformer

    plain = arm("trained").model_dump(exclude={"loss", "estimator"})
    config = TrialConfig.model_validate({**plain, "language": "python", "seed": 1})
    data = open_data(prepare(config, tiny_corpus, "python", tmp_path), config, "python")
    write_export(train(config, data).model, tmp_path / "best", "card")
    for name_of_ours in ("softnce_ray.json", "export.json"):
        (tmp_path / "best" / name_of_ours).unlink()  # it is anybody's
    sizes: list[int] = []
    forward = SentenceTransformer.forward

    def watched(self: SentenceTransformer, features: Any, **more: Any) -> Any:
        sizes.append(len(features["offsets"]))
        return forward(self, features, **more)

    monkeypatch.setattr(SentenceTransformer, "forward", watched)
    weighted = {**arm("trained").model_dump(), "estimator": {"name": name, "model": str(tmp_path / "best")}}
    for most, resources in ((32, Resources()), (5, Resources(chunk_size=5))):
        sizes.clear()
        prepare(ArmConfig.model_validate(weighted), tiny_corpus, "python", tmp_path / f"{most}", resources=resources)
        assert max(sizes) == most
