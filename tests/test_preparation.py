"""What trials share is made once, and told apart by all that decides it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softnce_ray.bm25_formulas import Formula
from softnce_ray.config import ArmConfig, StudyConfig, TrialConfig
from softnce_ray.corpus import Corpus, CorpusError
from softnce_ray.errors import UserError
from softnce_ray.estimators import BM25, EstimatorError, words
from softnce_ray.export import write_export
from softnce_ray.model import Model, load_export
from softnce_ray.named import model_content, sentence_model_problem
from softnce_ray.preparation import open_data, prepare
from softnce_ray.study.doctor import check_texts
from softnce_ray.study.doctor.texts import unknown_tokens
from softnce_ray.training import train

SETTINGS = {
    "encoder": {"kind": "bag", "width": 8},
    "tokens": {"vocabulary": 400, "query_length": 8, "code_length": 16},
    "training": {"batch_size": 16},
}
PLAIN = ArmConfig.model_validate(SETTINGS)


def soft(**estimator: object) -> ArmConfig:
    """An arm with BM25 of these settings."""
    return ArmConfig.model_validate(
        {**SETTINGS, "loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25", **estimator}}
    )


SOFT = soft()


def test_data_are_the_corpus(tiny_corpus, tmp_path):
    data = open_data(prepare(SOFT, tiny_corpus, "python", tmp_path), SOFT, "python")
    corpus = Corpus.open(tiny_corpus)
    texts = data.evaluated["python"]
    for split, pairs in (("train", data.train), ("valid", texts.valid), ("test", texts.test)):
        assert len(pairs.queries) == len(pairs.codes) == len(corpus.table("python", split)) > 0
    assert len(texts.distractors) == len(corpus.table("python", "codebase")) == 20
    assert [len(part) for part in texts.codebase] == [30, 30, 20]
    first = corpus.table("python", "test").column("code")[0].as_py()
    data.tokenizer.enable_truncation(16)
    assert texts.test.codes.ids[: texts.test.codes.offsets[1]].tolist() == data.tokenizer.encode(first).ids


def test_the_estimator_is_of_the_training_queries_in_their_order(tiny_corpus, tmp_path):
    data = open_data(prepare(SOFT, tiny_corpus, "python", tmp_path), SOFT, "python")
    queries = Corpus.open(tiny_corpus).table("python", "train").column("query").to_pylist()
    texts = [words(query) for query in queries]
    expected = BM25.fit(texts, texts, Formula(k1=1.5, b=0.75))
    rows = np.array([5, 0, 99, 17])
    assert data.estimator is not None
    np.testing.assert_array_equal(data.estimator.similarity(rows), expected.similarity(rows))


def test_many_unknown_tokens_are_told(tiny_corpus, tmp_path):
    assert prepare(SOFT, tiny_corpus, "python", tmp_path).notes == ()
    words_of = {"<unk>": 0, "<pad>": 1, "return": 2}
    folder = tmp_path / "few_words"
    tokenizer = Tokenizer(models.WordLevel(words_of, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    named = ArmConfig.model_validate({**SETTINGS, "encoder": {"kind": "transformer", "model": str(folder)}})
    of_queries, of_codes = prepare(named, tiny_corpus, "python", tmp_path).notes
    assert of_queries.startswith("python: 100.0% of the tokens of training queries are unknown to the tokenizer")
    assert of_codes.startswith("python: ")
    corpus = Corpus.open(tiny_corpus)
    study = StudyConfig.model_validate(
        {
            "study": "s",
            "corpus": str(tiny_corpus),
            "languages": ["all"],
            "seeds": [1],
            "arms": {
                "infonce": {"encoder": named.model_dump()["encoder"], "tokens": SETTINGS["tokens"]},
                "plain": {"encoder": {"kind": "bag"}},
            },
        }
    )
    found = [*unknown_tokens(study.with_all(corpus.languages), corpus)]  # before anything is prepared
    assert [(each.level, each.text[:66]) for each in found] == [
        ("warning", "arm infonce: python: 100.0% of the tokens of training queries are "),
        ("warning", f"arm infonce: {of_codes}"[:66]),
    ]
    assert check_texts(study, Corpus.open(study.corpus)) == [f"tokens: {each.text}: {each.remedy}" for each in found]


def test_an_arm_without_estimator_has_none(tiny_corpus, tmp_path):
    prepared = prepare(PLAIN, tiny_corpus, "python", tmp_path)
    assert prepared.estimators == {}
    assert open_data(prepared, PLAIN, "python").estimator is None


def test_arms_share_what_is_equal(tiny_corpus, tmp_path):
    plain, weighted = (prepare(config, tiny_corpus, "python", tmp_path) for config in (PLAIN, SOFT))
    assert plain.tokens == weighted.tokens
    transformer = ArmConfig.model_validate({**SETTINGS, "encoder": {"kind": "transformer", "width": 16}})
    assert prepare(transformer, tiny_corpus, "python", tmp_path).tokens != plain.tokens
    assert len(made(tmp_path / "tokens")) == 2
    assert len(made(tmp_path / "estimators")) == 1


def test_what_is_there_is_not_made_again(tiny_corpus, tmp_path, monkeypatch):
    first = prepare(SOFT, tiny_corpus, "python", tmp_path)

    def fail(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("softnce_ray.preparation.making._make_estimator", fail)
    monkeypatch.setattr("softnce_ray.corpus.tokens._write_tokens", fail)
    assert prepare(SOFT, tiny_corpus, "python", tmp_path) == first


@pytest.mark.parametrize("change", [{"k1": 1.2}, {"b": 0.5}, {"epsilon": 0.5}, {"statistics": "batch"}])
def test_settings_of_an_estimator_have_folders_of_their_own(tiny_corpus, tmp_path, change):
    folders = [prepare(arm, tiny_corpus, "python", tmp_path).estimators["bm25"] for arm in (soft(), soft(**change))]
    assert folders[0] != folders[1]


def test_the_temperature_of_an_estimator_is_the_trials_own(tiny_corpus, tmp_path):
    arms = [soft(temperature=temperature) for temperature in (0.5, 1, 2)]
    assert len({prepare(arm, tiny_corpus, "python", tmp_path).estimators["bm25"] for arm in arms}) == 1


def test_a_trained_estimator_is_shared_by_arms_that_differ_in_loss_only(tiny_corpus, tmp_path):
    arms = [
        ArmConfig.model_validate({**SETTINGS, "loss": {"name": loss}, "estimator": {"name": "trained"}, **more})
        for loss, more in (("weighted_infonce", {}), ("bce", {}), ("bce", {"temperature": 0.2}))
    ]
    folders = [prepare(arm, tiny_corpus, "python", tmp_path).estimators["trained"] for arm in arms]
    assert folders[0] == folders[1]
    assert folders[0] != folders[2]  # another score temperature trains another model


def test_an_estimator_that_fails_leaves_nothing(tiny_corpus, tmp_path, monkeypatch):
    def fail(*arguments):
        (arguments[-1] / "half").write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("softnce_ray.preparation.making._make_estimator", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(SOFT, tiny_corpus, "python", tmp_path)
    assert made(tmp_path / "estimators") == []


def made(folder):
    """Names of what was made in a folder; locks are hidden."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_missing_corpus_and_an_unknown_language_are_errors(tiny_corpus, tmp_path):
    with pytest.raises(CorpusError, match="expected a corpus folder"):
        prepare(PLAIN, tmp_path / "nowhere", "python", tmp_path)
    with pytest.raises(CorpusError, match="expected a language of python"):
        prepare(SOFT, tiny_corpus, "cobol", tmp_path)


