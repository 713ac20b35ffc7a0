"""Everything that the command line does, as functions: for notebooks and other programs.

from softnce_ray.api import best, export, launch, report, search, to_markdown

launched = launch("search_spaces/quickstart.yaml")
print(to_markdown(report("quickstart")))
print(best("quickstart")[0].trial.run_id)
export("quickstart", "best")
search("best", "corpora/python", ["parse a date string"])
"""

from __future__ import annotations

from pathlib import Path

from softnce_ray.config import StudyConfig
from softnce_ray.corpus import LANGUAGES, Corpus, import_corpus, mine_corpus, plant, python_environment, source_folder
from softnce_ray.export import export
from softnce_ray.ranks_file import Measure
from softnce_ray.report import Report, build_report, to_html, to_json, to_latex, to_markdown, to_terminal
from softnce_ray.retrieval import Index, build_index, evaluate_corpus, evaluate_judgements, open_embedder, search
from softnce_ray.selection import best
from softnce_ray.statistics import Inference
from softnce_ray.store import Store
from softnce_ray.study.doctor import Finding, examine
from softnce_ray.study.file import load_study, parse_study
from softnce_ray.study.run import Launch, launch, resume
from softnce_ray.study.saved import extended, saved_study
from softnce_ray.study.summary import sync
from softnce_ray.tracking import load_results

__all__ = [
    "LANGUAGES",
    "Corpus",
    "Finding",
    "Index",
    "Launch",
    "Report",
    "Store",
    "StudyConfig",
    "best",
    "build_index",
    "evaluate_corpus",
    "evaluate_judgements",
    "examine",
    "export",
    "extended",
    "import_corpus",
    "launch",
    "load_results",
    "load_study",
    "mine_corpus",
    "open_embedder",
    "parse_study",
    "plant",
    "python_environment",
    "report",
    "resume",
    "saved_study",
    "search",
    "source_folder",
    "sync",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
    "to_terminal",
]


def report(
    study: str,
    *,
    store: Store | str | Path | None = None,
    baseline: str | None = None,
    measure: Measure = "reciprocal_rank",
    inference: Inference = "seeds-and-queries",
    versus_paper: bool = False,
) -> Report:
    """Compare the arms of a launched study, from its tracking store alone.

    Args:
      study: its name in the store.
      store: default `Store.at()`.
      baseline: the arm to compare with; default the study's.
      measure: what of each query is compared; graded_ndcg where the corpus knows which codes share a meaning.
      inference: what p and intervals speak of: other seeds and queries, or these trained models on other queries.
      versus_paper: put published numbers beside these.

    Raises:
      TrackingError: no such store or study, or an unknown baseline.
      ReportError: a measure that was not taken, or trials that cannot be compared.
    """
    results = load_results(Store.at(store), study, baseline=baseline)
    return build_report(results, baseline=baseline, measure=measure, inference=inference, versus_paper=versus_paper)
