"""How control flows: branches, loops, switches, handlers, functions and the jumps out of them."""

from __future__ import annotations

from softnce_ray.corpus.dataflow.bindings import bind
from softnce_ray.corpus.dataflow.flow import Frame, State, merged
from softnce_ray.corpus.dataflow.rules import (
    Comprehension,
    Each,
    Either,
    Function,
    If,
    Jump,
    Jumps,
    Level,
    Loop,
    Switch,
    Try,
)
from softnce_ray.corpus.dataflow.walker import CLOSE_SCOPE, COLLECT, DROP, OPEN_SCOPE, Task, Walker

_LEAVES_LOOP: frozenset[Jumps] = frozenset({"break", "continue"})
_LEAVES_SWITCH: frozenset[Jumps] = frozenset({"break"})
_LEAVES_FUNCTION: frozenset[Jumps] = frozenset({"return"})
_LEAVES_TRY: frozenset[Jumps] = frozenset({"raise"})


# Branches


def branch(walk: Walker, node: int, rule: If) -> list[Task]:
    tasks = walk.visit(*walk.picks(node, *rule.before))
    clauses = [node]
    last: list[int] = []
    for other in walk.picks(node, rule.otherwise):
        (clauses if walk.kind_of(other) in rule.chained else last).append(other)
    for clause in clauses:
        tasks += [
            *walk.visit(walk.pick(clause, rule.condition)),
            (_fork, None, None),
            *walk.visit(*walk.picks(clause, rule.then)),
            (_other_branch, None, None),
        ]
    return [*tasks, *walk.visit(*last), *[(_join, None, None)] * len(clauses)]


def _fork(walk: Walker, _: object, __: object) -> None:
    walk.branches.append(walk.flow.state.copy())


def _other_branch(walk: Walker, _: object, __: object) -> None:
    walk.branches[-1], walk.flow.state = walk.flow.state, walk.branches[-1]


def _join(walk: Walker, _: object, __: object) -> None:
    walk.flow.state = merged([walk.branches.pop(), walk.flow.state])


def either(walk: Walker, node: int, rule: Either) -> list[Task]:
    kinds = {walk.kind_of(child) for child in walk.named(node)}
    return walk.made_by(node, next((case for kind, case in rule.cases if kind in kinds), rule.otherwise))


# Loops


def loop(walk: Walker, node: int, rule: Loop) -> list[Task]:
    holder = _inside(walk, node, rule.inside)
    body = walk.pick(node, rule.body)
    condition = [child for child in walk.picks(holder, rule.condition) if child != body]
    frame = Frame(_LEAVES_LOOP)
    tests, runs = walk.visit(*condition), walk.visit(body)
    again: Task = (_begin_again, frame, None)
    start: list[Task] = [*walk.visit(*walk.picks(holder, *rule.before)), (_open_loop, frame, node)]
    if rule.tests_last:
        return [*start, *runs, again, *tests, (_close_loop, frame, True), (_leave_loop, frame, None)]
    return [
        *start,
        *tests,
        (_may_end, frame, bool(condition)),
        *runs,
        again,
        *walk.visit(*walk.picks(holder, *rule.after)),
        (_close_loop, frame, False),
        *walk.visit(*walk.picks(node, rule.otherwise)),
        (_leave_loop, frame, None),
    ]


def each(walk: Walker, node: int, rule: Each) -> list[Task]:
    holder = _inside(walk, node, rule.inside)
    frame = Frame(_LEAVES_LOOP)
    declares = not rule.declares_if or any(
        walk.language.kind_names.get(walk.tree.kind[child]) in rule.declares_if for child in walk.tree.children(holder)
    )
    return [
        COLLECT,
        *walk.visit(walk.pick(holder, rule.source)),
        (_open_loop, frame, node),
        (_may_end, frame, True),
        *([OPEN_SCOPE] if rule.level else []),
        (_bind_element, walk.pick(holder, rule.target), rule.level if declares else None),
        *walk.visit(walk.pick(node, rule.body)),
        *([CLOSE_SCOPE] if rule.level else []),
        (_begin_again, frame, None),
        (_close_loop, frame, False),
        *walk.visit(*walk.picks(node, rule.otherwise)),
        (_leave_loop, frame, None),
    ]


def _inside(walk: Walker, node: int, kind: str | None) -> int:
    return next((child for child in walk.named(node) if walk.kind_of(child) == kind), node) if kind else node


def _bind_element(walk: Walker, target: int | None, level: Level | None) -> list[Task]:
    sources = walk.values.pop()
    walk.values[-1] += sources
    return [] if target is None else [(bind, target, (sources, level, False))]


