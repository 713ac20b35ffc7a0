"""The encoder of both sides: token ids of many texts in, one vector per text out.

Texts come ragged: `ids` (T,) int64 holds all texts end to end, `offsets` (B + 1,) int64 says where each
begins and ends. No caller pads.
"""

from softnce_ray.encoders.adapting import (
    EncoderError,
    frozen_digest,
    load_trained,
    merged,
    recompute,
    trained_numbers,
    trained_state,
)
from softnce_ray.encoders.bag import Bag
from softnce_ray.encoders.building import build_encoder
from softnce_ray.encoders.dual import DualEncoder, tensors_of
from softnce_ray.encoders.transformer import PAD_ID, GraphTransformer, Transformer

__all__ = [
    "PAD_ID",
    "Bag",
    "DualEncoder",
    "EncoderError",
    "GraphTransformer",
    "Transformer",
    "build_encoder",
    "frozen_digest",
    "load_trained",
    "merged",
    "recompute",
    "tensors_of",
    "trained_numbers",
    "trained_state",
]
