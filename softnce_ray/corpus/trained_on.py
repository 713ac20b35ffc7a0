"""Notes on models that were trained on what they are evaluated on, from their export's record or the corpus itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softnce_ray import json_text
from softnce_ray.corpus.comparing import compare, shared_packages
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.exported import EXPORT_RECORD
from softnce_ray.files import read_file

_NAMED = 3


@dataclass(frozen=True)
class TrainedOn:
    """The corpus that a model was trained on: its fingerprint, and the packages of its train by language; None where
    the corpus was not at hand."""

    corpus: str
    packages: Mapping[str, Sequence[str]] | None


def read_trained_on(folder: Path) -> TrainedOn | None:
    """Return what the model of an export, or of a format's folder in one, was trained on; None if not recorded."""
    for place in (folder, folder.parent):
        try:
            record = json_text.load(read_file(place / EXPORT_RECORD))
            is_of = place == folder or folder.name in record["formats"]
            said = record["trained_on"]
            packages = said["packages"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_of and isinstance(packages, dict | None):
            return TrainedOn(str(said["corpus"]), packages)
    return None


def training_notes(
    model: str | Path,
    corpus: str | Path,
    *,
    split: Literal["valid", "test"] = "test",
    languages: Sequence[str] | None = None,
    trained_on: str | Path | None = None,
) -> list[str]:
    """Return a note for each language of which training had something that is evaluated, or may have had.

    A model of this very corpus was kept apart from its evaluation when the corpus was built: nothing is noted. Nothing
    is known, nor noted, of models that recorded no corpus, unless it is given.

    Args:
      model: the folder of a model.
      corpus: what it is evaluated on: a folder or URI.
      split: whose queries.
      languages: default all of the corpus.
      trained_on: the corpus that the model was trained on, whose functions are then compared.

    Raises:
      CorpusError: there is no such corpus, the two have no language in common, or the model's export recorded another
        corpus than `trained_on`.
    """
    record = read_trained_on(Path(model).resolve())
    evaluated = Corpus.listed(corpus)
    if trained_on is not None:
        trained = Corpus.open(trained_on)
        if record is not None and record.corpus != trained.fingerprint:
            raise CorpusError(
                f"--trained-on: expected the corpus {record.corpus[:12]} that the export of {model} recorded, got "
                f"{trained.fingerprint[:12]} at {trained_on}: give that one, or leave it out"
            )
        if trained.fingerprint == evaluated.fingerprint:
            return []
        return _by_functions(trained, Corpus.open(corpus), split, languages)
    if record is None or record.corpus == evaluated.fingerprint:
        return []
    return _by_packages(record, evaluated, split, languages)


def _by_functions(trained: Corpus, evaluated: Corpus, split: str, languages: Sequence[str] | None) -> list[str]:
    found = [
        each
        for each in compare(trained, evaluated, splits=("train",))
        if each.against == split and each.language in (languages or evaluated.languages)
    ]
    problems = [problem for each in found if (problem := each.problem(evaluated.location))]
    return problems or [f"training had no function and no package of {split}, by {trained.location}"]


def _by_packages(record: TrainedOn, evaluated: Corpus, split: str, languages: Sequence[str] | None) -> list[str]:
    notes = []
    for language in (name for name in languages or evaluated.languages if name in evaluated.languages):
        of_split = evaluated.manifest.languages[language].packages.get(split, {})
        shared = shared_packages(language, (record.packages or {}).get(language, ()), of_split)
        if shared:
            named = ", ".join(shared[:_NAMED]) + (", …" if len(shared) > _NAMED else "")
            notes.append(
                f"{language}: training had {len(shared)} of the {len(of_split)} packages of {split} ({named}), which "
                f"{sum(of_split[name] for name in shared):,} of {sum(of_split.values()):,} queries are of"
            )
    if not notes:
        why = _why_no_package(record, evaluated)
        notes = [f"the model was trained on another corpus ({record.corpus[:12]}), {why}"]
    return [
        *notes,
        "whether training had functions that are evaluated here is not known: give --trained-on CORPUS to count them",
    ]


def _why_no_package(record: TrainedOn, evaluated: Corpus) -> str:
    """Return why no package was found in both: none is shared, or they cannot be compared."""
    if record.packages is None:
        return "which is not known here"
    common = [language for language in evaluated.languages if any(record.packages.get(language, ()))]
    named = [
        language
        for language in common
        if any(any(packages) for packages in evaluated.manifest.languages[language].packages.values())
    ]
    if not named:
        return "whose packages cannot be compared: the two name none in the same language"
    return "of whose train no package is evaluated here"
