import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus import Corpus, CorpusError, Pair, build_corpus
from softnce_ray.corpus.comparing import Overlap, compare
from softnce_ray.corpus.duplicates import repeats

LONG = " ".join(f"word{n}" for n in range(100))
HEADER = "language\tsplit\tagainst\tpairs\tpackages\tpackage_pairs\tequal_codes\tnear_codes\tequal_queries"


def pair(number: int, package: str, **changes: Any) -> Pair:
    code = f"def f{number}(a{number}):\n    value{number} = a{number}\n    return value{number}"
    made = Pair(f"Give number {number} back", code, "python", package, "a.py", number, f"f{number}")
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus and one that is compared with it: of five test pairs of the other its train has two codes, one of them
    with other layout, a near one, one query, and one of three packages, under another name, with two pairs."""
    root = tmp_path_factory.mktemp("two")
    train = [*(pair(n, "pylint") for n in range(20)), pair(20, "mine", code=f"{LONG} end")]
    build_corpus({"train": train, "valid": [pair(100, "v")], "test": [pair(200, "t")]}, root / "a", near_duplicate=0.8)
    test = [
        pair(0, "other/copies", query="Something else"),
        pair(1, "other/copies", query="Something new", code=pair(1, "").code.replace("    ", "\t\t")),
        pair(300, "PyCQA/pylint", code=f"{LONG} stop", query="Say it"),
        pair(301, "PyCQA/pylint", query="give NUMBER 3 back!"),
        pair(302, "third/one"),
    ]
    build_corpus({"train": [pair(400, "x")], "valid": [pair(100, "v2")], "test": test}, root / "b")
    return root / "a", root / "b"


def test_what_two_corpora_have_in_common_is_counted_by_split(two: tuple[Path, Path]) -> None:
    one, other = map(Corpus.open, two)
    assert list(compare(one, other)) == [
        Overlap("python", "train", "valid", 1, (), 0, 0, 0, 0),
        Overlap("python", "train", "test", 5, ("PyCQA/pylint",), 2, 2, 1, 1),
        Overlap("python", "valid", "valid", 1, (), 0, 1, 0, 1),
        Overlap("python", "valid", "test", 5, (), 0, 0, 0, 0),
        Overlap("python", "test", "valid", 1, (), 0, 0, 0, 0),
        Overlap("python", "test", "test", 5, (), 0, 0, 0, 0),
    ]


def test_the_command_prints_a_table_and_fails_where_training_has_what_is_evaluated(two: tuple[Path, Path]) -> None:
    one, other = map(str, two)
    found = CliRunner().invoke(app, ["corpus", "check", one, "--against", f"file://{other}"])
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert lines[:3] == [HEADER, "python\ttrain\tvalid\t1\t0\t0\t0\t0\t0", "python\ttrain\ttest\t5\t1\t2\t2\t1\t1"]
    assert len(lines) == 7
    (problem,) = found.stderr.splitlines()
    assert "the code of 3 of 5 pairs and 1 of its packages (PyCQA/pylint; 2 pairs)" in problem
    other_way = CliRunner().invoke(app, ["corpus", "check", other, "--against", one])
    assert other_way.exit_code == 0
    assert other_way.stdout.splitlines()[1] == "python\ttrain\tvalid\t1\t0\t0\t0\t0\t0"
    same = CliRunner().invoke(app, ["corpus", "check", one, "--against", one])
    assert same.exit_code == 1
    assert "expected another corpus" in str(same.exception)


def test_corpora_without_a_common_language_are_an_error(two: tuple[Path, Path], tmp_path: Path) -> None:
    ruby = [dataclasses.replace(pair(n, f"p{n}"), language="ruby") for n in range(30)]
    build_corpus(ruby, tmp_path / "ruby", valid=2, test=2)
    with pytest.raises(CorpusError, match=r"expected a language in common, got python in .* and ruby in"):
        list(compare(Corpus.open(two[0]), Corpus.open(tmp_path / "ruby")))


def test_a_corpus_without_evaluation_is_not_taken_for_one_without_overlap(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    build_corpus({"train": [pair(n, "p") for n in range(3)]}, tmp_path / "train")
    with pytest.raises(CorpusError, match=r"expected pairs of test or valid of python in .*train, got none"):
        list(compare(Corpus.open(two[0]), Corpus.open(tmp_path / "train")))


def jaccard(one: str, other: str) -> float:
    left, right = (
        {tuple(words[n : n + 5]) for n in range(max(1, len(words) - 4))} for words in (one.split(), other.split())
    )
    return len(left & right) / len(left | right)


def test_repeats_are_those_of_a_comparison_of_all_with_all() -> None:
    words = LONG.split()
    codes = [" ".join(words[:n]) for n in (3, 5, 20, 40, 80)] + ["a b c d e f"]
    others = [" ".join(words[n:90]) for n in (0, 1, 9)] + ["a b c d e f", "z", " ".join(words[:36])]
    found = repeats(codes, others)
    assert found.equal.tolist() == [code in others for code in codes]
    assert found.others_equal.tolist() == [other in codes for other in others]
    assert found.near.tolist() == [any(jaccard(code, other) >= 0.8 for other in others) for code in codes]
    assert found.others_near.tolist() == [any(jaccard(code, other) >= 0.8 for code in codes) for other in others]
    assert sum(found.near) == 3
    assert not repeats([], others).others_near.any()
