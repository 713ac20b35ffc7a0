"""Which pairs make a batch: laws of budgets and buckets, and that negatives stay a random sample."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.batching import batch_count, epoch_batches, random_batches
from softnce_ray.config import ArmConfig, TrainingSettings


def batches_of(
    lengths: np.ndarray, size: int, tokens: int | None = None, buckets: int = 1, seed: int = 0, epoch: int = 1
) -> list[np.ndarray]:
    chosen = TrainingSettings(batch_size=size, batch_tokens=tokens, length_buckets=buckets)
    found = list(epoch_batches(lengths, chosen, seed, epoch))
    assert batch_count(lengths, chosen, seed, epoch) == len(found)
    return found


def test_without_budget_and_buckets_batches_are_those_of_a_fixed_number() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 103)
    expected = [rows.tolist() for rows in random_batches(103, 10, 3, 2)]
    assert [rows.tolist() for rows in batches_of(lengths, 10, seed=3, epoch=2)] == expected


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=120),
    size=st.integers(2, 20),
    tokens=st.none() | st.integers(80, 400),
    buckets=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_no_pair_comes_twice_and_no_batch_is_too_large_or_could_be_larger(lengths, size, tokens, buckets, seed) -> None:
    of = np.array(lengths)
    found = batches_of(of, size, tokens, buckets, seed)
    rows = [row for batch in found for row in batch.tolist()]
    assert len(set(rows)) == len(rows)
    most = 40
    for batch in found:
        assert len(batch) <= size
        if tokens is None:
            assert len(batch) == size
        else:
            assert of[batch].sum() <= tokens
            assert len(batch) == size or of[batch].sum() > tokens - most
    left = [row for row in range(len(of)) if row not in set(rows)]
    assert len(left) <= size and (tokens is None or of[left].sum() <= tokens)  # not enough for one more batch


def test_a_budget_holds_many_short_pairs_or_few_long_ones() -> None:
    lengths = np.repeat([10, 40], 400)
    found = batches_of(lengths, 1000, tokens=400, buckets=2)
    assert {(len(batch), lengths[batch[0]]) for batch in found} == {(40, 10), (10, 40)}
    mixed = [len(batch) for batch in batches_of(lengths, 1000, tokens=400)]
    assert np.mean(mixed) == pytest.approx(15.5, abs=0.8)  # of a mean length of 25; what is left over is half a pair
    assert min(mixed) >= 10 and max(mixed) < 40


def test_equal_seeds_give_equal_batches() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 300)

    def found(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in batches_of(lengths, 30, 500, 3, seed, epoch)]

    assert found(1, 1) == found(1, 1)
    assert found(1, 1) != found(1, 2)
    assert found(1, 1) != found(2, 1)


def test_batches_of_short_and_of_long_pairs_come_in_no_order() -> None:
    lengths = np.repeat([10, 20, 40], 300)
    short = [int(lengths[batch[0]]) for batch in batches_of(lengths, 10, buckets=3)]
    assert sorted(short) != short
    assert len(set(short[:10])) > 1


@pytest.mark.parametrize("buckets", [1, 4])
def test_negatives_are_a_random_sample_of_the_pairs_of_like_length(buckets: int) -> None:
    """Of pairs of one length any two meet equally often, whatever they are about."""
    lengths = np.repeat([10, 20, 30, 40], 12)
    met = np.zeros((48, 48))
    epochs = 3000
    for epoch in range(epochs):
        for batch in batches_of(lengths, 4, buckets=buckets, epoch=epoch):
            met[np.ix_(batch, batch)] += 1
    alike = [met[i, j] for i, j in combinations(range(48), 2) if lengths[i] == lengths[j]]
    expected = epochs * 3 / (11 if buckets == 4 else 47)
    assert np.mean(alike) == pytest.approx(expected, rel=0.02)
    deviation = np.sqrt(expected * (1 - 3 / (11 if buckets == 4 else 47)))
    assert np.abs(np.array(alike) - expected).max() < 4.5 * deviation
    assert np.std(alike) < 1.3 * deviation
    strangers = met[lengths[:, None] != lengths[None, :]]
    assert (strangers.max() == 0) == (buckets == 4)  # the buckets are whole: nothing is left over to be mixed


def test_a_budget_too_small_for_two_pairs_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"two of the longest pairs, 640 tokens, got 600: raise it, or lower"):
        ArmConfig.model_validate({"training": {"batch_tokens": 600}})
    assert ArmConfig.model_validate({"training": {"batch_tokens": 640}}).smallest_batch == 2


def test_laws_of_a_batchs_size_are_those_of_the_smallest_batch() -> None:
    def arm(tokens: int | None) -> ArmConfig:
        return ArmConfig.model_validate(
            {
                "training": {"batch_tokens": tokens, "batch_size": 64},
                "loss": {"name": "cancel_top_k", "k": 10},
                "estimator": {"name": "bm25"},
            }
        )

    assert arm(None).smallest_batch == arm(64 * 320).smallest_batch == 64
    with pytest.raises(ValueError, match="expected k <= 3 with the smallest batch 5, got 10"):
        arm(5 * 320)


def test_an_arm_without_budget_has_the_settings_that_it_had() -> None:
    assert not {"batch_tokens", "length_buckets"} & set(TrainingSettings().model_dump())
    assert {"batch_tokens", "length_buckets"} <= set(TrainingSettings(batch_tokens=1000, length_buckets=2).model_dump())
