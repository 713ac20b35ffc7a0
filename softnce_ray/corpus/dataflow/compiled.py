"""A language's rules with the grammar's numbers in place of names, made once per language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tree_sitter

from softnce_ray.corpus.dataflow.rules import Rule, Syntax, Target, Visit
from softnce_ray.corpus.dataflow.tree import Kinds


@dataclass(frozen=True)
class Compiled:
    """`actions[kind]` is the rule of a kind of node, None for one whose children are walked as they come.

    Names are in `actions` too, so that one look tells all. A kind of syntax errors has no number below
    `len(actions)`.
    """

    syntax: Syntax
    parser: tree_sitter.Parser
    kinds: Kinds
    actions: list[Rule | None]
    targets: dict[int, Target]
    variables: frozenset[int]
    bound_only: frozenset[int]
    lists: frozenset[int]
    splats: frozenset[int]
    scopes: frozenset[int]
    anonymous: frozenset[int]
    fields: dict[str, int]
    kind_names: dict[int, str]

    def is_bound_only(self, kind: int, name: str) -> bool:
        """Whether a name counts only where the snippet has bound it before."""
        if kind in self.bound_only:
            return True
        return self.syntax.capitals_are_types and name[0].isupper() and any(map(str.islower, name))


def compile_syntax(syntax: Syntax, pointer: object) -> Compiled:
    """Raises ValueError where the syntax speaks of a kind or field that the grammar does not have."""
    grammar = tree_sitter.Language(pointer)
    kind_names = {number: grammar.node_kind_for_id(number) or "" for number in range(grammar.node_kind_count)}
    named: dict[str, list[int]] = {}
    for number, name in kind_names.items():
        if grammar.node_kind_is_named(number):
            named.setdefault(name, []).append(number)

    def numbers(names: Iterable[str]) -> frozenset[int]:
        unknown = [name for name in names if name not in named]
        if unknown:
            raise ValueError(f"the grammar has no kinds {', '.join(unknown)}")
        return frozenset(number for name in names for number in named[name])

    actions: list[Rule | None] = [None] * grammar.node_kind_count
    for name in (*syntax.variables, *syntax.scopes):
        for number in numbers([name]):
            actions[number] = Visit()
    for name, rule in syntax.rules.items():
        for number in numbers([name]):
            actions[number] = rule
    fields: dict[str, int] = {}
    for number in range(1, grammar.field_count + 1):
        field = grammar.field_name_for_id(number)
        if field:
            fields[field] = number
    return Compiled(
        syntax=syntax,
        parser=tree_sitter.Parser(grammar),
        kinds=Kinds(
            comments=numbers(syntax.comments),
            strings=numbers(syntax.strings),
            plain_strings=numbers(syntax.plain_strings),
            interpolations=numbers(syntax.interpolations),
            bare_texts=numbers(syntax.bare_texts),
            joined_strings=numbers(syntax.joined_strings),
            blanks=frozenset(number for number, name in kind_names.items() if not name.strip()),
        ),
        actions=actions,
        targets={number: target for name, target in syntax.targets.items() for number in numbers([name])},
        variables=numbers(syntax.variables),
        bound_only=numbers(syntax.bound_only),
        lists=numbers(syntax.lists),
        splats=numbers(syntax.splats),
        scopes=numbers(syntax.scopes),
        anonymous=frozenset(number for number in kind_names if not grammar.node_kind_is_named(number)),
        fields=fields,
        kind_names=kind_names,
    )
