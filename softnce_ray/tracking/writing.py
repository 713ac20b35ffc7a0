"""Writing: the one writer of a study's runs. What it is told is on disk before it returns, and in MLflow when that can
be reached, so that training never waits for a store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.results import KnownTrial, StudyRecord, TrialKey, definition_of
from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, connect, existing_experiment, experiment_of, search_runs
from softnce_ray.tracking.credentials import masked
from softnce_ray.tracking.faults import reason
from softnce_ray.tracking.journal import Entry, Journal
from softnce_ray.tracking.known import best_of_each, key_of
from softnce_ray.tracking.moved import at_home, files_of
from softnce_ray.tracking.params import SEARCHED, arm_params, params_of
from softnce_ray.tracking.parent import record_tags, that_matter
from softnce_ray.tracking.records import Record, now
from softnce_ray.tracking.runs import Runs
from softnce_ray.tracking.sending import Sender, Unsent

_OPEN_PATIENCE = 15.0
_LANES = 6
"""Trials whose records go to a server at the same time; a SQLite file takes one writer."""


class Tracker:
    """The writer of one study's runs. Runs are found by their tags, so a later launch continues them.

    Methods that write return at once, with the record on disk. `close` waits for what is still queued and tells what
    is left; the next `Tracker` of the study, and `Tracker.to_sync`, send that first.
    """

    is_open: bool
    _experiment: str | None
    _found: list[Run]

    def __init__(self, store: Store, record: StudyRecord, *, versions: Mapping[str, str], later: bool = False) -> None:
        """Send what an earlier launch left, and `open`.

        Args:
          later: do not open yet: of a study that MLflow does not have nothing is made, and of one that it has nothing
            is changed, until `open` is called. What is written before is kept until then.

        Raises:
          TrackingError: the store cannot be opened, or does not answer within some 15 seconds.
          JournalError: another process writes this study's runs, or what is left is of another version.
        """
        self._begin(store, record.study, record, versions)
        with self._or_abandoned():
            self._client = connect(store)
            self._held.enter_context(at_home(store))
            waiting = self._journal is not None and self._journal.unsent
            if waiting or not later or self._client.get_experiment_by_name(record.study) is not None:
                self._find()
            if not later:
                self.open()

    def open(self) -> None:
        """Close the runs that an earlier launch left open, and open the study's experiment and parent run, or make
        them.

        Raises:
          TrackingError: the store refuses that, or does not answer.
        """
        if self.is_open:
            return
        assert self._record is not None
        with self._or_abandoned():
            if self._sender is None:
                self._find()
            for run in self._found:
                if run.info.status == "RUNNING" and run.data.tags["role"] != "study":  # of a driver that was killed
                    self._client.set_terminated(run.info.run_id, "KILLED")
            tags = {**record_tags(self._record), **self._versions}
            self._parent = self._runs.open_parent(self._study, tags, self._record.text)
            if self._journal is not None:
                self._journal.begin_anew()
        self.is_open = True
        for kind, payload in self._early:
            self._write(kind, **payload)
        self._early.clear()

    def _find(self) -> None:
        """Find the study's experiment and runs, or make the experiment, and send what the journal has."""
        self._experiment = experiment_of(self._client, self._store, self._study)
        self._found = self._load()

    @contextlib.contextmanager
    def _or_abandoned(self) -> Iterator[None]:
        """Let go of everything when MLflow refuses something, and say so in a line."""
        try:
            yield
        except BaseException as error:
            self.abandon()
            if isinstance(error, MlflowException | OSError):
                why = masked(reason(error), self._store)
                raise TrackingError(f"the MLflow store refuses study {self._study}: {why}") from error
            raise

    @classmethod
    def to_sync(cls, store: Store, study: str) -> Tracker:
        """A writer that only sends what launches left and takes summaries: it opens no run again.

        Raises:
          TrackingError: no such study in the store, or the store cannot be opened or does not answer.
          JournalError: another process writes this study's runs, or what is left is of another version.
        """
        tracker = cls.__new__(cls)
        client = connect(store, must_exist=True)
        tracker._begin(store, study, None, {})
        with tracker._or_abandoned():
            tracker._client = client
            tracker._held.enter_context(at_home(store))
            tracker._experiment = existing_experiment(client, store, study)
            parents = [run.info.run_id for run in tracker._load() if run.data.tags["role"] == "study"]
            if not parents:
                raise TrackingError(f"the run of study {study} is gone from MLflow: launch the study again")
            (tracker._parent,) = parents
        tracker.is_open = True
        return tracker

    def _begin(self, store: Store, study: str, record: StudyRecord | None, versions: Mapping[str, str]) -> None:
        self._store, self._study = store, study
        self._held = contextlib.ExitStack()
        self._record, self._versions = record, dict(versions)
        self.is_open = False
        self._experiment, self._found = None, []
        self._early: list[tuple[str, dict[str, Any]]] = []
        self._arms: dict[str, str] = {}
        self._problems: list[str] = []
        self._closed: Unsent | None = None
        self._sender: Sender | None = None
        self._journal: Journal | None = None
        try:
            self._journal = Journal(store.spool(study))
        except OSError as error:
            self._tell(f"records are kept in memory only, {store.spool(study)} cannot be written: {reason(error)}")

    def _load(self) -> list[Run]:
        """Send what the journal has; returns the runs that there are then."""
        assert self._experiment is not None
        journal = self._journal
        self._runs = Runs(self._client, self._store, self._experiment, self._store.spool(self._study) / "files")
        runs = self._runs.load()
        if journal is not None and runs:
            journal.trust(self._runs.noted)
        one_writer = self._store.database is not None
        self._sender = Sender(self._store, self._runs, journal, lanes=1 if one_writer else _LANES)
        if journal is not None and journal.unreadable:
            self._tell(f"{journal.unreadable} lines of the journal could not be read and were left out")
        if journal is None or not journal.unsent:
            return runs
        self._sender.put(journal.unsent)
        if not self._sender.wait(_OPEN_PATIENCE):
            why = self._sender.trouble or "no answer in time"
            raise TrackingError(
                f"MLflow stopped answering ({why}) while records of an earlier launch were sent: they are kept in "
                f"{self._store.spool(self._study)}; try again when it answers"
            )
        return self._runs.load()

    def abandon(self) -> None:
        """Let go of everything: what is on disk stays there."""
        if self._sender is not None:
            self._sender.stop()
        if self._journal is not None:
            self._journal.close(done=False)
        self._held.close()
        self._closed = Unsent()

    @property
    def parent_run_id(self) -> str:
        return self._parent

    def known(self) -> dict[TrialKey, KnownTrial]:
        """All trials of the study that the store has, by key. A finished one whose ranks are gone counts as killed:
        it has to run again.

        Raises:
          TrackingError: the store does not answer.
        """
        if self._experiment is None:
            return {}
        try:
            runs = best_of_each(search_runs(self._client, self._experiment, "tags.role = 'trial'"))
            compared = [run for run in runs if run.info.status == "FINISHED" and _has_files(run, self._store)]
            with ThreadPoolExecutor(_LANES) as pool:  # a server may take its time for each
                having = list(pool.map(self._has_ranks, compared))
        except MlflowException as error:
            why = masked(reason(error), self._store)
            raise TrackingError(f"the trials of {self._study} cannot be read from MLflow: {why}") from error
        lost = {run.info.run_id for run, has_ranks in zip(compared, having, strict=True) if not has_ranks}
        return {key_of(run): _known(run, run.info.run_id not in lost) for run in runs}

    def _has_ranks(self, run: Run) -> bool:
        return any(file.path == RANKS_FILE for file in files_of(self._store, run).list_artifacts())

    # --- what is written ---

    def arm_started(self, arm: str, settings: Mapping[str, Any]) -> None:
        """Open the run of an arm; an arm whose settings have changed, or of which others are searched, is another arm
        with the same name: parameters of a run cannot change."""
        params = arm_params(self._record.text if self._record else "", arm, settings)
        searched = {name: value for name, value in params.items() if value == SEARCHED}
        self._arms[arm] = json.dumps({**settings, **searched}, sort_keys=True)
        tags = {"study": self._study, "role": "arm", "arm": arm, **self._versions}
        self._write("arm_started", arm=arm, settings=self._arms[arm], params=params, tags=tags)

    def trial_started(self, key: TrialKey, settings: Mapping[str, Any], *, attempt: int = 1) -> None:
        """Open or reopen a trial's run; `attempt` counts from 1 how often it was started."""
        tags = {
            "study": self._study,
            "role": "trial",
            "arm": key.arm,
            "language": key.language,
            "phase": key.phase,
            "seed": str(key.seed),
            "identity": key.identity,
            "corpus_fingerprint": self._record.corpus_fingerprint if self._record else "",
            **self._versions,
        }
        self._write(
            "trial_started",
            key=_list(key),
            name=f"{key.arm}/{key.language}/{key.phase}-{key.seed if key.phase == 'confirm' else key.identity[:6]}",
            settings=self._arms.get(key.arm),
            params=params_of(settings),
            tags=tags,
            changing=self._definition(key.arm, key.language),
            attempt=attempt,
        )

    def epoch(self, key: TrialKey, metrics: Mapping[str, float], *, at: int | None = None) -> None:
        """Metrics of an epoch, measured `at` this time in milliseconds (default: now). An epoch that the run has
        already is left as it is."""
        self._write("epoch", at=at, key=_list(key), metrics=_floats(metrics))

    def trial_ended(
        self,
        key: TrialKey,
        status: str,
        *,
        metrics: Mapping[str, float] | None = None,
        ranks: Path | None = None,
        distributions: Path | None = None,
        stopped_early: bool = False,
        failure: str = "",
        kind: str = "",
        traceback: str = "",
    ) -> None:
        """Close a trial's run as FINISHED, FAILED or KILLED; `kind` says of what sort the failure is. The file of
        ranks, and that of distributions, which only comes with it and may be missing, may go once this has returned."""
        self._write(
            "trial_ended",
            files=ranks,
            beside=distributions,
            durable=True,
            key=_list(key),
            status=status,
            metrics=_floats(metrics or {}),
            stopped_early=stopped_early,
            failure=masked(failure, self._store),
            failure_kind=kind,
            traceback=masked(traceback, self._store),
        )

    def supersede(self, arm: str, language: str, current: Iterable[str]) -> None:
        """Mark confirm trials of a cell whose identity is not among `current`: they no longer count. Those that
        are, count again."""
        changing = self._definition(arm, language)
        self._write("supersede", arm=arm, language=language, current=sorted(current), changing=changing)

    def model(self, key: TrialKey, folder: Path | None) -> None:
        """Mark a trial as the best of its cell and keep its model, from `folder`, unless its run has it. The folder
        may go once this has returned."""
        self._write("model", files=folder, key=_list(key), folder=folder.name if folder else None)

    def study_tags(self, tags: Mapping[str, str]) -> None:
        """Say more in tags of the study's own run: an empty one stands for what no longer holds."""
        if matter := that_matter(tags, self._found):
            self._write("study_tags", tags=matter)

    def study_ended(self, status: str) -> None:
        """Close the runs of the arms and of the study; trials that are open still are closed as KILLED."""
        self._write("study_ended", durable=True, status=status)

    def arm_summary(self, arm: str, metrics: Mapping[str, float]) -> None:
        """What a table of runs should tell of an arm; also when its run is closed."""
        self._write("arm_summary", arm=arm, settings=self._arms.get(arm), metrics=_floats(metrics))

    def study_summary(self, metrics: Mapping[str, float], note: str) -> None:
        """What a table of runs should tell of the study, and a text in Markdown; also when its run is closed."""
        self._write("study_summary", metrics=_floats(metrics), note=masked(note, self._store))

    def study_files(self, files: Mapping[str, str]) -> None:
        """Texts to lie in the study's own run, by their names; they replace those of before."""
        self._write("study_files", texts={name: masked(text, self._store) for name, text in files.items()})

    def wait(self, patience: float | None = None) -> bool:
        """Until all that was said so far is sent, or refused for good: True. False when nothing went out for
        `patience` seconds."""
        return self._sender is None or self._sender.wait(patience)

    @property
    def trouble(self) -> str:
        """Why records do not go out at present; "" when they do."""
        return "" if self._sender is None else self._sender.trouble

    def close(self, patience: float = 30.0) -> Unsent:
        """Send what is queued, as long as something goes out every `patience` seconds, and stop."""
        if self._closed is not None:
            return self._closed
        with self._held:
            if self._sender is None:  # nothing was opened, so there is nothing to send
                self._closed = Unsent(problems=tuple(self._problems))
                if self._journal is not None:
                    self._journal.close(done=True)
                return self._closed
            self._sender.wait(patience)
            left = self._sender.stop()
            lost = sum(entry.end is None for entry in left)
            if lost:
                self._tell(f"{lost} records were in memory only and are lost")
            problems = (*self._problems, *self._sender.problems)
            self._closed = Unsent(len(left), tuple(self._sender.refused), problems)
            if self._journal is not None:
                self._journal.close(done=not left)
            return self._closed

    def _write(
        self,
        kind: str,
        *,
        at: int | None = None,
        files: Path | None = None,
        beside: Path | None = None,
        durable: bool = False,
        **payload: Any,
    ) -> None:
        """Keep a record, with a file or folder that belongs to it and one beside it if that is there, and hand it to
        the sender."""
        if self._closed is not None:
            raise RuntimeError(f"the tracker of {self._study} is closed")
        if not self.is_open or self._sender is None:
            assert files is None and not durable, f"{kind} before the runs were opened"
            self._early.append((kind, payload))
            return
        kept = None
        more = () if beside is None or not beside.is_file() else (beside,)
        if files is not None and self._journal is not None:
            try:
                kept = self._journal.keep(files, *more)
            except OSError as error:
                self._tell(f"{files.name} of {kind} is not kept: {masked(reason(error), self._store)}")
        if kind in ("trial_ended", "model"):
            payload["source"] = None if files is None else self._named(files)
            payload["beside"] = [self._named(file) for file in more]
        record = Record(kind, now() if at is None else int(at), payload, kept)
        entry = Entry(record, None)
        if self._journal is not None:
            try:
                entry = self._journal.append(record, durable=durable)
            except OSError as error:
                self._tell(f"records are kept in memory only, the journal cannot be written: {reason(error)}")
        self._sender.put([entry])

    def _named(self, path: Path) -> str:
        """A path as a record has it: from the store's folder, which may be moved before the record is sent."""
        root = self._store.root
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    def _tell(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)

    def _definition(self, arm: str, language: str) -> dict[str, str]:
        """What the arm means in this launch, as a tag of a trial; none where the record does not say."""
        text = definition_of(self._record.definitions, arm, language) if self._record else None
        return {} if text is None else {"definition": text}


def _known(run: Run, has_ranks: bool) -> KnownTrial:
    tags, metrics = run.data.tags, run.data.metrics
    return KnownTrial(
        run.info.run_id,
        run.info.status if has_ranks else "KILLED",
        metrics.get("best_valid_mrr"),
        int(metrics.get("epoch", 0)),
        "stopped_early" in tags,
        tags.get("failure", "") if has_ranks else "its ranks are gone",
        "model" in tags,
    )


def _has_files(run: Run, store: Store) -> bool:
    is_asked = store.database is not None or run.data.tags["phase"] == "confirm"  # a server takes its time
    return is_asked and "stopped_early" not in run.data.tags


def _list(key: TrialKey) -> list[Any]:
    return [key.arm, key.language, key.phase, key.seed, key.identity]


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
