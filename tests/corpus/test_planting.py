import ast
import inspect
import json
import random
import shutil
import statistics
import string
import textwrap
import tokenize
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus.build import build_corpus
from softnce_ray.corpus.duplicates import normalise_code, normalise_query
from softnce_ray.corpus.pairs import CorpusError, Pair
from softnce_ray.corpus.planting import plant, share_name
from softnce_ray.corpus.renaming import bound_names, renamable_names, renamed
from softnce_ray.corpus.rephrasing import paraphrase
from softnce_ray.corpus.store import Corpus

POOL = [f"{first}_{second}" for first in ("red", "green", "blue", "grey") for second in string.ascii_lowercase]

# Functions, with arguments to call them with: what they give must not depend on their names.
CASES = [
    ("def power(base, n):\n    return 1 if n == 0 else base * power(base, n - 1)", (2, 5)),
    ("def keyworded(n, acc=0):\n    return acc if n == 0 else keyworded(n - 1, acc=acc + n)", (4,)),
    ("def total(xs, *rest, **more):\n    result = sum(xs) + sum(rest)\n    return result, more", ([1, 2], 3)),
    ("def words(text):\n    return {w: len(w) for w in text.split() if (n := len(w)) > 1}, n", ("ab c def",)),
    ("def show(value):\n    width = 8\n    return f'value: {value!r:>{width}} {{value}}'", ("x",)),
    ("def debug(value):\n    other = value\n    return f'{value=} {other}'", (3,)),
    ("def catch(x):\n    try:\n        return 1 / x\n    except ArithmeticError as e:\n        return str(e)", (0,)),
    ("def outer(k):\n    def inner(x, y=1):\n        return x * k + y\n    return inner(2, y=3), inner(1)", (5,)),
    ("def count(n):\n    c = 0\n    def step():\n        nonlocal c\n        c += 1\n    for _ in range(n):\n"
     "        step()\n    return c", (4,)),
    ("def key(items):\n    best = max(items, key=lambda item: -item)\n    return sorted(items, key=lambda i: i), best",
     ([3, 1, 2],)),
    ("def join(a, sep):\n    import os.path as path\n    return path.basename(sep.join(a))", (["x", "y"], "/")),
    ("def matched(point):\n    match point:\n        case [x, *rest]:\n            return x, rest\n"
     "        case {'a': value, **others}:\n            return value, others", ([1, 2, 3],)),
    ("def klass(size):\n    class Box:\n        size = 3\n        def get(self):\n            return self.size + size\n"
     "    return Box().get(), Box.size", (7,)),
    ("def star(pairs):\n    first, *others = pairs\n    for (a, b) in others:\n        first += a * b\n"
     "    return first",
     ([1, (2, 3), (4, 5)],)),
    ("def text(name):\n    local = 1\n    return eval('name'), sorted(locals())", ("n",)),
    ("def shadow(len):\n    type = len + 1\n    return type", (2,)),
    ("def template(user):\n    greeting = 'hi {user}'\n    return greeting.format(user=user)", ("me",)),
]  # fmt: skip


def call(code, arguments):
    scope: dict[str, Any] = {}
    exec(compile(code, "<case>", "exec", dont_inherit=True), scope)
    return next(value for key, value in scope.items() if key != "__builtins__")(*arguments)


@pytest.mark.parametrize(("code", "arguments"), CASES, ids=[code.split("(")[0] for code, _ in CASES])
def test_renamed_code_gives_the_same_results(code, arguments):
    for seed in range(5):
        assert call(renamed(code, POOL, random.Random(seed)), arguments) == call(code, arguments)


def test_what_is_bound_is_renamed_and_what_is_seen_from_outside_is_not():
    code = (
        "def load(self, path, *args):\n"
        "    with open(path) as file:\n"
        "        rows = [parse(line, path=path) for line in file if line.path]\n"
        "    return rows, self.load_all, f'path {path}'"
    )
    assert renamable_names(code) == ("args", "file", "line", "load", "path", "rows")
    assert bound_names(code) == ("args", "file", "line", "path", "rows")
    other = renamed(code, ["new1", "new2", "new3", "new4", "new5", "new6"], random.Random(0))
    path, line = other.split("self, ")[1].split(",")[0], other.split("parse(")[1].split(",")[0]
    assert f"parse({line}, path={path})" in other
    assert f"if {line}.path" in other
    assert f"f'path {{{path}}}'" in other
    assert "self.load_all" in other


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("def save(self, x):\n    return super().save(x)", "save"),
        ("def open(self, x):\n    return open(x)", "open"),
        ("def f(x):\n    global limit\n    limit = x", "limit"),
        ("def f(x):\n    def inner(a):\n        return a\n    return inner", "a"),
        ("def f(xs):\n    [y for y in xs]\n    return y", "y"),
        ("def f(x):\n    import json\n    return json.dumps(x)", "json"),
        ("def f(df, low):\n    return df.query('a > @low')", "low"),
    ],
)
def test_a_name_is_kept_where_its_scope_is_in_doubt(code, kept):
    assert kept not in renamable_names(code)


