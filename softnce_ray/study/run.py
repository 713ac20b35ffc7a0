"""Launch a study: check it, prepare what its trials share, run what is missing, record and sum up."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from softnce_ray.config import Precision, StudyConfig, arm_settings, flatten
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.errors import UserError
from softnce_ray.preparation import Prepared, content_of
from softnce_ray.results import KnownTrial, SeedsAsked, StudyResults, TrialKey
from softnce_ray.rich_console import PlainConsole
from softnce_ray.store import Store, only_launch
from softnce_ray.study import again
from softnce_ray.study.attempts import Attempts
from softnce_ray.study.budget import Limit, budget_text, left_out
from softnce_ray.study.cells import Cell, cells
from softnce_ray.study.cluster import LaunchError, session
from softnce_ray.study.costs import job_costs, limit_of
from softnce_ray.study.definitions import search_name
from softnce_ray.study.details import Details
from softnce_ray.study.display import Display, display_for
from softnce_ray.study.doctor import check_before_launch, check_settings, settle
from softnce_ray.study.driver import StudyRun
from softnce_ray.study.failures import failure_in_ray, failure_of, with_remedies
from softnce_ray.study.file import check_study, load_study
from softnce_ray.study.joint import JointSearch, joint_name
from softnce_ray.study.model_contents import ModelContents, model_contents
from softnce_ray.study.patience import AwayError, Patience, Trying, at_once
from softnce_ray.study.planner import Planner
from softnce_ray.study.precision import SeedsByWidth
from softnce_ray.study.preparing import prepare_all
from softnce_ray.study.proposing import Proposes
from softnce_ray.study.record import UNCHANGED, cell_content, hardware, nothing_read, record_of, versions
from softnce_ray.study.saved import save_study, saved_study
from softnce_ray.study.search import CellSearch
from softnce_ray.study.signals import Interrupts, interruptible
from softnce_ray.study.storage import open_storage
from softnce_ray.study.summary import PATIENCE, sum_up
from softnce_ray.study.tuning import run_tune
from softnce_ray.study.watch import VanishedError, Watch
from softnce_ray.tracking import Tracker, Unsent, load_results, load_test_ranks, studies
from softnce_ray.tracking.durations import QUERIES_PER_SECOND
from softnce_ray.tracking.history import load_histories
from softnce_ray.tracking.parent import asked_tags


@dataclass(frozen=True)
class Launch:
    """What came of a launch.

    `interrupted`: a signal ended it, that of the number `signal`, and launching again goes on. `unsent`: what MLflow
    has not, for people;
    `waiting`: how many records lie on disk until they can be sent, and `summed_up`: whether report, means and models
    are in MLflow; `sync` does both. `stopped`: how many trials were cut off in the middle; what is kept of each was
    shown. `problems`: why not all of the study is done; `notes`: what searches came upon.
    """

    results: StudyResults
    ran: int
    already_done: int
    failed: int
    interrupted: bool
    problems: tuple[str, ...]
    unsent: tuple[str, ...]
    waiting: int = 0
    summed_up: bool = True
    signal: int = 0
    stopped: int = 0
    notes: tuple[str, ...] = ()

    @property
    def failed_before(self) -> int:
        """Number of trials of the study that failed in an earlier launch and were not tried again in this one."""
        return max(0, sum(trial.status == "FAILED" for trial in self.results.trials) - self.failed)


def launch(
    study: StudyConfig | str | Path,
    *,
    store: Store | str | Path | None = None,
    display: Display | None = None,
    trust_corpus: bool = False,
) -> Launch:
    """Run what is missing of a study, and return what the store then holds of it.

    A trial that the store has finished is never run again; one that was cut off goes on from its last
    checkpoint. Ray is started on this machine unless the caller has initialised it, and only when something is
    missing. A signal (SIGINT or SIGTERM) ends the launch cleanly, as `interrupted`; a second one ends the process.

    Args:
      study: a study, or the path of its file.
      store: where everything is kept; default `Store.at()`.
      display: how progress is shown; default a live table on a terminal, plain lines elsewhere, on stderr.
      trust_corpus: do not read the rows of the corpus to compare them with its manifest, here and in workers.

    Raises:
      StudyError: the study is wrong; all its problems at once.
      StoreError: another process runs the study, or the store cannot be written.
      LaunchError: it names a model that no encoder here can be, asks for more than the machine has, what its trials
        share cannot be prepared, or the driver's own disk or memory is full.
      TrackingError: the MLflow store cannot be opened or read.
    """
    config = check_study(study) if isinstance(study, StudyConfig) else load_study(study)
    config, notes = settle(config)
    place = Store.at(store)
    show = display or display_for(PlainConsole(stderr=True))
    corpus = Corpus.open(config.corpus, verify=Verify.unless(trust_corpus))
    with only_launch(place, config.study), interruptible() as interrupts, again.by(place, config.study):
        save_study(place, config)
        try:
            for note in notes:
                show.say(f"note: {note}")
            return _launch(config.with_all(corpus.languages), corpus, place, show, interrupts)
        except Exception as error:
            failure = failure_of(error, "")
            if isinstance(error, UserError) or failure.kind not in ("disk", "memory"):
                raise
            raise LaunchError(f"{failure.reason}; what was done is kept") from error


def resume(
    name: str, *, store: Store | str | Path | None = None, display: Display | None = None, trust_corpus: bool = False
) -> Launch:
    """Go on with a study as it was last launched with this store; see `launch`.

    Raises:
      StoreError: no such study.
    """
    place = Store.at(store)
    return launch(saved_study(place, name).study, store=place, display=display, trust_corpus=trust_corpus)


def _launch(study: StudyConfig, corpus: Corpus, store: Store, show: Display, interrupts: Interrupts) -> Launch:
    """Nothing is made in MLflow before a trial can start: a study that is refused leaves nothing there."""
    models = model_contents(study, store)
    told = {**versions(), "resources": hardware(study.resources)}
    tracker = Tracker(store, record_of(study, corpus, models), versions=told, later=True)
    details = Details(store.ray(study.study) / "object-store.log")
    trying = Patience(
        lambda text, in_full: show.say(f"note: {text}{details.keep(in_full)}"), hurried=lambda: interrupts.number > 0
    )
    planner: Planner | None = None
    run: StudyRun | None = None
    stopped, away = 0, False
    vanished: VanishedError | None = None
    status = "FAILED"  # unless what follows comes to an end
    try:
        for arm, settings in study.arms.items():
            tracker.arm_started(arm, flatten(arm_settings(settings)))
        known = tracker.known()
        more_seeds = _more_seeds(study, corpus, store, tracker, known, show)
        limit, ended = limit_of(study, corpus, store)
        planner = _planner(study, corpus, store, tracker, known, trying, models, more_seeds, limit, ended)
        if (first := planner.next()) is not None:
            planner.again(first)
            for warning in check_settings(study, store):
                show.say(f"note: {warning}")
            with session(study.resources, begun=interrupts.listen, say=show.say) as slots:
                for warning in check_before_launch(study, store, corpus):
                    show.say(f"note: {warning}")
                for line in job_costs(study, corpus, store, slots) if again.is_job() else ():
                    show.say(f"note: estimate: {line}")
                run = _start(study, corpus, store, tracker, planner, show, slots, trying, details, more_seeds, limit)
                try:
                    run_tune(
                        run,
                        checkpoints=store.checkpoints(study.study),
                        launch=run.launch,
                        resources=study.resources,
                    )
                except Exception:
                    run.look_around()  # where files of the store were deleted, that is the reason
                    raise
        else:
            tracker.open()
        status = "KILLED" if not planner.finished else "FAILED" if planner.halted else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
    except VanishedError as error:
        vanished = error
        raise
    except AwayError as error:
        away = True
        if not interrupts.number:  # else nobody wanted to wait for the store any more
            raise LaunchError(f"{error}; what was done is kept: {again.command()} goes on") from error
        status = "KILLED"
    finally:
        show.close()
        interrupts.closing = True
        if run is not None and not (vanished and vanished.of_tracking):
            stopped = run.close_live("KILLED", look=not away)
        budget = _left_out(study, planner)
        results, unsent = _close(tracker, store, study.study, status, trying, vanished, budget)
    return Launch(
        results or nothing_read(study, corpus),
        run.ran if run else 0,
        planner.already_done if planner else 0,
        run.failures if run else 0,
        status == "KILLED",
        tuple(planner.problems) if planner else (),
        (*unsent.problems, *unsent.refused),
        unsent.records,
        results is not None or not tracker.is_open,
        interrupts.number,
        stopped,
        (*planner.notes, *filter(None, [budget.get("left_out")])) if planner else (),
    )


def _start(
    study: StudyConfig,
    corpus: Corpus,
    store: Store,
    tracker: Tracker,
    planner: Planner,
    show: Display,
    slots: int,
    trying: Patience,
    details: Details,
    more_seeds: SeedsByWidth | None,
    limit: Limit | None,
) -> StudyRun:
    """Prepare what trials share, and open the study in MLflow; cells of which that fails are given up."""
    count, places = len(cells(study)), f"{slots} slot{'s' if slots > 1 else ''}"
    show.say(f"{study.study}: {count} cell{'s' if count > 1 else ''} on {places}; preparing tokens and estimators")
    outcome = prepare_all(study, corpus, store, show, slots)
    for note in dict.fromkeys(note for prepared in outcome.done.values() for note in prepared.notes):
        show.say(f"note: {note}")
    failures = {
        cell: with_remedies(failure_in_ray(error), study.resources, study.arms[cell.arm])
        for cell, error in outcome.failed.items()
    }
    if not outcome.done or (failures and study.is_joint):  # a joint search compares all arms, or says nothing
        reasons = dict.fromkeys(failure.reason for failure in failures.values())
        what = "not all of the study" if outcome.done else "nothing of the study"
        raise LaunchError(f"{what} can be prepared: " + "; ".join(reasons))
    tracker.open()
    for arm, metrics in _scores(outcome.done).items():
        tracker.arm_summary(arm, metrics)
    launch = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    run = StudyRun(
        study,
        corpus,
        planner,
        tracker,
        outcome.done,
        Attempts(store.checkpoints(study.study), trying),
        show,
        launch=launch,
        slots=slots,
        details=details,
        watch=Watch(store, study.study, launch, outcome.done.values(), trying),
        on_ranks=None if more_seeds is None else more_seeds.learn,
        limit=limit,
    )
    for cell, failure in failures.items():
        run.give_up(cell, failure)
    return run


def _scores(prepared: Mapping[Cell, Prepared]) -> dict[str, dict[str, float]]:
    """Return the metrics of models of estimators, by arm, under the names that MLflow has them by."""
    found: dict[str, dict[str, float]] = {}
    for cell, each in prepared.items():
        for name, metrics in each.metrics.items():
            found.setdefault(cell.arm, {})[f"{cell.language}_{name}_valid_mrr"] = metrics["valid_mrr"]
        if each.pace is not None:
            found.setdefault(cell.arm, {})[f"{cell.language}{QUERIES_PER_SECOND}"] = each.pace
    return found


def _more_seeds(
    study: StudyConfig,
    corpus: Corpus,
    store: Store,
    tracker: Tracker,
    known: Mapping[TrialKey, KnownTrial],
    show: Display,
) -> SeedsByWidth | None:
    """Return what decides on more seeds, with the ranks that the store has; None where the study lists its seeds."""
    if not isinstance(study.seeds, Precision):
        return None
    wanted = set(cells(study))
    runs = {
        key: trial.run_id
        for key, trial in known.items()
        if (key.phase, trial.status) == ("confirm", "FINISHED") and Cell(key.arm, key.language) in wanted
    }

    def tell(language: str, asked: SeedsAsked) -> None:
        tracker.study_tags(asked_tags(language, asked))
        if asked.why:
            show.say(f"{language}: no seed is added to its {asked.count}: {asked.why}")

    stored = load_test_ranks(store, runs) if runs else {}
    # Which arms a joint search confirms is not known yet: corrected for all of them, intervals are rather too wide.
    whole = dataclasses.replace(nothing_read(study, corpus), is_joint=False)
    return SeedsByWidth(whole, study.seeds, stored, tell)


def _planner(
    study: StudyConfig,
    corpus: Corpus,
    store: Store,
    tracker: Tracker,
    known: Mapping[TrialKey, KnownTrial],
    trying: Trying = at_once,
    models: ModelContents = UNCHANGED,
    more_seeds: SeedsByWidth | None = None,
    limit: Limit | None = None,
    ended: bool = False,
) -> Planner:
    """The plan of what is missing, with the searches as far as they have come."""

    def history(trial: KnownTrial) -> Iterable[tuple[int, float]]:
        return load_histories(store, {trial.run_id: ["valid_mrr"]}).get(trial.run_id, {}).get("valid_mrr", ())

    searches: dict[Cell, Proposes] = {}
    if study.search is not None:
        storage = open_storage(store.optuna_url)
        contents = {cell: cell_content(study, corpus, cell, models) for cell in cells(study)}
        for languages in study.joint_groups if study.is_joint else ():
            joint = JointSearch(storage, joint_name(study, languages, contents), study, languages)
            searches |= {cell: joint.share(cell) for cell in cells(study) if cell.language in languages}
        for cell in cells(study) if not study.is_joint else ():
            if space := study.space(cell.arm):
                name, arm = search_name(study, cell, contents[cell]), study.arms[cell.arm]
                start = study.start_points(cell.arm)
                searches[cell] = CellSearch(storage, name, arm, space, study.search, start=start)
    return Planner(
        study,
        lambda config: content_of(corpus, config, config.training_set) + models.suffix(config),
        known,
        searches,
        on_confirm=lambda cell, trials: tracker.supersede(
            cell.arm, cell.language, [trial.key.identity for trial in trials]
        ),
        more_seeds=more_seeds,
        history=history,
        keeps_model=lambda key: Attempts(store.checkpoints(study.study), trying).model(key.training) is not None,
        allows=None if limit is None else limit.allows,
        ended=ended,
    )


def _left_out(study: StudyConfig, planner: Planner | None) -> dict[str, str]:
    """Return tags of the study's run: the budget that ended its searches, and what it left out; empty for none."""
    text = ""
    if planner is not None and study.budget is not None and study.search is not None:
        text = left_out(study.budget, planner.left_out(), study.search.trials)
    return {"budget": budget_text(study.budget) if study.budget and text else "", "left_out": text}


