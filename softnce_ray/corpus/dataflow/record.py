"""What is known of one snippet: its tokens, the occurrences of its variables, and where their values come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

COMES_FROM: Literal["comes from"] = "comes from"
COMPUTED_FROM: Literal["computed from"] = "computed from"

EdgeKind = Literal["comes from", "computed from"]


class FlowNode(NamedTuple):
    """One occurrence of a variable: the index of its token and the token's text."""

    token: int
    name: str


class FlowEdge(NamedTuple):
    """The value of node `node` has to do with that of node `source`; both are indexes into `DataFlow.nodes`."""

    node: int
    source: int
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class DataFlow:
    """The data-flow graph of a snippet.

    `tokens` are (start, end) in characters of the snippet, in its order: `code[start:end]` is the token's text.
    `nodes` are in the order of their tokens, and no token has two. `edges` are sorted, each is there once, and none
    leads from a node to itself.
    """

    tokens: tuple[tuple[int, int], ...]
    nodes: tuple[FlowNode, ...]
    edges: tuple[FlowEdge, ...]

    def texts(self, code: str) -> list[str]:
        """The tokens' texts; `code` is the snippet that the graph was made of."""
        return [code[start:end] for start, end in self.tokens]
