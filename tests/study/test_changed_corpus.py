"""Corpora whose rows change, before a launch and while one runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.config import ArmConfig
from softnce_ray.corpus import Corpus, CorpusError
from softnce_ray.corpus.tokens import prepare_tokens
from softnce_ray.corpus.verifying import Verify
from softnce_ray.preparation import Prepared, prepare
from softnce_ray.study.doctor.facts import Questions, facts_here
from softnce_ray.study.jobs import submission
from softnce_ray.study.problems import StudyError
from softnce_ray.study.run import launch
from softnce_ray.study.trainable import TrialSpec, _corpus

CHANGED = (
    r"expected the rows of the manifest in .*train\.parquet, got other rows \(row 3, large/module.*\): the corpus was"
)


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, folder)
    return folder


@pytest.fixture
def study(plain_study: Callable[..., dict[str, Any]], corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(plain_study(corpus=str(corpus)), sort_keys=False))
    return path


def change(corpus: Path) -> None:
    """Give the third training pair another code, under the same manifest."""
    path = corpus / "python" / "train.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[2]["code"] += "\n    pass"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)


def test_a_changed_row_is_named_before_anything_runs(study: Path, corpus: Path, tmp_path: Path) -> None:
    change(corpus)
    with pytest.raises(CorpusError, match=CHANGED):
        launch(study, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()
    environment = {"SOFTNCE_STORE": str(tmp_path / "there")}
    with pytest.raises(StudyError, match=CHANGED):
        submission(study, "http://head:8265", environment)
    assert submission(study, "http://head:8265", environment, trust_corpus=True).entrypoint.endswith(" --trust-corpus")
    refused = CliRunner().invoke(app, ["launch", str(study), "--dry-run"])
    assert isinstance(refused.exception, CorpusError)
    trusted = CliRunner().invoke(app, ["launch", str(study), "--dry-run", "--trust-corpus", "--store", str(tmp_path)])
    assert trusted.exit_code == 0, trusted.exception


def test_each_machine_that_reads_a_corpus_reads_its_rows(corpus: Path, tmp_path: Path) -> None:
    """What a node's doctor, its preparation and its trials see is their own machine's file."""
    opened = Corpus.open(corpus)
    spec = TrialSpec(
        {}, "a", "confirm", "", 1, None, str(corpus), opened.fingerprint, asdict(Prepared("", "", {})), 1, ""
    )
    assert _corpus(spec).fingerprint == opened.fingerprint
    change(corpus)
    assert "got other rows (row 3" in facts_here(Questions(tmp_path, "", str(corpus))).corpus_problem
    with pytest.raises(CorpusError, match=CHANGED):
        prepare(ArmConfig(), corpus, "python", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
    with pytest.raises(CorpusError, match=CHANGED):
        _corpus(spec)
    trusting = TrialSpec(**{**asdict(spec), "trust_corpus": True})
    assert _corpus(trusting).is_trusted
    assert facts_here(Questions(tmp_path, "", str(corpus), trust_corpus=True)).corpus == opened.fingerprint


def test_a_corpus_that_changes_while_it_is_read_makes_nothing(corpus: Path, tmp_path: Path) -> None:
    opened = Corpus.open(corpus)
    opened.check_unchanged()
    done: list[int] = []

    def progress(finished: int, total: int) -> None:
        if not done:
            change(corpus)
        done.append(finished)

    with pytest.raises(CorpusError, match=r"train\.parquet, got another: it changed meanwhile"):
        prepare_tokens(opened, ArmConfig().tokens, tmp_path / "prepared", progress=progress)
    assert done
    assert not [path for path in (tmp_path / "prepared").rglob("*") if path.suffix == ".npy"]
    Corpus.open(corpus, verify=Verify.NONE).check_unchanged()


def test_a_changed_manifest_is_refused(corpus: Path) -> None:
    path = corpus / "manifest.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "findings": None}))
    with pytest.raises(CorpusError, match=r"expected the manifest that was written at .*manifest.json, got a change"):
        Corpus.listed(corpus)
    del written["checksum"]
    path.write_text(json.dumps({**written, "findings": None}))
    Corpus.open(corpus)
    path.write_text(json.dumps({**written, "fingerprint": "0" * 64}))
    with pytest.raises(CorpusError, match=r"expected its tables' fingerprint in .*manifest.json, got another"):
        Corpus.open(corpus)
