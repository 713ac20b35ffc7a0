"""Optuna's part: a persistent study for each search, asked for proposals and told what came of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from softnce_ray.config import ArmConfig, Choices, Range, Search, SearchSpace, variants
from softnce_ray.config.search_space import in_order, searched
from softnce_ray.config.settings import has_setting, kind_of
from softnce_ray.study.samplers import Distributions, chosen, grid_order, sampler_for

_STOPPED = "stopped_at_epoch"
_ANSWERED = "failed_by_its_settings"


@dataclass(frozen=True)
class Proposal:
    """Values for the searched settings, by dotted path; `number` is the trial's in the Optuna study.

    A setting whose conditions do not hold has none: there the arm's own stands.
    """

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A proposal that has been answered. `failed`: no trial of its settings can come to an end."""

    proposal: Proposal
    failed: bool


class OptunaSearch:
    """A search: a fixed number of trials, early stopping, and the best values in the end.

    All state lives in Optuna's storage, early stopping's rungs included, so that a new process goes on where
    another was killed: proposals that were never answered are handed out again first. A proposal depends on the
    seed and on the answers so far, not on the process.

    What counts are the trials of the present space: those whose settings are the ones that it searches where they
    have these values. Optuna does not store conditions, so after a change of one (a planner then gives the search
    another name as well) a trial that is consistent with the new ones counts and another does not.

    Args:
      space: what is searched, with its conditions.
      distributions: Optuna's form of each setting of the space.
      start: points that are tried first; one that a trial of the search has tried is not tried again.
      at_least: a part of a proposal, and the number of trials that have it in the end.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        space: SearchSpace,
        distributions: Distributions,
        settings: Search,
        *,
        start: Sequence[Mapping[str, Any]] = (),
        at_least: tuple[Mapping[str, Any], int] = ({}, 0),
    ) -> None:
        stopping = settings.early_stopping
        pruner = (
            optuna.pruners.NopPruner()
            if stopping is None
            else optuna.pruners.SuccessiveHalvingPruner(
                min_resource=stopping.min_epochs, reduction_factor=stopping.reduction
            )
        )
        self._study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
        self._name, self._settings = name, settings
        self._forgotten: frozenset[int] = frozenset()
        self._searched = {path: space[path] for path in in_order(space)}
        self._conditional = any(each.when for each in space.values())
        self._space = {path: distributions[path] for path in self._searched}
        self._start, self._at_least = list(start), at_least
        if chosen(settings, space) == "grid":
            self._start += grid_order(settings, name, self._searched, self._space)
        # Those of a process that died; values of another space (the file was changed) are not asked for again.
        self._unanswered = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_of_space(trial):
                self._unanswered.append(Proposal(trial.number, dict(trial.params)))
            else:
                self._study.tell(trial.number, state=TrialState.FAIL)

        tried = self._current()
        if len(tried) >= settings.trials and all(
            trial.state == TrialState.FAIL and _ANSWERED not in trial.user_attrs for trial in tried
        ):
            # An earlier version told failures of the machine too: their cause may be mended.
            self._forgotten = frozenset(trial.number for trial in tried)

    @property
    def answered(self) -> int:
        """How many trials of the search have been answered."""
        return sum(trial.state.is_finished() for trial in self._current())

    def answers(self) -> list[Answer]:
        """Return the proposals that have been answered."""
        return [
            Answer(Proposal(trial.number, dict(trial.params)), failed=trial.state == TrialState.FAIL)
            for trial in self._current()
            if trial.state.is_finished()
        ]

    def ask(self) -> Proposal | None:
        """The next proposal, or None when the search has handed out all its trials."""
        if self._unanswered:
            return self._unanswered.pop(0)
        current = self._current()
        if len(current) >= self._settings.trials:
            return None
        self._study.sampler = sampler_for(self._settings, self._name, len(current), self._searched)
        fixed = self._fixed(current)
        # Optuna has kept one of a process that died before it could ask.
        if fixed and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(fixed)
        if not self._conditional:
            trial = self._study.ask(self._space)
            return Proposal(trial.number, dict(trial.params))
        trial = self._study.ask()
        values: dict[str, Any] = {}
        for path, each in self._searched.items():
            if each.applies(values):
                values[path] = _suggested(trial, path, self._space[path])
        return Proposal(trial.number, values)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tell an intermediate value; True when the trial should stop early. A value that is no number is not
        told, nor one of an epoch that has one: a trial was resumed before it, and what was decided then stands, as it
        does of a trial that was answered."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        if not math.isfinite(value):
            return False
        if epoch in frozen.intermediate_values or frozen.state.is_finished():
            return epoch >= frozen.user_attrs.get(_STOPPED, math.inf)
        trial = optuna.Trial(self._study, frozen._trial_id)
        trial.report(value, epoch)
        stop = trial.should_prune()
        if stop:  # kept: the pruner would not decide so again of a trial whose driver died before it could be told
            trial.set_user_attr(_STOPPED, epoch)
        return stop

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None:
        """Tell how a trial ended: with a value, early (its last value stands), or failed by its settings (None or no
        number)."""
        if stopped_early:
            self._study.tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            frozen = self._study.get_trials(deepcopy=False)[number]
            optuna.Trial(self._study, frozen._trial_id).set_user_attr(_ANSWERED, True)
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, value)

    @property
    def finished(self) -> bool:
        """Whether every trial of the search has been answered."""
        return self.answered >= self._settings.trials

    def best(self) -> dict[str, Any] | None:
        """Values of the best trial that ran to its end, or None when there is none."""
        return next(iter(self.ranking()), None)

    def ranking(self) -> list[dict[str, Any]]:
        """Return the values of all trials that ran to their end, the best first; of equal ones the first."""
        complete = [trial for trial in self._current() if trial.state == TrialState.COMPLETE]
        complete.sort(key=lambda trial: (-(trial.value or 0.0), trial.number))
        return [dict(trial.params) for trial in complete]

    def _current(self) -> list[optuna.trial.FrozenTrial]:
        """Trials of the present space that count."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.number not in self._forgotten and self._is_of_space(trial)
        ]

    def _is_of_space(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial has exactly the settings that the present space searches where they have its values.

        One whose process died before it had all of them has not.
        """
        if not self._conditional:
            return trial.distributions == self._space
        return trial.distributions == {path: self._space[path] for path in searched(self._searched, trial.params)}

    def _fixed(self, current: Sequence[optuna.trial.FrozenTrial]) -> dict[str, Any]:
        """Return what the next proposal has whatever the sampler would choose: a point that is to be tried first, or
        the part that not enough trials have."""
        if self._start:
            tried = [trial.params for trial in current]
            self._start = [point for point in self._start if not any(_has(params, point) for params in tried)]
            if self._start:
                return dict(self._start[0])
        part, least = self._at_least
        due = math.ceil(least * (len(current) + 1) / self._settings.trials)
        return dict(part) if sum(_has(trial.params, part) for trial in current) < due else {}


class CellSearch(OptunaSearch):
    """The search of one cell."""

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        arm: ArmConfig,
        space: SearchSpace,
        settings: Search,
        *,
        start: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Open the search of an arm's space, or begin it."""
        super().__init__(storage, name, space, distributions_of(arm, space), settings, start=start)

    is_confirmed = True


def distributions_of(arm: ArmConfig, space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return Optuna's form of what an arm searches."""
    reached = variants(arm, space)
    return {
        path: _distribution(next(each for each in reached if has_setting(each, path)), path, each)
        for path, each in space.items()
    }


def _has(params: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    return all(path in params and params[path] == value for path, value in part.items())


def _distribution(arm: ArmConfig, path: str, space: Range | Choices) -> optuna.distributions.BaseDistribution:
    """Optuna's form of a searched setting: whole numbers where the setting is one."""
    if isinstance(space, Choices):
        return optuna.distributions.CategoricalDistribution(space.choices)
    if kind_of(arm, path) is int:
        return optuna.distributions.IntDistribution(
            int(space.low), int(space.high), log=space.log, step=int(space.step or 1)
        )
    return optuna.distributions.FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _suggested(trial: optuna.Trial, path: str, distribution: optuna.distributions.BaseDistribution) -> Any:
    """A value for one setting, asked by name: `ask` with all distributions knows no conditions."""
    match distribution:
        case optuna.distributions.CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(path, choices)
        case optuna.distributions.IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(path, low, high, log=log, step=step)
        case optuna.distributions.FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(path, low, high, log=log, step=step)
    raise AssertionError(distribution)
