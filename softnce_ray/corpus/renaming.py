"""Python code with the same behaviour and other names: what is renamed is decided with the compiler's own
scopes, where it stands is found with tree-sitter, and the result is compared with the original as a tree."""

from __future__ import annotations

import ast
import builtins
import keyword
import random
import symtable
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache

import tree_sitter
from tree_sitter import Node

from softnce_ray.corpus import python_functions

_KEPT = frozenset({"self", "cls", "_"})
_RESERVED = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist) | frozenset(dir(builtins)) | _KEPT
# With one of these, a local's name may be read as text at run time.
_READS_NAMES = frozenset({"locals", "vars", "dir", "eval", "exec", "globals", "_getframe", "currentframe", "f_locals"})
_READS_TEXT = frozenset({"eval", "evaluate", "query"})
_UNNAMED = frozenset({"lambda", "genexpr", "listcomp", "setcomp", "dictcomp"})
_IMPORTS = frozenset({"import_statement", "import_from_statement", "future_import_statement"})


@lru_cache(maxsize=16)  # one function is renamed several times in a row
def renamable_names(code: str) -> tuple[str, ...]:
    """The names in a Python function that `renamed` may replace, in alphabetical order.

    They are the function's own name, its parameters and the names that it binds, less all that would not
    surely leave its behaviour alone: `self` and `cls`, private and imported names, names that are global or
    nonlocal somewhere in the code, attributes of inner classes, parameters of inner functions (who calls
    them with keywords is not seen), parameters that a call of the function itself passes by keyword. There
    are none where the code does not parse or may read names as text (`locals()`, `eval`).
    """
    tree = _parsed(code)
    return () if tree is None else tuple(sorted(_renamable(code, tree)))


def renamed(code: str, names: Sequence[str], rng: random.Random) -> str:
    """`code` with every name of `renamable_names` replaced, each by another of `names`, drawn with `rng`.

    Attributes, keywords of calls to others, the text of strings and comments stay; expressions within
    f-strings are renamed. A new name occurs nowhere in the code and is no keyword or builtin; where `names`
    has too few of them, the rest of the code's names stay. The result parses and differs from `code` in
    names alone; where that cannot be reached, it is `code`.
    """
    tree = _parsed(code)
    if tree is None:
        return code
    old = list(renamable_names(code))
    source = code.encode()
    identifiers = _identifiers(source)
    taken = {_text(node) for node in identifiers} | _RESERVED
    free = sorted({name for name in names if name not in taken and name.isidentifier()})
    fresh = rng.sample(free, min(len(old), len(free)))
    rng.shuffle(old)
    mapping = dict(zip(old, fresh, strict=False))
    if not mapping:
        return code
    changed = bytearray(source)
    for node in reversed(identifiers):
        if (new := mapping.get(_text(node))) and _is_variable(node):
            changed[node.start_byte : node.end_byte] = new.encode()
    result = changed.decode()
    other = _parsed(result)
    # Two parsers are at work: where they differ, as with odd soft keywords, the code is left alone.
    same = other is not None and ast.dump(other) == ast.dump(_with_names(tree, mapping))
    return result if same else code


def bound_names(code: str) -> tuple[str, ...]:
    """The names of `renamable_names` without those of the functions in it: a pool for `renamed`."""
    tree = _parsed(code)
    if tree is None:
        return ()
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return tuple(sorted(_renamable(code, tree) - functions))


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d" in other people's code
            return ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


@cache
def _parser() -> tuple[tree_sitter.Parser, tree_sitter.Query, tree_sitter.Query]:
    grammar = tree_sitter.Language(python_functions.grammar())
    shown = tree_sitter.Query(grammar, '(interpolation "=") @node')
    return tree_sitter.Parser(grammar), tree_sitter.Query(grammar, "(identifier) @node"), shown


def _identifiers(source: bytes) -> list[Node]:
    """In the order of the text."""
    parser, identifiers, _ = _parser()
    return _captured(identifiers, parser.parse(source).root_node)


def _captured(query: tree_sitter.Query, node: Node) -> list[Node]:
    found = tree_sitter.QueryCursor(query).captures(node)
    return sorted(found.get("node", []), key=lambda node: node.start_byte)


