"""What to train next: every decision of a study, in plain Python.

A cell (arm × language or training set) is searched first where the study says so; as soon as its search has ended, its
best configuration is run anew on the study's seeds. Cells take turns, so that no slot waits while any has work. In a
joint search each proposal belongs to one cell of a group, and only the best cells are confirmed.

A study that asks for precision begins with its first seeds. Once all arms of a language have ended them, and every seed
added since, it is asked whether the language takes another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from pydantic import ValidationError

from softnce_ray.config import (
    Precision,
    StudyConfig,
    TrialConfig,
    arm_settings,
    identity,
    trial_languages,
    with_values,
)
from softnce_ray.config.study import FailureKind
from softnce_ray.results import KnownTrial, TrialKey
from softnce_ray.study.cells import Cell, CellState, Trial, cells, search_groups
from softnce_ray.study.problems import text_of
from softnce_ray.study.proposing import Proposes
from softnce_ray.study.rounds import Rounds, Standing


class Planner:
    """Hands out the trials of a study and learns how they end.

    Args:
      content: what a trial learns from, for its identity; a text stands for all trials.
      known: what the store holds; a finished trial is never handed out again.
      searches: a search for each cell that has one, or its share of a joint one.
      on_confirm: called once for each cell with its confirm trials, when they are decided; with those of seeds that may
        be added later.
      more_seeds: of a study that asks for precision, whether a language takes another seed. It is given each arm's
        confirm trials so far, which have all ended.
      history: epochs and validation values of a trial that the store has, for a search that does not know them.
      keeps_model: whether the model of a finished trial is kept anywhere.
      allows: whether a budget has room for trials of cells, see `left`, beside a number that have ended or run.
      ended: the budget ended the searches in an earlier launch: each cell has one search trial at least, and no more.
    """

    def __init__(
        self,
        study: StudyConfig,
        content: str | Callable[[TrialConfig], str],
        known: Mapping[TrialKey, KnownTrial],
        searches: Mapping[Cell, Proposes],
        on_confirm: Callable[[Cell, list[Trial]], None] = lambda cell, trials: None,
        *,
        more_seeds: Callable[[str, Mapping[str, Sequence[TrialKey]]], bool] | None = None,
        history: Callable[[KnownTrial], Iterable[tuple[int, float]]] = lambda trial: (),
        keeps_model: Callable[[TrialKey], bool] = lambda key: True,
        allows: Callable[[list[tuple[Cell, int, int]], int], bool] | None = None,
        ended: bool = False,
    ) -> None:
        self._study, self._on_confirm, self._history, self._keeps_model = study, on_confirm, history, keeps_model
        self._more_seeds = more_seeds
        self._content = content if callable(content) else lambda config: content
        self._done = {key: trial for key, trial in known.items() if trial.status == "FINISHED"}
        self._reached = {key: trial.epochs for key, trial in known.items() if trial.status != "FINISHED"}
        self._cells = deque(CellState(cell, searches.get(cell)) for cell in cells(study))
        self._by_cell = {state.cell: state for state in self._cells}
        groups = [[self._by_cell[cell] for cell in group] for group in search_groups(study)]
        self._all_groups, self._groups = groups, {state.cell: group for group in groups for state in group}
        self._growing = list(study.language_names) if isinstance(study.seeds, Precision) else []
        self._rounds = Rounds(allows, ended=ended)
        self._again: deque[Trial] = deque()
        self._early: set[TrialKey] = set()
        self._values: dict[TrialKey, float | None] = {}  # of trials that ended in this launch
        self.already_done = 0
        for state in self._cells:
            if state.search:
                self._look_up(state, state.search.answers(), set(known))
        self.problems: list[str] = []
        self.notes: list[str] = []

    def _look_up(self, state: CellState, answers: Sequence[Any], known: Set[TrialKey]) -> None:
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
        trial = self._next_in_turn(live)
        while trial is None and self._grow():
            trial = self._next_in_turn(live)
        return trial

    def _next_in_turn(self, live: Set[str]) -> Trial | None:
        without = 0
        while without < len(self._cells):
            state = self._cells[0]
            self._cells.rotate(-1)
            begun = state.begun
            trial = self._next_of(state)
            if trial is None:  # where proposals were answered on the way, the next one may be that of any other cell
                without = without + 1 if state.begun == begun else 0
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
        if self._again or not all(state.is_over for state in self._cells):
            return False
        return all(any(state.halted for state in self._of(language)) for language in self._growing)

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
        seeds = [trial.key.seed for trial in state.asked] or self._study.first_seeds
        trials = state.asked = [self._trial(cell, "confirm", seed, {}) for seed in seeds]
        if state.confirm is None:
            state.searched = state.done
        state.done = state.searched + len(trials)
        state.search, state.confirm, state.lost, state.later, state.given_up = None, deque(), deque(), deque(), True
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
            for each in self._groups[state.cell]:  # a joint search waits as a whole
                each.halted = True
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
        """Number of trials of the whole study, as far as its seeds and rounds are decided."""
        searched = sum(self._rounds.at_most(each.searches, each.begun) for each in self._standings())
        searched += sum(state.searched for state in self._cells if state.given_up)
        return searched + sum(map(self._confirmations, self._all_groups))

    def left(self) -> list[tuple[Cell, int, int]]:
        """Return the search and confirm trials of each cell that are still to be handed out."""
        return self._rounds.left(self._standings())

    def left_out(self) -> list[int]:
        """Return how many trials each search had where the budget ended it; none where it ended no search."""
        return [each.begun for each in self._standings() if each.searches] if self._rounds.closed else []

    def _confirmations(self, group: Sequence[CellState], *, left: bool = False) -> int:
        """Return the number of confirm trials of cells that are searched together, all or those that are left."""
        count, undecided = 0, []
        for state in group:
            if state.confirm is None:
                undecided.append(state)
            else:
                count += len(state.confirm) if left else len(state.asked)
        if len(group) > 1 and len(undecided) == len(group) and not self._is_searched(group):
            return self._study.confirmed_cells // self._study.searches * len(self._study.first_seeds)
        chosen = [each for each in undecided if len(group) == 1 or (each.search and each.search.is_confirmed)]
        return count + len(chosen) * len(self._study.first_seeds)

    def _is_searched(self, group: Sequence[CellState]) -> bool:
        return all(state.search is None or state.search.finished for state in group)

    def _standings(self) -> list[Standing[Cell]]:
        later = len(self._study.possible_seeds) - len(self._study.first_seeds)
        found = []
        for group in self._all_groups:
            halted = any(state.halted for state in group)
            is_over = halted or all(state.confirm is not None for state in group)
            undecided = sum(state.confirm is None for state in group)
            found.append(
                Standing(
                    group[0].cell,
                    self._study.search.trials if group[0].search and self._study.search else 0,
                    sum(state.begun for state in group),
                    sum(len(state.lost) for state in group) if is_over else None,
                    0 if halted else self._confirmations(group, left=True),
                    later * undecided + sum(len(state.later) for state in group),
                )
            )
        return found

    def _may_search(self, state: CellState) -> bool:
        begun = sum(each.begun for each in self._groups[state.cell])
        return self._rounds.allow(begun, self._standings, self.done() + len(self.live()))

    def _has_searched(self, state: CellState) -> bool:
        if state.search is None or state.search.finished:
            return True
        group = self._groups[state.cell]
        return self._rounds.over(sum(each.begun for each in group)) and not any(
            each.live or each.numbers for each in group
        )

    def done(self) -> int:
        return sum(state.done for state in self._cells)

    def _state(self, key: TrialKey) -> CellState:
        return self._by_cell[Cell(key.arm, key.language)]

    def _next_of(self, state: CellState) -> Trial | None:
        if state.lost:
            return state.lost.popleft()
        if state.halted:
            return None
        if state.confirm is None:
            trial = self._next_search(state) if state.search else None
            if trial is not None or not self._has_searched(state):
                return trial
            state.searched = state.done
            state.confirm = self._decide(state)
        return state.confirm.popleft() if state.confirm else None

    def _next_search(self, state: CellState) -> Trial | None:
        search, settings = state.search, self._study.search
        assert search is not None and settings is not None
        while self._may_search(state) and (proposal := search.ask()) is not None:
            try:
                trial = self._trial(state.cell, "search", settings.seed, proposal.values)
            except ValidationError as error:
                first = error.errors()[0]
                shown = ", ".join(f"{path} = {value}" for path, value in proposal.values.items())
                self.notes.append(
                    f"{state.cell}: the search reached an impossible setting ({shown}): {text_of(first, first['loc'])}"
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

    def _decide(self, state: CellState) -> deque[Trial]:
        if state.search is not None and not state.search.is_confirmed:
            self._on_confirm(state.cell, [])
            return deque()
        values: dict[str, Any] | None = {} if state.search is None else state.search.best()
        if values is None:
            self.problems.append(f"{state.cell}: no search trial ran to its end, so there is nothing to confirm")
            return deque()
        trials = [self._trial(state.cell, "confirm", seed, values) for seed in self._study.possible_seeds]
        self._on_confirm(state.cell, trials)
        first = len(self._study.first_seeds)
        state.later.extend(trials[first:])
        if not state.later:  # else the best one is known when no seed is added any more
            self._forget_lost_models(trials)
        return self._ask(state, trials[:first])

    def _ask(self, state: CellState, trials: Sequence[Trial]) -> deque[Trial]:
        """Make trials part of the study; returns those of them that have not finished."""
        missing = deque(trial for trial in trials if trial.key not in self._done)
        state.asked += trials
        state.done += len(trials) - len(missing)
        self.already_done += len(trials) - len(missing)
        return missing

    def _of(self, language: str) -> list[CellState]:
        return [state for state in self._cells if state.cell.language == language]

    def _grow(self) -> bool:
        """Add a seed to each language whose trials have all ended and that takes another one; returns whether there are
        trials to hand out now."""
        grown = False
        for language in list(self._growing):
            states = self._of(language)
            if not all(state.is_over and not state.halted for state in states):
                continue
            asked = {state.cell.arm: [trial.key for trial in state.asked] for state in states if state.asked}
            more = self._more_seeds is not None and self._more_seeds(language, asked)
            if growing := [state for state in states if more and state.later]:
                for state in growing:
                    state.confirm = self._ask(state, [state.later.popleft()])
                grown = True
                continue
            self._growing.remove(language)
            for state in [each for each in states if not each.given_up]:
                state.confirm = self._forget_lost_models(state.asked)
                state.done -= len(state.confirm)
                self.already_done -= len(state.confirm)
                grown |= bool(state.confirm)
        return grown

    def _forget_lost_models(self, trials: Sequence[Trial]) -> deque[Trial]:
        """Let a cell's best trial be trained again where its model is nowhere: it was to be kept when the study ends;
        returns it.

        Of several that are as good it is not known here which one that is.
        """
        keys = [trial.key for trial in trials]
        values = {key: self._done[key].best_valid_mrr or 0.0 for key in keys if key in self._done}
        values |= {key: self._values[key] or 0.0 for key in keys if key in self._values}
        best = [key for key, value in values.items() if value == max(values.values())]
        if any(key not in self._done or self._done[key].has_model for key in best):
            return deque()
        lost = [key for key in best if not self._keeps_model(key)]
        for key in lost:
            self._reached[key] = self._done.pop(key).epochs
        return deque(trial for trial in trials if trial.key in lost)

    def _trial(self, cell: Cell, phase: str, seed: int, values: dict[str, Any]) -> Trial:
        settings = with_values(arm_settings(self._study.arms[cell.arm]), values)
        languages = trial_languages(self._study.training_set(cell.language))
        config = TrialConfig.model_validate({**settings, **languages, "seed": seed})
        return Trial(TrialKey(cell.arm, cell.language, phase, seed, identity(config, self._content(config))), config)
