"""What every reader gives: a stream of pairs that counts what it leaves out, or the same held in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softnce_ray.config.settings import LANGUAGE_RULE
from softnce_ray.corpus.cleaning import Drop
from softnce_ray.corpus.mining import MAX_EXAMPLES, Example
from softnce_ray.corpus.pairs import CorpusError, Pair

EARLY_LINES = 10_000

ARRAY = "json_array"
_REPAIR = "repair the input, or allow more with --max-bad-share"
_ADVICE = {
    "no_language": "give --language",
    "wrong_language": f"correct the languages: expected {LANGUAGE_RULE}",
    ARRAY: "expected one JSON object a line, got an array: name the file .json, or write it as lines "
    "(jq -c '.[]' FILE.json > FILE.jsonl)",
}
"""Remedies for lines that are bad, by the reason."""


class BadLine(Exception):
    """A line that is no record; the argument is the snake_case reason."""


class Bad(NamedTuple):
    """Why a line is no record."""

    reason: str


class Row(NamedTuple):
    """What one line of an input gave: `line` is 1-based, 0 where there is none.

    `is_line` is off for what is said beside the lines, such as a url that no record has.
    """

    place: str
    line: int
    split: str | None
    result: Pair | Drop | Bad
    is_line: bool = True


@dataclass(frozen=True)
class Reading:
    """What was read: pairs by split, or `unsplit` where the input names no splits; what was left out, by
    reason.

    `bad` are lines that are no records, `dropped` are records that the data rules leave out.
    """

    splits: dict[str, list[Pair]]
    unsplit: list[Pair]
    lines: int
    bad: Counter[str]
    dropped: Counter[str]
    examples: tuple[Example, ...]

    @property
    def pairs(self) -> list[Pair] | dict[str, list[Pair]]:
        """What `build_corpus` takes."""
        return self.splits if self.splits else self.unsplit


class PairStream:
    """The pairs of an input as `(split, pair)`, one at a time; the split is None where the input names none.

    Each iteration reads the input anew and counts anew: `lines`, `bad`, `dropped` and `examples` belong to the
    last one and are complete when it has ended. Iterating raises `CorpusError`: nothing to read, a file that
    breaks off, records with and without a split, or more than `max_bad_share` (0 to 1) of the lines are no
    records, which is looked at from line 10,000 on and at the end. `recipe` says how it is read, with what was
    found out or is the format's default, for a manifest.
    """

    def __init__(
        self,
        path: Path,
        rows: Callable[[], Iterator[Row]],
        max_bad_share: float,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= max_bad_share <= 1:
            raise CorpusError(f"expected a share of bad lines from 0 to 1, got {max_bad_share}: correct max_bad_share")
        self.path = path
        self.recipe = dict(recipe or {})
        self._rows = rows
        self._max_bad_share = max_bad_share
        self._forget()

    def _forget(self) -> None:
        self.lines = 0
        self.bad: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._examples: list[Example] = []

    @property
    def examples(self) -> tuple[Example, ...]:
        """The first few places of each reason."""
        return tuple(self._examples)

    def __iter__(self) -> Iterator[tuple[str | None, Pair]]:
        self._forget()
        is_split: bool | None = None
        for row in self._rows():
            self.lines += row.is_line
            if isinstance(row.result, Pair):
                if is_split is None:
                    is_split = row.split is not None
                elif is_split != (row.split is not None):
                    raise CorpusError(
                        f"expected every record in {self.path} to have a split or none, got the first "
                        f"{'without' if is_split else 'with'} one at {row.place}:{row.line}: "
                        "name the files train, valid, test or codebase, or set the field `partition`"
                    )
                yield row.split, row.result
                continue
            counter = self.bad if isinstance(row.result, Bad) else self.dropped
            counter[row.result.reason] += 1
            if counter[row.result.reason] <= MAX_EXAMPLES:
                self._examples.append(Example(row.result.reason, row.place, row.line))
            if self.lines >= EARLY_LINES:
                self._check()
        if self.lines == 0:
            raise CorpusError(f"expected records in {self.path}, got empty files: correct the path")
        self._check()

    def read(self) -> Reading:
        """All of it in memory, for inputs that fit.

        Raises:
            CorpusError: as of iterating.
        """
        splits: dict[str, list[Pair]] = {}
        unsplit: list[Pair] = []
        for split, pair in self:
            (unsplit if split is None else splits.setdefault(split, [])).append(pair)
        return Reading(splits, unsplit, self.lines, self.bad, self.dropped, self.examples)

    def _check(self) -> None:
        check_bad_share(self.path, self.lines, self.bad, self._examples, self._max_bad_share)


def check_bad_share(path: Path, lines: int, bad: Counter[str], examples: list[Example], max_bad_share: float) -> None:
    """See that at most this share of the lines is bad.

    Raises:
        CorpusError: there are more; it names the first of each reason.
    """
    wrong = bad.total()
    if wrong > max_bad_share * lines:
        first = "; ".join(f"{e.path}:{e.line} {e.reason}" for e in examples if e.reason in bad)
        advice = next((_ADVICE[reason] for reason in _ADVICE if reason in bad), _REPAIR)
        raise CorpusError(
            f"expected at most {max_bad_share:.1%} bad lines in {path}, got {wrong} of {lines} ({first}): {advice}"
        )
