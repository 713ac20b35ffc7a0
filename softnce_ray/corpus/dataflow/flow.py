"""Which occurrences of a variable can have given it its value, at the place where a walk over the program is.

Straight code replaces, branches are walked one after another from the same beginning and merged, and a loop is
walked once: at its head every name that occurs in it stands for a *join*, of what is known before the loop and of
what is known where its body ends, which is added then. So no loop is walked twice, however deep they are nested.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from softnce_ray.corpus.dataflow.rules import Jumps

Sources = frozenset[int]
"""Occurrences by the number of their token (0 and up), and joins (-1 and down)."""

NOTHING: Sources = frozenset()


@dataclass(slots=True)
class State:
    """What each name's value can come from; `dead`: no run of the program gets here."""

    names: dict[str, Sources]
    dead: bool = False

    def copy(self) -> State:
        return State(self.names.copy(), self.dead)


def merged(states: Iterable[State]) -> State:
    """What is known where several ways meet. Dead ways count only where all are dead."""
    given = list(states)
    ways = [state for state in given if not state.dead] or given
    result = ways[0].names.copy()
    for other in ways[1:]:
        if other.names is result:
            continue
        for name, sources in other.names.items():
            own = result.get(name)
            if own is None:
                result[name] = sources
            elif own is not sources and own != sources:
                result[name] = own | sources
    return State(result, ways[0].dead)


@dataclass(slots=True)
class Scope:
    """Names declared inside, with what they stood for outside (None: nothing)."""

    opened: dict[str, Sources]
    is_function: bool = False
    saved: dict[str, Sources | None] = field(default_factory=dict)
    of_outside: set[str] = field(default_factory=set)
    outside: State | None = None  # of a function that does not see it


@dataclass(slots=True)
class Frame:
    """Something that jumps lead out of, or in a loop's case back into."""

    accepts: frozenset[Jumps]
    is_wall: bool = False  # no jump goes past a function
    is_switch: bool = False
    joins: dict[str, int] = field(default_factory=dict)
    left: list[State] = field(default_factory=list)
    again: list[State] = field(default_factory=list)
    before: State | None = None
    subject: list[int] = field(default_factory=list)


class Flow:
    """The state of a walk, with all scopes and frames that it is in."""

    def __init__(self) -> None:
        self.state = State({})
        self.around: list[Scope | Frame] = []
        self._join_sources: list[set[int]] = []
        self._join_open: list[bool] = []
        self._resolved: dict[Sources, Sources] = {}

    def sources(self, name: str) -> Sources:
        return self.state.names.get(name, NOTHING)

    def is_open(self, sources: Sources) -> bool:
        """Whether nothing before has bound this: no occurrence, only joins of loops that began without one."""
        return all(source < 0 and self._join_open[-1 - source] for source in sources)

    def is_known(self, name: str) -> bool:
        return not self.is_open(self.sources(name))

    def define(self, name: str, token: int) -> None:
        self.state.names[name] = frozenset((token,))

    def declare(self, name: str, *, in_function: bool, from_start: bool) -> None:
        """From here to the end of the innermost block (or function) the name is another variable.

        `from_start`: it has been that since the block or function began.
        """
        for scope in reversed(self.around):
            if isinstance(scope, Scope) and (scope.is_function or not in_function):
                if name not in scope.of_outside and name not in scope.saved:
                    scope.saved[name] = (scope.opened if from_start else self.state.names).get(name)
                return

    def open_scope(self, *, is_function: bool) -> Scope:
        scope = Scope(self.state.names.copy(), is_function)
        self.around.append(scope)
        return scope

    def isolate(self, scope: Scope, kept: set[str]) -> None:
        """Inside `scope` only the names of `kept` are known, and only those of `of_outside` get out again."""
        scope.outside = self.state
        self.state = State({name: sources for name, sources in self.state.names.items() if name in kept})

    def close_scope(self) -> None:
        scope = self.around.pop()
        assert isinstance(scope, Scope)
        self.state = _outside(self.state, scope)

    def jump(self, to: Jumps) -> None:
        """Leave for the innermost frame that takes such jumps; what follows is dead."""
        state = self.state.copy()
        for item in reversed(self.around):
            if isinstance(item, Scope):
                state = _outside(state, item)
            elif to in item.accepts:
                if not state.dead:
                    (item.again if to in ("continue", "return") else item.left).append(state)
                break
            elif item.is_wall:
                break
        self.state.dead = True

    def open_loop(self, frame: Frame, names: Iterable[str]) -> None:
        """Enter a loop in which `names` occur."""
        self.around.append(frame)
        known = self.state.names
        for name in names:
            entry = known.get(name, NOTHING)
            self._join_open.append(self.is_open(entry))
            self._join_sources.append(set(entry))
            join = -len(self._join_sources)
            frame.joins[name] = join
            known[name] = frozenset((join,))

    def feed_back(self, frame: Frame, state: State) -> None:
        """From `state` the loop begins again."""
        if not state.dead:
            for name, join in frame.joins.items():
                sources = state.names.get(name, NOTHING)
                self._join_sources[-1 - join] |= sources
                if not self.is_open(sources):
                    self._join_open[-1 - join] = False

    def occurrences(self, sources: Sources) -> Sources:
        """The occurrences among `sources` and behind its joins; asked when the walk is over."""
        if all(source >= 0 for source in sources):
            return sources
        if sources not in self._resolved:
            seen: set[int] = set()
            waiting = list(sources)
            while waiting:
                source = waiting.pop()
                if source not in seen:
                    seen.add(source)
                    if source < 0:
                        waiting += self._join_sources[-1 - source]
            self._resolved[sources] = frozenset(source for source in seen if source >= 0)
        return self._resolved[sources]


def _outside(state: State, scope: Scope) -> State:
    """`state` as it is seen outside of `scope`."""
    names = state.names
    if scope.outside is not None:
        names = scope.outside.names.copy()
        for name in scope.of_outside:
            names[name] = names.get(name, NOTHING) | state.names.get(name, NOTHING)
    else:
        if scope.saved:
            names = names.copy()
        for name, sources in scope.saved.items():
            if sources is None:
                names.pop(name, None)
            else:
                names[name] = sources
    return State(names, state.dead)
