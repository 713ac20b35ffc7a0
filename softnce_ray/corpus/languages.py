"""Programming languages as table entries: how each one's functions and their documentation are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import tree_sitter
from tree_sitter import Node

from softnce_ray.corpus import python_functions


@dataclass(frozen=True, slots=True)
class Language:
    """All that mining must know about one language.

    `suffixes` are file endings with their dot. `grammar` loads the tree-sitter grammar. `functions` is a
    tree-sitter query that captures every function as `@function`. Then, for a captured node:
    `documentation` gives its documentation as plain text, or None; `code` its source without documentation,
    not indented, from the node and the whole file's bytes; `function_name` its name; `exclusion` a
    snake_case reason to leave it out (a test, a constructor, a protocol method, a trivial body), or None.
    `hint` matches some bytes in every file that has a documented function: files without it are not parsed.
    `test_file` matches the relative paths of tests by this language's habits.
    """

    name: str
    suffixes: tuple[str, ...]
    grammar: Callable[[], object]
    functions: str
    documentation: Callable[[Node], str | None]
    code: Callable[[Node, bytes], str]
    function_name: Callable[[Node], str]
    exclusion: Callable[[Node, str], str | None]
    hint: re.Pattern[bytes]
    test_file: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a source file: `code` is set when `reason` (why it cannot make a pair) is None."""

    name: str
    line: int
    documentation: str
    code: str
    reason: str | None


LANGUAGES: dict[str, Language] = {
    "python": Language(
        name="python",
        suffixes=(".py",),
        grammar=python_functions.grammar,
        functions="(function_definition) @function",
        documentation=python_functions.documentation,
        code=python_functions.code,
        function_name=python_functions.function_name,
        exclusion=python_functions.exclusion,
        hint=re.compile(rb"\bdef\s"),
        test_file=re.compile(r"(^|/)(test_[^/]*|[^/]*_tests?|tests?|conftest)\.py$"),
    ),
}


@cache
def _parser(language: str) -> tuple[tree_sitter.Parser, tree_sitter.Query]:
    entry = LANGUAGES[language]
    grammar = tree_sitter.Language(entry.grammar())
    return tree_sitter.Parser(grammar), tree_sitter.Query(grammar, entry.functions)


def _function_nodes(source: bytes, language: Language) -> list[Node]:
    parser, query = _parser(language.name)
    captures = tree_sitter.QueryCursor(query).captures(parser.parse(source).root_node)
    return sorted(captures.get("function", []), key=lambda node: node.start_byte)


def functions_in(source: bytes, language: Language) -> Iterator[Function]:
    """Every function of a UTF-8 source that is not inside another one, in the order of the file.

    Those that cannot make a pair come with a reason: `no_documentation`, `parse_error` or the language's
    own.
    """
    if not language.hint.search(source):
        return
    end_of_outer = -1
    for node in _function_nodes(source, language):
        if node.start_byte < end_of_outer:
            continue
        end_of_outer = node.end_byte
        name, line = language.function_name(node), node.start_point[0] + 1
        text = language.documentation(node)
        if not text:
            reason: str | None = "no_documentation"
        elif node.has_error:
            reason = "parse_error"
        else:
            reason = language.exclusion(node, name)
        if reason is None:
            yield Function(name, line, text or "", language.code(node, source), None)
        else:
            yield Function(name, line, "", "", reason)


def strip_documentation(code: str, language: Language) -> str | None:
    """The one function in `code` without its documentation; None when it does not parse as a function."""
    source = code.encode()
    nodes = _function_nodes(source, language)
    if not nodes or nodes[0].has_error or source[: nodes[0].start_byte].strip():
        return None
    if source[nodes[0].end_byte :].strip():
        return None
    return language.code(nodes[0], source)
