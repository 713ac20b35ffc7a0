"""Scripts of the texts of a corpus, where they decide how texts are read: scripts without spaces between words,
alphabets that are larger than a tokenizer's."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow.compute as pc

from softnce_ray.corpus.store import Corpus

UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3\u17d7\u17dc\u17dd"
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3100-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
"""Letters and marks, not digits, of scripts that set no spaces between words, as a class of a regular expression: Thai,
Lao, Myanmar, Khmer, Han, Hiragana, Katakana and Bopomofo."""
UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")

ALPHABET = 500
"""Characters that a tokenizer trained on a corpus has at most; the most frequent ones."""

MOST_OUTSIDE = 0.002
"""Mean share of a text's characters outside of the alphabet, above which a tokenizer reads bytes. With words of four or
five characters it is a hundredth of the tokens."""

_ASCII = 68  # small letters, digits and marks: the rest of the alphabet is for other characters
_ROWS = 5_000


@dataclass
class Alphabet:
    """Counts how much of texts a limited alphabet leaves out."""

    texts: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _shares: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of a text's characters, summed

    def add(self, texts: Iterable[str], *, ascii_texts: int = 0) -> None:
        """Count texts, and so many more of which nothing but ASCII is known."""
        self.texts += ascii_texts
        for text in texts:
            self.texts += 1
            if text.isascii():
                continue
            read = unicodedata.normalize("NFKC", text).lower()
            for letter, count in Counter(read).items():
                if not letter.isascii():
                    self._counts[letter] += count
                    self._shares[letter] += count / len(read)

    @property
    def outside(self) -> float:
        """Mean over texts of the share of their characters that are left out."""
        rest = self._counts.most_common()[ALPHABET - _ASCII :]
        return sum(self._shares[letter] for letter, _ in rest) / max(1, self.texts)

    @property
    def needs_bytes(self) -> bool:
        return self.outside > MOST_OUTSIDE


@dataclass(frozen=True)
class Scripts:
    """Of the training texts of a corpus.

    Attributes:
      unspaced: (language, side) of which some text has words of a script without spaces.
      needs_bytes: whether a tokenizer that is trained on them reads bytes.
    """

    unspaced: frozenset[tuple[str, str]]
    needs_bytes: bool


_KNOWN: dict[str, Scripts] = {}


def scripts_of(corpus: Corpus) -> Scripts:
    """Read all training texts, once for each corpus and process: about a second for 100,000 pairs.

    Raises:
      CorpusError: a table cannot be read.
    """
    if corpus.fingerprint not in _KNOWN:
        alphabet, unspaced = Alphabet(), set()
        for language in corpus.languages:
            for rows in corpus.batches(language, "train", ["query", "code"], rows=_ROWS):
                for side in ("query", "code"):
                    column = rows.column(side)
                    others = column.filter(pc.not_equal(pc.binary_length(column), pc.utf8_length(column))).to_pylist()
                    alphabet.add(others, ascii_texts=len(column) - len(others))
                    if any(UNSPACED_RUN.search(text) for text in others):
                        unspaced.add((language, side))
        _KNOWN[corpus.fingerprint] = Scripts(frozenset(unspaced), alphabet.needs_bytes)
    return _KNOWN[corpus.fingerprint]