def _open_loop(walk: Walker, frame: Frame, node: int) -> None:
    walk.flow.open_loop(frame, walk.names_within(node))


def _may_end(walk: Walker, frame: Frame, may: bool) -> None:
    if may:
        frame.before = walk.flow.state.copy()


def _begin_again(walk: Walker, frame: Frame, _: object) -> None:
    walk.flow.state = merged([walk.flow.state, *frame.again])
    frame.again.clear()


def _close_loop(walk: Walker, frame: Frame, tested_last: bool) -> None:
    walk.flow.feed_back(frame, walk.flow.state)
    walk.flow.around.pop()
    if not tested_last:
        walk.flow.state = frame.before or State(walk.flow.state.names, dead=True)


def _leave_loop(walk: Walker, frame: Frame, _: object) -> None:
    walk.flow.state = merged([walk.flow.state, *frame.left])


# Switches


def switch(walk: Walker, node: int, rule: Switch) -> list[Task]:
    frame = Frame(_LEAVES_SWITCH if rule.breaks else frozenset(), is_switch=True)
    tasks: list[Task] = [
        *walk.visit(*walk.picks(node, *rule.before)),
        COLLECT,
        *walk.visit(walk.pick(node, rule.subject)),
        (_set_subject, frame, walk.pick(node, rule.alias)),
        (_open_switch, frame, None),
    ]
    holder = walk.pick(node, "body") if "body" in walk.language.fields else None
    cases = [child for child in walk.named(node if holder is None else holder) if walk.kind_of(child) in rule.cases]
    for case in cases:
        falls = walk.kind_of(case) in rule.falls_through
        tasks += [(_open_case, frame, falls), *walk.visit(case), (_close_case, frame, falls)]
    has_default = any(_is_default(walk, case, rule.defaults) for case in cases)
    return [*tasks, (_close_switch, frame, has_default)]


def _is_default(walk: Walker, case: int, defaults: tuple[str, ...]) -> bool:
    names, kind = walk.language.kind_names, walk.tree.kind
    near = [case, *walk.tree.children(case)]
    near += [below for child in near[1:] for below in walk.tree.children(child)[:2]]
    return any(names.get(kind[node]) in defaults for node in near)


def _set_subject(walk: Walker, frame: Frame, alias: int | None) -> list[Task]:
    frame.subject = walk.values.pop()
    walk.values[-1] += frame.subject
    return [] if alias is None else [(bind, alias, (frame.subject, "block", False))]


def _open_switch(walk: Walker, frame: Frame, _: object) -> None:
    frame.before = walk.flow.state.copy()
    walk.flow.state.dead = True
    walk.flow.around.append(frame)


def _open_case(walk: Walker, frame: Frame, falls_through: bool) -> None:
    assert frame.before is not None
    walk.flow.state = merged([walk.flow.state, frame.before]) if falls_through else frame.before.copy()


def _close_case(walk: Walker, frame: Frame, falls_through: bool) -> None:
    if not falls_through:
        frame.left.append(walk.flow.state)
        walk.flow.state = State(walk.flow.state.names.copy(), dead=True)


def _close_switch(walk: Walker, frame: Frame, has_default: bool) -> None:
    assert frame.before is not None
    walk.flow.around.pop()
    ways = [*frame.left, walk.flow.state]
    walk.flow.state = merged(ways if has_default else [*ways, frame.before])


# Handlers


def attempt(walk: Walker, node: int, rule: Try) -> list[Task]:
    before = walk.picks(node, *rule.before)
    parts: dict[str, list[int]] = {"body": [], "otherwise": [], "handlers": [], "final": []}
    for child in walk.named(node):
        kind = walk.kind_of(child)
        if child not in before:
            place = next((name for name in ("handlers", "otherwise", "final") if kind in getattr(rule, name)), "body")
            parts[place].append(child)
    if not parts["handlers"] and not parts["final"]:
        return walk.visit(*walk.named(node))
    frame, ways = Frame(_LEAVES_TRY), Frame(frozenset())
    way: Task = (_end_way, ways, None)
    tasks: list[Task] = [
        *walk.visit(*before),
        (_open_try, frame, None),
        *walk.visit(*parts["body"]),
        (_close_try, frame, None),
        *walk.visit(*parts["otherwise"]),
        way,
    ]
    for handler in parts["handlers"]:
        tasks += [(_open_handler, frame, None), *walk.visit(handler), way]
    return [*tasks, (_open_final, ways, None), *walk.visit(*parts["final"]), (_close_final, ways, None)]


