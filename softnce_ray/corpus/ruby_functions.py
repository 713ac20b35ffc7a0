"""What a documented method is in Ruby: the entry's functions for `languages.LANGUAGES`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import tree_sitter_ruby
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

_CONSTRUCTORS = ("initialize", "initialize_copy", "initialize_clone", "initialize_dup", "new", "allocate")
_PROTOCOL = (
    *("to_s", "inspect", "==", "===", "!=", "eql?", "equal?", "<=>", "hash", "coerce"),
    *("method_missing", "respond_to?", "respond_to_missing?", "const_missing"),
    *("inherited", "included", "extended", "prepended", "method_added", "singleton_method_added"),
    *("marshal_dump", "marshal_load", "_dump", "_load", "encode_with", "init_with"),
    *("pretty_print", "pretty_print_cycle"),
)
# Matched against a line's text without its number sign.
_DIRECTIVE = re.compile(
    r"""!/ | \s*(?:
        -\*-.*-\*-
      | (?:frozen[_-]string[_-]literal|(?:file)?(?:en)?coding|warn[_-]indent|warn[_-]past[_-]scope|
           shareable[_-]constant[_-]value|typed|vim?|rubocop|standard|reek|steep|sorbet|brakeman|simplecov|flog|flay|
           noinspection|nosemgrep)\s?[:=]
      | :(?:nodoc|doc|stopdoc|startdoc|enddoc|notnew|not_new|not-new|yields?|args?|category|section|main|title|
           include|markup|method|singleton-method|attr(?:_reader|_writer|_accessor)?|nocov):
      | @!\w+
    )""",
    re.VERBOSE,
)
_CALL_SEQUENCE = re.compile(r"(\s*):?call-seq:", re.IGNORECASE)
_TAG = re.compile(
    r"\s*@(?:abstract|api|attr(?:_\w+)?|author|deprecated|example|macro|method|note|option|overload|params?|private|"
    r"raises?|returns?|see|since|throws?|todo|version|yields?|yieldparam|yieldreturn)\b"
)
# RDoc's labelled lists, "[label] text" and "label:: text", which explain parts.
_LABEL = re.compile(r"\s*\[[^\[\]]+\](?:\s|$)|\s*[\w+<>/.,?!:-][\w+<>/ .,?!:-]{0,40}::(?:\s|$)")
_HEADING = re.compile(r"\s*(?:={1,6}\s*|\#{1,6}\s)(?=\S)")
# Headings of parts that are no description.
_PART = re.compile(
    r"(?:args?|arguments?|param\w*|usage|synopsis|examples?|returns?|raises?|exceptions?|options)\W*$", re.I
)
_TOMDOC = re.compile(r"(?:Public|Internal|Private)\s*:\s+(?=\S)")
_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\{([^{}]+)\}\[[^\]\s]+\]"), r"\1"),  # {text}[url]
    (re.compile(r"\b([\w.#:-]+)\[(?:https?|ftp|mailto|link|rdoc-\w+|irc)[^\]\s]*\]"), r"\1"),  # text[url]
    (re.compile(r"\{(?:[A-Z]\w*(?:::\w+)*(?:[#.]\w+[?!=]?)?|#\w+[?!=]?)\s+([^{}=>]+)\}"), r"\1"),  # {Class#method text}
    (re.compile(r"\{(?:::)?([A-Z][\w:]*(?:[#.]\w+[?!=]?)?|#\w+[?!=]?)\}"), r"\1"),  # {Class#method}
    (re.compile(r"</?(?:tt|code|b|i|em|strong|kbd|var|s|del|a)(?:\s[^<>]*)?>", re.IGNORECASE), ""),
    (re.compile(r"(?<![\w+])\+(?=[^\s+])([^+\n]*[^\s+])\+(?![\w+])"), r"\1"),  # +code+
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?![\w*])"), r"\1"),  # *bold*
    (re.compile(r"(?<![\w.:/@$])_([A-Za-z](?:[\w'-]*[A-Za-z0-9])?)_(?!\w|[.(]\w)"), r"\1"),  # _emphasis_
    (re.compile(r"(?<![\\\w])\\(?=[A-Z#_<*+{a-z]\w)"), ""),  # \Name is not to be a link
    (re.compile(r"(?<![\w#&/'\"`{])#(?=[a-z_]\w*[?!=]?)"), ""),  # #method
)


def grammar() -> object:
    """The grammar's language pointer, for `tree_sitter.Language`."""
    return tree_sitter_ruby.language()


