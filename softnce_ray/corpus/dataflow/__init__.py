"""Data-flow graphs of code snippets, as GraphCodeBERT reads them (Guo et al. 2021, arXiv 2009.08366)."""

from softnce_ray.corpus.dataflow.extraction import SYNTAXES, data_flow
from softnce_ray.corpus.dataflow.record import COMES_FROM, COMPUTED_FROM, DataFlow, EdgeKind, FlowEdge, FlowNode
from softnce_ray.corpus.dataflow.subtokens import (
    GraphLimits,
    Graphs,
    GraphText,
    gathered,
    graph_text,
    subtokens_of,
)

__all__ = [
    "COMES_FROM",
    "COMPUTED_FROM",
    "SYNTAXES",
    "DataFlow",
    "EdgeKind",
    "FlowEdge",
    "FlowNode",
    "GraphLimits",
    "GraphText",
    "Graphs",
    "data_flow",
    "gathered",
    "graph_text",
    "subtokens_of",
]
