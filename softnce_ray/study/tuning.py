"""Ray Tune's side of a study: a searcher, a scheduler and a callback that only pass on to the driver's plans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from softnce_ray.results import TrialKey
from softnce_ray.study.trainable import TrialSpec, run_trial, trial_folder


class Driver(Protocol):
    """What the driver decides and records; `run.StudyRun` is the real one."""

    def next_spec(self) -> tuple[TrialKey, TrialSpec] | None: ...

    def finished(self) -> bool: ...

    def started(self, key: TrialKey) -> None: ...

    def reported(self, key: TrialKey, result: Mapping[str, Any]) -> bool: ...

    def ended(self, key: TrialKey, result: Mapping[str, Any], files: Path | None) -> None: ...

    def failed(self, key: TrialKey, reason: str, traceback: str) -> None: ...


class _NotPickled:
    """Tune writes its searcher, scheduler and callbacks to disk; none of ours is ever read back, since a study
    goes on from MLflow, Optuna and the checkpoints."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlanSearcher(_NotPickled, Searcher):
    """Hands out the driver's trials."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:
        proposal = self._driver.next_spec()
        if proposal is None:
            return Searcher.FINISHED if self._driver.finished() else None
        key, spec = proposal
        return {"key": json.dumps(asdict(key)), "spec": json.dumps(asdict(spec))}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The callback tells the driver, since it also has the trial's files."""

    def save(self, checkpoint_path: str) -> None:
        """There is nothing to save; see `_NotPickled`."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed by launching its file again, not by Tune")


class PlanScheduler(_NotPickled, FIFOScheduler):
    """Stops a trial when the driver says so."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        if result.get("ended"):
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if self._driver.reported(_key(trial), result) else TrialScheduler.CONTINUE


class Recorder(_NotPickled, tune.Callback):
    """Tells the driver of starts and ends."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._driver.started(_key(trial))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        result = trial.last_result or {}
        if "failure" in result:
            self._driver.failed(_key(trial), result["failure"], result["traceback"])
        else:
            files = Path(trial.checkpoint.path) if trial.checkpoint and result.get("ended") else None
            self._driver.ended(_key(trial), result, files)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.get_error()
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {cause}" if cause else "unknown"
        self._driver.failed(_key(trial), " ".join(reason.split())[:500], str(error))


def run_tune(driver: Driver, *, folder: Path, launch: str, cpus: float, gpus: float, retries: int) -> None:
    """Run the driver's trials to the end, or until an interrupt. Checkpoints go below `folder`/`launch`."""
    trainable = tune.with_resources(_run_spec, {"cpu": cpus, "gpu": gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=PlanSearcher(driver),
            scheduler=PlanScheduler(driver),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_folder,
            trial_name_creator=_folder,
        ),
        run_config=tune.RunConfig(
            name=launch,
            storage_path=str(folder),
            verbose=0,
            callbacks=[Recorder(driver)],
            failure_config=tune.FailureConfig(max_failures=retries),
            # The last epoch's checkpoint stays beside the result: a crash before the result is recorded costs
            # no training.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        ),
    )
    tuner.fit()


def _run_spec(config: dict[str, str]) -> None:
    run_trial(json.loads(config["spec"]))


def _key(trial: TuneTrial) -> TrialKey:
    return TrialKey(**json.loads(trial.config["key"]))


def _folder(trial: TuneTrial) -> str:
    key = _key(trial)
    return trial_folder(key.arm, key.language, key.phase, key.identity)
