"""Whether a corpus' figures can be believed: no function of evaluation in training, no package on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softnce_ray.corpus.duplicates import (
    Hashes,
    as_hashes,
    first_equal,
    normalise_code,
    normalise_query,
    occur_in,
    text_hash,
)
from softnce_ray.corpus.manifest import Findings, Manifest
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify

FINDINGS_VERSION = 1
_EVALUATION = ("valid", "test")
_NAMED = 3
_BY_FILE_NOTE = "the split is by file"


@dataclass(frozen=True)
class Contents:
    """What a check looks at of a split: hashes of the normalised texts, and the packages' names."""

    queries: Hashes
    codes: Hashes
    packages: frozenset[str]


def check_corpus(folder: str | Path, *, read_rows: bool = False) -> list[str]:
    """What makes figures of the corpus in `folder` worthless, a line each: nothing where all is well.

    A normalised code of valid or test must not occur in training. Where the manifest says that packages were split,
    none may lie in two of training, valid and test, whatever the language; distractors may come from valid's and
    test's packages.

    The manifest has what was found when the corpus was built, which is what this gives at once; a manifest without it
    is checked from the rows (a minute and a half for 1,000,000 pairs), and so is any corpus with `read_rows`, which
    also sees that the rows are those of the manifest.

    Raises:
        CorpusError: the corpus is missing or damaged.
    """
    found = None if read_rows else Corpus.listed(folder).manifest.findings
    if found is None or found.version != FINDINGS_VERSION:
        found = examine_corpus(folder, verify=Verify.ALL if read_rows else Verify.LARGE_ONCE)
    return list(found.problems)


def examine_corpus(folder: str | Path, *, verify: Verify = Verify.ALL) -> Findings:
    """Keep what a check of all rows finds; `verify` says which of them are compared with the manifest.

    Raises:
        CorpusError: the corpus is missing, damaged or changed.
    """
    return examine_rows(Corpus.open(folder, verify=verify))


def examine_rows(corpus: Corpus) -> Findings:
    """As `examine_corpus`, of a corpus that is open.

    Raises:
        CorpusError: a table cannot be read.
    """
    contents = {
        language: {split: _contents(corpus, language, split) for split in counts.pairs}
        for language, counts in corpus.manifest.languages.items()
    }
    return examine(contents, by_package=split_by_package(corpus.manifest))


def examine(contents: Mapping[str, Mapping[str, Contents]], *, by_package: frozenset[str]) -> Findings:
    """What is found in language -> split -> contents, of which the languages of `by_package` were split by package."""
    problems = []
    for language, splits in contents.items():
        for split in _EVALUATION:
            if split not in splits or "train" not in splits:
                continue
            shared = int(occur_in(splits[split].codes, splits["train"].codes).sum())
            if shared:
                problems.append(
                    f"{language}: expected no function of {split} in train, got {shared} whose code, but for layout, "
                    "is also trained on: make the corpus again with this version, which leaves them out"
                )
    sides: dict[str, set[str]] = {}
    for language in by_package & contents.keys():
        for split, each in contents[language].items():
            sides.setdefault(split, set()).update(each.packages)
    # Distractors are what is left over of the evaluation packages.
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test"), ("train", "codebase")):
        both = sorted(sides.get(one, set()) & sides.get(other, set()))
        if both:
            more = ", …" if len(both) > _NAMED else ""
            problems.append(
                f"expected every package in one split, as the manifest says, got {len(both)} in both {one} and "
                f"{other} ({', '.join(map(repr, both[:_NAMED]))}{more}): build the corpus again"
            )
    return Findings(
        version=FINDINGS_VERSION,
        problems=tuple(problems),
        same_query_other_code={
            language: {split: _same_query_other_code(each) for split, each in splits.items() if split != "codebase"}
            for language, splits in contents.items()
        },
    )


def repeated_queries(findings: Findings) -> list[str]:
    """Notes of queries of valid and test that several pairs have with different codes."""
    return [
        f"{language}: {pairs:,} pairs of {split} have a query that another one has with another code, and only its own "
        "code counts as right: give one pair for each query, or say in the query what differs"
        for language, splits in findings.same_query_other_code.items()
        for split, pairs in splits.items()
        if split in _EVALUATION and pairs
    ]


def _same_query_other_code(contents: Contents) -> int:
    """Pairs whose query another pair has with another code."""
    query, code = first_equal(contents.queries), first_equal(contents.codes)
    lowest, highest = code.copy(), code.copy()
    np.minimum.at(lowest, query, code)
    np.maximum.at(highest, query, code)
    return int((lowest[query] != highest[query]).sum())


def _contents(corpus: Corpus, language: str, split: str) -> Contents:
    queries, codes = bytearray(), bytearray()
    packages: set[str] = set()
    for rows in corpus.batches(language, split, ["query", "code", "package"]):
        for query in rows.column("query").to_pylist():
            queries += text_hash(normalise_query(query))
        for code in rows.column("code").to_pylist():
            codes += text_hash(normalise_code(code))
        packages.update(rows.column("package").unique().to_pylist())
    return Contents(as_hashes(queries), as_hashes(codes), frozenset(packages))


def split_by_package(manifest: Manifest) -> frozenset[str]:
    """The languages of which every package lies in one split."""
    if manifest.rules.get("split") != "by package":
        return frozenset()
    by_file = set(manifest.rules.get("split_by_file", ()))
    for note in manifest.notes:  # all that older manifests say of it
        language, _, said = note.partition(": ")
        if _BY_FILE_NOTE in said:
            by_file.add(language)
    return frozenset(manifest.languages) - by_file
