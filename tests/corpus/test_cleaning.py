import pytest

from softnce_ray.corpus.cleaning import Drop, check_code, clean_query, first_paragraph, is_english

QUERIES = [
    # documentation, query
    ("Parse a date string.", "Parse a date string."),
    ("\n    Parse a date\n    string.\n\n    More about it.\n    ", "Parse a date string."),
    ("Parse a date.\n:param text: what to parse", "Parse a date."),
    ("Parse a date. :param text: what to parse", "Parse a date."),
    ("Parse a date.\n@param text what to parse", "Parse a date."),
    ("Parse a date.\nArgs:\n    text: what to parse", "Parse a date."),
    ("Parse a date.\nParameters\n----------\ntext : str", "Parse a date."),
    ("Parse a date.\nReturns\n-------\ndate", "Parse a date."),
    ("Parse a date.\nReturns: a date", "Parse a date."),
    ("Parse a date.\n>>> parse('1')\n1", "Parse a date."),
    ("Parse a date.\n.. versionadded:: 3", "Parse a date."),
    ("Parse a date.\n- iso\n- rfc", "Parse a date."),
    ("Parse a date\n============\nLong text.", "Parse a date"),
    ("Returns the sum of all values.", "Returns the sum of all values."),
    ("parse(text, strict=False) -> date\n\nParse a date.", "Parse a date."),
    ('!!! warning "Old"\n    Use another.\n\nParse a date.', "Parse a date."),
    ("Make a :class:`~datetime.date` now", "Make a date now"),
    ("Make a :func:`date <datetime.date>` now", "Make a date now"),
    ("Make a :py:meth:`date.today` now", "Make a date.today now"),
    ("Make a [`~datetime.date`] now", "Make a date now"),
    ("Make a ``date`` now", "Make a date now"),
    ("Make a `date` now", "Make a date now"),
    ("Make a `date' now", "Make a date now"),
    ("Make a **new** *date* now", "Make a new date now"),
    ("Make a [date](https://x.org/d) now", "Make a date now"),
    ("Pass *args and **kwargs on", "Pass *args and **kwargs on"),
    ("Call __init__ of the parent", "Call __init__ of the parent"),
    ("`bool`: Whether it is closed.", "Whether it is closed."),
    ("Optional[str]: The name it has.", "The name it has."),
    ("Café prices are added up", "Café prices are added up"),
]

DROPS = [
    ("", "no_description"),
    ("  \n ", "no_description"),
    (":param x: a number", "no_description"),
    ("Args:\n    x: a number", "no_description"),
    ("x (int, optional): How many there are.", "no_description"),
    ("x : array_like of numbers\n    What is added.", "no_description"),
    (">>> add(1, 2)\n3", "no_description"),
    ("Add numbers.", "query_too_short"),
    ("word " * 257, "query_too_long"),
    ("See https://example.org for the idea", "refers_elsewhere"),
    ("Idea of https://example.org made faster", "has_url"),
    ("Idea of www.example.org made faster", "has_url"),
    ("Make the <b>sum</b> of numbers", "has_html"),
    ("Make the sum &amp; the product", "has_html"),
    ("计算 所有 数字 的 总和", "not_english"),
    ("вычислить сумму всех чисел", "not_english"),
    ("f(x) = x**2 + 2*x + 1", "not_prose"),
    ("1 2 3 4", "not_english"),
    ("TODO write this down soon", "placeholder"),
    ("Docstring goes here, some day", "placeholder"),
    ("(This docstring will be overwritten)", "placeholder"),
    ("Add a docstring here", "placeholder"),
    ("Not implemented yet for this", "placeholder"),
    ("Same as other but faster", "refers_elsewhere"),
    ("Override the base class method", "refers_elsewhere"),
    ("noqa: D102 because of reasons", "lint_directive"),
    ("pylint: disable=missing-docstring and more", "lint_directive"),
    ("type: ignore it all here", "lint_directive"),
    ("src/main/run.py", "path"),
    ("src/main/run.py lib/other/run.py run.py", "path"),
    ("Has a \x00 character in it", "unprintable"),
    ("Has a \ud800 character in it", "unprintable"),
]


@pytest.mark.parametrize(("documentation", "query"), QUERIES)
def test_clean_query_keeps_the_description(documentation, query):
    assert clean_query(documentation) == query


@pytest.mark.parametrize(("documentation", "reason"), DROPS)
def test_clean_query_says_why_it_drops(documentation, reason):
    assert clean_query(documentation) == Drop(reason)


def test_query_length_bounds_are_inclusive():
    assert clean_query("add two numbers") == "add two numbers"
    assert clean_query(" ".join(["word"] * 256)) == " ".join(["word"] * 256)


def test_first_paragraph_understands_windows_line_ends():
    assert first_paragraph("Add two\r\nnumbers.\r\n\r\nMore.") == "Add two numbers."


@pytest.mark.parametrize(("text", "english"), [("abcdefghié", True), ("abcdefgéé", False), ("123", False)])
def test_english_is_nine_tenths_ascii_letters(text, english):
    assert is_english(text) is english


@pytest.mark.parametrize(
    ("code", "drop"),
    [
        ("def f():\n    a = 1\n    return a", None),
        ("def f():\n\n    return 1\n\n", Drop("code_too_short")),
        (" \n\n", Drop("empty_code")),
        ("def f():\n    a = '\x00'\n    return a", Drop("unprintable")),
    ],
)
def test_check_code(code, drop):
    assert check_code(code) == drop
