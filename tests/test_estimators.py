"""BM25 against rank_bm25 score by score, and the distribution over negatives."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25L, BM25Okapi, BM25Plus

from softnce_ray import bm25_formulas
from softnce_ray.bm25_formulas import Formula
from softnce_ray.config import ArmConfig
from softnce_ray.config.estimators import PARTS
from softnce_ray.corpus import Corpus
from softnce_ray.estimators import (
    BM25,
    BatchBM25,
    Checked,
    Embedded,
    EstimatorError,
    Mixture,
    Uniform,
    count_words,
    negative_distribution,
    words,
)
from softnce_ray.preparation import open_data, prepare

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


PACKAGE = {"okapi": BM25Okapi, "plus": BM25Plus, "l": BM25L}
FORMULAS: list[dict[str, Any]] = [
    {},
    {"k1": 1.2, "b": 0.0},
    {"b": 1.0, "epsilon": 0.0},
    {"variant": "plus", "delta": 1.0},
    {"variant": "plus", "delta": 0.3, "k1": 2.0, "b": 0.4},
    {"variant": "l", "delta": 0.5},
    {"variant": "l", "delta": 1.5, "k1": 0.9, "b": 0.2},
]


def reference(asked: list[list[str]], texts: list[list[str]], variant: str = "okapi", **settings: float) -> np.ndarray:
    """The package's scores of all texts for each that asks."""
    fitted = PACKAGE[variant](texts, **settings)
    with np.errstate(invalid="ignore"):  # with b = 1 it divides zero by zero where a text has no words
        return np.nan_to_num([fitted.get_scores(text) for text in asked])


def fitted(texts: list[list[str]], **settings: Any) -> BM25:
    return BM25.fit(texts, texts, Formula(**{"k1": 1.5, "b": 0.75, **settings}))


def assert_scores(scores: np.ndarray, expected: np.ndarray) -> None:
    """Equal to 1e-6 of the score, or of the largest where positive and negative weights cancel."""
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("读取文件。", ["读取", "取文", "文件"]),
        ("读", ["读"]),
        ("读取JSON文件 parseDate_2个", ["读取", "json", "文件", "parse", "date", "2", "个"]),
        ("ファイルを閉じる", ["ファ", "ァイ", "イル", "ルを", "を閉", "閉じ", "じる"]),
        ("อ่านไฟล์ ๒", ["อ่", "่า", "าน", "นไ", "ไฟ", "ฟล", "ล์", "๒"]),
        ("파일 읽기", ["파일", "읽기"]),  # Korean sets spaces
    ],
)
def test_of_scripts_without_spaces_two_characters_are_a_word(text, expected):
    assert words(text) == expected


@given(st.text(st.characters(max_codepoint=0x0DFF) | st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)))
def test_other_texts_have_the_words_that_they_always_had(text):
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    assert words(text) == [word.lower() for word in re.findall(r"[^\W\d_]+|\d+", apart)]


def test_chinese_queries_are_alike_by_the_words_that_they_share():
    queries = ["读取文件并排序", "写入文件并解析", "计算矩阵的长度", "连接数据库", "旋转图像"]
    scores = fitted([words(query) for query in queries]).similarity(np.arange(5))
    assert scores[0, 1] > 0  # 文件, 件并
    assert not scores[0, 2:].any()


# --- BM25 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", FORMULAS)
def test_scores_are_those_of_rank_bm25(settings):
    texts = [words(query) for query in QUERIES]
    asked = [*texts[:-3], ["unheard", "date", "date"], texts[-2], ["the", "unheard"]]
    rows = np.array([5, 0, 1, 1, 8, 2, 4, 3, 6])
    scores = BM25.fit(asked, texts, Formula(**{"k1": 1.5, "b": 0.75, **settings})).similarity(rows)
    assert scores.dtype == np.float32
    assert_scores(scores, reference(asked, texts, **settings)[np.ix_(rows, rows)])


@pytest.mark.parametrize("settings", FORMULAS)
def test_what_the_package_counts_is_what_is_counted_of_a_corpus_too_large_for_it(settings, tiny_corpus, monkeypatch):
    table = Corpus.open(tiny_corpus).table("python", "train")
    queries, codes = ([words(text) for text in table.column(side).to_pylist()] for side in ("query", "code"))
    codes[3] = []
    codes = [[*code, "everywhere"] if number % 3 else code for number, code in enumerate(codes)]
    found = {}
    for most in (0, 10**9):
        monkeypatch.setattr(bm25_formulas, "PACKAGE_ENTRIES", most)
        found[most] = BM25.fit(queries, codes, Formula(**{"k1": 1.5, "b": 0.75, **settings}))
    counted, of_package = found.values()
    np.testing.assert_array_equal(counted.answered.data, of_package.answered.data)
    np.testing.assert_array_equal(counted.base, of_package.base)


