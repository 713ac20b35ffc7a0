"""Writing: the one writer of a study's runs, with a thread and a queue, so that training never waits for a store."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from softnce_ray.results import MODEL_FOLDER, KnownTrial, StudyRecord, TrialKey, definition_of
from softnce_ray.store import Store
from softnce_ray.tracking.connection import TrackingError, connect, experiment_of, first_line, search_runs
from softnce_ray.tracking.long_tags import cut, in_pieces


class Tracker:
    """The writer of one study's runs. Runs are found by their tags, so a later launch continues them.

    Methods that write return at once. `close` waits for what is still queued and tells what could not be written.
    """

    def __init__(self, store: Store, record: StudyRecord, *, versions: Mapping[str, str]) -> None:
        """Open the study's experiment and parent run, or make them.

        Raises:
          TrackingError: the store cannot be opened, within about a minute.
        """
        self._versions = dict(versions)
        self._record = record
        self._client = connect(store)
        self._runs: dict[TrialKey, str] = {}
        self._superseded: set[TrialKey] = set()
        self._last_epoch: dict[str, int] = {}
        self._arm_runs: dict[str, str] = {}
        try:
            self._experiment = experiment_of(self._client, store, record.study)
            self._close_abandoned()
            self._parent = self._open_parent()
        except MlflowException as error:
            raise TrackingError(f"the MLflow store refuses study {record.study}: {first_line(error)}") from error
        self._writer = _Writer()

    @property
    def parent_run_id(self) -> str:
        return self._parent

    def _close_abandoned(self) -> None:
        """Close what a driver that was killed left RUNNING; trials that go on are opened again."""
        for run in search_runs(self._client, self._experiment, "attributes.status = 'RUNNING'"):
            if run.data.tags.get("role") in ("arm", "trial"):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _open_parent(self) -> str:
        found = search_runs(self._client, self._experiment, "tags.role = 'study'")
        tags = {**_record_tags(self._record), **self._versions}
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=[RunTag(*item) for item in tags.items()])
        else:
            run_id = self._client.create_run(self._experiment, run_name=self._record.study, tags=tags).info.run_id
        self._client.log_text(run_id, self._record.text, "study.yaml")
        return run_id

    def known(self) -> dict[TrialKey, KnownTrial]:
        """All trials of the study that the store has, by key."""
        known = {}
        for run in search_runs(self._client, self._experiment, "tags.role = 'trial'"):
            tags, metrics = run.data.tags, run.data.metrics
            key = TrialKey(tags["arm"], tags["language"], tags["phase"], int(tags["seed"]), tags["identity"])
            if "superseded" in tags:
                self._superseded.add(key)
            epochs = int(metrics.get("epoch", 0))
            self._runs[key] = run.info.run_id
            self._last_epoch[run.info.run_id] = epochs
            known[key] = KnownTrial(
                run.info.run_id,
                run.info.status,
                metrics.get("best_valid_mrr"),
                epochs,
                "stopped_early" in tags,
                tags.get("failure", ""),
            )
        return known

    def arm_started(self, arm: str, settings: Mapping[str, Any]) -> None:
        """Open the run of an arm; an arm whose settings have changed is another arm with the same name."""
        self._writer.put(self._open_arm, arm, dict(settings))

    def trial_started(self, key: TrialKey, settings: Mapping[str, Any]) -> None:
        """Open or reopen a trial's run."""
        self._writer.put(self._start, key, dict(settings))

    def epoch(self, key: TrialKey, metrics: Mapping[str, float]) -> None:
        """Metrics of an epoch; an epoch that the run has already is left as it is."""
        self._writer.put(self._log_epoch, key, dict(metrics), _now())

    def trial_ended(
        self,
        key: TrialKey,
        status: str,
        *,
        metrics: Mapping[str, float] | None = None,
        ranks: Path | None = None,
        stopped_early: bool = False,
        failure: str = "",
        traceback: str = "",
    ) -> None:
        """Close a trial's run as FINISHED, FAILED or KILLED."""
        self._writer.put(self._end, key, status, dict(metrics or {}), ranks, stopped_early, failure, traceback, _now())

    def supersede(self, arm: str, language: str, current: Iterable[str]) -> None:
        """Mark confirm trials of a cell whose identity is not among `current`: they no longer count. Those that
        are, count again."""
        self._writer.put(self._supersede, arm, language, frozenset(current))

    def model(self, key: TrialKey, folder: Path | None) -> None:
        """Mark a trial as the best of its cell and keep its model, from `folder`, unless its run has it."""
        self._writer.put(self._log_model, key, folder)

    def arm_ended(self, arm: str, metrics: Mapping[str, float], status: str) -> None:
        self._writer.put(self._end_arm, arm, dict(metrics), status)

    def study_ended(self, status: str, metrics: Mapping[str, float], note: str) -> None:
        self._writer.put(self._end_study, status, dict(metrics), note)

    def wait(self) -> None:
        """Until all that was said so far is written, or has failed to be."""
        self._writer.wait()

    def close(self) -> list[str]:
        """Write what is queued and stop; returns a line for each record that could not be written."""
        return self._writer.close()

    # --- in the writer's thread ---

    def _open_arm(self, arm: str, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        found = [
            run
            for run in search_runs(self._client, self._experiment, f"tags.role = 'arm' and tags.arm = '{arm}'")
            if run.data.tags.get("settings") == text
        ]
        if found:
            self._arm_runs[arm] = found[0].info.run_id
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return
        tags = {
            "study": self._record.study,
            "role": "arm",
            "arm": arm,
            "settings": text,
            "mlflow.parentRunId": self._parent,
            **self._versions,
        }
        run_id = self._client.create_run(self._experiment, run_name=arm, tags=tags).info.run_id
        self._arm_runs[arm] = run_id
        self._client.log_batch(run_id, params=_params(settings))

    def _start(self, key: TrialKey, settings: dict[str, Any]) -> None:
        if key in self._runs:
            run_id = self._runs[key]
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=self._definition(key.arm, key.language))
            if "failure" in self._client.get_run(run_id).data.tags:
                self._client.delete_tag(run_id, "failure")
            return
        tags = {
            "study": self._record.study,
            "role": "trial",
            "arm": key.arm,
            "language": key.language,
            "phase": key.phase,
            "seed": str(key.seed),
            "identity": key.identity,
            "corpus_fingerprint": self._record.corpus_fingerprint,
            "mlflow.parentRunId": self._arm_runs[key.arm],
            **self._versions,
        }
        name = f"{key.arm}/{key.language}/{key.phase}-{key.seed if key.phase == 'confirm' else key.identity[:6]}"
        run_id = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        self._runs[key] = run_id
        self._client.log_batch(run_id, params=_params(settings), tags=self._definition(key.arm, key.language))

    def _definition(self, arm: str, language: str) -> list[RunTag]:
        """What the arm means in this launch, as a tag of a trial; none where the record does not say."""
        text = definition_of(self._record.definitions, arm, language)
        return [] if text is None else [RunTag("definition", text)]

    def _log_epoch(self, key: TrialKey, metrics: dict[str, float], now: int) -> None:
        run_id, epoch = self._runs[key], int(metrics["epoch"])
        if epoch <= self._last_epoch.get(run_id, 0):
            return
        self._last_epoch[run_id] = epoch
        self._client.log_batch(run_id, metrics=_metrics(metrics, epoch, now))

    def _end(
        self,
        key: TrialKey,
        status: str,
        metrics: dict[str, float],
        ranks: Path | None,
        stopped_early: bool,
        failure: str,
        traceback: str,
        now: int,
    ) -> None:
        run_id = self._runs[key]
        final = {name: value for name, value in metrics.items() if name != "epoch"}
        tags = {
            name: text
            for name, text in (("failure", failure), ("stopped_early", "yes" if stopped_early else ""))
            if text
        }
        self._client.log_batch(
            run_id,
            metrics=_metrics(final, int(metrics.get("epoch", 0)), now),
            tags=[RunTag(*item) for item in tags.items()],
        )
        if ranks is not None:
            try:
                self._client.log_artifact(run_id, str(ranks))
            except Exception:  # a trial without its ranks cannot be compared: it must not pass for finished
                self._client.set_terminated(run_id, "FAILED")
                raise
        if traceback:
            self._client.log_text(run_id, traceback, "traceback.txt")
        self._client.set_terminated(run_id, status)

    def _supersede(self, arm: str, language: str, current: frozenset[str]) -> None:
        for key, run_id in self._runs.items():
            if (key.arm, key.language, key.phase) != (arm, language, "confirm"):
                continue
            if key.identity not in current:
                self._client.set_tag(run_id, "superseded", "yes")
                self._superseded.add(key)
                continue
            if self._definition(arm, language):  # the same trial, though the arm may have come to it by another search
                self._client.log_batch(run_id, tags=self._definition(arm, language))
            if key in self._superseded:
                self._client.delete_tag(run_id, "superseded")
                self._superseded.remove(key)

    def _log_model(self, key: TrialKey, folder: Path | None) -> None:
        best = self._runs[key]
        if not self._client.list_artifacts(best, MODEL_FOLDER):
            if folder is None:
                raise TrackingError("its checkpoints are gone, so its model cannot be kept")
            self._client.log_artifacts(best, str(folder), MODEL_FOLDER)
        self._client.set_tag(best, "best_of_cell", "yes")
        for other, run_id in self._runs.items():
            if (
                run_id != best
                and (other.arm, other.language) == (key.arm, key.language)
                and "best_of_cell" in self._client.get_run(run_id).data.tags
            ):
                self._client.delete_tag(run_id, "best_of_cell")

    def _end_arm(self, arm: str, metrics: dict[str, float], status: str) -> None:
        self._client.log_batch(self._arm_runs[arm], metrics=_metrics(metrics, 0, _now()))
        self._client.set_terminated(self._arm_runs.pop(arm), status)

    def _end_study(self, status: str, metrics: dict[str, float], note: str) -> None:
        for run_id in self._arm_runs.values():  # whose end was not told
            self._client.set_terminated(run_id, status)
        shown = RunTag("mlflow.note.content", cut(note, "(softnce-ray report has the rest)"))
        self._client.log_batch(self._parent, metrics=_metrics(metrics, 0, _now()), tags=[shown])
        self._client.set_terminated(self._parent, status)


