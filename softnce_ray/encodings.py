"""Text that is not written in UTF-8, as other programs save it."""

from __future__ import annotations

import codecs


def is_utf16(data: bytes) -> bool:
    """Return True if the bytes look like text in UTF-16: with its mark, or with every second byte 0."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    start = data[:200]
    return len(start) > 3 and any(2 * start[first::2].count(0) > len(start[first::2]) for first in (0, 1))
