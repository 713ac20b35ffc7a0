"""Export: the chosen model, the written folder, and that nothing half-done is left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softnce_ray import export as module
from softnce_ray.config import ArmConfig, TrialConfig
from softnce_ray.corpus import Pair
from softnce_ray.corpus.tokens import SPECIAL
from softnce_ray.export import ExportError, best_trial, export, load_export, write_export
from softnce_ray.model import Model, load_model, save_model
from softnce_ray.preparation import open_data, prepare
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.store import Store
from softnce_ray.training import train

TEXTS = [
    "Parse the date of every customer.",
    "def decode_calendar(buyers):\n    return buyers",
    "",
    "x " * 500,
    "<pad> customer <s> of </s> price <mask><pad>",
]


@pytest.fixture(scope="module")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """A function that trains a model of the given encoder for one epoch."""
    root = tmp_path_factory.mktemp("prepared")

    def make(encoder: dict[str, Any], similarity: str = "cosine") -> Model:
        config = TrialConfig.model_validate(
            {
                "language": "python",
                "seed": 0,
                "encoder": encoder,
                "similarity": similarity,
                "tokens": {"vocabulary": 400, "query_length": 16, "code_length": 40},
                "training": {"epochs": 1, "batch_size": 32},
            }
        )
        return train(config, open_data(prepare(config, tiny_corpus, "python", root), config, "python")).model

    return make


ENCODERS = {
    "bag": {"kind": "bag", "width": 12},
    "transformer": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "mean"},
    "first": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2, "pooling": "first"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "similarity"), [("bag", "cosine"), ("transformer", "dot"), ("first", "cosine")])
def test_a_fresh_process_of_sentence_transformers_gives_the_trained_vectors(
    name: str, similarity: str, trained: Callable[..., Model], tmp_path: Path
) -> None:
    model = trained(ENCODERS[name], similarity)
    difference = write_export(model, tmp_path / "best", "card")
    assert difference <= 1e-5
    script = (
        "import json, sys; from sentence_transformers import SentenceTransformer as S;"
        "print(json.dumps(S(sys.argv[1], device='cpu').encode(json.loads(sys.argv[2])).tolist()))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "best"), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), model.encode_codes(TEXTS), atol=1e-5)
    np.testing.assert_allclose(load_export(tmp_path / "best").encode_codes(TEXTS), model.encode_codes(TEXTS), atol=1e-6)


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
    write_export(model, tmp_path / "best", "card")
    texts = ["[PAD] customer [SEP]", "[ PAD ] customer [ SEP ]", "customer"]
    vectors = model.encode_codes(texts)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
    theirs = SentenceTransformer(str(tmp_path / "best"), device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, vectors, atol=1e-5)
    np.testing.assert_allclose(load_export(tmp_path / "best").encode_codes(texts), vectors, atol=1e-6)


def test_an_export_of_a_model_that_was_stored_with_special_tokens_to_look_for_is_exported(
    trained: Callable[..., Model], tmp_path: Path
) -> None:
    (tmp_path / "stored").mkdir()
    save_model(trained(ENCODERS["bag"]), tmp_path / "stored")
    file = tmp_path / "stored" / "tokenizer.json"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    old = [{"id": number, "content": text, **flags} for number, text in enumerate(SPECIAL)]
    file.write_text(json.dumps({**json.loads(file.read_text()), "added_tokens": old}))
    assert write_export(load_model(tmp_path / "stored"), tmp_path / "best", "card") <= 1e-5


def test_transformers_itself_loads_an_exported_transformer(trained: Callable[..., Model], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = trained(ENCODERS["first"])
    write_export(model, tmp_path / "best", "card")
    network = AutoModel.from_pretrained(tmp_path / "best").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "best")(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        first = network(input_ids=batch["input_ids"]).last_hidden_state[:, 0]
    expected = model.encode_codes(TEXTS[:1])
    np.testing.assert_allclose(torch.nn.functional.normalize(first, dim=-1).numpy(), expected, atol=1e-5)


def test_an_export_that_gives_other_vectors_fails_and_leaves_nothing(
    trained: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(ENCODERS["bag"])
    honest = module._write

    def of_another_model(given: Model, folder: Path, card: str) -> None:
        honest(trained({"kind": "bag", "width": 12}, "dot"), folder, card)

    monkeypatch.setattr(module, "_write", of_another_model)
    with pytest.raises(ExportError, match="nothing was written"):
        write_export(model, tmp_path / "best", "card")
    assert list(tmp_path.iterdir()) == []


def test_a_pooler_is_refused_with_what_is_possible(trained: Callable[..., Model], tmp_path: Path) -> None:
    model = trained({**ENCODERS["first"], "pooling": "pooler"})
    with pytest.raises(ExportError, match="mean or first"):
        write_export(model, tmp_path / "best", "card")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_export_of_ours_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match="mine"):
            export("any", tmp_path / "mine", store=Store.at(tmp_path / "store"), overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_an_earlier_export_is_replaced_whole(trained: Callable[..., Model], tmp_path: Path) -> None:
    model = trained(ENCODERS["bag"])
    write_export(model, tmp_path / "best", "first")
    (tmp_path / "best" / "left-over").write_text("")
    write_export(model, tmp_path / "best", "second", replace=True)
    assert (tmp_path / "best" / "README.md").read_text() == "second"
    assert not (tmp_path / "best" / "left-over").exists()


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
    write_export(trained(ENCODERS["bag"]), tmp_path / "best", "card")
    file = tmp_path / "best" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ExportError, match="damaged") as caught:
        load_export(tmp_path / "best")
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(ExportError, match=f"got no {name}"):
        load_export(tmp_path / "best")


def _trial(arm: str, language: str, valid: float, **changes: Any) -> TrialResult:
    values: dict[str, Any] = {
        "run_id": f"{arm}-{language}-{valid}",
        "arm": arm,
        "language": language,
        "seed": 1,
        "phase": "confirm",
        "status": "FINISHED",
        "identity": "0",
        "metrics": {"best_valid_mrr": valid, "test_mrr": 1 - valid},
    }
    return TrialResult(**{**values, **changes})


def _results(*trials: TrialResult, languages: tuple[str, ...] = ("python",)) -> StudyResults:
    return StudyResults("s", "", "a", ("a", "b"), languages, (1,), "f", trials, "FINISHED")


def test_the_best_by_validation_is_chosen_even_when_test_says_otherwise() -> None:
    assert best_trial(_results(_trial("a", "python", 0.4), _trial("b", "python", 0.6))).arm == "b"


def test_search_trials_and_unfinished_ones_are_not_chosen() -> None:
    searched = _trial("a", "python", 0.9, phase="search")
    failed = _trial("a", "python", 0.8, status="FAILED")
    assert best_trial(_results(searched, failed, _trial("b", "python", 0.1))).arm == "b"
    with pytest.raises(ExportError, match="no finished confirm trial"):
        best_trial(_results(searched, failed))


def test_arm_and_language_narrow_the_choice_and_several_languages_need_one() -> None:
    results = _results(
        _trial("a", "python", 0.4), _trial("b", "python", 0.6), _trial("a", "go", 0.9), languages=("python", "go")
    )
    assert best_trial(results, language="python").arm == "b"
    assert best_trial(results, language="python", arm="a").metrics["best_valid_mrr"] == 0.4
    with pytest.raises(ExportError, match=r"--language; possible: python, go"):
        best_trial(results)
    with pytest.raises(ExportError, match="possible: a, b"):
        best_trial(results, arm="c")
