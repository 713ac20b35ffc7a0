"""Texts of different lengths end to end, without padding, and their data-flow graphs where they have some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Graphs:
    """Graphs of many texts end to end, in little room: those of text i are `spans[a:b]` with a, b =
    `node_offsets[i:i + 2]` and `edges[:, a:b]` with a, b = `edge_offsets[i:i + 2]`.

    `spans` (N, 2) and `edges` (2, E) are uint16, both offsets int64 (texts + 1,). Numbers are the text's own, so
    that parts can be cut out and joined. A query has no graph: a text of no nodes.
    """

    spans: np.ndarray
    node_offsets: np.ndarray
    edges: np.ndarray
    edge_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.node_offsets) - 1

    def take(self, rows: np.ndarray) -> Graphs:
        """The graphs of the texts `rows`, copied, in that order."""
        nodes, node_offsets = _runs(self.node_offsets, rows)
        edges, edge_offsets = _runs(self.edge_offsets, rows)
        return Graphs(self.spans[nodes], node_offsets, self.edges[:, edges], edge_offsets)


def no_graphs(texts: int) -> Graphs:
    """The graphs of so many texts that have none."""
    nothing, none = np.zeros((0, 2), np.uint16), np.zeros(texts + 1, np.int64)
    return Graphs(nothing, none, nothing.T, none)


@dataclass(frozen=True)
class Ragged:
    """Texts of different lengths end to end: text i is `ids[offsets[i]:offsets[i+1]]`.

    `graphs` has the graphs of an encoder that reads them, in the texts' order; None: no text has one.
    """

    ids: np.ndarray
    offsets: np.ndarray
    graphs: Graphs | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def places(self) -> np.ndarray:
        """(n,) how many places of a batch each text takes: its tokens and the nodes of its graph."""
        tokens = np.diff(self.offsets)
        return tokens if self.graphs is None else tokens + np.diff(self.graphs.node_offsets)

    def take(self, rows: np.ndarray) -> Ragged:
        """The texts of `rows`, copied, in that order; ids as int64."""
        positions, offsets = _runs(self.offsets, rows)
        graphs = None if self.graphs is None else self.graphs.take(rows)
        return Ragged(self.ids[positions].astype(np.int64), offsets, graphs)


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """All texts of `parts`, one part after another."""
    offsets = _joined([part.offsets for part in parts])
    graphs = None
    if any(part.graphs is not None for part in parts):
        each = [no_graphs(len(part)) if part.graphs is None else part.graphs for part in parts]
        graphs = Graphs(
            np.concatenate([part.spans for part in each]),
            _joined([part.node_offsets for part in each]),
            np.concatenate([part.edges for part in each], axis=1),
            _joined([part.edge_offsets for part in each]),
        )
    return Ragged(np.concatenate([part.ids for part in parts]), offsets, graphs)


def _joined(offsets: Sequence[np.ndarray]) -> np.ndarray:
    ends = np.cumsum([0] + [int(each[-1]) for each in offsets])
    return np.concatenate([*(each[:-1] + end for each, end in zip(offsets, ends[:-1], strict=True)), ends[-1:]])


def _runs(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of what belongs to `rows`, and their offsets."""
    starts = offsets[rows]
    lengths = offsets[np.asarray(rows) + 1] - starts
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(ends[-1]) + np.repeat(starts - ends[:-1], lengths), ends
