"""What a documented function is in Go: the entry's functions for `languages.LANGUAGES`."""

from __future__ import annotations

import inspect
import re

import tree_sitter_go
from tree_sitter import Node

from softnce_ray.corpus.docblocks import source_without
from softnce_ray.corpus.line_comments import (
    at_left_margin,
    comments_above,
    described_part,
    is_licence,
    without_directives,
)
from softnce_ray.corpus.nodes import name_of

# Matched against a comment's text after its two slashes, with the space: tools want none there, people forget.
_DIRECTIVE = re.compile(
    r"\s*(?:nolint\b|#\s?nosec\b|noinspection\b|nosemgrep\b|\+[a-z][\w:./=-]*(?:\s|$)|(?:go|lint|golangci|revive):\S)|"
    r"(?:[a-z0-9]+:[a-z0-9]|line\s|export\s|extern\s|sys(?:nb)?\s)"
)
_STAR = re.compile(r"^[ \t]*\*(?:[ \t]|$)", re.MULTILINE)
_DOC_LINK = re.compile(r"(?<![\w\])`\"'])\[\*?((?:\w+\.)*[A-Z][\w.]*)\](?![\[({:\w])")

# Methods of the interfaces that the standard library calls by itself, and how many parameters they have.
_PROTOCOL = {
    "String": 0,
    "GoString": 0,
    "Error": 0,
    "Unwrap": 0,
    "Len": 0,
    "Less": 2,
    "Swap": 2,
    "MarshalJSON": 0,
    "UnmarshalJSON": 1,
    "MarshalText": 0,
    "UnmarshalText": 1,
    "MarshalBinary": 0,
    "UnmarshalBinary": 1,
    "GobEncode": 0,
    "GobDecode": 1,
}
# What `go test` runs: the word alone, or before anything but a small letter.
_TEST_NAME = re.compile(r"(?:Test|Benchmark|Example|Fuzz)(?![a-z])")
_TEST_PARAMETER = re.compile(rb"\*testing\.[TBFM]\b|\btesting\.TB\b")

_KIND = r"(?:func|function|method|helper|routine)"
_NAME = (
    r"[`\"'*]*(?:\(\*?\w+\)\.|\*?(?:\w+\.)+)?(?P<name>\w+)(?:\[[^\]\n]*\])?(?:\([^()\n]*\))?[`\"'*]*(?![\w`.])"
    r"(?P<mark>\s*[:,]|\s+(?:-{1,2}|–|—)(?=\s))?\s*"
)
# The name by itself is looked for first: a function may be called `Func`, `The` or `A`.
_HEADS = (
    re.compile(_NAME),
    re.compile(rf"(?:(?:the\s+)?{_KIND}\s+|the\s+|an?\s+){_NAME}", re.IGNORECASE),
)
_KIND_AFTER = re.compile(rf"{_KIND}\s+")
# Words after a name with which a sentence goes on that says nothing without its subject.
_NEEDS_SUBJECT = re.compile(r"(?:and|or|nor|vs|with|from|to|of|in|on|for|=|:=|\|)(?:\s|$)")
_MODAL = re.compile(r"(?:should|must|may|might|can|cannot|could|would|will|also|only|never|always)\b")
_ADVERB = re.compile(r"(?:(?:[a-z-]+ly|either|both|also|only|then|never|always)\s+)?")
# A verb of the third person. An order goes on with one of the others: "Close this", "Access its parts".
_VERB = re.compile(r"(?!(?:this|its|his|as|us|plus|minus|unless|less|across|previous|various)\b)[\w\"-]+s\b")
_COPULA = re.compile(r"(?:is\s+(?:the\s+(?=same\b))?|will\s+(?!be\b|not\b))")
_WORD = re.compile(r"[A-Z]?[a-z]+")
_SMALL_WORD = re.compile(r"[a-z]+(?!\w|\.\w|\()")
_AGAIN = re.compile(
    r"(?P<before>(?P<end>[.!?])\s+|[,;:]\s+|\b(?:because|but|if|otherwise|so|that|then|until|when|whether|while)\s+)"
    rf"(?P<name>\w+)(?:(?P<its>'s)\b|(?=\s+(?:{_ADVERB.pattern}{_VERB.pattern}|{_MODAL.pattern})))"
)


def grammar() -> object:
    """The grammar's language pointer, for `tree_sitter.Language`."""
    return tree_sitter_go.language()


def function_name(node: Node) -> str:
    """The function's name; a method's without its receiver."""
    return name_of(node)


