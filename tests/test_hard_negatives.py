"""Mined codes against full rankings, what is drawn of them, and training with them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray import hard_negatives, training
from softnce_ray.bm25_formulas import Formula
from softnce_ray.checkpoint import Checkpoint
from softnce_ray.config import ArmConfig, TrialConfig
from softnce_ray.corpus import Corpus, Pair, build_corpus
from softnce_ray.corpus.duplicates import normalise_code, normalise_query
from softnce_ray.errors import UserError
from softnce_ray.estimators import BM25, Embedded, words
from softnce_ray.hard_negatives import NONE, draw, mine
from softnce_ray.model import encode
from softnce_ray.objective import Batch, batch_loss
from softnce_ray.preparation import Prepared, open_data, prepare
from softnce_ray.training import train
from softnce_ray.training_data import TrainingData


def unlike(pairs: int) -> np.ndarray:
    """Groups of pairs of which no two are alike."""
    return np.tile(np.arange(pairs), (2, 1))


# --- mining ----------------------------------------------------------------------------------------------

SCORES = np.array([[9, 5, 7, 6], [1, 9, 3, 2], [4, 8, 9, 6], [0, 0, 0, 9]], np.float32)
TABLE = Embedded(SCORES, np.eye(4, dtype=np.float32))


def test_the_best_scored_codes_of_others_come_first() -> None:
    assert mine(TABLE, unlike(4), depth=2)[:3].tolist() == [[2, 3], [2, 3], [1, 3]]


def test_duplicates_of_the_right_answer_are_left_out() -> None:
    groups = unlike(4)
    groups[0, 2] = groups[0, 0]  # queries 0 and 2 are the same
    groups[1, 3] = groups[1, 2]  # and codes 2 and 3
    assert mine(TABLE, groups, depth=3)[:3].tolist() == [[3, 1, NONE], [2, 3, 0], [1, NONE, NONE]]


def test_the_best_may_be_passed_over_and_what_scores_too_little_is_none() -> None:
    assert mine(TABLE, unlike(4), depth=2, skip=1)[:3].tolist() == [[3, 1], [3, 0], [3, 0]]
    assert mine(TABLE, unlike(4), depth=3, least=3.0)[:3].tolist() == [[2, 3, 1], [NONE] * 3, [1, 3, 0]]
    assert mine(TABLE, unlike(4), depth=3, least=0.0)[3].tolist() == [NONE] * 3
    assert mine(TABLE, unlike(4), depth=5, skip=2)[:2].tolist() == [[1, NONE, NONE, NONE, NONE], [0, *[NONE] * 4]]


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.integers(2, 30), depth=st.integers(1, 6), skip=st.integers(0, 3), block=st.integers(1, 9), data=st.data()
)
def test_blocks_do_not_change_what_is_mined(pairs: int, depth: int, skip: int, block: int, data: st.DataObject) -> None:
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    scores = chance.permutation(pairs * pairs).reshape(pairs, pairs).astype(np.float32)  # no two are equal
    groups = chance.integers(0, max(2, pairs // 2), (2, pairs))
    before = hard_negatives._QUERIES, hard_negatives._CODES
    hard_negatives._QUERIES, hard_negatives._CODES = block, block + 1
    try:
        found = mine(Embedded(scores, np.eye(pairs, dtype=np.float32)), groups, depth=depth, skip=skip)
    finally:
        hard_negatives._QUERIES, hard_negatives._CODES = before
    for row in range(pairs):
        others = [each for each in range(pairs) if not (groups[:, each] == groups[:, row]).any()]
        best = sorted(others, key=lambda each: -scores[row, each])[skip : skip + depth]
        assert found[row].tolist() == best + [NONE] * (depth - len(best))


# --- drawing ---------------------------------------------------------------------------------------------


def some_mined(pairs: int = 40, depth: int = 6) -> np.ndarray:
    mined = np.stack([np.random.default_rng(row).permutation(pairs)[:depth] for row in range(pairs)]).astype(np.int32)
    mined[::5, 2:] = NONE
    mined[1] = NONE
    return mined


BATCHES = [np.arange(8), np.array([30, 20, 10, 1]), np.array([5, 39])]


def test_columns_are_the_batch_and_then_what_was_mined_for_it() -> None:
    mined = some_mined()
    for rows, columns in draw(iter(BATCHES), mined, 2, 0, 1):
        assert columns[: len(rows)].tolist() == rows.tolist()
        extra = columns[len(rows) :].tolist()
        assert len(set(columns.tolist())) == len(columns)
        assert set(extra) <= set(mined[rows].ravel().tolist()) - {NONE}
        for row in rows:
            there = set(mined[row].tolist()) - {NONE}
            assert len(there & set(columns.tolist())) >= min(2, len(there))
        assert len(extra) <= 2 * len(rows)


def test_equal_seeds_draw_equally_and_every_mined_code_has_its_turn() -> None:
    mined = some_mined()

    def extra(seed: int, epoch: int) -> list[list[int]]:
        return [columns[len(rows) :].tolist() for rows, columns in draw(iter(BATCHES), mined, 2, seed, epoch)]

    assert extra(1, 2) == extra(1, 2)
    assert extra(1, 2) != extra(1, 3)
    assert extra(1, 2) != extra(2, 2)
    drawn = set()
    for epoch in range(60):
        ((_, columns),) = draw(iter([np.array([7])]), mined, 2, 0, epoch)
        drawn |= set(columns[1:].tolist())
    assert drawn == set(mined[7].tolist()) - {7}


# --- training --------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "encoder": {"kind": "bag", "width": 16},
    "tokens": {"vocabulary": 400},
    "training": {"batch_size": 32, "epochs": 2, "learning_rate": 0.01},
    "language": "python",
    "seed": 1,
}
SOFT = {"loss": {"name": "soft_infonce", "alpha": 0.8}, "estimator": {"name": "bm25"}}
MINED = {"name": "bm25_code", "count": 3, "depth": 8}


def trial(**changes: Any) -> TrialConfig:
    return TrialConfig.model_validate({**SETTINGS, **changes})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


def opened(config: TrialConfig, corpus: Path, root: Path) -> TrainingData:
    return open_data(prepare(config, corpus, "python", root), config, "python")


def test_bm25_mines_codes_with_the_querys_words(tiny_corpus: Path, root: Path) -> None:
    data = opened(trial(hard_negatives=MINED), tiny_corpus, root)
    table = Corpus.open(tiny_corpus).table("python", "train")
    queries, codes = (table.column(side).to_pylist() for side in ("query", "code"))
    scores = BM25.fit(map(words, queries), map(words, codes), Formula(k1=1.5, b=0.75)).similarity(
        np.arange(len(queries))
    )
    assert data.hard_negatives is not None
    assert data.hard_negatives.shape == (len(queries), 8)
    for row in (0, 17, len(queries) - 1):
        alike = [
            normalise_query(queries[row]) == normalise_query(query)
            or normalise_code(codes[row]) == normalise_code(code)
            for query, code in zip(queries, codes, strict=True)
        ]
        ranked = np.sort(np.where(alike, -np.inf, scores[row]))[::-1][:8]
        found = data.hard_negatives[row]
        there = found != NONE
        np.testing.assert_allclose(scores[row][found[there]], ranked[: there.sum()], rtol=1e-5)
        assert not there[ranked <= 0].any()


def test_a_trained_encoder_mines_what_it_takes_for_right(tiny_corpus: Path, root: Path) -> None:
    config = trial(hard_negatives={"name": "trained", "depth": 5})
    data = opened(config, tiny_corpus, root)
    plain = trial()
    encoder = train(plain.model_copy(update={"seed": 0}), opened(plain, tiny_corpus, root)).model.encoder
    queries, codes = encode(encoder, data.train.queries), encode(encoder, data.train.codes)
    scores = queries @ codes.T
    everyone = np.arange(len(scores))
    scores[torch.from_numpy(data.same(everyone, everyone))] = -torch.inf
    assert data.hard_negatives is not None
    expected = scores.topk(5, dim=1).values
    torch.testing.assert_close(scores.gather(1, torch.from_numpy(np.array(data.hard_negatives)).long()), expected)


@pytest.mark.parametrize("arm", [{}, SOFT, {**SOFT, "symmetric": True, "mask_duplicates": True}])
def test_a_step_has_the_loss_of_its_batch_and_its_hard_negatives(
    arm: dict[str, Any], tiny_corpus: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial(**arm, hard_negatives=MINED)
    data = opened(config, tiny_corpus, root)
    seen: list[tuple[torch.Tensor, Batch]] = []

    def watched(scores: torch.Tensor, batch: Batch, config: TrialConfig) -> torch.Tensor:
        seen.append((scores.detach(), batch))
        return batch_loss(scores, batch, config)

    monkeypatch.setattr(training, "batch_loss", watched)
    result = train(config, data)
    assert result.distributions.batch_size > 32
    scores, batch = seen[-1]
    assert data.hard_negatives is not None
    assert scores.shape == (32, len(batch.columns))
    assert set(batch.columns[32:].tolist()) <= set(data.hard_negatives[batch.rows].ravel().tolist())
    if not arm:
        expected = torch.nn.functional.cross_entropy(scores, torch.arange(32))
        torch.testing.assert_close(batch_loss(scores, batch, config), expected)
    else:
        assert batch.similarity is not None and batch.negatives is not None and data.estimator is not None
        np.testing.assert_array_equal(batch.similarity.numpy(), data.estimator.similarity(batch.rows, batch.columns))
        torch.testing.assert_close(batch.negatives.sum(dim=1), torch.ones(32))
        assert (batch.turned is None) == ("symmetric" not in arm)


def test_an_interrupted_run_draws_what_an_undisturbed_one_draws(tiny_corpus: Path, root: Path) -> None:
    config = trial(**SOFT, hard_negatives=MINED)
    data = opened(config, tiny_corpus, root)
    kept: list[Checkpoint] = []
    whole = train(config, data, lambda metrics, checkpoint: kept.append(checkpoint))
    # A checkpoint's tensors go on changing: the first epoch alone is trained again.
    first: list[Checkpoint] = []

    class Stop(Exception):
        pass

    def stop(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        first.append(checkpoint)
        raise Stop

    with pytest.raises(Stop):
        train(config, data, stop)
    resumed = train(config, data, resume=first[0])
    for name, tensor in whole.model.encoder.state_dict().items():
        assert torch.equal(tensor, resumed.model.encoder.state_dict()[name])


def test_settings_that_cannot_be_are_refused_by_name(tiny_corpus: Path, root: Path) -> None:
    with pytest.raises(ValueError, match="at least count 9, got 3"):
        ArmConfig.model_validate({"hard_negatives": {"name": "bm25_code", "count": 9, "depth": 3}})
    with pytest.raises(ValueError, match="bm25_code"):
        ArmConfig.model_validate({"hard_negatives": {"name": "bm25"}})
    with pytest.raises(UserError, match=r"hard_negatives: expected codes after the 1000 best .*: lower skip"):
        prepare(trial(hard_negatives={**MINED, "skip": 1000}), tiny_corpus, "python", root)
    with pytest.raises(UserError, match=r"hard_negatives\.model: expected the folder of a model"):
        prepare(trial(hard_negatives={"name": "trained", "model": "./no/such"}), tiny_corpus, "python", root)


def test_queries_that_share_no_word_with_other_codes_are_named_as_the_cause(
    tiny_pairs: list[Pair], tmp_path: Path
) -> None:
    def prepared(shared: int) -> Prepared:
        """Of pairs that have no word in common with others, but for the first `shared`."""
        pairs = [
            pair if number < shared else dataclasses.replace(pair, query=f"quagga{number}", code=f"okapi{number}")
            for number, pair in enumerate(tiny_pairs)
        ]
        build_corpus(pairs, tmp_path / f"c{shared}", valid=10, test=10)
        return prepare(trial(hard_negatives=MINED), tmp_path / f"c{shared}", "python", tmp_path / "root")

    with pytest.raises(UserError, match=r"expected codes that share a word with the queries of others, got none.*name"):
        prepared(0)
    (note,) = prepared(150).notes
    assert re.match(r"hard_negatives: \d\d% of the training queries have none, since no other code shares a word", note)
    assert not prepared(300).notes


def test_an_arm_without_any_has_the_identity_that_it_had() -> None:
    assert "hard_negatives" not in trial().model_dump()
    assert trial(hard_negatives=None) == trial()
    dumped = trial(hard_negatives=MINED).model_dump(mode="json")
    assert dumped["hard_negatives"] == {"count": 3, "depth": 8, "skip": 0, "name": "bm25_code", "k1": 1.5, "b": 0.75}
