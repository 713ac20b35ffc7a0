"""What came of a study, as plain data that can be compared: what MLflow, Optuna and the store hold of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import MlflowServer

# Numbers that are durations: the only ones that another run may have otherwise.
_DURATIONS = {"train_seconds", "pairs_per_second"}
# What tags say of the processes that wrote them and of when they did, not of the trial.
_OF_THE_PROCESS = ("mlflow.source", "mlflow.user", "mlflow.note.content", "version.", "opened", "attempts", "journal")


def outcome(server: MlflowServer, store: Path, study: str, report: Any) -> dict[str, Any]:
    """All that a study must say, however it came to its end, as plain data; and nothing that may differ.

    Args:
      server: the MLflow server; artifacts are read from its folder.
      store: the study's store, of which the searches are read.
      study: its name.
      report: the study's report as data; a text stands for one that could not be made.
    """
    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None, f"no experiment {study}"
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    names = {run.info.run_id: _name(run) for run in runs}

    def of(run: Run) -> dict[str, Any]:
        told: dict[str, Any] = {
            "status": run.info.status,
            "params": dict(run.data.params),
            "tags": {
                name: names.get(text, text) if name == "mlflow.parentRunId" else text
                for name, text in run.data.tags.items()
                if not name.startswith(_OF_THE_PROCESS)
            },
            "metrics": {key: value for key, value in run.data.metrics.items() if key not in _DURATIONS},
            "files": _files(server.artifacts / run.info.artifact_uri.partition(":/")[2]),
        }
        if run.data.tags["role"] == "trial":
            for key in run.data.metrics:
                points = client.get_metric_history(run.info.run_id, key)
                told[f"history of {key}"] = [
                    (point.step, "a duration" if key in _DURATIONS else point.value) for point in points
                ]
        return told

    told: dict[str, Any] = {"runs": {}, "count": len(runs)}
    for run in runs:
        name = names[run.info.run_id]
        while name in told["runs"]:
            name += " AGAIN"
        told["runs"][name] = of(run)
    files = [path.relative_to(store) for path in store.rglob("*") if path.is_file()]
    return told | {
        "searches": _searches(store),
        "report": _without_durations(report),
        "files of the store": sorted(str(file) for file in files if file.parts[0] not in ("ray", "spool")),
    }


def _without_durations(report: Any) -> Any:
    if isinstance(report, dict):
        return {key: _without_durations(value) for key, value in report.items() if key not in _DURATIONS}
    return [_without_durations(each) for each in report] if isinstance(report, list) else report


def _files(folder: Path) -> dict[str, Any]:
    """Content of a run's artifacts: ranks and JSON as they read, of all else a digest; of the page, which shows
    durations, that it is there."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> Any:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".json":
        return _without_durations(json.loads(path.read_text()))
    if path.suffix == ".html":
        return path.read_text().startswith("<!doctype html>")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _name(run: Run) -> str:
    tags = run.data.tags
    return " ".join(tags[name] for name in ("role", "arm", "phase", "seed", "identity") if name in tags)


def _searches(store: Path) -> dict[str, list[Any]]:
    """Trials of Optuna's studies. One that its process did not live to fill says nothing, and is left out."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{store}/optuna.db")
    try:
        return {
            study.study_name: sorted(
                [
                    sorted(trial.params.items()),
                    trial.state.name,
                    trial.values,
                    sorted(trial.intermediate_values.items()),
                ]
                for trial in storage.get_all_trials(study._study_id)
                if trial.params or trial.state.name != "FAIL"
            )
            for study in storage.get_all_studies()
        }
    finally:
        storage.engine.dispose()


def differences(expected: Any, got: Any, where: str = "") -> list[str]:
    """A line for each place where two values of plain data are not the same."""
    if isinstance(expected, dict) and isinstance(got, dict):
        found = [f"{where}: {key} is missing" for key in expected.keys() - got.keys()]
        found += [f"{where}: {key} is too much: {_short(got[key])}" for key in got.keys() - expected.keys()]
        for key in expected.keys() & got.keys():
            found += differences(expected[key], got[key], f"{where}/{key}")
        return sorted(found)
    if expected != got:
        return [f"{where}: expected {_short(expected)}, got {_short(got)}"]
    return []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 160 else f"{text[:157]}..."


def broken_laws(told: dict[str, Any], epochs: int) -> list[str]:
    """What is wrong with any outcome, the undisturbed one too: an open run, a failure, an epoch missing or twice."""
    found = []
    for name, run in told["runs"].items():
        if run["status"] != "FINISHED":
            found.append(f"{name}: expected FINISHED, got {run['status']}")
        if "failure" in run["tags"]:
            found.append(f"{name}: failure: {run['tags']['failure']}")
        if name.startswith("trial"):
            steps = [step for step, _ in run.get("history of train_loss", [])]
            if steps != list(range(1, epochs + 1)):
                found.append(f"{name}: expected every epoch once, got {steps}")
    for search, trials in told["searches"].items():
        found += [f"{search}: a proposal is {state}" for _, state, _, _ in trials if state != "COMPLETE"]
    return found


def left_over(store: Path) -> list[str]:
    """Records that were never sent, and what was written only by half."""
    found = []
    for path in sorted(store.rglob("*")):
        inside = path.relative_to(store)
        if inside.parts[0] == "spool" and path.is_file() and path.stat().st_size and path.name != "lock":
            found.append(f"unsent: {inside}")
        elif "tmp" in path.name or "partial" in path.name:
            found.append(f"left over: {inside}")
    return found
