"""What to train next: every decision of a study, in plain Python.

A cell (arm × language or training set) is searched first where the study says so; as soon as its search has ended, its
best configuration is run anew on the study's seeds. Cells take turns, so that no slot waits while any has work.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from softnce_ray.config import (
    METHOD_VERSION,
    Choices,
    Range,
    StudyConfig,
    TrialConfig,
    arm_settings,
    identity,
    revisions,
    trial_languages,
    with_values,
)
from softnce_ray.config.study import FailureKind
from softnce_ray.results import KnownTrial, TrialKey

_MOST_SEEDS = 20
"""Of a cell that are listed one by one for people."""


@dataclass(frozen=True)
class Cell:
    """What is tuned as one."""

    arm: str
    language: str

    def __str__(self) -> str:
        return f"{self.arm}/{self.language}"


@dataclass(frozen=True)
class Trial:
    """A training run to be done."""

    key: TrialKey
    config: TrialConfig


class Proposes(Protocol):
    """What a planner needs of a cell's search; `search.CellSearch` is the real one."""

    @property
    def finished(self) -> bool: ...

    def answers(self) -> Sequence[Any]: ...

    def ask(self) -> Any: ...

    def report(self, number: int, epoch: int, value: float) -> bool: ...

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None: ...

    def best(self) -> dict[str, Any] | None: ...


@dataclass
class _State:
    """Where a cell stands."""

    cell: Cell
    search: Proposes | None
    numbers: dict[TrialKey, list[int]] = field(default_factory=dict)  # live search trials → proposals they answer
    confirm: deque[Trial] | None = None  # None: not decided yet
    live: set[TrialKey] = field(default_factory=set)
    done: int = 0  # trials that have ended, in this launch or before it, one way or another
    unrecorded: dict[TrialKey, int] = field(default_factory=dict)  # search trials that the store lost → proposals
    lost: deque[Trial] = field(default_factory=deque)  # of these, the ones to be handed out
    halted: bool = False  # a search trial failed for a cause of the machine: the search goes on with the next launch

    @property
    def is_over(self) -> bool:
        return not self.live and not self.lost and (self.halted or (self.confirm is not None and not self.confirm))