class _Writer:
    """Carries out writes one after another in a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.Queue()
        self._failed: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(self, write: Callable[..., None], *args: Any) -> None:
        self._queue.put((write, args))

    def wait(self) -> None:
        self._queue.join()

    def close(self) -> list[str]:
        self._queue.put(None)
        self._thread.join()
        return self._failed

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            write, args = item
            try:
                write(*args)
            except Exception as error:  # a record that fails must not take the rest with it
                self._failed.append(f"{write.__name__.strip('_')} {_subject(args)}: {first_line(error)}")
            finally:
                self._queue.task_done()
        self._queue.task_done()


def _record_tags(record: StudyRecord) -> dict[str, str]:
    return {
        "study": record.study,
        "role": "study",
        "question": record.question,
        "baseline": record.baseline,
        "arms": json.dumps(record.arms),
        "languages": json.dumps(record.languages),
        "seeds": json.dumps(record.seeds),
        "corpus": record.corpus,
        "corpus_fingerprint": record.corpus_fingerprint,
        **in_pieces("definitions", json.dumps(dict(record.definitions))),
        **in_pieces(
            "training_sets",
            json.dumps({name: each.model_dump(mode="json") for name, each in record.training_sets.items()}),
        ),
    }


def _metrics(values: Mapping[str, float], step: int, now: int) -> list[Metric]:
    return [Metric(name.replace("@", "_at_"), float(value), now, step) for name, value in values.items()]


def _params(settings: Mapping[str, Any]) -> list[Param]:
    return [Param(name, "none" if value is None else str(value)) for name, value in settings.items()]


def _now() -> int:
    return int(time.time() * 1000)


def _subject(args: tuple[Any, ...]) -> str:
    """What a write was about, for people."""
    first = args[0] if args else ""
    if isinstance(first, TrialKey):
        return f"{first.arm}/{first.language} {first.phase} seed {first.seed} ({first.identity})"
    return str(first)