def test_statistics_are_the_packages(monkeypatch):
    """What the package gives as idf and lengths is what scores are made of."""

    class Changed(BM25Okapi):
        def _calc_idf(self, nd):
            self.idf = dict.fromkeys(nd, 2.0)

    monkeypatch.setattr(bm25_formulas.rank_bm25, "BM25Okapi", Changed)
    scores = fitted([["date", "date"], ["date"]], k1=1.0, b=0.0).similarity(np.arange(2))
    np.testing.assert_allclose(scores, [[2 * 2 * 2 * 2 / 3, 2 * 2 * 1 * 2 / 2], [2 * 2 * 2 / 3, 2 * 1 * 2 / 2]])


def test_plus_by_hand():
    """A text without the word has delta · idf of it, each time that it is asked."""
    scores = fitted([["date"], ["size", "size"], [], ["date", "date"]], variant="plus", delta=0.5).similarity(
        np.arange(4)
    )
    idf = {"date": np.log(5 / 2), "size": np.log(5 / 1)}
    assert scores[3].tolist()[1:3] == pytest.approx([2 * 0.5 * idf["date"]] * 2)
    assert scores[1, 1] == pytest.approx(2 * idf["size"] * (0.5 + 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 2 / 1.25))))
    assert scores[2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_a_word_in_more_than_half_of_the_queries_gets_a_share_of_the_mean_idf(epsilon):
    texts = [["the", "date"], ["the", "size"], ["the", "the", "name"], ["other"]]
    rows = np.arange(4)
    scores = fitted(texts, epsilon=epsilon).similarity(rows)
    np.testing.assert_allclose(scores, reference(texts, texts, epsilon=epsilon), rtol=1e-5, atol=1e-6)
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
    settings=st.sampled_from(FORMULAS),
    data=st.data(),
)
def test_any_rows_of_any_queries_score_as_rank_bm25(texts, settings, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=8)))
    expected = reference(texts, texts, **settings)[np.ix_(rows, rows)]
    assert_scores(fitted(texts, **settings).similarity(rows), expected)


def test_texts_without_any_word_are_an_error():
    with pytest.raises(ValueError, match="expected texts with words, got none"):
        fitted([[], []])


@pytest.mark.parametrize("settings", [{"k1": 1.2, "b": 0.5, "epsilon": 0.1}, {"variant": "plus", "delta": 1.0}])
def test_what_was_saved_scores_the_same_and_is_mapped(settings, tmp_path):
    texts = [words(query) for query in QUERIES]
    made = fitted(texts, **settings)
    made.save(tmp_path)
    loaded = BM25.load(tmp_path)
    rows = np.array([3, 0, 1, 1, 8])
    np.testing.assert_array_equal(loaded.similarity(rows), made.similarity(rows))
    for array in (loaded.asked.data, loaded.answered.data, loaded.asked.indices, loaded.asked.indptr):
        assert not array.flags.writeable  # a view of the file: nothing was copied


def test_queries_ask_codes_with_the_statistics_of_the_codes():
    queries = [["parse", "date", "unheard"], ["size"], ["date", "date"]]
    codes = [["def", "date", "date"], ["def", "size", "of", "date"], ["def", "name"]]
    scores = BM25.fit(queries, codes, Formula(k1=1.5, b=0.75)).similarity(np.arange(3))
    assert_scores(scores, reference(queries, codes))
    assert scores[0, 2] == 0  # the only word that they share is in no code


def test_batch_statistics_by_hand():
    texts = [["the", "date"], ["the", "the", "size"], ["the", "date"], ["unseen"]]
    estimator = BatchBM25(count_words(texts, {}), average=2.0, k1=1.2, b=0.75)
    scores = estimator.similarity(np.array([0, 1, 2]))  # the fourth query is not in the batch
    idf = {"the": np.log((3 - 3 + 0.5) / (3 + 0.5)), "date": np.log((3 - 2 + 0.5) / (2 + 0.5))}
    assert idf["the"] < 0
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / 2)  # the second query has three words
    assert scores[0, 1] == pytest.approx(idf["the"] * 2 * 2.2 / (2 + norm))
    assert scores[1, 0] == pytest.approx(2 * idf["the"] * 2.2 / (1 + 1.2))  # asked twice, length 2 is the average
    assert scores[0, 2] == pytest.approx((idf["the"] + idf["date"]) * 2.2 / 2.2)


