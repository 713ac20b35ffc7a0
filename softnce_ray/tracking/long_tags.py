"""Tags longer than MLflow keeps: it cuts a value at 8,000 characters, and JSON that was cut cannot be read."""

from __future__ import annotations

from collections.abc import Mapping

LONGEST = 8_000
_PIECE = 5_000


def in_pieces(name: str, value: str) -> dict[str, str]:
    """Tags that together hold a value of any length, and how many they are."""
    pieces = [value[start : start + _PIECE] for start in range(0, len(value), _PIECE)] or [""]
    return {f"{name}.pieces": str(len(pieces)), **{_name(name, number): piece for number, piece in enumerate(pieces)}}


def from_pieces(name: str, tags: Mapping[str, str], default: str) -> str:
    """The value that `in_pieces` gave; of a store from before that, the one tag's; `default` where there is none."""
    if name not in tags:
        return default
    return "".join(tags[_name(name, number)] for number in range(int(tags.get(f"{name}.pieces", "1"))))


def cut(text: str, rest: str) -> str:
    """A text for people that MLflow keeps whole: of a longer one the first lines, and where the `rest` is."""
    if len(text) <= LONGEST:
        return text
    kept = text[: LONGEST - len(rest) - 2]
    return f"{kept[: kept.rfind(chr(10)) + 1]}\n{rest}"


def _name(name: str, number: int) -> str:
    return name if number == 0 else f"{name}.{number}"
