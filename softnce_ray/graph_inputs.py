"""Texts with their data-flow graphs as GraphCodeBERT reads them (Guo et al. 2021, arXiv 2009.08366).

A text of T subtokens (`[CLS]` and `[SEP]` among them) and n nodes takes T + n places: first the subtokens, at
positions 2, 3, …, then the nodes, all at position 0, then padding, at position 1. Who sees whom (a row of the mask
sees its columns):

- a subtoken sees all subtokens;
- `[CLS]` and `[SEP]` see the nodes too;
- a node sees the subtokens that it is, and they see it;
- a node sees the nodes that its value comes from, but neither itself nor `[CLS]` and `[SEP]`;
- padding sees nothing, and nobody sees it.

That is how the published weights were trained, by the inputs that were released with them. The publication's text lets
a node see itself as well, and others have it see the special tokens: neither is what these weights know.

The word embedding of a node is the mean of those of the subtokens that it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NODE_POSITION = 0
PADDING_POSITION = 1
FIRST_POSITION = 2


@dataclass(frozen=True)
class GraphTensors:
    """The arrays of `corpus.dataflow.Graphs` for a batch of B texts, all int64: `spans` (N, 2), `edges` (2, E) and
    both offsets (B + 1,)."""

    spans: Tensor
    node_offsets: Tensor
    edges: Tensor
    edge_offsets: Tensor

    def take(self, rows: Tensor) -> GraphTensors:
        """The graphs of the texts `rows`, in that order."""
        nodes, node_offsets = _runs(self.node_offsets, rows)
        edges, edge_offsets = _runs(self.edge_offsets, rows)
        return GraphTensors(self.spans[nodes], node_offsets, self.edges[:, edges], edge_offsets)


@dataclass(frozen=True)
class GraphInputs:
    """A padded batch of B texts and L places.

    `ids` and `positions` (B, L) int64; `mask` (B, L, L) bool, where `mask[b, i, j]` says that place i sees place j.
    Nodes have numbers through the batch: node k is at place `node_places[k]` of the flattened (B·L,) batch, and for
    each of its subtokens `part_nodes` (P,) holds k and `part_places` (P,) the subtoken's place, flattened as well.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    node_places: Tensor
    part_nodes: Tensor
    part_places: Tensor


def graph_inputs(
    ids: Tensor,
    offsets: Tensor,
    graphs: GraphTensors | None,
    *,
    pad_id: int,
    node_id: int,
    length: int | None = None,
) -> GraphInputs:
    """Pad a batch of texts and build its mask, on the device of `ids`.

    Args:
      ids: (T,) int64, all texts end to end, each with its `[CLS]` and `[SEP]`.
      offsets: (B + 1,) int64, where each text begins and ends.
      graphs: of these texts; None where no text has one (queries).
      pad_id, node_id: ids at the places of padding and of nodes (the publication: `<unk>`; its embedding is not
        used, see `with_node_embeddings`).
      length: places per text; None: as many as the longest needs.

    Raises:
      ValueError: a text and its graph need more places than `length`, or there are not as many graphs as texts.
    """
    device, texts = ids.device, len(offsets) - 1
    if graphs is None:
        nothing = ids.new_zeros(0)
        none = ids.new_zeros(texts + 1)
        graphs = GraphTensors(nothing.reshape(0, 2), none, nothing.reshape(2, 0), none)
    if len(graphs.node_offsets) != texts + 1:
        raise ValueError(f"expected a graph for each of {texts} texts, got {len(graphs.node_offsets) - 1}")
    tokens, nodes = offsets.diff(), graphs.node_offsets.diff()
    used = tokens + nodes
    longest = int(used.max()) if texts else 0
    if length is not None and longest > length:
        raise ValueError(f"expected at most {length} subtokens and nodes in a text, got {longest}")
    places = longest if length is None else length

    place = torch.arange(places, device=device)
    is_token, is_used = place < tokens[:, None], place < used[:, None]
    padded = torch.full((texts, places), pad_id, dtype=torch.int64, device=device)
    padded[is_token] = ids
    padded[is_used & ~is_token] = node_id
    positions = torch.where(is_token, place + FIRST_POSITION, torch.where(is_used, NODE_POSITION, PADDING_POSITION))

    text_of_node = torch.repeat_interleave(nodes)
    node = torch.arange(len(text_of_node), device=device)
    row = tokens[text_of_node] + node - graphs.node_offsets[text_of_node]
    sizes = graphs.spans[:, 1] - graphs.spans[:, 0]
    part_nodes = torch.repeat_interleave(sizes)
    first_part = sizes.cumsum(0) - sizes
    part = graphs.spans[part_nodes, 0] + torch.arange(len(part_nodes), device=device) - first_part[part_nodes]
    text_of_part = text_of_node[part_nodes]
    text_of_edge = torch.repeat_interleave(graphs.edge_offsets.diff())
    ends = graphs.edges + tokens[text_of_edge]

    mask = is_token[:, :, None] & is_token[:, None, :]
    every = torch.arange(texts, device=device)
    first, last = torch.zeros_like(tokens), (tokens - 1).clamp_min(0)
    if places:
        mask[every, first] = is_used
        mask[every, last] = is_used
    mask[text_of_part, row[part_nodes], part] = True
    mask[text_of_part, part, row[part_nodes]] = True
    mask[text_of_edge, ends[0], ends[1]] = True
    return GraphInputs(padded, positions, mask, text_of_node * places + row, part_nodes, text_of_part * places + part)


def with_node_embeddings(embeddings: Tensor, inputs: GraphInputs) -> Tensor:
    """(B, L, W) word embeddings, with each node's replaced by the mean of those of its subtokens."""
    flat = embeddings.flatten(0, 1)
    nodes = len(inputs.node_places)
    if not nodes:
        return embeddings
    count = torch.bincount(inputs.part_nodes, minlength=nodes).clamp_min(1)[:, None].to(flat.dtype)
    sums = flat.new_zeros(nodes, flat.shape[1]).index_add(0, inputs.part_nodes, flat[inputs.part_places])
    return flat.index_copy(0, inputs.node_places, sums / count).view_as(embeddings)


def _runs(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Places of what belongs to `rows`, and their offsets."""
    lengths = offsets[rows + 1] - offsets[rows]
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    row = torch.repeat_interleave(lengths)
    return torch.arange(int(ends[-1]), device=offsets.device) - ends[row] + offsets[rows][row], ends
