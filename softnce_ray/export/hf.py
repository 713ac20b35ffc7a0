"""Hugging Face: safetensors, tokenizer and configuration, for AutoModel where there is one.

The bag of embeddings is no architecture of transformers. Its folder holds a table and a tokenizer, and a recipe of a
few lines instead of code that a loader would have to trust. An encoder that reads data flow is one of transformers, but
what it is fed takes this package to make: its recipe imports it.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from softnce_ray.encoders import Bag, GraphTransformer
from softnce_ray.export.tokenizer_files import lengths, plain, prompted, wrapped
from softnce_ray.model import Model

_TRANSFORMER = """\
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
tokens = {lengths}{prompts}


def encode(texts, side="code"):
    batch = tokenizer({texts}, padding=True, truncation=True, max_length=tokens[side], return_tensors="pt")
    with torch.inference_mode():
        output = network(**batch)
    {pooling}
    return {vectors}.numpy()
"""

_POOLING = {
    "mean": """mask = batch["attention_mask"][..., None]
    vectors = (output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)""",
    "first": "vectors = output.last_hidden_state[:, 0]",
    "pooler": "vectors = output.pooler_output",
}

_BAG = """\
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
table = load_file(f"{{folder}}/model.safetensors")["embedding.weight"]
tokens = {lengths}


def encode(texts, side="code"):
    tokenizer.enable_truncation(tokens[side])
    vectors = np.zeros((len(texts), table.shape[1]), np.float32)
    for row, text in enumerate(tokenizer.encode_batch(texts)):
        if text.ids:  # an empty text has the zero vector
            vectors[row] = table[text.ids].mean(axis=0)
    {vectors}
"""


_GRAPH = """\
import softnce_ray.export

model = softnce_ray.export.load_export(folder)


def encode(texts, side="code", language="python"):
    return model.encode_queries(texts) if side == "query" else model.encode_codes(texts, language)
"""


def quiet() -> None:
    """Let transformers keep what it says of loading and writing to itself: it concerns the check, not the user."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def problem(model: Model) -> str | None:
    return None


def write(model: Model, folder: Path) -> None:
    """Write the files into an existing folder."""
    tower = model.encoder.tower
    if not isinstance(tower, Bag):
        quiet()
        tower.model.save_pretrained(folder)  # type: ignore[operator]
        wrapped(model).save_pretrained(folder)
        return
    table = tower.folded().contiguous()
    save_file({"embedding.weight": table}, folder / "model.safetensors", {"format": "pt"})
    plain(model).save(str(folder / "tokenizer.json"))
    vocabulary, width = table.shape
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "pooling": "mean",
        "similarity": model.config.similarity,
        "max_query_tokens": model.config.tokens.query_length,
        "max_code_tokens": model.config.tokens.code_length,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def recipe(model: Model) -> str:
    tower, unit = model.encoder.tower, model.config.similarity == "cosine"
    if isinstance(tower, Bag):
        normal = "return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)"
        return _BAG.format(lengths=lengths(model), vectors=normal if unit else "return vectors")
    if isinstance(tower, GraphTransformer):
        return _GRAPH
    normal = "torch.nn.functional.normalize(vectors, dim=-1)"
    prompts, texts = prompted(model)
    return _TRANSFORMER.format(
        lengths=lengths(model),
        prompts=prompts,
        texts=texts,
        pooling=_POOLING[tower.pooling],
        vectors=normal if unit else "vectors",
    )
