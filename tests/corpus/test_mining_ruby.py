import textwrap
from collections import Counter

import pytest

from softnce_ray.corpus.languages import LANGUAGES, functions_in, strip_documentation
from softnce_ray.corpus.mining import mine_file
from softnce_ray.corpus.ruby_functions import strip_rdoc
from softnce_ray.corpus.sources import Source, path_exclusion, source_folder

RUBY = LANGUAGES["ruby"]
METHOD = "def add(a, b)\n  total = a + b\n  total\nend"


def functions(source):
    return list(functions_in(textwrap.dedent(source).encode(), RUBY))


def only(source):
    (function,) = functions(source)
    return function


def above(comment):
    """What the comment directly above a method documents it with; None when it is not documented."""
    function = only(f"x = 1\n{comment}\n{METHOD}\n")
    assert function.reason in (None, "no_documentation")
    return function.documentation if function.reason is None else None


def test_a_run_of_line_comments_is_the_documentation_and_no_part_of_the_code():
    function = only("""
        class A
          # Adds
          # two numbers.
          def add(a, b)
            # carefully
            a + b
          end
        end
        """)
    assert (function.name, function.line, function.reason) == ("add", 5, None)
    assert function.documentation == "Adds\ntwo numbers."
    assert function.code == "def add(a, b)\n  # carefully\n  a + b\nend"


def test_a_block_comment_is_documentation():
    assert above("=begin\nAdds two numbers.\n=end") == "Adds two numbers."
    assert above("=begin rdoc\nAdds two numbers.\n=end") == "Adds two numbers."


def test_a_blank_line_parts_a_comment_from_the_method():
    assert above("# Adds two numbers.\n") is None
    assert above("# About numbers.\n\n# Adds two numbers.") == "Adds two numbers."


@pytest.mark.parametrize("before", ["total = 1 # so far", "attr_reader :total # so far", "private # from here on"])
def test_a_comment_at_the_end_of_the_statement_before_is_no_documentation(before):
    assert above(before) is None
    assert above(f"{before}\n# Adds two numbers.") == "Adds two numbers."


@pytest.mark.parametrize(
    "opening",
    [
        "class A # trailing",
        "class << self # trailing",
        "Class.new do # trailing",
        "if x # trailing",
        "unless x",
        "begin",
        "begin\n  x\nrescue Error # trailing",
    ],
)
def test_the_first_method_of_a_body_has_the_comment_above_it(opening):
    method = textwrap.indent(METHOD, "  ")
    assert only(f"{opening}\n  # Adds two numbers.\n{method}\nend\n").documentation == "Adds two numbers."
    assert only(f"{opening}\n{method}\nend\n").reason == "no_documentation"


@pytest.mark.parametrize("word", ["private", "memoize", "private_class_method", "helper_method(", "private memoize"])
def test_a_method_as_an_argument_has_the_comment_above_its_statement(word):
    close = ")" if word.endswith("(") else ""
    function = only(f"class A\n  x\n  # Adds two numbers.\n  {word} def add\n    x\n    y\n  end{close}\nend")
    assert (function.name, function.documentation) == ("add", "Adds two numbers.")
    assert function.code == "def add\n  x\n  y\nend"


def test_methods_of_the_class_are_mined_too():
    found = functions("""
        class A
          # Adds two numbers.
          def self.add(a, b)
            a + b
          end
          class << self
            # Takes one from the other.
            def sub(a, b)
              a - b
            end
          end
        end
        """)
    assert [(each.name, each.documentation) for each in found] == [
        ("add", "Adds two numbers."),
        ("sub", "Takes one from the other."),
    ]


@pytest.mark.parametrize(
    "comment",
    [
        "# Copyright (c) 2010 Somebody",
        "# Copyright 2010, Somebody\n# All rights reserved.",
        "# Permission is hereby granted, free of charge",
        "=begin\nLicensed under the MIT licence\n=end",
    ],
)
def test_a_licence_is_no_documentation(comment):
    assert above(comment) is None


