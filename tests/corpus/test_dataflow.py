"""Data-flow graphs: worked out by hand for each language, and what holds for all of them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from softnce_ray.corpus.dataflow import COMES_FROM, COMPUTED_FROM, SYNTAXES, data_flow
from softnce_ray.corpus.dataflow.compiled import compile_syntax
from softnce_ray.corpus.dataflow.rules import Assign, Either, Try
from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.pairs import CorpusError


def flows(code: str, language: str) -> list[str]:
    """The graph as lines: `x2 <- x1` for comes from, `x2 = y1` for computed from; x2 is the second x of the code."""
    graph = data_flow(code, language)
    seen: dict[str, int] = {}
    labels = []
    for node in graph.nodes:
        seen[node.name] = seen.get(node.name, 0) + 1
        labels.append(f"{node.name}{seen[node.name]}")
    sign = {COMES_FROM: "<-", COMPUTED_FROM: "="}
    lines: dict[tuple[str, str], list[str]] = {}
    for edge in graph.edges:
        lines.setdefault((labels[edge.node], sign[edge.kind]), []).append(labels[edge.source])
    linked = {label for (node, _), sources in lines.items() for label in (node, *sources)}
    return [f"{node} {how} {' '.join(sources)}" for (node, how), sources in lines.items()] + [
        label for label in labels if label not in linked
    ]


def test_the_publications_example() -> None:
    code = "def max(a, b):\n    x = 0\n    if b > a:\n        x = b\n    else:\n        x = a\n    return x\n"
    graph = data_flow(code, "python")
    assert " ".join(graph.texts(code)) == "def max ( a , b ) : x = 0 if b > a : x = b else : x = a return x"
    assert graph.nodes == (
        (3, "a"),
        (5, "b"),
        (8, "x"),
        (12, "b"),
        (14, "a"),
        (16, "x"),
        (18, "b"),
        (21, "x"),
        (23, "a"),
        (25, "x"),
    )
    assert graph.edges == (
        (3, 1, COMES_FROM),
        (4, 0, COMES_FROM),
        (5, 6, COMPUTED_FROM),
        (6, 1, COMES_FROM),
        (7, 8, COMPUTED_FROM),
        (8, 0, COMES_FROM),
        (9, 5, COMES_FROM),
        (9, 7, COMES_FROM),
    )


PYTHON = '''
def total(xs, limit=none):
    """xs limit total"""
    n, total = 0, limit  # n = xs
    for i, x in pairs(xs):
        if x > limit:
            continue
        elif i:
            total += x
        else:
            break
        n = n + 1
    with open(xs) as f:
        xs.name[n] = f
    big = [y * n for y in xs if y]
    return total if n else big
'''

JAVA = """
public int total(final int[] xs, int limit) throws Oops {
    int n = 0, total = limit;
    for (int i = 0; i < limit; i++) { total += xs[i]; }
    for (int x : xs) { if (x > n) break; n = x; }
    while (n > 0) n--;
    try { this.left = total; total = n; } catch (Oops e) { throw e; }
    switch (n) { case 1: limit = n; break; default: limit = 2; }
    Fn f = (a, b) -> a + b * limit;
    return n > limit ? Math.max(total, n) : f.at(limit);
}
"""

JAVASCRIPT = """
function total({ xs, limit: top = 3 }, ...rest) {
    let n = 0, [a, b] = [top, rest];
    if (a) { let n = 5; b = n; } else { b = 2; }
    for (const x of xs) { n += x; }
    xs.forEach((y) => { n = y; });
    switch (n) { case 1: a = n; case 2: b = a; break; default: a = b; }
    do { n--; } while (n > b);
    return { n, top: `${a} of ${b}` };
}
"""

GO = """
func (t *Table) Total(xs []int, limit int) (n int, err error) {
	a, b := limit, 1
	a, b = b, a
	for i, x := range xs { n += x; if i > a { break } }
	for j := 0; j < n; j++ { b = j }
	if a := b; a > 1 { t.n = a } else { err = fmt.Errorf("x") }
	switch v := t.v.(type) { case int: n = v }
	go func(w int) { limit = w }(a)
	return n + limit, err
}
"""

PHP = """
public function total(array $xs, $limit = null) {
    $n = 0;
    foreach ($xs as $k => $x) { if (!$x) { continue; } $n .= $x; $last = $k; }
    for ($i = 0; $i < $n; $i++) { $limit = $i; }
    list($a, $b) = $xs;
    [$a, $b] = [$b, $a];
    $f = function ($y) use ($n, &$b) { $b = $y; $n = 1; };
    if ($a): $b = $a; elseif ($n): $b = 1; endif;
    $this->sum = $b;
    return $f("$n of", $last, $limit);
}
"""

RUBY = """
def total(xs, limit: 3, &block)
  n, rest = 0, *xs
  xs.each do |x, (y, z)|
    next if x > limit
    n += y
    inner = z
  end
  until n < limit
    n -= 1
  end
  @sum ||= n
  rest = xs.map { |x| x * n } unless block
  begin
    n = rest
  rescue Oops => e
    n = e
  end
  puts inner, @sum, "n"
  n
