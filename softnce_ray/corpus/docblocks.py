"""What `/** … */` comments have in common (Javadoc, PHPDoc, JSDoc): where they stand and what a reader sees."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from tree_sitter import Node

_COMMENT_TYPES = ("comment", "block_comment", "line_comment")
# "/***" opens a banner and "/**/" is an empty comment.
_DOCBLOCK = re.compile(rb"/\*\*(?![*/])")
_DECORATION = re.compile(r"^[ \t]*(?:\*+(?=\s|$)|\*)[ \t]?", re.MULTILINE)
_TAG_LINE = re.compile(r"^[ \t]*@([A-Za-z][\w\\-]*)", re.MULTILINE)
_INHERITED = re.compile(r"\s*(?:<p>\s*)?\{?@?inherit-?doc\b", re.IGNORECASE)
_FILE_HEADER = re.compile(
    rb"@(?:licen[sc]e|copyright|package|subpackage|file|fileoverview|overview|module)\b|\bcopyright\b|\xc2\xa9|"
    rb"\blicen[sc]ed? under\b|\bSPDX-",
    re.IGNORECASE,
)

# A block element ends the first paragraph where it stands as one; in the middle of a sentence it is spoken of.
_BLOCK = r"</?(?:p|ul|ol|li|dl|dt|dd|pre|blockquote|table|h[1-6]|hr|div|center)(?:\s[^<>]*)?/?>"
_BLOCK_TAG = re.compile(rf"(?:^[ \t]*|(?<=[.!?:;)])\s*){_BLOCK}|{_BLOCK}[ \t]*$", re.IGNORECASE | re.MULTILINE)
_LEADING_TAG = re.compile(r"\s*</?(?:p|div|center)(?:\s[^<>]*)?/?>\s*", re.IGNORECASE)
_BREAKS = re.compile(r"(?:<br\s?/?>\s*){2}", re.IGNORECASE)
_BREAK = re.compile(r"[ \t]*<br\s?/?>[ \t]*", re.IGNORECASE)
_RAISED = (
    (re.compile(r"<sup>\s*(?=(?:st|nd|rd|th)\s*</sup>)", re.IGNORECASE), ""),
    (re.compile(r"<sup>\s*", re.IGNORECASE), "^"),
    (re.compile(r"<sub>\s*", re.IGNORECASE), "_"),
)
# "Returns the root. Special cases:" says nothing more without the list that followed.
_ANNOUNCEMENT = re.compile(r"(?<=[.!?])\s+[A-Z](?:[^.!?:]|[.!?:](?=\S))*:\s*$")
_PHRASE_TAG = re.compile(
    r"</?(?:abbr|b|big|cite|code|dfn|em|font|i|kbd|q|s|samp|small|span|strong|sub|sup|tt|u|var)(?:\s[^<>]*)?/?>|"
    r"<a\s[^<>]*>|</a>",
    re.IGNORECASE,
)
_HTML_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_CODE_SPAN = re.compile(r"(`+)[^`\n]+\1")
_INLINE_TAG = re.compile(r"\{@([A-Za-z][\w-]*)")
_LABELLED_LINK = re.compile(r"\[([^\]\[]+)\](?=\{@link(?:plain|code)?\b)")

# Inside {@code …} and `…` nothing is markup: these characters are hidden there until all markup is gone.
_HIDE = str.maketrans({"<": "\ue000", ">": "\ue001", "&": "\ue002", "@": "\ue003", "{": "\ue004", "}": "\ue005"})
_SHOW = str.maketrans({"\ue000": "<", "\ue001": ">", "\ue002": "&", "\ue003": "@", "\ue004": "{", "\ue005": "}"})


class Docblock(NamedTuple):
    """A comment's text without decoration: the description as written, and (name, text) of every block tag."""

    description: str
    tags: tuple[tuple[str, str], ...]


def is_docblock(node: Node) -> bool:
    """Whether this node is a `/** … */` comment, no banner and not empty."""
    return node.type in _COMMENT_TYPES and node.text is not None and _DOCBLOCK.match(node.text) is not None


def _is_trailing(comment: Node, node: Node) -> bool:
    """Whether the comment ends the line of a statement before it, while the function is on a later line."""
    before = comment.prev_sibling
    if before is None or node.start_point[0] == comment.end_point[0]:
        return False
    if before.type in (*_COMMENT_TYPES, "{", "php_tag", "text_interpolation"):
        return False
    return before.end_point[0] == comment.start_point[0]


def _is_file_header(comment: Node, node: Node) -> bool:
    """Whether a file's first comment is about the file: it says so, or a blank line parts it from the function."""
    parent = comment.parent
    if parent is None or parent.parent is not None:
        return False
    before = comment.prev_named_sibling
    if before is not None and before.type not in ("php_tag", "hash_bang_line"):
        return False
    return node.start_point[0] > comment.end_point[0] + 1 or _FILE_HEADER.search(comment.text or b"") is not None


