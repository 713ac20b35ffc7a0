"""Use of a model: indexes of source code, search in them, and evaluation on any corpus or on human judgements."""

from softnce_ray.retrieval.embedding import Embedder, open_embedder
from softnce_ray.retrieval.evaluating import Evaluation, Line, evaluate_corpus, evaluate_judgements
from softnce_ray.retrieval.index import Hit, Index, RetrievalError
from softnce_ray.retrieval.indexing import Indexed, build_index
from softnce_ray.retrieval.searching import Answered, answer_from_corpus, answer_from_index, search, unknown_words

__all__ = [
    "Answered",
    "Embedder",
    "Evaluation",
    "Hit",
    "Index",
    "Indexed",
    "Line",
    "RetrievalError",
    "answer_from_corpus",
    "answer_from_index",
    "build_index",
    "evaluate_corpus",
    "evaluate_judgements",
    "open_embedder",
    "search",
    "unknown_words",
]