def _renamable(code: str, tree: ast.Module) -> set[str]:
    if not tree.body or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef) or len(tree.body) > 1:
        return set()
    function = tree.body[0]
    nodes = list(ast.walk(tree))
    if any(map(_reads_names, nodes)):
        return set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tables = list(_tables(symtable.symtable(textwrap.dedent(code), "<code>", "exec")))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    own = function.name
    found: set[str] = set() if own in _RESERVED and _is_read(own, nodes) else {own}
    kept: set[str] = set()
    for depth, table in tables:
        for symbol in table.get_symbols():
            name = symbol.get_name()
            if table.get_type() == "module":
                if name != own:
                    kept.add(name)
            elif symbol.is_imported() or symbol.is_declared_global() or symbol.is_nonlocal():
                kept.add(name)
            elif symbol.is_global():
                # A method does not see itself by its bare name: what it calls is another function.
                if name != own or _first_parameter(function) in _KEPT:
                    kept.add(name)
            elif not symbol.is_free():
                of_inner = symbol.is_parameter() and depth > 1 and table.get_name() not in _UNNAMED
                (kept if of_inner or table.get_type() != "function" else found).add(name)
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr == own:
            kept.add(own)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if isinstance(node, ast.ClassDef) or node.decorator_list:
                kept.add(node.name)
        elif isinstance(node, ast.Call):
            callee = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)
            if callee == own:
                kept |= {word.arg for word in node.keywords if word.arg}
        elif isinstance(node, ast.Lambda):
            spoken = {word.arg for call in nodes if isinstance(call, ast.Call) for word in call.keywords if word.arg}
            kept |= spoken & {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
    kept |= _shown_names(code)
    return {name for name in found - kept - _KEPT if name.isidentifier() and not name.startswith("__")}


def _tables(table: symtable.SymbolTable, depth: int = 0) -> Iterator[tuple[int, symtable.SymbolTable]]:
    yield depth, table
    for child in table.get_children():
        yield from _tables(child, depth + 1)


def _reads_names(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _READS_NAMES
    if isinstance(node, ast.Attribute):
        return node.attr in _READS_NAMES - {"eval", "exec", "dir"}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _READS_TEXT:
        first = node.args[0] if node.args else None
        return isinstance(first, ast.JoinedStr) or (isinstance(first, ast.Constant) and isinstance(first.value, str))
    return False


def _is_read(name: str, nodes: Sequence[ast.AST]) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in nodes)


def _first_parameter(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    parameters = [*function.args.posonlyargs, *function.args.args]
    return parameters[0].arg if parameters else None


def _shown_names(code: str) -> set[str]:
    """Names in f-strings' `{name=}`, which print themselves."""
    if "=}" not in code and "=:" not in code and "=!" not in code:
        return set()
    parser, identifiers, shown = _parser()
    outer = _captured(shown, parser.parse(code.encode()).root_node)
    return {_text(node) for each in outer for node in _captured(identifiers, each)}


def _is_variable(node: Node) -> bool:
    """Whether an identifier is a name in a scope: not an attribute, a call's keyword or part of an import."""
    parent = node.parent
    if parent is None:
        return True
    if parent.type == "attribute":
        return parent.child_by_field_name("attribute") != node
    if parent.type == "keyword_argument":
        return parent.child_by_field_name("name") != node
    if parent.type == "keyword_pattern":
        return parent.children[0] != node
    if parent.type == "dotted_name" and parent.children[0] != node:
        return False
    while parent is not None:
        if parent.type in _IMPORTS:
            return False
        parent = parent.parent
    return True


def _with_names(tree: ast.Module, mapping: Mapping[str, str]) -> ast.Module:
    """`tree` itself, with the names that stand for variables and functions replaced."""
    for node in ast.walk(tree):
        for field in ("id", "arg", "name", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str) and not isinstance(node, ast.keyword | ast.alias | ast.ClassDef):
                setattr(node, field, mapping.get(value, value))
    return tree


def _text(node: Node) -> str:
    return node.text.decode() if node.text is not None else ""
