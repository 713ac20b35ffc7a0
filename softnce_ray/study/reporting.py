"""All that a report's page shows, collected from where it lies: MLflow, the searches, the corpus.

What is missing on this machine makes the page shorter by a sentence, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus
from softnce_ray.errors import UserError
from softnce_ray.report import Evidence, Report, Text, gather, shown_queries, wanted_histories, with_texts
from softnce_ray.results import StudyResults
from softnce_ray.storage import is_uri
from softnce_ray.store import Store
from softnce_ray.tracking import TrackingError
from softnce_ray.tracking.history import Background, load_background, load_distributions, load_histories, load_query_ids


def collect(store: Store, results: StudyResults, report: Report, *, corpus: str | Path | None = None) -> Evidence:
    """The evidence beside a report of these results.

    Args:
      store: where the study ran, or another with the same MLflow server: then without Optuna's part.
      corpus: the study's corpus, its folder on this machine or its URI; default as its file names it.

    Raises:
      TrackingError: the store cannot be read.
    """
    from softnce_ray.study.importances import importances  # optuna takes a while to import

    background = load_background(store, results.study)
    lacking: dict[str, str] = {}
    shares: Mapping[tuple[str, str], Mapping[str, float]] = {}
    if any(trial.phase == "search" for trial in results.trials):
        try:
            shares = importances(store, results.study)
            if not shares:
                lacking["importances"] = "No search has enough finished trials to say which settings mattered."
        except UserError as error:
            lacking["importances"] = f"Which settings mattered is not known here: {error}."
    query_ids: dict[tuple[str, str], tuple[str, ...]] = {}
    try:
        query_ids = _query_ids(store, results, report.split)
    except TrackingError as error:
        lacking["texts"] = f"The queries' names cannot be read: {error}."
    confirmed = [trial.run_id for trial in results.trials if (trial.phase, trial.status) == ("confirm", "FINISHED")]
    distributions, unread = load_distributions(store, results.study, confirmed)
    if unread:
        lacking["distributions"] = f"Distributions are missing that cannot be read: {unread}."
    evidence = gather(
        results,
        report,
        histories=load_histories(store, wanted_histories(results)),
        distributions=distributions,
        study_text=background.text,
        importances=shares,
        query_ids=query_ids,
        lacking=lacking,
    )
    texts, problem = _texts(results, evidence, background, corpus)
    return with_texts(evidence, texts, problem)


def _query_ids(store: Store, results: StudyResults, split: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """(language of the study, language) -> ids, from one trial of each: all trials of a language answer the same."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    read: set[str] = set()
    for trial in results.trials:
        if (trial.phase, trial.status) != ("confirm", "FINISHED") or trial.language in read:
            continue
        if not trial.reciprocal_ranks:  # its file cannot be read, which the report says
            continue
        read.add(trial.language)
        languages = results.training_set(trial.language).test
        ids = load_query_ids(store, trial.run_id)
        for language in languages:
            names = ids.get(f"{split}/{language}", ids.get(split, ()))
            found[trial.language, language] = names
    return found


def _texts(
    results: StudyResults, evidence: Evidence, background: Background, folder: str | Path | None
) -> tuple[dict[str, Text], str]:
    """Id -> text of the queries that the page shows, and why there are none."""
    wanted = shown_queries(evidence)
    if not wanted:
        return {}, ""
    where = str(folder if folder is not None else background.corpus)
    elsewhere = "give its folder on this machine with --corpus"
    try:
        corpus = Corpus.open(where)
    except (CorpusError, OSError) as error:
        # What is not here is elsewhere; of a storage that fails, or a damaged corpus, that would not be true.
        missing = not is_uri(where) and not Path(where).exists()
        why = "is not here" if missing else f"cannot be read: {error}"
        return {}, f"Queries are shown by their id, without their code: the corpus {where} {why}; {elsewhere}."
    if corpus.fingerprint != results.corpus_fingerprint:
        return {}, f"Queries are shown by their id, without their code: {where} is another corpus now; {elsewhere}."
    texts = {}
    for language, ids in wanted.items():
        if language not in corpus.languages:
            continue
        for split in ("test", "valid"):
            table = corpus.table(language, split, ["id", "query", "code", "path", "line", "name"])
            chosen = pc.is_in(table.column("id"), value_set=pa.array(sorted(ids), pa.string()))
            for row in table.filter(chosen).to_pylist():
                line = f":{row['line']}" if row["line"] else ""
                texts[row["id"]] = Text(row["query"], row["code"], f"{row['path']}{line} {row['name']}")
    return texts, ""
