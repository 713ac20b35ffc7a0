"""One search over all arms: which of them, which training set, and the settings that each has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from softnce_ray.config import Choices, SearchSpace, StudyConfig
from softnce_ray.config.search import ARM, LANGUAGES
from softnce_ray.study.cells import Cell
from softnce_ray.study.definitions import definition
from softnce_ray.study.samplers import Distribution, Storage, choice_of
from softnce_ray.study.search import Answer, OptunaSearch, Proposal, distributions_of

JOINT = "*"
"""Stands in names of searches for the arm, or the language, of a search over all of them."""


def joint_space(study: StudyConfig, languages: Sequence[str]) -> tuple[SearchSpace, dict[str, Distribution]]:
    """Return what a joint search of these languages, or training sets, searches, and Optuna's form of it.

    A setting that several arms search alike is one, whatever the arm; what an arm searches in its own way is searched
    under its name (``soft_bm25/loss.alpha``), where the arm is the one.
    """
    arms = {name: study.space(name) for name in study.arms}
    forms = {name: distributions_of(study.arms[name], space) for name, space in arms.items()}
    having: dict[str, list[str]] = {}
    for name, own in arms.items():
        for path in own:
            having.setdefault(path, []).append(name)
    alike = {path for path, names in having.items() if len({_form(arms[n], forms[n], path) for n in names}) == 1}
    while broken := {path for path in alike if any(o not in alike for o in arms[having[path][0]][path].when or ())}:
        alike -= broken

    space: SearchSpace = {}
    found: dict[str, Distribution] = {}
    for key, values in ((ARM, tuple(study.arms)), (LANGUAGES, tuple(languages))):
        if len(values) > 1:
            space[key] = Choices(choices=values)
            found[key] = choice_of(values)
    for name in study.arms:
        for path, each in arms[name].items():
            is_own = path not in alike
            key = f"{name}/{path}" if is_own else path
            if key in space:
                continue
            of = [name] if is_own else having[path]
            when: dict[str, Any] = {ARM: tuple(of)} if len(of) < len(study.arms) else {}
            when |= {o if o in alike else f"{name}/{o}": values for o, values in (each.when or {}).items()}
            space[key] = each.model_copy(update={"when": when or None})
            found[key] = forms[name][path]
    return space, found


def _form(space: SearchSpace, forms: Mapping[str, Distribution], path: str) -> str:
    return json.dumps([repr(forms[path]), space[path].model_dump(mode="json")], sort_keys=True)


def joint_name(study: StudyConfig, languages: Sequence[str], contents: Mapping[Cell, str]) -> str:
    """Name of a joint search in the store. It says all that the answers depend on besides the values searched."""
    meanings = [
        [arm, language, definition(study, arm, contents[Cell(arm, language)], language)]
        for arm in study.arms
        for language in languages
    ]
    digest = hashlib.sha256(json.dumps(meanings).encode()).hexdigest()[:16]
    language = languages[0] if len(languages) == 1 else JOINT
    return f"{study.study}/{JOINT}/{language}/{digest}"


class JointSearch:
    """A search whose proposals belong to different cells. Each cell asks for its `share`."""

    def __init__(self, storage: Storage, name: str, study: StudyConfig, languages: Sequence[str]) -> None:
        """Open the search of these languages, or training sets, or begin it."""
        settings = study.search
        assert settings is not None
        space, found = joint_space(study, languages)
        self._arms, self._languages, self._baseline = tuple(study.arms), tuple(languages), study.baseline
        self._confirmed, self._spaces = settings.confirmed, {arm: study.space(arm) for arm in study.arms}
        least = settings.least_of_baseline if len(study.arms) > 1 else 0
        self._search = OptunaSearch(
            storage,
            name,
            space,
            found,
            settings,
            start=[self._named(arm, point, space) for arm in study.arms for point in study.start_points(arm)],
            at_least=({ARM: study.baseline}, least),
        )
        self._next: Proposal | None = None

    def share(self, cell: Cell) -> Share:
        """Return a cell's share."""
        return Share(self, cell)

    @property
    def finished(self) -> bool:
        return self._search.finished

    def ask(self, cell: Cell) -> Proposal | None:
        """Return the next proposal if it is one of a cell, and None if it is another's, or there is none."""
        if self._next is None:
            self._next = self._search.ask()
        if self._next is None or self.cell_of(self._next.values) != cell:
            return None
        proposal, self._next = self._next, None
        return Proposal(proposal.number, self.own(proposal.values))

    def answers(self, cell: Cell) -> list[Answer]:
        """Return the answered proposals of a cell."""
        return [
            Answer(Proposal(each.proposal.number, self.own(each.proposal.values)), each.failed)
            for each in self._search.answers()
            if self.cell_of(each.proposal.values) == cell
        ]

    def report(self, number: int, epoch: int, value: float) -> bool:
        return self._search.report(number, epoch, value)

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None:
        self._search.tell(number, value, stopped_early=stopped_early)

    def chosen(self) -> dict[Cell, dict[str, Any]]:
        """Return the cells that are confirmed, with their values: the best trials of different arms, and the baseline
        in each of their training sets.

        In a training set that the baseline was not tried in, it has its best values of another; if it has none, its
        settings are as they are written.
        """
        best: dict[str, tuple[Cell, dict[str, Any]]] = {}
        of_baseline: dict[Cell, dict[str, Any]] = {}
        for values in self._search.ranking():
            cell = self.cell_of(values)
            if cell.arm != self._baseline:
                best.setdefault(cell.arm, (cell, self.own(values)))
            else:
                of_baseline.setdefault(cell, self.own(values))
        found = dict(list(best.values())[: self._confirmed])
        anywhere = next(iter(of_baseline.values()), {})
        languages = {cell.language for cell in found} or {cell.language for cell in list(of_baseline)[:1]}
        for language in languages:
            cell = Cell(self._baseline, language)
            found[cell] = of_baseline.get(cell, anywhere)
        return found

    def cell_of(self, values: Mapping[str, Any]) -> Cell:
        """Return the cell that a proposal belongs to."""
        return Cell(values.get(ARM, self._arms[0]), values.get(LANGUAGES, self._languages[0]))

    @staticmethod
    def own(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a proposal, by dotted path."""
        return {key.rpartition("/")[2]: value for key, value in values.items() if key not in (ARM, LANGUAGES)}

    def _named(self, arm: str, point: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
        """Return a point of an arm under the names that the settings have here."""
        whole = {ARM: arm, **point} if len(self._arms) > 1 else point
        return {key if key in space else f"{arm}/{key}": value for key, value in whole.items()}


class Share:
    """What a cell has of a joint search."""

    def __init__(self, joint: JointSearch, cell: Cell) -> None:
        self._joint, self._cell = joint, cell

    @property
    def finished(self) -> bool:
        return self._joint.finished

    @property
    def is_confirmed(self) -> bool:
        return self._cell in self._joint.chosen()

    def answers(self) -> list[Answer]:
        return self._joint.answers(self._cell)

    def ask(self) -> Proposal | None:
        return self._joint.ask(self._cell)

    def report(self, number: int, epoch: int, value: float) -> bool:
        return self._joint.report(number, epoch, value)

    def tell(self, number: int, value: float | None, *, stopped_early: bool = False) -> None:
        self._joint.tell(number, value, stopped_early=stopped_early)

    def best(self) -> dict[str, Any] | None:
        return self._joint.chosen().get(self._cell)
