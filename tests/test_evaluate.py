"""Evaluation of a model: the numbers of its study, BM25 by hand, the hybrid, judgements, and the commands."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.config import TrialConfig
from softnce_ray.corpus import CorpusError
from softnce_ray.corpus.build import build_corpus
from softnce_ray.corpus.pairs import Pair
from softnce_ray.corpus.store import Corpus
from softnce_ray.errors import UserError
from softnce_ray.evaluation import metrics
from softnce_ray.export import write_export
from softnce_ray.judgements import ndcg_of_scores
from softnce_ray.preparation import open_data, prepare, with_answers
from softnce_ray.retrieval import evaluate_corpus, evaluate_judgements, open_embedder
from softnce_ray.retrieval.lexical import WordIndex
from softnce_ray.retrieval.rankings import Scores, fused, places_of
from softnce_ray.training import TrainResult, train

GRADED = Path(__file__).parents[1].parent / "shared" / "data" / "graded_ruby"

Trained = tuple[TrainResult, Path]


def trained(corpus: Path, languages: dict[str, object], root: Path) -> Trained:
    """A bag as a study's confirm trial trains it, and its export."""
    shape = {"encoder": {"kind": "bag", "width": 24}, "training": {"epochs": 4, "batch_size": 16}}
    config = TrialConfig.model_validate({**languages, "seed": 0, **shape, "tokens": {"vocabulary": 400}})
    data = open_data(prepare(config, corpus, config.training_set, root), config, config.training_set)
    data = with_answers(data, Corpus.open(corpus))
    result = train(config, data, read_test=True)
    write_export(result.model, root / "best", "card")
    return result, root / "best"


@pytest.fixture(scope="module")
def one(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tiny_corpus, {"language": "python"}, tmp_path_factory.mktemp("one"))


def means(corpus: Path, model: Path, **options: object) -> dict[tuple[str, str], dict[str, float]]:
    made = evaluate_corpus(model, corpus, **options)  # type: ignore[arg-type]
    return {
        (line.language, line.system): {name: value.mean for name, value in line.metrics.items()} for line in made.lines
    }


@pytest.mark.parametrize("split", ["valid", "test"])
def test_an_exported_model_has_the_numbers_of_its_run(one: Trained, tiny_corpus: Path, split: str) -> None:
    result, folder = one
    found = means(tiny_corpus, folder, split=split)["python", "model"]
    stored = {name: result.metrics[f"{split}_{name}"] for name in found}
    assert found == pytest.approx(stored, abs=1e-9)
    assert 0.05 < found["mrr"] < 1


def test_queries_that_share_codes_and_have_several_are_measured_as_ir_measures_does(
    several_right: Path, tmp_path: Path
) -> None:
    """The run, its export and ir_measures agree; what is right is read from the texts, not from our table."""
    result, folder = trained(several_right, {"language": "python"}, tmp_path)
    corpus = Corpus.open(several_right)
    tables = {split: corpus.table("python", split).to_pylist() for split in ("valid", "test", "codebase")}
    codes = list(dict.fromkeys(row["code"] for rows in tables.values() for row in rows))
    assert len(codes) == 20 + 20 + 30
    asked, model = tables["test"], open_embedder(folder)
    scores = model.encode_queries([row["query"] for row in asked]) @ model.codes(codes, ["python"] * len(codes)).T
    right = {row["id"]: {row["code"]} for row in asked}
    for number, row in enumerate(asked):
        if number % 5 == 0:  # see the fixture: the number of this query among all fifths decides
            fifth = 6 + number // 5
            right[row["id"]] |= {tables["codebase"][(fifth + more) % 30]["code"] for more in (0, 1)}
    qrels = [ir_measures.Qrel(query, str(codes.index(code)), 1) for query, each in right.items() for code in each]
    run = [
        ir_measures.ScoredDoc(row["id"], str(code), float(score))
        for row, line in zip(asked, scores, strict=True)
        for code, score in enumerate(line)
    ]
    names = {"mrr": "RR", "recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "ndcg@10": "nDCG@10"}
    measured = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in names.values()], qrels, run)
    expected = {name: measured[ir_measures.parse_measure(text)] for name, text in names.items()}
    (line,) = [line for line in evaluate_corpus(folder, several_right).lines if line.system == "model"]
    assert (line.queries, line.codes) == (30, 70)
    assert {name: value.mean for name, value in line.metrics.items()} == pytest.approx(expected, abs=1e-9)
    assert {name: result.metrics[f"test_{name}"] for name in names} == pytest.approx(expected, abs=1e-9)
    assert result.metrics["test_codebase"] == 70
    of_query = {each.query_id: each.value for each in ir_measures.iter_calc([ir_measures.RR], qrels, run)}
    assert result.reciprocal_ranks["test"] == pytest.approx([of_query[row["id"]] for row in asked])
    assert {name: values["test"].mean() for name, values in result.cut_off.items()} == pytest.approx(
        {name: value for name, value in expected.items() if name != "mrr"}
    )


