"""Data flow against an independent answer, and on code that is broken."""

from __future__ import annotations

import inspect
import textwrap
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softnce_ray.corpus.dataflow import COMES_FROM, COMPUTED_FROM, SYNTAXES, DataFlow, data_flow

Statement = tuple[Any, ...]
"""("set", x, names): x = the sum of names; ("add", x, y); ("if", x, then, otherwise); ("while", x, body);
("each", x, y, body); ("break",); ("next",)."""

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)


def blocks(depth: int, in_loop: bool) -> st.SearchStrategy[list[Statement]]:
    kinds: list[st.SearchStrategy[Statement]] = [
        st.tuples(st.just("set"), names, st.lists(names, max_size=2)),
        st.tuples(st.just("add"), names, names),
    ]
    if depth:
        loop, same = blocks(depth - 1, True), blocks(depth - 1, in_loop)
        kinds += [
            st.tuples(st.just("if"), names, same, same),
            st.tuples(st.just("while"), names, loop),
            st.tuples(st.just("each"), names, names, loop),
        ]
    block = st.lists(st.one_of(kinds), min_size=1, max_size=3)
    if not in_loop:
        return block
    ends = st.sampled_from([[], [], [("break",)], [("next",)]])
    return st.builds(lambda statements, end: statements + end, block, ends)


STYLE = {
    # beginning, end, variable, assignment, addition, if, else, while, each, close, break, next
    "python": ("def f(a, b, c):\n", "", "{0} = {1}\n", "{0} += {1}\n", "if {0}:\n", "else:\n", "while {0}:\n",
               "for {0} in {1}:\n", "", "break\n", "continue\n"),
    "java": ("void f(int a, int b, int c) {\n", "}", "{0} = {1};\n", "{0} += {1};\n", "if ({0}) {{\n", "}} else {{\n",
             "while ({0}) {{\n", None, "}\n", "break;\n", "continue;\n"),
    "javascript": ("function f(a, b, c) {\n", "}", "{0} = {1};\n", "{0} += {1};\n", "if ({0}) {{\n", "}} else {{\n",
                   "while ({0}) {{\n", "for ({0} of {1}) {{\n", "}\n", "break;\n", "continue;\n"),
    "go": ("func f(a, b, c int) {\n", "}", "{0} = {1}\n", "{0} += {1}\n", "if {0} {{\n", "}} else {{\n",
           "for {0} {{\n", "for {0} = range {1} {{\n", "}\n", "break\n", "continue\n"),
    "php": ("function f($a, $b, $c) {\n", "}", "{0} = {1};\n", "{0} .= {1};\n", "if ({0}) {{\n", "}} else {{\n",
            "while ({0}) {{\n", "foreach ({1} as {0}) {{\n", "}\n", "break;\n", "continue;\n"),
    "ruby": ("def f(a, b, c)\n", "end", "{0} = {1}\n", "{0} += {1}\n", "if {0}\n", "else\n", "while {0}\n",
             "for {0} in {1}\n", "end\n", "break\n", "next\n"),
}  # fmt: skip


def written(block: list[Statement], language: str, depth: int = 1) -> str:
    _, _, assign, add, branch, other, loop, each, close, leave, again = STYLE[language]

    def name(text: str) -> str:
        return f"${text}" if language == "php" else text

    lines = []
    for kind, *rest in block:
        match kind:
            case "set":
                lines.append(assign.format(name(rest[0]), " + ".join(map(name, rest[1])) or "1"))
            case "add":
                lines.append(add.format(*map(name, rest)))
            case "if":
                lines += [branch.format(name(rest[0])), written(rest[1], language, depth + 1)]
                lines += [" " * depth + other.format(), written(rest[2], language, depth + 1), " " * depth + close]
            case "while":
                lines += [loop.format(name(rest[0])), written(rest[1], language, depth + 1), " " * depth + close]
            case "each":
                assert each is not None
                lines += [each.format(*map(name, rest[:2])), written(rest[2], language, depth + 1)]
                lines.append(" " * depth + close)
            case "break":
                lines.append(leave)
            case "next":
                lines.append(again)
        lines[-1] = lines[-1] if lines[-1].strip() else ""
    return "".join(" " * depth + line if line[:1] != " " else line for line in lines if line)


