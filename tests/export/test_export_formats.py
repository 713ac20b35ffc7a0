"""The formats of an export: each gives the trained vectors, and all appear together or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softnce_ray import folders
from softnce_ray.config import ArmConfig
from softnce_ray.corpus import Pair
from softnce_ray.corpus.tokens import SPECIAL
from softnce_ray.export import FORMATS, ExportError, load_export, write_export
from softnce_ray.export.checking import expect
from softnce_ray.export.fresh import in_this_process
from softnce_ray.export.record import INT8, check_replaceable
from softnce_ray.export.writing import write_formats
from softnce_ray.model import Model, load_model, save_model

TEXTS = [
    "Parse the date of every customer.",
    "def decode_calendar(buyers):\n    return buyers",
    "",
    "x " * 500,
    "<pad> customer <s> of </s> price <mask><pad>",
]
NEEDS_ONNX = pytest.mark.skipif(
    FORMATS["onnx"].problem(None) is not None,  # type: ignore[arg-type]
    reason="onnx, onnxruntime and onnxscript are not installed",
)


def written(model: Model, target: Path, formats: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Write formats, each read by its recipe in this process."""
    options = {"read": in_this_process, **options}
    return write_formats(model, target, formats, expect(model), lambda name, *rest: f"card of {name}", **options)[0]


def encoded(model: Model, name: str, folder: Path, texts: list[str], side: str) -> np.ndarray:
    (vectors,) = in_this_process(FORMATS[name].recipe(model), folder, [(texts, side)])
    return vectors


LIGHT = [("bag", "cosine"), ("bag", "dot"), ("mean", "dot"), ("first", "cosine")]


@pytest.mark.parametrize(("encoder", "similarity"), LIGHT)
def test_the_recipes_of_hf_and_sentence_transformers_give_the_trained_vectors(
    encoder: str, similarity: str, trained: Callable[..., Model], tmp_path: Path
) -> None:
    model = trained(encoder, similarity)
    written(model, tmp_path / "best", ("hf", "sentence-transformers"))
    for name in ("hf", "sentence-transformers"):
        folder = tmp_path / "best" / name
        codes, queries = model.encode_codes(TEXTS), model.encode_queries(TEXTS)
        assert np.abs(codes - queries).max() > 1e-3  # queries are cut at four tokens
        np.testing.assert_allclose(encoded(model, name, folder, TEXTS, "code"), codes, atol=1e-5)
        np.testing.assert_allclose(encoded(model, name, folder, TEXTS, "query"), queries, atol=1e-5)
        np.testing.assert_allclose(load_export(folder).encode_codes(TEXTS), codes, atol=1e-6)
        assert (folder / "README.md").read_text() == f"card of {name}"


