"""Models that say of themselves how texts become their vectors, against sentence-transformers on the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_kinds import write_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding
from sentence_transformers.sentence_transformer.modules import Transformer as Network

from softnce_ray.config import ArmConfig, StudyConfig, TrialConfig, identity, resolved
from softnce_ray.corpus import Corpus, Pair
from softnce_ray.described import described
from softnce_ray.encoders import build_encoder
from softnce_ray.export import hf
from softnce_ray.export.exporting import write_export
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.model import Model, encode, load_export, settings_json
from softnce_ray.preparation import open_data, prepare
from softnce_ray.study.cluster import LaunchError
from softnce_ray.study.doctor import settle
from softnce_ray.study.doctor.finding import Finding
from softnce_ray.study.doctor.settling import settled

ASKED, ANSWERS = "Represent this query for searching code: ", "code: "


@pytest.fixture(scope="module")
def network(tiny_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small network that says nothing of itself."""
    return write_model(tmp_path_factory.mktemp("network") / "plain", "codebert", (pair.code for pair in tiny_pairs))


@pytest.fixture
def saved(network: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that saves a model of sentence-transformers with these modules after its network."""

    def save(*after: Any, length: int = 40, **options: Any) -> Path:
        first = Network(str(network), max_seq_length=length)
        for name in ("query_length", "document_length"):
            setattr(first, name, options.pop(name, None))
        model = SentenceTransformer(modules=[first, *after], device="cpu", **options)
        model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
        return tmp_path / "model"

    return save


def study(model: Path | str, **arm: Any) -> StudyConfig:
    """A study that evaluates a model as it is."""
    encoder = {"kind": "transformer", "model": str(model), **arm.pop("encoder", {})}
    training = {"epochs": 0, "batch_size": 8}
    arms = {"zero": {"encoder": encoder, "training": training, **arm}}
    plain = {"study": "own", "corpus": "none", "languages": ["python"], "seeds": [1], "baseline": "zero"}
    return StudyConfig.model_validate({**plain, "arms": arms})


def settings_of(model: Path | str, **arm: Any) -> tuple[ArmConfig, list[Finding]]:
    whole, found = settled(study(model, **arm))
    return whole.arms["zero"], found


def changed(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


POOLED: dict[str, tuple[Callable[[], list[Any]], dict[str, Any], str]] = {
    "mean of unit length": (lambda: [Pooling(24, "mean"), Normalize()], {}, "cosine"),
    "first with a prompt": (lambda: [Pooling(24, "cls")], {"prompts": {"query": ASKED}}, "cosine"),
    "dot with two prompts": (
        lambda: [Pooling(24, "cls")],
        {"prompts": {"query": ASKED, "document": ANSWERS}, "similarity_fn_name": "dot"},
        "dot",
    ),
    "dot of unit length": (lambda: [Pooling(24, "cls"), Normalize()], {"similarity_fn_name": "dot"}, "cosine"),
    # encode_query and encode_document know neither a passage nor the default.
    "prompts that neither side gets": (
        lambda: [Pooling(24, "mean")],
        {"prompts": {"passage": ANSWERS, "query": ASKED}, "default_prompt_name": "passage"},
        "cosine",
    ),
    "lengths of each side": (lambda: [Pooling(24, "mean")], {"query_length": 5, "document_length": 9}, "cosine"),
    "a prompt that is out of the mean, of no text": (
        lambda: [Pooling(24, "mean", include_prompt=False)],
        {"prompts": {"query": ""}},
        "cosine",
    ),
}


@pytest.mark.parametrize("case", POOLED)
def test_a_trial_of_no_epochs_has_the_vectors_of_sentence_transformers_and_so_has_its_export(
    case: str, saved: Callable[..., Path], tiny_corpus: Path, tiny_pairs: list[Pair], tmp_path: Path
) -> None:
    after, options, similarity = POOLED[case]
    folder = saved(*after(), **dict(options))
    arm, found = settings_of(folder)
    assert [each.text for each in found if "passage" not in each.text] == []
    assert arm.similarity == similarity
    trial = TrialConfig.model_validate(
        {**arm.model_dump(include=set(ArmConfig.model_fields)), "language": "python", "seed": 0}
    )
    data = open_data(prepare(trial, tiny_corpus, "python", tmp_path / "prepared"), trial, "python")
    encoder = build_encoder(trial, data.tokenizer.get_vocab_size()).eval()
    model = Model(encoder, data.tokenizer, trial)
    theirs: Any = SentenceTransformer(str(folder), device="cpu")
    # 40 tokens end in the midst of the long ones.
    queries = [*(pair.query for pair in tiny_pairs[:5]), "Parse the date. " * 20, ""]
    codes = [*(pair.code for pair in tiny_pairs[:5]), "def f(x):\n    return x\n" * 20, ""]
    unit: Any = {"normalize_embeddings": similarity == "cosine"}
    asked, answers = theirs.encode_query(queries, **unit), theirs.encode_document(codes, **unit)
    np.testing.assert_allclose(model.encode_queries(queries), asked, atol=1e-6)
    np.testing.assert_allclose(model.encode_codes(codes), answers, atol=1e-6)
    # What a trial reads was tokenised before it began.
    first = Corpus.open(tiny_corpus).table("python", "train").slice(0, 3)
    for side, texts, encoded in (
        ("query", data.train.queries, theirs.encode_query),
        ("code", data.train.codes, theirs.encode_document),
    ):
        vectors = encode(encoder, texts.take(np.arange(3))).numpy()
        np.testing.assert_allclose(vectors, encoded(first.column(side).to_pylist(), **unit), atol=1e-6)
    write_export(model, tmp_path / "exported", "card")
    again = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    assert again.similarity_fn_name == similarity
    np.testing.assert_allclose(again.encode_document(codes), answers, atol=1e-6)
    np.testing.assert_allclose(again.encode(codes), answers, atol=1e-6)
    np.testing.assert_allclose(again.encode_query(queries), asked, atol=1e-6)
    np.testing.assert_allclose(load_export(tmp_path / "exported").encode_queries(queries), asked, atol=1e-6)
    # And whoever goes on from the export trains the same model.
    onwards, found = settings_of(tmp_path / "exported")
    assert found == [] and resolved(onwards)["tokens"] == resolved(trial)["tokens"]
    assert onwards.similarity == similarity and onwards.encoder.inputs.query_prompt == trial.encoder.inputs.query_prompt


POOLING, ABOUT, FIRST = "1_Pooling/config.json", "config_sentence_transformers.json", "sentence_bert_config.json"
REFUSED: dict[str, tuple[dict[str, dict[str, Any]], str, str]] = {
    "the last token": ({POOLING: {"pooling_mode": "lasttoken"}}, "pools by lasttoken", "encoder.pooling"),
    "two poolings": ({POOLING: {"pooling_mode": ["mean", "max"]}}, "pools by mean and max", "encoder.pooling"),
    "an old name of a pooling": (
        {POOLING: {"pooling_mode": None, "pooling_mode_max_tokens": True}},
        "pools by max",
        "encoder.pooling",
    ),
    "a part of each vector": ({ABOUT: {"truncate_dim": 8}}, "cuts vectors to their first 8 numbers", "encoder.pooling"),
    "a distance": ({ABOUT: {"similarity_fn_name": "manhattan"}}, "vectors by their manhattan distance", "similarity"),
    "a prompt that is not pooled": (
        {POOLING: {"include_prompt": False}, ABOUT: {"prompts": {"query": ASKED}}},
        "leaves its prompt out of what it pools",
        "encoder.query_prompt",
    ),
    "texts of any length": (
        {"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": -1}},
        "says no length up to which texts are read",
        "tokens.query_length",
    ),
    "another family": ({ABOUT: {"model_type": "SparseEncoder"}}, "a SparseEncoder of sentence-transformers", ""),
    "an option of its network": ({FIRST: {"config_kwargs": {"is_causal": False}}}, "has the option config_kwargs", ""),
    "messages": ({FIRST: {"modality_config": {"message": {"method": "forward"}}}}, "messages of a chat", ""),
    "lower case": ({FIRST: {"do_lower_case": True}}, "lower-cases texts before its tokenizer", ""),
    "the ends of long texts": ({"tokenizer_config.json": {"truncation_side": "left"}}, "cuts the beginnings", ""),
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "encoder.pooling": {"encoder": {"pooling": "mean"}},
    "similarity": {"similarity": "cosine"},
    "encoder.query_prompt": {"encoder": {"query_prompt": ""}},
    "tokens.query_length": {"tokens": {"query_length": 16, "code_length": 32}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_encoder_here_does_is_refused_unless_the_study_says_otherwise(
    case: str, saved: Callable[..., Path]
) -> None:
    files, text, key = REFUSED[case]
    folder = saved(Pooling(24, "mean"))
    for name, changes in files.items():
        changed(folder / name, **changes)
    errors = settings_of(folder)[1]
    assert {each.level for each in errors} == {"error"}
    assert text in errors[0].text and str(folder) in errors[0].text and key in errors[0].remedy
    _, found = settings_of(folder, **OTHERWISE[key or "encoder.pooling"])
    assert {each.level for each in found} == {"warning" if key else "error"}
    assert any(text in each.text for each in found)


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (lambda: [Pooling(24, "mean"), Dense(24, 8)], "makes vectors by Pooling, Dense"),
        (lambda: [], "makes vectors by its network alone"),
    ],
)
def test_modules_that_no_encoder_here_has_are_refused_by_name(
    after: Callable[[], list[Any]], text: str, saved: Callable[..., Path]
) -> None:
    (error,) = settings_of(saved(*after()))[1]
    assert error.level == "error" and text in error.text and "give encoder.pooling" in error.remedy


def test_a_table_of_vectors_is_no_network(network: Path, tmp_path: Path) -> None:
    table = StaticEmbedding(Network(str(network)).tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[table], device="cpu").save_pretrained(str(tmp_path / "table"), create_model_card=False)
    (error,) = settings_of(tmp_path / "table")[1]
    assert error.level == "error" and "begins with StaticEmbedding" in error.text


def test_a_study_that_says_otherwise_is_warned_once_for_all_its_arms(saved: Callable[..., Path]) -> None:
    folder = saved(Pooling(24, "cls"), prompts={"query": ASKED})
    own: dict[str, Any] = {"encoder": {"pooling": "mean", "query_prompt": ""}, "tokens": {"query_length": 8}}
    one, two = (study(folder, **own, **more).arms["zero"] for more in ({}, {"similarity": "dot"}))
    whole, found = settled(study(folder).model_copy(update={"arms": {"one": one, "two": two}}))
    assert [(each.level, each.text) for each in found] == [
        ("warning", f"arms one, two: encoder.pooling is 'mean', and {str(folder)!r} has 'first'"),
        ("warning", f"arms one, two: tokens.query_length is 8, and {str(folder)!r} has 40"),
        ("warning", f"arms one, two: encoder.query_prompt is '', and {str(folder)!r} has {ASKED!r}"),
        ("warning", f"arm two: similarity is 'dot', and {str(folder)!r} has 'cosine'"),
    ]
    assert whole.arms["one"].encoder.inputs.query_prompt == ""
    assert whole.arms["one"].tokens.code_length == 40
    # As a store keeps it, nothing is left to the files any more.
    assert settled(StudyConfig.model_validate({**whole.model_dump(), "baseline": "one"}))[0].arms == whole.arms


def test_files_that_say_nothing_change_no_trial(network: Path) -> None:
    arm, found = settings_of(network)
    assert found == [] and arm == study(network).arms["zero"]
    assert described("microsoft/codebert-base") is None
    assert not {"query_prompt", "code_prompt"} & arm.model_dump()["encoder"].keys()


def test_what_was_read_is_in_the_identity(saved: Callable[..., Path]) -> None:
    def trial(prompt: str) -> str:
        changed(folder / ABOUT, prompts={"query": prompt})
        arm, _ = settings_of(folder)
        return identity(
            TrialConfig.model_validate(
                {**arm.model_dump(exclude={"search", "preset"}), "language": "python", "seed": 1}
            ),
            "c",
        )

    folder = saved(Pooling(24, "cls"))
    assert trial("") != trial(ASKED) == trial(ASKED)


def test_a_loss_that_the_files_leave_no_room_for_is_an_error_of_one_line(saved: Callable[..., Path]) -> None:
    folder = saved(Pooling(24, "mean"), similarity_fn_name="dot")
    (error,) = settings_of(folder, loss={"name": "hard_negative"})[1]
    assert error.level == "error" and "similarity 'dot'" in error.text and "expected cosine, got dot" in error.text
    with pytest.raises(LaunchError, match=r"arm zero: encoder.model: .*expected cosine, got dot") as caught:
        settle(study(folder, loss={"name": "hard_negative"}))
    assert "\n" not in str(caught.value)


def test_kinds_with_inputs_of_their_own_take_no_other_models_folder(saved: Callable[..., Path]) -> None:
    folder = saved(Pooling(24, "mean"))
    for kind in ("codebert", "unixcoder", "graphcodebert"):
        (error,) = settings_of(folder, encoder={"kind": kind})[1]
        assert error.level == "error" and f"encoder {kind}" in error.text and "use kind: transformer" in error.remedy


@pytest.mark.parametrize("kind", ["unixcoder", "graphcodebert", "codebert", "bag"])
def test_an_export_is_gone_on_with_as_it_was_trained(
    kind: str, tiny_corpus: Path, tiny_pairs: list[Pair], tmp_path: Path
) -> None:
    encoder = {"kind": kind}
    if kind != "bag":
        encoder["model"] = str(write_model(tmp_path / kind, kind, (pair.code for pair in tiny_pairs), layers=1))
    trial = TrialConfig.model_validate(
        {
            "encoder": encoder,
            "tokens": {"vocabulary": 400, "query_length": 16, "code_length": 48},
            "similarity": "dot",
            "language": "python",
            "seed": 0,
        }
    )
    tokenizer = open_data(prepare(trial, tiny_corpus, "python", tmp_path / "prepared"), trial, "python").tokenizer
    model = Model(build_encoder(trial, tokenizer.get_vocab_size()).eval(), tokenizer, trial)
    (tmp_path / "export").mkdir()
    hf.write(model, tmp_path / "export")
    (tmp_path / "export" / EXPORT_SETTINGS).write_text(settings_json(trial))
    arm, found = settings_of(tmp_path / "export")
    if kind in ("bag", "graphcodebert"):
        (error,) = found
        assert "no network" in error.text if kind == "bag" else "use kind: graphcodebert" in error.remedy
        return
    assert found == [] and arm.similarity == "dot" and arm.tokens.query_length == 16
    tokens = open_data(prepare(arm, tiny_corpus, "python", tmp_path / "prepared"), trial, "python").tokenizer
    again = Model(build_encoder(arm, tokens.get_vocab_size()).eval(), tokens, arm)
    codes = [pair.code for pair in tiny_pairs[:4]]
    np.testing.assert_allclose(again.encode_codes(codes), model.encode_codes(codes), atol=1e-6)


def test_a_hubs_model_is_read_in_the_cache_and_one_that_cannot_be_seen_is_a_warning(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    kept = cache / "models--org--own"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("1")
    shutil.copytree(saved(Pooling(24, "cls")), kept / "snapshots" / "1")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    arm, found = settings_of("org/own")
    assert found == [] and arm.encoder.model_dump()["pooling"] == "first"
    (kept / "snapshots" / "1" / "modules.json").unlink()
    for model in ("org/own", "org/none", str(tmp_path / "none")):
        _, (warning,) = settings_of(model)
        assert warning.level == "warning" and "what prompts and what lengths is not known" in warning.text
    explicit = {"encoder": {"pooling": "mean"}, "similarity": "dot", **OTHERWISE["tokens.query_length"]}
    assert settings_of("org/none", **explicit)[1] == []
