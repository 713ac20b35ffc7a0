"""ONNX: one graph from padded token ids to vectors, for any number of texts of any length, and an int8 one."""

from __future__ import annotations

import copy
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softnce_ray.commands import command
from softnce_ray.encoders import Bag, DualEncoder
from softnce_ray.export.graph_encoders import graph_problem
from softnce_ray.export.tokenizer_files import lengths, padding, prompted
from softnce_ray.model import Model

OPSET = 20
GRAPH = "model.onnx"
INT8_GRAPH = "model_int8.onnx"

_RECIPE = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{{folder}}/tokenizer.json")
tokenizer.encode_special_tokens = True  # "<pad>" in a text is text
session = onnxruntime.InferenceSession(f"{{folder}}/{graph}", providers=["CPUExecutionProvider"])
tokens = {lengths}{prompts}


def encode(texts, side="code"):
    tokenizer.enable_truncation(tokens[side])
    batch = tokenizer.encode_batch({texts})
    ids = np.array([text.ids for text in batch], np.int64)
    mask = np.array([text.attention_mask for text in batch], np.int64)
    return session.run(["vectors"], {{"input_ids": ids, "attention_mask": mask}})[0]
"""


class _Padded(nn.Module):
    """An encoder of padded texts: (B, L) int64 ids and mask in, (B, width) float32 vectors out."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        tower = encoder.tower
        self.unit = encoder.similarity == "cosine"
        self.bag = isinstance(tower, Bag)
        self.pooling = "mean" if isinstance(tower, Bag) else tower.pooling
        if isinstance(tower, Bag):
            self.table = nn.Parameter(tower.folded(), requires_grad=False)
        else:
            self.model = tower.model

    def looked_up(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = None if self.bag else self.model(input_ids=input_ids, attention_mask=attention_mask)
        hidden = self.looked_up(input_ids) if output is None else output.last_hidden_state
        if output is not None and self.pooling == "pooler":
            vectors = output.pooler_output
        elif self.pooling == "first":
            vectors = hidden[:, 0]
        else:
            mask = attention_mask[..., None].to(hidden.dtype)
            vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        return F.normalize(vectors, dim=-1) if self.unit else vectors


class _PaddedInt8(_Padded):
    """A bag whose table is int8, each row with a scale of its own: |row - stored| is at most half a step of 1/127 of
    the row's largest entry."""

    steps: Tensor
    scale: Tensor

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__(encoder)
        table = self.table.detach()
        scale = table.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny) / 127
        del self.table
        self.register_buffer("steps", (table / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def looked_up(self, ids: Tensor) -> Tensor:
        return self.steps[ids].to(self.scale.dtype) * self.scale[ids]


def problem(model: Model | None = None) -> str | None:
    """See `Format`; without a model only what this Python lacks."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        return f"onnx and mlflow need {', '.join(missing)}: `{command('pip', 'install', 'softnce-ray[onnx]')}`"
    return None if model is None else graph_problem(model, "onnx and mlflow")


def write(model: Model, folder: Path) -> None:
    """Write graph and tokenizer into an existing folder."""
    _write_graph(_Padded(copy.deepcopy(model.encoder)), folder / GRAPH)
    padding(model).save(str(folder / "tokenizer.json"))


def write_int8(model: Model, folder: Path) -> None:
    """Write the int8 graph beside the other: of a bag its table, of a transformer its matrices, whose inputs are
    quantised as they come (dynamic quantisation)."""
    if isinstance(model.encoder.tower, Bag):
        _write_graph(_PaddedInt8(copy.deepcopy(model.encoder)), folder / INT8_GRAPH)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it would advise a step that this graph has no need of
    try:
        quantize_dynamic(folder / GRAPH, folder / INT8_GRAPH, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)


def _write_graph(network: nn.Module, path: Path) -> None:
    network.eval()
    ids = torch.full((2, 8), 5)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # else a transformer's export would do without the mask
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in noisy]
    try:
        for each in noisy:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (ids, mask),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["vectors"],
                dynamic_shapes=(dynamic, dynamic),
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
    finally:
        for each, level in zip(noisy, levels, strict=True):
            each.setLevel(level)


def recipe(model: Model, graph: str = GRAPH) -> str:
    prompts, texts = prompted(model)
    return _RECIPE.format(lengths=lengths(model), graph=graph, prompts=prompts, texts=texts)


def int8_method(model: Model) -> str:
    """What is int8 in the int8 graph, for people."""
    if isinstance(model.encoder.tower, Bag):
        return "the table of embeddings as int8, each row with a scale of its own"
    return "the weights of its matrices as int8 and their inputs quantised as they come (dynamic quantisation)"