class Planner:
    """Hands out the trials of a study and learns how they end.

    Args:
      content: what a trial learns from, for its identity; a text stands for all trials.
      known: what the store holds; a finished trial is never handed out again.
      searches: a search for each cell that has one.
      on_confirm: called once for each cell with its confirm trials, when they are decided.
      history: epochs and validation values of a trial that the store has, for a search that does not know them.
      keeps_model: whether the model of a finished trial is kept anywhere.
    """

    def __init__(
        self,
        study: StudyConfig,
        content: str | Callable[[TrialConfig], str],
        known: Mapping[TrialKey, KnownTrial],
        searches: Mapping[Cell, Proposes],
        on_confirm: Callable[[Cell, list[Trial]], None] = lambda cell, trials: None,
        *,
        history: Callable[[KnownTrial], Iterable[tuple[int, float]]] = lambda trial: (),
        keeps_model: Callable[[TrialKey], bool] = lambda key: True,
    ) -> None:
        self._study, self._on_confirm, self._history, self._keeps_model = study, on_confirm, history, keeps_model
        self._content = content if callable(content) else lambda config: content
        self._done = {key: trial for key, trial in known.items() if trial.status == "FINISHED"}
        self._reached = {key: trial.epochs for key, trial in known.items() if trial.status != "FINISHED"}
        self._cells = deque(_State(cell, searches.get(cell)) for cell in cells(study))
        self._by_cell = {state.cell: state for state in self._cells}
        self._again: deque[Trial] = deque()
        self._early: set[TrialKey] = set()
        self._values: dict[TrialKey, float | None] = {}  # of trials that ended in this launch
        self.already_done = 0
        for state in self._cells:
            if state.search:
                self._look_up(state, state.search.answers(), set(known))
        self.problems: list[str] = []
        self.notes: list[str] = []

    def _look_up(self, state: _State, answers: Sequence[Any], known: Set[TrialKey]) -> None:
        """Count what a search has been answered; what the store has lost of that is to be run once more, for it alone.

        So it is with a database that was deleted, or a record that was refused.
        """
        assert self._study.search is not None
        state.done = len(answers)
        for answer in answers:
            try:
                trial = self._trial(state.cell, "search", self._study.search.seed, answer.proposal.values)
            except ValidationError:  # impossible settings have no trial
                continue
            if trial.key in (known if answer.failed else self._done):
                self.already_done += not answer.failed
            elif trial.key not in state.unrecorded:
                state.unrecorded[trial.key] = answer.proposal.number
                state.lost.append(trial)
                state.done -= 1

    def next(self) -> Trial | None:
        """A trial to start now, or None: nothing is left, or all that is left waits for live trials."""
        live = {key.training for key in self.live()}
        ready = next((trial for trial in self._again if trial.key.training not in live), None)
        if ready is not None:
            self._again.remove(ready)
            self._state(ready.key).live.add(ready.key)
            return ready
        without = 0
        while without < len(self._cells):
            state = self._cells[0]
            self._cells.rotate(-1)
            trial = self._next_of(state)
            if trial is None:
                without += 1
            elif trial.key.training in live:  # another arm's trial is trained by it now: one training serves both
                self._again.append(trial)
                without = 0
            else:
                state.live.add(trial.key)
                return trial
        return None

    @property
    def finished(self) -> bool:
        """Whether nothing is live and nothing is left for this launch."""
        return not self._again and all(state.is_over for state in self._cells)

    @property
    def halted(self) -> bool:
        """Whether a search is left for the next launch, since a trial of it failed for a cause of the machine."""
        return any(state.halted for state in self._cells)

    def again(self, trial: Trial) -> None:
        """Take back a live trial that another attempt will be made of: it is the next to be handed out."""
        self._state(trial.key).live.discard(trial.key)
        self._again.appendleft(trial)

    def awaits(self, training: str) -> bool:
        """Whether a trial waits for the end of this training, to take its result."""
        return any(trial.key.training == training for trial in self._again)

    def give_up(self, cell: Cell, reason: str) -> list[Trial]:
        """Hand out no trials of a cell, for nothing of it can run; returns confirm trials to record as failed, of
        the arm as it is written where its search would have had to choose. Its search may be tried later."""
        state = self._by_cell[cell]
        self.problems.append(f"{cell}: nothing of it was run: {reason}")
        trials = [self._trial(cell, "confirm", seed, {}) for seed in self._study.seeds]
        state.search, state.confirm, state.lost = None, deque(), deque()
        self._again = deque(trial for trial in self._again if self._state(trial.key) is not state)
        return [trial for trial in trials if trial.key not in self._done]

    def live(self) -> list[TrialKey]:
        return [key for state in self._cells for key in state.live]

    def report(self, key: TrialKey, epoch: int, value: float) -> bool:
        """Tell a live trial's value after an epoch; True when it should stop now. Only search trials stop early,
        and are compared with trials of their own cell only."""
        state = self._state(key)
        number = state.numbers[key][0] if key in state.numbers else state.unrecorded.get(key)
        if state.search is None or number is None:
            return False
        if state.search.report(number, epoch, value):
            self._early.add(key)
            return True
        return False

    def reached(self, key: TrialKey) -> int:
        """How many epochs of an unfinished trial the store had before this launch."""
        return self._reached.get(key, 0)

    def stopped_early(self, key: TrialKey) -> bool:
        return key in self._early

    def failed(self, key: TrialKey, kind: FailureKind, *, answers: bool) -> None:
        """Tell that a live trial failed, and this launch does not try it again.

        A search trial that failed by its settings `answers` its proposal. One that the machine failed does not: the
        next launch tries it again, and no other is proposed before, for proposals depend on the answers so far.
        """
        state = self._state(key)
        if answers or (key not in state.numbers and key not in state.unrecorded):
            self.ended(key, None)
            return
        state.live.discard(key)
        if state.numbers.pop(key, None) is not None and not state.halted:
            state.halted = True
            self.problems.append(
                f"{state.cell}: its search waits for a trial that failed by the machine's fault ({kind}): the next "
                "launch tries it again, and nothing is confirmed before"
            )

    def ended(self, key: TrialKey, value: float | None) -> None:
        """Tell how a live trial ended: with its value, or failed by its settings (None)."""
        state = self._state(key)
        state.live.discard(key)
        self._values[key] = value
        numbers = state.numbers.pop(key, None)
        state.done += 1 if numbers is None else len(numbers)
        for number in numbers or ():
            assert state.search is not None
            state.search.tell(number, value, stopped_early=key in self._early)

    def total(self) -> int:
        """Number of trials of the whole study."""
        searched = sum(self._study.search.trials for s in self._cells if s.search and self._study.search)
        return searched + len(self._cells) * len(self._study.seeds)

    def done(self) -> int:
        """How many of them have ended, failed ones and those of earlier launches included."""
        return sum(state.done for state in self._cells)

    def _state(self, key: TrialKey) -> _State:
        return self._by_cell[Cell(key.arm, key.language)]

    def _next_of(self, state: _State) -> Trial | None:
        if state.lost:
            return state.lost.popleft()
        if state.halted:
            return None
        trial = self._next_search(state) if state.search else None
        if trial is not None:
            return trial
        if state.confirm is None and (state.search is None or state.search.finished):
            state.confirm = self._decide(state)
        return state.confirm.popleft() if state.confirm else None

    def _next_search(self, state: _State) -> Trial | None:
        search, settings = state.search, self._study.search
        assert search is not None and settings is not None
        while (proposal := search.ask()) is not None:
            try:
                trial = self._trial(state.cell, "search", settings.seed, proposal.values)
            except ValidationError as error:
                shown = ", ".join(f"{path} = {value}" for path, value in proposal.values.items())
                self.notes.append(
                    f"{state.cell}: the search reached an impossible setting ({shown}): {error.errors()[0]['msg']}"
                )
                search.tell(proposal.number, None)
                state.done += 1
                continue
            if trial.key in self._done:  # a crash came between the run's end and Optuna's hearing of it
                done = self._done[trial.key]
                for epoch, value in self._history(done):
                    search.report(proposal.number, epoch, value)
                search.tell(proposal.number, done.best_valid_mrr, stopped_early=done.stopped_early)
                state.done += 1
                self.already_done += 1
            elif trial.key in self._values:  # the same proposal twice: one run answers both
                search.tell(proposal.number, self._values[trial.key], stopped_early=trial.key in self._early)
                state.done += 1
            elif trial.key in state.numbers:
                state.numbers[trial.key].append(proposal.number)
            else:
                state.numbers[trial.key] = [proposal.number]
                return trial
        return None

    def _decide(self, state: _State) -> deque[Trial]:
        values: dict[str, Any] | None = {} if state.search is None else state.search.best()
        if values is None:
            self.problems.append(f"{state.cell}: no search trial ran to its end, so there is nothing to confirm")
            return deque()
        trials = [self._trial(state.cell, "confirm", seed, values) for seed in self._study.seeds]
        self._on_confirm(state.cell, trials)
        self._without_lost_models([trial.key for trial in trials])
        missing = deque(trial for trial in trials if trial.key not in self._done)
        state.done += len(trials) - len(missing)
        self.already_done += len(trials) - len(missing)
        return missing

    def _without_lost_models(self, keys: list[TrialKey]) -> None:
        """Let a cell's best trial be trained again where its model is nowhere: it was to be kept when the study ends.

        Of several that are as good it is not known here which one that is.
        """
        values = {key: self._done[key].best_valid_mrr or 0.0 for key in keys if key in self._done}
        best = [key for key, value in values.items() if value == max(values.values())]
        if not any(self._done[key].has_model for key in best):
            for key in best:
                if not self._keeps_model(key):
                    self._reached[key] = self._done.pop(key).epochs

    def _trial(self, cell: Cell, phase: str, seed: int, values: dict[str, Any]) -> Trial:
        settings = with_values(arm_settings(self._study.arms[cell.arm]), values)
        languages = trial_languages(self._study.training_set(cell.language))
        config = TrialConfig.model_validate({**settings, **languages, "seed": seed})
        return Trial(TrialKey(cell.arm, cell.language, phase, seed, identity(config, self._content(config))), config)


