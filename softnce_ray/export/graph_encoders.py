"""Encoders that read data flow, as far as formats cannot have them."""

from __future__ import annotations

from softnce_ray.encoders import GraphTransformer
from softnce_ray.model import Model


def graph_problem(model: Model, format_name: str) -> str | None:
    """Why a model that reads data flow cannot have a format that other libraries read alone; None for other models."""
    if not isinstance(model.encoder.tower, GraphTransformer):
        return None
    return (
        f"expected an encoder of tokens alone for {format_name}, got {model.config.encoder.kind}, which reads the data "
        "flow of functions: no library but this package extracts it; possible: --formats hf, which index, search and "
        "evaluate read"
    )
