"""Corpora for a controlled experiment: how many training pairs are false negatives of each other is known,
because they were planted."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from softnce_ray.corpus.build import build_corpus, check_output
from softnce_ray.corpus.duplicates import normalise_code
from softnce_ray.corpus.manifest import Manifest
from softnce_ray.corpus.pairs import CorpusError, Pair
from softnce_ray.corpus.renaming import bound_names, renamable_names, renamed
from softnce_ray.corpus.rephrasing import paraphrase
from softnce_ray.corpus.store import Corpus

SHARES = (0.0, 0.1, 0.3)
_RENAMED_LANGUAGES = ("python",)
_SAME_QUERY = 0.25
_LEAST_NAMES = 2
_POOL_FUNCTIONS = 4000
_NAME_LENGTH = 3
_COMMON = 3  # functions that use a name
_ENOUGH_NAMES = 200
_DRAWS = 3  # times the variants wanted: where the pool is small, two draws may be equal
_HEAD = re.compile(r"\s*(?:async\s+)?def\s+(\w+)")


@dataclass(frozen=True)
class _Group:
    """A pair and others that share its meaning; the first is the pair itself."""

    source: Pair
    variants: tuple[Pair, ...]


def share_name(share: float) -> str:
    """The language that stands for a share: `share_10` for 0.1, `share_2_5` for 0.025."""
    percent = f"{share * 100:.6f}".rstrip("0").rstrip(".")
    return "share_" + percent.replace(".", "_")


def plant(
    corpus: str | Path,
    out: str | Path,
    *,
    language: str = "python",
    shares: Sequence[float] = SHARES,
    pairs: int = 8000,
    members: int = 16,
    evaluation_members: int = 4,
    queries: int = 500,
    seed: int = 0,
    overwrite: bool = False,
) -> Manifest:
    """Write the corpus `out` with one language for each of `shares`, made of a corpus' pairs.

    Train of each has exactly `pairs` pairs. A share of them, to the nearest whole group, is in groups of
    `members`: a pair of the corpus and variants of it, with other names in the code and, for about three in
    four, other words in the query. Codes of a group are all different. The rest are ordinary pairs. Shares
    use the same pairs as far as they can: a larger share has the groups of a smaller one and more, and its
    ordinary pairs are some of the smaller one's. Which training pairs are a group is not written.

    Valid and test are the same for all shares: at most `queries` pairs of the corpus' own, and for each
    `evaluation_members` - 1 variants of its code, without a query, in `codebase`, beside the corpus' own
    distractors. `Corpus.meanings` of the result has the groups of these. Equal arguments give an equal
    fingerprint.

    Args:
        corpus: a corpus folder with `language`.
        shares: different numbers in [0, 1).
        pairs: 1 or more; members, evaluation_members: 2 or more; queries: 1 or more.

    Raises:
        CorpusError: `out` is taken, `corpus` cannot be opened, an argument is out of its range, or the
            corpus has too few pairs, all said at once; or too few of its functions can be renamed.
    """
    problems = _problems(language, shares, pairs, members, evaluation_members, queries)
    opened: Corpus | None = None
    try:
        check_output(out, overwrite=overwrite)
    except CorpusError as error:
        problems.append(str(error))
    try:
        opened = Corpus.open(corpus)
    except CorpusError as error:
        problems.append(str(error))
    if opened is not None:
        problems += _problems_of_corpus(opened, language, pairs)
    if problems or opened is None:
        raise CorpusError("\n".join(problems))

    order = _pairs(opened, language, "train")
    random.Random(f"{seed}/order").shuffle(order)
    evaluation = {split: _pairs(opened, language, split) for split in ("valid", "test")}
    distractors = _pairs(opened, language, "codebase")
    every_code = (pair.code for rows in (order, *evaluation.values(), distractors) for pair in rows)
    planter = _Planter(_pool(order), {normalise_code(code) for code in every_code}, seed)

    groups = {share: round(share * pairs / members) for share in shares}
    needed = max(groups.values())
    sources = planter.groups((pair for pair in order if _is_rephrasable(pair.query)), needed, members - 1)
    if len(sources) < needed:
        raise CorpusError(
            f"expected {needed} functions of {language} train in {corpus} with at least {_LEAST_NAMES} names to "
            f"replace and a query to rephrase, got {len(sources)}: ask for fewer pairs, smaller shares or more members"
        )
    of_groups = {group.source.id for group in sources}
    singles = [pair for pair in order if pair.id not in of_groups]

    asked: dict[str, list[Pair]] = {}
    known: dict[int, list[Pair]] = {}
    codebase = list(distractors)
    for split, rows in evaluation.items():
        random.Random(f"{seed}/{split}").shuffle(rows)
        found = planter.groups(rows, queries, evaluation_members - 1, with_queries=False)
        if not found:
            raise CorpusError(
                f"expected functions of {language} {split} in {corpus} with at least {_LEAST_NAMES} names to replace, "
                "got none: give a corpus with more pairs"
            )
        asked[split] = [group.source for group in found]
        for group in found:
            known[len(known)] = [group.source, *group.variants]
            codebase += group.variants

    splits: dict[str, list[Pair]] = {"train": [], **{split: [] for split in asked}, "codebase": []}
    meanings: dict[str, dict[str, int]] = {}
    for share, count in groups.items():
        name = share_name(share)
        train = [pair for group in sources[:count] for pair in (group.source, *group.variants)]
        # The other shares' sources come first, so that no share is without them.
        train += [*(group.source for group in sources[count:]), *singles][: pairs - len(train)]
        random.Random(f"{seed}/{name}").shuffle(train)
        for split, rows in (("train", train), *asked.items(), ("codebase", codebase)):
            splits[split] += [replace(pair, language=name) for pair in rows]
        meanings[name] = {
            replace(pair, language=name).id: meaning for meaning, group_pairs in known.items() for pair in group_pairs
        }
    recipe = {
        "planted_from": opened.fingerprint,
        "language": language,
        "shares": {share_name(share): share for share in shares},
        "groups": {share_name(share): count for share, count in groups.items()},
        "pairs": pairs,
        "members": members,
        "evaluation_members": evaluation_members,
        "queries": queries,
        "seed": seed,
    }
    return build_corpus(
        splits,
        out,
        seed=seed,
        recipe=recipe,
        overwrite=overwrite,
        near_duplicate=None,  # variants are near duplicates, and are to stay
        licence=opened.manifest.licence,
        meanings=meanings,
    )


def _problems(
    language: str, shares: Sequence[float], pairs: int, members: int, evaluation_members: int, queries: int
) -> list[str]:
    found = []
    if language not in _RENAMED_LANGUAGES:
        found.append(
            f"language: expected one of {', '.join(_RENAMED_LANGUAGES)}, got {language!r}: "
            "names of other languages' code cannot be replaced yet"
        )
    if not shares:
        found.append("shares: expected one or more, got none: give 0 for a corpus without planted pairs")
    for share in shares:
        if not 0 <= share < 1:
            found.append(f"shares: expected numbers from 0 up to, not with, 1, got {share}: give 0.1 for a tenth")
    names = [share_name(share) for share in shares if 0 <= share < 1]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(f"shares: expected different ones, got {name} {names.count(name)} times: give each once")
    for what, got, least in (
        ("pairs", pairs, 1),
        ("members", members, 2),
        ("evaluation_members", evaluation_members, 2),
        ("queries", queries, 1),
    ):
        if got < least:
            found.append(f"{what}: expected {least} or more, got {got}")
    if pairs >= 1 and members >= 2:
        for share in shares:
            if 0 < share < 1 and not 1 <= round(share * pairs / members) <= pairs // members:
                found.append(
                    f"shares: expected whole groups of {members} members in {pairs} pairs, got {share * pairs:g} pairs "
                    f"for {share}: give more pairs, another share or fewer members"
                )
    return found


def _problems_of_corpus(corpus: Corpus, language: str, pairs: int) -> list[str]:
    if language not in corpus.languages:
        return [f"expected {language} in {corpus.folder}, got a corpus of {', '.join(corpus.languages)}: give another"]
    counts = corpus.manifest.languages[language].pairs
    found = []
    if corpus.manifest.languages[language].qrels is not None:
        found.append(
            f"expected a corpus whose queries have a code of their own each, got {corpus.folder}, where some of "
            f"{language} share one or have several: give a mined corpus"
        )
    if counts.get("train", 0) < pairs:
        found.append(
            f"expected at least {pairs} pairs in {language} train of {corpus.folder}, got {counts.get('train', 0)}: "
            "ask for fewer, or give a larger corpus"
        )
    for split in ("valid", "test"):
        if not counts.get(split, 0):
            found.append(f"expected pairs in {language} {split} of {corpus.folder}, got none: give another corpus")
    return found


def _pairs(corpus: Corpus, language: str, split: str) -> list[Pair]:
    rows = corpus.table(language, split).to_pylist()
    return [Pair(**{name: value for name, value in row.items() if name != "id"}) for row in rows]


def _pool(rows: Sequence[Pair]) -> list[str]:
    """Names that other functions give to what they hold; those that several use, where there are enough."""
    uses = Counter(name for pair in rows[:_POOL_FUNCTIONS] for name in bound_names(pair.code))
    fit = sorted(name for name in uses if len(name) >= _NAME_LENGTH and not name.startswith("_"))
    common = [name for name in fit if uses[name] >= _COMMON]
    return common if len(common) >= _ENOUGH_NAMES else fit


def _is_rephrasable(query: str) -> bool:
    return paraphrase(query, random.Random(0)) != query


@dataclass(frozen=True)
class _Planter:
    """Makes variants; `taken` has the normalised codes that a new one must differ from, and grows."""

    pool: list[str]
    taken: set[str]
    seed: int

    def groups(self, rows: Iterable[Pair], count: int, variants: int, *, with_queries: bool = True) -> list[_Group]:
        """Groups of the first `count` of `rows` that have so many variants, or of all there are."""
        word: Callable[[str, random.Random], str] = _reworded if with_queries else _silent
        found: list[_Group] = []
        for pair in rows:
            if len(found) == count:
                break
            if len(renamable_names(pair.code)) >= _LEAST_NAMES and (made := self._variants(pair, variants, word)):
                found.append(_Group(pair, made))
        return found

    def _variants(self, pair: Pair, count: int, word: Callable[[str, random.Random], str]) -> tuple[Pair, ...] | None:
        # Each pair has draws of its own: it gets the same variants whatever else is planted.
        rng = random.Random(f"{self.seed}/{pair.id}")
        made: dict[str, Pair] = {}
        for _ in range(_DRAWS * count):
            code = renamed(pair.code, self.pool, rng)
            normalised, head = normalise_code(code), _HEAD.match(code)
            if head is None or normalised in self.taken or normalised in made:
                continue
            made[normalised] = replace(pair, query=word(pair.query, rng), code=code, name=head[1])
            if len(made) == count:
                self.taken.update(made)
                return tuple(made.values())
        return None


def _reworded(query: str, rng: random.Random) -> str:
    return query if rng.random() < _SAME_QUERY else paraphrase(query, rng)


def _silent(query: str, rng: random.Random) -> str:
    return ""
