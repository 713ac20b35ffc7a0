"""Launch a study: check it, prepare what its trials share, run what is missing, record and sum up."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from softnce_ray import __version__
from softnce_ray.config import StudyConfig, TrainingSet, arm_settings, flatten
from softnce_ray.corpus.store import Corpus
from softnce_ray.preparation import Prepared, prepare
from softnce_ray.report import build_report, to_markdown
from softnce_ray.results import StudyRecord, StudyResults, TrialKey, TrialResult
from softnce_ray.store import Store, only_launch
from softnce_ray.study.cluster import interruptible, session, start_all, wait_all
from softnce_ray.study.display import Display, display_for
from softnce_ray.study.driver import StudyRun
from softnce_ray.study.file import check_study, load_study
from softnce_ray.study.planner import Cell, Planner, cells, definition, search_name
from softnce_ray.study.search import CellSearch, open_storage
from softnce_ray.study.trainable import latest_model
from softnce_ray.study.tuning import run_tune
from softnce_ray.tracking import Tracker, TrackingError, load_results


@dataclass(frozen=True)
class Launch:
    """What came of a launch.

    `interrupted`: a signal ended it, and launching again goes on. `unsent`: records that MLflow did not take.
    """

    results: StudyResults
    ran: int
    already_done: int
    failed: int
    interrupted: bool
    problems: tuple[str, ...]
    unsent: tuple[str, ...]


def launch(
    study: StudyConfig | str | Path,
    *,
    store: Store | str | Path | None = None,
    display: Display | None = None,
) -> Launch:
    """Run what is missing of a study, and return what the store then holds of it.

    A trial that the store has finished is never run again; one that was cut off goes on from its last
    checkpoint. Ray is started on this machine unless the caller has initialised it. A signal (SIGINT or
    SIGTERM) ends the launch cleanly, as `interrupted`.

    Args:
      study: a study, or the path of its file.
      store: where everything is kept; default `Store.at()`.
      display: how progress is shown; default a live table on a terminal, plain lines elsewhere, on stderr.

    Raises:
      StudyError: the study is wrong; all its problems at once.
      StoreError: another process runs the study, or the store cannot be written.
      LaunchError: it asks for more than the machine has, or what its trials share cannot be prepared.
      TrackingError: the MLflow store cannot be opened or read.
    """
    config = check_study(study) if isinstance(study, StudyConfig) else load_study(study)
    place = Store.at(store)
    show = display or display_for(Console(stderr=True))
    corpus = Corpus.open(config.corpus)
    with only_launch(place, config.study):
        return _launch(config.with_all(corpus.languages), corpus, place, show)


def _launch(study: StudyConfig, corpus: Corpus, store: Store, show: Display) -> Launch:
    run: StudyRun | None = None
    with session(study.resources) as slots, interruptible():
        tracker = Tracker(store, _record(study, corpus), versions=_versions())
        status = "FAILED"  # unless what follows comes to an end
        try:
            for arm, settings in study.arms.items():
                tracker.arm_started(arm, flatten(arm_settings(settings)))
            show.say(f"{study.study}: {len(cells(study))} cells on {slots} slots; preparing tokens and estimators")
            prepared = _prepare_all(study, corpus, store, show)
            run = StudyRun(study, store, _planner(study, corpus, store, tracker), tracker, prepared, show, slots=slots)
            run_tune(
                run,
                folder=store.ray(study.study),
                launch=datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S"),
                retries=study.failures.retries,
                cpus=study.resources.cpus,
                gpus=study.resources.gpus,
            )
            status = "FINISHED" if run.finished() else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
        finally:
            show.close()
            if run is not None:
                run.close_live("KILLED")
            unsent = _close(tracker, store, study.study, status)
    try:
        results = load_results(store, study.study)
    except TrackingError as error:  # gone since: what was run is still told
        results, unsent = _nothing_read(study, corpus), [*unsent, str(error)]
    return Launch(
        results,
        run.ran if run else 0,
        run.planner.already_done if run else 0,
        run.failures if run else 0,
        status == "KILLED",
        tuple(run.planner.problems) if run else (),
        tuple(unsent),
    )


def _prepare_all(study: StudyConfig, corpus: Corpus, store: Store, show: Display) -> dict[Cell, Prepared]:
    """Tokens and estimators of all cells. Of cells with the same tokens one goes first, so that no corpus is
    tokenised twice at the same time."""
    folder, root = corpus.folder.absolute(), store.prepared.absolute()
    calls = {cell: (study.arms[cell.arm], folder, study.training_set(cell.language), root) for cell in cells(study)}
    first: dict[Any, Cell] = {}
    for cell, (arm, *_) in calls.items():
        first.setdefault((arm.tokens, arm.encoder.kind, getattr(arm.encoder, "model", None)), cell)
    prepared: dict[Cell, Prepared] = {}
    done: list[Cell] = []

    def finished(cell: Cell) -> None:
        done.append(cell)
        show.say(f"prepared {cell.arm}/{cell.language} [{len(done)}/{len(calls)}]")

    for batch in (list(first.values()), [cell for cell in calls if cell not in first.values()]):
        prepared |= wait_all(
            start_all(prepare, {cell: calls[cell] for cell in batch}), "preparing tokens and estimator", finished
        )
    return prepared


def _planner(study: StudyConfig, corpus: Corpus, store: Store, tracker: Tracker) -> Planner:
    """The plan of what is missing, with the searches as far as they have come."""
    searches = {}
    if study.search is not None:
        storage = open_storage(store.optuna_url)
        searches = {
            cell: CellSearch(
                storage,
                search_name(study, cell, corpus.fingerprint),
                study.arms[cell.arm],
                study.space(cell.arm),
                study.search,
            )
            for cell in cells(study)
            if study.space(cell.arm)
        }
    return Planner(
        study,
        corpus.fingerprint,
        tracker.known(),
        searches,
        on_confirm=lambda cell, trials: tracker.supersede(
            cell.arm, cell.language, [trial.key.identity for trial in trials]
        ),
    )


def _close(tracker: Tracker, store: Store, study: str, status: str) -> list[str]:
    """Close what is open in MLflow, whatever has happened; returns what could not be written.

    Nothing is raised here: it would hide the error that ended the study.
    """
    tracker.wait()
    unsaid = []
    try:
        _sum_up(tracker, load_results(store, study), store.ray(study), status)
    except Exception as error:
        unsaid.append(f"summary: {' '.join(str(error).split()) or type(error).__name__}")
        tracker.study_ended(status, {}, unsaid[0])
    return [*tracker.close(), *unsaid]


def _sum_up(tracker: Tracker, results: StudyResults, checkpoints: Path, status: str) -> None:
    """Close the runs of arms and study, with what the plain MLflow table should tell."""
    finished = [trial for trial in results.trials if trial.phase == "confirm" and trial.status == "FINISHED"]
    for arm in results.arms:
        metrics = {}
        for language in results.languages:
            of_cell = [trial for trial in finished if (trial.arm, trial.language) == (arm, language)]
            metrics.update(_cell_metrics(language, of_cell))
            if of_cell:
                best = max(of_cell, key=lambda trial: trial.metrics["best_valid_mrr"])
                tracker.model(_key(best), latest_model(checkpoints, best.identity))
        tracker.arm_ended(arm, metrics, status)
    failed = sum(trial.status == "FAILED" for trial in results.trials)
    tracker.study_ended(status, {"trials": len(results.trials), "failed": failed}, to_markdown(build_report(results)))


def _cell_metrics(language: str, trials: list[TrialResult]) -> dict[str, float]:
    """Mean and standard deviation over seeds of an arm in a language."""
    metrics: dict[str, float] = {}
    for name in ("test_mrr", "best_valid_mrr"):
        values = [trial.metrics[name] for trial in trials]
        if values:
            metrics[f"{language}_{name}"] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"{language}_{name}_std"] = statistics.stdev(values)
    return metrics


def _key(trial: TrialResult) -> TrialKey:
    return TrialKey(trial.arm, trial.language, trial.phase, trial.seed, trial.identity)


def _nothing_read(study: StudyConfig, corpus: Corpus) -> StudyResults:
    """The results of a study whose store cannot be read."""
    return StudyResults(
        study=study.study,
        question=study.question,
        baseline=study.baseline,
        arms=tuple(study.arms),
        languages=study.language_names,
        training_sets=_training_sets(study),
        seeds=study.seeds,
        corpus_fingerprint=corpus.fingerprint,
        trials=(),
        status="FAILED",
    )


def _record(study: StudyConfig, corpus: Corpus) -> StudyRecord:
    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return StudyRecord(
        study.study,
        study.question,
        study.baseline,
        tuple(study.arms),
        study.language_names,
        study.seeds,
        study.corpus,
        corpus.fingerprint,
        text,
        _definitions(study, corpus.fingerprint),
        _training_sets(study),
    )


def _definitions(study: StudyConfig, corpus_fingerprint: str) -> dict[str, str]:
    """What each arm means now; see `StudyRecord`."""
    sets = _training_sets(study)
    found = {}
    for cell in cells(study):
        name = f"{cell.arm}/{cell.language}" if cell.language in sets else cell.arm
        found[name] = definition(study, cell.arm, corpus_fingerprint, cell.language)
    return found


def _training_sets(study: StudyConfig) -> dict[str, TrainingSet]:
    """What is not just a language, by name."""
    sets = {name: study.training_set(name) for name in study.language_names}
    return {name: each for name, each in sets.items() if not each.is_language}


def _versions() -> dict[str, str]:
    """What code ran: our version, our commit where we are run from a checkout, and the libraries that matter."""
    versions = {f"version.{name}": importlib.metadata.version(name) for name in ("torch", "ray", "transformers")}
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(command, check=True, capture_output=True)  # a checkout around a venv is not ours
        head = subprocess.run([*command[:3], "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        versions["version.commit"] = head.stdout.strip()
    return {"version.softnce_ray": __version__, **versions}
