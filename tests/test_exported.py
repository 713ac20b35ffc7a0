"""Exports whose files have changed since they were written: each reader of a model refuses them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from softnce_ray.config import ArmConfig
from softnce_ray.encoders import build_encoder
from softnce_ray.encoders.adapting import EncoderError
from softnce_ray.export.checking import Checked
from softnce_ray.export.record import write_record
from softnce_ray.exported import changed_export, unchecked
from softnce_ray.model import ExportError
from softnce_ray.named import sentence_model_problem
from softnce_ray.retrieval import open_embedder
from softnce_ray.study.doctor.models import _network_problem
from softnce_ray.tracking.served_model import expect_unchanged

FILES = {"README.md": "a card", "config.json": "{}", "model.safetensors": "weights", "softnce_ray.json": "{}"}


@pytest.fixture(params=["one", "several"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A format's folder of an export of one format, or of two."""
    root = tmp_path / "best"
    formats = ["hf"] if request.param == "one" else ["hf", "onnx"]
    for name in formats:
        place = root / name if len(formats) > 1 else root
        place.mkdir(parents=True)
        for file, text in FILES.items():
            (place / file).write_text(text)
    write_record(root, dict.fromkeys(formats, Checked(0.0, 1)), dict.fromkeys(formats, 1))
    return root / "hf" if len(formats) > 1 else root


def record_of(folder: Path) -> Path:
    return next(place / "export.json" for place in (folder, folder.parent) if (place / "export.json").exists())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "softnce_ray.json"])
def test_a_file_that_is_not_the_exported_one_is_named(folder: Path, name: str) -> None:
    assert changed_export(folder) is None
    expected = hashlib.sha256(FILES[name].encode()).hexdigest()[:12]
    (folder / name).write_text("other")
    found = hashlib.sha256(b"other").hexdigest()[:12]
    assert (
        f"expected {name} of SHA-256 {expected} in {folder}, as it was exported, got another with SHA-256 {found}"
        in (changed_export(folder) or "")
    )
    (folder / name).unlink()
    assert "got no file: it was changed or damaged; export the model again" in (changed_export(folder) or "")
    os.mkfifo(folder / name)
    assert "got a named pipe is in the place of a file" in (changed_export(folder) or "")


def test_every_reader_of_a_model_refuses_a_changed_one(folder: Path) -> None:
    (folder / "model.safetensors").write_text("other")
    said = "expected model.safetensors of SHA-256"
    assert said in (sentence_model_problem(str(folder)) or "")
    assert said in (_network_problem(folder) or "")
    with pytest.raises(ExportError, match=said):
        open_embedder(folder)
    config = ArmConfig.model_validate({"encoder": {"kind": "transformer", "model": str(folder)}})
    with pytest.raises(EncoderError, match=f"encoder.model: {said}"):
        build_encoder(config, 10)
    record_of(folder).unlink()
    assert sentence_model_problem(str(folder)) is None  # the change is meant


def test_the_card_may_be_rewritten_and_other_files_added(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    assert changed_export(folder) is None


def test_an_export_of_an_earlier_version_is_noted(folder: Path) -> None:
    path = record_of(folder)
    record = json.loads(path.read_text())
    assert unchecked(folder) is None
    path.write_text(json.dumps({"formats": record["formats"]}))
    (folder / "model.safetensors").write_text("other")
    assert changed_export(folder) is None
    assert "of an earlier version" in (unchecked(folder) or "")


@pytest.mark.parametrize(
    "text", ["{]", "[]", "null", '{"formats": 7}', '{"formats": {"hf": {}}, "files": {"a": null}}']
)
def test_a_damaged_record_is_refused_and_another_programs_is_not_ours(folder: Path, text: str) -> None:
    path = record_of(folder)
    path.write_text(text)
    assert "expected the record of an export" in (changed_export(folder) or "")
    (folder / "softnce_ray.json").unlink()
    assert changed_export(folder) is None


def test_a_record_that_was_changed_is_refused(folder: Path) -> None:
    path = record_of(folder)
    path.write_text(path.read_text().replace('"vectors": 1', '"vectors": 2'))
    assert "export.json with a change after it was written" in (changed_export(folder) or "")


def test_a_served_model_reads_only_what_was_exported(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_text("graph")
    expect_unchanged(tmp_path)  # of an earlier version
    (tmp_path / "sha256.json").write_text(json.dumps({"model.onnx": hashlib.sha256(b"graph").hexdigest()}))
    expect_unchanged(tmp_path)
    graph.write_text("other")
    with pytest.raises(ValueError, match=r"expected model.onnx in .* as it was exported"):
        expect_unchanged(tmp_path)
    graph.unlink()
    with pytest.raises(ValueError, match=r"got another or none"):
        expect_unchanged(tmp_path)