@pytest.mark.parametrize(
    "directive",
    [
        "#!/usr/bin/env ruby",
        "# rubocop:disable Metrics/AbcSize",
        "# frozen_string_literal: true",
        "# -*- coding: utf-8 -*-",
        "# encoding: utf-8",
        "# typed: strict",
        "# :nodoc:",
        "#:nodoc: all",
        "# :category: Adding",
        "# :yields: a, b",
        "# @!visibility private",
        "# steep:ignore",
    ],
)
def test_directives_are_taken_out_of_a_run(directive):
    assert above(directive) is None
    assert above(f"{directive}\n# Adds two numbers.") == "Adds two numbers."
    assert above(f"# Adds\n{directive}\n# two numbers.") == "Adds\ntwo numbers."


@pytest.mark.parametrize(
    "tag",
    [
        "@param a [Integer] one",
        "@return [Integer] all",
        "@api private",
        "@option opts [String] :a",
        "@overload add(a)",
        "@yieldparam a [Integer]",
        "@todo more",
    ],
)
def test_yard_tags_end_the_description(tag):
    assert above(f"# {tag}") is None
    assert above(f"# {tag}\n#   and so on") is None
    assert above(f"# Adds two numbers.\n# {tag}") == "Adds two numbers."


def test_an_instance_variable_is_no_tag():
    assert above("# Adds to\n# @total what is new.") == "Adds to\n@total what is new."


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("# :call-seq:\n#   add(a, b) -> Integer\n#   add(a) -> Integer\n#\n# Adds them.", "Adds them."),
        ("# call-seq:\n#   add(a, b) -> Integer\n# Adds them.", "Adds them."),
        ("# call-seq: add(a, b)\n#\n# Adds them.", "Adds them."),
        ("# Adds them.\n#\n# :call-seq:\n#   add(a, b)", "Adds them."),
        ("# call-seq:\n#   add(a, b) -> Integer", None),
        ("#--\n# Not for readers.\n#++\n# Adds them.", "Adds them."),
        ("# Adds them.\n#--\n# Not for readers.", "Adds them."),
        ("# Adds them.\n# --\n# Not for readers.\n# ++\n# All.", "Adds them.\nAll."),
        ("##\n# Adds them.", "Adds them."),
        ("# == Adding\n# Adds them.", "Adds them."),
        ("# == Usage\n#\n#   add(1, 2)\n#\n# == Description\n#\n# Adds them.", "Adds them."),
        ("# == Args\n#\n# +a+::\n#   one\n#\n# == Description\n#\n# Adds them.", "Adds them."),
        ("# Returns:: the sum, or nil for what\n# belongs to no sum.", None),
        ("# [EXPERIMENTAL]\n# Adds them.", "Adds them."),
        ("# Adds them.\n# [a] one\n# [b] two", "Adds them."),
        ("# Adds them.\n# a:: one", "Adds them."),
        ("# Adds them:\n#   add(1, 2)", "Adds them:"),
        ("# Adds all\n#   of them.", "Adds all\n  of them."),
        ("# Public: Adds them.", "Adds them."),
        ("# Adds them.\n# TODO: faster", "Adds them."),
        ("# ---- numbers ----\n# Adds them.", "Adds them."),
        ("# Sum = Number '+' Number", None),
    ],
)
def test_what_rdoc_and_yard_show(comment, text):
    assert above(comment) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Adds +a+ and +b[0]+", "Adds a and b[0]"),
        ("Adds <tt>a</tt> and <code>b</code>", "Adds a and b"),
        ("Adds *all* of _them_.", "Adds all of them."),
        ("See {the list}[https://example.org] of numbers", "See the list of numbers"),
        ("See list[https://example.org] or list[rdoc-ref:List]", "See list or list"),
        ("Adds to {List#total} as {#sub} does", "Adds to List#total as sub does"),
        ("Adds to {List#total the total}", "Adds to the total"),
        ("Calls #sub and \\List", "Calls sub and List"),
        (
            "List#total, a_b_c, __send__, 1 + 2 + 3, a*b*c, {a: 1}",
            "List#total, a_b_c, __send__, 1 + 2 + 3, a*b*c, {a: 1}",
        ),
        ("The partial _form.html.erb and issue #12", "The partial _form.html.erb and issue #12"),
    ],
)
def test_rdoc_markup_becomes_what_a_reader_sees(markup, text):
    assert strip_rdoc(markup) == text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("add", None),
        ("empty?", None),
        ("total=(value)", None),
        ("+(other)", None),
        ("initialize(a)", "constructor"),
        ("initialize_copy(a)", "constructor"),
        ("self.new(a)", "constructor"),
        ("to_s", "protocol_method"),
        ("inspect", "protocol_method"),
        ("==(other)", "protocol_method"),
        ("<=>(other)", "protocol_method"),
        ("hash", "protocol_method"),
        ("method_missing(name)", "protocol_method"),
        ("respond_to_missing?(name)", "protocol_method"),
        ("self.inherited(base)", "protocol_method"),
        ("test_add", "test_function"),
        ("testify", None),
    ],
)
def test_exclusions_by_name(name, reason):
    assert only(f"# Does a thing.\ndef {name}\n  x\n  y\nend").reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "trivial_body"),
        ("# nothing yet", "trivial_body"),
        ("nil", "trivial_body"),
        ("super", "trivial_body"),
        ("raise NotImplementedError", "trivial_body"),
        ("raise NotImplementedError, 'in a subclass'", "trivial_body"),
        ("raise", "trivial_body"),
        ("1", None),
        ("super + 1", None),
        ("x\nraise ArgumentError", None),
    ],
)
def test_exclusions_by_body(body, reason):
    assert only(f"# Does a thing.\ndef add\n{body}\nend").reason == reason


