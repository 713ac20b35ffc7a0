"""Whose identities change where texts of other scripts are read anew: theirs, and no other's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from softnce_ray.config import ArmConfig, StudyConfig, TrainingSet, identity
from softnce_ray.corpus import Corpus, build_corpus
from softnce_ray.corpus.pairs import Pair
from softnce_ray.preparation import content_of, prepare
from softnce_ray.study.definitions import definition
from softnce_ray.study.planner import Planner
from softnce_ray.study.record import definitions

PLAIN: dict[str, Any] = {"encoder": {"kind": "bag", "width": 8}, "tokens": {"vocabulary": 400}}
NAMED: dict[str, Any] = {"encoder": {"kind": "transformer", "model": "some/model"}}
BM25: dict[str, Any] = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}
OF_CODE: dict[str, Any] = {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25_code"}}
MIX: dict[str, Any] = {**BM25, "estimator": {"name": "mix", "mix": {"bm25": 0.5, "uniform": 0.5}}}
HARD: dict[str, Any] = {"hard_negatives": {"name": "bm25_code"}}


@pytest.fixture(scope="module")
def corpus(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Python as it is, go with a few Chinese queries, ruby with a Chinese comment in each code."""
    go = [dataclasses.replace(pair, language="go", query=f"{pair.query} 读取") for pair in tiny_pairs]
    ruby = [dataclasses.replace(pair, language="ruby", code=f"{pair.code}\n# 写入文件") for pair in tiny_pairs]
    folder = tmp_path_factory.mktemp("scripts") / "corpus"
    build_corpus([*tiny_pairs, *go, *ruby], folder, valid=20, test=20, near_duplicate=None)
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def many(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of more characters than a tokenizer's alphabet has, all of a script with spaces."""
    letters = [chr(0xAC00 + number) for number in range(2000)]
    pairs = [
        dataclasses.replace(pair, query=" ".join("".join(letters[start : start + 4]) for start in range(n, n + 24, 4)))
        for n, pair in zip(range(0, 1900, 6), tiny_pairs, strict=False)
    ]
    folder = tmp_path_factory.mktemp("scripts") / "many"
    build_corpus(pairs, folder, valid=20, test=20, near_duplicate=None)
    return Corpus.open(folder)


@pytest.mark.parametrize(
    ("arm", "anew"),
    [
        ({}, ""),
        (BM25, "go"),
        (MIX, "go"),
        (OF_CODE, "go ruby"),
        (HARD, "go ruby"),
    ],
)
def test_only_what_counts_texts_without_spaces_is_another_trial(arm: dict[str, Any], anew: str, corpus: Corpus) -> None:
    config = ArmConfig.model_validate({**PLAIN, **arm})
    for language in ("python", "go", "ruby"):
        content = content_of(corpus, config, TrainingSet.of(language))
        assert content == corpus.fingerprint + ("+bigrams" if language in anew.split() else "")
    tested = TrainingSet(name="x", train=("python",), test=("go",))
    assert content_of(corpus, config, tested) == corpus.fingerprint


def test_only_what_trains_a_tokenizer_on_too_many_characters_is_another_trial(many: Corpus) -> None:
    korean = TrainingSet.of("python")
    for arm, expected in (({}, "+bytes"), (BM25, "+bytes"), (NAMED, "")):
        assert content_of(many, ArmConfig.model_validate({**PLAIN, **arm}), korean) == many.fingerprint + expected


def test_prepared_bm25_of_such_texts_has_a_folder_of_its_own(corpus: Corpus, tmp_path: Path, monkeypatch: Any) -> None:
    config = ArmConfig.model_validate({**PLAIN, **BM25, "training": {"batch_size": 16}})
    anew, as_before = (prepare(config, corpus.folder, each, tmp_path).estimators["bm25"] for each in ("go", "python"))
    monkeypatch.setattr("softnce_ray.preparation.making.counted_content", lambda opened, *_: opened.fingerprint)
    assert prepare(config, corpus.folder, "go", tmp_path).estimators["bm25"] != anew
    assert prepare(config, corpus.folder, "python", tmp_path).estimators["bm25"] == as_before


def test_trials_and_definitions_say_what_they_learn_from(corpus: Corpus) -> None:
    settings = {"study": "s", "corpus": "c", "languages": ["python", "go"], "seeds": [1], "baseline": "soft"}
    study = StudyConfig.model_validate({**settings, "arms": {"soft": {**PLAIN, **BM25}}})
    planner = Planner(study, lambda config: content_of(corpus, config, config.training_set), {}, {})
    for content in (corpus.fingerprint, f"{corpus.fingerprint}+bigrams"):
        trial = planner.next()
        assert trial is not None
        assert trial.key.identity == identity(trial.config, content)
    assert definitions(study, corpus) == {
        "soft": definition(study, "soft", corpus.fingerprint, "python"),
        "soft/go": definition(study, "soft", f"{corpus.fingerprint}+bigrams", "go"),
    }
