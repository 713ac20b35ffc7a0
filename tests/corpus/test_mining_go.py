from collections import Counter

import pytest

from softnce_ray.corpus.cleaning import Drop, clean_query
from softnce_ray.corpus.go_functions import without_name
from softnce_ray.corpus.languages import LANGUAGES, functions_in, strip_documentation
from softnce_ray.corpus.mining import file_exclusion, mine_file
from softnce_ray.corpus.sources import Source, path_exclusion, source_folder

GO = LANGUAGES["go"]
BODY = "{\n\tx := 1\n\treturn x\n}"


def functions(source):
    return list(functions_in(f"package a\n\n{source}\n".encode(), GO))


def only(source):
    (function,) = functions(source)
    return function


def above(comment, head="func Add(a, b int) int"):
    """What the comment directly above a function documents it with; None when it is not documented."""
    function = only(f"{comment}\n{head} {BODY}")
    assert function.reason in (None, "no_documentation")
    return function.documentation if function.reason is None else None


def test_a_run_of_line_comments_is_the_documentation_and_no_part_of_the_code():
    function = only(f"// Add adds\n// two numbers.\nfunc Add(a, b int) int {BODY}")
    assert (function.name, function.line, function.reason) == ("Add", 5, None)
    assert function.documentation == "Add adds\ntwo numbers."
    assert function.code == f"func Add(a, b int) int {BODY}"


@pytest.mark.parametrize(
    "comment",
    ["/* Add adds\n   two numbers. */", "/*\nAdd adds\ntwo numbers.\n*/", "/*\n * Add adds\n * two numbers.\n */"],
)
def test_a_block_comment_is_documentation(comment):
    assert " ".join(above(comment).split()) == "Add adds two numbers."


def test_a_blank_line_parts_a_comment_from_the_function():
    assert above("// Add adds two numbers.\n") is None


def test_only_the_lines_without_a_blank_line_between_them_count():
    assert above("// Helpers for numbers.\n\n// Add adds two numbers.") == "Add adds two numbers."


def test_a_block_above_a_run_of_lines_is_no_part_of_it():
    assert above("/* Helpers for numbers. */\n// Add adds two numbers.") == "Add adds two numbers."


def test_a_comment_at_the_end_of_the_statement_before_is_no_documentation():
    assert above("var total int // what was added so far") is None
    assert above("var total int // so far\n// Add adds two numbers.") == "Add adds two numbers."


@pytest.mark.parametrize(
    "comment",
    [
        "// Copyright 2009 The Go Authors. All rights reserved.\n// Use of this source code is governed by a licence.",
        "// SPDX-License-Identifier: MIT",
        "/* Licensed under the Apache License, Version 2.0 */",
    ],
)
def test_a_licence_is_no_documentation(comment):
    assert above(comment) is None


def test_a_function_about_licences_keeps_its_documentation():
    assert above("// Add returns the license of the module.") == "Add returns the license of the module."


@pytest.mark.parametrize(
    "directive",
    [
        "//nolint",
        "// nolint:errcheck // it cannot fail",
        "//go:generate stringer -type=Pill",
        "//go:noinline",
        "// go:noinline",
        "//export Add",
        "//lint:ignore U1000 used by tests",
        "// #nosec G104",
        "// +build linux",
        "//line a.y:10",
    ],
)
def test_directives_are_taken_out_of_a_run(directive):
    assert above(directive) is None
    assert above(f"// Add adds\n{directive}\n// two numbers.") == "Add adds\ntwo numbers."
    assert above(f"// Add adds two numbers.\n//\n{directive}") == "Add adds two numbers."


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("// Add adds.\n// TODO(rsc): subtract too.", "Add adds."),
        ("// ---------- Numbers ----------\n// Add adds.", "Add adds."),
        ("//////////////////\n// Add adds.\n//////////////////", "Add adds."),
        ("// Add adds. For example,\n//\tAdd(1, 2)\n// is 3.", "Add adds. For example,"),
        ("// Add adds.\n//   Add(1, 2)", "Add adds."),
        ("// Add adds all\n//   of the numbers.", "Add adds all\n  of the numbers."),
        (
            "// Add calls [Sub] and [*bytes.Buffer.Len] of [n] and []T.",
            "Add calls Sub and bytes.Buffer.Len of [n] and []T.",
        ),
        ("// Sum = Number { '+' Number } .", None),
        ("// TODO: write it.", None),
    ],
)
def test_the_description_ends_where_something_else_begins(comment, text):
    assert above(comment) == text


