"""Comments above a function, line by line (Go, Ruby): which ones belong to it and where a description ends."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from tree_sitter import Node

_LICENCE = re.compile(
    r"\bcopyright\b\W{0,3}(?:\(c\)|©|\d{4})|\(c\)\s*(?:copyright|\d{4})|\bSPDX-License-Identifier|"
    r"\ball rights reserved\b|\blicen[sc]ed under\b|\bpermission is hereby granted\b|"
    r"\buse of this source code is governed\b|\bfree software\b.{0,40}\b(?:redistribute|distributed)\b",
    re.IGNORECASE | re.DOTALL,
)
# What the author still wants to do is no description of what the function does.
_REMARK = re.compile(r"\s*(?:TODO|FIXME|XXX|HACK)\b|\s*(?:BUG|NOTE|NB|OPTIMIZE)(?:\([^)]*\))?\s*:")
_RULER = re.compile(r"\s*[-=~*#/_+]{3,}\s*$")
_BANNER = re.compile(r"\s*(?:[-=~*#/_+]{3,}\s.*|.*\s[-=~*#/_+]{3,}\s*)$")
# A rule of a grammar above the function that parses it: no sentence.
_PRODUCTION = re.compile(r"\s*(?:\||<?[\w-]{3,}>?\s*(?:=|:=|::=|->)\s)")
_SENTENCE_END = (".", ":", "!", "?", "…", ":)", '."', ".)")


def _before(node: Node) -> Node | None:
    """What stands before a node. Grammars open a body's node below its first comments: those are outside of it."""
    while node.prev_sibling is None and node.parent is not None:
        node = node.parent
    return node.prev_sibling


def _is_trailing(comment: Node) -> bool:
    before = _before(comment)
    return before is not None and before.end_point[0] == comment.start_point[0]


def _text(comment: Node) -> str:
    return (comment.text or b"").decode(errors="replace").rstrip()


def comments_above(statement: Node, line_mark: str) -> tuple[str, ...]:
    """The comments that end on the line above a statement, top to bottom: a run of line comments or one block.

    There is no blank line between them or below them. A comment at the end of a statement's line is about
    that statement and ends the run. Line comments start with `line_mark`; every other comment is a block.
    """
    run: list[str] = []
    below, comment = statement, _before(statement)
    while comment is not None and comment.type == "comment":
        # A block comment's node may end with its line break, that is at the start of the next line.
        row = comment.end_point[0] - (comment.end_point[1] == 0)
        if row + 1 != below.start_point[0] or _is_trailing(comment):
            break
        text = _text(comment)
        is_line = text.startswith(line_mark)
        if run and not is_line:
            break
        run.append(text)
        if not is_line:
            break
        below, comment = comment, _before(comment)
    return tuple(reversed(run))


def is_licence(text: str) -> bool:
    """Whether a comment is a licence or a copyright notice."""
    return _LICENCE.search(text) is not None


def without_directives(lines: Iterable[str], directive: re.Pattern[str]) -> list[str]:
    """The lines that do not start with an instruction to a tool; the others close up."""
    return [line for line in lines if not directive.match(line)]


def at_left_margin(lines: Iterable[str]) -> list[str]:
    """Lines without the space after their mark and without an indent that all of them share."""
    return textwrap.dedent("\n".join(line.removeprefix(" ").rstrip() for line in lines)).split("\n")


def described_part(lines: Iterable[str]) -> str:
    """The text up to the first remark of the author, ruler or indented example, of lines at the left margin.

    Rulers and banners above the description are passed over; a grammar's production is no description. An
    indented line goes on with the sentence where that has not ended; otherwise, and after a tab, it is an
    example.
    """
    rest = list(lines)
    while rest and (not rest[0].strip() or _BANNER.match(rest[0]) or _RULER.match(rest[0])):
        del rest[0]
    kept: list[str] = []
    for line in textwrap.dedent("\n".join(rest)).split("\n"):
        if not kept and _PRODUCTION.match(line):
            break
        if _REMARK.match(line) or _RULER.match(line):
            break
        if line.startswith((" ", "\t")) and kept:
            above = kept[-1].strip()
            if line.startswith("\t") or not above or above.endswith(_SENTENCE_END):
                break
        kept.append(line.rstrip())
    return "\n".join(kept).strip()