def test_embedded_is_the_product_of_the_vectors_and_mapped_when_loaded(tmp_path):
    asking, answering = np.eye(3, dtype=np.float32), np.arange(9, dtype=np.float32).reshape(3, 3)
    Embedded(asking, answering).save(tmp_path)
    loaded = Embedded.load(tmp_path)
    np.testing.assert_array_equal(loaded.similarity(np.array([2, 0])), [[8, 2], [6, 0]])
    assert not loaded.asking.flags.writeable


def test_vectors_that_ask_and_answer_are_kept_once(tmp_path):
    vectors = np.ones((2, 4), np.float32)
    Embedded(vectors, vectors).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["asking.npy"]
    np.testing.assert_array_equal(Embedded.load(tmp_path).similarity(np.array([0, 1])), np.full((2, 2), 4.0))


def test_a_mixture_is_the_weighted_mean_of_its_parts_distributions():
    similarity = np.array([[9, 1, 0, 0], [1, 9, 2, 0], [0, 2, 9, 5], [0, 0, 5, 9]], np.float32)
    one = Embedded(similarity, np.eye(4, dtype=np.float32))
    mixture = Mixture(((0.25, one, 0.5), (0.75, Uniform(), 1.0)))
    rows = np.arange(4)
    expected = 0.25 * negative_distribution(torch.from_numpy(similarity), temperature=0.5) + 0.75 * (
        torch.ones(4, 4).fill_diagonal_(0) / 3
    )
    mixed = torch.from_numpy(mixture.similarity(rows))
    torch.testing.assert_close(negative_distribution(mixed, temperature=1.0), expected)
    assert (mixed.diagonal() >= mixed.max(dim=1).values).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e31])
def test_an_estimator_that_gives_no_numbers_is_named_with_the_pairs(bad):
    vectors = np.random.default_rng(0).random((50, 4)).astype(np.float32)
    vectors[[7, 20], 2] = bad
    asking = Checked("estimator.parts.simcse", "mend it", Embedded(vectors, vectors))
    answering = Checked("estimator trained", "mend it", Embedded(np.ones_like(vectors), vectors))
    fine, rows = np.array([3, 4, 30]), np.array([3, 20, 4, 7])
    for estimator in (asking, answering, Mixture(((0.5, Uniform(), 1.0), (0.5, asking, 0.1)))):
        assert np.isfinite(estimator.similarity(fine)).all()
        with pytest.raises(EstimatorError, match=r"for training pairs 7, 20 \(counted from 0\): mend it$") as caught:
            estimator.similarity(rows)
        expected = "estimator trained" if estimator is answering else "estimator.parts.simcse"
        assert str(caught.value).startswith(f"{expected}: expected similarities from -1e+30 to 1e+30, got ")
    with pytest.raises(EstimatorError, match="training pairs 20 "):
        answering.similarity(fine, np.array([3, 4, 30, 20]))


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


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-40, 1e-7])
def test_however_low_a_temperature_is_p_is_its_limit(temperature):
    """As `objective` has it, duplicates stand at -1e30; the last row has nothing else."""
    similarity = torch.tensor([[9.0, 3, 2, -1e30], [1, 9, 4, 4], [-5, -7, 9, -6], [-1e30, -1e30, -1e30, 9]])
    expected = torch.tensor([[0, 1, 0, 0], [0, 0, 0.5, 0.5], [1, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0]])
    p = negative_distribution(similarity, temperature=temperature)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, expected)


def test_a_temperature_that_a_study_may_have_gives_the_bits_of_a_plain_softmax():
    similarity = 30 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    own = torch.eye(8, dtype=torch.bool)
    for temperature in (1e-6, 1e-3, 1.0, 100.0):
        plain = (similarity / temperature).masked_fill(own, -torch.inf).softmax(dim=-1)
        assert torch.equal(negative_distribution(similarity, temperature=temperature), plain)