def test_the_mean_over_languages_is_that_of_the_languages(
    two_languages: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result, folder = trained(
        two_languages,
        {"language": "both", "train_languages": ["python", "ruby"], "test_languages": ["python", "ruby"]},
        tmp_path_factory.mktemp("both"),
    )
    found = means(two_languages, folder)
    assert found["mean", "model"]["mrr"] == pytest.approx(result.metrics["test_mrr"], abs=1e-9)
    assert found["ruby", "model"]["mrr"] == pytest.approx(result.metrics["test_mrr/ruby"], abs=1e-9)
    for system in ("bm25", "hybrid"):
        both = [found[language, system]["mrr"] for language in ("python", "ruby")]
        assert found["mean", system]["mrr"] == pytest.approx(np.mean(both))


def test_a_language_that_is_not_there_is_said(one: Trained, tiny_corpus: Path) -> None:
    with pytest.raises(CorpusError, match="'cobol'"):
        evaluate_corpus(one[1], tiny_corpus, languages=["cobol"])


def test_bm25_by_hand() -> None:
    index = WordIndex.fit(["parse date", "parse time time", "sort"], k1=1.2, b=0.75)
    (scores,) = index.scores(["parseTime unknown"])
    length = 2.0  # (2 + 3 + 1) / 3
    of_parse, of_time = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)

    def weight(count: int, words: int) -> float:
        return count * 2.2 / (count + 1.2 * (0.25 + 0.75 * words / length))

    expected = [of_parse * weight(1, 2), of_parse * weight(1, 3) + of_time * weight(2, 3), 0.0]
    assert scores.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_word_index_that_has_a_sentence_as_a_word_is_made_again(tmp_path: Path) -> None:
    WordIndex.fit(["读取文件 sort", "排序"]).save(tmp_path)
    assert WordIndex.load(tmp_path).scores(["取文"]).argmax() == 0
    file = tmp_path / "vocabulary.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("读取", "读取文件", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="the word 读取文件, as an earlier version read texts without spaces"):
        WordIndex.load(tmp_path)


def test_a_stored_word_index_scores_the_same(tmp_path: Path) -> None:
    index = WordIndex.fit(["def löschen(x)", "def f_2(y): return y", ""])
    index.save(tmp_path)
    queries = ["löschen y", "2 return", "nothing known", ""]
    np.testing.assert_array_equal(WordIndex.load(tmp_path).scores(queries), index.scores(queries))


def test_the_fused_score_by_hand() -> None:
    dense, words = np.array([[1.0, 2.0, 3.0]]), np.array([[4.0, 0.0, 0.0]])
    first, second = math.sqrt(2 / 3), math.sqrt(32 / 9)
    expected = [-1 / first + (8 / 3) / second, (-4 / 3) / second, 1 / first + (-4 / 3) / second]
    found = fused(Scores(dense, np.full((1, 3), 0.1)), Scores.of_sums(words))
    assert found.values[0].tolist() == pytest.approx(expected)
    assert found.errors[0].tolist() == pytest.approx([0.1 / first + 2e-6 / second, 0.1 / first, 0.1 / first])