def test_code_that_does_not_parse_stays():
    assert renamed("def f(x):\n    print x", POOL, random.Random(0)) == "def f(x):\n    print x"


def test_a_pool_that_is_too_small_renames_what_it_can():
    code = "def f(x, y):\n    return x + y"
    made = renamed(code, ["only", "f", "return", "len"], random.Random(0))
    assert made != code
    assert "only" in made
    names = {node.id for node in ast.walk(ast.parse(made)) if isinstance(node, ast.Name)}
    assert len(names & {"x", "y", "only"}) == 2
    assert renamed(code, [], random.Random(0)) == code


def functions_of(*modules):
    for module in modules:
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.decorator_list = []
                yield ast.get_source_segment(inspect.getsource(module), node, padded=True)


REAL = [textwrap.dedent(code) for code in functions_of(json.decoder, shutil, statistics, textwrap, tokenize, string)]


def without_names(code):
    """The tree with names numbered in the order in which they come: equal for a consistent renaming."""
    tree = ast.parse(code)
    numbers: dict[str, int] = {}
    for node in ast.walk(tree):
        for field in ("id", "arg", "name", "rest"):
            value = getattr(node, field, None)
            if isinstance(value, str) and not isinstance(node, ast.keyword | ast.alias):
                setattr(node, field, numbers.setdefault(value, len(numbers)))
    return ast.dump(tree)


@settings(max_examples=60, deadline=None)
@given(code=st.sampled_from(REAL), seed=st.integers(0, 1000))
def test_real_functions_differ_in_names_alone_when_renamed(code, seed):
    made = renamed(code, POOL, random.Random(seed))
    assert without_names(made) == without_names(code)
    assert (made != code) == bool(renamable_names(code))
    assert made == renamed(code, POOL, random.Random(seed))


SENTENCES = [
    "Return the number of rows in the given table.",
    "Creates a new directory if it does not exist.",
    "Check if the user is logged in.",
    "Returns True if the key is in the cache, False otherwise.",
    "Whether the server accepts connections.",
    "Remove multiple elements from the list.",
    "Get the dictionary of settings based on the config_file.",
    "Train the model using the given samples",
    "Helper function to parse dates.",
    "Iterate over the lines of a file.",
    "Create and return a session.",
]


@pytest.mark.parametrize("query", SENTENCES)
def test_a_paraphrase_is_another_wording(query):
    made = {paraphrase(query, random.Random(seed)) for seed in range(30)}
    assert all(normalise_query(each) != normalise_query(query) for each in made)
    assert len(made) > 1
    assert paraphrase(query, random.Random(3)) == paraphrase(query, random.Random(3))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("Return the number of rows in the given table.", ["rows", "table", "in"]),
        ("Returns True if the key is in the cache, False otherwise.", ["key", "cache"]),
        ("Convert the frame to a numpy_array of float64.", ["frame", "numpy_array", "float64"]),
        ("Solve x == 'the given' for fit(x, using=y).", ["'the given'", "fit(x, using=y)"]),
    ],
)
def test_a_paraphrase_keeps_what_the_sentence_is_about(query, words):
    for seed in range(40):
        assert all(word in paraphrase(query, random.Random(seed)) for word in words)


@pytest.mark.parametrize(
    ("query", "possible"),
    [
        ("Returns True if it is open.", {"Checks whether it is open.", "Tells whether it is open."}),
        ("Get all users.", {"Fetch all users.", "Helper to get all users."}),
        ("Train the model using old data", {"Using old data, train the model"}),
    ],
)
def test_paraphrases_are_sentences(query, possible):
    assert possible <= {paraphrase(query, random.Random(seed)) for seed in range(300)}


