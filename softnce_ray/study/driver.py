"""The driver of one launch: joins plan, attempts, records and display. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from softnce_ray.config import StudyConfig, flatten, resolved
from softnce_ray.corpus.store import Corpus
from softnce_ray.distributions import DISTRIBUTIONS_FILE
from softnce_ray.plain_names import plain
from softnce_ray.preparation import Prepared
from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.results import TrialKey
from softnce_ray.study.attempts import Attempt, Attempts, folder_name
from softnce_ray.study.budget import Limit
from softnce_ray.study.cells import Cell, Trial
from softnce_ray.study.details import Details
from softnce_ray.study.display import Display, title
from softnce_ray.study.failures import Failure, Retries, with_remedies
from softnce_ray.study.finished import Finished
from softnce_ray.study.pace import Pace
from softnce_ray.study.planner import Planner
from softnce_ray.study.surroundings import device_for
from softnce_ray.study.trainable import TrialSpec
from softnce_ray.study.watch import Watch
from softnce_ray.tracking import Tracker
from softnce_ray.tracking.durations import SPENT

_FINISHED = {False: "finished", True: "finished: trained before with the same settings"}
"""The outcome of a trial for people, by whether it took the result of another."""


@dataclass
class _Live:
    """An attempt that has been handed out."""

    trial: Trial
    attempt: Attempt
    epoch: int
    value: float | None = None
    started: bool = False
    trained_before: bool = False

    @property
    def share(self) -> float | None:
        """Share of the trial's epochs that this attempt trained; None where another trained them."""
        epochs = self.trial.config.training.epochs
        return None if self.trained_before else (self.epoch - self.attempt.epoch) / epochs if epochs else 1.0


