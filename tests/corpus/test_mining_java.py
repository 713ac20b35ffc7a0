import textwrap

import pytest

from softnce_ray.corpus.cleaning import Drop, clean_query
from softnce_ray.corpus.languages import LANGUAGES, functions_in, strip_documentation
from softnce_ray.corpus.mining import mine_file
from softnce_ray.corpus.sources import Source, path_exclusion, source_folder

JAVA = LANGUAGES["java"]


def functions(source):
    return list(functions_in(textwrap.dedent(source).encode(), JAVA))


def only(source):
    (function,) = functions(source)
    return function


def documented(comment):
    """What a comment gives as documentation of a method with a body."""
    function = only(f"class A {{\n{comment}\nint f(int a) {{\n  return a + 1;\n}}\n}}")
    return function.documentation if function.reason is None else function.reason


def method(head, body="return 1;", within="class A"):
    return only(f"{within} {{\n  /** What it does. */\n  {head} {{ {body} }}\n}}")


def test_a_mined_method_keeps_annotations_and_modifiers_and_loses_its_comment(tmp_path):
    (tmp_path / "A.java").write_text(
        textwrap.dedent("""
            /*
             * Copyright (c) somebody
             */
            package a;

            /** A class. */
            public class A<T> {
                private int size; /** how many */

                /**
                 * Returns the greatest element of {@code items}.
                 *
                 * @param items what to look at
                 */
                @SuppressWarnings("unchecked")
                public static <T extends Comparable<T>> T max(List<T> items) throws E {
                    // the first wins
                    return items.get(0);
                }
            }
            """)
    )
    (pair,) = mine_file(Source("p", "a/A.java", str(tmp_path / "A.java")), JAVA).pairs
    assert pair.query == "Returns the greatest element of items."
    assert pair.name == "max"
    assert pair.language == "java"
    assert pair.code == (
        '@SuppressWarnings("unchecked")\n'
        "public static <T extends Comparable<T>> T max(List<T> items) throws E {\n"
        "    // the first wins\n"
        "    return items.get(0);\n"
        "}"
    )
    assert strip_documentation(pair.code, JAVA) == pair.code


@pytest.mark.parametrize(
    ("before", "text"),
    [
        ("/** The doc. */", "The doc."),
        ("/** The doc. */\n\n\n", "The doc."),
        ("/** Other. */\n/** The doc. */", "The doc."),
        ("/* x */ /** The doc. */", "The doc."),
        ("/** The doc. */ int g;", None),
        ("/** The doc. */ static { g(); }", None),
        ("/** The doc. */\n// a note", None),
        ("int g; /** The doc of g. */", None),
        ("void g() { } /** The doc of g. */", None),
        ("// The doc.", None),
        ("/* The doc. */", None),
        ("/*** The doc. ***/", None),
        ("/**/", None),
        ("/** */", None),
    ],
)
def test_documentation_is_the_doc_comment_directly_before(before, text):
    found = functions(f"/** A class. */ class A {{\n{before}\nint f() {{\n  return 1;\n}}\n}}")[-1]
    assert (found.documentation or None) == text
    assert found.reason == (None if text else "no_documentation")


def test_a_doc_comment_below_the_annotations_is_documentation_and_no_code():
    function = only("class A {\n  @Override\n  /** The doc. */\n  public int f() {\n    return 1;\n  }\n}")
    assert function.documentation == "The doc."
    assert function.code == "@Override\npublic int f() {\n  return 1;\n}"


def test_a_method_on_one_line_with_its_comment_is_documented():
    assert only("class A { int g; /** The doc. */ int f() { return 1; } }").code == "int f() { return 1; }"