@given(arrays.arrays(np.float64, (3, 6), elements=st.floats(-10, 10, width=16)))
@settings(max_examples=50, deadline=None)
def test_a_system_that_tells_nothing_apart_changes_no_order(scores: np.ndarray) -> None:
    targets, exact = np.array([[0], [3], [5]]), Scores(scores, np.zeros(scores.shape))
    with_flat = fused(exact, Scores.of_sums(np.full(scores.shape, 7.3)))
    np.testing.assert_array_equal(places_of(with_flat, targets), places_of(fused(exact), targets))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_vectors_that_differ_by_rounding_alone_change_no_order(scale: float) -> None:
    """A collapsed encoder of whatever scale: its rounding, standardised, would be half of the hybrid."""
    random = np.random.default_rng(0)
    vector = (scale * random.standard_normal(16)).astype(np.float32)
    collapsed = vector * (1 + 1e-7 * random.standard_normal((40, 1)).astype(np.float32))
    words, targets = Scores.of_sums(random.random((1, 40)).astype(np.float32)), np.array([[3]])
    both = fused(Scores.of_vectors(vector[None], collapsed), words)
    assert places_of(both, targets) == places_of(fused(words), targets) == places_of(words, targets)


def test_a_document_that_scores_far_higher_makes_no_ties_of_the_others() -> None:
    words = Scores.of_sums(np.array([[1e7, 3.0, 2.0, 1.0]], np.float32))
    assert places_of(words, np.array([[2]])).tolist() == [[3]]
    relevance = {(0, 2): 1.0}
    found = ndcg_of_scores(words.values, relevance, errors=words.errors, among="all")
    assert found == pytest.approx([1 / math.log2(4)])
    codes = np.array([[1e7, 0], [0, 3], [0, 2], [0, 1]], np.float32)
    both = fused(Scores.of_vectors(np.ones((1, 2), np.float32), codes), words)
    assert places_of(both, np.array([[2]])).tolist() == [[3]]