Numbered = tuple[Any, ...]
States = frozenset[tuple[int, ...]]
"""Each state tells for a, b and c which occurrence gave it its value."""


class Answer:
    """All states that a program can be in, walked until there are no new ones: no merging, no tricks."""

    def __init__(self, block: list[Statement], source_first: bool) -> None:
        self.count = len(NAMES)
        self.source_first = source_first
        self.came: dict[int, set[int]] = {}
        self.computed: dict[int, list[int]] = {}
        self.run(self.number(block), frozenset({tuple(range(len(NAMES)))}))

    def new(self) -> int:
        self.count += 1
        return self.count - 1

    def number(self, block: list[Statement]) -> list[Numbered]:
        """The program with (name, number of the occurrence in the text) in place of names."""
        found: list[Numbered] = []
        for kind, *rest in block:
            match kind:
                case "set":
                    found.append((kind, (rest[0], self.new()), [(name, self.new()) for name in rest[1]]))
                case "add":
                    found.append((kind, (rest[0], self.new()), (rest[1], self.new())))
                case "if":
                    found.append((kind, (rest[0], self.new()), self.number(rest[1]), self.number(rest[2])))
                case "while":
                    found.append((kind, (rest[0], self.new()), self.number(rest[1])))
                case "each":
                    first, second = self.new(), self.new()
                    target, source = (second, first) if self.source_first else (first, second)
                    found.append((kind, (rest[0], target), (rest[1], source), self.number(rest[2])))
                case _:
                    found.append((kind,))
        return found

    def read(self, name: tuple[str, int], states: States) -> None:
        self.came.setdefault(name[1], set()).update(state[NAMES.index(name[0])] for state in states)

    def write(self, name: tuple[str, int], sources: list[int], states: States) -> States:
        self.computed[name[1]] = sources
        place = NAMES.index(name[0])
        return frozenset((*state[:place], name[1], *state[place + 1 :]) for state in states)

    def run(self, block: list[Numbered], states: States) -> tuple[States, States, States]:
        """States behind the block, and at its breaks and nexts."""
        breaks: States = frozenset()
        nexts: States = frozenset()
        for kind, *rest in block:
            if not states:
                break
            match kind:
                case "set":
                    for name in rest[1]:
                        self.read(name, states)
                    states = self.write(rest[0], [number for _, number in rest[1]], states)
                case "add":
                    self.read(rest[0], states)
                    self.read(rest[1], states)
                    states = self.write(rest[0], [rest[1][1]], states)
                case "if":
                    self.read(rest[0], states)
                    ways = [self.run(branch, states) for branch in rest[1:]]
                    states, breaks, nexts = (
                        old.union(*new)
                        for old, new in zip((frozenset(), breaks, nexts), zip(*ways, strict=True), strict=True)
                    )
                case "while" | "each":
                    if kind == "each":
                        self.read(rest[1], states)
                    head = states
                    left: States = frozenset()
                    while True:
                        if kind == "while":
                            self.read(rest[0], head)
                        begin = self.write(rest[0], [rest[1][1]], head) if kind == "each" else head
                        end, broken, again = self.run(rest[-1], begin)
                        left |= broken
                        if end | again <= head:
                            break
                        head |= end | again
                    states = head | left
                case "break":
                    return frozenset(), breaks | states, nexts
                case "next":
                    return frozenset(), breaks, nexts | states
        return states, breaks, nexts


