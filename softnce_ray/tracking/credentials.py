"""Credentials in what people read: taken out of addresses, errors and tracebacks."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from softnce_ray.environment import SECRETS
from softnce_ray.store import Store
from softnce_ray.uris import SECRET_PARAMETER, without_password

_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
_HEADER = re.compile(r"\b(Basic|Bearer) +[A-Za-z0-9+/=._~-]{8,}")


def masked(text: str, store: Store) -> str:
    """A text without the credentials of the store, of the environment and of any address in it."""
    text = text.replace(store.tracking_uri, without_password(store.tracking_uri))
    for secret in _known_secrets(store):
        text = text.replace(secret, "…")
    text = _USER.sub(r"\1…@", text)
    text = SECRET_PARAMETER.sub(r"\1…", text)
    return _HEADER.sub(r"\1 …", text)


def _known_secrets(store: Store) -> list[str]:
    """The longest first. Shorter than four characters is part of too many words."""
    found = {os.environ.get(name, "") for name in SECRETS}
    user = store.tracking_uri.partition("?")[0].partition("://")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    found |= {password, unquote(password)}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)