@pytest.mark.parametrize(
    ("comment", "query"),
    [
        ("Parses {@code x < y && z > {d}} now.", "Parses x < y && z > {d} now."),
        ("Parses {@literal <x> @y} now.", "Parses <x> @y now."),
        ("Reads as {@link java.util.List#get(int) a list} does.", "Reads as a list does."),
        ("Reads as {@link java.util.List#get(int)} does.", "Reads as List.get(int) does."),
        ("Reads as {@link #read(byte[], int)} does.", "Reads as read(byte[], int) does."),
        ("Reads as {@linkplain List the {@code list}} does.", "Reads as the list does."),
        ("Reads at most {@value #MAX} bytes.", "Reads at most MAX bytes."),
        ("Reads a <code>byte</code> or <i>two</i><br>of them.", "Reads a byte or two of them."),
        ('Reads a <a href="#x">byte</a> now.', "Reads a byte now."),
        ("Reads if x &lt; y &amp;&amp; z&nbsp;&gt;&#32;d.", "Reads if x < y && z > d."),
        ("Shows {@code <T>} as <code>it</code> is.", "Shows <T> as it is."),
        ("Reads 2<sup>32</sup> or the n<sup>th</sup> x<sub>i</sub>.", "Reads 2^32 or the nth x_i."),
        ("Reads a List<String> of words.", "Reads a List<String> of words."),
        ("Reads the first. <p> The rest is skipped.", "Reads the first."),
        ("Reads the first.<P>The rest is skipped.", "Reads the first."),
        ("<p>Reads the first.</p><p>The rest is skipped.</p>", "Reads the first."),
        ("Reads one of\n * <ul>\n * <li>this</ul>", "Reads one of"),
        ("Reads the first. Special cases:\n * <ul>\n * <li>this</ul>", "Reads the first."),
        ("Reads the first, as in:\n * <pre>{@code f()}</pre>", "Reads the first, as in:"),
        ("Reads one line <!-- or\n * two --> of text.\n * @since 1", "Reads one line of text."),
        ("Reads '\\u005Cu002D' signs \\u2014 only.", "Reads '\\u002D' signs \u2014 only."),
        ("{@return the size of the list}", "Returns the size of the list."),
        ("Uses unclosed {@code braces in text", "Uses unclosed braces in text"),
    ],
)
def test_the_query_is_what_a_reader_sees(comment, query):
    assert clean_query(documented(f"/**\n * {comment}\n */")) == query


@pytest.mark.parametrize("text", ["Writes the <title> of a page.", "Writes a <p> here or there."])
def test_tags_that_are_spoken_of_are_left_for_the_cleaning_to_drop(text):
    assert clean_query(documented(f"/** {text} */")) == Drop("has_html")


def test_code_is_shown_as_it_is():
    assert documented("/** Shows {@code &lt;} as <code>&lt;</code>. */") == "Shows &lt; as <."


@pytest.mark.parametrize(
    "comment",
    [
        "/** {@inheritDoc} */",
        "/**\n * {@inheritDoc}\n * <p>And more of it.\n */",
        "/**\n * @return the size\n */",
        "/** @see #f */",
        "/**\n * <pre>f()</pre>\n */",
        "/** compiler.err.wrong=\\\n * something is wrong\n */",
    ],
)
def test_comments_that_describe_nothing_are_no_documentation(comment):
    assert documented(comment) == "no_documentation"


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        ("A()", "x = 1;", "constructor"),
        ("public boolean equals(Object o)", "return true;", "protocol_method"),
        ("@Override public String toString()", 'return "";', "protocol_method"),
        ("private void writeObject(ObjectOutputStream s)", "s.flush();", "protocol_method"),
        ("static String toString(int[] a)", 'return "";', None),
        ("static boolean equals(int a, int b)", "return a == b;", None),
        ("@Test void adds()", "add();", "test_function"),
        ("@org.junit.Before public void prepare()", "add();", "test_function"),
        ("public void testAdd()", "add();", "test_function"),
        ("public void setUp()", "add();", "test_function"),
        ("public boolean testBit(int n)", "return true;", None),
        ("@Testable void f()", "add();", None),
        ("void f()", "", "trivial_body"),
        ("void f()", "// later", "trivial_body"),
        ("int f()", "throw new E();", "trivial_body"),
        ("Object f()", "return null;", None),
        ("int f()", "if (x) throw new E(); return 1;", None),
        ("int f()", "return (1 +* 2;", "parse_error"),
    ],
)
def test_exclusions(head, body, reason):
    assert method(head, body).reason == reason