def test_ties_of_scores_count_half_and_a_query_without_known_words_gains_nothing() -> None:
    scores = Scores.of_sums(np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    assert places_of(scores, np.array([[1], [2]])).tolist() == [[1.5], [2.5]]
    assert metrics(places_of(scores, np.array([[1], [2]])))["recall@1"] == 0
    # Two right ones: alone on the first two places, whatever their order; two of four alike at 5/3 and 10/3.
    assert places_of(scores, np.array([[2, 1], [0, 3]])).tolist() == [[1, 2], [5 / 3, 10 / 3]]


def test_judged_ndcg_of_scores_by_hand() -> None:
    scores = np.array([[0.8, 0.6, 0.4, 0.9]])
    relevance = {(0, 0): 1.0, (0, 1): 3.0, (0, 2): 0.0}
    ideal = 7 + 1 / math.log2(3)
    errors = np.full((1, 4), 1e-6)
    found = [ndcg_of_scores(scores, relevance, errors=errors, among=way) for way in ("judged", "all")]
    assert found[0] == pytest.approx([(1 + 7 / math.log2(3)) / ideal])
    assert found[1] == pytest.approx([(1 / math.log2(3) + 7 / 2) / ideal])
    tied = ndcg_of_scores(scores, relevance, errors=np.array([[0.15, 0.06, 0.0, 0.0]]))  # 0.21 is more than 0.2
    assert tied == pytest.approx([(1 + 7) * (1 + 1 / math.log2(3)) / 2 / ideal])


@pytest.fixture
def judgements(tiny_corpus: Path, tmp_path: Path) -> Path:
    """Judgements of the first tests of the tiny corpus: its own code 3, the next one 1; nobody's query is useless."""
    import pyarrow.parquet as pq

    rows = pq.read_table(tiny_corpus / "python" / "test.parquet").to_pylist()[:10]
    codes = [{"url": row["id"], "code": row["code"], "language": "python"} for row in rows]
    said = []
    for number, row in enumerate(rows):
        near = rows[(number + 1) % 10]
        said += [
            {"query": row["query"], "url": row["id"], "relevance": 3},
            {"query": row["query"], "url": near["id"], "relevance": 1},
        ]
    said.append({"query": "nothing answers this", "url": rows[0]["id"], "relevance": 0})
    for name, records in (("codes", codes), ("judgements", said)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return tmp_path


def test_judgements_are_measured_in_both_ways(one: Trained, judgements: Path) -> None:
    made = evaluate_judgements(one[1], judgements)
    lines = {line.system: line for line in made.lines}
    assert list(lines) == ["model", "bm25", "hybrid"]
    assert {(line.queries, line.codes) for line in lines.values()} == {(10, 10)}
    assert "1 of 11 queries" in made.notes[0]
    # The tiny corpus' codes share no word with their queries: BM25 knows nothing, a random order of two judged codes.
    within = (7 + 1) * (1 + 1 / math.log2(3)) / 2 / (7 + 1 / math.log2(3))
    assert lines["bm25"].metrics["ndcg@judged"].mean == pytest.approx(within, abs=0.15)
    assert lines["model"].metrics["ndcg@all"].mean > lines["bm25"].metrics["ndcg@all"].mean


def test_codes_of_judgements_that_name_no_language_are_given_one(one: Trained, judgements: Path) -> None:
    named = call("evaluate", one[1], "--qrels", judgements, "--format", "tsv").stdout
    for file in (judgements / "codes.jsonl", judgements / "judgements.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**each, "language": ""}) + "\n" for each in records))
    error = str(call("evaluate", one[1], "--qrels", judgements).exception)
    assert "give --language" in error
    assert call("evaluate", one[1], "--qrels", judgements, "--language", "python", "--format", "tsv").stdout == named


def test_bad_lines_of_judgements_are_counted_and_named(one: Trained, judgements: Path) -> None:
    lines = (judgements / "judgements.jsonl").read_text().splitlines()
    nobody = json.dumps({"query": "who", "url": "unknown", "relevance": 1})
    (judgements / "judgements.jsonl").write_text("\n".join([lines[0], "{", nobody, *lines[1:], *[nobody] * 4]) + "\n")
    command = ("evaluate", one[1], "--qrels", judgements, "--format", "json")
    refused = call(*command)
    assert refused.exit_code != 0
    says = (
        "at most 1.0% bad lines .* got 6 of 27 .*judgements.jsonl:2 bad_json; .*jsonl:3 unknown_code.*--max-bad-share"
    )
    assert re.search(says, str(refused.exception) + refused.output)
    made = call(*command, "--max-bad-share", 0.5)
    assert made.exit_code == 0, made.output
    note = (
        "6 of 37 lines are bad and were left out: bad_json 1 (judgements.jsonl:2); unknown_code 5 (judgements.jsonl:3, "
    )
    assert f"note: {note}judgements.jsonl:24, judgements.jsonl:25, …)" in made.stderr
    (evaluation,) = json.loads(made.stdout)
    kept = {
        line.system: line.metrics["ndcg@all"].mean
        for line in evaluate_judgements(one[1], judgements, max_bad_share=1).lines
    }
    assert {line["system"]: line["metrics"]["ndcg@all"]["mean"] for line in evaluation["lines"]} == pytest.approx(kept)


@pytest.mark.skipif(not GRADED.is_dir(), reason="the human judgements are not there")
def test_words_rank_what_people_judged_above_chance(one: Trained) -> None:
    lines = {line.system: line for line in evaluate_judgements(one[1], GRADED).lines}
    assert lines["bm25"].metrics["ndcg@judged"].low > 0.75


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "softnce_ray", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(*arguments: object) -> Any:
    """The command in this process: no imports to wait for."""
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.slow
def test_a_user_evaluates_a_model_indexes_a_folder_and_searches_it(
    one: Trained, tiny_corpus: Path, judgements: Path, tmp_path: Path
) -> None:
    _, model = one
    rows = run("evaluate", model, "--corpus", tiny_corpus, "--qrels", judgements).splitlines()
    assert rows[0].split("\t")[-4:] == ["metric", "value", "low", "high"]
    assert len(rows) == 1 + 3 * 5 + 3 * 2
    assert {len(row.split("\t")) for row in rows} == {10}
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("def locate_street(buyers):\n    return buyers.street\n")
    said = run("index", tmp_path / "src", "--model", model, "--out", tmp_path / "index")
    assert "1 functions (python 1) of 1 files" in said
    found = run("search", tmp_path / "index", "find the address", "--top", 1, "--hybrid", "--code")
    assert found.splitlines()[0] == "# find the address"
    assert "\ta.py:1\tlocate_street\t" in found and "    def locate_street" in found
    told = call("search", tmp_path / "index", "find the quagga", "find\nbuyers")
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    assert [line[0] for line in lines if len(line) == 1] == ["# find the quagga", "# find buyers"]
    assert [(float(line[0]) <= 1, *line[1:]) for line in lines if len(line) > 1] == [
        (True, "a.py:1", "locate_street", "", "cosine")
    ] * 2
    assert told.stderr.splitlines() == [
        "note: 'find the quagga': no function has any of its words",
        "note: 'find buyers': no function has find",
    ]
    fused = call("search", tmp_path / "index", "buyers", "--hybrid").stdout.splitlines()[1]
    assert fused.endswith("\tfused")


def test_an_evaluation_is_the_same_as_a_table_as_rows_and_as_json(one: Trained, tiny_corpus: Path) -> None:
    asked = ("evaluate", one[1], "--corpus", tiny_corpus, "--format")
    (made,) = json.loads(call(*asked, "json").stdout)
    mrr = made["lines"][0]["metrics"]["mrr"]["mean"]
    assert call(*asked, "tsv").stdout.splitlines()[1].split("\t")[6:8] == ["mrr", f"{mrr:.6f}"]
    table = call(*asked, "terminal").stdout
    assert f"{mrr:.4f} [" in table and "hybrid" in table and "recall@10" in table


def test_what_cannot_be_asked_is_said(one: Trained, tiny_corpus: Path, tmp_path: Path) -> None:
    for name, files in (("onnx", ("model.onnx", "softnce_ray.json")), ("hf", ("softnce_ray.json",))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    for arguments, says in (
        (("search", one[1], "query"), "is a model"),
        (("evaluate", tmp_path / "onnx", "--corpus", tiny_corpus), f"format onnx: give {tmp_path}/hf (hf and"),
        (("search", one[1], "query", "--corpus", tiny_corpus, "--hybrid"), "--hybrid: is for an index"),
        (("search", tmp_path / "none", "query"), "softnce-ray index"),
        (("evaluate", one[1]), "--corpus"),
        (
            ("evaluate", one[1], "--qrels", tmp_path, "--language", "ruby", "--language", "go"),
            "--language: expected one",
        ),
    ):
        error = call(*arguments).exception
        assert isinstance(error, UserError) and says in str(error)


def test_queries_without_a_word_of_their_code_are_counted(
    one: Trained, tiny_pairs: list[Pair], tiny_corpus: Path, tmp_path: Path
) -> None:
    foreign = [
        dataclasses.replace(pair, query=f"quagga okapi gnu {number}") if number % 3 else pair
        for number, pair in enumerate(tiny_pairs)
    ]
    build_corpus(foreign, tmp_path / "c", valid=30, test=30)
    asked = Corpus.open(tmp_path / "c").table("python", "test", ["query"]).column("query").to_pylist()
    wordless = sum(query.startswith("quagga") for query in asked)
    assert 3 < wordless < 27
    (note,) = evaluate_corpus(one[1], tmp_path / "c").notes
    assert note.startswith(f"python: {wordless} of 30 queries have no word of their code")
    assert evaluate_corpus(one[1], tiny_corpus).notes == ()