class StudyRun:
    """Hands out specifications of trials and takes in what comes of them.

    What comes late, from an attempt that has been replaced or a trial that has ended, is refused.
    """

    def __init__(
        self,
        study: StudyConfig,
        corpus: Corpus,
        planner: Planner,
        tracker: Tracker,
        prepared: Mapping[Cell, Prepared],
        attempts: Attempts,
        show: Display,
        *,
        launch: str,
        slots: int,
        details: Details | None = None,
        watch: Watch | None = None,
        on_ranks: Callable[[TrialKey, Path], None] | None = None,
        limit: Limit | None = None,
    ) -> None:
        """Begin with nothing handed out.

        Args:
          on_ranks: called with the file of ranks of a trial that finished, before the planner hears of its end.
        """
        self.planner, self.ran, self.failures = planner, 0, 0
        self._study, self._corpus, self._tracker, self._prepared, self._show = study, corpus, tracker, prepared, show
        self.launch, self._attempts, self._slots = launch, attempts, slots
        self._details, self._watch, self._on_ranks = details, watch, on_ranks
        self._retries, self._pace, self._limit = Retries(study.failures), limit.pace if limit else Pace(), limit
        self._pace.slots = slots
        self._live: dict[TrialKey, _Live] = {}
        self._reached: dict[TrialKey, int] = {}  # epochs of trials that failed in this launch
        self._waiting: dict[TrialKey, Trial] = {}  # for another attempt
        self._in_trouble = False
        self._seconds_left: float | None = None

    def next_spec(self) -> tuple[TrialKey, TrialSpec, str] | None:
        """The next trial for a free slot, and the name of the folder of its attempt. Those that another arm's trial was
        trained for are recorded on the way."""
        self._look()
        while len(self.planner.live()) < self._slots:
            trial = self.planner.next()
            self._tell_progress()
            if trial is None:
                return None
            self._waiting.pop(trial.key, None)
            if (found := self._attempts.finished(trial.key.training)) is None:
                return self._begin(trial)
            self._take(trial, *found)
        return None

    def _take(self, trial: Trial, attempt: Attempt, files: str, finished: Finished) -> None:
        """Record a trial of which a training of the same settings has the result already."""
        key = trial.key
        attempt = replace(attempt, epoch=int(finished.metrics["epoch"]))  # its epochs were shown
        self._live[key] = _Live(trial, attempt, attempt.epoch, trained_before=True)
        self.started(key, attempt.number)
        self.reported(key, attempt.number, finished.epochs)
        self.ended(key, attempt.number, finished.metrics, files)

    def _begin(self, trial: Trial) -> tuple[TrialKey, TrialSpec, str]:
        key = trial.key
        name = f"{key.arm}-{plain(key.language)}-{key.phase}"
        attempt = self._attempts.begin(key.training, name, self.launch)
        self._live[key] = _Live(trial, attempt, attempt.epoch)
        self._tell_of_losses(key, attempt)
        prepared = self._prepared[Cell(key.arm, key.language)]
        resources, resume = self._study.resources, self._attempts.resumed(attempt)
        spec = TrialSpec(
            config=trial.config.model_dump(mode="json"),
            arm=key.arm,
            phase=key.phase,
            identity=key.identity,
            attempt=attempt.number,
            resume=None if resume is None else str(resume),
            corpus=self._corpus.location,
            fingerprint=self._corpus.fingerprint,
            trust_corpus=self._corpus.is_trusted,
            prepared=asdict(prepared),
            threads=resources.resolved_threads,
            device=device_for(resources.device, resources.gpus),
            workers=resources.workers,
            chunk_size=resources.chunk_size,
            directory=str(Path.cwd()),
            gradient_checkpointing=resources.gradient_checkpointing,
            deterministic=resources.deterministic,
        )
        return key, spec, folder_name(name, key.training, attempt.number)

    def finished(self) -> bool:
        return self.planner.finished

    def started(self, key: TrialKey, attempt: int) -> None:
        live = self._current(key, attempt)
        if live is None or live.started:
            return
        live.started = True
        self._start(live.trial, attempt)

    def reported(self, key: TrialKey, attempt: int, epochs: Sequence[Mapping[str, float]]) -> bool:
        """Record epochs; True when the trial should stop."""
        live = self._current(key, attempt)
        if live is None:
            return False
        for metrics in epochs:
            values = {name: float(value) for name, value in metrics.items() if name != "at"}
            self._tracker.epoch(key, values, at=int(metrics["at"]))
            if metrics["epoch"] > live.attempt.epoch:
                self._show.epoch(key, values, live.trial.config.training.epochs)
            live.epoch, live.value = max(live.epoch, int(metrics["epoch"])), values["best_valid_mrr"]
            if self.planner.report(key, int(metrics["epoch"]), values["valid_mrr"]):
                return True
        return False

    def ended(self, key: TrialKey, attempt: int, metrics: Mapping[str, float] | None, files: str | None) -> None:
        """Record a trial that ran to its end, with `metrics` and the name of the checkpoint with its files, or was
        stopped early."""
        live = self._current(key, attempt)
        if live is None:
            return
        self._look()
        early = self.planner.stopped_early(key)
        if not early and (files is None or metrics is None):
            self.failed(key, attempt, Failure("error", "the worker ended without a result"))
            return
        self.ran += 1
        numbers = {} if early or metrics is None else {name: float(value) for name, value in metrics.items()}
        told = _final(numbers)
        if self._limit is not None and self._limit.budget.hours is not None:
            told[SPENT] = self._limit.seconds
        value = numbers.get("best_valid_mrr", live.value)
        if early or files is None:
            self._tracker.trial_ended(key, "FINISHED", metrics=told, stopped_early=early)
        else:
            with self._attempts.files(live.attempt, files, (RANKS_FILE, DISTRIBUTIONS_FILE)) as folder:
                self._tracker.trial_ended(
                    key,
                    "FINISHED",
                    metrics=told,
                    ranks=folder / RANKS_FILE,
                    distributions=folder / DISTRIBUTIONS_FILE,
                )
                if self._on_ranks is not None:
                    self._on_ranks(key, folder / RANKS_FILE)
        del self._live[key]
        self._pace.ended(key, live.share)
        self.planner.ended(key, value)
        if not self.planner.awaits(key.training):
            self._attempts.tidy(key.training)
        self._tell_end(key, "stopped early" if early else _FINISHED[live.trained_before], numbers)

    def failed(self, key: TrialKey, attempt: int, failure: Failure) -> None:
        """Take in an attempt that failed: make another, or record the trial as failed."""
        live = self._current(key, attempt)
        if live is None:
            return
        self._look(thorough=True)  # where files were deleted, that is the reason
        if self.planner.stopped_early(key):  # its worker was lost when nothing more was wanted of it
            self.ended(key, attempt, None, None)
            return
        failure = with_remedies(failure, self._study.resources, live.trial.config)
        if self._retries.again(key, failure.kind, live.epoch, most=self._most(failure)):
            self._show.say(f"{title(key)}: {failure.reason}: tried again")
            self._reached[key] = live.epoch
            self._pace.ended(key, None)
            del self._live[key]
            self._waiting[key] = live.trial
            self.planner.again(live.trial)
            return
        if not live.started:  # its worker never came up
            self.started(key, attempt)
        del self._live[key]
        self.planner.failed(key, failure.kind, answers=failure.answers)
        self._fail(key, failure)

    def _most(self, failure: Failure) -> int | None:
        """Attempts that the failure leaves whatever the study says. A trial that had its GPU alone would fill it again
        with the same settings; one that shared it may have been the smaller part."""
        if not failure.of_gpu:
            return None
        return 1 if self._study.resources.gpus < 1 else 0

    def look_around(self) -> None:
        """Tell once when MLflow no longer takes records, and once when it does again.

        Raises:
          VanishedError: files of the store were deleted.
        """
        self._look()
        trouble = self._tracker.trouble
        if bool(trouble) != self._in_trouble:
            self._in_trouble = bool(trouble)
            self._show.say(
                f"note: MLflow takes no records ({trouble}): they wait on disk, training goes on"
                if trouble
                else "note: MLflow takes records again"
            )

    def note(self, text: str, key: TrialKey | None = None, in_full: str = "") -> None:
        """Tell of something beside what trials come to, of one trial or of none; what is too long is kept `in_full`."""
        text += self._details.keep(in_full) if self._details is not None else ""
        self._show.say(f"note: {text}" if key is None else f"note: {title(key)}: {text}")

    def give_up(self, cell: Cell, failure: Failure) -> None:
        """Record that nothing of a cell can run."""
        for trial in self.planner.give_up(cell, failure.reason):
            self._start(trial, 1)
            self._fail(trial.key, failure)

    def close_live(self, status: str, *, look: bool = True) -> int:
        """Close the runs of trials that an interrupt cut off, tell of each which epoch it goes on from, and return how
        many they are. Their proposals stay open: the next launch goes on.

        Args:
          look: for the checkpoints; without, it is not told what they hold. Of the last one nobody may have heard.
        """
        cut_off = {**self._waiting, **{key: live.trial for key, live in self._live.items() if live.started}}
        for key in cut_off:
            self._tracker.trial_ended(key, status)
        for key, trial in cut_off.items() if look else ():
            self._show.say(f"{title(key)}: stopped in the middle, {self._kept(key, trial)}")
        return len(cut_off)

    def _kept(self, key: TrialKey, trial: Trial) -> str:
        try:
            epoch = self._attempts.kept(key.training)
        except OSError:
            return f"and its checkpoints in {self._attempts} cannot be read now"
        if not epoch:
            return "before its first checkpoint: begins anew"
        return f"epoch {epoch}/{trial.config.training.epochs} is kept: goes on after it"

    def _tell_of_losses(self, key: TrialKey, attempt: Attempt) -> None:
        """Say that a trial had come further than its checkpoints tell: an epoch is recorded after its checkpoint."""
        before = max(self.planner.reached(key), self._reached.get(key, 0))
        if before > attempt.epoch:
            since = f"goes on after epoch {attempt.epoch}" if attempt.epoch else "begins anew"
            self.note(f"its checkpoints in {self._attempts} are gone: it had {before} epochs, and {since}", key)

    def _current(self, key: TrialKey, attempt: int) -> _Live | None:
        live = self._live.get(key)
        return live if live is not None and live.attempt.number == attempt else None

    def _start(self, trial: Trial, attempt: int) -> None:
        self._tracker.trial_started(trial.key, flatten(resolved(trial.config)), attempt=attempt)
        self._pace.began(trial.key)
        self._show.started(trial.key)

    def _fail(self, key: TrialKey, failure: Failure) -> None:
        self.failures += 1
        self._pace.ended(key, None)
        self._tracker.trial_ended(key, "FAILED", failure=failure.reason, kind=failure.kind, traceback=failure.traceback)
        self._tell_end(key, f"failed: {failure.reason}", {})

    def _tell_end(self, key: TrialKey, outcome: str, metrics: Mapping[str, float]) -> None:
        left = self._pace.left(self.planner.left())
        self._seconds_left = left if self._limit is None else self._limit.within(left)
        self._tell_progress()
        self._show.ended(key, outcome, metrics)

    def _tell_progress(self) -> None:
        self._show.progress(self.planner.done(), self.planner.total(), self._seconds_left)

    def _look(self, *, thorough: bool = False) -> None:
        if self._watch is not None:
            self._watch.look(thorough=thorough)


def _final(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a trial's end adds to its epochs: a name that the epochs have would get a second value of the last step.

    Validation of the best weights is told as `best_valid_…`; that of the last epoch's is there.
    """
    told = ("epoch", "best_epoch", "best_valid_mrr")
    named = {
        f"best_{name}" if name.startswith("valid_") and not name.startswith("valid_codebase") else name: value
        for name, value in metrics.items()
    }
    return {name: value for name, value in named.items() if name not in told}
