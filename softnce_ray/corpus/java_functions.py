"""What a documented function is in Java: the entry's functions for `languages.LANGUAGES`."""

from __future__ import annotations

import re

import tree_sitter_java
from tree_sitter import Node

from softnce_ray.corpus import docblocks
from softnce_ray.corpus.nodes import name_of, text_of

# Constructors are captured so that the classes inside them are not mined: they are a part of their code.
FUNCTIONS = "[(method_declaration) (constructor_declaration) (compact_constructor_declaration)] @function"

_CONSTRUCTORS = ("constructor_declaration", "compact_constructor_declaration")
_TYPES = ("class_declaration", "interface_declaration", "enum_declaration", "record_declaration")
# What the language itself calls, with the number of parameters: java.lang.Object, Comparable, serialization.
_PROTOCOL_METHODS = {
    ("clone", 0),
    ("compareTo", 1),
    ("equals", 1),
    ("finalize", 0),
    ("hashCode", 0),
    ("readObject", 1),
    ("readObjectNoData", 0),
    ("readResolve", 0),
    ("toString", 0),
    ("writeObject", 1),
    ("writeReplace", 0),
}
_TEST_ANNOTATION = re.compile(
    r"(?:.*\.)?(?:Test|ParameterizedTest|RepeatedTest|TestFactory|TestTemplate|Theory|DataProvider|"
    r"(?:Before|After)(?:Class|All|Each|Method|Suite|Groups)?)$"
)
_TEST_METHOD = re.compile(r"test(?:[A-Z_0-9]|$)|(?:setUp|tearDown)$")
_TEST_CLASS = re.compile(r"Test[A-Z]|.*Test(?:s|Case)?$")
_TEST_PARENT = re.compile(r"\bTestCase$")
# Java reads these in comments too; half a character and what cannot be printed stay as they are written.
_ESCAPE = re.compile(r"(?<!\\)\\u+([0-9A-Fa-f]{4})")
# Methods that are generated from a resource file have an entry of it as their comment: "err.missing=\".
_PROPERTY = re.compile(r"[\w-]+(?:\.[\w-]+)+\s?=")


def grammar() -> object:
    """The grammar's language pointer, for `tree_sitter.Language`."""
    return tree_sitter_java.language()


def function_name(node: Node) -> str:
    return name_of(node)


def _modifiers(node: Node) -> list[Node]:
    return [each for child in node.children if child.type == "modifiers" for each in child.children]


def _head_docblocks(node: Node) -> list[Node]:
    """Comments among the annotations and modifiers that would be the documentation above them."""
    body = node.child_by_field_name("body")
    end = body.start_byte if body is not None else node.end_byte
    inside = [*_modifiers(node), *(child for child in node.children if child.start_byte < end)]
    return sorted(filter(docblocks.is_docblock, inside), key=lambda each: each.start_byte)


def documentation(node: Node) -> str | None:
    """What the doc comment says before its tags, as a reader of the rendered page sees it; None without one."""
    comment = docblocks.docblock_before(node)
    if comment is None:
        comment = next(iter(_head_docblocks(node)), None)
    text = docblocks.description(comment) if comment is not None else None
    if text is None or _PROPERTY.match(text):
        return None
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character.isprintable() else escape[0]


def code(node: Node, source: bytes) -> str:
    """The declaration with annotations and modifiers, as CodeSearchNet has it, moved to the left margin."""
    return docblocks.source_without(node, source, _head_docblocks(node))


def _is_test(node: Node, name: str, parameters: int) -> bool:
    for modifier in _modifiers(node):
        if modifier.type.endswith("annotation") and _TEST_ANNOTATION.match(function_name(modifier)):
            return True
    # JUnit 3 calls methods by their names; testBit(int) tests a bit.
    if not parameters and _TEST_METHOD.match(name) and text_of(node.child_by_field_name("type")) == "void":
        return True
    outer = node.parent
    while outer is not None:
        if outer.type in _TYPES and _TEST_CLASS.match(function_name(outer)):
            return True
        if _TEST_PARENT.search(text_of(outer.child_by_field_name("superclass"))):
            return True
        outer = outer.parent
    return False


def exclusion(node: Node, name: str) -> str | None:
    """`constructor`, `protocol_method`, `test_function`, `no_body`, `trivial_body` or None."""
    if node.type in _CONSTRUCTORS:
        return "constructor"
    found = node.child_by_field_name("parameters")
    parameters = sum(child.type in ("formal_parameter", "spread_parameter") for child in found.children) if found else 0
    if (name, parameters) in _PROTOCOL_METHODS:
        return "protocol_method"
    if _is_test(node, name, parameters):
        return "test_function"
    body = node.child_by_field_name("body")
    if body is None:
        return "no_body"
    statements = [child for child in body.named_children if not child.type.endswith("comment")]
    return "trivial_body" if all(each.type == "throw_statement" for each in statements) else None
