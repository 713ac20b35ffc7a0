"""Names such as `c++` and `visual basic .net` where few characters are allowed: in MLflow's keys, and in folders."""

from __future__ import annotations

from urllib.parse import quote, unquote


def plain(name: str) -> str:
    """A name in letters, digits, `_` and `-`, with any other as a dot and its hexadecimal number: `c++` → `c.2B.2B`.

    A name of those alone is itself, and `spelt` gives every name back.
    """
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E").replace("%", ".")


def spelt(name: str) -> str:
    """The name that `plain` wrote."""
    return unquote(name.replace(".", "%"))
