"""Ranks against a full sort, ties, blocks and errors; metrics by hand."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.errors import UserError
from softnce_ray.evaluation import graded_ndcg, metrics, places, query_metrics, ranks, reciprocal, reciprocal_ranks
from softnce_ray.judgements import judged_ndcg


def naive(queries: torch.Tensor, codes: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Sort all codes by score, and take the mean of the first and last place that equals could take, plus a
    half where the right code itself would be among them: 1 + better + equal / 2."""
    result = []
    for query, target in zip(queries.double(), targets.tolist(), strict=True):
        scores = (codes.double() @ query).tolist()
        ordered = sorted(scores, reverse=True)
        first = ordered.index(scores[target]) + 1
        last = len(ordered) - ordered[::-1].index(scores[target])
        result.append((first + last) / 2)
    return result


def test_ranks_by_hand():
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    # query 0 scores 1, 0, 0.8, -1; query 1 scores 0, 1, 0.6, 0; both against their targets
    assert ranks(queries, codes, torch.tensor([0, 2, 3])).tolist() == [1, 2, 4]


def test_ties_count_half():
    codes = torch.tensor([[1.0], [1.0], [1.0], [2.0], [0.0]])
    # one better, two equal beside the right one: 1 + 1 + 2/2
    assert ranks(torch.tensor([[1.0]]), codes, torch.tensor([1])).tolist() == [3]
    # two with the best score: 1 + 0 + 1/2
    assert ranks(torch.tensor([[1.0]]), torch.tensor([[2.0], [2.0]]), torch.tensor([0])).tolist() == [1.5]


@pytest.mark.parametrize("width", [3, 256])
@pytest.mark.parametrize("size", [10, 1001])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_collapsed_encoder_is_about_two_over_the_codebase(width, size, scale):
    vector = scale * torch.nn.functional.normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(1)))
    queries, codes = vector.repeat(7, 1), vector.repeat(size, 1)
    found = ranks(queries, codes, torch.arange(7))
    assert found.tolist() == [(size + 1) / 2] * 7  # 1 + (size - 1) / 2
    assert metrics(found)["mrr"] == pytest.approx(2 / (size + 1))


def test_a_zero_vector_is_a_collapsed_encoder_too():
    assert ranks(torch.zeros(2, 3), torch.randn(9, 3), torch.tensor([0, 8])).tolist() == [5, 5]


def test_scores_that_differ_by_rounding_are_ties_and_no_others():
    codes = torch.tensor([[1.0], [1.0 + 2**-23], [1.0 - 2**-24], [1.0 + 1e-5], [1.0 - 1e-5]])
    # one better, two level: 1 + 1 + 2/2, from either side of the rounding
    assert ranks(torch.ones(3, 1), codes, torch.tensor([0, 1, 2])).tolist() == [3, 3, 3]
    assert ranks(torch.ones(2, 1), codes, torch.tensor([3, 4])).tolist() == [1, 5]


def test_a_code_of_great_length_makes_no_ties_of_the_others():
    """Against double precision; one code of 500 is a million times as long as the others, and has no part in any pair
    of two of them."""
    generator = torch.Generator().manual_seed(0)
    codes = 8 * torch.nn.functional.normalize(torch.randn(500, 32, generator=generator))
    queries = codes[:100] + 0.8 * torch.randn(100, 32, generator=generator)
    codes[499] *= 1e6
    codes[498] = codes[7]  # a tie
    targets = torch.arange(100)
    exact = np.array(naive(queries, codes, targets))
    assert 0.5 < np.mean(1 / exact) < 0.9
    np.testing.assert_array_equal(ranks(queries, codes, targets), exact)
    assert exact[7] % 1 == 0.5
    none = [np.array([], int)] * 100
    others = np.arange(100) != 7
    found = graded_ndcg(queries, codes, targets, none)
    np.testing.assert_allclose(found[others], 1 / np.log2(1 + exact[others]))
    judged = judged_ndcg(queries, codes, {(row, row): 1.0 for row in range(100)}, among="all")
    np.testing.assert_allclose(judged, found)


def test_ties_are_those_of_the_lengths_of_both_codes():
    # codes of lengths 4 and 1: rounding is 1e-6 of their mean, 2.5; the first two are such a tie, the third is none
    codes = torch.tensor([[1.0, 4.0], [1.0 + 2e-6, 0.0], [1.0 + 3e-6, 0.0]])
    asked = torch.tensor([[1.0, 0.0]])
    assert ranks(asked, codes, torch.tensor([0])).tolist() == [2.5]
    # a query's length counts alike on both sides
    assert ranks(1000 * asked, codes, torch.tensor([0])).tolist() == [2.5]
    # the second and third, of length 1: no tie at 1e-6
    assert ranks(asked, codes, torch.tensor([2])).tolist() == [1.5]


