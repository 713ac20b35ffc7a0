import textwrap

import pytest

from softnce_ray.corpus.languages import LANGUAGES, functions_in, strip_documentation

PYTHON = LANGUAGES["python"]


def functions(source):
    return list(functions_in(textwrap.dedent(source).encode(), PYTHON))


def only(source):
    (function,) = functions(source)
    return function


def test_code_has_neither_docstring_nor_decorator_nor_margin():
    function = only('''
        class A:
            @property
            def size(self):  # bytes
                """The size
                of it."""
                # counted
                if self:
                    return 1
                return 0
        ''')
    assert function.name == "size"
    assert function.line == 4
    assert function.documentation.startswith("The size\n")
    assert function.code == ("def size(self):  # bytes\n    # counted\n    if self:\n        return 1\n    return 0")
    assert function.reason is None


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ('def f(): "doc"; return 1', "def f(): return 1"),
        ('def f():\n    # why\n    "doc"; return 1', "def f():\n    # why\n    return 1"),
        ('def f():\n    "doc"  # noqa\n    return 1', "def f():  # noqa\n    return 1"),
        ('async def f():\n    "doc"\n    return 1', "async def f():\n    return 1"),
        ('def f():\r\n    "doc"\r\n    return 1\r\n', "def f():\n    return 1"),
    ],
)
def test_code_stays_valid_without_its_docstring(source, code):
    function = only(source)
    assert function.code == code
    compile(code, "code", "exec")


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ('"doc"', "doc"),
        ('"""a\n    b"""', "a\n    b"),
        ('r"a\\d"', "a\\d"),
        ('"a\\x41"', "aA"),
        ('("a"\n    "b")', None),  # parentheses: not a plain string statement for us
        ('"a" "b"', "ab"),
        ('u"doc"', "doc"),
        ('f"doc"', None),
        ('b"doc"', None),
        ('""', None),
        ('"a", "b"', None),
        ('x = "doc"', None),
    ],
)
def test_documentation_is_the_first_string_literal(literal, text):
    function = only(f"def f():\n    {literal}\n    return 1")
    if text is None:
        assert function.reason == "no_documentation"
    else:
        assert (function.documentation, function.reason) == (text, None)


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("__init__", "self.x = 1", "constructor"),
        ("__new__", "return 1", "constructor"),
        ("__len__", "return 1", "protocol_method"),
        ("test_add", "return 1", "test_function"),
        ("testAdd", "return 1", "test_function"),
        ("setUp", "return 1", "test_function"),
        ("f", "pass", "trivial_body"),
        ("f", "...", "trivial_body"),
        ("f", "raise NotImplementedError('x')", "trivial_body"),
        ("f", "return NotImplemented", "trivial_body"),
        ("f", "# only a comment", "trivial_body"),
        ("f", "return None", None),
        ("f", "x = 1\n    raise ValueError", None),
        ("testify", "return 1", None),
        ("latest_test", "return 1", None),
    ],
)
def test_exclusions(name, body, reason):
    assert only(f'def {name}(self):\n    "doc"\n    {body}\n').reason == reason


def test_functions_inside_functions_are_not_mined():
    names = [
        function.name
        for function in functions("""
        def outer():
            "doc"
            def inner():
                "doc"
                return 1
            class Local:
                def method(self):
                    "doc"
            return inner
        class Outer:
            class Inner:
                def method(self):
                    "doc"
                    return 1
        """)
    ]
    assert names == ["outer", "method"]


def test_a_broken_function_does_not_spoil_the_others():
    found = functions("""
        def good():
            "doc"
            return 1

        def broken():
            "doc"
            return (1 +* 2
        """)
    assert [(function.name, function.reason) for function in found] == [
        ("good", None),
        ("broken", "parse_error"),
    ]


@pytest.mark.parametrize("source", [b"", b"\xff\xfe", b"def", b"def f(", b"(" * 5000, b"\x00def f(): 1"])
def test_odd_sources_give_functions_or_nothing(source):
    assert all(function.reason is not None for function in functions_in(source, PYTHON))


def test_strip_documentation():
    assert strip_documentation('def f(self):\n        """doc"""\n        return 1', PYTHON) == (
        "def f(self):\n        return 1"
    )
    assert strip_documentation("def f ( self ) : a = 1 return a", PYTHON) is None
    assert strip_documentation("x = 1", PYTHON) is None
