"""What a documented function is in PHP: the entry's functions for `languages.LANGUAGES`."""

from __future__ import annotations

import re

import tree_sitter_php
from tree_sitter import Node

from softnce_ray.corpus import docblocks
from softnce_ray.corpus.nodes import name_of, text_of

FUNCTIONS = "[(function_definition) (method_declaration)] @function"

_TYPES = ("class_declaration", "trait_declaration", "interface_declaration", "enum_declaration")
_PROTOCOL_METHODS = (
    "__call",
    "__callstatic",
    "__clone",
    "__debuginfo",
    "__destruct",
    "__get",
    "__invoke",
    "__isset",
    "__serialize",
    "__set",
    "__set_state",
    "__sleep",
    "__tostring",
    "__unserialize",
    "__unset",
    "__wakeup",
)
_TEST_NAME = re.compile(r"test(?:[A-Z_0-9]|$)|(?:setUp|tearDown)(?:BeforeClass|AfterClass)?$")
_TEST_CLASS = re.compile(r"(?:.*(?:Test|Tests|TestCase|_UnitTestCase|Cest)|Tests?_.*)$")
_TEST_PARENT = re.compile(r"(?:TestCase|TestBase|UnitTestCase)$")


def grammar() -> object:
    """The grammar's language pointer, for `tree_sitter.Language`."""
    return tree_sitter_php.language_php()


def function_name(node: Node) -> str:
    return name_of(node)


def _head_docblocks(node: Node) -> list[Node]:
    """Comments between the attributes and the name: PHP takes them as documentation too."""
    name = node.child_by_field_name("name")
    end = name.start_byte if name is not None else node.start_byte
    return [child for child in node.children if child.start_byte < end and docblocks.is_docblock(child)]


def documentation(node: Node) -> str | None:
    """What the docblock says before its tags, as a reader sees it; None without one."""
    comment = docblocks.docblock_before(node)
    if comment is None:
        comment = next(iter(_head_docblocks(node)), None)
    return docblocks.description(comment) if comment is not None else None


def code(node: Node, source: bytes) -> str:
    """The function with its attributes and modifiers, moved to the left margin; no `<?php` before it."""
    return docblocks.source_without(node, source, _head_docblocks(node))


def _class(node: Node) -> Node | None:
    """The class that a method belongs to, also when it has no name; None for a function."""
    if node.type != "method_declaration" or node.parent is None:
        return None
    return node.parent.parent


def _is_test(node: Node, name: str, owner: Node | None) -> bool:
    parameters = node.child_by_field_name("parameters")
    if _TEST_NAME.match(name) and (parameters is None or not parameters.named_child_count):
        return True
    while owner is not None:
        if owner.type in _TYPES and _TEST_CLASS.match(function_name(owner)):
            return True
        parents = [child for child in owner.children if child.type == "base_clause"]
        if any(_TEST_PARENT.search(text_of(parent)) for parent in parents):
            return True
        owner = owner.parent
    return False


def exclusion(node: Node, name: str) -> str | None:
    """`constructor`, `protocol_method`, `test_function`, `no_body`, `trivial_body` or None."""
    owner = _class(node)
    if owner is not None:
        # PHP has no upper and lower case in names of functions; until PHP 7 a class's name was its constructor's.
        if name.lower() == "__construct" or name.lower() == function_name(owner).lower():
            return "constructor"
        if name.lower() in _PROTOCOL_METHODS:
            return "protocol_method"
    if _is_test(node, name, owner):
        return "test_function"
    body = node.child_by_field_name("body")
    if body is None:
        return "no_body"
    return "trivial_body" if all(map(_is_trivial, body.named_children)) else None


def _is_trivial(statement: Node) -> bool:
    if statement.type == "comment":
        return True
    # In PHP "throw" is an expression.
    inner = statement.named_children
    return statement.type == "expression_statement" and len(inner) == 1 and inner[0].type == "throw_expression"
