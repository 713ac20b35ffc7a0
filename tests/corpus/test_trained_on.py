"""Notes of an evaluation on what the model was trained on, through the command."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus import Corpus, Pair, build_corpus
from softnce_ray.corpus.trained_on import TrainedOn, read_trained_on, training_notes


@pytest.fixture(scope="module")
def other(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose test are ten pairs: four of a package that `tiny_corpus` trains on, with three of its codes."""
    renamed = [
        dataclasses.replace(pair, package="elsewhere", code=f"{pair.code}\n    # {number}")
        for number, pair in enumerate(tiny_pairs[:40])
    ]
    large = [pair for pair in tiny_pairs if pair.package == "large"]
    fourth = dataclasses.replace(large[3], code=" ".join(f"token{n}" for n in range(50)))
    folder = tmp_path_factory.mktemp("other") / "c"
    test = [
        *large[:3],
        fourth,
        *(dataclasses.replace(pair, code=f"new{n} = {n}") for n, pair in enumerate(renamed[:6])),
    ]
    build_corpus({"train": renamed[6:30], "valid": renamed[30:], "test": test}, folder, near_duplicate=None)
    return folder


def recorded(folder: Path, trained_on: TrainedOn | None) -> Path:
    record: dict[str, object] = {"formats": {"hf": {}}, "files": {}}
    if trained_on is not None:
        record["trained_on"] = dataclasses.asdict(trained_on)
    folder.mkdir(exist_ok=True)
    (folder / "export.json").write_text(json.dumps(record))
    return folder


def test_a_model_is_told_of_the_packages_that_it_was_trained_on(tiny_corpus: Path, other: Path, tmp_path: Path) -> None:
    tiny = Corpus.open(tiny_corpus)
    assert tiny.manifest.languages["python"].packages["train"]["large"] == 160
    model = recorded(tmp_path / "m", TrainedOn(tiny.fingerprint, {"python": ["large", "small1"]}))
    (model / "hf").mkdir()
    unknown = (
        "whether training had functions that are evaluated here is not known: give --trained-on CORPUS to count them"
    )
    for folder in (model, model / "hf"):
        assert training_notes(folder, other) == [
            "python: training had 1 of the 2 packages of test (large), which 4 of 10 queries are of",
            unknown,
        ]
    assert training_notes(model, tiny_corpus) == []
    (first, second) = training_notes(model, other, split="valid")
    assert first.endswith(", of whose train no package is evaluated here") and second == unknown
    (first, _) = training_notes(recorded(tmp_path / "m", TrainedOn("0" * 64, None)), other)
    assert first == "the model was trained on another corpus (000000000000), which is not known here"
    (first, _) = training_notes(recorded(tmp_path / "m", TrainedOn("0" * 64, {"ruby": ["large"]})), other)
    assert first.endswith(", whose packages cannot be compared: the two name none in the same language")
    assert training_notes(recorded(tmp_path / "m", None), other) == []
    assert read_trained_on(tmp_path) is read_trained_on(tmp_path / "none") is None


def test_the_functions_are_counted_where_the_corpus_is_given(tiny_corpus: Path, other: Path, tmp_path: Path) -> None:
    (note,) = training_notes(tmp_path, other, trained_on=tiny_corpus)
    assert "the code of 3 of 10 pairs and 1 of its packages (large; 4 pairs)" in note
    assert training_notes(tmp_path, other, split="valid", trained_on=tiny_corpus) != [note]
    assert training_notes(tmp_path, tiny_corpus, trained_on=tiny_corpus) == []
    model = recorded(tmp_path / "m", TrainedOn("1" * 64, None))
    said = CliRunner().invoke(app, ["evaluate", str(model), "--corpus", str(other), "--trained-on", str(tiny_corpus)])
    assert "--trained-on: expected the corpus 111111111111" in str(said.exception)
