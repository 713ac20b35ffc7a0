"""Runs: records carried out in MLflow. Carrying one out again changes nothing."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from softnce_ray.folders import sync, sync_tree
from softnce_ray.ranks_file import RANKS_FILE
from softnce_ray.results import MODEL_FOLDER, TrialKey
from softnce_ray.store import Store
from softnce_ray.tracking.connection import search_runs
from softnce_ray.tracking.faults import Refused
from softnce_ray.tracking.known import KnownRun, arm_of, key_of, rank, seen
from softnce_ray.tracking.long_tags import cut
from softnce_ray.tracking.metric_names import is_same, stored
from softnce_ray.tracking.moved import files_of
from softnce_ray.tracking.records import Record
from softnce_ray.uris import file_path

_LONGEST_FAILURE = 5_000
_JOURNAL, _TRACEBACK = "journal", "traceback.txt"


class Runs:
    """The runs of one study. Records of different trials may be carried out by several threads at once."""

    def __init__(self, client: MlflowClient, store: Store, experiment: str, files: Path) -> None:
        self._client, self._store, self._experiment, self._files = client, store, experiment, files
        self.noted = ""
        """Up to where MLflow has the journal, by its own word: see `note`."""
        self._places: dict[str, ArtifactRepository] = {}
        self._trials: dict[TrialKey, KnownRun] = {}
        self._arms: dict[tuple[str, str], KnownRun] = {}
        self._parent: str | None = None
        self._unsure: set[TrialKey | tuple[str, str]] = set()  # that may have a run we do not know

    def load(self) -> list[Run]:
        """Learn what runs there are; of runs of the same thing all but one are deleted. Returns those that stay."""
        runs = self._without_duplicates(search_runs(self._client, self._experiment, ""))
        self._trials = {key_of(run): seen(run) for run in runs if run.data.tags["role"] == "trial"}
        self._arms = {arm_of(run): seen(run) for run in runs if run.data.tags["role"] == "arm"}
        parent = next((run for run in runs if run.data.tags["role"] == "study"), None)
        self._parent = parent.info.run_id if parent else None
        self.noted = parent.data.tags.get(_JOURNAL, "") if parent else ""
        return runs

    def apply(self, records: Sequence[Record]) -> None:
        """Carry out a record, or several epochs of one trial at once.

        Raises:
          Refused: it cannot be carried out, however often it is tried.
          MlflowException and others: as `fault_of` tells.
        """
        if records[0].kind == "epoch":
            self._epochs(records)
        else:
            write: Callable[[Record], None] | None = getattr(self, f"_{records[0].kind}", None)
            if write is None:
                raise Refused("this version does not know such a record")
            write(records[0])

    def note(self, position: str) -> None:
        """Note in MLflow up to where it has the journal: the note beside the journal may be lost, or be of another time
        than the database where a store was copied."""
        if self._parent is not None:
            self._client.set_tag(self._parent, _JOURNAL, position)

    def ping(self) -> None:
        """Write what is written already: fails where nothing can be written."""
        self._client.set_experiment_tag(self._experiment, "softnce_ray", "study")

    def forget(self, record: Record) -> None:
        """Ask again for the run of a record that was refused: somebody may have deleted it."""
        if "key" in record.payload:
            self._trials.pop(record.key, None)
            self._unsure.add(record.key)
        elif "arm" in record.payload:
            for arm in [arm for arm in self._arms if arm[0] == record.payload["arm"]]:
                self._arms.pop(arm)
                self._unsure.add(arm)
        else:
            self._parent = None

    def open_parent(self, name: str, tags: Mapping[str, str], text: str) -> str:
        """Open the study's own run, or make it; returns its identifier."""
        if self._parent is None:
            self._client.create_run(self._experiment, run_name=name, tags=dict(tags))
            self.load()  # the one that counts, if it was made twice
            assert self._parent is not None
        else:
            self._client.update_run(self._parent, status="RUNNING")
            self._client.log_batch(self._parent, tags=[RunTag(*item) for item in tags.items()])
        self._log_text(self._parent, text, "study.yaml")
        return self._parent

    # --- records of arms and trials ---

    def _arm_started(self, record: Record) -> None:
        arm = (record.payload["arm"], record.payload["settings"])
        known = self._find_arm(arm)
        params, tags = record.payload["params"], {"opened": str(record.at)}
        if known is None:
            tags |= {"settings": arm[1], "mlflow.parentRunId": self._study(), **record.payload["tags"]}
            known = self._arms[arm] = self._make(arm, arm[0], tags, record.at)
        elif known.ended_since(record):
            return
        else:
            self._reopen(known)
        self._log(known, params=params, tags=tags)

    def _trial_started(self, record: Record) -> None:
        key, payload = record.key, record.payload
        tags = {**payload["changing"], "attempts": str(payload["attempt"])}
        if (known := self._find_trial(key)) is None:
            of_arm = None if payload["settings"] is None else self._find_arm((key.arm, payload["settings"]))
            if of_arm is None:
                raise Refused(f"arm {key.arm} has no run to put it below")
            fixed = {**payload["tags"], "mlflow.parentRunId": of_arm.run_id}
            known = self._trials[key] = self._make(key, payload["name"], fixed, record.at)
            known.times = {}
        elif known.ended_since(record):
            return
        else:
            self._reopen(known)
        self._log(known, params=payload["params"], tags=tags)
        if "failure" in known.tags and self._has(known.run_id, _TRACEBACK):
            self._repository(known.run_id).delete_artifacts(_TRACEBACK)
        for name in ("failure", "failure_kind", "model", "distributions"):  # its files are logged again
            self._untag(known, name)

    def _epochs(self, records: Sequence[Record]) -> None:
        """An epoch that the run has from another time is left as it is: the trial went back to a checkpoint. One
        that it has from the same time may have been cut off, and is completed."""
        known = self._trial(records[0].key)
        if known.times is None:
            points = self._client.get_metric_history(known.run_id, "epoch")
            known.times = {point.step: point.timestamp for point in points}
        times = dict(known.times)
        metrics: list[Metric] = []
        for record in records:
            values = record.payload["metrics"]
            epoch = int(values["epoch"])
            if times.setdefault(epoch, record.at) == record.at:
                metrics += _metrics(values, epoch, record.at)
        self._log(known, metrics=metrics)
        known.times = times

    def _trial_ended(self, record: Record) -> None:
        known, payload = self._trial(record.key), record.payload
        if known.ended_since(record) and (known.status == "FINISHED" or payload["status"] != "FINISHED"):
            return
        said, values = self._client.get_run(known.run_id).data.metrics, payload["metrics"]
        metrics = [  # of a trial that was run again only what is new: no point can be taken back
            each
            for each in _metrics(values, int(values.get("epoch", 0)), record.at)
            if each.key != "epoch" and not (each.key in said and is_same(said[each.key], each.value))
        ]
        tags = {
            "failure": payload["failure"][:_LONGEST_FAILURE],
            "failure_kind": payload["failure_kind"],
            "stopped_early": "yes" if payload["stopped_early"] else "",
        }
        self._log(known, metrics=metrics, tags={name: text for name, text in tags.items() if text})
        if payload["source"] is not None:
            # Before the status: a trial without its ranks cannot be compared, and must not pass for finished.
            ranks = self._kept(record, RANKS_FILE)
            if ranks.exists() or not self._has(known.run_id, RANKS_FILE):
                self._log_file(known.run_id, ranks)
            self._log_beside(known, record)
        if payload["traceback"]:
            self._log_text(known.run_id, payload["traceback"], _TRACEBACK)
        self._end(known, payload["status"], record.at)

    def give_up(self, record: Record, why: str) -> None:
        """Say in its run, as far as it lets us, that the end of a trial was refused: it is not finished."""
        if record.kind == "trial_ended" and record.key in self._trials:
            known = self._trials[record.key]
            if self._client.get_run(known.run_id).info.status == "FINISHED":  # this was sent before
                return
            self._log(known, tags={"failure": f"its end could not be recorded: {why}"[:_LONGEST_FAILURE]})
            self._end(known, "FAILED", record.at)

    def _supersede(self, record: Record) -> None:
        payload = record.payload
        for key, known in list(self._trials.items()):
            if (key.arm, key.language, key.phase) != (payload["arm"], payload["language"], "confirm"):
                continue
            if key.identity not in payload["current"]:
                self._log(known, tags={"superseded": "yes"})
            else:  # the same trial, though the arm may have come to it by another search
                self._log(known, tags=payload["changing"])
                self._untag(known, "superseded")

    # --- records of the end ---

    def _study_ended(self, record: Record) -> None:
        status, parent = record.payload["status"], self._study()
        runs = self.load()
        if any(run.info.run_id == parent and seen(run).ended_since(record) for run in runs):
            return
        for run in runs:
            role = run.data.tags["role"]
            if run.info.status == "RUNNING" and role in ("arm", "trial"):
                self._client.set_terminated(run.info.run_id, status if role == "arm" else "KILLED", record.at)
        self._client.set_terminated(parent, status, record.at)

    def _arm_summary(self, record: Record) -> None:
        arm, settings = record.payload["arm"], record.payload["settings"]
        known = self._arms.get((arm, settings)) if settings is not None else self._latest_arm(arm)
        if known is None:
            raise Refused(f"arm {arm} has no run")
        self._log(known, metrics=self._changed(known.run_id, record))

    def _study_summary(self, record: Record) -> None:
        note = cut(record.payload["note"], "(the report has the rest)")
        metrics = self._changed(self._study(), record)
        self._client.log_batch(self._study(), metrics=metrics, tags=[RunTag("mlflow.note.content", note)])

    def _changed(self, run_id: str, record: Record) -> list[Metric]:
        """Of a summary's metrics those that the run does not say yet: at step 0, which makes a bar, and where it says
        another value, at the next step, since no point can be taken back and two of one step make no line."""
        said = self._client.get_run(run_id).data.metrics
        metrics = []
        for each in _metrics(record.payload["metrics"], 0, record.at):
            if each.key not in said:
                metrics.append(each)
            elif not is_same(said[each.key], each.value):
                last = max(point.step for point in self._client.get_metric_history(run_id, each.key))
                metrics.append(Metric(each.key, each.value, each.timestamp, last + 1))
        return metrics

    def _study_tags(self, record: Record) -> None:
        self._client.log_batch(self._study(), tags=[RunTag(*item) for item in record.payload["tags"].items()])

    def _study_files(self, record: Record) -> None:
        for name, text in record.payload["texts"].items():
            self._log_text(self._study(), text, name)

    def _model(self, record: Record) -> None:
        best = self._trial(record.key)
        if "model" not in best.tags:  # set when all of its files are there
            if record.payload["source"] is not None:
                self._log_file(best.run_id, self._kept(record, record.payload["folder"]), MODEL_FOLDER)
            elif not self._has(best.run_id, MODEL_FOLDER):
                raise Refused("its checkpoints are gone, so its model cannot be kept: the next launch trains it again")
        self._log(best, tags={"model": "kept", "best_of_cell": "yes"})
        for key, known in list(self._trials.items()):
            if known is not best and (key.arm, key.language) == (record.key.arm, record.key.language):
                self._untag(known, "best_of_cell")

    # --- how runs are found, made and written ---

    def _study(self) -> str:
        if self._parent is None:
            found = search_runs(self._client, self._experiment, "tags.role = 'study'")
            if not found:
                raise Refused("the study's own run is gone")
            self._parent = min(found, key=rank).info.run_id
        return self._parent

    def _trial(self, key: TrialKey) -> KnownRun:
        known = self._find_trial(key)
        if known is None:
            raise Refused("the trial has no run: it was never started, or somebody deleted it")
        return known

    def _find_trial(self, key: TrialKey) -> KnownRun | None:
        """The run of a trial, asked for where it may have one, all but one of several deleted."""
        if key not in self._trials and key in self._unsure:
            query = f"tags.role = 'trial' and tags.identity = '{key.identity}'"
            runs = [run for run in search_runs(self._client, self._experiment, query) if key_of(run) == key]
            for run in self._without_duplicates(runs):
                self._trials[key] = seen(run)
            self._unsure.discard(key)
        return self._trials.get(key)

    def _find_arm(self, arm: tuple[str, str]) -> KnownRun | None:
        if arm not in self._arms and arm in self._unsure:
            runs = search_runs(self._client, self._experiment, "tags.role = 'arm'")
            for run in self._without_duplicates([run for run in runs if arm_of(run) == arm]):
                self._arms[arm] = seen(run)
            self._unsure.discard(arm)
        return self._arms.get(arm)

    def _latest_arm(self, arm: str) -> KnownRun | None:
        """The run of an arm that was opened last."""
        runs = [
            run
            for run in search_runs(self._client, self._experiment, "tags.role = 'arm'")
            if run.data.tags["arm"] == arm
        ]
        opened = [(int(run.data.tags.get("opened", run.info.start_time)), run) for run in runs]
        return seen(max(opened, key=lambda each: each[0])[1]) if opened else None

    def _make(self, what: TrialKey | tuple[str, str], name: str, tags: Mapping[str, str], at: int) -> KnownRun:
        """Make a run. An answer that is lost makes it be asked for again, by MLflow's own HTTP layer too: so it is
        looked whether there are several now."""
        self._unsure.add(what)
        self._client.create_run(self._experiment, start_time=at, run_name=name, tags=dict(tags))
        found = self._find_trial(what) if isinstance(what, TrialKey) else self._find_arm(what)
        if found is None:
            raise Refused("its run was made, and is not found")
        return found

    def _reopen(self, known: KnownRun) -> None:
        self._client.update_run(known.run_id, status="RUNNING")
        known.status = "RUNNING"

    def _end(self, known: KnownRun, status: str, at: int) -> None:
        self._client.set_terminated(known.run_id, status, at)
        known.status, known.ended = status, at

    def _log(
        self,
        known: KnownRun,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """In one request what the run does not have: params cannot change, and those of a run that its writer did
        not live to fill are missing."""
        new = {name: value for name, value in (params or {}).items() if name not in known.params}
        if not (metrics or new or tags):
            return
        self._client.log_batch(
            known.run_id,
            metrics=metrics,
            params=[Param(*item) for item in new.items()],
            tags=[RunTag(*item) for item in (tags or {}).items()],
        )
        known.params |= set(new)
        known.tags |= set(tags or {})

    def _untag(self, known: KnownRun, name: str) -> None:
        if name in known.tags:
            if name in self._client.get_run(known.run_id).data.tags:  # to delete what is not there is an error
                self._client.delete_tag(known.run_id, name)
            known.tags.discard(name)

    def _kept(self, record: Record, name: str) -> Path:
        """What goes with a record: the journal's copy, or the original where there was no room for one."""
        if record.files is None:
            return self._store.root / record.payload["source"]
        return self._files / record.files / name

    def _repository(self, run_id: str) -> ArtifactRepository:
        if run_id not in self._places:
            self._places[run_id] = files_of(self._store, self._client.get_run(run_id))
        return self._places[run_id]

    def _has(self, run_id: str, name: str) -> bool:
        return any(file.path == name for file in self._repository(run_id).list_artifacts())

    def _log_text(self, run_id: str, text: str, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            self._repository(run_id).log_artifact(str(path))

    def _log_file(self, run_id: str, path: Path, name: str | None = None) -> None:
        """Log a file, or a folder under a name. In a store of our own it is on the disk then: the journal's copy goes
        when its record is sent."""
        if not path.exists():
            raise Refused(f"{path} is gone")
        files = self._repository(run_id)
        if name is None:
            files.log_artifact(str(path))
        else:
            files.log_artifacts(str(path), name)
        if (place := file_path(files.artifact_uri)) is not None:
            sync_tree(place / (name or path.name))
            with contextlib.suppress(PermissionError):  # a folder above that is another's is not ours to have made
                sync(place, *place.parents[:3])

    def _log_beside(self, known: KnownRun, record: Record) -> None:
        """Log what lies beside a record's file, as far as it is there still: a picture lacks something without it, a
        comparison does not. A tag says which runs have it, so that no other is asked."""
        for source in map(Path, record.payload.get("beside", ())):
            path = self._store.root / source if record.files is None else self._files / record.files / source.name
            if path.exists():
                self._log_file(known.run_id, path)
                self._log(known, tags={path.stem: "yes"})

    def _without_duplicates(self, runs: Iterable[Run]) -> list[Run]:
        """Runs of ours, of each thing one; the others are deleted, which MLflow can undo."""
        ours: dict[object, Run] = {}
        current = {known.run_id for known in (*self._trials.values(), *self._arms.values())} | {self._parent}
        roles: dict[str, Callable[[Run], object]] = {"trial": key_of, "arm": arm_of, "study": lambda run: "study"}
        runs = list(runs)
        below = Counter(run.data.tags.get("mlflow.parentRunId") for run in runs)

        def place(run: Run) -> tuple[object, ...]:
            return run.info.run_id not in current, -below[run.info.run_id], *rank(run)

        for run in sorted(runs, key=place):
            of_role = roles.get(run.data.tags.get("role", ""))
            if of_role is None:
                continue
            if of_role(run) in ours:
                self._client.delete_run(run.info.run_id)
            else:
                ours[of_role(run)] = run
        return list(ours.values())


def _metrics(values: Mapping[str, float], step: int, at: int) -> list[Metric]:
    return [Metric(stored(name), float(value), at, step) for name, value in values.items()]
