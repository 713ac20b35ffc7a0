"""What a documented function is in Python: the entry's functions for `languages.LANGUAGES`."""

from __future__ import annotations

import ast
import re
import warnings

import tree_sitter_python
from tree_sitter import Node

from softnce_ray.corpus.nodes import name_of

_STRINGS = ("string", "concatenated_string")
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__", "__init_subclass__")
_TEST_NAME = re.compile(r"test(_|[A-Z0-9]|$)|(setUp|tearDown)(Class|Module)?$|(setup|teardown)_(class|method|module)$")


def grammar() -> object:
    """The grammar's language pointer, for `tree_sitter.Language`."""
    return tree_sitter_python.language()


def function_name(node: Node) -> str:
    return name_of(node)


def _statements(node: Node) -> list[Node]:
    body = node.child_by_field_name("body")
    if body is None:
        return []
    return [child for child in body.named_children if child.type != "comment"]


def _docstring(node: Node) -> Node | None:
    """The expression statement that is the docstring by its place, or None."""
    body = node.child_by_field_name("body")
    if body is None:
        return None
    for child in body.named_children:
        if child.type == "comment":
            continue
        if child.type != "expression_statement" or child.named_child_count != 1:
            return None
        return child if child.named_children[0].type in _STRINGS else None
    return None


def documentation(node: Node) -> str | None:
    """The docstring's value; None without one, and for f-strings and bytes, which Python ignores too."""
    statement = _docstring(node)
    if statement is None or statement.text is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d" in the docstrings of other people
            # Parentheses let adjacent literals on several lines be one expression.
            value = ast.literal_eval(f"({statement.text.decode()})")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def code(node: Node, source: bytes) -> str:
    """The function without docstring and decorators, moved to the left margin."""
    start, end = node.start_byte, node.end_byte
    statement = _docstring(node)
    if statement is None:
        text = source[start:end]
    else:
        head, tail = source[start : statement.start_byte], source[statement.end_byte : end]
        on_same_line = tail.lstrip(b" \t").startswith(b";")
        text = head + tail.lstrip(b" \t;") if on_same_line else head.rstrip() + tail
    margin = source[source.rfind(b"\n", 0, start) + 1 : start]
    lines = text.decode(errors="replace").replace("\r\n", "\n").split("\n")
    if margin and not margin.strip():
        prefix = margin.decode()
        lines = [line.removeprefix(prefix) for line in lines]
    return "\n".join(lines).rstrip()


def _is_trivial(statement: Node) -> bool:
    if statement.type in ("pass_statement", "raise_statement"):
        return True
    if statement.named_child_count != 1:
        return False
    inner = statement.named_children[0]
    if statement.type == "expression_statement":
        return inner.type == "ellipsis"
    return statement.type == "return_statement" and inner.text == b"NotImplemented"


def exclusion(node: Node, name: str) -> str | None:
    """`constructor`, `protocol_method`, `test_function`, `trivial_body` or None."""
    if name in _CONSTRUCTORS:
        return "constructor"
    if name.startswith("__") and name.endswith("__"):
        return "protocol_method"
    if _TEST_NAME.match(name):
        return "test_function"
    statements = _statements(node)
    if _docstring(node) is not None:
        statements = statements[1:]
    return "trivial_body" if all(map(_is_trivial, statements)) else None
