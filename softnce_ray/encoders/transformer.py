"""Networks of transformers as towers: ragged texts in, one pooled vector per text out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softnce_ray.encoders.attention import use_rows
from softnce_ray.encoders.dropout import replace_dropout
from softnce_ray.encoders.packing import Row, groups, similar
from softnce_ray.graph_inputs import GraphTensors, graph_inputs, with_node_embeddings

PAD_ID = 1
"""Padding of tokenizers and models made here; a named model brings its own."""

UNKNOWN_ID = 3
"""RoBERTa's `<unk>`, which stands at the places of nodes; what its embedding is does not matter."""


_PACKED = {"bert": False, "roberta": True, "camembert": True, "xlm-roberta": True}
"""Architectures whose texts can follow one another in one row, and whether they count positions from padding's id + 1
(others count from 0)."""


class Transformer(nn.Module):
    """A transformers model, pooled.

    BERTs and RoBERTas read the texts in one row, without padding: see `attention`. In others texts of similar length
    are padded together, never to the maximum.
    """

    def __init__(self, model: Any, pooling: str, pad_id: int) -> None:
        super().__init__()
        replace_dropout(model)
        self.packed = model.config.model_type in _PACKED and not model.config.is_decoder
        if self.packed:
            use_rows(model)
        self.model, self.pooling, self.pad_id = model, pooling, pad_id

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        lengths = offsets.diff()
        if not len(ids):  # not one token to look up
            return _no_vectors(ids, len(lengths), self.model)
        order = torch.argsort(lengths, stable=True)
        if self.packed:
            return self._row(ids, offsets, order)[torch.argsort(order)]
        pooled = [self._encode(ids, offsets[group], lengths[group]) for group in _groups(order, lengths)]
        return torch.cat(pooled)[torch.argsort(order)]

    def _row(self, ids: Tensor, offsets: Tensor, order: Tensor) -> Tensor:
        """Vectors of texts in an order from the shortest to the longest."""
        ids, offsets = _taken(ids, offsets, order)
        lengths = offsets.diff()
        sizes = [size for size in lengths.tolist() if size]
        full = slice(len(lengths) - len(sizes), None)
        config = self.model.config
        place = torch.arange(len(ids), device=ids.device) - torch.repeat_interleave(offsets[:-1], lengths)
        row = Row(groups(sizes, config.num_attention_heads, ids.device))
        first = self.pad_id + 1 if _PACKED[config.model_type] else 0
        output = self.model(
            input_ids=ids[None],
            position_ids=(place + first)[None],
            token_type_ids=torch.zeros_like(ids)[None],
            packed=row,
        )
        if not row.read:
            raise RuntimeError(
                f"expected a {config.model_type} of transformers that hands `packed` on to its attention, got one that "
                "does not: its texts would have seen one another; use the version of transformers that this package "
                "was tested with"
            )
        hidden = output.last_hidden_state[0]
        if self.pooling == "mean":
            pooled = _means(hidden, lengths[full])
        else:
            pooled = hidden[offsets[:-1][full]]
            if self.pooling == "pooler":
                pooled = self.model.pooler(pooled[:, None])
        return torch.cat([pooled.new_zeros(len(lengths) - len(sizes), pooled.shape[1]), pooled])

    def _encode(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(max(int(lengths.max()), 1), device=ids.device)
        mask = place < lengths[:, None]
        padded = ids[torch.where(mask, starts[:, None] + place, 0)].masked_fill(~mask, self.pad_id)
        return _pooled(self.model(input_ids=padded, attention_mask=mask.long()), mask, self.pooling)


class GraphTransformer(nn.Module):
    """A RoBERTa that reads data-flow graphs beside texts, pooled: see `graph_inputs`."""

    def __init__(self, model: Any, pooling: str, pad_id: int) -> None:
        super().__init__()
        replace_dropout(model)
        model.set_attn_implementation("sdpa")  # whose masks may be of bool, and are of no type of number
        self.model, self.pooling, self.pad_id = model, pooling, pad_id

    def forward(self, ids: Tensor, offsets: Tensor, graphs: GraphTensors | None = None) -> Tensor:
        """`graphs` are those of all texts, without nodes for texts that have none; None: no text has one."""
        places = offsets.diff() if graphs is None else offsets.diff() + graphs.node_offsets.diff()
        if not len(ids):
            return _no_vectors(ids, len(places), self.model)
        order = torch.argsort(places, stable=True)
        pooled = []
        for group in _groups(order, places):
            part = None if graphs is None else graphs.take(group)
            pooled.append(self._encode(*_taken(ids, offsets, group), part))
        return torch.cat(pooled)[torch.argsort(order)]

    def _encode(self, ids: Tensor, offsets: Tensor, graphs: GraphTensors | None) -> Tensor:
        inputs = graph_inputs(ids, offsets, graphs, pad_id=self.pad_id, node_id=UNKNOWN_ID)
        embeddings = self.model.get_input_embeddings()(inputs.ids)
        sees = inputs.mask.clone()
        sees[..., 0] |= ~sees.any(dim=-1)  # the softmax of padding, which nobody sees, must not be that of nothing
        output = self.model(
            inputs_embeds=with_node_embeddings(embeddings, inputs),
            attention_mask=sees[:, None],
            position_ids=inputs.positions,
        )
        return _pooled(output, inputs.positions >= self.pad_id + 1, self.pooling)


def _no_vectors(ids: Tensor, texts: int, model: Any) -> Tensor:
    return ids.new_zeros(texts, model.config.hidden_size, dtype=torch.float32)


def _pooled(output: Any, is_token: Tensor, pooling: str) -> Tensor:
    """(B, width) of a network's output; `is_token` (B, L) bool says where the tokens are."""
    if pooling == "pooler":
        return output.pooler_output
    hidden = output.last_hidden_state
    if pooling == "first":
        return hidden[:, 0]
    return (hidden * is_token[..., None]).sum(dim=1) / is_token.sum(dim=1).clamp_min(1)[:, None].to(hidden.dtype)


def _means(hidden: Tensor, lengths: Tensor) -> Tensor:
    """(B, width) float32 or wider, of (T, width) and B lengths."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if hidden.device.type != "cpu":  # whose sums by index come in any order, and so are rounded in any way
        return torch.segment_reduce(hidden, "mean", lengths=lengths, axis=0, unsafe=True)
    text = torch.repeat_interleave(lengths)
    return hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, text, hidden) / lengths[:, None]


def _taken(ids: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and offsets of some texts, in the order of `rows`."""
    lengths = offsets.diff()[rows]
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    row = torch.repeat_interleave(lengths)
    return ids[torch.arange(int(ends[-1]), device=ids.device) - ends[row] + offsets[rows][row]], ends


def _groups(order: Tensor, lengths: Tensor) -> list[Tensor]:
    return list(torch.tensor_split(order, similar(lengths[order].tolist())))
