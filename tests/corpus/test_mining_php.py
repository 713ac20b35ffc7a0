import textwrap

import pytest

from softnce_ray.corpus.cleaning import Drop, clean_query
from softnce_ray.corpus.languages import LANGUAGES, functions_in, strip_documentation
from softnce_ray.corpus.mining import mine_file
from softnce_ray.corpus.sources import Source, path_exclusion, source_folder

PHP = LANGUAGES["php"]


def functions(source):
    return list(functions_in(textwrap.dedent(source).strip().encode(), PHP))


def only(source):
    (function,) = functions(source)
    return function


def documented(comment):
    """What a comment gives as documentation of a method with a body."""
    function = only(f"<?php\nclass A {{\n{comment}\nfunction f($a) {{\n  return $a;\n}}\n}}")
    return function.documentation if function.reason is None else function.reason


def method(head, body="return 1;", within="class A"):
    return only(f"<?php\n{within} {{\n  /** What it does. */\n  {head} {{ {body} }}\n}}")


def test_a_mined_method_keeps_attributes_and_modifiers_and_loses_its_comment(tmp_path):
    (tmp_path / "a.php").write_text(
        textwrap.dedent("""\
            <?php
            /**
             * This file is part of a package.
             *
             * @license MIT
             */
            namespace A;

            /** A class. */
            final class A extends B
            {
                private $size; /** how many */

                /**
                 * Returns the greatest element of `$items`.
                 *
                 * @param int[] $items what to look at
                 */
                #[Pure(1)]
                public static function &max(array $items): ?int
                {
                    // the first wins
                    return $items[0];
                }
            }
            """)
    )
    (pair,) = mine_file(Source("p", "a/a.php", str(tmp_path / "a.php")), PHP).pairs
    assert pair.query == "Returns the greatest element of $items."
    assert pair.name == "max"
    assert pair.language == "php"
    assert pair.code == (
        "#[Pure(1)]\n"
        "public static function &max(array $items): ?int\n"
        "{\n"
        "    // the first wins\n"
        "    return $items[0];\n"
        "}"
    )
    assert strip_documentation(pair.code, PHP) == pair.code


def test_a_mined_function_is_parsed_again_by_itself():
    function = only("<?php\nif (!function_exists('f')) {\n\t/** The doc. */\n\tfunction f() {\n\t\treturn 1;\n\t}\n}")
    assert function.code == "function f() {\n\treturn 1;\n}"
    assert strip_documentation(function.code, PHP) == function.code


def test_html_inside_a_function_is_code():
    function = only("<?php\n/** The doc. */\nfunction f() {\n?>\n<b><?php echo 1; ?></b>\n<?php\n}\n?>\n<p>")
    assert function.code == "function f() {\n?>\n<b><?php echo 1; ?></b>\n<?php\n}"
    assert strip_documentation(function.code, PHP) == function.code


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("/** The doc. */", "The doc."),
        ("/** The doc. */\n\n\n", "The doc."),
        ("/** The doc. */\n#[A]\n#[B(1)]", "The doc."),
        ("#[A]\n/** The doc. */", "The doc."),
        ("/** Other. */\n/** The doc. */", "The doc."),
        ("/** The doc. */ public $g;", None),
        ("/** The doc. */\n// a note", None),
        ("public $g; /** The doc of $g. */", None),
        ("# The doc.", None),
        ("/* The doc. */", None),
        ("/*** The doc. ***/", None),
        ("/** */", None),
    ],
)
def test_documentation_is_the_docblock_directly_before(before, text):
    found = functions(f"<?php\n/** A class. */\nclass A {{\n{before}\nfunction f() {{\n  return 1;\n}}\n}}")[-1]
    assert (found.documentation or None) == text
    assert found.reason == (None if text else "no_documentation")


def test_a_docblock_below_the_attributes_is_no_code():
    function = only("<?php\n#[A]\n/** The doc. */\nfunction f() {\n  return 1;\n}")
    assert function.code == "#[A]\nfunction f() {\n  return 1;\n}"


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ("/** The doc. */\n", "The doc."),
        ("/** The file. */\n\n", None),
        ("/**\n * The file.\n * @package A\n */\n", None),
        ("/** Copyright (c) somebody. */\n", None),
        ("/** Licensed under the MIT licence. */\n", None),
        ("/** The file. */\n\n/** The doc. */\n", "The doc."),
        ("namespace A;\n/** The doc. */\n\n", "The doc."),
        ("f(1);\n/**\n * The doc.\n * @package A\n */\n", "The doc."),
    ],
)
def test_a_header_of_the_file_is_no_documentation_of_its_first_function(head, text):
    found = only(f"<?php\n{head}function f() {{\n  return 1;\n}}")
    assert (found.documentation or None) == text


@pytest.mark.parametrize(
    ("comment", "query"),
    [
        ("Reads as {@see List::get()} does.", "Reads as List::get() does."),
        ("Reads as {@link https://example.org/a a list} does.", "Reads as a list does."),
        ("Reads as {@link List} does.", "Reads as List does."),
        ("Reads <code>one</code> &amp; <em>two</em>.", "Reads one & two."),
        ("Reads an array<int, string> of words.", "Reads an array<int, string> of words."),
        ("Reads a word.\n *\n * More of it.\n * @since 1.0", "Reads a word."),
        ("Reads a word.<br><br>More of it.", "Reads a word."),
        ("Reads a word\n * of two lines.", "Reads a word of two lines."),
        ("Reads one of these:\n * - this\n * - that", "Reads one of these:"),
    ],
)
def test_the_query_is_what_a_reader_sees(comment, query):
    assert clean_query(documented(f"/**\n * {comment}\n */")) == query


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Writes the `<script>` tag of a page.", "has_html"),
        ("Writes the <img> tag of a page.", "has_html"),
        ("Works as {@link https://example.org} says.", "has_url"),
    ],
)
def test_tags_and_addresses_that_are_spoken_of_are_left_for_the_cleaning_to_drop(text, reason):
    assert clean_query(documented(f"/** {text} */")) == Drop(reason)


