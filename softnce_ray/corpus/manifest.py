"""What a corpus says of itself: its file `manifest.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from softnce_ray import json_text
from softnce_ray.commands import command
from softnce_ray.corpus.pairs import LANGUAGE_NAME, SPLITS, CorpusError
from softnce_ray.digests import checksum_problem, with_checksum
from softnce_ray.files import read_file

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
UNKNOWN_LICENCE = "unknown: each function under its package's licence"


class DroppedExample(BaseModel):
    """Where something was dropped: `line` is 1-based, 0 for a whole file."""

    model_config = ConfigDict(frozen=True)
    reason: str
    path: str
    line: int


class LanguageCounts(BaseModel):
    """What one language of a corpus holds.

    `pairs` and `digests` are per split, `packages` per split and package. `train_pairs_sharing_query`
    counts the training pairs whose normalised query another training pair has too (natural false
    negatives); `queries_in_train` counts, for valid and test, the queries that also occur in training.
    `meanings` is the digest of the groups of pairs that share a meaning, where they are known, `qrels` that of which
    codes are right, where that is not one for each query.
    """

    model_config = ConfigDict(frozen=True)
    pairs: dict[str, int]
    packages: dict[str, dict[str, int]]
    train_pairs_sharing_query: int
    queries_in_train: dict[str, int]
    digests: dict[str, str]
    # Left out of the file where there are none: manifests of other corpora stay as they are.
    meanings: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    qrels: str | None = Field(default=None, exclude_if=lambda digest: digest is None)


class Findings(BaseModel):
    """Keep what a check of a corpus' rows found.

    `problems` are what makes its figures worthless, each a line for the user. `same_query_other_code` counts, per
    language and split, the pairs whose normalised query another pair of the split has with another code.
    """

    model_config = ConfigDict(frozen=True)
    version: int
    problems: tuple[str, ...] = ()
    same_query_other_code: dict[str, dict[str, int]] = Field(default_factory=dict)


class Manifest(BaseModel):
    """What a corpus holds, how it was made and what was left out.

    `dropped` counts reasons by stage: `files` and `functions` (mining), `lines` and `records` (reading),
    `pairs` (building). `findings` are those of the check when it was built; older ones have none.
    `fingerprint` is a hash of the rows alone: not of `created`, of parquet's bytes, or of where the folder lies.
    """

    model_config = ConfigDict(frozen=True)
    format_version: int = FORMAT_VERSION
    created: str
    fingerprint: str
    languages: dict[str, LanguageCounts]
    dropped: dict[str, dict[str, int]] = Field(default_factory=dict)
    examples: tuple[DroppedExample, ...] = ()
    notes: tuple[str, ...] = ()
    rules: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    licence: str = UNKNOWN_LICENCE
    findings: Findings | None = Field(default=None, exclude_if=lambda findings: findings is None)

    @field_validator("languages")
    @classmethod
    def _are_names(cls, languages: dict[str, LanguageCounts]) -> dict[str, LanguageCounts]:
        """Languages and splits become paths: no manifest, wherever it comes from, may lead out of its folder."""
        for name, counts in languages.items():
            for what, text, right in (
                ("language", name, LANGUAGE_NAME.fullmatch(name)),
                *(("split", split, split in SPLITS) for split in counts.pairs),
            ):
                if not right:
                    got = {"what": what, "got": repr(text[:80])}
                    raise PydanticCustomError("name", "expected a {what}'s name, got {got}", got)
        return languages


def manifest_text(manifest: Manifest) -> str:
    """Return the text of a manifest's file."""
    content = with_checksum(manifest.model_dump(mode="json"))
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the corpus in `folder`.

    Raises:
        CorpusError: the folder or the manifest is missing, broken, or of another format version.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        mine = command("softnce-ray", "corpus", "mine", "--python-environment", "--out", folder)
        raise CorpusError(
            f"expected a corpus folder at {folder}, got nothing: correct the path, or make it with `{mine}`"
        )
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise CorpusError(
            f"expected {MANIFEST_NAME} in {folder}, got a folder without it: it is no corpus; "
            "give a folder that `corpus mine`, `import` or `copy` made"
        ) from None
    except OSError as error:
        raise CorpusError(f"expected JSON in {path}, got {error}: make the corpus again") from error
    return parse_manifest(content, str(path))


def parse_manifest(text: bytes, path: str) -> Manifest:
    """The manifest that a file at `path` holds.

    Raises:
        CorpusError: it is broken, or of another format version.
    """
    try:
        content = json_text.load(text)
    except ValueError as error:
        raise CorpusError(f"expected JSON in {path}, got {error}: make the corpus again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise CorpusError(
            f"expected format version {FORMAT_VERSION} in {path}, got {version!r}: "
            "make the corpus again with this version of softnce-ray, or use the version that made it"
        )
    if changed := checksum_problem(content):
        raise CorpusError(f"expected the manifest that was written at {path}, got {changed}: make the corpus again")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CorpusError(
            f"expected a manifest in {path}, got a wrong value at {where} ({first['msg']}): make the corpus again"
        ) from error
