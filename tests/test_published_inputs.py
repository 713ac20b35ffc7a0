"""What the published encoders are fed, against their authors' ways of making it, written down once more without care
for speed; and what is stored of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_kinds import PUBLISHED, encoder_of, published_config, write_model
from torch import Tensor

from softnce_ray.config import (
    ArmConfig,
    CodeBERTEncoder,
    GraphCodeBERTEncoder,
    Inputs,
    StudyConfig,
    TokenSettings,
    TransformerEncoder,
    UniXcoderEncoder,
)
from softnce_ray.corpus import Corpus, CorpusError, Pair, build_corpus, graph_tokens, tokens
from softnce_ray.corpus.dataflow import SYNTAXES, GraphLimits, data_flow
from softnce_ray.corpus.graph_tokens import graph_texts, graph_texts_in_parts
from softnce_ray.corpus.ragged import Graphs, Ragged, concatenate, no_graphs
from softnce_ray.corpus.tokens import TOKENS_VERSION, prepare_tokens, token_key
from softnce_ray.encoders import EncoderError, build_encoder
from softnce_ray.model import LanguageError, Model, encode
from softnce_ray.preparation import open_data, prepare
from softnce_ray.study.doctor.needs import needs, parameters

CODES = {
    "python": "def f(xs):\n    total = 0\n    for each in xs:\n        total += each  # so far\n    return total",
    "ruby": "def f(xs)\n  total = xs.size\n  xs.each { |each| total += each }\n  total\nend",
    "go": "func f(xs []int) int {\n\ttotal := 0\n\tfor _, x := range xs {\n\t\ttotal += x\n\t}\n\treturn total\n}",
    "java": "int f(int[] xs) {\n  int total = 0;\n  for (int x : xs) { total += x; }\n  return total;\n}",
    "php": "function f($xs) {\n  $total = 0;\n  foreach ($xs as $x) { $total += $x; }\n  return $total;\n}",
    "javascript": "function f(xs) {\n  let total = 0;\n  for (const x of xs) { total += x; }\n  return total;\n}",
}
QUERIES = ["Add up all numbers of a list.", "", "return the sum <s> of </s> it " * 9]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model(root / kind, kind, [*CODES.values(), *QUERIES]) for kind in PUBLISHED}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of all six languages."""
    pairs = [
        Pair(
            f"Number {number} of {language} functions.",
            code.replace("total", f"total{number}"),
            language,
            "p",
            "a",
            1,
            "f",
        )
        for language, code in CODES.items()
        for number in range(6)
    ]
    folder = tmp_path_factory.mktemp("corpora") / "six"
    build_corpus({"train": pairs[::2], "test": pairs[1::2]}, folder, near_duplicate=None)
    return folder


def prepared(kind: str, folders: dict[str, Path], corpus: Path, root: Path, **tokens: int) -> Model:
    """A model of a kind's folder, with the tokenizer that preparation makes."""
    config = ArmConfig.model_validate({"encoder": encoder_of(kind, folders[kind]), "tokens": tokens})
    store = prepare_tokens(Corpus.open(corpus), config.tokens, root, config.encoder.inputs)
    return Model(build_encoder(config, store.tokenizer.get_vocab_size()).eval(), store.tokenizer, config)


def network_of(folder: Path) -> Any:
    from transformers import RobertaModel

    return RobertaModel.from_pretrained(folder).eval()


def pieces(folder: Path, text: str) -> list[int]:
    """A text's ids without special tokens, by the published files alone."""
    from tokenizers import ByteLevelBPETokenizer

    return ByteLevelBPETokenizer.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")).encode(text).ids


def unit(vector: Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vector, dim=-1).detach().numpy()


