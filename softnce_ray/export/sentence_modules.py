"""sentence-transformers: the modules that `SentenceTransformer(folder)` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from softnce_ray.encoders import Bag, Transformer
from softnce_ray.export.graph_encoders import graph_problem
from softnce_ray.export.hf import quiet
from softnce_ray.export.tokenizer_files import lengths, plain, wrapped
from softnce_ray.model import Model
from softnce_ray.temporary import temporary_folder

_RECIPE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(folder, device="cpu")
tokens = {lengths}


def encode(texts, side="code"):
    {cut}
    return {call}(list(texts))
"""


def problem(model: Model) -> str | None:
    tower = model.encoder.tower
    if isinstance(tower, Transformer) and tower.pooling == "pooler" and _pooler_layer(tower) is None:
        return (
            "expected pooling mean, first or a pooler of one layer with tanh for sentence-transformers, got the pooler "
            f"of {tower.model.config.model_type}, which it has no module for; possible: --formats hf,onnx,mlflow"  # type: ignore[union-attr]
        )
    return graph_problem(model, "sentence-transformers")


def _pooler_layer(tower: Transformer) -> Any | None:
    """The layer of a pooler that is, as BERT's and RoBERTa's, tanh of a linear map of the first token's vector."""
    pooler: Any = tower.model.pooler
    layers = dict(pooler.named_children())
    known = isinstance(layers.get("dense"), nn.Linear) and isinstance(layers.get("activation"), nn.Tanh)
    return layers["dense"] if known and len(layers) == 2 else None


def write(model: Model, folder: Path) -> None:
    """Write the files into an existing folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    quiet()
    tower = model.encoder.tower
    modules: list[Any]
    with temporary_folder() as work:
        if isinstance(tower, Bag):
            modules = [StaticEmbedding(plain(model), embedding_weights=tower.folded())]
        else:
            assert isinstance(tower, Transformer)
            modules = _transformer_modules(tower, model, work)
        if model.config.similarity == "cosine":
            modules.append(Normalize())
        inputs = model.config.encoder.inputs
        whole = SentenceTransformer(
            modules=modules,
            device="cpu",
            prompts={"query": inputs.query_prompt, "document": inputs.code_prompt},
            default_prompt_name="document" if inputs.code_prompt else None,  # a text that nothing is said of is code
        )
        whole.similarity_fn_name = model.config.similarity
        whole.save_pretrained(str(folder), create_model_card=False)


def _transformer_modules(tower: Transformer, model: Model, work: Path) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling
    from sentence_transformers.sentence_transformer.modules import Transformer as SentenceEncoder

    tower.model.save_pretrained(work)  # type: ignore[operator]
    wrapped(model).save_pretrained(work)
    tokens = model.config.tokens
    query_length = None if tokens.query_length == tokens.code_length else tokens.query_length
    encoder = SentenceEncoder(str(work), max_seq_length=tokens.code_length, query_length=query_length)
    pooling = Pooling(encoder.get_embedding_dimension(), "mean" if tower.pooling == "mean" else "cls")
    if tower.pooling != "pooler":
        return [encoder, pooling]
    layer = _pooler_layer(tower)
    assert layer is not None
    dense = Dense(layer.in_features, layer.out_features, activation_function=nn.Tanh())
    dense.linear.load_state_dict(layer.state_dict())
    return [encoder, pooling, dense]


def recipe(model: Model) -> str:
    bag = isinstance(model.encoder.tower, Bag)
    cut = "model[0].tokenizer.enable_truncation(tokens[side])" if bag else "model.max_seq_length = tokens[side]"
    inputs = model.config.encoder.inputs
    prompts = bool(inputs.query_prompt or inputs.code_prompt)
    call = '(model.encode_query if side == "query" else model.encode_document)' if prompts else "model.encode"
    return _RECIPE.format(lengths=lengths(model), cut=cut, call=call)