def test_a_method_without_end_is_too_short(tmp_path):
    file = tmp_path / "a.rb"
    file.write_text("# Adds two numbers up.\ndef add(a, b) = a + b\n")
    assert mine_file(Source("a", "a.rb", str(file)), RUBY).dropped_functions == Counter(code_too_short=1)


def test_methods_inside_methods_are_not_mined():
    found = functions("# Adds.\ndef outer\n  # Adds too.\n  def inner\n    1\n  end\n  inner\nend\n")
    assert [each.name for each in found] == ["outer"]


@pytest.mark.parametrize("source", [b"", b"\xff\xfe", b"def ", b"def f(", b"(" * 5000, b"# a\ndef f; end", b"=begin\n"])
def test_odd_sources_give_functions_or_nothing(source):
    assert all(function.reason is not None for function in functions_in(source, RUBY))


def test_carriage_returns_are_no_part_of_text_or_code():
    function = only(f"# Adds\n# numbers.\n{METHOD}\n".replace("\n", "\r\n"))
    assert (function.documentation, function.code) == ("Adds\nnumbers.", METHOD)


def test_one_method_alone_is_found():
    assert strip_documentation(METHOD, RUBY) == METHOD


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gem/lib/a.rb", None),
        ("gem/lib/latest.rb", None),
        ("gem/spec/a.rb", "test_file"),
        ("gem/test/a.rb", "test_file"),
        ("gem/lib/a_spec.rb", "test_file"),
        ("gem/lib/a_test.rb", "test_file"),
        ("gem/lib/test_a.rb", "test_file"),
        ("gem/spec_helper.rb", "test_file"),
        ("gem/vendor/a.rb", "vendored_file"),
    ],
)
def test_path_exclusion(path, reason):
    assert path_exclusion(path, RUBY) == reason


def test_a_folder_with_a_gemfile_is_one_package(tmp_path):
    (tmp_path / "Gemfile").write_text("")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.rb").write_text(METHOD)
    assert {source.package for source in source_folder(tmp_path, RUBY).sources} == {tmp_path.name}


def test_mining_a_file(tmp_path):
    file = tmp_path / "a.rb"
    file.write_text(f"# frozen_string_literal: true\n\n# Adds +a+ and +b+ up.\n{METHOD}\n\ndef b\n  1\nend\n")
    batch = mine_file(Source("a", "a.rb", str(file)), RUBY)
    assert [(pair.query, pair.code, pair.line, pair.language) for pair in batch.pairs] == [
        ("Adds a and b up.", METHOD, 4, "ruby")
    ]
    assert batch.dropped_functions == Counter(no_documentation=1)
