"""How names get values: assignments, declarations, updates and the patterns on their left-hand sides."""

from __future__ import annotations

from softnce_ray.corpus.dataflow.flow import Frame, Scope
from softnce_ray.corpus.dataflow.rules import (
    Alone,
    Assign,
    Bind,
    CasePattern,
    Declare,
    Level,
    Named,
    Outer,
    Part,
    Rest,
    Skip,
    Update,
    Visit,
)
from softnce_ray.corpus.dataflow.walker import COLLECT, DROP, Task, Walker

Details = tuple[list[int], Level | None, bool]
"""What the value is computed from, where the name is declared, and whether the old value goes into the new one."""


def visit_children(walk: Walker, node: int, rule: Visit) -> list[Task]:
    skipped = set(walk.picks(node, *rule.skip))
    called = set(walk.named(node) if rule.all_called else walk.picks(node, *rule.called))
    tasks: list[Task] = []
    for child in walk.named(node):
        if child in called and walk.is_name(child):
            tasks.append((Walker.read, child, True))
        elif child not in skipped:
            tasks += walk.visit(child)
    return tasks


def skip(walk: Walker, node: int, rule: Skip) -> list[Task]:
    return []


def assign(walk: Walker, node: int, rule: Assign) -> list[Task]:
    lefts, right = walk.picks(node, rule.left), walk.pick(node, rule.right)
    if not lefts:
        return walk.visit(*walk.named(node))
    updates = rule.updates
    if updates == "operator":
        updates = _operator(walk, node) != b"="
    targets, values = _elements(walk, lefts, right)
    tasks: list[Task] = []
    for value in values:
        tasks += [COLLECT, *walk.visit(value)]
    return [*tasks, (_bind_values, targets, (len(values), rule.level, updates, rule.passes_on))]


def _operator(walk: Walker, node: int) -> bytes:
    number = walk.language.fields["operator"]
    for child in walk.tree.children(node):
        if walk.tree.field[child] == number:
            return walk.source_of(child)
    return b"="


def _elements(walk: Walker, lefts: list[int], right: int | None) -> tuple[list[int], list[int]]:
    """Targets and values: as many of both where a list is assigned to a list, else all that there is and one value."""
    if right is None:
        return lefts, []
    kind, language = walk.tree.kind, walk.language
    targets = lefts
    if len(lefts) == 1 and kind[lefts[0]] in language.lists:
        targets = walk.named(lefts[0])
    values = walk.named(right) if kind[right] in language.lists else [right]
    exact = not any(kind[each] in language.splats or kind[each] in language.kinds.strings for each in targets)
    if len(targets) == len(values) and exact and not any(kind[each] in language.splats for each in values):
        return targets, values
    return lefts, [right]


def _bind_values(walk: Walker, targets: list[int], how: tuple[int, Level | None, bool, bool]) -> list[Task]:
    """Bind what was read in the last `how[0]` values: one for each target, or one for all of them."""
    count, level, updates, passes_on = how
    read = [walk.values.pop() for _ in range(count)][::-1] or [[]]
    of_each = read if len(read) == len(targets) else [read[0]] * len(targets)
    tasks: list[Task] = [
        (bind, target, (sources, level, updates)) for target, sources in zip(targets, of_each, strict=True)
    ]
    if passes_on:
        return [COLLECT, *tasks, DROP, (_pass_on, [token for sources in read for token in sources], None)]
    return tasks


def _pass_on(walk: Walker, tokens: list[int], _: object) -> None:
    walk.values[-1] += tokens


def declare(walk: Walker, node: int, rule: Declare) -> list[Task]:
    each = Assign(rule.name, rule.value, level=rule.level)
    tasks: list[Task] = []
    for child in walk.named(node):
        if walk.kind_of(child) == rule.item:
            tasks += assign(walk, child, each)
    return tasks


def update(walk: Walker, node: int, rule: Update) -> list[Task]:
    return [(bind, child, ([], None, True)) for child in walk.picks(node, rule.target)]


def bind_from_outside(walk: Walker, node: int, rule: Bind) -> list[Task]:
    targets = walk.picks(node, *rule.targets)
    tasks: list[Task] = [(bind, child, ([], rule.level, False)) for child in targets]
    return tasks + walk.visit(*[child for child in walk.named(node) if child not in targets])


def outer(walk: Walker, node: int, rule: Outer) -> list[Task]:
    names = {walk.text(walk.tree.token[child]) for child in walk.named(node) if walk.is_name(child)}
    for scope in reversed(walk.flow.around):
        if isinstance(scope, Scope) and scope.is_function:
            scope.of_outside |= names
            break
    return []


def case_pattern(walk: Walker, node: int, rule: CasePattern) -> list[Task]:
    subject = next(
        (frame.subject for frame in reversed(walk.flow.around) if isinstance(frame, Frame) and frame.is_switch), []
    )
    patterns = [node] if rule.pattern is None else walk.picks(node, rule.pattern)
    tasks: list[Task] = [(bind, pattern, (subject, None, False)) for pattern in patterns]
    if rule.pattern is not None:
        tasks += walk.visit(*[child for child in walk.named(node) if child not in patterns])
    return tasks


def bind(walk: Walker, node: int, details: Details) -> list[Task]:
    """Bind the names of a target."""
    if walk.is_name(node):
        walk.define(node, *details)
        return []
    target = walk.language.targets.get(walk.tree.kind[node])
    children = walk.named(node)
    match target:
        case Skip():
            return []
        case Named():
            names = walk.picks(node, *target.names)
            value = walk.pick(node, target.value)
            if value is None:
                return [(bind, name, details) for name in names]
            return [COLLECT, *walk.visit(value), (_bind_also, names, details)]
        case Part():
            tasks = walk.visit(*walk.picks(node, *target.reads))
            for base in walk.picks(node, target.base):
                if walk.is_name(base) or isinstance(walk.language.targets.get(walk.tree.kind[base]), Part):
                    tasks.append((bind, base, (details[0], None, True)))
                else:
                    tasks += walk.visit(base)
            return tasks
        case Rest():
            children = children[target.first :]
        case Alone():
            children = children if len(children) == 1 else []
    return [(bind, child, details) for child in children]


def _bind_also(walk: Walker, names: list[int], details: Details) -> list[Task]:
    sources, level, updates = details
    both = [*sources, *walk.values.pop()]
    return [(bind, name, (both, level, updates)) for name in names]