@pytest.mark.parametrize(
    ("documentation", "query"),
    [
        ("Add adds all numbers.\n\nDeprecated: Use Sum instead.", "Adds all numbers."),
        ("Deprecated: Use Sum instead of it.", Drop("no_description")),
        ("Add is deprecated, use Sum instead.", Drop("placeholder")),
        ("Add implements the Adder interface.", Drop("refers_elsewhere")),
        ("Add is the same as Sum with two numbers.", Drop("refers_elsewhere")),
    ],
)
def test_deprecations_and_references_without_the_name(documentation, query):
    assert clean_query(without_name(documentation, "Add")) == query


@pytest.mark.parametrize(
    ("name", "documentation", "text"),
    [
        ("ParseDate", "ParseDate parses a date.", "Parses a date."),
        ("parseDate", "parseDate parses a date.", "Parses a date."),
        ("Find", "Find finds the first.", "Finds the first."),
        ("Find", "Find returns the first.", "Returns the first."),
        ("Load", "Load atomically loads x.", "Atomically loads x."),
        ("ParseDate", "The ParseDate function parses a date.", "Parses a date."),
        ("ParseDate", "Function ParseDate parses a date.", "Parses a date."),
        ("ParseDate", "(*Parser).ParseDate parses a date.", "Parses a date."),
        ("ParseDate", "Parser.ParseDate parses a date.", "Parses a date."),
        ("ParseDate", "ParseDate(text) parses a date.", "Parses a date."),
        ("ParseDate", "`ParseDate` parses a date.", "Parses a date."),
        ("ParseDate", "ParseDate: parses a date.", "Parses a date."),
        ("ParseDate", "ParseDate - parses a date.", "Parses a date."),
        ("ParseDate", "ParseDate is a quick parser.", "A quick parser."),
        ("Func", "Func devirtualizes all calls.", "Devirtualizes all calls."),
        ("Add", "Add will add the numbers.", "Add the numbers."),
        ("Add", "Add must be called once.", "Must be called once."),
        ("ParseDate", "ParseDate io.Reader parses", "io.Reader parses"),
        ("ParseDate", "ParseDate", ""),
        # An order, another name, more than one subject: nothing to take away.
        ("Find", "Find the first one.", "Find the first one."),
        ("Close", "Close this one.", "Close this one."),
        ("find", "Find finds the first.", "Find finds the first."),
        ("ParseDate", "Parses a date.", "Parses a date."),
        ("ParseDate", "ParseDates parses dates.", "ParseDates parses dates."),
        ("ParseDate", "ParseDate.Format has it.", "ParseDate.Format has it."),
        ("ParseDate", "ParseDate-like parsing.", "ParseDate-like parsing."),
        ("Lock", "Lock and Unlock guard it.", "Lock and Unlock guard it."),
        ("ReadAll", "ReadAll and ReadOne read it.", "ReadAll and ReadOne read it."),
        ("", "Parses a date.", "Parses a date."),
        ("ParseDate", "", ""),
        # The name as a later subject.
        ("ParseDate", "ParseDate parses. ParseDate\nreturns nil.", "Parses. It\nreturns nil."),
        ("ParseDate", "ParseDate parses. If not, ParseDate fails.", "Parses. If not, it fails."),
        ("ParseDate", "ParseDate parses. ParseDate's caller waits.", "Parses. Its caller waits."),
        ("ParseDate", "Parses; otherwise ParseDate will fail.", "Parses; otherwise it will fail."),
        ("ParseDate", "ParseDate parses. See ParseDate and Find.", "Parses. See ParseDate and Find."),
        ("Find", "Find finds. Find returns nil.", "Finds. Find returns nil."),
    ],
)
def test_without_name(name, documentation, text):
    assert without_name(documentation, name) == text


