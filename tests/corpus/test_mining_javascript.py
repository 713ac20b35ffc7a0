import textwrap
from collections import Counter

import pytest

from softnce_ray.corpus.cleaning import Drop, clean_query
from softnce_ray.corpus.languages import LANGUAGES, functions_in, strip_documentation
from softnce_ray.corpus.mining import mine_file
from softnce_ray.corpus.pairs import Pair
from softnce_ray.corpus.sources import Source, path_exclusion, source_folder

JAVASCRIPT = LANGUAGES["javascript"]
BODY = "{\n  const b = a;\n  return b;\n}"
INDENTED_BODY = BODY.replace("\n", "\n  ")


def functions(source):
    return list(functions_in(textwrap.dedent(source).encode(), JAVASCRIPT))


def documented(source):
    return [(each.name, each.documentation) for each in functions(source) if each.documentation]


def only(source):
    (function,) = functions(source)
    return function


def documentation(comment):
    """What the function right below this comment is documented with, '' for nothing."""
    return only(f"var first;\n{comment}\nfunction f(a) {BODY}").documentation


def test_a_file_gives_the_pair_with_its_origin(tmp_path):
    (tmp_path / "a.mjs").write_text(
        f"/**\n * Copies a value.\n * @param {{X}} a it\n */\nexport function copy(a) {BODY}\n"
    )
    batch = mine_file(Source("pack", "src/a.mjs", str(tmp_path / "a.mjs")), JAVASCRIPT)
    assert batch.pairs == (
        Pair(
            query="Copies a value.",
            code=f"function copy(a) {BODY}",
            language="javascript",
            package="pack",
            path="src/a.mjs",
            line=5,
            name="copy",
        ),
    )


@pytest.mark.parametrize(
    ("source", "name", "code"),
    [
        ("function f(a) {}", "f", "function f(a) {}"),
        ("async function f(a) {}", "f", "async function f(a) {}"),
        ("function* f(a) {}", "f", "function* f(a) {}"),
        ("async function* f(a) {}", "f", "async function* f(a) {}"),
        ("export function f(a) {}", "f", "function f(a) {}"),
        ("export default function f(a) {}", "f", "function f(a) {}"),
        ("export default function (a) {}", "", "function (a) {}"),
        ("export default async (a) => {}", "", "async (a) => {}"),
        ("const f = (a) => {};", "f", "(a) => {}"),
        ("export const f = a => {};", "f", "a => {}"),
        ("let f = function g(a) {}, h = 1;", "f", "function g(a) {}"),
        ("X.prototype.f = function (a) {};", "f", "function (a) {}"),
        ("X.prototype['f'] = function (a) {};", "f", "function (a) {}"),
        ("module.exports = function (a) {};", "", "function (a) {}"),
        ("module.exports = function f(a) {};", "f", "function f(a) {}"),
        ("module.exports = exports.f = function (a) {};", "f", "function (a) {}"),
        ("X.f ||= (a) => {};", "f", "(a) => {}"),
        ("X.f = X.f || function (a) {};", "f", "function (a) {}"),
        ("const f = (function (a) {});", "f", "function (a) {}"),
    ],
)
def test_documentation_stands_above_what_binds_the_function(source, name, code):
    function = only(f"/** Does a thing. */\n{source.replace('{}', BODY)}")
    assert (function.name, function.documentation) == (name, "Does a thing.")
    assert function.code == code.replace("{}", BODY)


@pytest.mark.parametrize(
    ("member", "name", "code"),
    [
        ("f: function (a) {},", "f", "function (a) {}"),
        ("f: async (a) => {},", "f", "async (a) => {}"),
        ("f(a) {},", "f", "f(a) {}"),
        ("async *f(a) {},", "f", "async *f(a) {}"),
        ("get f() {},", "f", "get f() {}"),
        ("set f(a) {},", "f", "set f(a) {}"),
        ("'f-g': function (a) {},", "f-g", "function (a) {}"),
        ("[f](a) {},", "f", "[f](a) {}"),
        ("['f'](a) {},", "f", "['f'](a) {}"),
        ("default: function (a) {},", "default", "function (a) {}"),
    ],
)
def test_properties_of_objects_are_functions(member, name, code):
    function = only(f"const x = {{\n  one: 1,\n  /** Does a thing. */\n  {member.replace('{}', INDENTED_BODY)}\n}};")
    assert (function.name, function.documentation) == (name, "Does a thing.")
    assert function.code == code.replace("{}", BODY)