@pytest.mark.parametrize(
    ("within", "reason"),
    [
        ("class ParserTest", "test_function"),
        ("class TestParser", "test_function"),
        ("class Parser extends junit.framework.TestCase", "test_function"),
        ("class Testimony", None),
        ("class Latest", None),
        ("interface A", None),
        ("record A(int x)", None),
        ("enum A { X, Y; class B", None),
    ],
)
def test_methods_of_test_classes_are_excluded(within, reason):
    source = f"{within} {{\n/** What it does. */\npublic int f() {{ return 1; }}\n}}" + "}" * within.count("{")
    assert only(source).reason == reason


@pytest.mark.parametrize("head", ["abstract int f();", "native int f();"])
def test_methods_without_a_body_are_excluded(head):
    assert only(f"class A {{ /** What it does. */ {head} }}").reason == "no_body"


def test_methods_of_an_interface_need_a_body():
    found = functions("""
        interface A {
            /** What it does. */
            int f();
            /** What it does. */
            default int g() { return 1; }
        }
        """)
    assert [(each.name, each.reason) for each in found] == [("f", "no_body"), ("g", None)]


def test_methods_of_an_anonymous_class_are_mined_where_no_function_is_around_it():
    found = functions("""
        class A {
            A() {
                run(new B() { /** Inside a constructor. */ int a() { return 1; } });
            }
            static final B FIELD = new B() {
                /** Inside a field. */
                int b() { return 1; }
                int undocumented() { return 1; }
            };
            /** Outer. */
            B outer() {
                return new B() { /** Inside a method. */ int c() { return 1; } };
            }
            class Inner { /** Inside a class. */ int d() { return 1; } }
        }
        """)
    assert [each.name for each in found if each.reason is None] == ["b", "outer", "d"]
    assert "int c()" in found[-2].code


@pytest.mark.parametrize(
    ("code", "stripped"),
    [
        ("int f() { return 1; }", "int f() { return 1; }"),
        ("/** doc */\n@Override\npublic int f() { return 1; }", "@Override\npublic int f() { return 1; }"),
        ("public A(int a) { this.a = a; }", "public A(int a) { this.a = a; }"),
        ("default int f() { return 1; }", "default int f() { return 1; }"),
        ("int f() { return 1; } int g() { return 2; }", None),
        ("int x; int f() { return 1; }", None),
        ("int f() { return 1; } }", None),
        ("return 1;", None),
    ],
)
def test_one_method_alone_is_parsed_as_a_member_of_a_class(code, stripped):
    assert strip_documentation(code, JAVA) == stripped


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("p/src/main/java/a/Parser.java", None),
        ("p/src/main/java/a/Testimony.java", None),
        ("p/src/main/java/a/Latest.java", None),
        ("p/src/latest/java/a/A.java", None),
        ("p/src/test/java/a/A.java", "test_file"),
        ("p/src/testFixtures/java/a/A.java", "test_file"),
        ("p/src/integrationTest/java/a/A.java", "test_file"),
        ("p/a/ParserTest.java", "test_file"),
        ("p/a/ParserTests.java", "test_file"),
        ("p/a/TestParser.java", "test_file"),
        ("p/a/ParserIT.java", "test_file"),
        ("p/target/generated-sources/a/A.java", "generated_file"),
        ("p/third_party/a/A.java", "vendored_file"),
    ],
)
def test_path_exclusion(path, reason):
    assert path_exclusion(path, JAVA) == reason


def test_a_folder_with_a_pom_is_one_project(tmp_path):
    (tmp_path / "pom.xml").write_text("")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "A.java").write_text("class A {}")
    assert {each.package for each in source_folder(tmp_path, JAVA).sources} == {tmp_path.name}


@pytest.mark.parametrize(
    "source", [b"", b"/**", b"/** */ int f(", b"/** \xff */ int f() {}", b"/** {@code {{{ */ int f() { }", b"/**" * 999]
)
def test_odd_sources_give_functions_or_nothing(source):
    assert all(function.reason is not None for function in functions_in(source, JAVA))


def test_lines_that_end_as_on_windows_are_read():
    function = only(
        "class A {\r\n  /**\r\n   * The doc\r\n   * of it.\r\n   */\r\n  int f() {\r\n    return 1;\r\n  }\r\n}"
    )
    assert (function.documentation, function.code) == ("The doc\nof it.", "int f() {\n  return 1;\n}")
