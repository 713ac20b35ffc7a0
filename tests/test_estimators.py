"""BM25 against rank_bm25 score by score, and the distribution over negatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from softnce_ray.config import BM25Estimator, UniformEstimator
from softnce_ray.estimators import BM25, ESTIMATORS, negative_distribution, words

QUERIES = [
    "parse the date of the customer",
    "Parse a date, then parse the time: parse!",
    "the the the the",
    "remove a directory and all its files",
    "???",
    "the size of a directory",
    "removeDirectory of HTTPServer_2",
    "unique",
    "",
]
SETTINGS = {"bm25": BM25Estimator(), "uniform": UniformEstimator()}
"""Settings of every estimator, for the laws that all of them keep: a new estimator adds its row."""


def reference(texts: list[list[str]], rows: np.ndarray, **settings: float) -> np.ndarray:
    okapi = BM25Okapi(texts, **settings)
    with np.errstate(invalid="ignore"):  # with b = 1 it divides zero by zero where a query has no words
        return np.nan_to_num([okapi.get_scores(texts[row])[rows] for row in rows])


def fitted(texts: list[list[str]], **settings: float) -> BM25:
    return BM25.fit(texts, **{"k1": 1.5, "b": 0.75, "epsilon": 0.25, **settings})


# --- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parseDate_2", ["parse", "date", "2"]),
        ("HTTPServer", ["http", "server"]),
        ("utf8 to UTF16", ["utf", "8", "to", "utf", "16"]),
        ("Löse das!", ["löse", "das"]),
        ("__init__", ["init"]),
        ("...", []),
    ],
)
def test_words_are_split_and_in_lower_case(text, expected):
    assert words(text) == expected


# --- BM25 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"k1": 1.2, "b": 0.0}, {"b": 1.0, "epsilon": 0.0}])
def test_scores_are_those_of_rank_bm25(settings):
    texts = [words(query) for query in QUERIES]
    assert sum("the" in text for text in texts) <= len(texts) / 2  # no negative idf here
    rows = np.arange(len(texts))
    scores = fitted(texts, **settings).similarity(rows)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference(texts, rows, **settings), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_a_word_in_more_than_half_of_the_queries_gets_a_share_of_the_mean_idf(epsilon):
    texts = [["the", "date"], ["the", "size"], ["the", "the", "name"], ["other"]]
    rows = np.arange(4)
    scores = fitted(texts, epsilon=epsilon).similarity(rows)
    np.testing.assert_allclose(scores, reference(texts, rows, epsilon=epsilon), rtol=1e-5, atol=1e-6)
    idf = {word: np.log((4 - n + 0.5) / (n + 0.5)) for word, n in (("the", 3), ("date", 1), ("size", 1), ("name", 1))}
    mean = (idf["the"] + 4 * idf["date"]) / 5  # five words: other too
    # 'the' once in query 1 of mean length 2 (lengths 2, 2, 3, 1), asked once by query 0
    assert scores[0, 1] == pytest.approx(epsilon * mean * 1 * 2.5 / (1 + 1.5 * (1 - 0.75 + 0.75 * 2 / 2)))


def test_without_saturation_and_length_a_score_is_the_idf_of_shared_words():
    texts = [["date", "of"], ["date", "date", "size"], ["a"], ["b"], [], ["c"]]
    scores = fitted(texts, k1=0.0).similarity(np.arange(6))
    assert scores[0, 1] == pytest.approx(np.log((6 - 2 + 0.5) / (2 + 0.5)))
    assert np.isfinite(scores).all()


def test_each_occurrence_in_the_asking_query_counts():
    texts = [["date"], ["date", "date"], ["size", "of"], ["a"], ["b"], ["c"]]
    scores = fitted(texts).similarity(np.arange(6))
    assert scores[1, 0] == pytest.approx(2 * scores[0, 0])
    assert scores[0, 1] < 2 * scores[0, 0]


def test_queries_without_words_are_like_nothing():
    scores = fitted([words(query) for query in QUERIES]).similarity(np.arange(len(QUERIES)))
    for row in (QUERIES.index("???"), QUERIES.index("")):
        assert not scores[row].any()
        assert not scores[:, row].any()


@given(
    texts=st.lists(st.lists(st.sampled_from("abcdefg"), max_size=6), min_size=1, max_size=12).filter(any),
    data=st.data(),
)
def test_any_rows_of_any_queries_score_as_rank_bm25(texts, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=8)))
    np.testing.assert_allclose(fitted(texts).similarity(rows), reference(texts, rows), rtol=1e-4, atol=1e-5)


def test_queries_without_any_word_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected queries with words, got none"):
        BM25.prepare(BM25Estimator(), ["?", ""], tmp_path)


def test_what_was_saved_scores_the_same_and_is_mapped(tmp_path):
    settings = BM25Estimator(k1=1.2, b=0.5, epsilon=0.1)
    BM25.prepare(settings, QUERIES, tmp_path)
    loaded = BM25.load(tmp_path)
    rows = np.array([3, 0, 1, 1, 8])
    texts = [words(query) for query in QUERIES]
    np.testing.assert_array_equal(loaded.similarity(rows), BM25.fit(texts, k1=1.2, b=0.5, epsilon=0.1).similarity(rows))
    np.testing.assert_allclose(
        loaded.similarity(rows), reference(texts, rows, k1=1.2, b=0.5, epsilon=0.1), rtol=1e-5, atol=1e-6
    )
    for array in (loaded.asked.data, loaded.answered.data, loaded.asked.indices, loaded.asked.indptr):
        assert not array.flags.writeable  # a view of the file: nothing was copied


# --- the distribution over negatives ---------------------------------------------------------------------


def test_distribution_by_hand():
    similarity = torch.tensor([[9.0, np.log(2.0), 0.0], [0.0, 9.0, 0.0], [np.log(9.0), 0.0, 9.0]])
    p = negative_distribution(similarity, temperature=1.0)
    torch.testing.assert_close(p, torch.tensor([[0, 2 / 3, 1 / 3], [0.5, 0, 0.5], [0.9, 0.1, 0]]))
    halved = negative_distribution(similarity, temperature=0.5)  # e^{2 log 2} = 4, e^{2 log 9} = 81
    torch.testing.assert_close(halved, torch.tensor([[0, 4 / 5, 1 / 5], [0.5, 0, 0.5], [81 / 82, 1 / 82, 0]]))


@given(size=st.integers(2, 40), seed=st.integers(0, 1000), temperature=st.floats(0.01, 100))
def test_rows_sum_to_one_and_the_diagonal_is_zero(size, seed, temperature):
    similarity = 30 * torch.rand(size, size, generator=torch.Generator().manual_seed(seed))
    p = negative_distribution(similarity, temperature=temperature)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(dim=1), torch.ones(size))
    assert (p.diagonal() == 0).all()
    assert (p >= 0).all()


def test_a_low_temperature_gathers_all_on_the_most_similar_negative():
    similarity = torch.tensor([[99.0, 3.0, 2.0], [1.0, 99.0, 4.0], [5.0, 5.0, 99.0]])
    p = negative_distribution(similarity, temperature=1e-4)
    torch.testing.assert_close(p, torch.tensor([[0, 1.0, 0], [0, 0, 1.0], [0.5, 0.5, 0]]))


def test_a_high_temperature_makes_the_distribution_uniform():
    p = negative_distribution(torch.rand(5, 5), temperature=1e6)
    torch.testing.assert_close(p, (torch.ones(5, 5) / 4).fill_diagonal_(0), rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_into_similarities():
    assert not negative_distribution(torch.rand(4, 4, requires_grad=True), temperature=1.0).requires_grad


# --- what every estimator keeps --------------------------------------------------------------------------

every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def prepared(name: str, folder: Path):
    ESTIMATORS[name].prepare(SETTINGS[name], iter(QUERIES), folder)  # type: ignore[arg-type]
    return ESTIMATORS[name].load(folder)


def test_every_estimator_has_a_row_in_these_tests():
    assert set(SETTINGS) == set(ESTIMATORS)


@every_estimator
def test_similarity_is_a_finite_square_of_float32(name, tmp_path):
    similarity = prepared(name, tmp_path).similarity(np.array([5, 2, 7]))
    assert similarity.shape == (3, 3)
    assert similarity.dtype == np.float32
    assert np.isfinite(similarity).all()


@every_estimator
def test_similarity_of_two_rows_does_not_depend_on_the_others(name, tmp_path):
    estimator = prepared(name, tmp_path)
    rows = np.array([6, 0, 3, 1, 8, 2])
    whole = estimator.similarity(np.arange(len(QUERIES)))
    np.testing.assert_allclose(estimator.similarity(rows), whole[np.ix_(rows, rows)], rtol=1e-6)


@every_estimator
def test_an_estimator_can_be_loaded_by_many(name, tmp_path):
    first = prepared(name, tmp_path)
    second = ESTIMATORS[name].load(tmp_path)
    rows = np.arange(5)
    np.testing.assert_array_equal(first.similarity(rows), second.similarity(rows))
    assert not negative_distribution(torch.from_numpy(first.similarity(rows)), temperature=1.0).isnan().any()
