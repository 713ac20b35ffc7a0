"""Ray Tune's side of a study: a searcher, a scheduler and a callback that only pass on to the driver's plans, and which
worker a trial gets."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import ray.tune.tune as running
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from softnce_ray.config import Resources
from softnce_ray.results import TrialKey
from softnce_ray.storage import Location
from softnce_ray.study.cluster import Room
from softnce_ray.study.failures import Failure, failure_in_ray, user_error_in
from softnce_ray.study.patience import AwayError, is_away, reason
from softnce_ray.study.trainable import TrialSpec, run_trial

_LOOK_SECONDS = 5.0


class Driver(Protocol):
    """What the driver decides and records; `driver.StudyRun` is the real one. `attempt` is the number that the
    specification had."""

    def next_spec(self) -> tuple[TrialKey, TrialSpec, str] | None: ...

    def finished(self) -> bool: ...

    def started(self, key: TrialKey, attempt: int) -> None: ...

    def reported(self, key: TrialKey, attempt: int, epochs: Sequence[Mapping[str, float]]) -> bool: ...

    def ended(self, key: TrialKey, attempt: int, metrics: Mapping[str, float] | None, files: str | None) -> None: ...

    def failed(self, key: TrialKey, attempt: int, failure: Failure) -> None: ...

    def look_around(self) -> None: ...

    def note(self, text: str, key: TrialKey | None = None, in_full: str = "") -> None: ...


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
        key, spec, folder = proposal
        return {"key": json.dumps(asdict(key)), "spec": json.dumps(asdict(spec)), "folder": folder}

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
        if "note" in result:
            self._driver.note(result["note"], _key(trial), result.get("in_full", ""))
        if "epochs" not in result:
            return TrialScheduler.CONTINUE
        stop = self._driver.reported(_key(trial), _attempt(trial), result["epochs"])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


class Recorder(_NotPickled, tune.Callback):
    """Tells the driver of starts and ends."""

    def __init__(self, driver: Driver, room: Room) -> None:
        self._driver, self._room = driver, room
        self._looked = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Every few seconds: Tune itself would wait for ever for a node that does not come back."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._driver.look_around()
        if text := self._room.look():
            self._driver.note(text)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._driver.started(_key(trial), _attempt(trial))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        result = trial.last_result or {}
        if "failure" in result:
            self._driver.failed(_key(trial), _attempt(trial), Failure(**result["failure"]))
        else:
            metrics = result.get("metrics")
            files = Path(trial.checkpoint.path).name if trial.checkpoint and metrics is not None else None
            self._driver.ended(_key(trial), _attempt(trial), metrics, files)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        told = (trial.last_result or {}).get("failure")  # by a first worker that had to end
        failure = Failure(**told) if told else failure_in_ray(trial.get_error())
        self._driver.failed(_key(trial), _attempt(trial), failure)


class _Controller(TuneController):
    """Tune's, which leaves a worker that is starting to its trial while another trial can have the free one.

    Tune itself gives any waiting trial the next worker that is free, and ends the one that is just being started for
    it: where trials are shorter than the start of a worker, one worker alone would do them all.
    """

    def _maybe_reuse_cached_actor(self, trial: TuneTrial) -> bool:
        if trial not in self._resetting_trials and self._starts(trial):
            others = (each for each in self._pending_trials if each not in self._resetting_trials)
            if any(not self._starts(each) for each in others):
                return False
        return super()._maybe_reuse_cached_actor(trial)

    def _starts(self, trial: TuneTrial) -> bool:
        """Whether a worker is being started for a waiting trial."""
        worker = self._trial_to_actor.get(trial)
        return worker is not None and self._actor_manager.is_actor_started(worker)


@contextlib.contextmanager
def _our_tune() -> Iterator[None]:
    """Tune as a launch needs it; other users of Tune in this process keep its own.

    Tune would put keys of object stores (AWS_SECRET_ACCESS_KEY, …) on its workers' command lines, and so into Ray's
    logs: workers have what their node's own environment has. What goes wrong with a trial is told by the driver, in a
    line: Tune would print tracebacks, and errors of files that nobody reads.
    """
    log = logging.getLogger("ray.tune")
    level, sent = log.level, class_cache.ENV_VARS_TO_PROPAGATE
    log.setLevel(logging.CRITICAL)
    running.TuneController = _Controller  # type: ignore[misc]
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in sent if name.startswith(("RAY_", "TUNE_", "TRAIN_"))}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = sent
        running.TuneController = TuneController  # type: ignore[misc]
        log.setLevel(level)


def run_tune(driver: Driver, *, checkpoints: Location, launch: str, resources: Resources) -> None:
    """Run the driver's trials to the end, or until an interrupt. Checkpoints go below `checkpoints`/`launch`.

    Each attempt of a trial is a trial of Tune's: whether there is another is the driver's to say.

    Raises:
      UserError: what the driver raised, as it raised it.
      AwayError: the object store cannot be used when Tune begins.
    """
    worker = {name: count for name, count in resources.asked.items() if count}
    trainable = tune.with_resources(
        run_trial, tune.PlacementGroupFactory([worker] * resources.workers, strategy="PACK")
    )
    system, path = checkpoints.opened()
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
            storage_path=path,
            storage_filesystem=None if checkpoints.path is not None else system,
            verbose=0,
            callbacks=[Recorder(driver, Room(resources))],
            failure_config=tune.FailureConfig(max_failures=0),
            # The last epoch's checkpoint stays beside the result: a crash before the result is recorded costs
            # no training.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with _our_tune():
            tuner.fit()
    except Exception as error:
        if told := user_error_in(error):  # Tune wraps what it did not expect
            raise told from None
        if is_away(error):
            raise AwayError(f"the object store gives no answer ({reason(error)})") from error
        raise


def _key(trial: TuneTrial) -> TrialKey:
    return TrialKey(**json.loads(trial.config["key"]))


def _attempt(trial: TuneTrial) -> int:
    return json.loads(trial.config["spec"])["attempt"]


def _folder(trial: TuneTrial) -> str:
    return trial.config["folder"]