@NEEDS_ONNX
@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "similarity"), [("bag", "cosine"), ("mean", "dot"), ("pooler", "cosine")])
def test_the_graph_gives_the_trained_vectors_of_any_batch_and_length(
    encoder: str, similarity: str, trained: Callable[..., Model], tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    model = trained(encoder, similarity)
    expected = expect(model)
    found, sizes = write_formats(
        model, tmp_path / "best", ("onnx",), expected, lambda *args: "card", read=in_this_process
    )
    assert found["onnx"].difference < 1e-6
    assert sizes["onnx"] > (tmp_path / "best" / "model.onnx").stat().st_size > 0
    graph = onnx.load(tmp_path / "best" / "model.onnx")
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", 20)]
    session = onnxruntime.InferenceSession(tmp_path / "best" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(each.name, each.type) for each in session.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
    for texts in (TEXTS[:1], TEXTS, TEXTS[3:4] * 7):
        got = encoded(model, "onnx", tmp_path / "best", texts, "code")
        np.testing.assert_allclose(got, model.encode_codes(texts), atol=1e-5)
    if encoder == "bag":
        assert not encoded(model, "onnx", tmp_path / "best", ["", ""], "code").any()
    padded = {"input_ids": np.full((1, 9), 1), "attention_mask": np.zeros((1, 9), np.int64)}
    padded["input_ids"][0, :3], padded["attention_mask"][0, :3] = 7, 1
    short = {name: array[:, :3] for name, array in padded.items()}
    np.testing.assert_allclose(session.run(None, padded)[0], session.run(None, short)[0], atol=1e-6)


@NEEDS_ONNX
@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["bag", "mean"])
def test_int8_is_smaller_and_its_loss_is_measured(encoder: str, trained: Callable[..., Model], tmp_path: Path) -> None:
    from softnce_ray.export.checking import Ranked

    settings = {**({"kind": "bag", "width": 64} if encoder == "bag" else WIDE)}
    model = trained(settings)
    codes = [f"def decode_{word}(buyers):\n    return {word}" for word in ("calendar", "cost", "label")]
    queries = ["Parse the date.", "Parse the price.", "Parse the name."]
    scores = model.encode_queries(queries) @ model.encode_codes(codes).T
    ranks = np.array([1.0 + (row > row[own]).sum() for own, row in enumerate(scores)])
    expected = expect(model, [Ranked("python", "test", queries, codes, np.arange(len(queries))[:, None], 1 / ranks)])
    notes: list[str] = []

    def card(name: str, library: str, recipe: str, checked: Any, more: list[str]) -> str:
        notes.extend(more)
        return "card"

    found, sizes = write_formats(model, tmp_path / "best", ("onnx",), expected, card, int8=True, read=in_this_process)
    assert 1e-5 < found[INT8].difference < 0.2
    assert sizes[INT8] < 0.6 * (tmp_path / "best" / "model.onnx").stat().st_size
    quantised = in_this_process(
        FORMATS["onnx"].recipe(model).replace("model.onnx", "model_int8.onnx"),
        tmp_path / "best",
        [(queries, "query"), (codes, "code")],
    )
    scores = quantised[0] @ quantised[1].T
    mrr = np.mean([1 / (1.0 + (row > row[own]).sum()) for own, row in enumerate(scores)])
    assert found[INT8].mrr == pytest.approx(mrr)
    assert found[INT8].stored_mrr == pytest.approx(np.mean(1 / ranks))
    (note,) = [note for note in notes if note.startswith("## int8")]
    assert f"MRR {mrr:.4f} instead of {np.mean(1 / ranks):.4f}" in note


WIDE = {"kind": "transformer", "width": 64, "layers": 1, "heads": 2, "pooling": "mean"}


@NEEDS_ONNX
@pytest.mark.slow
def test_a_crash_between_two_formats_leaves_nothing_and_what_was_there(
    trained: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("bag")
    write_export(model, tmp_path / "old", "earlier")

    def broken(model: Model, folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("the disk is full")

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=broken))
    for target in ("new", "old"):
        with pytest.raises(RuntimeError, match="disk"):
            written(model, tmp_path / target, ("hf", "onnx"), replace=True)
    with pytest.raises(KeyboardInterrupt):
        written(model, tmp_path / "new", ("mlflow", "hf"), finish=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "README.md").read_text() == "earlier"


def interrupted(folder: Path) -> None:
    assert (folder / "MLmodel").is_file()
    raise KeyboardInterrupt


def test_the_earlier_export_is_back_when_the_new_one_cannot_take_its_place(
    trained: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("bag")
    write_export(model, tmp_path / "best", "earlier")
    rename = folders.os.rename

    def refused(source: Path, target: Path) -> None:
        if Path(source).parent.name == "new" and Path(target) == tmp_path / "best" and not moved:
            moved.append(source)
            raise OSError("no")
        rename(source, target)

    moved: list[Path] = []
    monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)
    monkeypatch.setattr(folders.os, "rename", refused)
    with pytest.raises(OSError, match="no"):
        write_export(model, tmp_path / "best", "new", replace=True)
    assert moved
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "README.md").read_text() == "earlier"