def test_duplicates_of_the_right_code_cost_half_a_rank_each():
    codes = torch.nn.functional.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    alone = ranks(codes[:1], codes, torch.tensor([0]))
    doubled = ranks(codes[:1], torch.cat([codes, codes[:1].repeat(3, 1)]), torch.tensor([0]))
    assert (alone.tolist(), doubled.tolist()) == ([1], [2.5])


small = st.integers(-3, 3)


@given(data=st.data(), size=st.integers(1, 30), asked=st.integers(1, 20), width=st.integers(1, 4))
def test_ranks_are_those_of_a_full_sort_whatever_the_block(data, size, asked, width):
    rows = st.lists(small, min_size=width, max_size=width)
    codes = torch.tensor(data.draw(st.lists(rows, min_size=size, max_size=size)), dtype=torch.float32)
    queries = torch.tensor(data.draw(st.lists(rows, min_size=asked, max_size=asked)), dtype=torch.float32)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), min_size=asked, max_size=asked)))
    expected = naive(queries, codes, targets)
    for block in (1, 3, asked, 256):
        assert ranks(queries, codes, targets, block=block).tolist() == expected


@given(seed=st.integers(0, 10_000), block=st.integers(1, 50))
def test_blocks_do_not_change_ranks_of_unit_vectors(seed, block):
    generator = torch.Generator().manual_seed(seed)
    queries, codes = (torch.nn.functional.normalize(torch.randn(size, 16, generator=generator)) for size in (37, 211))
    targets = torch.randint(211, (37,), generator=generator)
    np.testing.assert_array_equal(ranks(queries, codes, targets, block=block), ranks(queries, codes, targets))
    np.testing.assert_allclose(ranks(queries, codes, targets), naive(queries, codes, targets), atol=1)


def test_no_queries_have_no_ranks():
    assert ranks(torch.zeros(0, 3), torch.zeros(5, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["queries", "codes"])
def test_vectors_that_are_not_finite_are_an_error_that_a_user_can_mend(bad, side):
    sides = {"queries": torch.ones(2, 3), "codes": torch.ones(4, 3)}
    sides[side][1, 2] = bad
    counted = "1 of 2 queries and 0 of 4 codes" if side == "queries" else "0 of 2 queries and 1 of 4 codes"
    for measure in (ranks, lambda queries, codes, _: judged_ndcg(queries, codes, {})):
        with pytest.raises(ValueError, match=f"NaN or infinity in {counted}: the encoder has diverged") as caught:
            measure(sides["queries"], sides["codes"], torch.tensor([0, 1]))
        assert isinstance(caught.value, UserError)


def test_vectors_whose_products_are_not_finite_are_an_error_too():
    with pytest.raises(UserError, match=r"finite products of vectors.* numbers up to 1e\+25 and 1e\+15:"):
        ranks(torch.full((2, 3), 1e25), torch.full((4, 3), 1e15), torch.tensor([0, 1]))


@pytest.mark.parametrize("target", [-1, 4])
def test_a_target_out_of_range_is_an_error(target):
    with pytest.raises(ValueError, match="expected targets from 0 to 3"):
        ranks(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, target]))


@pytest.mark.parametrize(
    ("queries", "codes", "targets"), [((2, 3), (4, 2), (2,)), ((3,), (4, 3), (1,)), ((2, 3), (4, 3), (3,))]
)
def test_shapes_that_do_not_fit_are_an_error(queries, codes, targets):
    with pytest.raises(ValueError, match="expected"):
        ranks(torch.ones(queries), torch.ones(codes), torch.zeros(targets, dtype=torch.int64))


# --- metrics ---------------------------------------------------------------------------------------------


def test_reciprocal_ranks_and_their_cutoff():
    rank = np.array([1, 2, 1.5, 1000, 1001])
    np.testing.assert_allclose(reciprocal(rank), [1, 0.5, 1 / 1.5, 0.001, 1 / 1001])
    np.testing.assert_allclose(reciprocal(rank, cutoff=1000), [1, 0.5, 1 / 1.5, 0.001, 0])
    codes = torch.eye(4)
    found = reciprocal_ranks(codes[[0, 1]], codes, torch.tensor([0, 0]), cutoff=2)
    np.testing.assert_allclose(found, [1, 0])  # query 1: one better, two equal: 1 + 1 + 2/2 = 3
    assert found.dtype == np.float64


