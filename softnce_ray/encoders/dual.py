"""The encoder of both sides, whatever its tower."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softnce_ray.corpus.ragged import Ragged
from softnce_ray.encoders.bag import Bag
from softnce_ray.encoders.transformer import GraphTransformer, Transformer
from softnce_ray.graph_inputs import GraphTensors

Tower = Bag | Transformer | GraphTransformer


class DualEncoder(nn.Module):
    """One network for queries and code (siamese).

    `forward(*tensors_of(texts, device))` gives (B, width) float32 vectors: of length one for `similarity: cosine`, as
    they are for `dot`. The score of a pair is their dot product, divided by the temperature in training.
    """

    def __init__(self, tower: Tower, similarity: str) -> None:
        super().__init__()
        self.tower, self.similarity = tower, similarity

    def forward(self, ids: Tensor, offsets: Tensor, graphs: GraphTensors | None = None) -> Tensor:
        given = (ids, offsets) if graphs is None else (ids, offsets, graphs)
        vectors = self.tower(*given)
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))  # of autocast; float64 stays
        return F.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors


def tensors_of(texts: Ragged, device: str | torch.device) -> tuple[Tensor, Tensor, GraphTensors | None]:
    """What a `DualEncoder` takes of texts: ids, offsets and, where there are some, graphs."""
    ids, offsets = _to(texts.ids, device), _to(texts.offsets, device)
    if (graphs := texts.graphs) is None:
        return ids, offsets, None
    arrays = (graphs.spans, graphs.node_offsets, graphs.edges, graphs.edge_offsets)
    return ids, offsets, GraphTensors(*(_to(array.astype(np.int64), device) for array in arrays))


def _to(array: np.ndarray, device: str | torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
