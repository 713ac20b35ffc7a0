from collections import Counter
from dataclasses import replace

import pytest

from softnce_ray.corpus import build as building
from softnce_ray.corpus.build import build_corpus, check_output
from softnce_ray.corpus.duplicates import evaluation_duplicates, normalise_code, normalise_query
from softnce_ray.corpus.pairs import CorpusError, Pair
from softnce_ray.corpus.splitting import assign_units, evaluation_size
from softnce_ray.corpus.store import Corpus


def pair(number, package="pack", **changes):
    """A pair whose code shares no run of five tokens with that of another number."""
    words = [f"{word}{number}" for word in ("alpha", "beta", "gamma", "delta")]
    made = Pair(
        query=f"Compute the value number {number}",
        code=f"def f{number}({words[0]}, {words[1]}):\n    {words[2]} = {words[3]}\n    return {words[2]}",
        language="python",
        package=package,
        path=f"{package}/file{number}.py",
        line=1,
        name=f"f{number}",
    )
    return replace(made, **changes)


def packages(sizes):
    """`sizes` maps packages to numbers of pairs."""
    made, number = [], 0
    for package, size in sizes.items():
        for _ in range(size):
            made.append(pair(number, package))
            number += 1
    return made


MANY = {"big": 60, **{f"small{number}": 4 for number in range(10)}}


def rows(folder, split):
    return Corpus.open(folder).table("python", split).to_pylist()


def test_no_package_lies_in_two_splits(tmp_path):
    manifest = build_corpus(packages(MANY), tmp_path / "c", valid=8, test=8)
    counts = manifest.languages["python"]
    assert counts.pairs["valid"] == counts.pairs["test"] == 8
    splits = [set(counts.packages[split]) for split in ("train", "valid", "test")]
    assert "big" in splits[0]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]
    stored = {split: {row["package"] for row in rows(tmp_path / "c", split)} for split in counts.pairs}
    assert stored == {split: set(counts.packages[split]) for split in counts.pairs}


def test_every_pair_is_in_a_split_or_counted(tmp_path):
    manifest = build_corpus(packages(MANY), tmp_path / "c", valid=7, test=7)
    counts = manifest.languages["python"].pairs
    assert sum(counts.values()) + sum(manifest.dropped["pairs"].values()) == 100
    assert set(manifest.dropped["pairs"]) == {"surplus_of_evaluation_packages"}


def test_surplus_of_evaluation_packages_becomes_distractors_when_asked(tmp_path):
    manifest = build_corpus(packages(MANY), tmp_path / "c", valid=7, test=7, codebase=1)
    counts = manifest.languages["python"]
    assert counts.pairs["codebase"] == 1
    assert not set(counts.packages["codebase"]) & set(counts.packages["train"])


def test_evaluation_is_at_most_a_tenth(tmp_path):
    manifest = build_corpus(packages(MANY), tmp_path / "c")
    assert manifest.languages["python"].pairs["valid"] <= 10
    assert manifest.languages["python"].pairs["test"] <= 10
    assert [evaluation_size(1000, total) for total in (5, 100, 50_000)] == [1, 10, 1000]
    assert evaluation_size(0, 100) == 0


def test_assign_units_takes_small_packages_first():
    sizes = {"huge": 900, "large": 60, **{f"s{number}": 5 for number in range(8)}}
    assigned = assign_units(sizes, {"test": 18, "valid": 18}, seed=0)
    assert assigned["huge"] == assigned["large"] == "train"
    assert Counter(assigned.values()) == Counter(train=2, test=4, valid=4)


def test_assign_units_leaves_the_largest_to_training():
    assigned = assign_units({"a": 10, "b": 3, "c": 2}, {"test": 100, "valid": 100}, seed=3)
    assert assigned["a"] == "train"
    assert sorted(assigned.values()) == ["test", "train", "valid"]