# --- named models of estimators --------------------------------------------------------------------------

ENCODERS = {
    "bag": {"kind": "bag", "width": 12},
    "transformer": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "mean"},
}


def weighted(**estimator: object) -> ArmConfig:
    return ArmConfig.model_validate({**SETTINGS, "loss": {"name": "soft_infonce"}, "estimator": estimator})


@pytest.fixture(scope="module")
def exports(tiny_corpus, tmp_path_factory) -> dict[str, Path]:
    """Exported models of other settings than the arm's: encoders, vocabulary, lengths, identifiers."""
    root = tmp_path_factory.mktemp("exports")
    for name, encoder in ENCODERS.items():
        config = TrialConfig.model_validate(
            {
                "language": "python",
                "seed": 3,
                "encoder": encoder,
                "tokens": {"vocabulary": 350, "query_length": 5, "code_length": 30, "split_identifiers": name == "bag"},
                "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.001},
            }
        )
        data = open_data(prepare(config, tiny_corpus, "python", root / "prepared"), config, "python")
        write_export(train(config, data).model, root / name, "card")
    return {name: root / name for name in ENCODERS}


@pytest.fixture(scope="module")
def sentences(exports, tmp_path_factory) -> Path:
    """A model that sentence-transformers wrote: raw products, and prompts of its own for queries."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    (words_of,) = [each for each in SentenceTransformer(str(exports["bag"])) if isinstance(each, StaticEmbedding)]
    made = SentenceTransformer(
        modules=[words_of],
        device="cpu",
        prompts={"query": "customer price: ", "document": ""},
        similarity_fn_name="dot",
    )
    folder = tmp_path_factory.mktemp("sentences") / "theirs"
    made.save_pretrained(str(folder), create_model_card=False)
    return folder


def texts_of(corpus_folder: Path, side: str) -> list[str]:
    return Corpus.open(corpus_folder).table("python", "train").column(side).to_pylist()


def similarity_of(arm: ArmConfig, corpus: Path, root: Path, rows: np.ndarray) -> np.ndarray:
    estimator = open_data(prepare(arm, corpus, "python", root), arm, "python").estimator
    assert estimator is not None
    return estimator.similarity(rows)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_export_weighs_negatives_by_its_own_scores_of_queries_and_codes(kind, exports, tiny_corpus, tmp_path):
    rows = np.array([5, 0, 99, 17])
    found = similarity_of(weighted(name="trained", model=str(exports[kind])), tiny_corpus, tmp_path, rows)
    model = load_export(exports[kind])
    queries, codes = ([texts_of(tiny_corpus, side)[row] for row in rows] for side in ("query", "code"))
    expected = model.encode_queries(queries) @ model.encode_codes(codes).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    uncut = model.encode_codes(queries) @ model.encode_codes(codes).T
    assert np.abs(found - uncut).max() > 1e-3  # a query is cut at the length of queries


def test_a_model_of_sentence_transformers_weighs_negatives_by_its_own_similarity_and_prompts(
    sentences, tiny_corpus, tmp_path
):
    from sentence_transformers import SentenceTransformer

    rows = np.array([5, 0, 99, 17])
    found = similarity_of(weighted(name="trained", model=str(sentences)), tiny_corpus, tmp_path, rows)
    model = SentenceTransformer(str(sentences), device="cpu")
    queries, codes = ([texts_of(tiny_corpus, side)[row] for row in rows] for side in ("query", "code"))
    expected = model.encode([f"customer price: {query}" for query in queries]) @ model.encode(codes).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(np.linalg.norm(model.encode(codes), axis=1) - 1).max() > 1e-2  # or `dot` shows nothing


def test_a_model_of_sentence_transformers_that_says_nothing_is_compared_by_cosine(sentences, tiny_corpus, tmp_path):
    shutil.copytree(sentences, tmp_path / "silent")
    file = tmp_path / "silent" / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "similarity_fn_name": None}))
    rows = np.arange(100)
    found = similarity_of(weighted(name="trained", model=str(tmp_path / "silent")), tiny_corpus, tmp_path, rows)
    raw = similarity_of(weighted(name="trained", model=str(sentences)), tiny_corpus, tmp_path, rows)
    assert np.abs(found).max() <= 1 + 1e-6
    assert np.abs(raw).max() > 0
    assert np.abs(found - raw).max() > 1e-2


@pytest.mark.parametrize("name", ["trained", "simcse"])
def test_a_moved_folder_is_the_same_estimator_and_a_changed_one_another(name, exports, tiny_corpus, tmp_path):
    def prepared(model: Path) -> str:
        return prepare(weighted(name=name, model=str(model)), tiny_corpus, "python", tmp_path / "made").estimators[name]

    here, there = tmp_path / "here", tmp_path / "far" / "there"
    shutil.copytree(exports["bag"], here)
    first = prepared(here)
    there.parent.mkdir()
    here.rename(there)
    (there / ".hidden").write_text("of another program")
    assert prepared(there) == first
    (there / "README.md").write_text("changed")
    assert prepared(there) != first


def test_a_named_model_is_the_same_estimator_for_every_arm(exports, tiny_corpus, tmp_path):
    arm = weighted(name="trained", model=str(exports["bag"]))
    others = [arm.model_copy(update={"temperature": 0.2}), arm.model_copy(update={"similarity": "dot"})]
    folders = {prepare(each, tiny_corpus, "python", tmp_path).estimators["trained"] for each in (arm, *others)}
    assert len(folders) == 1
    automatic = prepare(weighted(name="trained"), tiny_corpus, "python", tmp_path).estimators["trained"]
    assert automatic not in folders


def test_the_content_of_a_model_is_names_and_bytes(tmp_path):
    def content(**files: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return model_content(str(folder))

    whole = {"a": "1", "deep/b": "2"}
    assert content(**whole) == content(**dict(reversed(whole.items())))
    others = [{"a": "2", "deep/b": "1"}, {"a": "1", "b": "2"}, {"a": "1"}, {**whole, "c": ""}]
    assert len({content(**each) for each in (whole, *others)}) == 5
    assert content(**whole, **{".git/c": "", ".c": ""}) == content(**whole)
    assert model_content("some/model") == "some/model"


@pytest.mark.parametrize("name", ["trained", "simcse"])
@pytest.mark.parametrize(
    ("where", "got"),
    [("nowhere", "nothing there"), ("a-file", "a file"), ("empty", r"a folder that has no modules\.json")],
)
def test_a_path_that_holds_no_model_is_refused_before_anything_is_made(name, where, got, tiny_corpus, tmp_path):
    (tmp_path / "a-file").write_text("")
    (tmp_path / "empty").mkdir()
    arm = weighted(name=name, model=str(tmp_path / where))
    with pytest.raises(UserError, match=rf"^estimator\.model: expected .*{where}', {got}; give .*$"):
        prepare(arm, tiny_corpus, "python", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_may_be_a_hubs_name_is_no_problem_yet_and_what_can_only_be_a_path_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where tests are run there may be an export of that name
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "exports/best"):
        assert sentence_model_problem(name) is None
    for name in ("./best", "../best", "/no/such", "~/best", "a/b/c", "best/", "with space"):
        assert "nothing there" in str(sentence_model_problem(name))


@pytest.mark.parametrize("name", ["trained", "simcse"])
def test_a_hubs_name_that_cannot_be_had_is_an_error_of_one_line(name, tiny_corpus, tmp_path):
    arm = weighted(name=name, model="nobody/no-such-model")
    with pytest.raises(UserError, match=r"^estimator\.model: expected .*'nobody/no-such-model'.*; give .*$"):
        prepare(arm, tiny_corpus, "python", tmp_path)
    assert made(tmp_path / "estimators") == []


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "softnce_ray.json"])
def test_a_damaged_export_is_an_error_of_one_line_before_a_part_of_a_mix_is_trained(
    file, exports, tiny_corpus, tmp_path, monkeypatch
):
    def fail(*_: Any) -> Model:
        raise AssertionError("trained first")

    monkeypatch.setattr("softnce_ray.preparation.vectors.train_sentence_encoder", fail)
    shutil.copytree(exports["bag"], tmp_path / "best")
    (tmp_path / "best" / "export.json").unlink()  # else its SHA-256 tells
    (tmp_path / "best" / file).write_bytes((tmp_path / "best" / file).read_bytes()[:50])
    parts = {"trained": {"name": "trained", "model": str(tmp_path / "best")}}
    arm = weighted(name="mix", mix={"simcse": 0.5, "trained": 0.5}, parts=parts)
    with pytest.raises(UserError, match=r"^estimator\.parts\.trained\.model: expected .*damaged.*; export it again$"):
        prepare(arm, tiny_corpus, "python", tmp_path / "made")


@pytest.mark.parametrize("name", ["trained", "simcse"])
def test_a_model_without_numbers_for_some_texts_is_refused_and_the_first_is_named(
    name, sentences, tiny_corpus, tmp_path
):
    shutil.copytree(sentences, tmp_path / "theirs")
    (weights,), (tokens,) = ((tmp_path / "theirs").rglob(file) for file in ("model.safetensors", "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(tokens))
    texts = [set(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts_of(tiny_corpus, "query")]
    token = tokenizer.encode("river", add_special_tokens=False).ids[-1]
    bad = [row for row, ids in enumerate(texts) if token in ids]
    assert 0 < len(bad) < len(texts) / 2
    tensors = load_file(weights)
    (table,) = tensors
    tensors[table][token] = float("nan")
    save_file(tensors, weights)
    pair = Corpus.open(tiny_corpus).table("python", "train").slice(bad[0], 1).to_pylist()[0]
    with pytest.raises(UserError) as caught:
        prepare(weighted(name=name, model=str(tmp_path / "theirs")), tiny_corpus, "python", tmp_path / "made")
    assert str(caught.value).startswith(
        f"estimator.model: expected finite vectors of the training queries, got NaN or infinity for {len(bad)} of "
        f"{len(texts)}, first for training pair {bad[0]} (python, {pair['path']}:{pair['line']}): give another model"
    )
    assert made(tmp_path / "made" / "estimators") == []


def test_vectors_that_lost_their_numbers_are_blamed_by_the_step_and_by_mining(exports, tiny_corpus, tmp_path):
    """As those are that were prepared before anything looked."""
    model = {"name": "trained", "model": str(exports["bag"])}
    arm = weighted(name="mix", mix={"bm25": 0.5, "trained": 0.5}, parts={"trained": model})
    prepared = prepare(arm, tiny_corpus, "python", tmp_path)
    folder = prepared.folder(prepared.estimators["trained"])
    vectors = np.load(folder / "answering.npy")
    vectors[17] = np.nan
    np.save(folder / "answering.npy", vectors)
    (folder / "sha256.json").unlink()
    trial = TrialConfig.model_validate({**arm.model_dump(), "language": "python", "seed": 1})
    told = rf"got nan for training pairs 17 \(counted from 0\): .* or remove {folder}, which"
    with pytest.raises(EstimatorError, match=rf"^estimator\.parts\.trained: .*{told}"):
        train(trial, open_data(prepared, trial, "python"))
    mining = ArmConfig.model_validate({**SETTINGS, "hard_negatives": {**model, "depth": 3}})
    with pytest.raises(EstimatorError, match=rf"^hard_negatives trained: .*{told}"):
        prepare(mining, tiny_corpus, "python", tmp_path)


@pytest.mark.parametrize(
    ("estimator", "training", "told"),
    [
        ({"name": "simcse", "batch_size": 1000}, {}, "expected at least batch_size 1000 training queries, got 216"),
        ({"name": "trained"}, {"learning_rate": 10, "epochs": 100, "warmup": 0}, "the loss of epoch . is nan: lower"),
    ],
)
def test_what_fails_in_the_training_of_an_estimator_names_the_estimator(
    estimator, training, told, tiny_corpus, tmp_path
):
    arm = ArmConfig.model_validate(
        {
            **SETTINGS,
            "encoder": {"kind": "bag", "width": 32},
            "loss": {"name": "soft_infonce"},
            "estimator": estimator,
            "training": {"batch_size": 32, **training},
        }
    )
    with pytest.raises(UserError, match=f"^estimator {estimator['name']}, whose encoder is trained first: {told}"):
        prepare(arm, tiny_corpus, "python", tmp_path)


def test_a_damaged_model_of_sentence_transformers_is_an_error_of_one_line(sentences, tiny_corpus, tmp_path):
    shutil.copytree(sentences, tmp_path / "theirs")
    (weights,) = (tmp_path / "theirs").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:50])
    for name in ("trained", "simcse"):
        with pytest.raises(UserError, match=r"^estimator\.model: expected .*cannot be loaded.*; give .*$"):
            prepare(weighted(name=name, model=str(tmp_path / "theirs")), tiny_corpus, "python", tmp_path / "made")