def test_metrics_by_hand():
    found = metrics(np.array([1, 1.5, 3, 10, 11]))
    assert found == pytest.approx(
        {
            "mrr": (1 + 1 / 1.5 + 1 / 3 + 1 / 10 + 1 / 11) / 5,
            "recall@1": 1 / 5,
            "recall@5": 3 / 5,
            "recall@10": 4 / 5,
            "ndcg@10": (1 + 1 / math.log2(2.5) + 1 / math.log2(4) + 1 / math.log2(11) + 0) / 5,
        }
    )


def test_perfect_ranks_are_one_in_every_metric():
    assert set(metrics(np.ones(3)).values()) == {1.0}


def test_metrics_of_no_query_are_an_error():
    with pytest.raises(ValueError, match="at least one query"):
        metrics(np.empty(0))


# --- several right codes --------------------------------------------------------------------------------------


def test_places_of_several_right_codes_by_hand():
    codes = torch.tensor([[5.0], [4.0], [3.0], [3.0], [3.0], [1.0]])
    right = torch.tensor([[2, 0, -1], [5, 1, 2], [3, -1, -1], [4, 2, 3]])
    found = places(torch.ones(4, 1), codes, right)
    # 3 ties with two others for the places 3, 4, 5: alone it is expected on 4; three right ones take all three.
    np.testing.assert_array_equal(found, [[1, 4, np.nan], [2, 4, 6], [4, np.nan, np.nan], [3, 4, 5]])
    values = query_metrics(found)
    np.testing.assert_allclose(values["mrr"], [1, 1 / 2, 1 / 4, 1 / 3])
    np.testing.assert_allclose(values["recall@1"], [1 / 2, 0, 0, 0])
    np.testing.assert_allclose(values["recall@5"], [1, 2 / 3, 1, 1])
    gain = [1 / math.log2(1 + place) for place in range(1, 7)]
    ndcg = [
        (gain[0] + gain[3]) / (gain[0] + gain[1]),
        (gain[1] + gain[3] + gain[5]) / sum(gain[:3]),
        gain[3],
        sum(gain[2:5]) / sum(gain[:3]),
    ]
    np.testing.assert_allclose(values["ndcg@10"], ndcg)


def test_of_r_right_codes_among_t_alike_the_first_is_expected_after_t_plus_1_over_r_plus_1():
    """By counting: the mean place of the i-th right code over all ways to lay 3 right ones among 7."""
    from itertools import combinations

    ways = np.array(list(combinations(range(1, 8), 3)))
    found = places(torch.ones(1, 2), torch.ones(7, 2), torch.tensor([[4, 0, 6]]))
    np.testing.assert_allclose(found[0], ways.mean(axis=0))
    # Ties never help: what is made of expected places is at most what is expected.
    assert query_metrics(found)["mrr"][0] < np.mean(1 / ways[:, 0])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), size=st.integers(2, 30), asked=st.integers(1, 6))
def test_without_ties_metrics_are_those_of_ir_measures(data, size, asked):
    scores = torch.stack([torch.tensor(data.draw(st.permutations(range(size)))) for _ in range(asked)]).float()
    many = st.lists(st.integers(0, size - 1), min_size=1, max_size=12, unique=True)
    answers = [data.draw(many) for _ in range(asked)]
    width = max(map(len, answers))
    right = torch.tensor([each + [-1] * (width - len(each)) for each in answers])
    # Scores as products of vectors: query i has the i-th axis, on which code j has its score.
    found = query_metrics(places(torch.eye(asked), scores.T.contiguous(), right, block=4))
    qrels = [ir_measures.Qrel(f"q{query}", f"d{code}", 1) for query, each in enumerate(answers) for code in each]
    run = [
        ir_measures.ScoredDoc(f"q{query}", f"d{code}", float(score))
        for query, row in enumerate(scores)
        for code, score in enumerate(row)
    ]
    names = {"mrr": "RR", "recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "ndcg@10": "nDCG@10"}
    measures = {name: ir_measures.parse_measure(text) for name, text in names.items()}
    expected = {
        (each.query_id, each.measure): each.value for each in ir_measures.iter_calc(measures.values(), qrels, run)
    }
    for name, measure in measures.items():
        wanted = [expected[f"q{query}", measure] for query in range(asked)]
        np.testing.assert_allclose(found[name], wanted, rtol=1e-9, err_msg=name)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 300), asked=st.integers(1, 40), values=st.integers(2, 50))