def _open_try(walk: Walker, frame: Frame, _: object) -> None:
    frame.before = walk.flow.state.copy()
    walk.flow.around.append(frame)


def _close_try(walk: Walker, frame: Frame, _: object) -> None:
    """A handler may be reached from anywhere in the body: from its beginning, its end and what it raises itself."""
    assert frame.before is not None
    walk.flow.around.pop()
    anywhere = [State(state.names) for state in (frame.before, walk.flow.state, *frame.left)]
    frame.before = State(merged(anywhere).names, frame.before.dead)


def _open_handler(walk: Walker, frame: Frame, _: object) -> None:
    assert frame.before is not None
    walk.flow.state = frame.before.copy()


def _end_way(walk: Walker, ways: Frame, _: object) -> None:
    ways.left.append(walk.flow.state)
    walk.flow.state = State(walk.flow.state.names.copy(), dead=True)


def _open_final(walk: Walker, ways: Frame, _: object) -> None:
    """What comes last is done on all ways, also on those that lead out."""
    ways.before = merged([State(state.names) for state in ways.left])
    walk.flow.state = ways.before.copy()


def _close_final(walk: Walker, ways: Frame, _: object) -> None:
    """Behind it, what it did not change is known from the ways that do not lead out."""
    assert ways.before is not None
    after = merged(ways.left)
    for name, sources in walk.flow.state.names.items():
        if sources is not ways.before.names.get(name):
            after.names[name] = sources
    after.dead |= walk.flow.state.dead
    walk.flow.state = after


# Functions


def function(walk: Walker, node: int, rule: Function) -> list[Task]:
    body = walk.pick(node, rule.body)
    shared = _inside(walk, node, rule.shares) if rule.shares else node
    frame = Frame(_LEAVES_LOOP if rule.is_block else _LEAVES_FUNCTION, is_wall=not rule.is_block)
    runs = walk.visit(body)
    if body is not None and walk.kind_of(body) in rule.opaque_bodies:
        runs = [COLLECT, *runs, DROP]
    return [
        *(walk.visit(shared) if shared != node else []),
        (_enter, (frame, node), rule),
        COLLECT,
        *[(bind, parameter, ([], "function", False)) for parameter in walk.picks(node, *rule.parameters)],
        DROP,
        *runs,
        CLOSE_SCOPE,
        (_leave, frame, rule),
    ]


def _enter(walk: Walker, place: tuple[Frame, int], rule: Function) -> None:
    frame, node = place
    flow = walk.flow
    if (walk.functions or rule.is_block) and not rule.isolated:
        flow.open_loop(frame, walk.names_within(node))
    else:
        flow.around.append(frame)
    frame.before = flow.state.copy()
    walk.functions += not rule.is_block
    scope = flow.open_scope(is_function=True)
    if rule.isolated:
        shared = _inside(walk, node, rule.shares) if rule.shares else node
        listed = walk.named(shared) if shared != node else []
        references = [child for child in listed if walk.kind_of(child) == rule.references]
        survivors = {name for name in flow.state.names if name[0] in walk.language.syntax.survives}
        scope.of_outside = survivors | {walk.last_text(child) for child in references}
        flow.isolate(scope, scope.of_outside | {walk.last_text(child) for child in listed})


def _leave(walk: Walker, frame: Frame, rule: Function) -> None:
    """After a closure everything is as before it, and as where it ends: it may have run."""
    flow = walk.flow
    walk.functions -= not rule.is_block
    assert frame.before is not None
    ends = [flow.state, *frame.again]
    for state in ends:
        flow.feed_back(frame, state)
    flow.around.pop()
    if frame.joins:
        flow.state = merged([frame.before, *frame.left])
    else:
        flow.state = State(merged([*ends, *frame.left]).names, frame.before.dead)


def comprehension(walk: Walker, node: int, rule: Comprehension) -> list[Task]:
    children = walk.named(node)
    first = [child for child in children if walk.kind_of(child) in rule.clauses]
    return [
        OPEN_SCOPE,
        *walk.visit(*first),
        *walk.visit(*[child for child in children if child not in first]),
        CLOSE_SCOPE,
    ]


def jump(walk: Walker, node: int, rule: Jump) -> list[Task]:
    labels = walk.picks(node, *rule.labels)
    return [*walk.visit(*[child for child in walk.named(node) if child not in labels]), (_jump, rule.to, None)]


def _jump(walk: Walker, to: Jumps, _: object) -> None:
    walk.flow.jump(to)