def _close(
    tracker: Tracker,
    store: Store,
    study: str,
    status: str,
    trying: Patience,
    vanished: VanishedError | None,
    tags: Mapping[str, str],
) -> tuple[StudyResults | None, Unsent]:
    """Close what is open in MLflow, whatever has happened; returns the results, if they can be read, and what could
    not be written.

    Nothing is raised here: it would hide the error that ended the study.
    """
    results, unsaid = None, []
    try:
        if not tracker.is_open:
            if status == "KILLED" and study in studies(store):
                results = load_results(store, study)
        elif vanished is not None and vanished.of_tracking:  # what is put back is to be as it was
            tracker.abandon()
        else:
            tracker.study_tags(tags)
            tracker.study_ended(status)
            if vanished is not None:
                unsaid.append("the summary is not made yet: files of the store have gone")
            elif tracker.wait(PATIENCE):
                results = sum_up(tracker, store, study, trying)
            else:
                unsaid.append("the summary is not made yet: MLflow gave no answer in time")
    except Exception as error:
        unsaid.append(f"summary: {' '.join(str(error).split()) or type(error).__name__}")
    unsent = tracker.close(PATIENCE if results is not None else 1.0)
    return results, dataclasses.replace(unsent, problems=(*unsent.problems, *unsaid))