def test_only_the_languages_with_the_convention_strip_names():
    assert GO.without_name is without_name
    assert LANGUAGES["python"].without_name is None


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("func Add(a, b int) int", None),
        ("func Map[T any](a []T) int", None),
        ("func init()", "constructor"),
        ("func (a *A) init() int", None),
        ("func main()", "entry_point"),
        ("func (a A) String() string", "protocol_method"),
        ("func (a A) Error() string", "protocol_method"),
        ("func (a A) Len() int", "protocol_method"),
        ("func (a A) Less(i, j int) bool", "protocol_method"),
        ("func (a A) Swap(i int, j int)", "protocol_method"),
        ("func (a A) MarshalJSON() ([]byte, error)", "protocol_method"),
        ("func String() string", None),
        ("func (a A) String(depth int) string", None),
        ("func (a A) Swap(i int)", None),
        ("func TestAdd(t *testing.T)", "test_function"),
        ("func BenchmarkAdd(b *testing.B)", "test_function"),
        ("func Example()", "test_function"),
        ("func ExampleAdd_second()", "test_function"),
        ("func checkAdd(t testing.TB, a int)", "test_function"),
        ("func (s *Suite) TestAdd()", "test_function"),
        ("func (x *Int) TestBit(i int) bool", None),
        ("func Testify(a int) int", None),
        ("func Benchmarks(a int) int", None),
    ],
)
def test_exclusions_by_name(head, reason):
    assert only(f"// It does a thing.\n{head} {BODY}").reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "no_body"),
        ("{}", "trivial_body"),
        ("{\n\t// nothing to do\n}", "trivial_body"),
        ("{\n\treturn\n}", "trivial_body"),
        ("{\n\treturn nil\n}", "trivial_body"),
        ('{\n\tpanic("not implemented")\n}', "trivial_body"),
        ("{\n\treturn 1\n}", None),
        ('{\n\t// why\n\tx()\n\tpanic("late")\n}', None),
    ],
)
def test_exclusions_by_body(body, reason):
    assert only(f"// It does a thing.\nfunc Add() {body}").reason == reason


def test_a_method_has_its_own_name():
    function = only(f"// Add adds to the list.\nfunc (l *List[T]) Add(value T) int {BODY}")
    assert (function.name, function.reason) == ("Add", None)


def test_a_broken_function_does_not_spoil_the_others():
    found = functions(f"// A adds.\nfunc A() int {BODY}\n\n// B adds.\nfunc B() int {{\n\treturn (1 + * 2\n}}")
    assert [(function.name, function.reason) for function in found] == [("A", None), ("B", "parse_error")]


@pytest.mark.parametrize("source", [b"", b"\xff\xfe", b"func", b"func f(", b"(" * 5000, b"// a\nfunc f() {}"])
def test_odd_sources_give_functions_or_nothing(source):
    assert all(function.reason is not None for function in functions_in(source, GO))


def test_carriage_returns_are_no_part_of_text_or_code():
    function = only(f"// Add adds\n// numbers.\nfunc Add() int {BODY}".replace("\n", "\r\n"))
    assert (function.documentation, function.code) == ("Add adds\nnumbers.", f"func Add() int {BODY}")


def test_one_function_alone_is_found_without_its_comment():
    assert strip_documentation(f"func (l *List) Add() int {BODY}", GO) == f"func (l *List) Add() int {BODY}"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pack/a.go", None),
        ("pack/test.go", None),
        ("pack/a_test.go", "test_file"),
        ("pack/testdata/a.go", "test_file"),
        ("vendor/pack/a.go", "vendored_file"),
        ("pack/a.pb.go", "generated_file"),
    ],
)
def test_path_exclusion(path, reason):
    assert path_exclusion(path, GO) == reason


def test_generated_files_are_not_mined():
    marked = b'// Code generated by "stringer -type=Pill"; DO NOT EDIT.\n\npackage a\n'
    assert file_exclusion(marked) == "generated_file"
    licence = b"// Copyright 2020 The Authors\n//\n" + b"// Licensed under the Apache License.\n" * 15
    assert file_exclusion(licence + b"\n" + marked) == "generated_file"


def test_a_module_is_one_package(tmp_path):
    (tmp_path / "go.mod").write_text("module a\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.go").write_text("package sub\n")
    assert {source.package for source in source_folder(tmp_path, GO).sources} == {tmp_path.name}


def test_mining_a_file(tmp_path):
    file = tmp_path / "a.go"
    file.write_text(f"package a\n\n// Adds two numbers quickly.\nfunc Add(a, b int) int {BODY}\n\nfunc b() {{}}\n")
    batch = mine_file(Source("a", "a.go", str(file)), GO)
    assert [(pair.query, pair.code, pair.line, pair.language) for pair in batch.pairs] == [
        ("Adds two numbers quickly.", f"func Add(a, b int) int {BODY}", 4, "go")
    ]
    assert batch.dropped_functions == Counter(no_documentation=1)