end
"""


EXPECTED: dict[str, list[str]] = {
    "python": [
        "limit1 = none1",
        "total1 = limit2",
        "limit2 <- limit1",
        "i1 = xs2",
        "x1 = xs2",
        "xs2 <- xs1",
        "x2 <- x1",
        "limit3 <- limit1",
        "i2 <- i1",
        "total2 <- total1",  # and itself, a pass ago
        "total2 = x3",
        "x3 <- x1",
        "n2 = n3",
        "n3 <- n1 n2",
        "xs3 <- xs1",
        "f1 = xs3",
        "xs4 <- xs1",
        "xs4 = f2",
        "n4 <- n1 n2",
        "f2 <- f1",
        "big1 = y1 n5 xs5 y3",
        "y1 <- y2",
        "n5 <- n1 n2",
        "y2 = xs5",
        "xs5 <- xs4",
        "y3 <- y2",
        "total3 <- total1 total2",
        "n6 <- n1 n2",
        "big2 <- big1",
    ],
    "java": [
        "total1 = limit2",
        "limit2 <- limit1",
        "i2 <- i1 i3",
        "limit3 <- limit1",
        "i3 <- i1",
        "total2 <- total1",
        "total2 = xs2 i4",
        "xs2 <- xs1",
        "i4 <- i1 i3",
        "x1 = xs3",
        "xs3 <- xs1",
        "x2 <- x1",
        "n2 <- n1 n3",
        "n3 = x3",
        "x3 <- x1",
        "n4 <- n1 n3 n5",
        "n5 <- n1 n3",
        "total3 <- total1 total2",
        "total4 = n6",
        "n6 <- n1 n3 n5",
        "e2 <- e1",
        "n7 <- n1 n3 n5",
        "limit4 = n8",
        "n8 <- n1 n3 n5",
        "f1 = a2 b2 limit6",
        "a2 <- a1",
        "b2 <- b1",
        "limit6 <- limit4 limit5",
        "n9 <- n1 n3 n5",
        "limit7 <- limit4 limit5",
        "total5 <- total4",  # the handler always throws
        "n10 <- n1 n3 n5",
        "f2 <- f1",
        "limit8 <- limit4 limit5",
    ],
    "javascript": [
        "a1 = top2",
        "b1 = rest2",
        "top2 <- top1",
        "rest2 <- rest1",
        "a2 <- a1",
        "b2 = n3",
        "n3 <- n2",
        "x1 = xs2",
        "xs2 <- xs1",
        "n4 <- n1",  # the inner n has ended
        "n4 = x2",
        "x2 <- x1",
        "xs3 <- xs1",
        "n5 = y2",
        "y2 <- y1",
        "n6 <- n1 n4 n5",
        "a3 = n7",
        "n7 <- n1 n4 n5",
        "b4 = a4",
        "a4 <- a1 a3",  # case 1 goes on here
        "a5 = b5",
        "b5 <- b2 b3",
        "n8 <- n1 n4 n5",
        "n9 <- n8",
        "b6 <- b2 b3 b4",
        "n10 <- n8",
        "a6 <- a1 a3 a5",
        "b7 <- b2 b3 b4",
    ],
    "go": [
        "a1 = limit2",
        "limit2 <- limit1",
        "a2 = b3",
        "b2 = a3",
        "b3 <- b1",
        "a3 <- a1",
        "i1 = xs2",
        "x1 = xs2",
        "xs2 <- xs1",
        "n2 <- n1",
        "n2 = x2",
        "x2 <- x1",
        "i2 <- i1",
        "a4 <- a2",
        "j2 <- j1 j3",
        "n3 <- n1 n2",
        "j3 <- j1",
        "b4 = j4",
        "j4 <- j1 j3",
        "a5 = b5",
        "b5 <- b2 b4",
        "a6 <- a5",
        "t2 <- t1",
        "t2 = a7",
        "a7 <- a5",
        "v1 = t3",
        "t3 <- t1 t2",
        "n4 = v2",
        "v2 <- v1",
        "limit3 = w2",
        "w2 <- w1",
        "a8 <- a2",
        "n5 <- n1 n2 n4",
        "limit4 <- limit1 limit3",
        "err3 <- err1 err2",
    ],
    "php": [
        "xs2 <- xs1",
        "k1 = xs2",
        "x1 = xs2",
        "x2 <- x1",
        "n2 <- n1",
        "n2 = x3",
        "x3 <- x1",
        "last1 = k2",
        "k2 <- k1",
        "i2 <- i1 i3",
        "n3 <- n1 n2",
        "i3 <- i1",
        "limit2 = i4",
        "i4 <- i1 i3",
        "a1 = xs3",
        "b1 = xs3",
        "xs3 <- xs1",
        "a2 = b3",
        "b2 = a3",
        "b3 <- b1",
        "a3 <- a1",
        "f1 = n4 b4",
        "n4 <- n1 n2",
        "b4 <- b2",
        "b5 = y2",
        "y2 <- y1",
        "a4 <- a2",
        "b6 = a5",
        "a5 <- a2",
        "n6 <- n1 n2",  # the function's n is its own
        "this1 = b8",
        "b8 <- b2 b5 b6 b7",  # its b is not
        "f2 <- f1",
        "n7 <- n1 n2",
        "last2 <- last1",
        "limit3 <- limit1 limit2",
        "n5",
    ],
    "ruby": [
        "rest1 = xs2",
        "n1 = xs2",
        "xs2 <- xs1",
        "xs3 <- xs1",
        "x2 <- x1",
        "limit2 <- limit1",
        "n2 <- n1",
        "n2 = y2",
        "y2 <- y1",
        "inner1 = z2",
        "z2 <- z1",
        "n3 <- n1 n2 n4",
        "limit3 <- limit1",
        "n4 <- n1 n2",
        "@sum1 = n5",
        "n5 <- n1 n2 n4",
        "rest2 = xs4 x4 n6",
        "xs4 <- xs1",
        "x4 <- x3",
        "n6 <- n1 n2 n4",
        "block2 <- block1",
        "n7 = rest3",
        "rest3 <- rest1 rest2",
        "n8 = e2",
        "e2 <- e1",
        "@sum2 <- @sum1",
        "n9 <- n7 n8",
    ],
}
CODES = {"python": PYTHON, "java": JAVA, "javascript": JAVASCRIPT, "go": GO, "php": PHP, "ruby": RUBY}


@pytest.mark.parametrize("language", SYNTAXES)
def test_a_function_worked_out_by_hand(language: str) -> None:
    assert sorted(flows(CODES[language], language)) == sorted(EXPECTED[language])


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        # what is no variable
        ("python", "def f(a):\n    a.b(b=a).c", ["a2 <- a1", "a3 <- a1"]),
        ("python", "import a.b\nfrom c import d as e\nx: t = Oops(int)\n@g\nclass D(x): pass", ["x1 = int1"]),
        (
            "java",
            "void f() { Oops.a(this.b); int[] c = (int[]) d.<T>e(Foo::g); h: while (c) break h; }",
            ["c1 = d1", "c2 <- c1"],
        ),
        ("javascript", "class A extends B { f(x) { return <p q={x}>{y.z}</p>; } }", ["x2 <- x1", "y1"]),
        (
            "go",
            "func f[T any](a int) { fmt.P(a, T{A: a}); b := B(a) }",
            ["a2 <- a1", "a3 <- a1", "b1 = a4", "a4 <- a1"],
        ),
        ("php", "function f(A $a) { return A::$b . A::C . g(d: $a) . $a->e; }", ["a2 <- a1", "a3 <- a1"]),
        ("ruby", "def f(a)\n  b + a.c(:d, e: a) + C::D\nend", ["a2 <- a1", "a3 <- a1"]),
        # a called name is one where it is bound
        ("python", "def f(g):\n    g(h())", ["g2 <- g1"]),
        ("javascript", "function f(g) { g(h()); new g(); }", ["g2 <- g1", "g3 <- g1"]),
        ("go", "func f(g func()) { g(); g.x() }", ["g2 <- g1", "g3 <- g1"]),
        ("java", "void f() { Map Map = x; Map.put(Map); }", ["Map1 = x1", "Map2 <- Map1", "Map3 <- Map1"]),
        # names end with their block, function or comprehension
        ("java", "void f() { { int a = 1; } a = a; }", ["a2 = a3", "a1"]),
        ("go", "func f(a int) { if a := g(); a > 1 { a = 2 }; h(a) }", ["a3 <- a2", "a5 <- a1", "a4"]),
        ("go", "func f(a int) { for a := range b { c(a) }; h(a) }", ["a2 = b1", "a3 <- a2", "a4 <- a1"]),
        (
            "javascript",
            "function f(a) { for (const a of b) { c(a); } { var d = 1; } g(a, d); }",
            ["a2 = b1", "a3 <- a2", "a4 <- a1", "d2 <- d1"],
        ),
        (
            "python",
            "def f(a):\n    b = [a for a in a]\n    g(a)",
            ["a2 <- a3", "a3 = a4", "a4 <- a1", "a5 <- a1", "b1 = a2 a4"],
        ),
        ("python", "def f(a):\n    def g():\n        a = 1\n    return a", ["a3 <- a1", "a2"]),
        ("python", "def f(a):\n    def g():\n        nonlocal a\n        a = 1\n    return a", ["a3 <- a1 a2"]),
        (
            "ruby",
            "def f(a)\n  g { |b| a = b; c = b; c }\n  h(a, b, c)\nend",
            ["a2 = b2", "b2 <- b1", "c1 = b3", "b3 <- b1", "c2 <- c1", "a3 <- a1 a2"],
        ),
        (
            "php",
            "function f($a) { $g = fn($b) => $a + $b; $h = function () { return $a; }; }",
            ["a2 <- a1", "b2 <- b1", "g1 = a2 b2", "a3", "h1"],
        ),
        # a function inside another one runs again with what it left
        ("javascript", "function f() { let n = 0; return () => { n += 1; }; }", ["n2 <- n1"]),
        (
            "javascript",
            "function f() { let n = 0, g = () => { h(n); n = 2; }; g(n); }",
            ["n2 <- n1 n3", "n4 <- n1 n3", "g2 <- g1"],
        ),
        # a value from outside is that of its first occurrence
        (
            "python",
            "def f():\n    while a:\n        a = g(a)\n    return a",
            ["a1 <- a2", "a2 = a3", "a3 <- a1", "a4 <- a1"],
        ),
        ("java", "int f() { if (a) { g(b); } else { g(b); } return b; }", ["b3 <- b1 b2", "a1"]),
        # assignments
        ("python", "a = b = c", ["a1 = b1", "b1 = c1"]),
        ("python", "a, (b, c) = d, e", ["a1 = d1", "b1 = e1", "c1 = e1"]),
        ("python", "a, *b = c, d", ["a1 = c1 d1", "b1 = c1 d1"]),
        ("python", "a[b].c[d] = e", ["a1 = e1", "b1", "d1"]),
        ("python", "def f(a, b=c, *d, e: int = g, **h): pass", ["b1 = c1", "e1 = g1", "a1", "d1", "h1"]),
        (
            "python",
            "match a:\n    case B(c=d, e=[f, *g]) if d: h(f, g)\n    case {'k': i} as j: h(i, j)",
            [
                "d1 = a1",
                "f1 = a1",
                "g1 = a1",
                "d2 <- d1",
                "f2 <- f1",
                "g2 <- g1",
                "i1 = a1",
                "j1 = a1",
                "i2 <- i1",
                "j2 <- j1",
            ],
        ),
        ("javascript", "({ a, b: c.d, ...e } = f);", ["a1 = f1", "c1 = f1", "e1 = f1"]),
        ("javascript", "let { a, b: [c, d = e], ...g } = f;", ["a1 = f1", "c1 = f1", "d1 = f1 e1", "g1 = f1"]),
        (
            "go",
            "func f() { var a, b = c, d; x, ok := m[k]; a, b = g(x) }",
            ["a1 = c1", "b1 = d1", "ok1 = m1 k1", "x1 = m1 k1", "a2 = x2", "b2 = x2", "x2 <- x1"],
        ),
        ("php", "function f() { ['k' => $a, 'l' => [$b]] = $c; $d['k'][] = $e; }", ["a1 = c1", "b1 = c1", "d1 = e1"]),
        (
            "ruby",
            "def f(a, (b, *c), d = a, e:, **g)\n  a[b].h = d\nend",
            ["d1 = a2", "a2 <- a1", "a3 <- a1", "b2 <- b1", "a3 = d2", "d2 <- d1", "c1", "e1", "g1"],
        ),
        # ways
        (
            "java",
            "void f(int a) { switch (a) { case 1 -> a = 2; case 3 -> { a = 4; } } g(a); }",
            ["a2 <- a1", "a5 <- a1 a3 a4"],
        ),
        (
            "java",
            "void f(int a) { for (;;) { if (a > 1) { a = 2; break; } a = 3; } g(a); }",
            ["a2 <- a1 a4", "a5 <- a3"],
        ),
        (
            "php",
            "function f($a) { $b = match ($a) { 1 => $c = $a, default => 2 }; g($c); }",
            ["a2 <- a1", "a3 <- a1", "c1 = a3", "b1 = a2 c1", "c2 <- c1"],
        ),
        (
            "python",
            "def f(a):\n try:\n  a = 1\n  return\n except Oops:\n  g(a)\n finally:\n  h(a)\n k(a)",
            ["a3 <- a1 a2", "a4 <- a1 a2", "a5 <- a1 a2"],
        ),
        (
            "python",
            "def f(a):\n    for b in a:\n        if b: break\n    else:\n        b = 2\n    return b",
            ["a2 <- a1", "b1 = a2", "b2 <- b1", "b4 <- b1 b3"],
        ),
        (
            "ruby",
            "def f(a)\n a = 1 if a\n a -= 1 while a > 2\n case a\n when 1 then a = 2\n else a = 3\n end\n a\nend",
            ["a3 <- a1", "a4 <- a1 a2", "a5 <- a1 a2 a4", "a6 <- a1 a2 a4", "a9 <- a7 a8"],
        ),
        # strings
        ("python", "def f(a):\n    g(f'{a}', 'a' 'b')", ["a1"]),
        ("javascript", "function f(a) { g(`${a}`, 'a', `a`); }", ["a2 <- a1"]),
        ("php", 'function f($a) { g("$a {$a->b}", \'$a\', "a"); }', ["a2 <- a1", "a3 <- a1"]),
        ("ruby", "def f(a)\n  g(\"#{a}\", 'a')\nend", ["a1"]),
    ],
)
def test_what_counts(language: str, code: str, expected: list[str]) -> None:
    def parts(lines: list[str]) -> list[list[str]]:
        return sorted([*line.split()[:2], *sorted(line.split()[2:])] for line in lines)

    assert parts(flows(code, language)) == parts(expected)


def test_tokens_are_leaves_without_comments_and_strings_are_one() -> None:
    python = 'def f(é, b):\n    """Doc é."""\n    # é\n    return é + "ab \\" c" \'d\'\n'
    assert data_flow(python, "python").texts(python) == [
        *("def", "f", "(", "é", ",", "b", ")", ":", "return", "é", "+"),
        *('"ab \\" c"', "'d'"),
    ]
    java = "int f() { /* a */ return g('a', \"b c\"); } // d"
    assert data_flow(java, "java").texts(java) == [
        *("int", "f", "(", ")", "{", "return", "g", "(", "'a'", ",", '"b c"', ")", ";", "}")
    ]
    go = 'func f() string {\n\treturn `a b` + "c d" // e\n}'
    assert data_flow(go, "go").texts(go) == ["func", "f", "(", ")", "string", "{", "return", "`a b`", "+", '"c d"', "}"]
    php = 'function f($a) { return "a $a" . "b c"; }'
    assert data_flow(php, "php").texts(php) == [
        *("function", "f", "(", "$", "a", ")", "{", "return"),
        *('"', "a ", "$", "a", '"', ".", '"b c"', ";", "}"),
    ]
    javascript = "f(a => `b ${a}` + `c d`)"
    assert data_flow(javascript, "javascript").texts(javascript) == [
        *("f", "(", "a", "=>", "`", "b ", "${", "a", "}", "`", "+", "`c d`", ")")
    ]
    ruby = "def f\n  \"a #{b}\" + 'c d' # e\nend"
    assert data_flow(ruby, "ruby").texts(ruby) == ["def", "f", '"a #{b}"', "+", "'c d'", "end"]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("java", "public int f(int a) { return a; }"),
        ("java", "class C { int f(int a) { return a; } }"),
        ("java", "int a = 1; while (a) { }"),
        ("php", "public function f($a) { return $a; }"),
        ("php", "function f($a) { return $a; }"),
        ("php", "<?php function f($a) { return $a; }"),
        ("php", "$a = 1; return $a;"),
        ("javascript", "f(a) { return a; }"),
        ("javascript", "function (a) { return a; }"),
        ("go", "package x\nfunc f(a int) int { return a }"),
        ("go", "a := 1; return a"),
        ("python", "a = 1\nreturn a"),
        ("ruby", "a = 1\nreturn a"),
    ],
)
def test_methods_and_loose_statements_are_understood(language: str, code: str) -> None:
    assert flows(code, language) == ["a2 <- a1"]


def test_an_unknown_language_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(CorpusError, match=r"'cobol'; possible: go, java, javascript, php, python, ruby"):
        data_flow("", "cobol")


@pytest.mark.parametrize("language", SYNTAXES)
def test_no_code_is_no_graph(language: str) -> None:
    for code in ("", " \n", "\0"):
        assert data_flow(code, language).nodes == ()


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "y = " + "(" * 5_000 + "x" + ")" * 5_000),
        ("python", "y = " + "f(" * 5_000 + "x" + ")" * 5_000),
        ("java", "int y = " + "(" * 5_000 + "x" + ")" * 5_000 + ";"),
        ("javascript", "y = " + "x => " * 5_000 + "x"),
        ("go", "y := " + "(" * 5_000 + "x" + ")" * 5_000),
        ("php", "$y = " + "(" * 5_000 + "$x" + ")" * 5_000 + ";"),
        ("ruby", "x = 1; y = " + "f(" * 5_000 + "x" + ")" * 5_000),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_code_may_be_nested_as_deep_as_it_likes(language: str, code: str) -> None:
    nodes = data_flow(code, language).nodes
    assert nodes[0].name in "xy" and nodes[-1].name == "x"


@pytest.mark.parametrize("language", SYNTAXES)
def test_graphs_repeat(language: str) -> None:
    assert data_flow(CODES[language], language) == data_flow(CODES[language], language)


SELECTORS = {"skip", "called", "left", "right", "name", "value", "target", "targets", "condition", "then", "before",
             "after", "body", "source", "subject", "alias", "pattern", "parameters", "labels", "names", "base", "reads",
             "otherwise"}  # fmt: skip


def named_fields(rule: object) -> set[str]:
    """Fields that a rule asks a grammar for."""
    if isinstance(rule, Either):
        return named_fields(rule.otherwise).union(*(named_fields(case) for _, case in rule.cases))
    found: set[str] = set()
    for part in fields(rule):  # type: ignore[arg-type]
        value = getattr(rule, part.name)
        if part.name in SELECTORS and not (isinstance(rule, Try) and part.name == "otherwise"):
            found |= {each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str)}
    return found


def test_a_rule_for_what_a_grammar_does_not_have_is_an_error() -> None:
    pointer = LANGUAGES["python"].grammar()
    with pytest.raises(ValueError, match="no kinds asignment"):
        compile_syntax(replace(SYNTAXES["python"], rules={"asignment": Assign("left", "right")}), pointer)


@pytest.mark.parametrize("language", SYNTAXES)
def test_rules_ask_for_fields_that_the_grammar_has(language: str) -> None:
    known = compile_syntax(SYNTAXES[language], LANGUAGES[language].grammar())
    rules = [*SYNTAXES[language].rules.values(), *SYNTAXES[language].targets.values()]
    assert set().union(*map(named_fields, rules)) <= set(known.fields)
