"""Commands that messages print: they work as printed, whatever the names in them."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """Return a command line, each word quoted for a shell."""
    return shlex.join(map(str, words))
