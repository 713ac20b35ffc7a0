"""Compare two corpora: may a model that is trained on one be measured on the other?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from softnce_ray.corpus.choosing import EVALUATION
from softnce_ray.corpus.duplicates import (
    Hashes,
    as_hashes,
    normalise_code,
    normalise_query,
    occur_in,
    repeats,
    text_hash,
)
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.published import Projects
from softnce_ray.corpus.store import Corpus

_NAMED = 3
OVERLAP_SPLITS = ("train", *reversed(EVALUATION))


@dataclass(frozen=True)
class Overlap:
    """Numbers of pairs of an evaluation split of a corpus that another corpus has in one of its splits.

    Attributes:
      language: of both.
      split: of the corpus that is compared.
      against: the other's split, valid or test, whose pairs are counted.
      pairs: of `against`.
      packages: of `against`, that `split` has too, under the same or another name of the project.
      package_pairs: pairs of these packages.
      equal_codes: pairs whose normalised code stands in `split`.
      near_codes: further pairs with a near duplicate in `split`.
      equal_queries: pairs whose normalised query stands in `split`, with whatever code.
    """

    language: str
    split: str
    against: str
    pairs: int
    packages: tuple[str, ...]
    package_pairs: int
    equal_codes: int
    near_codes: int
    equal_queries: int

    @property
    def codes(self) -> int:
        """Pairs whose code stands in `split`, equal or nearly."""
        return self.equal_codes + self.near_codes

    def problem(self, against: str) -> str:
        """Return why figures on `against` are doubtful for a model trained on `split`; "" if they are not."""
        if not self.packages and not self.codes:
            return ""
        named = ", ".join(self.packages[:_NAMED]) + (", …" if len(self.packages) > _NAMED else "")
        packages = f" and {len(self.packages)} of its packages ({named}; {self.package_pairs:,} pairs)" if named else ""
        return (
            f"{self.language}: expected nothing of {self.against} of {against} in {self.split}, got the code of "
            f"{self.codes:,} of {self.pairs:,} pairs{packages}: do not measure there, or mine with --apart-from "
            f"{against}"
        )


def compare(corpus: Corpus, against: Corpus, *, splits: Sequence[str] = OVERLAP_SPLITS) -> Iterator[Overlap]:
    """Compare splits of a corpus with valid and test of another, in all languages that both have.

    Raises:
        CorpusError: see `languages_in_common`, or a table cannot be read.
    """
    for language in languages_in_common(corpus, against):
        for split in splits:
            for other in EVALUATION[::-1]:
                sides = ((corpus, split), (against, other))
                if all(side.manifest.languages[language].pairs.get(name) for side, name in sides):
                    yield _overlap(corpus, against, language, split, other)


def languages_in_common(corpus: Corpus, against: Corpus) -> list[str]:
    """Return the languages of a corpus that another one evaluates.

    Raises:
        CorpusError: they have no language in common, or the other has no pair of valid or test in one.
    """
    check_evaluated(corpus.languages, against, f"in {corpus.location}")
    return [language for language in corpus.languages if language in against.languages]


def check_evaluated(languages: Sequence[str], against: Corpus, where: str) -> None:
    """Raise CorpusError if a corpus evaluates none of some languages: apart from it would mean nothing.

    Args:
        languages: names as in corpora.
        against: the corpus with valid and test.
        where: the place of the languages, for the error.
    """
    common = [language for language in languages if language in against.languages]
    if not common:
        raise CorpusError(
            f"expected a language in common, got {', '.join(languages)} {where} and {', '.join(against.languages)} in "
            f"{against.location}: there is nothing to compare"
        )
    if not any(against.manifest.languages[language].pairs.get(split) for language in common for split in EVALUATION):
        raise CorpusError(
            f"expected pairs of {' or '.join(EVALUATION)} of {', '.join(common)} in {against.location}, got none: "
            "there is nothing to compare"
        )


def _overlap(corpus: Corpus, against: Corpus, language: str, split: str, other: str) -> Overlap:
    here, there = corpus.manifest.languages[language], against.manifest.languages[language]
    shared = shared_packages(language, here.packages[split], there.packages[other])
    codes = repeats(_normalised(against, language, other, "code"), _normalised(corpus, language, split, "code"))
    queries = occur_in(_query_hashes(against, language, other), _query_hashes(corpus, language, split))
    return Overlap(
        language,
        split,
        other,
        there.pairs[other],
        shared,
        sum(there.packages[other][name] for name in shared),
        int(codes.equal.sum()),
        int((codes.near & ~codes.equal).sum()),
        int(queries.sum()),
    )


def shared_packages(
    language: str, packages: Mapping[str, int] | Sequence[str], others: Mapping[str, int]
) -> tuple[str, ...]:
    """Return those of `others` that are projects of `packages`, under any name, those with most pairs first."""
    ours, theirs = (Projects(language, filter(None, names)) for names in (packages, others))
    shared = {name for name in others if name and (name in packages or ours.find(name))}
    shared |= {found for name in packages if (found := theirs.find(name))}  # a name without an owner finds one with it
    return tuple(sorted(shared, key=lambda name: (-others[name], name)))


_NORMALISE: dict[str, Callable[[str], str]] = {"code": normalise_code, "query": normalise_query}


def _normalised(corpus: Corpus, language: str, split: str, side: str) -> Iterator[str]:
    for rows in corpus.batches(language, split, [side]):
        yield from map(_NORMALISE[side], rows.column(side).to_pylist())


def _query_hashes(corpus: Corpus, language: str, split: str) -> Hashes:
    return as_hashes(b"".join(map(text_hash, _normalised(corpus, language, split, "query"))))
