"""A limit on pairs, spread over packages: as many of each as of any other, as long as it has them."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from softnce_ray.corpus.pairs import Pair
from softnce_ray.corpus.sources import Source

_FIRST_FILES = 8
"""Files of a package that are mined before its yield is known."""
_GUESSED_YIELD = 3.0


@dataclass
class _Package:
    """A package on its way: files that are left in reverse order, pairs that were found, and those not yet taken."""

    files: list[Source]
    mined: int = 0
    found: int = 0
    taken: int = 0
    waiting: list[Pair] = field(default_factory=list)


class Spread:
    """Choice of the files that are mined next and the pairs that are taken: `limit` pairs, spread over packages.

    Files are mined in waves. The level is the number of pairs that every package would give if those with files left
    had any number of them; it never falls, so that pairs below it are taken at once. A wave takes of each package below
    the level as many files as its yield so far suggests. What is chosen depends on the waves alone, not on how many
    files are mined at a time.
    """

    def __init__(self, sources: Iterable[Source], limit: int) -> None:
        self._limit = limit
        self._packages: dict[str, _Package] = {}
        for source in sources:
            self._packages.setdefault(source.package, _Package([])).files.append(source)
        for package in self._packages.values():
            package.files.reverse()
        self._level = self._next_level()
        self._awaited: deque[_Package] = deque()

    def chunks(self, size: int) -> Iterator[Sequence[Source]]:
        """Files to mine, `size` at a time, and none while the results of a wave are awaited.

        Chunks are mined some way ahead of those whose results were added: an empty one lets the others catch up.
        """
        while wave := self._wave():
            self._awaited.extend(self._packages[source.package] for source in wave)
            for start in range(0, len(wave), size):
                yield wave[start : start + size]
            while self._awaited:
                yield ()
            self._level = self._next_level()

    def add(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """Count the pairs of the next file of `chunks` and return those that are surely taken; the others wait."""
        package = self._awaited.popleft()
        package.mined += 1
        package.found += len(pairs)
        package.waiting += pairs
        return self._take(package, self._level - 1)

    def rest(self) -> tuple[tuple[Pair, ...], Counter[str]]:
        """The waiting pairs that are taken in the end, and the number of those that are not, as `over_limit`."""
        level = self._next_level()
        taken: list[Pair] = []
        for package in self._packages.values():
            taken += self._take(package, level - 1)
        room = self._limit - sum(package.taken for package in self._packages.values())
        for package in self._packages.values():
            one = self._take(package, min(level, package.taken + (room > 0)))
            taken += one
            room -= len(one)
        over = sum(len(package.waiting) for package in self._packages.values())
        return tuple(taken), Counter(over_limit=over) if over else Counter()

    def _take(self, package: _Package, level: int) -> tuple[Pair, ...]:
        count = max(0, level - package.taken)
        taken, package.waiting = tuple(package.waiting[:count]), package.waiting[count:]
        package.taken += len(taken)
        return taken

    def _next_level(self) -> int:
        """The least number of pairs of each package that makes the limit, or the most that any has."""
        level, left = 0, self._limit
        has = sorted(math.inf if package.files else package.found for package in self._packages.values())
        for position, most in enumerate(has):
            share = -(-left // (len(has) - position))
            if share <= most - level:
                return level + share
            left -= int(most - level) * (len(has) - position)
            level = int(most)
        return level

    def _wave(self) -> list[Source]:
        found = sum(package.found for package in self._packages.values())
        mined = sum(package.mined for package in self._packages.values())
        usual = found / mined if found else _GUESSED_YIELD
        wave: list[Source] = []
        for package in self._packages.values():
            if (missing := self._level - package.found) <= 0:
                continue
            of_file = (package.found + usual) / (package.mined + 1)
            for _ in range(min(math.ceil(missing / of_file), _FIRST_FILES + 2 * package.mined, len(package.files))):
                wave.append(package.files.pop())
        return wave