def function_name(node: Node) -> str:
    """The method's name as Ruby spells it: `empty?`, `value=`, `==`; without `self.`."""
    return name_of(node)


def _statement(node: Node) -> Node:
    """The statement that a method stands in: `private def x` is a call with the method as its argument."""
    while True:
        parent = node.parent
        if parent is None or parent.type not in ("argument_list", "call"):
            return node
        if parent.start_point[0] != node.start_point[0]:
            return node
        node = parent


def _shown_lines(lines: Iterable[str]) -> list[str]:
    """The lines that RDoc and YARD show as description: no hidden parts, call sequences, tags or lists."""
    shown: list[str] = []
    is_hidden = is_part = is_labelled = was_passed = False
    call_margin: int | None = None
    for line in lines:
        mark = line.strip()
        if mark in ("--", "++"):
            is_hidden = mark == "--"
            continue
        if is_hidden:
            continue
        if match := _CALL_SEQUENCE.match(line):
            call_margin, was_passed = len(match[1]), True
            continue
        if call_margin is not None:
            # A call sequence is indented below its title and goes on to a blank line.
            if mark and len(line) - len(line.lstrip()) > call_margin:
                continue
            call_margin = None
        if _TAG.match(line):
            break
        heading, is_label = _HEADING.match(line), _LABEL.match(line) is not None
        if (heading or is_label) and any(each.strip() for each in shown):
            break
        is_labelled = is_labelled and bool(mark)
        if heading:
            is_part, was_passed = _PART.match(line, heading.end()) is not None, True
        elif is_label:
            # A label alone on its line, "[EXPERIMENTAL]", has its text indented below it or is a heading.
            is_labelled, was_passed = not mark.endswith(("]", "::")), True
        elif is_labelled and mark:
            continue  # the label's text goes on to a blank line, indented or not
        elif not is_part and not (was_passed and not shown and (not mark or line[0] in " \t")):
            shown.append(line)  # what is indented below something passed over is an example of it or its text
    return shown


def strip_rdoc(text: str) -> str:
    """RDoc's and YARD's inline markup replaced by what a reader sees: `+code+`, `{text}[url]`, `_emphasis_`."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def documentation(node: Node) -> str | None:
    """The comment directly above the method as plain text; None without one, and for licences."""
    comments = comments_above(_statement(node), "#")
    if not comments:
        return None
    if comments[0].startswith("#"):
        lines = [re.sub(r"^#+(?=\s|$)|^#", "", comment) for comment in comments]
    else:
        lines = comments[0].splitlines()[1:-1]
    lines = at_left_margin(without_directives(lines, _DIRECTIVE))
    if is_licence("\n".join(lines)):
        return None
    text = _TOMDOC.sub("", strip_rdoc(described_part(_shown_lines(lines))), count=1)
    return text or None


def code(node: Node, source: bytes) -> str:
    """The method from `def` to `end`, moved to the left margin of its line."""
    return source_without(node, source)


def _is_trivial(statement: Node) -> bool:
    if statement.type in ("nil", "empty_statement", "super"):
        return True
    called = statement.child_by_field_name("method") if statement.type == "call" else statement
    return called is not None and called.type == "identifier" and called.text == b"raise"


def exclusion(node: Node, name: str) -> str | None:
    """`constructor`, `protocol_method`, `test_function`, `trivial_body` or None."""
    if name in _CONSTRUCTORS:
        return "constructor"
    if name in _PROTOCOL:
        return "protocol_method"
    if name.startswith("test_"):
        return "test_function"
    body = node.child_by_field_name("body")
    if body is None:
        return "trivial_body"
    statements = [child for child in body.named_children if child.type != "comment"]
    return "trivial_body" if all(map(_is_trivial, statements)) else None