def documentation(node: Node) -> str | None:
    """The comment directly above the function as plain text; None without one, and for licences."""
    comments = comments_above(node, "//")
    if not comments:
        return None
    if comments[0].startswith("//"):
        lines = at_left_margin(without_directives((comment[2:] for comment in comments), _DIRECTIVE))
    else:
        text = comments[0].replace("\r\n", "\n").removeprefix("/*").removesuffix("*/").lstrip("*")
        lines = inspect.cleandoc(_STAR.sub("", text)).split("\n")
    if is_licence("\n".join(lines)):
        return None
    return _DOC_LINK.sub(r"\1", described_part(lines)) or None


def code(node: Node, source: bytes) -> str:
    """The function from `func` on, moved to the left margin."""
    return source_without(node, source)


def _parameters(node: Node) -> int:
    """How many parameters there are: `(i, j int)` are two."""
    parameters = node.child_by_field_name("parameters")
    if parameters is None:
        return 0
    declarations = [child for child in parameters.named_children if child.type != "comment"]
    return sum(max(1, len(each.children_by_field_name("name"))) for each in declarations)


def _is_trivial(statement: Node) -> bool:
    if statement.type == "return_statement":
        return statement.named_child_count == 0 or statement.text == b"return nil"
    if statement.type != "expression_statement" or statement.named_child_count != 1:
        return False
    called = statement.named_children[0].child_by_field_name("function")
    return called is not None and called.text == b"panic"


def _statements(body: Node) -> list[Node]:
    # The grammar puts the statements of a block into one node, beside the comments above them.
    children = [child for child in body.named_children if child.type != "comment"]
    if len(children) == 1 and children[0].type == "statement_list":
        children = [child for child in children[0].named_children if child.type != "comment"]
    return children


def exclusion(node: Node, name: str) -> str | None:
    """`no_body`, `constructor` (init), `entry_point`, `protocol_method`, `test_function`, `trivial_body` or None."""
    body = node.child_by_field_name("body")
    if body is None:
        return "no_body"
    is_method = node.type == "method_declaration"
    if name == "init" and not is_method:
        return "constructor"
    if name == "main" and not is_method:
        return "entry_point"
    parameters = node.child_by_field_name("parameters")
    if parameters is not None and _TEST_PARAMETER.search(parameters.text or b""):
        return "test_function"
    if is_method and _PROTOCOL.get(name) == _parameters(node):
        return "protocol_method"
    # A method with such a name is a suite's test when it takes nothing; `TestBit(i int)` is no test.
    if _TEST_NAME.match(name) and not (is_method and _parameters(node)):
        return "test_function"
    return "trivial_body" if all(map(_is_trivial, _statements(body))) else None


def _named_again(text: str, name: str) -> str:
    """It, where a later clause has the name as its subject again, for names that are no plain word."""
    if _WORD.fullmatch(name) or name not in text:
        return text

    def pronoun(match: re.Match[str]) -> str:
        if match["name"] != name:
            return match[0]
        return match["before"] + ("It" if match["end"] else "it") + ("s" if match["its"] else "")

    return _AGAIN.sub(pronoun, text)


def without_name(documentation: str, name: str) -> str:
    """The documentation without the function's name at its beginning: "ParseDate parses …" becomes "Parses …".

    Go's convention puts the answer into the question. What belongs to the name goes with it: an article, a
    receiver or package, parentheses, "is", "will". The name stays where it is an English word that starts an
    order ("Find the first …") or one of several subjects ("Lock and Unlock …"). Where a later clause has a
    name that is no plain word as its subject, it has "it" instead.
    """
    text = documentation.lstrip()
    heads = (pattern.match(text) for pattern in _HEADS)
    head = next((match for match in heads if match is not None and match["name"] == name), None)
    if head is None:
        return _named_again(text, name)
    rest = text[head.end() :]
    if head["mark"] is None and rest:
        if not head[0][-1].isspace():
            return _named_again(text, name)  # "Name-like": another thing
        kind = _KIND_AFTER.match(rest)
        rest = rest[kind.end() :] if kind else rest
        adverb = _ADVERB.match(rest)
        says = _VERB.match(rest, adverb.end() if adverb else 0) or _MODAL.match(rest)
        if _NEEDS_SUBJECT.match(rest) or (_WORD.fullmatch(name) and not kind and not says):
            return text
        copula = _COPULA.match(rest)
        rest = rest[copula.end() :] if copula else rest
    if _SMALL_WORD.match(rest):
        rest = rest[0].upper() + rest[1:]
    return _named_again(rest, name)