def bert_folder(folder: Path, texts: list[str]) -> str:
    """A BERT made here, with a tokenizer of its own, as transformers writes them."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=300, show_progress=False)
    special: dict[str, Any] = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **special).save_pretrained(folder)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **sizes), add_pooling_layer=False).save_pretrained(
        folder
    )
    return str(folder)


def test_special_tokens_in_a_text_are_text_to_all_who_read_an_export_of_a_named_model(
    trained: Callable[..., Model], tiny_pairs: list[Pair], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    name = bert_folder(tmp_path / "bert", [pair.code + " [ ] PAD SEP" for pair in tiny_pairs])
    model = trained({"kind": "transformer", "model": name, "pooling": "first"})
    written(model, tmp_path / "best", ("hf", "sentence-transformers"))
    texts = ["[PAD] customer [SEP]", "[ PAD ] customer [ SEP ]", "customer"]
    vectors = model.encode_codes(texts)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
    folder = tmp_path / "best" / "sentence-transformers"
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, vectors, atol=1e-5)
    np.testing.assert_allclose(load_export(folder).encode_codes(texts), vectors, atol=1e-6)
    np.testing.assert_allclose(encoded(model, "hf", tmp_path / "best" / "hf", texts, "code"), vectors, atol=1e-5)


def test_an_export_of_a_model_that_was_stored_with_special_tokens_to_look_for_is_exported(
    trained: Callable[..., Model], tmp_path: Path
) -> None:
    (tmp_path / "stored").mkdir()
    save_model(trained("bag"), tmp_path / "stored")
    file = tmp_path / "stored" / "tokenizer.json"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    old = [{"id": number, "content": text, **flags} for number, text in enumerate(SPECIAL)]
    file.write_text(json.dumps({**json.loads(file.read_text()), "added_tokens": old}))
    (tmp_path / "stored" / "sha256.json").unlink()  # models of then have none
    assert write_export(load_model(tmp_path / "stored"), tmp_path / "best", "card") <= 1e-5


def test_automodel_and_autotokenizer_load_an_exported_transformer(
    trained: Callable[..., Model], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = trained("first")
    written(model, tmp_path / "best", ("hf",))
    network = AutoModel.from_pretrained(tmp_path / "best").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "best")(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        first = network(**batch).last_hidden_state[:, 0]
    expected = model.encode_codes(TEXTS[:1])
    np.testing.assert_allclose(torch.nn.functional.normalize(first, dim=-1).numpy(), expected, atol=1e-5)


def test_an_export_that_gives_other_vectors_fails_and_leaves_nothing(
    trained: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = trained("bag"), trained("bag", "dot")
    honest = FORMATS["sentence-transformers"]
    of_another = replace(honest, write=lambda model, folder: honest.write(other, folder))
    monkeypatch.setitem(FORMATS, "sentence-transformers", of_another)
    with pytest.raises(ExportError, match="nothing was written"):
        write_export(model, tmp_path / "best", "card")
    assert list(tmp_path.iterdir()) == []


def test_a_pooler_is_a_layer_of_sentence_transformers(trained: Callable[..., Model], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = trained("pooler")
    write_export(model, tmp_path / "best", "card")
    vectors = SentenceTransformer(str(tmp_path / "best"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors, model.encode_codes(TEXTS), atol=1e-5)
    np.testing.assert_allclose(load_export(tmp_path / "best").encode_codes(TEXTS), vectors, atol=1e-5)


def test_a_pooler_that_no_module_is_like_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AlbertConfig, AlbertModel

    from softnce_ray.encoders import build_encoder

    sizes: dict[str, Any] = {"hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    AlbertModel(AlbertConfig(vocab_size=50, intermediate_size=32, **sizes)).save_pretrained(tmp_path / "albert")
    encoder = {"kind": "transformer", "model": str(tmp_path / "albert"), "pooling": "pooler"}
    config = ArmConfig.model_validate({"encoder": encoder})
    model = Model(build_encoder(config, 50), Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), config)
    with pytest.raises(ExportError, match=r"pooler of albert.*--formats hf,onnx,mlflow"):
        write_export(model, tmp_path / "best", "card")
    assert [path.name for path in tmp_path.iterdir()] == ["albert"]


def test_an_earlier_export_is_replaced_whole(trained: Callable[..., Model], tmp_path: Path) -> None:
    model = trained("bag")
    written(model, tmp_path / "best", ("hf", "sentence-transformers"))
    (tmp_path / "best" / "hf" / "__pycache__").mkdir()
    (tmp_path / "best" / "hf" / "__pycache__" / "a.pyc").touch()  # of whoever has loaded it
    write_export(model, tmp_path / "best", "second", replace=True)
    assert (tmp_path / "best" / "README.md").read_text() == "second"
    assert not (tmp_path / "best" / "hf").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_nothing_that_a_user_has_put_into_an_export_is_ever_lost(trained: Callable[..., Model], tmp_path: Path) -> None:
    model, best = trained("bag"), tmp_path / "best"
    written(model, best, ("hf", "sentence-transformers"))
    added = ("notes.md", ".git/HEAD", "hf/eval/scores.json", "other/export.json")
    for name in added:
        (best / name).parent.mkdir(parents=True, exist_ok=True)
        (best / name).write_text("mine")
    (best / "link").symlink_to(tmp_path)
    (best / "hf" / "README.md").write_text("a card that I wrote")
    with pytest.raises(ExportError) as caught:
        write_export(model, best, "second", replace=True)
    assert str(caught.value) == (
        f"expected nothing in {best} that the earlier export did not write, got .git/HEAD, hf/README.md, "
        "hf/eval/scores.json, link, notes.md and 1 more: move that elsewhere, or give another --to"
    )
    assert all((best / name).read_text() == "mine" for name in added)
    assert (best / "hf" / "README.md").read_text() == "a card that I wrote"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_what_is_put_into_an_export_while_it_is_replaced_is_not_lost(
    trained: Callable[..., Model], tmp_path: Path
) -> None:
    model, best = trained("bag"), tmp_path / "best"
    write_export(model, best, "first")
    expected = expect(model)

    def card(*args: Any) -> str:
        (best / "notes.md").write_text("late")
        return "second"

    with pytest.raises(ExportError, match=r"got notes\.md: move"):
        write_formats(model, best, ("hf",), expected, card, replace=True, read=in_this_process)
    assert ((best / "notes.md").read_text(), (best / "README.md").read_text()) == ("late", "first")


@pytest.mark.parametrize(
    ("encoder", "formats"),
    [
        ("bag", ("hf", "sentence-transformers")),
        pytest.param("pooler", tuple(FORMATS), marks=[pytest.mark.slow, NEEDS_ONNX]),
    ],
)
def test_an_export_without_a_list_of_its_files_is_replaced_when_all_names_are_known(
    encoder: str, formats: tuple[str, ...], trained: Callable[..., Model], tmp_path: Path
) -> None:
    several = tmp_path / "several"
    written(trained(encoder), several, formats)
    (several / "export.json").write_text(json.dumps({"formats": dict.fromkeys(formats)}))
    folders = {several / name: several for name in formats}
    for name in formats:
        alone = tmp_path / name
        shutil.copytree(several / name, alone)
        check_replaceable(alone)  # of before there was a record
        (alone / "export.json").write_text(json.dumps({"formats": {name: None}}))
        folders[alone] = alone
    for folder, whole in folders.items():
        check_replaceable(whole)
        for name in ("notes.md", "other/model.safetensors", "1_Notes/config.json"):
            place = folder / name
            place.parent.mkdir(exist_ok=True)
            place.write_text("mine")
            with pytest.raises(ExportError, match=re.escape(f"got {place.relative_to(whole)}: move")):
                check_replaceable(whole)
            place.unlink()
            if place.parent != folder:
                place.parent.rmdir()


@pytest.mark.parametrize("text", ["{]", "[]", "{}", '{"formats": {}}', '{"formats": {"pdf": {}}}', '{"formats": 7}'])
def test_a_record_of_another_program_makes_no_export_of_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(ExportError, match="no export of ours"):
        check_replaceable(tmp_path)


def test_a_folder_that_is_no_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"softnce_ray.json.*softnce-ray export"):
        load_export(tmp_path)
    (tmp_path / "softnce_ray.json").write_text("{]")
    with pytest.raises(ExportError, match="damaged"):
        load_export(tmp_path)
    (tmp_path / "softnce_ray.json").write_text(ArmConfig().model_dump_json())
    with pytest.raises(ExportError, match=r"tokenizer\.json"):
        load_export(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "softnce_ray.json"])
def test_a_missing_or_cut_off_file_of_an_export_is_an_error_of_one_line(
    name: str, trained: Callable[..., Model], tmp_path: Path
) -> None:
    write_export(trained("bag"), tmp_path / "best", "card")
    file = tmp_path / "best" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ExportError, match="damaged") as caught:
        load_export(tmp_path / "best")
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(ExportError, match=f"got no {name}"):
        load_export(tmp_path / "best")
