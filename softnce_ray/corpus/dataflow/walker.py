"""One walk over a snippet's syntax tree for all languages: it reads and binds names as the language's rules say.

Constructs become tasks on a stack of its own, so that a snippet may be nested as deep as it likes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from softnce_ray.corpus.dataflow.compiled import Compiled
from softnce_ray.corpus.dataflow.flow import Flow, Sources, State
from softnce_ray.corpus.dataflow.record import COMES_FROM, COMPUTED_FROM, EdgeKind
from softnce_ray.corpus.dataflow.rules import Level, Rule, Selector
from softnce_ray.corpus.dataflow.tree import FlatTree

Task = tuple[Callable[..., Any] | None, Any, Any]
"""(None, first, stop): walk the nodes from `first` to `stop`. Else call the first with the walker and the other two,
and do the tasks that it returns before all others."""

Handler = Callable[["Walker", int, Any], list[Task]]


class Walker:
    """Walks one tree. Afterwards `seen` holds the tokens that are occurrences, and `edges()` their relations."""

    def __init__(self, tree: FlatTree, source: bytes, language: Compiled, handlers: dict[type, Handler]) -> None:
        self.tree, self.source, self.language = tree, source, language
        self.flow = Flow()
        self.seen: set[int] = set()
        self.values: list[list[int]] = [[]]  # what is read by each of the assignments that the walk is inside of
        self.branches: list[State] = []
        self.functions = 0
        self._handlers = handlers
        self._came: list[tuple[int, Sources]] = []
        self._computed: list[tuple[int, list[int]]] = []
        self._name_tokens, self._names = self._all_names()

    def walk(self) -> None:
        kind, stop, actions = self.tree.kind, self.tree.stop, self.language.actions
        variables = self.language.variables
        other = len(actions)
        stack: list[Task] = [(None, 0, len(kind))]
        while stack:
            act, at, end = stack.pop()
            if act is not None:
                tasks = act(self, at, end)
                if tasks:
                    stack.extend(reversed(tasks))
                continue
            while at < end:
                number = kind[at]
                rule = actions[number] if number < other else None
                if rule is None:
                    at += 1
                elif number in variables:
                    self.read(at)
                    at = stop[at]
                else:
                    if stop[at] < end:
                        stack.append((None, stop[at], end))
                    stack.extend(reversed(self.tasks(at, rule)))
                    break

    def edges(self) -> set[tuple[int, int, EdgeKind]]:
        """(token, token that its value has to do with, how)."""
        found: set[tuple[int, int, EdgeKind]] = set()
        for token, sources in self._came:
            for source in self.flow.occurrences(sources):
                if source != token:
                    found.add((token, source, COMES_FROM))
        for token, read in self._computed:
            for source in read:
                if source != token:
                    found.add((token, source, COMPUTED_FROM))
        return found

    # Names

    def _all_names(self) -> tuple[list[int], list[str]]:
        tree, variables = self.tree, self.language.variables
        tokens, names = [], []
        for node, number in enumerate(tree.kind):
            if number in variables and tree.token_stop[node] > tree.token[node]:
                tokens.append(tree.token_stop[node] - 1)
                names.append(self.text(tree.token_stop[node] - 1))
        return tokens, names

    def names_within(self, node: int) -> list[str]:
        first = bisect_left(self._name_tokens, self.tree.token[node])
        last = bisect_left(self._name_tokens, self.tree.token_stop[node])
        return list(dict.fromkeys(self._names[first:last]))

    def text(self, token: int) -> str:
        start, end = self.tree.spans[token]
        return self.source[start:end].decode(errors="replace")

    def last_text(self, node: int) -> str:
        """The text of a node's last token."""
        return self.text(self.tree.token_stop[node] - 1) if self.tree.token_stop[node] else ""

    def source_of(self, node: int) -> bytes:
        """The text of a node from its first token to its last."""
        first, last = self.tree.token[node], self.tree.token_stop[node]
        return self.source[self.tree.spans[first][0] : self.tree.spans[last - 1][1]] if first < last else b""

    def is_name(self, node: int) -> bool:
        return self.tree.kind[node] in self.language.variables

    def read(self, node: int, called: bool = False) -> None:
        token = self.tree.token_stop[node] - 1
        if token < self.tree.token[node] or token in self.seen:
            return  # it has no character, or stands for two things at once
        name = self.text(token)
        sources = self.flow.sources(name)
        if self.flow.is_open(sources):
            if called or self.language.is_bound_only(self.tree.kind[node], name):
                return
            self.flow.define(name, token)
        self.seen.add(token)
        self._came.append((token, sources))
        self.values[-1].append(token)

    def define(self, node: int, sources: list[int], level: Level | None, updates: bool) -> None:
        """Bind a name to a value computed from `sources`, declared at `level`; `updates`: and from its old value."""
        token = self.tree.token_stop[node] - 1
        if token < self.tree.token[node]:
            return
        name = self.text(token)
        self.seen.add(token)
        if updates:
            self._came.append((token, self.flow.sources(name)))
        else:
            syntax = self.language.syntax
            if level is not None:
                self.flow.declare(name, in_function=level == "function", from_start=level == "function")
            elif syntax.assigning and not (syntax.only_new and self.flow.is_known(name)):
                self.flow.declare(name, in_function=syntax.assigning == "function", from_start=True)
        if sources:
            self._computed.append((token, sources))
        self.flow.define(name, token)
        self.values[-1].append(token)

    # Children

    def picks(self, node: int, *selectors: Selector | None) -> list[int]:
        """The children that any of `selectors` names."""
        found: list[int] = []
        for selector in selectors:
            if isinstance(selector, int):
                found += self.named(node)[selector : selector + 1]
            elif selector is not None:
                number = self.language.fields.get(selector, -1)
                found += [child for child in self.named(node) if self.tree.field[child] == number]
        return found

    def pick(self, node: int, selector: Selector | None) -> int | None:
        found = self.picks(node, selector)
        return found[0] if found else None

    def named(self, node: int) -> list[int]:
        anonymous, kind = self.language.anonymous, self.tree.kind
        return [child for child in self.tree.children(node) if kind[child] not in anonymous]

    def kind_of(self, node: int) -> str:
        return self.language.kind_names.get(self.tree.kind[node], "")

    # Tasks

    def visit(self, *nodes: int | None) -> list[Task]:
        return [(None, node, self.tree.stop[node]) for node in nodes if node is not None]

    def made_by(self, node: int, rule: Rule) -> list[Task]:
        return self._handlers[type(rule)](self, node, rule)

    def tasks(self, node: int, rule: Rule) -> list[Task]:
        """What `rule` makes of a node; a block ends what is declared in it."""
        found = self.made_by(node, rule)
        if self.tree.kind[node] in self.language.scopes:
            return [OPEN_SCOPE, *found, CLOSE_SCOPE]
        return found


def _open_scope(walk: Walker, _: object, __: object) -> None:
    walk.flow.open_scope(is_function=False)


def _close_scope(walk: Walker, _: object, __: object) -> None:
    walk.flow.close_scope()


def _collect(walk: Walker, _: object, __: object) -> None:
    walk.values.append([])


def _drop(walk: Walker, _: object, __: object) -> None:
    walk.values.pop()


OPEN_SCOPE: Task = (_open_scope, None, None)
CLOSE_SCOPE: Task = (_close_scope, None, None)
COLLECT: Task = (_collect, None, None)
"""From here on, what is read makes a value of its own."""
DROP: Task = (_drop, None, None)
"""What was read since `COLLECT` is no part of a value."""