@pytest.mark.parametrize("sizes", [{"one": 30}, {"one": 20, "two": 10}])
def test_too_few_packages_are_split_by_file_and_said(tmp_path, sizes):
    manifest = build_corpus(packages(sizes), tmp_path / "c")
    assert "the split is by file" in manifest.notes[0]
    files = [{row["path"] for row in rows(tmp_path / "c", split)} for split in ("train", "valid", "test")]
    assert all(files)
    assert not files[0] & files[1] | files[0] & files[2] | files[1] & files[2]


def test_too_few_files_are_an_error(tmp_path):
    with pytest.raises(CorpusError, match="at least 3 files"):
        build_corpus([pair(1, path="a.py"), pair(2, path="a.py")], tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_no_evaluation_asked_is_all_training(tmp_path):
    manifest = build_corpus([pair(1)], tmp_path / "c", valid=0, test=0)
    assert manifest.languages["python"].pairs == {"train": 1, "valid": 0, "test": 0}


def test_no_pairs_are_an_error_with_what_was_seen(tmp_path):
    with pytest.raises(CorpusError, match="no_documentation"):
        build_corpus([], tmp_path / "c", dropped={"functions": {"no_documentation": 3}})


def test_exact_duplicates_go_and_natural_ones_stay(tmp_path):
    same = pair(1)
    given = [
        same,
        replace(same, code=same.code.replace("    ", "  "), query="compute THE value, number 1!"),
        replace(pair(2), query=same.query),
        pair(3),
    ]
    manifest = build_corpus({"train": given}, tmp_path / "c")
    assert manifest.dropped["pairs"] == {"exact_duplicate": 1}
    assert manifest.languages["python"].pairs["train"] == 3
    assert manifest.languages["python"].train_pairs_sharing_query == 2


def test_given_evaluation_stays_whole_and_training_loses_what_repeats_it(tmp_path):
    near = pair(1).code + " + 1"
    given = {
        "train": [pair(1), pair(2), pair(3, code=pair(14).code.replace("    ", "\t"))],
        "test": [pair(10, query="Another question", code=near), pair(11), pair(12, query=pair(2).query), pair(11)],
        "valid": [pair(13, code=pair(11).code), pair(14)],
        "codebase": [pair(20, query=""), pair(21, code=pair(20).code), pair(22, code=pair(14).code)],
    }
    manifest = build_corpus(given, tmp_path / "c")
    assert manifest.dropped["pairs"] == {
        "train_repeats_evaluation": 2,
        "repeated_distractor": 1,
        "distractor_is_an_answer": 1,
    }
    assert manifest.languages["python"].pairs == {"train": 1, "valid": 2, "test": 4, "codebase": 1}
    assert manifest.languages["python"].queries_in_train == {"test": 1, "valid": 0}
    assert manifest.findings is not None
    assert manifest.findings.problems == ()
    assert any("the 6 queries of valid and test have 4 different codes" in note for note in manifest.notes)
    equal_only = build_corpus(given, tmp_path / "d", near_duplicate=None)
    assert equal_only.dropped["pairs"]["train_repeats_evaluation"] == 1
    assert build_corpus(given, tmp_path / "e", drop_repeated_queries=True).languages["python"].pairs["test"] == 3


def test_mined_evaluation_loses_what_repeats_training_or_itself(tmp_path):
    sizes = {"train": 9, "one": 3, "two": 3}
    pairs = packages(sizes)
    pairs[9] = replace(pairs[9], code=pairs[0].code + " + 1", query="Another question")
    pairs[12] = replace(pairs[12], code=pairs[10].code.replace("    ", "\t"))
    manifest = build_corpus(pairs, tmp_path / "c", valid=15, test=15)
    assert manifest.dropped["pairs"]["evaluation_repeats_train"] == 1
    assert manifest.dropped["pairs"]["evaluation_repeats_evaluation"] == 1


def test_near_duplicates_by_the_jaccard_index():
    words = [f"w{number}" for number in range(22)]  # 18 shingles of five tokens
    text = " ".join(words)
    last = " ".join([*words[:-1], "other"])  # one shingle differs: 17 / 19 = 0.89
    middle = " ".join([*words[:11], "other", *words[12:]])  # five differ: 13 / 23 = 0.57
    of_train, of_earlier = evaluation_duplicates([text, last, middle], [text])
    assert of_train.tolist() == [True, True, False]
    assert of_earlier.tolist() == [False, False, False]
    of_train, _ = evaluation_duplicates([last, middle], [text], threshold=None)
    assert of_train.tolist() == [False, False]
    _, of_earlier = evaluation_duplicates([middle, text, last, text], [])
    assert of_earlier.tolist() == [False, False, True, True]


@pytest.mark.parametrize("threshold", [17 / 19, 17 / 19 + 1e-9])
def test_the_near_duplicate_threshold_is_inclusive(threshold):
    words = [f"w{number}" for number in range(22)]
    of_train, _ = evaluation_duplicates([" ".join(words)], [" ".join([*words[:-1], "other"])], threshold=threshold)
    assert of_train.tolist() == [threshold == 17 / 19]


def test_duplicates_of_nothing():
    of_train, of_earlier = evaluation_duplicates([], ["a"])
    assert (of_train.tolist(), of_earlier.tolist()) == ([], [])
    assert evaluation_duplicates(["a", ""], [])[0].tolist() == [False, False]


def test_normalising():
    assert normalise_query("  Parse a `Date`,\n now! ") == "parse a date now"
    assert normalise_code("f( x )\n   return  x") == "f ( x ) return x"
    assert normalise_code("Ab") != normalise_code("ab")


def test_given_splits_stay_and_answers_are_no_distractors(tmp_path):
    given = {"train": [pair(1)], "test": [pair(2)], "codebase": [pair(2), pair(3, query="")]}
    manifest = build_corpus(given, tmp_path / "c")
    assert manifest.dropped["pairs"] == {"distractor_is_an_answer": 1}
    assert [row["name"] for row in rows(tmp_path / "c", "codebase")] == ["f3"]
    assert [row["name"] for row in rows(tmp_path / "c", "test")] == ["f2"]
    assert "1 packages of test are also in train" in manifest.notes[0]


def test_only_distractors(tmp_path):
    manifest = build_corpus({"codebase": [pair(1, query="")]}, tmp_path / "c")
    assert manifest.languages["python"].pairs == {"train": 0, "valid": 0, "test": 0, "codebase": 1}


def test_languages_are_apart(tmp_path):
    given = {"train": [pair(1), pair(2, language="go")]}
    build_corpus(given, tmp_path / "c")
    assert Corpus.open(tmp_path / "c").languages == ("go", "python")


@pytest.mark.parametrize("language", ["", "../x", "a/b", "Python"])
def test_a_language_must_be_a_folder_name(tmp_path, language):
    with pytest.raises(CorpusError, match="expected a language"):
        build_corpus({"train": [pair(1, language=language)]}, tmp_path / "c")


def test_a_split_must_be_known(tmp_path):
    with pytest.raises(CorpusError, match="got 'dev'"):
        build_corpus({"dev": [pair(1)]}, tmp_path / "c")


def test_equal_input_gives_equal_rows_and_the_seed_counts(tmp_path):
    made = [
        build_corpus(packages(MANY), tmp_path / str(number), valid=8, test=8, seed=seed).fingerprint
        for number, seed in enumerate((0, 0, 1))
    ]
    assert made[0] == made[1] != made[2]


def test_an_existing_folder_is_refused_and_overwritten_on_request(tmp_path):
    out = tmp_path / "c"
    first = build_corpus({"train": [pair(1)]}, out)
    with pytest.raises(CorpusError, match="--overwrite"):
        build_corpus({"train": [pair(2)]}, out)
    assert Corpus.open(out).fingerprint == first.fingerprint
    second = build_corpus({"train": [pair(2)]}, out, overwrite=True)
    assert Corpus.open(out).fingerprint == second.fingerprint != first.fingerprint
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


def test_what_is_no_corpus_is_never_overwritten(tmp_path):
    precious = tmp_path / "c" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("all my work")
    for out in (precious.parent, tmp_path / "missing" / ".." / "c"):
        with pytest.raises(CorpusError, match="left alone"):
            build_corpus({"train": [pair(1)]}, out, overwrite=True)
    assert precious.read_text() == "all my work"
    with pytest.raises(CorpusError):
        check_output(precious, overwrite=True)


def test_what_somebody_has_put_beside_a_corpus_is_never_overwritten(tmp_path):
    out = tmp_path / "c"
    first = build_corpus({"train": [pair(1)]}, out, meanings={})
    (out / "notes.txt").write_text("what I found")
    (out / "python" / "mine.parquet").write_text("mine")
    with pytest.raises(CorpusError, match=r"got what is no part of it: notes.txt, python/mine.parquet: move that"):
        build_corpus({"train": [pair(2)]}, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "what I found"
    assert Corpus.open(out).fingerprint == first.fingerprint
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


def test_what_somebody_puts_beside_a_corpus_while_it_is_replaced_is_not_lost(tmp_path, monkeypatch):
    out = tmp_path / "c"
    build_corpus({"train": [pair(1)]}, out)
    write = building.write_language

    def slow(*arguments):
        (out / "notes.txt").write_text("late")
        return write(*arguments)

    monkeypatch.setattr(building, "write_language", slow)
    with pytest.raises(CorpusError, match=r"notes\.txt"):
        build_corpus({"train": [pair(2)]}, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "late"


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "c").mkdir()
    build_corpus({"train": [pair(1)]}, tmp_path / "c")
    assert len(rows(tmp_path / "c", "train")) == 1


def test_a_failure_leaves_the_old_corpus_and_no_rubbish(tmp_path, monkeypatch):
    out = tmp_path / "c"
    first = build_corpus({"train": [pair(1)]}, out)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "write_language", fail)
    with pytest.raises(KeyboardInterrupt):
        build_corpus({"train": [pair(2)]}, out, overwrite=True)
    assert Corpus.open(out).fingerprint == first.fingerprint
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


def test_the_id_depends_on_every_field_but_the_line():
    base = pair(1)
    changed = [replace(base, **{name: "x"}) for name in ("query", "code", "language", "package", "path", "name")]
    assert len({each.id for each in [base, *changed]}) == 7
    assert replace(base, line=9).id == base.id
    assert len(base.id) == 16
    assert replace(base, query="ab", code="c").id != replace(base, query="a", code="bc").id


def test_a_corpus_that_appeared_meanwhile_is_not_replaced(tmp_path, tiny_pairs):
    """Two builds into one folder: the one that ends second says so, and what the first made stays."""

    def slow():
        yield from tiny_pairs
        build_corpus(tiny_pairs[:200], tmp_path / "c", valid=10, test=10)

    with pytest.raises(CorpusError, match="expected nothing at"):
        build_corpus(slow(), tmp_path / "c", valid=20, test=20)
    assert Corpus.open(tmp_path / "c").manifest.languages["python"].pairs["valid"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_split_that_falls_short_is_noted(tmp_path, tiny_pairs):
    notes = build_corpus(tiny_pairs, tmp_path / "c", valid=10_000, test=10).notes
    assert any("of 10,000 asked pairs in valid: it gets at most a tenth of all" in note for note in notes)
    given = build_corpus({"train": tiny_pairs}, tmp_path / "d").notes
    assert "python: no pair in test: no study can be run on this language" in given
    assert not any("asked pairs" in note for note in build_corpus(tiny_pairs, tmp_path / "e", valid=5, test=5).notes)
