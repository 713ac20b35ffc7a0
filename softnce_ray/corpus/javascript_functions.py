"""What a documented function is in JavaScript: the entry's functions for `languages.LANGUAGES`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import tree_sitter_javascript
from tree_sitter import Node

from softnce_ray.corpus.docblocks import is_docblock, parse_docblock, shown_text, source_without
from softnce_ray.corpus.nodes import name_of, text_of

FUNCTIONS = """
[
  (function_declaration) (generator_function_declaration) (function_expression) (generator_function)
  (arrow_function) (method_definition)
] @function
"""

# Where a function stands inside what is documented: the field of the parent that holds it, None for any.
_HOLDERS: dict[str, str | None] = {
    "parenthesized_expression": None,
    "expression_statement": None,
    "export_statement": None,
    "variable_declarator": "value",
    "assignment_expression": "right",
    "augmented_assignment_expression": "right",
    "binary_expression": "right",
    "pair": "value",
    "field_definition": "value",
}
_DECLARATIONS = ("lexical_declaration", "variable_declaration")
# What tools want to read between the documentation and the function.
_TOOL_COMMENT = re.compile(
    rb"""(?://|/\*+)\s*(?:
        (?:eslint|jshint|jslint|jscs|tslint|oxlint|biome|prettier|dprint|istanbul|c8|v8|webpack|flowlint|sonar|noinspection)\b
      | [@\#]__[A-Z_]+__ | @ts-[a-z]+ | \$Flow\w+ | NOSONAR
      | @type\s*\{[^\n]*\*/$
    )""",
    re.VERBOSE,
)
_FILE_TAGS = ("license", "licence", "copyright", "preserve", "file", "fileoverview", "overview", "module")
# Blocks with these tell of something that has no code of its own; the next function only happens to follow.
_OTHER_TAGS = (*_FILE_TAGS, "overload", "typedef", "callback", "event", "namespace", "lends")
_CONSTRUCTOR_TAGS = ("constructor", "class", "constructs")
_LICENCE = re.compile(rb"\bcopyright\b|\xc2\xa9|\blicen[sc]ed?\b|\bSPDX-", re.IGNORECASE)
_INLINE_TAG = re.compile(
    r"\s@(?:abstract|api|access|async|const(?:ant)?|constructor|deprecated|final|function|hidden|ignore|inner|internal|"
    r"memberof|method|override|package|param|private|protected|public|readonly|returns?|see|since|static|this|"
    r"throws|type|typedef|virtual|yields?)\b"
)
# Notes to the developers and quoted asides under a description.
_ASIDE = re.compile(r"\n[ \t]*(?:(?:TODO|FIXME|XXX|HACK)\b|>[ \t])")
_LABELLED_LINK = re.compile(r"\[([^\]\[]+)\]\{@link(?:code|plain)?\s[^{}]*\}")
# JSDoc's names of modules: {@link module:ol/Map~Map} is read as Map.
_MODULE_PATH = re.compile(r"(\{@link(?:code|plain)?\s+)module:(?:[^\s|}]*[~/])?")

_PROTOCOL = ("toString", "toLocaleString", "toJSON", "valueOf")
_TEST_NAME = re.compile(r"test(?:_|[A-Z])|(?:setUp|tearDown|(?:before|after)(?:Each|All))$")
_DIRECTIVE = re.compile(r"""(['"])use [\w ]+\1;?$""")
_TEST_CALL = re.compile(rb"(?:[xf]?(?:describe|context|it|specify)|suite|test|QUnit)(?:\.\w+)*(?:\(|$)")


def grammar() -> object:
    """The grammar's language pointer, for `tree_sitter.Language`."""
    return tree_sitter_javascript.language()


def _places(node: Node) -> Iterator[Node]:
    """The function and all that holds only it, outwards: documentation may stand before each of them."""
    while True:
        yield node
        parent = node.parent
        if parent is None:
            return
        if parent.type in _DECLARATIONS:
            field: str | None = None
            # A comment above `var f = …, g = …` is about f.
            if parent.named_children[0] != node:
                return
        elif parent.type in _HOLDERS:
            field = _HOLDERS[parent.type]
        else:
            return
        if field is not None and parent.child_by_field_name(field) != node:
            return
        if parent.type == "binary_expression" and text_of(parent.child_by_field_name("operator")) not in ("||", "??"):
            return
        node = parent


def _is_near(comment: Node, node: Node) -> bool:
    return node.start_point[0] <= comment.end_point[0] + 1


def _is_trailing(comment: Node, node: Node) -> bool:
    """Whether the comment ends a line of code, while the function is on a later line."""
    before = comment.prev_sibling
    return (
        before is not None
        and before.type != "comment"
        and before.end_point[0] == comment.start_point[0]
        and node.start_point[0] > comment.end_point[0]
    )


def _is_licence(comment: Node) -> bool:
    """Whether this is a file's first comment and speaks of copyright."""
    before = comment.prev_named_sibling
    at_top = before is None or before.type == "hash_bang_line"
    return (
        at_top
        and comment.parent is not None
        and comment.parent.type == "program"
        and _LICENCE.search(comment.text or b"") is not None
    )


def _docblock_before(place: Node) -> Node | None:
    below, comment = place, place.prev_sibling
    while comment is not None and comment.type == "comment" and _is_near(comment, below):
        if _TOOL_COMMENT.match(comment.text or b""):
            below, comment = comment, comment.prev_sibling
            continue
        usable = is_docblock(comment) and not _is_trailing(comment, below) and not _is_licence(comment)
        return comment if usable else None
    return None


def _docblock(node: Node) -> Node | None:
    """The `/** … */` comment of a function; of several (type casts) the innermost that says something."""
    inside = [child for child in _leading(node) if child.type == "comment"]
    if inside and is_docblock(inside[-1]):
        return inside[-1]
    found = None
    for place in _places(node):
        if comment := _docblock_before(place):
            found = comment
            if _description(comment):
                break
    return found


def _description(comment: Node) -> str | None:
    block = parse_docblock(text_of(comment))
    tags = [(name.lower(), text) for name, text in block.tags]
    if any(name in _OTHER_TAGS for name, _ in tags):
        return None
    text = _INLINE_TAG.split(" " + block.description, maxsplit=1)[0]
    if not text.strip():
        text = next((text for name, text in tags if name in ("description", "desc", "summary")), "")
        text = text.lstrip("- \t")
    text = _ASIDE.split(text, maxsplit=1)[0]
    return shown_text(_MODULE_PATH.sub(r"\1", _LABELLED_LINK.sub(r"\1", text))) or None


def documentation(node: Node) -> str | None:
    """The text of the JSDoc block right above what binds the function; None without one or without text."""
    comment = _docblock(node)
    return None if comment is None else _description(comment)


def _leading(node: Node) -> list[Node]:
    """Decorators of a method, and comments after them: they are inside its node."""
    leading = []
    for child in node.children:
        if child.type not in ("decorator", "comment"):
            break
        leading.append(child)
    return leading


def code(node: Node, source: bytes) -> str:
    """The bare function or method without decorators, moved to the left margin."""
    return source_without(node, source, _leading(node))


def _key(node: Node | None) -> str:
    """What a property is called: `f`, `'f'` and `["f"]` are the same."""
    if node is not None and node.type == "computed_property_name":
        node = node.named_children[0]
    if node is not None and node.type == "member_expression":
        whole = text_of(node)
        return f"[{whole}]" if whole.startswith("Symbol.") else text_of(node.child_by_field_name("property"))
    if node is not None and node.type == "subscript_expression":
        node = node.child_by_field_name("index")
    name = text_of(node)
    return name[1:-1] if node is not None and node.type == "string" else name


def _bound_name(node: Node) -> str:
    for place in _places(node):
        if place.type == "variable_declarator":
            return text_of(place.child_by_field_name("name"))
        if place.type in ("assignment_expression", "augmented_assignment_expression"):
            left = place.child_by_field_name("left")
            if text_of(left) != "module.exports":
                return _key(left)
        if place.type == "pair":
            return _key(place.child_by_field_name("key"))
        if place.type == "field_definition":
            return _key(place.child_by_field_name("property"))
    return ""


def function_name(node: Node) -> str:
    """What the function is bound to, else its own name; empty for one that has neither."""
    if node.type == "method_definition":
        return _key(node.child_by_field_name("name"))
    return _bound_name(node) or name_of(node)


def _statements(node: Node) -> list[Node] | None:
    """The body's statements without directives ('use strict'); None for an arrow that is an expression."""
    body = node.child_by_field_name("body")
    if body is None or body.type != "statement_block":
        return None
    statements = [child for child in body.named_children if child.type != "comment"]
    while statements and _DIRECTIVE.match(text_of(statements[0])):
        del statements[0]
    return statements


def _is_trivial(statement: Node) -> bool:
    if statement.type in ("throw_statement", "empty_statement"):
        return True
    return statement.type == "return_statement" and not statement.named_child_count


def _is_constructor(node: Node, name: str, statements: list[Node]) -> bool:
    if node.type == "method_definition" and name == "constructor":
        return True
    comment = _docblock(node)
    tags = parse_docblock(text_of(comment)).tags if comment is not None else ()
    if any(tag.lower() in _CONSTRUCTOR_TAGS for tag, _ in tags):
        return True
    # function Point(x) { this.x = x; }
    return (
        name[:1].isupper()
        and node.type in ("function_declaration", "function_expression")
        and any(re.match(r"this\.\w+\s*=[^=]|[\w.]+\.(?:call|apply)\(this\b", text_of(each)) for each in statements)
    )


def _is_in_test(node: Node) -> bool:
    """Whether the function is inside what is given to `describe("…", …)`, `it("…", …)` and their like."""
    parent = node.parent
    while parent is not None:
        if parent.type == "call_expression":
            called, given = parent.child_by_field_name("function"), parent.child_by_field_name("arguments")
            if called is not None and given is not None and _TEST_CALL.fullmatch((called.text or b"").split(b"(")[0]):
                first = given.named_children[0] if given.named_child_count else None
                if first is not None and first.type in ("string", "template_string"):
                    return True
        parent = parent.parent
    return False


def exclusion(node: Node, name: str) -> str | None:
    """`constructor`, `protocol_method`, `test_function`, `trivial_body` or None."""
    statements = _statements(node)
    if _is_constructor(node, name, statements or []):
        return "constructor"
    if name in _PROTOCOL or name.startswith("[Symbol."):
        return "protocol_method"
    if _TEST_NAME.match(name) or _is_in_test(node):
        return "test_function"
    return "trivial_body" if statements is not None and all(map(_is_trivial, statements)) else None
