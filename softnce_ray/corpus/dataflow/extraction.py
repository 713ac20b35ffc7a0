"""From a snippet's text to its data-flow graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from tree_sitter import Node

from softnce_ray.corpus.dataflow import bindings, control, rules
from softnce_ray.corpus.dataflow.compiled import Compiled, compile_syntax
from softnce_ray.corpus.dataflow.record import DataFlow, FlowEdge, FlowNode
from softnce_ray.corpus.dataflow.syntax_go import GO
from softnce_ray.corpus.dataflow.syntax_java import JAVA
from softnce_ray.corpus.dataflow.syntax_javascript import JAVASCRIPT
from softnce_ray.corpus.dataflow.syntax_php import PHP
from softnce_ray.corpus.dataflow.syntax_python import PYTHON
from softnce_ray.corpus.dataflow.syntax_ruby import RUBY
from softnce_ray.corpus.dataflow.tree import flatten
from softnce_ray.corpus.dataflow.walker import Handler, Walker
from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.pairs import CorpusError

SYNTAXES: dict[str, rules.Syntax] = {
    "go": GO,
    "java": JAVA,
    "javascript": JAVASCRIPT,
    "php": PHP,
    "python": PYTHON,
    "ruby": RUBY,
}

_HANDLERS: dict[type, Handler] = {
    rules.Visit: bindings.visit_children,
    rules.Skip: bindings.skip,
    rules.Assign: bindings.assign,
    rules.Declare: bindings.declare,
    rules.Update: bindings.update,
    rules.Bind: bindings.bind_from_outside,
    rules.Outer: bindings.outer,
    rules.CasePattern: bindings.case_pattern,
    rules.If: control.branch,
    rules.Either: control.either,
    rules.Loop: control.loop,
    rules.Each: control.each,
    rules.Switch: control.switch,
    rules.Try: control.attempt,
    rules.Function: control.function,
    rules.Comprehension: control.comprehension,
    rules.Jump: control.jump,
}


@cache
def compiled(language: str) -> Compiled:
    return compile_syntax(SYNTAXES[language], LANGUAGES[language].grammar())


def data_flow(code: str, language: str) -> DataFlow:
    """The data-flow graph of a snippet: where the value of each variable comes from (Guo et al. 2021, section 3).

    A node is one occurrence of a variable. Its value "comes from" the occurrences of the same name that gave it its
    value, on any way through the program; where none did, the first occurrence that is met stands for the value from
    outside, and later ones come from it. It is "computed from" the variables that are read on the right of its
    assignment; where a list is assigned to a list of as many, each from its own. What counts as an assignment:
    declarations with a value, default values of parameters, elements of what a loop goes over, with and as, patterns
    (from what is matched). `x += y` and `x++` are one occurrence that comes from the older ones; so is `x` in
    `x[i] = y` and `x.a = y`, which is computed from `y` besides. An inner assignment stands for its target in an
    outer one; the statements of a function are no part of the value that it is.

    Ways: both branches of a condition; a loop's body never, once or again; every case of a switch, and none without a
    default; a handler from the beginning, the end or a `raise` of its body; a function inside another one never or
    often, where it stands. `break`, `continue`, `return` and `raise` are followed; labels and Go's `fallthrough` are
    not. Names end with their
    block, function or comprehension as the language says.

    What is a variable: names in the tables `syntax_*`, with Python's `self`, PHP's `$this` and Ruby's `@x`. Not names
    of attributes, fields, methods, types, labels, keyword arguments, keys in Go's literals, imports, or of functions
    and classes where they are declared. Some count only where the snippet binds them before: a called name; in Go one
    before a dot (else a package), in Ruby any word (else a call); in Python, Java and JavaScript one like `Math`, with
    a capital first and a small letter (else a type). A string is one token, and variables inside it do not count, but
    for PHP's and JavaScript's: where one holds a variable, its parts are tokens.

    Comments are left out, and so are statements that are only a string, as Python's documentation. A method is read
    as inside a class. Code with errors gives what the parser makes of it.

    Raises:
      CorpusError: no such language.
    """
    if language not in SYNTAXES:
        raise CorpusError(f"language: no data flow for {language!r}; possible: {', '.join(SYNTAXES)}")
    known = compiled(language)
    source, root, first = _parsed(code, known)
    tree = flatten(root, known.kinds, first, first + len(code.encode(errors="replace")))
    walker = Walker(tree, source, known, _HANDLERS)
    walker.walk()
    tokens = sorted(walker.seen)
    number = {token: place for place, token in enumerate(tokens)}
    edges = sorted((number[token], number[other], kind) for token, other, kind in walker.edges())
    return DataFlow(
        tokens=_in_characters(tree.spans, code, first),
        nodes=tuple(FlowNode(token, walker.text(token)) for token in tokens),
        edges=tuple(FlowEdge(*edge) for edge in edges),
    )


def _parsed(code: str, language: Compiled) -> tuple[bytes, Node, int]:
    """Source, syntax tree and where in the source the snippet begins: in the first surroundings without an error,
    or else in those that make the fewest bytes wrong."""
    text = code.encode(errors="replace")
    wraps = language.syntax.wraps
    if wraps[0][0].startswith("<?") and code.lstrip().startswith("<?"):
        wraps = (("", ""),)
    best: tuple[int, bytes, Node, int] | None = None
    for before, after in wraps:
        source = before.encode() + text + after.encode()
        root = language.parser.parse(source).root_node
        wrong = _wrong_bytes(root) if root.has_error else 0
        if best is None or wrong < best[0]:
            best = (wrong, source, root, len(before.encode()))
        if not wrong:
            break
    assert best is not None
    return best[1:]


def _wrong_bytes(root: Node) -> int:
    """How many bytes the outermost errors span, and one for each missing token."""
    wrong = 0
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error:
            wrong += node.end_byte - node.start_byte + 1
        elif node.is_missing:
            wrong += 1
        elif node.has_error:
            waiting += node.children
    return wrong


def _in_characters(spans: Sequence[tuple[int, int]], code: str, first: int) -> tuple[tuple[int, int], ...]:
    if code.isascii():
        return tuple((start - first, end - first) for start, end in spans)
    lengths = (len(character.encode(errors="replace")) for character in code)
    place = {byte: number for number, byte in enumerate(accumulate(lengths, initial=first))}
    return tuple((place[start], place[end]) for start, end in spans)