def test_codebert_reads_a_text_between_its_ends_and_gives_its_pooler(
    folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    model = prepared("codebert", folders, corpus, tmp_path, query_length=9, code_length=20)
    network = network_of(folders["codebert"])
    for text, length, found in (
        *((code, 20, model.encode_codes([code])[0]) for code in CODES.values()),
        *((query, 9, model.encode_queries([query])[0]) for query in QUERIES),
    ):
        ids = [0, *pieces(folders["codebert"], text)[: length - 2], 2]
        np.testing.assert_allclose(found, unit(network(torch.tensor([ids])).pooler_output[0]), atol=1e-5)


def test_unixcoder_reads_its_mode_before_a_text_and_gives_the_mean_of_all(
    folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    model = prepared("unixcoder", folders, corpus, tmp_path, query_length=9, code_length=20)
    folder = folders["unixcoder"]
    mode = json.loads((folder / "vocab.json").read_text())["<encoder-only>"]
    network = network_of(folder)
    for text, length, found in (
        *((code, 20, model.encode_codes([code])[0]) for code in CODES.values()),
        *((query, 9, model.encode_queries([query])[0]) for query in QUERIES),
    ):
        ids = [0, mode, 2, *pieces(folder, text)[: length - 4], 2]
        padded = torch.tensor([[*ids, *[1] * (length + 3 - len(ids))]])
        hidden = network(padded, attention_mask=padded.ne(1)).last_hidden_state
        mean = (hidden * padded.ne(1)[..., None]).sum(1) / padded.ne(1).sum(-1)[:, None]
        np.testing.assert_allclose(found, unit(mean[0]), atol=1e-5)


def graph_vector(network: Any, folder: Path, code: str, language: str, limits: GraphLimits) -> np.ndarray:
    """A function's vector as the released code search makes it, place by place and padded to the full length."""
    places = limits.code_length + limits.flow_length
    flow = data_flow(code, language)
    words = [code[start:end] for start, end in flow.tokens]
    cut = [pieces(folder, word if number == 0 else " " + word) for number, word in enumerate(words)]
    starts = np.cumsum([1, *map(len, cut)])
    nodes = sorted({end for edge in flow.edges for end in (edge.node, edge.source)})
    ids = [number for word in cut for number in word][: places - 2 - min(len(nodes), limits.flow_length)]
    ids = [0, *ids, 2]
    text = len(ids)
    nodes = nodes[: places - text]
    spans = [(starts[flow.nodes[node].token], starts[flow.nodes[node].token + 1]) for node in nodes]
    spans = [span for span in spans if span[1] <= text - 1]  # nodes of what is cut have no tokens
    nodes = nodes[: len(spans)]
    positions = [*range(2, text + 2), *[0] * len(nodes), *[1] * (places - text - len(nodes))]
    ids += [3] * len(nodes) + [1] * (places - text - len(nodes))
    sees = torch.zeros(places, places, dtype=torch.bool)
    sees[:text, :text] = True
    for special in (0, text - 1):
        sees[special, : text + len(nodes)] = True
    for number, (start, end) in enumerate(spans):
        sees[text + number, start:end] = True
        sees[start:end, text + number] = True
    for edge in flow.edges:
        if edge.node in nodes and edge.source in nodes:
            sees[text + nodes.index(edge.node), text + nodes.index(edge.source)] = True
    place = torch.tensor([positions])
    is_node, is_token = place.eq(0), place.ge(2)
    embedded = network.embeddings.word_embeddings(torch.tensor([ids]))
    means = (is_node[:, :, None] & is_token[:, None, :] & sees[None]).float()
    means = means / (means.sum(-1) + 1e-10)[:, :, None]
    embedded = embedded * ~is_node[:, :, None] + torch.einsum("abc,acd->abd", means, embedded) * is_node[:, :, None]
    hidden = (1.0 - sees[None, None].float()) * -10_000.0
    return unit(network(inputs_embeds=embedded, attention_mask=hidden, position_ids=place).pooler_output[0])


@pytest.mark.parametrize("lengths", [(64, 16), (30, 4), (12, 16), (200, 16)])
def test_graphcodebert_reads_code_and_data_flow_as_released(
    lengths: tuple[int, int], folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    folder = folders["graphcodebert"]
    model = prepared("graphcodebert", folders, corpus, tmp_path, query_length=9, code_length=lengths[0])
    encoder = GraphCodeBERTEncoder(model=str(folder), flow_length=lengths[1])
    model = Model(model.encoder, model.tokenizer, model.config.model_copy(update={"encoder": encoder}))
    network = network_of(folder)
    found = model.encode_codes(list(CODES.values()), list(CODES))
    for (language, code), vector in zip(CODES.items(), found, strict=True):
        expected = graph_vector(network, folder, code, language, GraphLimits(*lengths))
        np.testing.assert_allclose(vector, expected, atol=1e-5, err_msg=language)
    for query in QUERIES:
        ids = [0, *pieces(folder, query)[:7], 2]
        expected = unit(network(torch.tensor([ids])).pooler_output[0])
        np.testing.assert_allclose(model.encode_queries([query])[0], expected, atol=1e-5)


def test_graphcodebert_hears_the_data_flow(folders: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    model = prepared("graphcodebert", folders, corpus, tmp_path)
    code = CODES["python"]
    graph = graph_texts([code], "python", model.tokenizer, GraphLimits(256, 64))
    without = Ragged(graph.ids, graph.offsets, no_graphs(1))
    assert len(graph.graphs.spans) > 4  # type: ignore[union-attr]
    assert (encode(model.encoder, graph) - encode(model.encoder, without)).abs().max() > 1e-2


# --- the language of functions ---------------------------------------------------------------------------


def test_the_language_of_functions_must_be_given_and_known(
    folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    model = prepared("graphcodebert", folders, corpus, tmp_path)
    with pytest.raises(LanguageError, match=r"graphcodebert reads the data flow.*language of each, got none"):
        model.encode_codes(["x = 1"])
    with pytest.raises(CorpusError, match=r"expected languages of go, java.*got cobol"):
        model.encode_codes(["x = 1"], "cobol")
    other = model.encode_codes([CODES["ruby"], CODES["go"]], ["ruby", "go"])
    np.testing.assert_allclose(other[1], model.encode_codes([CODES["go"]], "go")[0], atol=1e-5)


def test_a_corpus_of_a_language_without_data_flow_is_refused_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    pairs = [Pair("Three words here.", f"MOVE {n} TO X.", "cobol", "p", "a", 1, "f") for n in range(3)]
    build_corpus({"train": pairs}, tmp_path / "corpus", near_duplicate=None)
    config = ArmConfig.model_validate({"encoder": encoder_of("graphcodebert", folders["graphcodebert"])})
    with pytest.raises(CorpusError, match=r"encoder graphcodebert reads data flow.*got cobol"):
        prepare(config, tmp_path / "corpus", "cobol", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists() or not list((tmp_path / "prepared").glob("tokens/*"))


def test_a_language_without_data_flow_is_in_no_other_ones_way(folders: dict[str, Path], tmp_path: Path) -> None:
    python, cpp = (
        [Pair(f"Give number {n} back.", f"x = {n}", language, "p", "a", n, "f") for n in range(6)]
        for language in ("python", "c++")
    )
    splits = {"train": [*python[:3], *cpp[:3]], "valid": [python[3], cpp[3]], "test": [python[4], cpp[4]]}
    build_corpus(splits, tmp_path / "corpus", near_duplicate=None)
    config = ArmConfig.model_validate({"encoder": encoder_of("graphcodebert", folders["graphcodebert"])})
    opened = open_data(prepare(config, tmp_path / "corpus", "python", tmp_path / "prepared"), config, "python")
    assert opened.train.codes.graphs is not None
    with pytest.raises(CorpusError, match=r"got c\+\+: use another encoder there"):
        prepare(config, tmp_path / "corpus", "c++", tmp_path / "prepared")


# --- what is stored --------------------------------------------------------------------------------------


def same(one: Ragged, other: Ragged) -> None:
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    assert (one.graphs is None) == (other.graphs is None)
    if one.graphs is not None and other.graphs is not None:
        for name in Graphs.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one.graphs, name), getattr(other.graphs, name), err_msg=name)


def test_the_store_has_the_graph_of_every_function_and_of_no_query(
    folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    inputs = Inputs(str(folders["graphcodebert"]), flow_length=16)
    store = prepare_tokens(Corpus.open(corpus), TokenSettings(code_length=40), tmp_path, inputs)
    for language in SYNTAXES:
        table = Corpus.open(corpus).table(language, "train")
        texts = store.texts(language, "train", "code")
        assert texts.graphs is not None and isinstance(texts.graphs.spans, np.memmap)
        assert texts.ids.dtype == texts.graphs.spans.dtype == texts.graphs.edges.dtype == np.uint16
        codes = table.column("code").to_pylist()
        same(texts, graph_texts(codes, language, store.tokenizer, GraphLimits(40, 16)))
        np.testing.assert_array_equal(texts.places, np.diff(texts.offsets) + np.diff(texts.graphs.node_offsets))
        assert len(texts.graphs.edges.T) > 0
        assert store.texts(language, "train", "query").graphs is None


def test_processes_read_graphs_as_this_one_does(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepared("graphcodebert", folders, corpus, tmp_path)
    model.tokenizer.save(str(tmp_path / "tokenizer.json"))
    parts = [[code.replace("total", f"t{number}") for number in range(3)] for code in [CODES["go"], CODES["go"][:40]]]
    monkeypatch.setattr(graph_tokens, "_FEW", 0)
    monkeypatch.setattr(graph_tokens.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    limits = GraphLimits(40, 16)
    found = list(graph_texts_in_parts(parts, "go", tmp_path / "tokenizer.json", limits, total=6))
    for part, texts in zip(parts, found, strict=True):
        same(texts, graph_texts(part, "go", model.tokenizer, limits))


@pytest.mark.parametrize("kind", ["unixcoder", "graphcodebert"])
def test_the_parts_in_which_a_corpus_is_read_do_not_show(
    kind: str, folders: dict[str, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TokenSettings(code_length=40)
    inputs = ArmConfig.model_validate({"encoder": encoder_of(kind, folders[kind])}).encoder.inputs
    whole = prepare_tokens(Corpus.open(corpus), settings, tmp_path / "whole", inputs)
    monkeypatch.setattr(tokens, "_CHUNK", 2)
    parts = prepare_tokens(Corpus.open(corpus), settings, tmp_path / "parts", inputs)
    for side in ("query", "code"):
        texts = whole.texts("ruby", "train", side)
        assert len(texts) == 3
        same(texts, parts.texts("ruby", "train", side))


def test_texts_with_and_without_graphs_are_joined_and_taken_again(folders: dict[str, Path]) -> None:
    from softnce_ray.corpus.tokens import named_tokenizer

    tokenizer = named_tokenizer(str(folders["graphcodebert"]), None)
    with_graphs = graph_texts(list(CODES.values()), list(CODES), tokenizer, GraphLimits(40, 16))
    without = Ragged(np.array([0, 7, 2, 0, 2]), np.array([0, 3, 5]))
    joined = concatenate([without, with_graphs, without])
    assert joined.graphs is not None and len(joined) == len(joined.graphs) == 10
    same(joined.take(np.arange(2, 8)), with_graphs)
    rows = np.array([5, 0, 3, 3])
    same(joined.take(rows).take(np.array([0, 2])), joined.take(rows[[0, 2]]))
    assert not len(joined.take(np.array([9, 1])).graphs.spans)  # type: ignore[union-attr]
    assert concatenate([without, without]).graphs is None


def test_stored_tokens_of_other_encoders_keep_their_names(corpus: Path, folders: dict[str, Path]) -> None:
    opened, settings = Corpus.open(corpus), TokenSettings()
    for inputs in (Inputs(special=False), Inputs(), Inputs("some/model")):
        content = [TOKENS_VERSION, opened.fingerprint, settings.model_dump(), inputs.tokenizer, inputs.special]
        known = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        assert token_key(opened, settings, inputs) == known
    model = "some/model"
    published = [
        CodeBERTEncoder(model=model).inputs,
        UniXcoderEncoder(model=model).inputs,
        GraphCodeBERTEncoder(model=model).inputs,
        GraphCodeBERTEncoder(model=model, flow_length=32).inputs,
    ]
    keys = [token_key(opened, settings, inputs) for inputs in published]
    assert len(set(keys)) == 4
    assert keys[0] == token_key(opened, settings, TransformerEncoder(model=model).inputs)  # the same tokens


# --- settings, and models that cannot be used ------------------------------------------------------------


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_encoders_read_texts_of_the_published_lengths(kind: str) -> None:
    config = ArmConfig.model_validate({"encoder": {"kind": kind}})
    assert config.encoder.model == f"microsoft/{kind}-base"  # type: ignore[union-attr]
    assert (config.tokens.query_length, config.tokens.code_length) == (128, 256)
    assert config.encoder.inputs.flow_length == (64 if kind == "graphcodebert" else None)
    shorter = ArmConfig.model_validate({"encoder": {"kind": kind}, "tokens": {"query_length": 32}})
    assert (shorter.tokens.query_length, shorter.tokens.code_length) == (32, 256)
    given = ArmConfig(encoder=config.encoder, tokens=TokenSettings(code_length=99))
    assert (given.tokens.query_length, given.tokens.code_length) == (128, 99)
    assert ArmConfig().tokens.query_length == 64
    assert ArmConfig.model_validate_json(given.model_dump_json()) == given


@pytest.mark.parametrize(("kind", "numbers"), [("codebert", 124_645_632), ("unixcoder", 125_929_728)])
def test_the_published_configurations_have_the_published_size(kind: str, numbers: int) -> None:
    from transformers import RobertaModel

    with torch.device("meta"):
        network = RobertaModel(published_config(kind))
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers


def test_the_doctor_knows_the_size_of_every_kind(folders: dict[str, Path]) -> None:
    from transformers import RobertaModel

    for kind in PUBLISHED:
        named = ArmConfig.model_validate({"encoder": {"kind": kind}})
        with torch.device("meta"):
            network = RobertaModel(published_config(kind), add_pooling_layer=kind != "unixcoder")
        assert parameters(named) == sum(parameter.numel() for parameter in network.parameters())
        small = ArmConfig.model_validate({"encoder": encoder_of(kind, folders[kind])})
        stored = sum(parameter.numel() for parameter in network_of(folders[kind]).parameters())
        assert parameters(small) == stored
    other = ArmConfig.model_validate({"encoder": {"kind": "codebert", "model": "nobody/has-this-model"}})
    assert parameters(other) is None


def test_the_doctor_counts_the_graphs_in_the_store(folders: dict[str, Path], corpus: Path) -> None:
    def lasting(kind: str) -> int:
        arm = {"encoder": {"kind": kind}, "tokens": {"query_length": 10, "code_length": 20}}
        study = StudyConfig.model_validate(
            {"study": "s", "question": "?", "corpus": str(corpus), "languages": ["go"], "seeds": [0], "baseline": "a",
             "arms": {"a": arm}}
        )  # fmt: skip
        return needs(study, Corpus.open(corpus).manifest).lasting

    # 36 pairs; of each 64 nodes and as many edges, of two numbers of two bytes each
    assert lasting("graphcodebert") - lasting("codebert") == 36 * 64 * (4 + 4)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_name_that_cannot_be_fetched_says_what_to_do_in_one_line(kind: str, corpus: Path, tmp_path: Path) -> None:
    config = ArmConfig.model_validate({"encoder": {"kind": kind}})
    name = f"microsoft/{kind}-base"
    what = rf"encoder\.model: .*{name}.*hf download {name} --local-dir DIR.*encoder\.model: DIR.*HF_HOME"
    with pytest.raises(CorpusError, match=what) as caught:
        prepare(config, corpus, "python", tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(EncoderError, match=what) as other:
        build_encoder(config, 1000)
    assert "\n" not in str(other.value)


def test_a_model_of_another_architecture_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    config = ArmConfig.model_validate({"encoder": {"kind": "graphcodebert", "model": str(tmp_path)}})
    with pytest.raises(EncoderError, match=r"expected a RoBERTa .*got bert with 0.*kind: transformer"):
        build_encoder(config, 50)


def test_a_tokenizer_without_the_mode_is_refused(folders: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    config = ArmConfig.model_validate({"encoder": {"kind": "unixcoder", "model": str(folders["codebert"])}})
    with pytest.raises(CorpusError, match=r"as UniXcoder's, got one without <encoder-only>"):
        prepare(config, corpus, "python", tmp_path)


def test_code_and_data_flow_must_fit_the_positions_together(folders: dict[str, Path]) -> None:
    encoder = {"kind": "graphcodebert", "model": str(folders["graphcodebert"]), "flow_length": 64}
    config = ArmConfig.model_validate({"encoder": encoder, "tokens": {"code_length": 449}})
    with pytest.raises(EncoderError, match=r"reads 512 tokens, got tokens.code_length \+ encoder.flow_length 513"):
        build_encoder(config, 300)
    build_encoder(config.model_copy(update={"tokens": TokenSettings(code_length=448)}), 300)


def test_weights_without_a_pooler_get_one_by_the_seed(folders: dict[str, Path], tmp_path: Path) -> None:
    # The published GraphCodeBERT was trained to fill masks, which takes no pooler.
    from transformers import RobertaModel

    network = RobertaModel.from_pretrained(folders["graphcodebert"], add_pooling_layer=False)
    network.save_pretrained(tmp_path)
    config = ArmConfig.model_validate({"encoder": {"kind": "graphcodebert", "model": str(tmp_path)}})
    poolers: list[Tensor] = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        poolers.append(build_encoder(config, 300).state_dict()["tower.model.pooler.dense.weight"])
    assert torch.equal(poolers[0], poolers[1]) and not torch.equal(poolers[0], poolers[2])
