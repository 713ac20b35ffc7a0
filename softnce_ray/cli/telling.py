"""What commands tell beside their results."""

from __future__ import annotations

import sys
from collections.abc import Iterable


def tell(lines: Iterable[str]) -> None:
    """Print lines to stderr."""
    for line in lines:
        print(f"softnce-ray: {line}", file=sys.stderr, flush=True)
