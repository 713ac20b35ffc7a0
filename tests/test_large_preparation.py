"""Preparing in parts gives what preparing all at once gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from softnce_ray import bm25_formulas
from softnce_ray.bm25_formulas import Formula
from softnce_ray.config import ArmConfig
from softnce_ray.corpus import Corpus
from softnce_ray.estimators import BM25, Embedded, words
from softnce_ray.preparation import prepare
from softnce_ray.preparation import vectors as learned

SETTINGS = {
    "encoder": {"kind": "bag", "width": 8},
    "tokens": {"vocabulary": 400, "query_length": 8, "code_length": 16},
    "training": {"batch_size": 16, "epochs": 1},
    "loss": {"name": "soft_infonce"},
}


@pytest.mark.parametrize("name", ["trained", "simcse"])
def test_vectors_of_many_texts_are_computed_in_parts(tiny_corpus, tmp_path, monkeypatch, name):
    arm = ArmConfig.model_validate({**SETTINGS, "estimator": {"name": name}})

    def vectors(root: Path) -> Embedded:
        prepared = prepare(arm, tiny_corpus, "python", root)
        return Embedded.load(prepared.folder(prepared.estimators[name]))

    whole = vectors(tmp_path / "whole")
    monkeypatch.setattr(learned, "_TEXTS", 37)
    parts = vectors(tmp_path / "parts")
    assert parts.asking.shape == whole.asking.shape
    assert parts.asking.dtype == np.float32
    np.testing.assert_allclose(parts.asking, whole.asking, atol=1e-6)
    np.testing.assert_allclose(parts.answering, whole.answering, atol=1e-6)


def test_bm25_of_many_texts_is_that_of_the_formula_in_parts_or_at_once(tiny_corpus, monkeypatch):
    table = Corpus.open(tiny_corpus).table("python", "train")
    queries = [words(text) for text in table.column("query").to_pylist()]
    codes = [words(text) for text in table.column("code").to_pylist()]
    whole = BM25.fit(queries, codes, Formula(k1=1.5, b=0.75))
    monkeypatch.setattr(bm25_formulas, "_ROWS", 7)
    monkeypatch.setattr(bm25_formulas, "_ENTRIES", 11)
    monkeypatch.setattr(bm25_formulas, "PACKAGE_ENTRIES", 0)
    parts = BM25.fit(iter(queries), iter(codes), Formula(k1=1.5, b=0.75))
    for one, other in ((whole.asked, parts.asked), (whole.answered, parts.answered)):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one.indptr, other.indptr)
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.data, other.data)


def test_texts_are_read_once_and_need_not_be_a_list():
    texts = [["a", "b", "a"], [], ["c"]]
    generated = (text for text in texts)
    found = BM25.fit(generated, generated, Formula(k1=1.5, b=0.75))
    assert found.asked.toarray().tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]
