"""Use of a model: indexes of source code, search in them, and evaluation on any corpus or on human judgements."""

from softnce_ray.retrieval.embedding import Embedder, open_embedder
from softnce_ray.retrieval.evaluating import Evaluation, Line, evaluate_corpus, evaluate_judgements
from softnce_ray.retrieval.index import Hit, Index, Indexed, RetrievalError, build_index
from softnce_ray.retrieval.searching import search

__all__ = [
    "Embedder",
    "Evaluation",
    "Hit",
    "Index",
    "Indexed",
    "Line",
    "RetrievalError",
    "build_index",
    "evaluate_corpus",
    "evaluate_judgements",
    "open_embedder",
    "search",
]
