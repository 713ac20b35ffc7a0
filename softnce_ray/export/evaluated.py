"""The corpus that a run was evaluated on: found again, and its texts beside the ranks that the run stored."""

from __future__ import annotations

from pathlib import Path

from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.qrels import codebase_of
from softnce_ray.corpus.store import CODEBASE, Corpus
from softnce_ray.export.checking import Ranked
from softnce_ray.model import ExportError
from softnce_ray.ranks_file import place
from softnce_ray.results import StudyResults, TrialResult


def find_corpus(given: str | Path | None, recorded: str, root: Path, fingerprint: str) -> Corpus:
    """The corpus of a study: as given, else where the study's file says, from here or from beside the store's folder.

    Raises:
      CorpusError: `given` is no corpus.
      ExportError: none can be opened, or its content is not the one that the trials were evaluated on.
    """
    places: list[str | Path] = [recorded, root.parent / recorded] if given is None else [given]
    problems: list[str] = []
    for where in dict.fromkeys(places):
        try:
            corpus = Corpus.open(where)
        except CorpusError as error:
            if given is not None:
                raise
            problems.append(f"expected the study's corpus at {recorded}, which cannot be opened: {error}")
            continue
        if corpus.fingerprint == fingerprint:
            return corpus
        problems.append(
            f"expected the corpus {fingerprint[:12]} that the trials were evaluated on, got {corpus.fingerprint[:12]} "
            f"in {where}"
        )
    raise ExportError(
        f"{problems[0]}; without it the stored ranks cannot be checked: give it with --corpus, or --no-ranks to check "
        "vectors alone"
    )


def stored_ranks(corpus: Corpus, results: StudyResults, trial: TrialResult) -> tuple[Ranked, ...]:
    """What the trial was tested on, or validated where it keeps no test ranks, language by language.

    Raises:
      ExportError: the trial keeps no ranks, or not as many as the corpus has queries.
    """
    languages = results.training_set(trial.language).test
    for split in ("test", "valid"):
        keys = {each: place(split, each if len(languages) > 1 else None) for each in languages}
        if all(key in trial.reciprocal_ranks for key in keys.values()):
            return tuple(_ranked(corpus, trial, split, language, key) for language, key in keys.items())
    why = f" ({trial.failure})" if trial.failure else ""
    raise ExportError(
        f"expected ranks of queries in run {trial.run_id}, got none{why}: give a confirm trial, or --no-ranks to check "
        "vectors alone"
    )


def _ranked(corpus: Corpus, trial: TrialResult, split: str, language: str, key: str) -> Ranked:
    codes: list[str] = []
    for part in CODEBASE:
        codes += corpus.table(language, part, columns=["code"]).column("code").to_pylist()
    codebase = codebase_of(corpus, language)
    queries = corpus.table(language, split, columns=["query"]).column("query").to_pylist()
    ranks = trial.reciprocal_ranks[key]
    if len(ranks) != len(queries):
        raise ExportError(
            f"expected {len(queries):,} ranks of {key} in run {trial.run_id}, got {len(ranks):,}: launch the study "
            "again, or --no-ranks to check vectors alone"
        )
    return Ranked(language, split, queries, codebase.of(codes), codebase.right[split], ranks)