@pytest.mark.parametrize(
    ("member", "name", "code"),
    [
        ("f(a) {}", "f", "f(a) {}"),
        ("#f(a) {}", "#f", "#f(a) {}"),
        ("static async f(a) {}", "f", "static async f(a) {}"),
        ("get f() {}", "f", "get f() {}"),
        ("f = (a) => {};", "f", "(a) => {}"),
        ("static f = async function (a) {};", "f", "async function (a) {}"),
        ("@bound @logged('x')\n  f(a) {}", "f", "f(a) {}"),
    ],
)
def test_methods_and_fields_of_classes_are_functions(member, name, code):
    function = only(f"class X {{\n  one = 1;\n  /** Does a thing. */\n  {member.replace('{}', INDENTED_BODY)}\n}}")
    assert (function.name, function.documentation) == (name, "Does a thing.")
    assert function.code == code.replace("{}", BODY)


def test_documentation_between_decorator_and_method_is_not_in_the_code():
    function = only(f"class X {{\n  @bound\n  /** Does a thing. */\n  f(a) {INDENTED_BODY}\n}}")
    assert (function.documentation, function.code) == ("Does a thing.", f"f(a) {BODY}")


def test_code_is_moved_to_the_left_margin():
    found = functions("""
        define({
            /** Does a thing. */
            f: function (a) {
                if (a)
                    return 1;
            },
        });
        """)
    assert found[0].code == "function (a) {\n    if (a)\n        return 1;\n}"


def test_semicolons_may_be_left_out():
    assert documented("""
        const one = 1
        /** Does a thing. */
        const f = (a) => a
        /** Does another. */
        exports.g = function (a) { return a }
        """) == [("f", "Does a thing."), ("g", "Does another.")]


@pytest.mark.parametrize(
    "source",
    [
        "/* Does a thing. */\nfunction f(a) {}",
        "// Does a thing.\nfunction f(a) {}",
        "/*** Does a thing. ***/\nfunction f(a) {}",
        "/** Does a thing. */\n\nfunction f(a) {}",
        "/** Does a thing. */\nvar other;\nfunction f(a) {}",
        "/** Does a thing. */\n// A word on it.\nfunction f(a) {}",
        "var other; /** A trailing comment. */\nfunction f(a) {}",
        "x = { one: 1, /** A trailing comment. */\n f: function (a) {} }",
        "class X { /** About the class. */\n f(a) {} }",
        "/** About x. */\nvar x = 1, f = function (a) {};",
        "/** About x. */\nvar x = y && function (a) {};",
        "/** About x. */\nvar x = call(function (a) {});",
        "/** About x. */\nvar x = { f: function (a) {} };",
        "/** About x. */\nclass X { f(a) {} }",
        "/** About the module. */\n(function (a) {})();",
        "/** About the module. */\nvar x = (function (a) {})();",
    ],
)
def test_only_a_jsdoc_block_right_above_is_documentation(source):
    found = functions(source.replace("{}", BODY) + "\n/** Has documentation. */\nfunction last(a) {}")
    assert [each.reason for each in found] == ["no_documentation", "trivial_body"]


def test_documentation_may_stand_on_the_line_of_the_function():
    assert documented("var x; /** Does a thing. */ function f(a) { return a; }") == [("f", "Does a thing.")]


@pytest.mark.parametrize(
    "between",
    [
        "// eslint-disable-next-line no-param-reassign",
        "/* istanbul ignore next */",
        "// @ts-ignore",
        "// $FlowFixMe[incompatible-type]",
        "/* @__PURE__ */",
        "/** @type {import('x').Handler} */",
        "// prettier-ignore\n// eslint-disable-next-line",
    ],
)
def test_comments_for_tools_may_stand_between(between):
    assert documentation(f"/** Does a thing. */\n{between}") == "Does a thing."


