"""Programming languages as table entries: how each one's functions and their documentation are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import tree_sitter
from tree_sitter import Node

from softnce_ray.corpus import (
    go_functions,
    java_functions,
    javascript_functions,
    php_functions,
    python_functions,
    ruby_functions,
)


@dataclass(frozen=True, slots=True)
class Language:
    """All that mining must know about one language.

    `suffixes` are file endings with their dot. `grammar` loads the tree-sitter grammar. `functions` is a
    tree-sitter query that captures every function as `@function`. Then, for a captured node:
    `documentation` gives its documentation as plain text, or None; `code` its source without documentation,
    not indented, from the node and the whole file's bytes; `function_name` its name; `exclusion` a
    snake_case reason to leave it out (a test, a constructor, a protocol method, a trivial body), or None.
    `hint` matches some bytes in every file that has a documented function: files without it are not parsed.
    `test_file` matches the relative paths of tests by this language's habits. `wraps` are the (before, after)
    texts to try in turn around one function alone, in a language where it is no file by itself.
    `looks_inside` says whether functions inside one that gives no pair are looked at; those inside one that
    gives a pair never are. `built_file` matches the relative paths of what a build wrote. `project_files` are
    the names that mark a folder as one project, beside those of `sources`. `package_folders` are names of
    folders that hold sources here and tests elsewhere. `without_name` gives, from
    documentation and a function's name, the documentation without the name at its beginning, in a language
    whose convention puts it there.
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
    wraps: tuple[tuple[str, str], ...] = (("", ""),)
    looks_inside: bool = False
    built_file: re.Pattern[str] | None = None
    project_files: tuple[str, ...] = ()
    package_folders: tuple[str, ...] = ()
    without_name: Callable[[str, str], str] | None = None


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
    "java": Language(
        name="java",
        suffixes=(".java",),
        grammar=java_functions.grammar,
        functions=java_functions.FUNCTIONS,
        documentation=java_functions.documentation,
        code=java_functions.code,
        function_name=java_functions.function_name,
        exclusion=java_functions.exclusion,
        hint=re.compile(rb"/\*\*"),
        test_file=re.compile(
            r"(^|/)src/(test[\w-]*|\w+Test|it|jmh)/|(^|/)(Test[A-Z0-9][^/]*|[^/]*(Tests?|TestCase|[a-z0-9]IT))\.java$"
        ),
        wraps=(("class C {\n", "\n}"),),
        built_file=re.compile(r"(^|/)(generated-[\w-]+|(target|build)/generated[\w-]*)/"),
        project_files=("pom.xml", "build.gradle", "build.gradle.kts", "build.xml"),
        package_folders=("spec",),  # of parameters: java.security.spec
    ),
    "php": Language(
        name="php",
        suffixes=(".php",),
        grammar=php_functions.grammar,
        functions=php_functions.FUNCTIONS,
        documentation=php_functions.documentation,
        code=php_functions.code,
        function_name=php_functions.function_name,
        exclusion=php_functions.exclusion,
        hint=re.compile(rb"/\*\*"),
        test_file=re.compile(r"(^|/)(test[_-][^/]*|[^/]*(Tests?|TestCase|Cest|[_-]tests?)|tests?)\.php$"),
        wraps=(("<?php\nclass C {\n", "\n}"),),
        built_file=re.compile(r"(^|/)(var/cache|bootstrap/cache|storage/framework)/"),
        project_files=("composer.json",),
    ),
    "javascript": Language(
        name="javascript",
        suffixes=(".js", ".mjs", ".cjs", ".jsx"),
        grammar=javascript_functions.grammar,
        functions=javascript_functions.FUNCTIONS,
        documentation=javascript_functions.documentation,
        code=javascript_functions.code,
        function_name=javascript_functions.function_name,
        exclusion=javascript_functions.exclusion,
        hint=re.compile(rb"/\*\*(?![*/])"),
        test_file=re.compile(
            r"(^|/)(__(tests|mocks|fixtures)__|e2e|cypress)/|(^|[/._-])(tests?|specs?|e2e)\.[cm]?jsx?$|"
            r"(^|/)(test-[^/]*|(karma|jest|vitest|cypress|playwright)\.[^/]*)\.[cm]?jsx?$"
        ),
        wraps=(("", ""), ("class C {\n", "\n}")),
        looks_inside=True,  # modules are often written inside a function that is called at once
        built_file=re.compile(
            r"(^|/)(dist|build|builds|bundles?|umd|cjs)/|[.-](bundle|umd|iife|global|prod|development)\.[cm]?jsx?$"
        ),
        project_files=("package.json",),
    ),
    "go": Language(
        name="go",
        suffixes=(".go",),
        grammar=go_functions.grammar,
        functions="[(function_declaration) (method_declaration)] @function",
        documentation=go_functions.documentation,
        code=go_functions.code,
        function_name=go_functions.function_name,
        exclusion=go_functions.exclusion,
        hint=re.compile(rb"^[ \t]*func\b", re.MULTILINE),
        test_file=re.compile(r"_test\.go$"),
        project_files=("go.mod",),
        without_name=go_functions.without_name,
    ),
    "ruby": Language(
        name="ruby",
        suffixes=(".rb",),
        grammar=ruby_functions.grammar,
        functions="[(method) (singleton_method)] @function",
        documentation=ruby_functions.documentation,
        code=ruby_functions.code,
        function_name=ruby_functions.function_name,
        exclusion=ruby_functions.exclusion,
        hint=re.compile(rb"\bdef\s"),
        test_file=re.compile(r"(^|/)(test_[^/]*|[^/]*_(test|spec)|(test|spec)_helper)\.rb$"),
        project_files=("Gemfile",),
    ),
}


