"""Printing: what others wrote goes to a terminal without the characters that command one.

All that this package prints goes through here, or through `rich_console`: texts of indexed files, names of packages and
paths, answers of servers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and new line, what turns the direction of text, and halves of characters, which names of
files that are not UTF-8 have."""


def plain(text: str) -> str:
    """Return a text with each character that commands a terminal as one that shows it: `\\x1b` as `␛`."""
    return text if text.isprintable() else _COMMANDS.sub(_shown, text.replace("\r\n", "\n"))


def in_line(text: str) -> str:
    """Return a text as one line without tabs, a field of a table for programs."""
    return plain(" ".join(text.split()))


def to_stdout(*texts: object, end: str = "\n") -> None:
    """Print a result."""
    print(*(plain(str(text)) for text in texts), end=end, flush=True)


def to_stderr(*texts: object) -> None:
    """Print what is said beside a result."""
    print(*(plain(str(text)) for text in texts), file=sys.stderr, flush=True)


def tell(lines: Iterable[str]) -> None:
    """Print lines to stderr under the program's name."""
    for line in lines:
        to_stderr(f"softnce-ray: {line}")


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
