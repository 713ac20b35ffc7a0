"""The words in which a language's syntax is described to the walker: one small record per kind of construct.

A selector names a child of a syntax node: a string is the name of its field, a number the place among its named
children. Fields that a grammar gives several times stand for all of those children.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Selector = str | int
Selectors = tuple[Selector, ...]
Level = Literal["block", "function"]
Jumps = Literal["break", "continue", "return", "raise"]


@dataclass(frozen=True)
class Visit:
    """Children in their order, without those of `skip`.

    A bare name among those of `called` counts only where the snippet has bound it before; `all_called`: any child.
    """

    skip: Selectors = ()
    called: Selectors = ()
    all_called: bool = False


@dataclass(frozen=True)
class Skip:
    """Nothing inside is a variable."""


@dataclass(frozen=True)
class Assign:
    """`left` gets its value from `right`.

    `updates`: the old value goes into the new one; "operator": where the operator is not `=`. `level`: the names are
    new, in the innermost block or function.
    `passes_on`: as a value inside another assignment it stands for what it reads, not for its target.
    """

    left: Selector
    right: Selector | None
    updates: bool | Literal["operator"] = False
    level: Level | None = None
    passes_on: bool = False


@dataclass(frozen=True)
class Declare:
    """Children of kind `item`, each with a name and perhaps a value."""

    item: str
    name: Selector
    value: Selector | None
    level: Level


@dataclass(frozen=True)
class Update:
    """A variable whose new value comes of its old one: `x++`."""

    target: Selector


@dataclass(frozen=True)
class Bind:
    """Targets that get a value from outside: a caught exception, a static variable."""

    targets: Selectors
    level: Level | None = "block"


@dataclass(frozen=True)
class Outer:
    """Names that belong to the surrounding function."""


@dataclass(frozen=True)
class If:
    """A condition and branches that meet again; `chained` are kinds of alternatives with a condition of their own."""

    condition: Selector | None
    then: Selector
    otherwise: Selector | None = None
    before: Selectors = ()
    chained: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loop:
    """A loop with a condition. `inside` is the kind of child that holds all selected but the body."""

    condition: Selector | None
    body: Selector
    before: Selectors = ()
    after: Selectors = ()
    otherwise: Selector | None = None
    tests_last: bool = False
    inside: str | None = None


@dataclass(frozen=True)
class Each:
    """A loop over the elements of `source`, each bound to `target`.

    The target is declared at `level`; with `declares_if` only where there is a child of one of these kinds.
    """

    target: Selector
    source: Selector
    body: Selector
    otherwise: Selector | None = None
    level: Level | None = None
    declares_if: tuple[str, ...] = ()
    inside: str | None = None


@dataclass(frozen=True)
class Either:
    """The rule of the first kind of child that is there, or else `otherwise`."""

    cases: tuple[tuple[str, Rule], ...]
    otherwise: Rule


@dataclass(frozen=True)
class Switch:
    """A choice among `cases`: kinds of children, of the node itself or of its field `body`.

    A case of a kind in `defaults`, or with a child or grandchild of such a kind, is taken when no other is.
    A case of a kind in
    `falls_through` that does not jump goes on in the next. `breaks`: a break leaves the switch.
    `alias` is bound to the subject's value.
    """

    subject: Selector | None
    cases: tuple[str, ...]
    defaults: tuple[str, ...]
    before: Selectors = ()
    alias: Selector | None = None
    falls_through: tuple[str, ...] = ()
    breaks: bool = True


@dataclass(frozen=True)
class CasePattern:
    """A pattern that binds parts of the innermost switch's subject; None: the node itself."""

    pattern: Selector | None = None


@dataclass(frozen=True)
class Try:
    """Children that may be left at any place for a handler; those of no named kind are the body."""

    handlers: tuple[str, ...]
    otherwise: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    before: Selectors = ()


@dataclass(frozen=True)
class Function:
    """A function: names of its parameters and of what it declares end with it.

    Inside another function it is a closure, which may run never or often. `isolated`: it sees no variables from
    outside but those that a child of kind `shares` lists,
    and changes only those that it lists in a `references`. `is_block`: it may be left as a
    loop is. What a body of a kind in `opaque_bodies` reads is not part
    of the function's value.
    """

    parameters: Selectors
    body: Selector
    isolated: bool = False
    shares: str | None = None
    references: str | None = None
    is_block: bool = False
    opaque_bodies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comprehension:
    """Children of kinds `clauses` come first, whatever their place; its names are its own."""

    clauses: tuple[str, ...]


@dataclass(frozen=True)
class Jump:
    """A way out; what else is in it comes first."""

    to: Jumps
    labels: Selectors = ()


Rule = (
    Visit
    | Skip
    | Assign
    | Declare
    | Update
    | Bind
    | Outer
    | If
    | Loop
    | Each
    | Either
    | Switch
    | CasePattern
    | Try
    | Function
    | Comprehension
    | Jump
)


@dataclass(frozen=True)
class Named:
    """As a target, only `names` are bound, also from `value`; all else in it is passed over."""

    names: Selectors
    value: Selector | None = None


@dataclass(frozen=True)
class Part:
    """As a target, an element or attribute of `base`: that variable is updated, and `reads` are read."""

    base: Selector
    reads: Selectors = ()


@dataclass(frozen=True)
class Rest:
    """As a target, all named children from place `first` on."""

    first: int


@dataclass(frozen=True)
class Alone:
    """As a target, a name where it is the only part."""


Target = Named | Part | Rest | Alone | Skip


@dataclass(frozen=True)
class Syntax:
    """A language as the walker sees it; all strings are kinds of its tree-sitter grammar.

    `variables` are the kinds of names; those of `bound_only` are variables only where the snippet has bound them
    before. `capitals_are_types`: so are unbound names like `Math` (a capital first and some small letter).
    `strings` are one token each, those of `plain_strings` only without `interpolations` in them. `bare_texts` are
    statements that are left out where they are only a string or one of `joined_strings`. `lists` are kinds
    whose elements are assigned one by one where both sides have as many, unless one is among `splats`. `scopes`
    are the blocks that end what is declared in them. `assigning`: the level at which a plain assignment declares;
    `only_new`: only a name that is not known yet. `survives` are the first characters of names that even an
    isolated function sees. `wraps` are (before, after) texts to try in turn around a snippet.
    """

    variables: tuple[str, ...]
    rules: dict[str, Rule]
    targets: dict[str, Target]
    strings: tuple[str, ...]
    plain_strings: tuple[str, ...] = ()
    interpolations: tuple[str, ...] = ()
    comments: tuple[str, ...] = ("comment",)
    bare_texts: tuple[str, ...] = ()
    joined_strings: tuple[str, ...] = ()
    bound_only: tuple[str, ...] = ()
    capitals_are_types: bool = False
    lists: tuple[str, ...] = ()
    splats: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    assigning: Level | None = None
    only_new: bool = False
    survives: str = ""
    wraps: tuple[tuple[str, str], ...] = field(default=(("", ""),))
