"""What all languages read off a node of a syntax tree."""

from __future__ import annotations

from tree_sitter import Node


def text_of(node: Node | None) -> str:
    """The source text of a node; empty for none."""
    return node.text.decode(errors="replace") if node is not None and node.text is not None else ""


def name_of(node: Node) -> str:
    """The text of a node's field `name`; empty where it has none."""
    return text_of(node.child_by_field_name("name"))