def test_of_one_right_code_each_all_is_bit_for_bit_what_it_was(seed, size, asked, values):
    generator = torch.Generator().manual_seed(seed)
    queries, codes = (torch.randint(values, (rows, 2), generator=generator).float() for rows in (asked, size))
    targets = torch.randint(size, (asked,), generator=generator)
    scores = queries @ codes.T
    own = scores.gather(1, targets[:, None])
    better, level = (scores > own).sum(1).double().numpy(), ((scores == own).sum(1) - 1).double().numpy()
    rank = 1 + better + level / 2
    assert (ranks(queries, codes, targets) == rank).all()
    gain = np.where(rank <= 10, 1.0 / np.log2(1.0 + rank), 0.0)
    assert metrics(places(queries, codes, targets[:, None])) == {
        "mrr": float(np.mean(1.0 / rank)),
        **{f"recall@{k}": float(np.mean(rank <= k)) for k in (1, 5, 10)},
        "ndcg@10": float(np.mean(gain)),
    }


@pytest.mark.parametrize("right", [[[-1, 0]], [[0, 4]], [[0, -2]]])
def test_right_codes_out_of_range_are_an_error(right):
    with pytest.raises(ValueError, match="expected targets from 0 to 3"):
        places(torch.ones(1, 3), torch.ones(4, 3), torch.tensor(right))


# --- graded nDCG ------------------------------------------------------------------------------------------


def test_graded_ndcg_by_hand():
    # scores of the five codes: 5, 4, 3, 2, 1; the own code is second, its two partners first and fifth
    codes = torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0]])
    found = graded_ndcg(torch.ones(1, 1), codes, torch.tensor([1]), [np.array([0, 4])])
    got = 3 / math.log2(3) + 1 / math.log2(2) + 1 / math.log2(6)
    best = 3 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert found.tolist() == pytest.approx([got / best])
    assert graded_ndcg(torch.ones(1, 1), codes, torch.tensor([0]), [np.array([1, 2])]).tolist() == pytest.approx([1.0])


def test_without_partners_graded_ndcg_is_the_discount_of_the_rank():
    codes = torch.tensor([[3.0], [2.0], [1.0]])
    none = [np.array([], int)] * 3
    found = graded_ndcg(torch.ones(3, 1), codes, torch.arange(3), none)
    assert found.tolist() == pytest.approx([1 / math.log2(1 + rank) for rank in (1, 2, 3)])
    assert graded_ndcg(torch.zeros(0, 1), codes, torch.zeros(0, dtype=torch.int64), []).shape == (0,)


def test_a_collapsed_encoder_gets_the_mean_over_all_orders_and_not_one():
    sizes = [0, 1, 3]
    codes = torch.ones(40, 2)
    found = graded_ndcg(torch.ones(3, 2), codes, torch.arange(3), [np.arange(10, 10 + size) for size in sizes])
    mean = sum(1 / math.log2(2 + place) for place in range(40)) / 40
    ideal = [3 + sum(1 / math.log2(2 + place) for place in range(1, 1 + size)) for size in sizes]
    assert found.tolist() == pytest.approx([(3 + size) * mean / best for size, best in zip(sizes, ideal, strict=True)])


@given(data=st.data(), size=st.integers(3, 12), block=st.integers(1, 4))
def test_graded_ndcg_is_the_mean_over_all_orders_of_ties(data, size, block):
    """Against brute force: the mean of the nDCG of many sorts, ties broken at random, of which it is the limit; here
    exact, place by place."""
    codes = torch.tensor([[float(data.draw(st.integers(0, 2)))] for _ in range(size)])
    asked = data.draw(st.integers(1, 3))
    targets = torch.tensor([data.draw(st.integers(0, size - 1)) for _ in range(asked)])
    others = [[code for code in range(size) if code != int(target)] for target in targets]
    partners = [np.array(data.draw(st.lists(st.sampled_from(each), unique=True, max_size=4)), int) for each in others]
    expected = []
    for target, extra in zip(targets.tolist(), partners, strict=True):
        gains = {target: 3.0, **dict.fromkeys(extra.tolist(), 1.0)}
        scores = codes[:, 0].tolist()
        value = 0.0
        for code, gain in gains.items():
            first = sum(score > scores[code] for score in scores)
            level = sum(score == scores[code] for score in scores)
            value += gain * sum(1 / math.log2(2 + place) for place in range(first, first + level)) / level
        ideal = sum(gain / math.log2(2 + place) for place, gain in enumerate(sorted(gains.values(), reverse=True)))
        expected.append(value / ideal)
    found = graded_ndcg(torch.ones(asked, 1), codes, targets, partners, block=block)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
