"""From a data-flow graph to what a model of subtokens stores of it: ids, which of them each node is, and edges.

A text is `[CLS] subtokens [SEP]`; a node is a run of its subtokens. Decisions, beside the published model's inputs
(Guo et al. 2021): a node without any edge is left out, as there; so is one whose subtokens are not all inside the
text, which is there kept without them. Both kinds of edges count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from softnce_ray.corpus.dataflow.record import DataFlow
from softnce_ray.corpus.ragged import Graphs

Subtokens = Callable[[str], Sequence[int]]

_REMEMBERED = 200_000


@dataclass(frozen=True)
class GraphLimits:
    """Lengths of a text with its graph.

    `code_length` counts subtokens with `[CLS]` and `[SEP]`, `flow_length` nodes. What one of the two leaves of its
    length is the other's, as in the published model's released inputs: nodes take at most `flow_length` places from
    subtokens, and then every place that these leave free.
    """

    code_length: int = 256
    flow_length: int = 64

    def __post_init__(self) -> None:
        if self.code_length < 2 or self.flow_length < 0:
            raise ValueError(
                f"expected code_length of at least 2 and flow_length of at least 0, got {self.code_length} and "
                f"{self.flow_length}"
            )


@dataclass(frozen=True)
class GraphText:
    """One text: `ids` (T,) int64 with `[CLS]` and `[SEP]`; node k is `ids[spans[k, 0]:spans[k, 1]]`, spans (n, 2)
    int64; the value of node `edges[0, e]` comes from node `edges[1, e]`, edges (2, E) int64, sorted, each once."""

    ids: np.ndarray
    spans: np.ndarray
    edges: np.ndarray


def subtokens_of(tokenizer: Tokenizer) -> Subtokens:
    """The ids of a piece of text, without special tokens and never cut; answers are remembered."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True

    @lru_cache(_REMEMBERED)
    def ids_of(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    return ids_of


def graph_text(
    flow: DataFlow, code: str, subtokens: Subtokens, limits: GraphLimits, *, cls_id: int, sep_id: int
) -> GraphText:
    """A snippet as the model reads it. Each token is cut into subtokens by itself, with a space before all but the
    first: that is how byte-level tokenizers write the beginning of a word."""
    connected = sorted({place for edge in flow.edges for place in (edge.node, edge.source)})
    room = limits.code_length - 2 + limits.flow_length - min(len(connected), limits.flow_length)
    ids: list[int] = []
    starts: list[int] = []
    for start, end in flow.tokens:
        starts.append(len(ids))
        if len(ids) >= room:
            break
        ids += subtokens(" " + code[start:end] if start != flow.tokens[0][0] else code[start:end])
    else:
        starts.append(len(ids))
    del ids[room:]

    kept: dict[int, int] = {}
    spans: list[tuple[int, int]] = []
    most = limits.code_length + limits.flow_length - len(ids) - 2
    for place in connected:
        token = flow.nodes[place].token
        if len(kept) == most or token + 1 >= len(starts):
            break
        if starts[token] < starts[token + 1] <= len(ids):
            kept[place] = len(spans)
            spans.append((starts[token] + 1, starts[token + 1] + 1))
    pairs = {(kept[edge.node], kept[edge.source]) for edge in flow.edges if edge.node in kept and edge.source in kept}
    return GraphText(
        np.array([cls_id, *ids, sep_id], np.int64),
        np.array(spans, np.int64).reshape(-1, 2),
        np.array(sorted(pairs), np.int64).reshape(-1, 2).T,
    )


def gathered(texts: Iterable[GraphText]) -> Graphs:
    """The graphs of `texts` in their order."""
    given = list(texts)
    empty = np.zeros((0, 2), np.uint16)
    return Graphs(
        np.concatenate([empty, *(text.spans for text in given)]).astype(np.uint16),
        np.cumsum([0, *(len(text.spans) for text in given)]),
        np.concatenate([empty.T, *(text.edges for text in given)], axis=1).astype(np.uint16),
        np.cumsum([0, *(text.edges.shape[1] for text in given)]),
    )