def test_a_type_cast_does_not_hide_the_documentation():
    source = f"/** Does a thing. */\nconst f = /** @type {{Handler}} */ (function (a) {BODY});"
    assert only(source).documentation == "Does a thing."


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("/** One line. */", "One line."),
        ("/**\n * Two\n * lines.\n */", "Two\nlines."),
        ("/**\n   No stars.\n */", "No stars."),
        ("/**\n * Text.\n *\n * More.\n * @param {X} a it\n * @return it\n */", "Text.\n\nMore."),
        ("/** Does a thing. @private */", "Does a thing."),
        ("/**\n * @private\n */", ""),
        ("/** @type {function(X): Y} */", ""),
        ("/** @inheritDoc */", ""),
        ("/** {@inheritDoc} */", ""),
        ("/**\n * @param {X} a it\n * @description Does a thing.\n * @return {Y}\n */", "Does a thing."),
        ("/**\n * @function f\n * @desc - Does a thing\n *   in steps.\n */", "Does a thing\n  in steps."),
        ("/**\n * @private\n * @summary Does a thing.\n */", "Does a thing."),
        ("/**\n * Does a thing.\n * @description More.\n */", "Does a thing."),
        ("/**\n * Does a thing.\n * TODO(me): do it better.\n */", "Does a thing."),
        ("/**\n * Does a thing.\n * > Note: slowly.\n */", "Does a thing."),
        ("/** Like {@link a.b|the other} does. */", "Like the other does."),
        ("/** Like {@link a.b the other} does. */", "Like the other does."),
        ("/** Like {@link other} does. */", "Like other does."),
        ("/** Like {@linkcode other} does. */", "Like other does."),
        ("/** Like [the other]{@link a.b} does. */", "Like the other does."),
        ("/** Like [`other`]{@link module:a.b} does. */", "Like `other` does."),
        ("/** Gets the {@link module:ol/Map~Map}s. */", "Gets the Maps."),
        ("/** Gives {@code x} back. */", "Gives x back."),
        ("/** Mails to me@type.org now. */", "Mails to me@type.org now."),
    ],
)
def test_documentation_is_what_a_reader_sees_before_the_tags(comment, text):
    assert documentation(comment) == text


@pytest.mark.parametrize("tag", ["overload", "typedef {X} Y", "callback Y", "event x", "fileoverview Z", "module z"])
def test_blocks_about_something_else_are_no_documentation(tag):
    assert documentation(f"/**\n * Does a thing.\n * @{tag}\n */") == ""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("/*! A library, under the MIT licence. */\n", ""),
        ("/** Copyright 2020 The Authors. */\n", ""),
        ("#!/usr/bin/env node\n/** Licensed under the MIT licence. */\n", ""),
        ("/**\n * A file of things.\n * @license MIT\n */\n", ""),
        ("/** @file A file of things. */\n", ""),
        ("/** Does a thing. */\n", "Does a thing."),
        ("var x;\n/** Tells the licence of a package. */\n", "Tells the licence of a package."),
    ],
)
def test_a_header_of_the_file_is_no_documentation(source, text):
    assert (
        functions(f"{source}function f(a) {BODY}\n/** Has documentation. */ function last() {{}}")[0].documentation
        == text
    )


def test_html_is_left_to_cleaning():
    assert clean_query(documentation("/** Makes an <input> of it all. */")) == Drop("has_html")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("class X { /** Does a thing. */ constructor(a) { this.a = a; } }", "constructor"),
        ("/** Does a thing.\n * @constructor */\nfunction f(a) { g(a); }", "constructor"),
        ("/** Does a thing.\n * @class */\nconst f = function (a) { g(a); };", "constructor"),
        ("/** Does a thing. */\nfunction Point(a) { this.a = a; }", "constructor"),
        ("/** Does a thing. */\nfunction Point(a) { Base.call(this, a); }", "constructor"),
        ("/** Does a thing. */\nfunction Point(a) { return { a }; }", None),
        ("/** Does a thing. */\nfunction point(a) { this.a = a; }", None),
        ("x = { /** Does a thing. */ toString() { return 'x'; } }", "protocol_method"),
        ("class X { /** Does a thing. */ *[Symbol.iterator]() { yield 1; } }", "protocol_method"),
        ("/** Does a thing. */\nfunction testAdd() { check(); }", "test_function"),
        ("/** Does a thing. */\nfunction test_add() { check(); }", "test_function"),
        ("/** Does a thing. */\nfunction test() { check(); }", None),
        ("/** Does a thing. */\nfunction testify() { check(); }", None),
        ("/** Does a thing. */\nfunction f() {}", "trivial_body"),
        ("/** Does a thing. */\nfunction f() { // nothing\n}", "trivial_body"),
        ("/** Does a thing. */\nfunction f() { 'use strict'; return; }", "trivial_body"),
        ("/** Does a thing. */\nconst f = () => {};", "trivial_body"),
        ("class X { /** Does a thing. */ f() { throw new Error('abstract'); } }", "trivial_body"),
        ("/** Does a thing. */\nfunction f() { return null; }", None),
        ("/** Does a thing. */\nconst f = (a) => a;", None),
    ],
)
def test_exclusions(source, reason):
    assert only(source).reason == reason


@pytest.mark.parametrize("call", ["describe", "describe.only", "it", "test.each([1])", "QUnit.module", "suite"])
def test_functions_inside_tests_are_excluded(call):
    found = functions(f"{call}('adds', function () {{\n/** Does a thing. */\nfunction f(a) {BODY}\n}});")
    assert [each.reason for each in found] == ["no_documentation", "test_function"]