@pytest.mark.parametrize(
    "comment",
    [
        "/** {@inheritdoc} */",
        "/** {@inheritDoc} */",
        "/** {inheritdoc} */",
        "/** @inheritdoc */",
        "/**\n * {@inheritdoc}\n *\n * @return int\n */",
        "/** @see B::f() */",
        "/**\n * @param int $a what\n *   it is\n * @return int\n */",
        "/** @var int $a */",
    ],
)
def test_docblocks_of_tags_only_are_no_documentation(comment):
    assert documented(comment) == "no_documentation"


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        ("public function __construct()", "$this->x = 1;", "constructor"),
        ("public function A()", "$this->x = 1;", "constructor"),
        ("public function __get($name)", "return 1;", "protocol_method"),
        ("public function __toString()", "return '';", "protocol_method"),
        ("public function __callStatic($a, $b)", "return '';", "protocol_method"),
        ("public function __own()", "return 1;", None),
        ("public function testAdd()", "add();", "test_function"),
        ("public function test_add()", "add();", "test_function"),
        ("protected function setUp()", "add();", "test_function"),
        ("public function testLimit($limit)", "add();", None),
        ("public function testify()", "add();", None),
        ("function f()", "", "trivial_body"),
        ("function f()", "// later", "trivial_body"),
        ("function f()", "throw new E();", "trivial_body"),
        ("function f()", "return null;", None),
        ("function f()", "if ($x) { throw new E(); } return 1;", None),
        ("function f()", "return (1 +* 2;", "parse_error"),
    ],
)
def test_exclusions(head, body, reason):
    assert method(head, body).reason == reason


def test_a_function_may_have_the_name_of_a_magic_method():
    assert only("<?php\n/** Translates. */\nfunction __get($a) {\n  return $a;\n}").reason is None


@pytest.mark.parametrize(
    ("within", "reason"),
    [
        ("class ParserTest", "test_function"),
        ("class Tests_Parser", "test_function"),
        ("class Parser extends TestCase", "test_function"),
        (r"class Parser extends \PHPUnit\Framework\TestCase", "test_function"),
        ("class Latest", None),
        ("trait A", None),
        ("enum A", None),
    ],
)
def test_methods_of_test_classes_are_excluded(within, reason):
    assert method("public function f()", within=within).reason == reason


def test_methods_without_a_body_are_excluded():
    found = functions("""
        <?php
        interface A { /** What it does. */ public function f(); }
        abstract class B { /** What it does. */ abstract public function g(); }
        """)
    assert [(each.name, each.reason) for each in found] == [("f", "no_body"), ("g", "no_body")]


def test_methods_of_an_anonymous_class_are_mined_where_no_function_is_around_it():
    found = functions("""
        <?php
        $a = new class { /** Inside a statement. */ function a() { return 1; } };
        /** Outer. */
        function outer() { return new class { /** Inside a function. */ function b() { return 1; } }; }
        """)
    assert [each.name for each in found] == ["a", "outer"]


@pytest.mark.parametrize(
    ("code", "stripped"),
    [
        ("function f() { return 1; }", "function f() { return 1; }"),
        ("/** doc */\nprivate static function f() { return 1; }", "private static function f() { return 1; }"),
        ("function f() { return 1; } function g() { return 2; }", None),
        ("<?php function f() { return 1; }", None),
        ("function f() { return 1; } }", None),
        ("return 1;", None),
    ],
)
def test_one_function_alone_is_parsed_as_a_member_of_a_class(code, stripped):
    assert strip_documentation(code, PHP) == stripped


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("p/src/Parser.php", None),
        ("p/src/Latest.php", None),
        ("p/src/contest.php", None),
        ("p/Tests/Parser.php", "test_file"),
        ("p/src/ParserTest.php", "test_file"),
        ("p/src/ParserTestCase.php", "test_file"),
        ("p/src/ParserCest.php", "test_file"),
        ("p/src/test-parser.php", "test_file"),
        ("p/src/parser_test.php", "test_file"),
        ("p/vendor/a/src/A.php", "vendored_file"),
        ("p/var/cache/A.php", "generated_file"),
    ],
)
def test_path_exclusion(path, reason):
    assert path_exclusion(path, PHP) == reason


def test_a_folder_with_a_composer_file_is_one_project(tmp_path):
    (tmp_path / "composer.json").write_text("{}")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.php").write_text("<?php\n")
    assert {each.package for each in source_folder(tmp_path, PHP).sources} == {tmp_path.name}


@pytest.mark.parametrize(
    "source",
    [b"", b"/** */", b"<?php /**", b"<?php /** */ function f(", b"<?php /** \xff", b"<p>/** */ function f() {}"],
)
def test_odd_sources_give_functions_or_nothing(source):
    assert all(function.reason is not None for function in functions_in(source, PHP))
