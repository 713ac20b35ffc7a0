import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.corpus.formats import read_judgements
from softnce_ray.evaluation import DivergedError, graded_ndcg
from softnce_ray.judgements import judged_ndcg

GRADED = Path(__file__).parents[1].parent / "shared" / "data" / "graded_ruby"


def scored(scores: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and codes whose dot products are these scores."""
    table = torch.tensor(scores, dtype=torch.float32)
    return torch.eye(len(table)), table.T.contiguous()


def by_definition(scores, relevance, among, k):
    """CodeSearchNet's evaluation of one query, over the order of its codes; no ties."""
    order = sorted(range(len(scores)), key=lambda code: -scores[code])
    gain, rank = 0.0, 1
    for code in order:
        if code in relevance:
            if k is None or rank <= k:
                gain += (2 ** relevance[code] - 1) / math.log2(rank + 1)
            rank += 1
        elif among == "all":
            rank += 1
    best = sorted(relevance.values(), reverse=True)[:k]
    ideal = sum((2**value - 1) / math.log2(place + 1) for place, value in enumerate(best, start=1))
    return gain / ideal if ideal else math.nan


def test_an_example_by_hand():
    # The order is code 3, 0, 1, 2; judged are 0 (relevance 1), 1 (relevance 3) and 2 (relevance 0).
    queries, codes = scored([[0.8, 0.6, 0.4, 0.9]])
    relevance = {(0, 0): 1.0, (0, 1): 3.0, (0, 2): 0.0}
    ideal = 7 / math.log2(2) + 1 / math.log2(3)
    within = 1 / math.log2(2) + 7 / math.log2(3)  # places 1 and 2 of the judged
    over_all = 1 / math.log2(3) + 7 / math.log2(4)  # places 2 and 3 of all
    assert judged_ndcg(queries, codes, relevance) == pytest.approx([within / ideal])
    assert judged_ndcg(queries, codes, relevance, among="all") == pytest.approx([over_all / ideal])
    assert judged_ndcg(queries, codes, relevance, 2, among="all") == pytest.approx([1 / math.log2(3) / ideal])
    assert judged_ndcg(queries, codes, relevance, 1) == pytest.approx([1 / 7])


def test_ties_share_the_mean_of_their_places():
    queries, codes = scored([[0.5, 0.5, 0.5, 0.9]])
    relevance = {(0, 0): 2.0, (0, 1): 0.0}
    assert judged_ndcg(queries, codes, relevance) == pytest.approx([(1 + 1 / math.log2(3)) / 2])
    three = (1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)) / 3  # places 2, 3 and 4
    assert judged_ndcg(queries, codes, relevance, among="all") == pytest.approx([three])
    assert judged_ndcg(queries, codes, relevance, 2, among="all") == pytest.approx([1 / math.log2(3) / 3])


def test_a_query_without_a_relevant_code_is_left_out():
    queries, codes = scored([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    result = judged_ndcg(queries, codes, {(0, 0): 0.0, (2, 1): 0.5})
    assert np.isnan(result).tolist() == [True, True, False]
    assert np.nanmean(result) == 1.0


@settings(max_examples=200, deadline=None)
@given(data=st.data(), k=st.none() | st.integers(1, 6), among=st.sampled_from(["judged", "all"]))
def test_without_ties_it_is_what_codesearchnet_computes(data, k, among):
    count, codes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    scores = [data.draw(st.permutations(range(codes))) for _ in range(count)]
    places = st.tuples(st.integers(0, count - 1), st.integers(0, codes - 1))
    relevance = data.draw(st.dictionaries(places, st.sampled_from([0.0, 0.5, 1.0, 4 / 3, 2.0, 3.0])))
    expected = []
    for query, row in enumerate(scores):
        own = {code: value for (asked, code), value in relevance.items() if asked == query}
        expected.append(by_definition(row, own, among, k))
    result = judged_ndcg(*scored(scores), relevance, k, among=among, block=2)
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_with_every_code_judged_it_is_the_graded_ndcg_of_the_evaluation():
    generator = torch.Generator().manual_seed(0)
    queries, codes = torch.randn(9, 4, generator=generator), torch.randn(12, 4, generator=generator)
    codes[7] = codes[2]  # a tie
    targets = torch.arange(9)
    partners = [np.array([9, 10])] * 9
    relevance = {(query, code): 0.0 for query in range(9) for code in range(12)}
    relevance |= {(query, query): 2.0 for query in range(9)}
    relevance |= {(query, code): 1.0 for query in range(9) for code in (9, 10)}
    expected = graded_ndcg(queries, codes, targets, partners)
    for among in ("judged", "all"):
        np.testing.assert_allclose(judged_ndcg(queries, codes, relevance, among=among), expected, rtol=1e-6)


def test_an_encoder_that_maps_all_to_one_vector_gains_nothing_by_it():
    vectors = torch.ones(1, 3), torch.ones(1_000, 3)
    assert judged_ndcg(*vectors, {(0, 0): 3.0}, among="all") < 0.15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": torch.ones(2)}, "expected .Q, D. and .M, D."),
        ({"relevance": {(2, 0): 1.0}}, "rows below 2 and 3"),
        ({"relevance": {(0, -1): 1.0}}, "rows below 2 and 3"),
        ({"relevance": {(0, 0): -1.0}}, "relevance of 0 or more"),
        ({"relevance": {(0, 0): math.nan}}, "relevance of 0 or more"),
        ({"k": 0}, "k of at least 1"),
        ({"among": "some"}, "'judged' or 'all'"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        judged_ndcg(**{"queries": torch.ones(2, 4), "codes": torch.ones(3, 4), "relevance": {(0, 0): 1.0}, **changes})


def test_a_diverged_encoder_is_told():
    with pytest.raises(DivergedError):
        judged_ndcg(torch.full((1, 2), math.nan), torch.ones(1, 2), {(0, 0): 1.0})


def test_no_queries_give_no_numbers():
    assert judged_ndcg(torch.ones(0, 2), torch.ones(0, 2), {}).shape == (0,)


@pytest.mark.skipif(not GRADED.is_dir(), reason="the human judgements are not there")
def test_human_judgements_grade_a_ranking_by_chance_below_one_by_the_judges():
    judged = read_judgements(GRADED)
    count, codes = len(judged.queries), len(judged.codes)
    scores = torch.zeros(count, codes)
    for (query, code), value in judged.relevance.items():
        scores[query, code] = 1 + value
    ideal = judged_ndcg(*scored(scores.tolist()), judged.relevance, among="all")
    assert np.nanmin(ideal) > 0.999
    chance = torch.rand(count, codes, generator=torch.Generator().manual_seed(0))
    assert np.nanmean(judged_ndcg(*scored(chance.tolist()), judged.relevance, among="all")) < 0.3
    assert 0.5 < np.nanmean(judged_ndcg(*scored(chance.tolist()), judged.relevance)) < 1.0