def docblock_before(node: Node) -> Node | None:
    """The `/** … */` comment that is directly before this node and about it, or None.

    Only whitespace may be between them. A comment that ends the line of the statement before is about that
    one, and a file's header is about the file.
    """
    comment = node.prev_sibling
    if comment is None or not is_docblock(comment):
        return None
    return None if _is_trailing(comment, node) or _is_file_header(comment, node) else comment


def parse_docblock(comment: str) -> Docblock:
    """Undecorate a `/** … */` comment and split its description from its block tags."""
    body = comment.strip().removeprefix("/**")
    body = re.sub(r"\*+/\s*$", "", body).replace("\r\n", "\n").replace("\r", "\n")
    first, newline, rest = body.partition("\n")
    text = first.strip() + newline + _DECORATION.sub("", rest)
    starts = list(_TAG_LINE.finditer(text))
    ends = [*(match.start() for match in starts), len(text)]
    tags = tuple((match[1], text[match.end() : ends[number]].strip()) for number, match in enumerate(starts, 1))
    return Docblock(text[: ends[0]].strip("\n"), tags)


def _closing_brace(text: str, start: int) -> int:
    """Where the brace that is open at `start` closes; the end of the text when it does not."""
    depth = 1
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if not depth:
                return position
    return len(text)


def _link_text(content: str) -> str:
    """What `{@link content}` shows: its label, or else the name it refers to without its package."""
    depth, end = 0, len(content)
    for position, character in enumerate(content):
        depth += (character in "(<") - (character in ")>")
        if depth <= 0 and (character.isspace() or character == "|"):
            end = position
            break
    target, label = content[:end], content[end:].strip(" \t\n|")
    if label:
        return _shown_inline(label)
    if "://" in target:
        return target
    name, parenthesis, parameters = target.partition("(")
    name = re.sub(r"^(?:[a-z_]\w*\.)+(?=[A-Z])", "", name).lstrip("#").replace("#", ".")
    return (name + parenthesis + parameters).translate(_HIDE)


def _tag_text(name: str, content: str) -> str:
    name, content = name.lower(), content.strip()
    if name in ("code", "literal"):
        return content.translate(_HIDE)
    if name in ("link", "linkplain", "linkcode", "see", "value"):
        return _link_text(content)
    if name in ("inheritdoc", "docroot", "internal", "source", "example", "tutorial"):
        return ""
    if name == "snippet":
        return "\n<pre>\n"
    if name == "return":
        return f"Returns {_shown_inline(content)}."
    if name == "index":
        match = re.match(r'"([^"]+)"|(\S+)', content)
        return (match[1] or match[2]) if match else ""
    return _shown_inline(content)


def _shown_inline(text: str) -> str:
    """`{@tag content}` replaced by what each shows; HTML stays."""
    kept = []
    position = 0
    while match := _INLINE_TAG.search(text, position):
        end = _closing_brace(text, match.end())
        kept += [text[position : match.start()], _tag_text(match[1], text[match.end() : end])]
        position = end + 1
    return "".join([*kept, text[position:]])


def shown_text(description: str) -> str:
    """The first part of a description as a reader sees it; empty when it is inherited from elsewhere.

    Inline tags become their text, HTML and entities too, and everything from the first block element on (a
    second `<p>`, a list, an example) is left out, with the sentence that announces it unless it is the only
    one. Tags that format nothing stay: they are what is spoken of.
    """
    if _INHERITED.match(description):
        return ""
    text = _CODE_SPAN.sub(lambda match: match[0].translate(_HIDE), description)
    text = _LABELLED_LINK.sub(r"\1{@internal}", text) if "]{@link" in text else text
    text = _HTML_COMMENT.sub("", _shown_inline(text))
    while match := _LEADING_TAG.match(text):
        text = text[match.end() :]
    for stop in (_BLOCK_TAG, _BREAKS):
        if match := stop.search(text):
            text = _ANNOUNCEMENT.sub("", text[: match.start()])
    for pattern, sign in _RAISED:
        text = pattern.sub(sign, text)
    text = _PHRASE_TAG.sub("", _BREAK.sub("\n", text))
    text = _ENTITY.sub(lambda match: html.unescape(match[0]).replace("\xa0", " "), text)
    return text.translate(_SHOW).strip()


def description(comment: Node) -> str | None:
    """What a docblock says before its tags, as a reader sees it; None when it says nothing."""
    text = (comment.text or b"").decode(errors="replace")
    return shown_text(parse_docblock(text).description) or None


def source_without(node: Node, source: bytes, removed: Sequence[Node] = ()) -> str:
    """The node's source without some nodes inside it, moved to the left margin."""
    start = node.start_byte
    kept = []
    position = start
    for each in removed:
        kept.append(source[position : each.start_byte])
        rest = source[each.end_byte : node.end_byte]
        position = each.end_byte + len(rest) - len(rest.lstrip())
    text = b"".join([*kept, source[position : node.end_byte]])
    line = source[source.rfind(b"\n", 0, start) + 1 : start]
    margin = line[: len(line) - len(line.lstrip())].decode()
    lines = text.decode(errors="replace").replace("\r\n", "\n").split("\n")
    return "\n".join(line.removeprefix(margin) for line in lines).rstrip()