def has_each(block: list[Statement]) -> bool:
    return any(
        statement[0] == "each" or any(isinstance(part, list) and part and isinstance(part[0], tuple) and has_each(part)
                                      for part in statement)
        for statement in block
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(block=blocks(3, False))
def test_every_way_through_a_program_and_no_other_is_followed(block: list[Statement]) -> None:
    for language in SYNTAXES:
        if language == "java" and has_each(block):
            continue  # its loop over elements always declares
        code = STYLE[language][0] + written(block, language) + STYLE[language][1]
        answer = Answer(block, source_first=language == "php")
        graph = data_flow(code, language)
        assert len(graph.nodes) == answer.count, code
        found = {edge for edge in graph.edges if edge.node in answer.came or edge.node in answer.computed}
        expected = {
            (node, source, COMES_FROM) for node, sources in answer.came.items() for source in sources - {node}
        } | {(node, source, COMPUTED_FROM) for node, sources in answer.computed.items() for source in sources}
        assert found == expected, code


def check_laws(code: str, graph: DataFlow) -> None:
    assert all(0 <= start < end <= len(code) for start, end in graph.tokens)
    assert all(first[1] <= second[0] for first, second in pairwise(graph.tokens))
    assert all(first.token < second.token for first, second in pairwise(graph.nodes))
    texts = graph.texts(code)
    assert all(texts[node.token] == node.name for node in graph.nodes)
    assert all(first < second for first, second in pairwise(graph.edges))
    for node, source, kind in graph.edges:
        assert 0 <= node < len(graph.nodes) and 0 <= source < len(graph.nodes) and node != source
        if kind == COMES_FROM:
            assert graph.nodes[node].name == graph.nodes[source].name


PIECES = [
    *"(){}[]\"'`;=|$#é\ud800\0\n\\",
    *("${", "#{", "=>", "/*", "//", "<<A", "?>", "<?php", "for", "if", "try", "case", "default", "end", "else", "def"),
]


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_broken_code_never_raises(data: st.DataObject) -> None:
    language = data.draw(st.sampled_from(sorted(SYNTAXES)))
    code = REAL[language]
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(code)))
        end = min(len(code), start + data.draw(st.one_of(st.integers(0, 3), st.integers(0, 200))))
        code = code[:start] + data.draw(st.one_of(st.just(""), st.sampled_from(PIECES))) + code[end:]
    check_laws(code, data_flow(code, language))


@settings(max_examples=60, deadline=None)
@given(code=st.text(max_size=60), language=st.sampled_from(sorted(SYNTAXES)))
def test_any_text_has_a_graph(code: str, language: str) -> None:
    check_laws(code, data_flow(code, language))


@pytest.mark.parametrize("language", SYNTAXES)
def test_every_beginning_of_real_code_has_a_graph(language: str) -> None:
    code = REAL[language]
    for end in range(0, len(code), 23):
        check_laws(code[:end], data_flow(code[:end], language))


