"""Everything that the command line does, as functions: for notebooks and other programs.

from softnce_ray.api import export, launch, report, search

launched = launch("search_spaces/quickstart.yaml")
print(to_markdown(report("quickstart")))
export("quickstart", "best")
search("best", "corpora/python", ["parse a date string"])
"""

from __future__ import annotations

from pathlib import Path

from softnce_ray.config import StudyConfig
from softnce_ray.corpus import LANGUAGES, Corpus, import_corpus, mine_corpus, plant, python_environment, source_folder
from softnce_ray.export import export
from softnce_ray.ranks_file import Measure
from softnce_ray.report import Report, build_report, to_json, to_markdown, to_terminal
from softnce_ray.retrieval import search
from softnce_ray.store import Store
from softnce_ray.study.file import load_study, parse_study
from softnce_ray.study.run import Launch, launch
from softnce_ray.tracking import load_results

__all__ = [
    "LANGUAGES",
    "Corpus",
    "Launch",
    "Report",
    "Store",
    "StudyConfig",
    "export",
    "import_corpus",
    "launch",
    "load_results",
    "load_study",
    "mine_corpus",
    "parse_study",
    "plant",
    "python_environment",
    "report",
    "search",
    "source_folder",
    "to_json",
    "to_markdown",
    "to_terminal",
]


def report(
    study: str,
    *,
    store: Store | str | Path | None = None,
    baseline: str | None = None,
    measure: Measure = "reciprocal_rank",
) -> Report:
    """Compare the arms of a launched study, from its tracking store alone.

    Args:
      study: its name in the store.
      store: default `Store.at()`.
      baseline: the arm to compare with; default the study's.
      measure: what of each query is compared; graded_ndcg where the corpus knows which codes share a meaning.

    Raises:
      TrackingError: no such store or study.
      ReportError: unknown baseline, a measure that was not taken, or trials that cannot be compared.
    """
    return build_report(load_results(Store.at(store), study), baseline=baseline, measure=measure)
