"""Index, search and evaluation with an export of every kind of encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import KINDS, encoder_of, fresh_encoder, published_kind, write_model

from softnce_ray.config import ArmConfig
from softnce_ray.corpus import Corpus, Pair
from softnce_ray.corpus.tokens import prepare_tokens
from softnce_ray.export.checking import expect
from softnce_ray.export.fresh import in_this_process
from softnce_ray.export.writing import write_formats
from softnce_ray.model import Model
from softnce_ray.retrieval import build_index, evaluate_corpus, search
from softnce_ray.retrieval.index import Index


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_every_kind_indexes_searches_and_is_evaluated(
    kind: str, tiny_pairs: list[Pair], two_languages: Path, tmp_path: Path
) -> None:
    texts = [text for pair in tiny_pairs for text in (pair.query, pair.code)]
    published = published_kind(kind)
    folder = None if published is None else write_model(tmp_path / "model", published, texts)
    settings: dict[str, Any] = {"encoder": encoder_of(kind, folder), "tokens": {"vocabulary": 400, "code_length": 40}}
    config = ArmConfig.model_validate(settings)
    corpus = Corpus.open(two_languages)
    tokenizer = prepare_tokens(corpus, config.tokens, tmp_path, config.encoder.inputs).tokenizer
    torch.manual_seed(0)
    model = Model(fresh_encoder(config, tokenizer.get_vocab_size()), tokenizer, config)
    write_formats(model, tmp_path / "best", ("hf",), expect(model), lambda *args: "card", read=in_this_process)

    done = build_index(two_languages, tmp_path / "best", tmp_path / "index")
    assert set(done.languages) == {"python", "ruby"}
    index = Index.open(tmp_path / "index")
    (hits,) = index.search(["Sort the price of every robot."], index.embedder(), top=3)
    query = model.encode_queries(["Sort the price of every robot."])[0]
    for hit in hits:
        assert hit.score == pytest.approx(float(query @ model.encode_codes([hit.code], hit.language)[0]), abs=1e-5)
    (found,) = search(tmp_path / "best", two_languages, ["Sort the price of every robot."], top=3)
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)

    evaluation = evaluate_corpus(tmp_path / "best", two_languages)
    codes = [
        code
        for split in ("valid", "test", "codebase")
        for code in corpus.table("ruby", split).column("code").to_pylist()
    ]
    queries = corpus.table("ruby", "test").column("query").to_pylist()
    first = len(corpus.table("ruby", "valid"))
    scores = model.encode_queries(queries) @ model.encode_codes(codes, "ruby").T
    own = scores[np.arange(len(queries)), first + np.arange(len(queries))][:, None]
    expected = np.mean(1 / (1 + (scores > own).sum(axis=1)))
    (line,) = [line for line in evaluation.lines if line.language == "ruby" and line.system == "model"]
    assert line.metrics["mrr"].mean == pytest.approx(expected, abs=0.02)