REAL = {
    "python": inspect.getsource(textwrap.TextWrapper._wrap_chunks),
    "java": """
    @Override public <T> Map<String, List<T>> group(Collection<? extends T> items, final Function<T, String> key)
            throws IOException {
        Map<String, List<T>> groups = new HashMap<>();
        int skipped = 0, i;
        outer:
        for (T item : items) {
            try (Reader reader = open(item); Writer w = out) {
                String name = item == null ? "none" : key.apply(item);
                switch (name.length()) { case 0: skipped++; continue outer; case 1: default: break; }
                groups.computeIfAbsent(name, n -> { skipped += n.length(); return new ArrayList<>(); }).add(item);
                int[][] grid = new int[i = 3][]; grid[i][skipped] <<= 2;
            } catch (IllegalStateException | IOException e) { LOG.warn("cannot read {}", item, e); throw e; }
            finally { done(item); }
        }
        do { skipped -= 1; } while (skipped > 0 && !(items instanceof Set<?> set && set.isEmpty()));
        Object result = switch (skipped) { case 1, 2 -> groups; default -> { yield new Object() { int x = i; }; } };
        return (Map<String, List<T>>) result;
    }
""",
    "javascript": """
async function load({ url, retries = 3, ...options }, done) {
  const seen = new Map(), [first, , ...others] = options.list || [];
  let last, total = 0;
  for (let i = 0; i < retries; i++) {
    try {
      const { data: { items = [] }, status } = await fetch(`${url}?page=${i}`, { ...options, first });
      if (status !== 200) { last = new Error("status " + status); continue; }
      for (const [key, item] of Object.entries(items)) { seen.set(key, item); total += item?.size ?? 0; }
      for (var k in others) { if (!k) break; }
      return items.map((item) => ({ item, total, k })).filter(function named(x) { return x.item && named; });
    } catch (error) { last = error; } finally { done && done(last); }
  }
  switch (total) { case 0: throw last; default: ({ total, last: seen.last } = options); }
  class Page extends Base { static n = total; render() { return <div id={last}>{this.n}<br /></div>; } }
  do { total--; } while (total);
  return /x[y]/g.test(url) ? new Page(seen) : yield_(total);
}
""",
    "go": """
func (s *Server) Handle(ctx context.Context, names []string, opts ...Option) (out map[string]int, err error) {
	out = make(map[string]int, len(names))
	var (
		mu sync.Mutex
		a, b = 1, 2
	)
	defer func() { if r := recover(); r != nil { err = fmt.Errorf("panic: %v", r) } }()
	for i, name := range names {
		if n, ok := s.cache[name]; ok && n > i { out[name] += n; continue }
		switch kind := s.kind(name); {
		case kind == 'x': a, b = b, a+i; fallthrough
		case kind > a: break
		default: a++
		}
		select {
		case v, more := <-s.in: if !more { return }; out[name] = v
		case s.out <- a:
		case <-ctx.Done(): return nil, ctx.Err()
		}
	}
	switch t := ctx.(type) { case *Other, nil: err = t.Err; case interface{ X() }: t.X() }
	go func(n int) { mu.Lock(); s.total = &Total{Count: n, By: []int{a, b}}; mu.Unlock() }(len(out))
	for ; a < b; a++ { L: for { break L } }
	return out, err
}
""",
    "php": """
    public static function render(array $items, ?string $title = null, string ...$rest): string {
        global $config; static $calls = 0; $calls++;
        [$first, 'k' => [$second]] = $items + ['k' => [1]];
        foreach ($items as $key => &$item) { if (!isset($item['id'])) { unset($items[$key]); continue; }
            $item->n ??= $calls; }
        $names = array_map(function ($x) use ($title, &$first) { return $first .= "{$x->name} of $title[0]"; }, $items);
        $sums = array_map(fn($x) => $x * $calls, $items);
        for ($i = 0, $n = count($names); $i < $n; ++$i): echo $names[$i], PHP_EOL; endfor;
        while (list($k, $v) = each($rest)) { switch ($k) { case 1: $v = 2; break 2; default: $second = $v; } }
        try { $text = self::$cache[$title] ?? static::make($title); }
        catch (A | B $e) { throw new C($e); } finally { $i = 0; }
        $kind = match (true) { $i > 1, $n > 1 => 'many', default => $$title };
        return <<<HTML
<b>$text</b> {$kind}
HTML . $second;
    }
""",
    "ruby": """
  def self.import(path, limit: 10, sep: ',', **options, &block)
    rows, (head, *tail) = [], File.readlines(path)
    @count ||= 0
    tail.each_with_index do |line, i; cell|
      next if line.strip.empty? || i > limit
      cell, rest = line.split(sep, 2)
      rows << { name: cell, "rest" => rest, head:, **options } unless block && !block.call(cell)
      @count += 1
    end
    for a, b in rows do break if a == b end
    until rows.size < limit do rows.pop end
    sums = rows.map { |r| r[:name].to_i }.inject(0) { |s, (x, y), z = 1| s + x + z }
    kind = case sums when 0, 1 then :few when Integer then head else $stdout end
    case options
    in {name: String => n, size:} if n then rows[0][:n] = size
    in [x, *] then kind = x
    else nil
    end
    fn = ->(v = sums) { "#{v} of #{kind}" }
    text = <<~TEXT
      #{fn.(1)} rows
    TEXT
    rows = Integer(text) rescue rows
    yield rows, *tail if block_given?
  rescue IOError, SystemCallError => e
    retry if (limit -= 1) > 0
    raise ArgumentError, "cannot read #{path}: #{e}"
  ensure
    puts @count
  end
""",
}
