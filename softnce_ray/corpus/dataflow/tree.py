"""A syntax tree as flat lists: depth does not matter, and a walk over them costs no calls into the parser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tree_sitter import Node


@dataclass(frozen=True)
class Kinds:
    """Numbers of a grammar's kinds that the flattening asks for."""

    comments: frozenset[int]
    strings: frozenset[int]
    plain_strings: frozenset[int]
    interpolations: frozenset[int]
    bare_texts: frozenset[int]
    joined_strings: frozenset[int]
    blanks: frozenset[int]


@dataclass(frozen=True)
class FlatTree:
    """Nodes in preorder, without comments: the subtree of node i is `i` to `stop[i]`.

    `kind` and `field` are the grammar's numbers (field 0: none). The tokens of a subtree are `token[i]` to
    `token_stop[i]`; `spans` are (start, end) of the tokens in bytes of the source.
    """

    kind: Sequence[int]
    field: Sequence[int]
    stop: Sequence[int]
    token: Sequence[int]
    token_stop: Sequence[int]
    spans: Sequence[tuple[int, int]]

    def children(self, node: int) -> list[int]:
        found, at, end, stop = [], node + 1, self.stop[node], self.stop
        while at < end:
            found.append(at)
            at = stop[at]
        return found


def flatten(root: Node, kinds: Kinds, first: int, last: int) -> FlatTree:
    """The tree below `root`; its leaves are tokens where they lie between the bytes `first` and `last`.

    Comments, statements that are only a text, and leaves without a character are left out. A string is one leaf.
    """
    kind: list[int] = []
    field: list[int] = []
    stop: list[int] = []
    token: list[int] = []
    token_stop: list[int] = []
    spans: list[tuple[int, int]] = []
    open_nodes: list[int] = []
    cursor = root.walk()
    while True:
        node = cursor.node
        assert node is not None
        number = node.kind_id
        if number in kinds.comments or (number in kinds.bare_texts and _is_text(node, kinds)):
            descended = False
        else:
            kind.append(number)
            field.append(cursor.field_id or 0)
            stop.append(0)
            token.append(len(spans))
            token_stop.append(0)
            whole = number in kinds.strings or (number in kinds.plain_strings and _is_plain(node, kinds))
            descended = not whole and cursor.goto_first_child()
            if descended:
                open_nodes.append(len(kind) - 1)
            else:
                start, end = node.start_byte, node.end_byte
                if first <= start < end <= last and number not in kinds.blanks:
                    spans.append((start, end))
                stop[-1] = len(kind)
                token_stop[-1] = len(spans)
        if descended:
            continue
        while not cursor.goto_next_sibling():
            if not open_nodes:
                return FlatTree(kind, field, stop, token, token_stop, spans)
            cursor.goto_parent()
            closed = open_nodes.pop()
            stop[closed] = len(kind)
            token_stop[closed] = len(spans)


def _is_text(statement: Node, kinds: Kinds) -> bool:
    if statement.named_child_count != 1:
        return False
    only = statement.named_child(0)
    return only is not None and (only.kind_id in kinds.strings or only.kind_id in kinds.joined_strings)


def _is_plain(string: Node, kinds: Kinds) -> bool:
    return not any(child.kind_id in kinds.interpolations for child in string.named_children)