def test_a_high_temperature_makes_the_distribution_uniform():
    p = negative_distribution(torch.rand(5, 5), temperature=1e6)
    torch.testing.assert_close(p, (torch.ones(5, 5) / 4).fill_diagonal_(0), rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_into_similarities():
    assert not negative_distribution(torch.rand(4, 4, requires_grad=True), temperature=1.0).requires_grad


# --- what every estimator keeps --------------------------------------------------------------------------

ARMS: dict[str, dict[str, Any]] = {name: {"name": name} for name in PARTS} | {
    "bm25 of the batch": {"name": "bm25", "statistics": "batch"},
    "bm25 of codes, plus": {"name": "bm25_code", "variant": "plus"},
    "mix": {"name": "mix", "mix": {"bm25": 0.5, "simcse": 0.25, "uniform": 0.25}},
}
"""An arm's `estimator` for every kind; a new estimator is here by its name."""

every_estimator = pytest.mark.parametrize("name", ARMS)


@pytest.fixture(scope="module")
def estimator_of(tiny_corpus, tmp_path_factory):
    """A function that prepares an estimator of the tiny corpus and opens it."""
    root = tmp_path_factory.mktemp("prepared")

    def make(name: str):
        small = {"batch_size": 32}  # the tiny corpus has but two hundred queries
        more: dict[str, dict[str, Any]] = {"simcse": small, "mix": {"parts": {"simcse": {"name": "simcse", **small}}}}
        settings = {**ARMS[name], **more.get(name, {})}
        config = ArmConfig.model_validate(
            {
                "encoder": {"kind": "bag", "width": 8},
                "tokens": {"vocabulary": 400},
                "training": {"batch_size": 32, "epochs": 2},
                "loss": {"name": "soft_infonce", "alpha": 0.5},
                "estimator": settings,
            }
        )
        return open_data(prepare(config, tiny_corpus, "python", root), config, "python").estimator

    return make


@every_estimator
def test_similarity_is_a_finite_square_of_float32_with_a_distribution(name, estimator_of):
    similarity = estimator_of(name).similarity(np.array([5, 2, 7, 100]))
    assert similarity.shape == (4, 4)
    assert similarity.dtype == np.float32
    assert np.isfinite(similarity).all()
    p = negative_distribution(torch.from_numpy(similarity), temperature=1.0)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(4))


@every_estimator
def test_the_order_of_a_batch_does_not_matter(name, estimator_of):
    estimator = estimator_of(name)
    rows = np.array([6, 0, 30, 1, 8, 2])
    turned = np.array([3, 1, 5, 0, 4, 2])
    expected = estimator.similarity(rows)[np.ix_(turned, turned)]
    np.testing.assert_allclose(estimator.similarity(rows[turned]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ARMS if name not in ("bm25 of the batch", "mix")])
def test_similarity_of_two_rows_does_not_depend_on_the_others(name, estimator_of):
    estimator = estimator_of(name)
    rows = np.array([6, 0, 30, 1, 8, 2])
    whole = estimator.similarity(np.arange(40))
    np.testing.assert_allclose(estimator.similarity(rows), whole[np.ix_(rows, rows)], rtol=1e-5, atol=1e-6)


@every_estimator
def test_further_columns_follow_those_of_the_batch(name, estimator_of):
    estimator = estimator_of(name)
    rows, more = np.array([6, 0, 30]), np.array([1, 8, 2, 44])
    columns = np.concatenate([rows, more])
    wide = estimator.similarity(rows, columns)
    assert (wide.shape, wide.dtype) == ((3, 7), np.float32)
    if name != "mix":  # whose p is one over all columns
        np.testing.assert_allclose(wide, estimator.similarity(columns)[:3], rtol=1e-5, atol=1e-6)
    p = negative_distribution(torch.from_numpy(wide), temperature=1.0)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(3))
    assert p.diagonal().tolist() == [0, 0, 0]


@every_estimator
def test_it_opens_a_second_time_with_the_same_answers(name, estimator_of):
    rows = np.arange(5)
    np.testing.assert_array_equal(estimator_of(name).similarity(rows), estimator_of(name).similarity(rows))


@pytest.mark.parametrize("name", ["bm25", "simcse"])
def test_a_query_is_most_like_itself(name, estimator_of):
    similarity = estimator_of(name).similarity(np.arange(40))
    assert (similarity.argmax(axis=1) == np.arange(40)).mean() > 0.9


def test_a_trained_estimator_scores_the_right_code_above_strangers(estimator_of):
    similarity = estimator_of("trained").similarity(np.arange(100))
    strangers = similarity[~np.eye(100, dtype=bool)].mean()
    assert np.diagonal(similarity).mean() > strangers


def test_sentences_that_share_words_are_alike_under_simcse(estimator_of, tiny_corpus):
    similarity = estimator_of("simcse").similarity(np.arange(60))
    queries = [
        set(words(query)) for query in Corpus.open(tiny_corpus).table("python", "train")["query"].to_pylist()[:60]
    ]
    shared = np.array([[len(one & other) for other in queries] for one in queries])
    away = ~np.eye(60, dtype=bool)
    assert similarity[away & (shared >= 5)].mean() > similarity[away & (shared <= 4)].mean() + 0.05
