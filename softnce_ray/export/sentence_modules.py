"""sentence-transformers: the modules that `SentenceTransformer(folder)` loads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from softnce_ray.encoders import Bag, Transformer
from softnce_ray.export.hf import quiet
from softnce_ray.export.tokenizer_files import lengths, plain, wrapped
from softnce_ray.model import Model

_RECIPE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(folder, device="cpu")
tokens = {lengths}


def encode(texts, side="code"):
    {cut}
    return model.encode(list(texts))
"""


def problem(model: Model) -> str | None:
    if getattr(model.encoder.tower, "pooling", None) == "pooler":
        return (
            "expected pooling mean or first for sentence-transformers, got pooler: it has no module for a model's "
            "pooler; possible: --formats hf,onnx,mlflow"
        )
    return None


def write(model: Model, folder: Path) -> None:
    """Write the files into an existing folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    quiet()
    tower = model.encoder.tower
    modules: list[Any]
    with tempfile.TemporaryDirectory() as work:
        if isinstance(tower, Bag):
            modules = [StaticEmbedding(plain(model), embedding_weights=tower.folded())]
        else:
            modules = _transformer_modules(tower, model, Path(work))
        if model.config.similarity == "cosine":
            modules.append(Normalize())
        whole = SentenceTransformer(modules=modules, device="cpu")
        whole.similarity_fn_name = model.config.similarity
        whole.save_pretrained(str(folder), create_model_card=False)


def _transformer_modules(tower: Transformer, model: Model, work: Path) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sentence_transformer.modules import Transformer as SentenceEncoder

    tower.model.save_pretrained(work)  # type: ignore[operator]
    wrapped(model).save_pretrained(work)
    encoder = SentenceEncoder(str(work), max_seq_length=model.config.tokens.code_length)
    return [encoder, Pooling(encoder.get_embedding_dimension(), "cls" if tower.pooling == "first" else tower.pooling)]


def recipe(model: Model) -> str:
    bag = isinstance(model.encoder.tower, Bag)
    cut = "model[0].tokenizer.enable_truncation(tokens[side])" if bag else "model.max_seq_length = tokens[side]"
    return _RECIPE.format(lengths=lengths(model), cut=cut)