def cells(study: StudyConfig) -> list[Cell]:
    """All cells of a study, languages within arms."""
    return [Cell(arm, language) for arm in study.arms for language in study.language_names]


def search_name(study: StudyConfig, cell: Cell, content: str) -> str:
    """Name of a cell's search in the store. It says all that the answers depend on besides the values searched:
    another arm, space (conditions included), seed or corpus is another search; more trials are the same one."""
    return f"{study.study}/{cell.arm}/{cell.language}/{definition(study, cell.arm, content, cell.language)}"


def definition(study: StudyConfig, arm: str, content: str, language: str) -> str:
    """Hash of what an arm means in this study: its settings, what is searched and how, the corpus and, where it is
    trained or tested on several languages, which. Trials of another definition say nothing of it. Languages, seeds
    and the number of search trials may grow within one."""
    space = study.space(arm)
    # The arm's own value of a setting says nothing where the setting is searched in every trial.
    always = [path for path, each in space.items() if not each.when]
    fixed = with_values(arm_settings(study.arms[arm]), dict.fromkeys(always))
    spaces = {path: values.model_dump(mode="json") for path, values in space.items()}
    rules = study.search.model_dump(mode="json", include={"seed", "early_stopping"}) if study.search and space else None
    several = study.training_set(language)
    languages = [] if several.is_language else [several.train, several.test]
    choices = {path: each.choices for path, each in space.items() if isinstance(each, Choices)}
    revised = revisions(arm_settings(study.arms[arm]), choices)
    text = json.dumps(
        [METHOD_VERSION, content, fixed, spaces, rules, *languages, *([revised] if revised else [])], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def planned_trials(study: StudyConfig) -> Iterator[tuple[str, str, str, str]]:
    """(arm, language, phase, what) of every trial of a study, for a look before it starts."""
    for cell in cells(study):
        space = study.space(cell.arm)
        if study.search is not None and space:
            shown = ", ".join(_shown(path, each) for path, each in space.items())
            yield cell.arm, cell.language, "search", f"{study.search.trials} trials over {shown}"
        seeds = study.seeds if len(study.seeds) <= _MOST_SEEDS else study.seeds[: _MOST_SEEDS - 1]
        for seed in seeds:
            yield cell.arm, cell.language, "confirm", f"seed {seed}"
        if more := study.seeds[len(seeds) :]:
            yield cell.arm, cell.language, "confirm", f"{len(more):,} more seeds to {more[-1]}"


def _shown(path: str, each: Range | Choices) -> str:
    """A searched setting for people, with its conditions."""
    conditions = [
        f"{other} is {' or '.join(value if isinstance(value, str) else json.dumps(value) for value in values)}"
        for other, values in (each.when or {}).items()
    ]
    return f"{path} (when {' and '.join(conditions)})" if conditions else path