@cache
def _parser(language: str) -> tuple[tree_sitter.Parser, tree_sitter.Query]:
    entry = LANGUAGES[language]
    grammar = tree_sitter.Language(entry.grammar())
    return tree_sitter.Parser(grammar), tree_sitter.Query(grammar, entry.functions)


def function_nodes(source: bytes, language: Language) -> list[Node]:
    """The nodes of all functions of a file, those inside others too, in its order."""
    parser, query = _parser(language.name)
    captures = tree_sitter.QueryCursor(query).captures(parser.parse(source).root_node)
    return sorted(captures.get("function", []), key=lambda node: node.start_byte)


def functions_in(source: bytes, language: Language) -> Iterator[Function]:
    """Every function of a UTF-8 source, in the order of the file, without those inside another one.

    Where the language `looks_inside`, only those inside one that can make a pair are left out.

    Those that cannot make a pair come with a reason: `no_documentation`, `parse_error` or the language's
    own.
    """
    if not language.hint.search(source):
        return
    end_of_outer = -1
    for node in function_nodes(source, language):
        if node.start_byte < end_of_outer:
            continue
        if not language.looks_inside:
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
            end_of_outer = node.end_byte
            yield Function(name, line, text or "", language.code(node, source), None)
        else:
            yield Function(name, line, "", "", reason)


def strip_documentation(code: str, language: Language) -> str | None:
    """The one function in `code` without its documentation; None when it does not parse as a function.

    Comments before the function are left out as documentation is.
    """
    for before, after in language.wraps:
        source = f"{before}{code}{after}".encode()
        nodes = function_nodes(source, language)
        if not nodes or nodes[0].has_error:
            continue
        start, end = len(before.encode()), len(source) - len(after.encode())
        first = nodes[0]
        while first.prev_sibling is not None and first.prev_sibling.type.endswith("comment"):
            first = first.prev_sibling
        alone = start <= first.start_byte and nodes[0].end_byte <= end
        if alone and not source[start : first.start_byte].strip() and not source[nodes[0].end_byte : end].strip():
            return language.code(nodes[0], source)
    return None
