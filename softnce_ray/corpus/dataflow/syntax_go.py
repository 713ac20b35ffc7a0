"""Go for the walker, by the kinds of tree-sitter-go."""

from __future__ import annotations

from softnce_ray.corpus.dataflow.rules import (
    Assign,
    Declare,
    Each,
    Either,
    Function,
    If,
    Jump,
    Loop,
    Named,
    Part,
    Skip,
    Switch,
    Syntax,
    Update,
    Visit,
)

_PARAMETERS = ("receiver", "parameters", "result")
_FUNCTION = Function(_PARAMETERS, "body", opaque_bodies=("block",))
_CASES = ("expression_case", "type_case", "communication_case", "default_case")

GO = Syntax(
    variables=("identifier",),
    strings=("interpreted_string_literal", "raw_string_literal", "rune_literal"),
    lists=("expression_list",),
    scopes=(
        "block",
        "if_statement",
        "for_statement",
        "expression_switch_statement",
        "type_switch_statement",
        *_CASES,
    ),
    wraps=(("", ""), ("func f() {\n", "\n}")),
    rules={
        "function_declaration": _FUNCTION,
        "method_declaration": _FUNCTION,
        "func_literal": _FUNCTION,
        "package_clause": Skip(),
        "import_declaration": Skip(),
        "type_declaration": Skip(),
        "labeled_statement": Visit(skip=("label",)),
        "selector_expression": Visit(called=("operand",)),
        "call_expression": Visit(called=("function",)),
        "keyed_element": Visit(skip=("key",)),
        "var_declaration": Declare("var_spec", "name", "value", "block"),
        "var_spec_list": Declare("var_spec", "name", "value", "block"),
        "const_declaration": Declare("const_spec", "name", "value", "block"),
        "short_var_declaration": Assign("left", "right", level="block"),
        "assignment_statement": Assign("left", "right", updates="operator"),
        "receive_statement": Assign("left", "right", level="block"),
        "inc_statement": Update(0),
        "dec_statement": Update(0),
        "if_statement": If("condition", "consequence", "alternative", before=("initializer",)),
        "for_statement": Either(
            (
                (
                    "for_clause",
                    Loop("condition", "body", before=("initializer",), after=("update",), inside="for_clause"),
                ),
                ("range_clause", Each("left", "right", "body", None, "block", (":=",), inside="range_clause")),
            ),
            Loop(0, "body"),
        ),
        "expression_switch_statement": Switch("value", _CASES, ("default_case",), before=("initializer",)),
        "type_switch_statement": Switch("value", _CASES, ("default_case",), before=("initializer",), alias="alias"),
        "select_statement": Switch(None, _CASES, ("select_statement", *_CASES)),
        "break_statement": Jump("break", (0,)),
        "continue_statement": Jump("continue", (0,)),
        "goto_statement": Skip(),
        "return_statement": Jump("return"),
    },
    targets={
        "parameter_declaration": Named(("name",)),
        "variadic_parameter_declaration": Named(("name",)),
        "selector_expression": Part("operand"),
        "index_expression": Part("operand", ("index",)),
        "unary_expression": Part("operand"),
        "parenthesized_expression": Part(0),
        "type_assertion_expression": Part("operand"),
    },
)
