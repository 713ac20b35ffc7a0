"""Credentials in what people read: taken out of addresses, errors and tracebacks."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from softnce_ray.environment import SECRETS
from softnce_ray.store import Store

_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
_WORD = r"token|pass|pwd|secret|key|signature|sig|auth|credential"
_PARAMETER = re.compile(rf"([?&;][^=&;\s]*?(?:{_WORD})[^=&;\s]*=)[^&;\s'\"<>]+", re.IGNORECASE)
_HEADER = re.compile(r"\b(Basic|Bearer) +[A-Za-z0-9+/=._~-]{8,}")


def without_password(uri: str) -> str:
    """An address without user, password and secret query parameters; a password may have any characters."""
    address, mark, query = uri.partition("?")
    if "@" in query and "@" not in address:  # a password with a question mark
        address, mark, query = uri, "", ""
    head, at, tail = address.rpartition("@")
    shown = f"{head.split('://')[0]}://…@{tail}" if at else address
    return _PARAMETER.sub(r"\1…", f"{shown}{mark}{query}")


def masked(text: str, store: Store) -> str:
    """A text without the credentials of the store, of the environment and of any address in it."""
    text = text.replace(store.tracking_uri, without_password(store.tracking_uri))
    for secret in _known_secrets(store):
        text = text.replace(secret, "…")
    text = _USER.sub(r"\1…@", text)
    text = _PARAMETER.sub(r"\1…", text)
    return _HEADER.sub(r"\1 …", text)


def _known_secrets(store: Store) -> list[str]:
    """The longest first. Shorter than four characters is part of too many words."""
    found = {os.environ.get(name, "") for name in SECRETS}
    user = store.tracking_uri.partition("?")[0].partition("://")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    found |= {password, unquote(password)}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)
