"""Ruby for the walker, by the kinds of tree-sitter-ruby."""

from __future__ import annotations

from softnce_ray.corpus.dataflow.rules import (
    Assign,
    Bind,
    CasePattern,
    Each,
    Function,
    If,
    Jump,
    Loop,
    Named,
    Part,
    Skip,
    Switch,
    Syntax,
    Try,
    Visit,
)

_METHOD = Function(("parameters",), "body", isolated=True, opaque_bodies=("body_statement",))
_BLOCK = Function(("parameters",), "body", is_block=True)
_TRY = Try(("rescue",), ("else",), ("ensure",))
_IF = If("condition", "consequence", "alternative")
_MODIFIED = If("condition", "body")
_LOOP = Loop("condition", "body")

RUBY = Syntax(
    variables=("identifier", "instance_variable", "class_variable", "global_variable"),
    bound_only=("identifier",),
    strings=("string", "character"),
    plain_strings=("heredoc_body",),
    interpolations=("interpolation",),
    lists=("left_assignment_list", "destructured_left_assignment", "right_assignment_list", "array"),
    splats=("rest_assignment", "splat_argument"),
    assigning="block",
    only_new=True,
    survives="@$",
    rules={
        "method": _METHOD,
        "singleton_method": _METHOD,
        "block": _BLOCK,
        "do_block": _BLOCK,
        "lambda": Function(("parameters",), "body"),
        "alias": Skip(),
        "undef": Skip(),
        "call": Visit(skip=("method",)),
        "assignment": Assign("left", "right"),
        "operator_assignment": Assign("left", "right", updates=True),
        "exception_variable": Bind((0,), None),
        "if": _IF,
        "unless": _IF,
        "elsif": _IF,
        "conditional": _IF,
        "if_modifier": _MODIFIED,
        "unless_modifier": _MODIFIED,
        "rescue_modifier": If("body", "handler"),
        "while": _LOOP,
        "until": _LOOP,
        "while_modifier": _LOOP,
        "until_modifier": _LOOP,
        "for": Each("pattern", "value", "body"),
        "case": Switch("value", ("when", "else"), ("else",), breaks=False),
        "case_match": Switch("value", ("in_clause", "else"), ("else",), breaks=False),
        "in_clause": CasePattern("pattern"),
        "body_statement": _TRY,
        "begin": _TRY,
        "break": Jump("break"),
        "next": Jump("continue"),
        "return": Jump("return"),
    },
    targets={
        "optional_parameter": Named(("name",), "value"),
        "keyword_parameter": Named(("name",), "value"),
        "call": Part("receiver"),
        "element_reference": Part("object", (1, 2)),
        "keyword_pattern": Named(("value",)),
        "scope_resolution": Skip(),
        "constant": Skip(),
        "string": Skip(),
    },
)
