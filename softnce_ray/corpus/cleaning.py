"""Documentation comments become queries, or a reason why they cannot: pure functions, METHODS section 6."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

MIN_QUERY_TOKENS = 3
MAX_QUERY_TOKENS = 256
MIN_CODE_LINES = 3
MIN_ASCII_LETTERS = 0.9
MIN_LETTERS = 0.5

RULES = {
    "query": "first paragraph of the documentation, markup and tags removed",
    "query_tokens": f"{MIN_QUERY_TOKENS} to {MAX_QUERY_TOKENS} words",
    "english": f"at least {MIN_ASCII_LETTERS:.0%} of the letters are ASCII (any language in Latin script)",
    "prose": f"at least {MIN_LETTERS:.0%} of the characters that are not space are letters",
    "code_lines": f"at least {MIN_CODE_LINES} lines that are not blank",
}


class Drop(NamedTuple):
    """Why a text is not used: a short snake_case word that the manifest counts."""

    reason: str


_SECTION = (
    r"args?|arguments?|param(?:eter)?s?|other parameters|keyword (?:args|arguments|parameters)|kwargs|"
    r"returns?|yields?|raises?|throws|exceptions?|examples?|example usage|usage|notes?|see also|"
    r"references?|attributes|warnings?|warns|inputs?|outputs?|todo|requires|preconditions?|"
    r"(?:input |output )?shapes?|syntax|options|properties|authors?|since|deprecated"
)
# A line from which on there is no description any more: tags, sections, examples, directives, rules, lists.
_STOP_LINE = re.compile(
    rf"""\s*(?:
        [:@\\](?:param|type|arg|args|argument|key|keyword|kwarg|returns?|rtype|raises?|except|exception|throws|
               ivar|cvar|var|yields?|meta|see|since|author|deprecated|example|note)\b
      | (?:{_SECTION})\s*:(?!:?\w)
      | (?:{_SECTION})\s*$
      | >>> | \.\.\s | !!! | ``` | ~~~ | \$\s | In\s\[\d+\]
      | [-=~^*\#_+]{{3,}}\s*$
      | [-*+•]\s+\S | \(?\d+[.)]\s+\S
      | \|.*\|\s*$
      | [*\w]+\s\(.*\)\s*:(?:\s|$)  # Google's name (type, optional): what it is
      | [*\w]+(?:,\s[*\w]+)*\s:\s(?:`|\{{|\(|
        [\w.]*(?:array(?:[_-]like)?|str|int|float|bool|list|dict|tuple|object|callable|None)\b)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_INLINE_STOP = re.compile(r"\s(?:[:@](?:param|type|arg|returns?|rtype|raises?|throws)\b|>>>)", re.IGNORECASE)
# A signature above the description, as C extensions write it: name(a, b=None) -> result
_SIGNATURE = re.compile(r"\s*[\w.]+\(.*\)(?:\s*->\s*.+)?[.:]?\s*$")
# Google's properties: "bool: Whether it is closed."
_TYPE_PREFIX = re.compile(
    r"(?:Optional|Union|List|Dict|Tuple|Set|Any|bool|int|float|str|bytes|list|dict|tuple|set|object|callable|None|"
    r"array|ndarray|Tensor)(?:\[[^\]]*\]*|\([^)]*\))?(?:(?:\s?\||,|\sor|\sof)\s[\w.\[\], ]+?)?"
    r"\s?:\s+(?=\S+\s)"
)
# After tokens were joined by spaces, as in CodeSearchNet's cleaned files, tags look like ": param x :".
_JOINED_STOP = re.compile(r"\s[:@] (?:param|type|returns?|rtype|raises?|throws) (?:\w+ )?(?::|$)", re.IGNORECASE)

_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r":[\w.+-]+(?::[\w.+-]+)*:`[~!.]?([^`<]+?)\s*<[^`>]*>`"), r"\1"),  # :ref:`text <target>`
    (re.compile(r":[\w.+-]+(?::[\w.+-]+)*:`~[^`]*?\.?([^`.]+)`"), r"\1"),  # :class:`~a.b.C` shows C
    (re.compile(r":[\w.+-]+(?::[\w.+-]+)*:`[!.]?([^`]+)`"), r"\1"),  # :func:`name`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),  # `text <target>`_
    (re.compile(r"!?\[([^\]\[]+)\]\([^()\s]*\)"), r"\1"),  # [text](target)
    (re.compile(r"\[`?([\w.]+)`?\]\[[\w.]*\]"), r"\1"),  # [`name`][target]
    (re.compile(r"\[?`~[^`\s]*?([^`.\s]+)`\]?"), r"\1"),  # [`~a.b.C`] shows C
    (re.compile(r"\[`([^`\]]+)`\]"), r"\1"),  # [`Name`]
    (re.compile(r"``([^`']+)''"), r"\1"),  # TeX's quotes
    (re.compile(r"`([^`'\s][^`']{0,40})'(?!\w)"), r"\1"),  # GNU's quotes: `word'
    (re.compile(r"``([^`]+)``_?"), r"\1"),
    (re.compile(r"`([^`]+)`(?:__?\b)?"), r"\1"),
    (re.compile(r"(?<![\w*])\*\*(?=[^\s*])([^*]*[^\s*])\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]*[^\s*])\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)\|(\w[\w .-]*)\|(?!\w)"), r"\1"),  # |substitution|
    (re.compile(r"\s*\[\d+\]_"), ""),  # [1]_
    (re.compile(r"(?<!\w):(?:[a-z]+:)?(?:attr|class|data|exc|func|meth|mod|obj|ref):\s?"), ""),  # role alone
    (re.compile(r"::(?=\s|$)"), ":"),
)
_URL = re.compile(r"\b(?:https?|ftp|file)\s?:\s?/\s?/|\bwww\s?\.\s?\w", re.IGNORECASE)
_HTML = re.compile(
    r"<\s?/?\s?(?:a|abbr|b|blockquote|body|br|button|center|code|dd|div|dl|dt|em|font|form|h[1-6]|head|hr|html|"
    r"i|iframe|img|input|label|li|link|meta|ol|option|p|pre|script|select|small|span|strong|style|sub|sup|svg|"
    r"table|tbody|td|textarea|th|thead|title|tr|tt|u|ul)(?:\s[^<>]*)?/?>|&(?:[a-z]{2,8}|#\d+);",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"""\W*(?:
        (?:todo|fixme|xxx|tbd|wip|nodoc|hack)\b
      | (?:add|insert|missing|no|empty|write|your|put|fill)\b.{0,20}
        \b(?:doc(?:string|umentation|s)?|description)\b(?:\ here|\ yet)?\W*$
      | (?:(?:module|class|method|function|this)\s)?docstring\b
      | (?:documentation|description|summary|comment)(?:\ goes)?\ here\b
      | (?:not\ (?:yet\ )?implemented|unimplemented|placeholder|dummy|lorem\ ipsum|undocumented|deprecated)\b
      | (?:internal|private)\ (?:method|function|api|use|helper)(?:\ only)?\W*$
      | (?:auto(?:matically|-)?\s?generated|generated\ by|method\ generated)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_REFERENCE = re.compile(
    r"""\W*(?:
        (?:please\s)?(?:see|refer\ to|cf)\b
      | (?:same|identical|equivalent|similar)\ (?:as|to)\b
      | (?:alias\ (?:for|of|to)|proxied\ for)\b
      | inherit(?:s|ed)?\b.{0,20}\bdoc | doc\S*\ (?:is\ )?inherited
      | (?:overrides?|overridden|overloaded|overwrites?|implements?|implementation\ of)
        \ (?:(?:of|for|from)\ )?(?:the\ |a\ )?(?:\S+\ )?
        (?:(?:base|parent|super|abstract|inherited|interface)\b|\S+[.:]\S+$)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_DIRECTIVE = re.compile(
    r"\W*(?:noqa\b|nosec\b|pragma\b|pylint\s?:|flake8\s?:|mypy\s?:|type\s?:\s?ignore|pyright\s?:|ruff\s?:|fmt\s?:|"
    r"isort\s?:|yapf\s?:|eslint|jshint|jslint|tslint|prettier-ignore|istanbul|rubocop\s?:|phpcs|nolint|go:\w|"
    r"coding[:=]|vim?:|language=|@\w+$)",
    re.IGNORECASE,
)
_PATH_WORD = re.compile(
    r"(?:[~.]?/|[A-Za-z]:\\)?[\w.*-]+(?:[/\\][\w.*-]+)+/?|[\w-]+\.(?:py|js|go|rb|php|java|txt|json|ya?ml)"
)
_WORD = re.compile(r"\w+")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffd\ufffe\uffff\ud800-\udfff]")


def first_paragraph(documentation: str) -> str:
    """The description before the first blank line, tag, section, example, list or rule; may be empty.

    Signatures and admonitions above the description are passed over.
    """
    lines = inspect.cleandoc(documentation.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    while lines and (not lines[0].strip() or _SIGNATURE.match(lines[0]) or lines[0].startswith("!!!")):
        is_admonition = lines.pop(0).startswith("!!!")
        while is_admonition and lines and (not lines[0].strip() or lines[0].startswith("    ")):
            del lines[0]
    kept: list[str] = []
    for line in lines:
        if not line.strip() or _STOP_LINE.match(line):
            break
        kept.append(line.strip())
    text = " ".join(kept)
    for stop in (_INLINE_STOP, _JOINED_STOP):
        if match := stop.search(text):
            text = text[: match.start()]
    return text.strip()


def strip_markup(text: str) -> str:
    """RST roles, links, emphasis and backticks replaced by what a reader sees; whitespace folded."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def is_english(text: str) -> bool:
    """The share of ASCII among the letters: it sees other scripts, not other languages in Latin script."""
    letters = [character for character in text if character.isalpha()]
    ascii_letters = sum(character.isascii() for character in letters)
    return bool(letters) and ascii_letters >= MIN_ASCII_LETTERS * len(letters)


def clean_query(documentation: str) -> str | Drop:
    """The query that a documentation comment gives, or why it gives none."""
    text = first_paragraph(documentation)
    if not text:
        return Drop("no_description")
    if _UNPRINTABLE.search(text):
        return Drop("unprintable")
    if _DIRECTIVE.match(text):
        return Drop("lint_directive")
    query = strip_markup(text)
    if match := _TYPE_PREFIX.match(query):
        query = query[match.end() :]
    if _PLACEHOLDER.match(query):
        return Drop("placeholder")
    if _REFERENCE.match(query):
        return Drop("refers_elsewhere")
    if _URL.search(query):
        return Drop("has_url")
    if _HTML.search(query):
        return Drop("has_html")
    if not is_english(query):
        return Drop("not_english")
    if all(_PATH_WORD.fullmatch(word) for word in query.split()):
        return Drop("path")
    if sum(map(str.isalpha, query)) < MIN_LETTERS * sum(map(len, query.split())):
        return Drop("not_prose")
    words = len(_WORD.findall(query))
    if words < MIN_QUERY_TOKENS:
        return Drop("query_too_short")
    if words > MAX_QUERY_TOKENS:
        return Drop("query_too_long")
    return query


def check_code(code: str) -> Drop | None:
    """Why this code is not used, or None."""
    if not code.strip():
        return Drop("empty_code")
    if _UNPRINTABLE.search(code):
        return Drop("unprintable")
    if sum(1 for line in code.splitlines() if line.strip()) < MIN_CODE_LINES:
        return Drop("code_too_short")
    return None