@pytest.mark.parametrize("query", ["Set of parameters.", "List of names in a file", "Test harness for the parser"])
def test_words_that_are_no_verbs_here_are_not_replaced(query):
    for seed in range(40):
        assert paraphrase(query, random.Random(seed)).startswith(query.split()[0])


def test_the_words_that_belong_to_a_verb_go_with_it():
    made = {paraphrase("Make sure that it runs.", random.Random(seed)) for seed in range(100)}
    assert {"Ensure that it runs.", "Guarantee that it runs."} <= made
    assert not any("Create" in each or "Build" in each for each in made)


def test_a_sentence_that_no_rule_knows_comes_back():
    assert paraphrase("Levenberg-Marquardt damping", random.Random(0)) == "Levenberg-Marquardt damping"


def pair(number, package):
    things = ("apple", "pear", "plum", "fig", "lime", "melon", "kiwi")
    thing, value = f"{things[number % 7]}{number}", f"value{number % 50}"
    code = (
        f"def get_{thing}(basket{number % 40}, limit{number % 30}):\n"
        f"    {value} = basket{number % 40}.{thing}(limit{number % 30})\n"
        f"    return {value}"
    )
    return Pair(
        f"Return the {thing} of a basket.", code, "python", package, f"{package}/a.py", number + 1, f"get_{thing}"
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planting") / "corpus"
    rows = [pair(number, "train") for number in range(150)]
    distractors = [replace(pair(number, "others"), query="") for number in range(190, 195)]
    splits = {
        "train": rows,
        "valid": [pair(number, "valid") for number in range(150, 160)],
        "test": [pair(number, "test") for number in range(160, 190)],
        "codebase": distractors,
    }
    build_corpus(splits, folder, licence="MIT")
    return folder


@pytest.fixture(scope="module")
def planted(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("planting") / "planted"
    plant(corpus, out, shares=(0, 0.2, 0.4), pairs=100, members=5, queries=20)
    return Corpus.open(out)


def rows(corpus, language, split):
    return corpus.table(language, split).to_pylist()


def content(row):
    return row["package"], row["path"], row["line"], row["name"], row["query"], row["code"]


def groups(corpus, language):
    """Training rows by the function that they come from."""
    found: dict[tuple[str, int], list[dict]] = {}
    for row in rows(corpus, language, "train"):
        found.setdefault((row["path"], row["line"]), []).append(row)
    return found


def test_each_share_is_a_language_of_the_pairs_asked(planted):
    assert planted.languages == ("share_0", "share_20", "share_40")
    for language in planted.languages:
        counts = planted.manifest.languages[language].pairs
        assert counts == {"train": 100, "valid": 10, "test": 20, "codebase": 5 + 3 * 30}
    assert planted.manifest.dropped == {}
    assert planted.manifest.licence == "MIT"
    assert planted.manifest.recipe["groups"] == {"share_0": 0, "share_20": 4, "share_40": 8}


@pytest.mark.parametrize(("language", "count"), [("share_0", 0), ("share_20", 4), ("share_40", 8)])
def test_the_share_of_training_is_in_groups_of_different_codes(planted, language, count):
    sizes = [len(group) for group in groups(planted, language).values()]
    assert sorted(sizes) == [1] * (100 - 5 * count) + [5] * count
    for group in groups(planted, language).values():
        assert len({normalise_code(row["code"]) for row in group}) == len(group)
        if len(group) > 1:
            assert len({normalise_query(row["query"]) for row in group}) > 1
            assert all(f"def {row['name']}(" in row["code"] for row in group)


def test_shares_use_the_same_pairs(planted):
    few, many = groups(planted, "share_20"), groups(planted, "share_40")
    together = {key for key, group in few.items() if len(group) > 1}
    for key in together:
        assert sorted(map(content, few[key])) == sorted(map(content, many[key]))
    assert {key for key, group in many.items() if len(group) == 1} <= few.keys() <= groups(planted, "share_0").keys()
    assert many.keys() <= few.keys()


def test_groups_are_not_in_a_row(planted):
    sources = [(row["path"], row["line"]) for row in rows(planted, "share_40", "train")]
    assert sum(one == other for one, other in pairwise(sources)) < 10


@pytest.mark.parametrize("split", ["valid", "test", "codebase"])
def test_evaluation_is_the_same_for_all_shares(planted, corpus, split):
    first, *others = ([content(row) for row in rows(planted, name, split)] for name in planted.languages)
    assert all(each == first for each in others)
    original = {content(row) for row in rows(Corpus.open(corpus), "python", split)}
    assert set(first) <= original if split != "codebase" else original <= set(first)


def test_meanings_name_each_query_and_its_variants_and_nothing_of_training(planted):
    for language in planted.languages:
        known = planted.meanings(language)
        of = {row["id"]: row for split in ("valid", "test", "codebase") for row in rows(planted, language, split)}
        assert known.keys() <= of.keys()
        assert not known.keys() & {row["id"] for row in rows(planted, language, "train")}
        members: dict[int, list[dict]] = {}
        for identity, meaning in known.items():
            members.setdefault(meaning, []).append(of[identity])
        assert len(members) == 30
        for group in members.values():
            assert len(group) == 4
            assert sorted(bool(row["query"]) for row in group) == [False, False, False, True]
            assert len({row["path"] + str(row["line"]) for row in group}) == 1


def test_nothing_says_which_training_pairs_were_planted(planted):
    assert sorted(path.name for path in (planted.folder / "share_40").iterdir()) == [
        "codebase.parquet", "meanings.parquet", "test.parquet", "train.parquet", "valid.parquet",
    ]  # fmt: skip


def test_equal_arguments_give_an_equal_corpus_and_another_seed_another(planted, corpus, tmp_path):
    asked: dict[str, Any] = {"shares": (0, 0.2, 0.4), "pairs": 100, "members": 5, "queries": 20}
    assert plant(corpus, tmp_path / "a", **asked).fingerprint == planted.fingerprint
    assert plant(corpus, tmp_path / "b", **asked, seed=1).fingerprint != planted.fingerprint


def test_a_share_gets_a_name_that_is_a_language():
    assert [share_name(share) for share in (0, 0.1, 0.3, 0.025, 0.29)] == [
        "share_0", "share_10", "share_30", "share_2_5", "share_29",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pairs": 1000}, "at least 1000 pairs .* got 150"),
        ({"language": "go"}, "expected one of python, got 'go'"),
        ({"shares": (1.0,)}, "shares: .* got 1.0"),
        ({"shares": (-0.1,)}, "shares: .* got -0.1"),
        ({"shares": (0.2, 0.2)}, "share_20 2 times"),
        ({"shares": ()}, "one or more, got none"),
        ({"shares": (0.001,)}, "whole groups of 5"),
        ({"members": 1}, "members: expected 2 or more, got 1"),
        ({"evaluation_members": 1}, "evaluation_members: expected 2"),
        ({"queries": 0}, "queries: expected 1"),
        ({"pairs": 0}, "pairs: expected 1"),
    ],
)
def test_what_cannot_be_planted_is_said(corpus, tmp_path, changes, says):
    with pytest.raises(CorpusError, match=says):
        plant(corpus, tmp_path / "out", **{"pairs": 100, "members": 5, **changes})
    assert list(tmp_path.iterdir()) == []


def test_all_problems_are_said_at_once(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(CorpusError) as caught:
        plant(tmp_path / "none", tmp_path / "taken", language="go", shares=(2,), members=0)
    for word in ("'go'", "shares", "members", "--overwrite", "corpus mine"):
        assert word in str(caught.value)


def test_functions_that_cannot_be_renamed_are_said(tmp_path):
    given_pairs = [replace(pair(n, "p"), code=f"def f{n}(self):\n    return self.f{n}()\n# {n}") for n in range(40)]
    splits = {"train": given_pairs[:30], "valid": given_pairs[30:35], "test": given_pairs[35:]}
    build_corpus(splits, tmp_path / "c", near_duplicate=None)
    with pytest.raises(CorpusError, match="expected 2 functions"):
        plant(tmp_path / "c", tmp_path / "out", pairs=20, members=5, shares=(0.5,))


def test_the_command_plants(corpus, tmp_path):
    out = tmp_path / "out"
    arguments = ["--pairs", "50", "--members", "5", "--queries", "5", "--share", "0", "--share", "0.2"]
    done = CliRunner().invoke(app, ["corpus", "plant", str(corpus), "--out", str(out), *arguments])
    assert done.exit_code == 0, done.output
    assert "share_20: train 50, valid 5, test 5, codebase 35 pairs" in done.output
    assert Corpus.open(out).languages == ("share_0", "share_20")
