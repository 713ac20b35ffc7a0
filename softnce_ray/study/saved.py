"""Studies as they were last launched, kept in the store: what `resume` goes on with and `extend` adds to."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from softnce_ray.config import Precision, StudyConfig
from softnce_ray.config.settings import NAME
from softnce_ray.files import read_file
from softnce_ray.folders import write_text
from softnce_ray.store import Store, StoreError
from softnce_ray.study.file import parse_study
from softnce_ray.study.problems import Problem, StudyError

_DIRECTORY = "# launched from: "
_CHECKSUM = "# sha256 of the other lines: "
"""The second line; files of earlier versions lack it."""


@dataclass(frozen=True)
class SavedStudy:
    """A study and the directory that its relative paths start from."""

    study: StudyConfig
    directory: Path


def study_text(study: StudyConfig) -> str:
    """A study as YAML, with every default written out."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def save_study(store: Store, study: StudyConfig) -> None:
    """Keep a study in the store, in the place of what was kept of it before.

    Raises:
      OSError: it cannot be written.
    """
    whole = study.model_copy(update={"corpus": str(Path(study.corpus).absolute())})
    path = store.study_file(study.study)
    path.parent.mkdir(parents=True, exist_ok=True)
    directory, text = f"{_DIRECTORY}{Path.cwd()}\n", study_text(whole)
    write_text(path, f"{directory}{_CHECKSUM}{_checksum(directory + text)}\n{text}")


def saved_study(store: Store, name: str) -> SavedStudy:
    """The study of a name as it was last launched with this store.

    Raises:
      StoreError: there is none, or it was changed.
      StudyError: it can no longer run: its corpus is gone, for example.
    """
    path = store.study_file(name) if re.fullmatch(NAME, name) else None
    if path is None or not os.path.lexists(path):
        known = ", ".join(sorted(file.stem for file in (store.root / "studies").glob("*.yaml"))) or "none yet"
        raise StoreError(
            f"expected a study that was launched with the store {store.root} (--store), got {name!r}; there: {known}"
        )
    text = _read(path)
    directory = text.partition("\n")[0].removeprefix(_DIRECTORY)
    return SavedStudy(parse_study(text, source=str(path)), Path(directory))


def _read(path: Path) -> str:
    try:
        text = read_file(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"expected the study as it was launched in {path}, got {got}: {_REMEDY}") from error
    lines = text.splitlines(keepends=True)
    checksum = lines[1].removeprefix(_CHECKSUM).strip() if len(lines) > 1 and lines[1].startswith(_CHECKSUM) else ""
    if checksum and checksum != _checksum("".join([lines[0], *lines[2:]])):
        raise StoreError(
            f"expected the study as it was launched in {path}, got one that was changed or damaged: {_REMEDY}; if the "
            "change is meant, remove the file's second line"
        )
    return text


_REMEDY = "launch its study file again, which writes it anew"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def extended(
    study: StudyConfig, *, seeds: Sequence[int] = (), languages: Sequence[str] = (), trials: int | None = None
) -> StudyConfig:
    """A study with more seeds, languages and search trials (`trials` in all, of each cell); what it has already is
    left as it is.

    Raises:
      StudyError: what is added does not go together with the study.
    """
    problems = []
    if trials is not None and study.search is None:
        said = f"expected none for a study without a search, got {trials}: add search to its file and launch that"
        problems.append(Problem("search.trials", said))
    elif trials is not None and study.search is not None and trials < (now := study.search.trials):
        said = (
            f"expected at least the {now} that each cell has, got {trials}: count those too, --trials {now + trials} "
            f"adds {trials}"
        )
        problems.append(Problem("search.trials", said))
    if seeds and isinstance(study.seeds, Precision):
        asked, got = study.seeds, ", ".join(map(str, seeds))
        problems.append(
            Problem(
                "seeds",
                f"expected none for a study that adds them itself until the half-width is {asked.half_width:g}, got "
                f"{got}: raise at_most ({asked.at_most}) or lower half_width in its file and launch that",
            )
        )
    if problems:
        raise StudyError(f"study {study.study}", problems)
    plain = study.model_dump(mode="json")
    if seeds:
        plain["seeds"] += [seed for seed in dict.fromkeys(seeds) if seed not in study.possible_seeds]
    entries = plain["languages"]["choices"] if isinstance(plain["languages"], dict) else plain["languages"]
    entries += [name for name in dict.fromkeys(languages) if name not in study.language_names]
    if trials is not None:
        plain["search"]["trials"] = trials
    return parse_study(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), source=f"study {study.study}")