def test_what_only_looks_like_a_test_is_no_test():
    found = functions(f"it(function () {{\n/** Does a thing. */\nfunction f(a) {BODY}\n}});")
    assert [each.reason for each in found] == ["no_documentation", None]


@pytest.mark.parametrize(
    "wrapper",
    [
        "(function () { BODY })();",
        "!function () { BODY }();",
        "var x = (() => { BODY })();",
        "define(['a'], function (a) { BODY });",
        "(function (root, factory) { factory(root); })(this, function (root) { BODY });",
        "/** @lends X */\nmixin(function () { BODY });",
        "/**\n * A class.\n * @constructor\n */\nfunction X() { BODY }",
    ],
)
def test_functions_inside_a_wrapper_that_gives_no_pair_are_found(wrapper):
    assert [
        each.name
        for each in functions(wrapper.replace("BODY", f"\n/** Does it. */\nfunction f(a) {BODY}\n"))
        if each.reason is None
    ] == ["f"]


def test_functions_inside_one_that_gives_a_pair_are_not_mined():
    found = functions("""
        /** Does a thing. */
        function outer(a) {
            /** Does a part of it. */
            function inner(b) { return b; }
            return inner(a);
        }
        /** Does another thing. */
        function next(a) { return a; }
        """)
    assert [each.name for each in found] == ["outer", "next"]


def test_jsx_is_parsed_and_type_annotations_are_a_parse_error():
    found = functions("""
        /** Shows a button. */
        export const Button = ({ label, onClick }) => {
            return <button onClick={() => onClick(label)}>{label}</button>;
        };
        class X {
            /** Adds numbers. */
            add(a, b) { return (a: any) +* b; }
        }
        """)
    assert [(each.name, each.reason) for each in found] == [("Button", None), ("add", "parse_error")]


@pytest.mark.parametrize(
    "source", [b"", b"/** x", b"/** a */ function", b"/** a */" * 50 + b"(" * 5000, b"/** \xff */"]
)
def test_odd_sources_give_functions_or_nothing(source):
    assert all(function.reason is not None for function in functions_in(source, JAVASCRIPT))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pack/lib/a.js", None),
        ("pack/lib/contest.js", None),
        ("pack/lib/builder.js", None),
        ("pack/lib/latest.js", None),
        ("pack/a.test.js", "test_file"),
        ("pack/a.spec.mjs", "test_file"),
        ("pack/a-test.jsx", "test_file"),
        ("pack/test.js", "test_file"),
        ("pack/__tests__/a.js", "test_file"),
        ("pack/__mocks__/a.js", "test_file"),
        ("pack/karma.conf.js", "test_file"),
        ("pack/dist/a.js", "generated_file"),
        ("pack/build/a.js", "generated_file"),
        ("pack/lib/a.bundle.js", "generated_file"),
        ("pack/lib/a.umd.cjs", "generated_file"),
        ("pack/lib/a.min.js", "minified_file"),
        ("pack/node_modules/b/a.js", "vendored_file"),
    ],
)
def test_path_exclusion(path, reason):
    assert path_exclusion(path, JAVASCRIPT) == reason


def test_build_folders_are_a_habit_of_javascript_alone():
    assert path_exclusion("pack/build/a.py", LANGUAGES["python"]) is None


def test_all_suffixes_are_mined_and_a_package_json_marks_one_project(tmp_path):
    for name in ("a.js", "lib/b.mjs", "lib/c.cjs", "src/d.jsx", "src/e.ts", "src/f.test.js", "package.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = source_folder(tmp_path, JAVASCRIPT)
    assert [each.path for each in found.sources] == ["a.js", "lib/b.mjs", "lib/c.cjs", "src/d.jsx"]
    assert {each.package for each in found.sources} == {tmp_path.name}
    assert found.skipped == Counter(test_file=1)


@pytest.mark.parametrize(
    "code",
    [f"function f(a) {BODY}", f"function (a) {BODY}", f"(a) => {BODY}", f"async f(a) {BODY}", f"get f() {BODY}"],
)
def test_code_of_imported_files_stays_as_it_is(code):
    assert strip_documentation(code, JAVASCRIPT) == code


def test_what_is_not_one_function_is_not_stripped():
    assert strip_documentation("var x = 1;", JAVASCRIPT) is None
    assert strip_documentation(f"function f(a) {BODY}\nfunction g(a) {BODY}", JAVASCRIPT) is None
