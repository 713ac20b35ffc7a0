"""Indexes: every function of a tree, vectors that are computed once, exact answers, and folders that stay whole."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.config import TrialConfig
from softnce_ray.corpus import Corpus, CorpusError, Pair, copy_corpus
from softnce_ray.corpus.sources import Source
from softnce_ray.export import write_export
from softnce_ray.model import ExportError
from softnce_ray.preparation import open_data, prepare
from softnce_ray.retrieval import Index, RetrievalError, answer_from_index, build_index, indexing, open_embedder
from softnce_ray.retrieval import index as reading
from softnce_ray.retrieval.embedding import Embedder
from softnce_ray.retrieval.functions import find_functions, functions_of_file
from softnce_ray.training import train


@pytest.fixture(scope="module")
def models(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two exported bags that have learned the tiny corpus, of seeds 0 and 1."""
    root = tmp_path_factory.mktemp("models")
    folders = []
    for seed in (0, 1):
        settings = {"epochs": 10, "batch_size": 32, "learning_rate": 0.05}
        config = TrialConfig.model_validate(
            {"language": "python", "seed": seed, "encoder": {"kind": "bag", "width": 24}, "training": settings}
        )
        model = train(config, open_data(prepare(config, tiny_corpus, "python", root), config, "python")).model
        write_export(model, root / f"seed{seed}", "card")
        folders.append(root / f"seed{seed}")
    return folders[0], folders[1]


@pytest.fixture
def tree(tiny_pairs: list[Pair], tmp_path: Path) -> Path:
    """A source tree of the first 60 functions of the tiny corpus, without documentation."""
    for number in range(6):
        file = tmp_path / "tree" / "pkg" / f"module{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n\n\n".join(pair.code for pair in tiny_pairs[10 * number : 10 * number + 10]) + "\n")
    return tmp_path / "tree"


PYTHON = '''\
"""Module."""
import os


def documented(path):
    """Say what is in `path`.

    More.
    """
    return os.listdir(path)


class Stack:
    def __init__(self):
        self.items = []

    @property
    def top(self):
        def inner():
            return self.items[-1]
        return inner()

    async def pop(self): return self.items.pop()


def test_nothing():
    assert documented("/")
'''
JAVASCRIPT = """\
(function () {
  const half = (x) => x / 2;
  function outer(a) {
    function inner() { return a; }
    return inner();
  }
  [1].map(function (x) { return x; });
})();
"""
GO = """\
package p

type T struct{}

// Add adds.
func (t *T) Add(a int, b int) int {
	return a + b
}

func sub(a int, b int) int { return a - b }
"""
JAVA = """\
interface Shape { double area(); }
class Circle implements Shape {
    Circle() { r = 1; }
    public double area() { return 3 * r * r; }
    double r;
}
"""
RUBY = """\
class Greeter
  def initialize(name); @name = name; end
  def self.make
    new("x")
  end
end
"""
PHP = """\
<?php
function plus($a, $b) { return $a + $b; }
class C { private function minus($a) { return -$a; } abstract function none(); }
"""
EXPECTED = {
    "a.py": [("documented", 5), ("__init__", 14), ("top", 18), ("pop", 23), ("test_nothing", 26)],
    "b.js": [("half", 2), ("outer", 3), ("inner", 4)],
    "c.go": [("Add", 6), ("sub", 10)],
    "D.java": [("Circle", 3), ("area", 4)],
    "e.rb": [("initialize", 2), ("make", 3)],
    "f.php": [("plus", 2), ("minus", 3)],
}
TEXTS = {"a.py": PYTHON, "b.js": JAVASCRIPT, "c.go": GO, "D.java": JAVA, "e.rb": RUBY, "f.php": PHP}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_function_of_six_languages_comes_with_its_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEXTS[name])
    batch = functions_of_file(Source("p", name, str(tmp_path / name)))
    assert [(each.name, each.line) for each in batch.pairs] == EXPECTED[name]
    lines = TEXTS[name].splitlines()
    for each in batch.pairs:
        assert each.name in lines[each.line - 1] or name == "a.py"  # a decorator may stand above
        assert each.code.strip()


def test_documentation_is_shown_and_is_no_part_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON)
    first, *others = functions_of_file(Source("p", "a.py", str(tmp_path / "a.py"))).pairs
    assert first.query == "Say what is in path."
    assert first.code == "def documented(path):\n    return os.listdir(path)"
    assert {each.query for each in others} == {""}


def test_tests_and_examples_count_unless_they_are_not_wanted(tmp_path: Path) -> None:
    for path in ("lib/a.js", "tests/test_a.py", "examples/b.js", "node_modules/x/c.js", ".venv/d.py", "lib/e.min.js"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("function f() { return 1; }" if path.endswith(".js") else "def test_f(): return 1")
    every = find_functions(tmp_path)
    assert [each.path for each in every.functions] == ["examples/b.js", "lib/a.js", "tests/test_a.py"]
    assert dict(every.passed_over) == {"vendored_file": 1, "minified_file": 1}
    without = find_functions(tmp_path, tests=False)
    assert [each.path for each in without.functions] == ["lib/a.js"]


def test_a_file_and_an_archive_are_sources_too(tmp_path: Path) -> None:
    (tmp_path / "c.go").write_text(GO)
    assert [each.name for each in find_functions(tmp_path / "c.go").functions] == ["Add", "sub"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("p/c.go", GO)
    assert [each.name for each in find_functions(tmp_path / "a.zip").functions] == ["Add", "sub"]


def test_what_has_no_function_is_said_with_why(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "a.py").write_text(PYTHON)
    with pytest.raises(CorpusError, match="passed over: 1 vendored_file"):
        find_functions(tmp_path)
    with pytest.raises(CorpusError, match="got nothing"):
        find_functions(tmp_path / "none")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(CorpusError, match="source file"):
        find_functions(tmp_path / "a.txt")


def test_a_manifest_of_another_kind_makes_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an extension of a browser"}')
    (tmp_path / "b.js").write_text(JAVASCRIPT)
    assert find_functions(tmp_path).kind == "sources"


def names(hits: Sequence[reading.Hit]) -> list[str]:
    return [hit.name for hit in hits]


@pytest.mark.parametrize("number", ["float32", "float16"])
def test_a_query_finds_its_function_in_a_tree(
    number: indexing.Number, models: tuple[Path, Path], tree: Path, tiny_pairs: list[Pair], tmp_path: Path
) -> None:
    done = build_index(tree, models[0], tmp_path / "index", number=number)
    assert (done.functions, done.texts, done.files, done.languages) == (60, 60, 6, {"python": 60})
    index = Index.open(tmp_path / "index")
    assert index.vectors.dtype == number and isinstance(index.vectors, np.memmap)
    answers = index.search([pair.query for pair in tiny_pairs[:20]], index.embedder(), top=3)
    assert sum(pair.name in names(hits) for pair, hits in zip(tiny_pairs, answers, strict=False)) >= 18
    for hits in answers:
        for hit in hits:
            assert (tree / hit.path).read_text().splitlines()[hit.line - 1].startswith(f"def {hit.name}(")


def test_the_answer_is_exact_in_whatever_blocks_it_is_computed(
    models: tuple[Path, Path], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tree, models[0], tmp_path / "index")
    monkeypatch.setattr(reading, "_BLOCK", 7)
    index = Index.open(tmp_path / "index")
    embedder = index.embedder()
    query = "Merge the colour of every lamp."
    functions = find_functions(tree).functions
    scores = (
        embedder.encode_codes([each.code for each in functions], [each.language for each in functions])
        @ embedder.encode_queries([query])[0]
    )
    order = np.argsort(-scores)[:9]
    (hits,) = index.search([query], embedder, top=9)
    assert names(hits) == [functions[row].name for row in order]
    assert [hit.score for hit in hits] == pytest.approx(scores[order].tolist(), abs=1e-6)


def test_hybrid_finds_a_rare_word_that_the_model_has_never_seen(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    (tree / "zebra.py").write_text("def quagga(x):\n    return zebraStripes(x) + 1\n")
    build_index(tree, models[0], tmp_path / "index")
    index = Index.open(tmp_path / "index")
    (hits,) = index.search(["zebra stripes"], index.embedder(), top=1, hybrid=True)
    assert names(hits) == ["quagga"]


def test_where_bm25_finds_no_word_the_hybrid_has_the_model_s_order_and_says_so(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    build_index(tree, models[0], tmp_path / "index")
    index = Index.open(tmp_path / "index")
    queries = ["quagga", "lamp", "lights"]
    dense = answer_from_index(index, index.embedder(), queries, top=5)
    both = answer_from_index(index, index.embedder(), queries, top=5, hybrid=True)
    assert [each.measure for each in (dense[0], both[0])] == ["cosine", "fused"]
    assert names(both[0].hits) == names(dense[0].hits)
    assert both[0].note == "'quagga': no function has any of its words, so that BM25 adds nothing"
    assert dense[0].note == "'quagga': no function has any of its words"
    assert [each.note for each in (dense[2], both[2])] == ["", ""]  # in identifiers: machineLights
    # The fused score by hand: dense alone, in standard deviations above the mean of all functions.
    functions = find_functions(tree).functions
    embedder = index.embedder()
    scores = (
        embedder.encode_codes([each.code for each in functions], [each.language for each in functions])
        @ embedder.encode_queries(queries[:1])[0]
    )
    expected = np.sort((scores - scores.mean()) / scores.std())[::-1][:5]
    assert [hit.score for hit in both[0].hits] == pytest.approx(expected.tolist(), abs=1e-4)


def test_only_changed_functions_are_embedded_again(models: tuple[Path, Path], tree: Path, tmp_path: Path) -> None:
    build_index(tree, models[0], tmp_path / "index")
    file = tree / "pkg" / "module0.py"
    head, rest = file.read_text().split("\n", 1)
    file.write_text(f"# moved down\n{head}  # changed\n{rest}")
    (tree / "pkg" / "module5.py").unlink()
    again = build_index(tree, models[0], tmp_path / "index")
    assert (again.functions, again.computed, again.reused) == (50, 1, 49)
    fresh = build_index(tree, models[0], tmp_path / "fresh")
    assert (fresh.computed, fresh.reused) == (50, 0)
    updated, whole = Index.open(tmp_path / "index"), Index.open(tmp_path / "fresh")
    np.testing.assert_allclose(updated.vectors, whole.vectors, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_equal_codes_are_one_answer_that_says_how_many_there_are(models: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "m.py").write_text("def tally(values):\n    return len(values)\n")
    done = build_index(tmp_path / "tree", models[0], tmp_path / "index")
    assert (done.functions, done.texts) == (3, 1)
    index = Index.open(tmp_path / "index")
    (hits,) = index.search(["count the values"], index.embedder(), top=5)
    assert [(hit.path, hit.elsewhere) for hit in hits] == [("a/m.py", 2)]


def test_a_corpus_is_indexed_with_its_documentation(
    models: tuple[Path, Path], tiny_corpus: Path, tiny_pairs: list[Pair], tmp_path: Path
) -> None:
    done = build_index(tiny_corpus, models[0], tmp_path / "index")
    assert done.functions == sum(Corpus.open(tiny_corpus).manifest.languages["python"].pairs.values())
    index = Index.open(tmp_path / "index")
    (hits,) = index.search([tiny_pairs[0].query], index.embedder(), top=1, hybrid=True)
    assert (hits[0].name, hits[0].documentation) == (tiny_pairs[0].name, tiny_pairs[0].query)


def test_a_corpus_in_an_object_store_is_indexed_searched_and_evaluated(
    models: tuple[Path, Path], tiny_corpus: Path, tiny_pairs: list[Pair], bucket: str, tmp_path: Path
) -> None:
    place = f"{bucket}/corpus"
    copy_corpus(tiny_corpus, place)
    here = build_index(tiny_corpus, models[0], tmp_path / "here")
    asked = ["index", place, "--model", str(models[0]), "--out", str(tmp_path / "index")]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert f"{here.functions:,} functions (python {here.functions:,})" in done.stdout
    index = Index.open(tmp_path / "index")
    assert index.about["source"] == place
    np.testing.assert_array_equal(index.vectors, Index.open(tmp_path / "here").vectors)
    assert (again := build_index(place, models[0], tmp_path / "index")).reused == again.texts
    with pytest.raises(RetrievalError, match=r"another source .*--overwrite"):
        build_index(place, models[0], tmp_path / "here")
    with pytest.raises(CorpusError, match=f"expected a corpus at {bucket}/none, got nothing"):
        build_index(f"{bucket}/none", models[0], tmp_path / "none")

    numbers = []
    for corpus in (tiny_corpus, place):
        options = ["--corpus", str(corpus)]
        found = CliRunner().invoke(
            app, ["search", str(models[0]), tiny_pairs[0].query, *options], catch_exceptions=False
        )
        assert f"\t{tiny_pairs[0].name}\t" in found.stdout
        table = CliRunner().invoke(app, ["evaluate", str(models[0]), *options], catch_exceptions=False)
        rows = [line.split("\t") for line in table.stdout.splitlines()[1:]]
        assert {row[0] for row in rows} == {f"{corpus} ({Corpus.open(tiny_corpus).fingerprint[:12]})"}
        numbers.append([row[1:] for row in rows])
    assert numbers[0] == numbers[1] and len(numbers[0]) == 15


def test_a_query_with_another_model_is_refused(models: tuple[Path, Path], tree: Path, tmp_path: Path) -> None:
    build_index(tree, models[0], tmp_path / "index")
    index = Index.open(tmp_path / "index")
    with pytest.raises(RetrievalError, match="vectors of two models have nothing in common"):
        index.embedder(models[1])
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in models[0].rglob("*"):
        if path.is_file():
            target = moved / path.relative_to(models[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert index.embedder(moved).content == index.embedder().content


def test_an_index_of_another_source_or_model_is_replaced_only_when_asked(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    build_index(tree, models[0], tmp_path / "index")
    with pytest.raises(RetrievalError, match=r"another model .*--overwrite"):
        build_index(tree, models[1], tmp_path / "index")
    with pytest.raises(RetrievalError, match=r"another source .*--overwrite"):
        build_index(tree / "pkg", models[0], tmp_path / "index")
    replaced = build_index(tree, models[1], tmp_path / "index", overwrite=True)
    assert (replaced.computed, replaced.reused) == (60, 0)
    part = build_index(tree / "pkg", models[1], tmp_path / "index", overwrite=True)
    assert (part.computed, part.reused) == (0, 60)


def test_what_is_no_index_is_never_overwritten(models: tuple[Path, Path], tree: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    for out in (tmp_path / "thesis", tmp_path / "missing" / ".." / "thesis"):
        for overwrite in (False, True):
            with pytest.raises(RetrievalError, match="something else"):
                build_index(tree, models[0], out, overwrite=overwrite)
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years of work"


def test_what_somebody_has_put_into_an_index_is_never_lost(
    models: tuple[Path, Path], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tree, models[0], tmp_path / "index")
    (tmp_path / "index" / "notes").mkdir()
    (tmp_path / "index" / "notes" / "queries.txt").write_text("what I asked")
    for overwrite in (False, True):
        with pytest.raises(RetrievalError, match=r"got notes/queries.txt: move that elsewhere, or give another --out"):
            build_index(tree, models[0], tmp_path / "index", overwrite=overwrite)
    assert (tmp_path / "index" / "notes" / "queries.txt").read_text() == "what I asked"
    (tmp_path / "index" / "notes").rename(tmp_path / "notes")
    write = indexing._write_functions

    def late(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        (tmp_path / "index" / "late.txt").write_text("late")

    monkeypatch.setattr(indexing, "_write_functions", late)
    with pytest.raises(RetrievalError, match=r"got late\.txt"):
        build_index(tree, models[0], tmp_path / "index")
    assert (tmp_path / "index" / "late.txt").read_text() == "late"


def test_what_fails_leaves_the_old_index(
    models: tuple[Path, Path], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tree, models[0], tmp_path / "index")
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "index").iterdir())
    (tree / "new.py").write_text("def new(a):\n    return a\n")
    broken = open_embedder(models[0])

    def fails(texts: object, languages: object) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        indexing, "open_embedder", lambda _: Embedder(broken.folder, broken.content, broken.encode_queries, fails)
    )
    with pytest.raises(KeyboardInterrupt):
        build_index(tree, models[0], tmp_path / "index")
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "index").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_or_missing_index_is_an_error_of_one_line(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(RetrievalError, match="softnce-ray index"):
        Index.open(tmp_path / "none")
    build_index(tree, models[0], tmp_path / "index")
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(RetrievalError, match=r"format 1 .*got 99"):
        Index.open(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text("[" * 100_000)
    with pytest.raises(RetrievalError, match=r"damaged.*nested too deeply"):
        Index.open(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text(json.dumps(about))
    vectors = tmp_path / "index" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:300])
    with pytest.raises(RetrievalError, match="damaged") as caught:
        Index.open(tmp_path / "index")
    assert "\n" not in str(caught.value)


def test_files_of_an_index_that_changed_or_do_not_fit_are_named(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    build_index(tree, models[0], folder)
    about = json.loads((folder / "index.json").read_text())
    for name in about["files"]:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(RetrievalError, match=f"{name} has changed since it was written; make it again"):
            Index.open(folder)
        (folder / name).write_bytes(whole)
    (folder / "index.json").write_text(json.dumps({**about, "source": "elsewhere"}))
    with pytest.raises(RetrievalError, match="a change after it was written"):
        Index.open(folder)
    earlier = {name: value for name, value in about.items() if name not in ("files", "checksum")}
    wrongs: tuple[dict[str, object], ...] = (
        {"texts": None},
        {"functions": True},
        {"model": 7},
        {"number": "float16"},
        {"texts": about["texts"] + 1},
        {"files": []},
    )
    for wrong in wrongs:
        (folder / "index.json").write_text(json.dumps({**earlier, **wrong}))
        with pytest.raises(RetrievalError, match="damaged"):
            Index.open(folder)
    (folder / "index.json").write_text(json.dumps(earlier))
    words = np.load(folder / "words.columns.npy")
    np.save(folder / "words.columns.npy", words + 10_000)
    opened = Index.open(folder)
    with pytest.raises(RetrievalError, match="damaged"):
        opened.unknown_words(["date"])
    np.save(folder / "words.columns.npy", words)
    table = pq.read_table(folder / "functions.parquet")
    pq.write_table(
        table.set_column(6, table.field(6), pa.array([1] * len(table), pa.int32())), folder / "functions.parquet"
    )
    with pytest.raises(RetrievalError, match="the functions are not those"):
        Index.open(folder).search(["date"], open_embedder(models[0]))


def test_a_folder_that_is_no_model_is_said(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="softnce-ray export"):
        build_index(tree, tmp_path / "none", tmp_path / "index")
    with pytest.raises(ExportError, match=r"modules\.json"):
        build_index(tree, tree, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_model_whose_format_is_not_read_is_said_with_one_that_is(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    several = tmp_path / "best"
    for name, files in (
        ("hf", ["softnce_ray.json", "model.safetensors", "config.json"]),
        ("onnx", ["softnce_ray.json", "model.onnx", "tokenizer.json"]),
        ("mlflow", ["softnce_ray.json", "MLmodel"]),
    ):
        (several / name).mkdir(parents=True)
        for file in files:
            (several / name / file).write_text("{}")
    alone = tmp_path / "graph"
    alone.mkdir()
    for file in ("softnce_ray.json", "model.onnx"):
        (alone / file).write_text("{}")
    for folder, said in (
        (several, rf"several formats \(hf, mlflow, onnx\): give {several}/hf \(hf and sentence-transformers can be"),
        (several / "onnx", rf"best/onnx' .*format onnx: give {several}/hf \("),
        (several / "mlflow", rf"format mlflow: give {several}/hf \("),
        (alone, "format onnx: only hf and sentence-transformers can be read: export it again with --formats hf"),
    ):
        with pytest.raises(ExportError, match=said) as caught:
            build_index(tree, folder, tmp_path / "index")
        assert "\n" not in str(caught.value)
    for path in (several / "hf").iterdir():
        path.unlink()
    with pytest.raises(ExportError, match=r"\(mlflow, onnx\): only hf and"):
        open_embedder(several)


def test_an_index_that_is_being_made_is_not_made_twice(tmp_path: Path) -> None:
    (tmp_path / ".index.lock").touch()
    with (tmp_path / ".index.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RetrievalError, match="another process is making the index"):
            build_index(tmp_path, tmp_path / "model", tmp_path / "index")


_KILLED = """
import os, signal, sys
from softnce_ray import folders
from softnce_ray.retrieval import build_index, indexing

place, write = folders._put, indexing._write_functions

def killed(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_between(work, final, old, may_go):
    os.rename(final, old)
    killed()

if sys.argv[1] == "writing":
    indexing._write_functions = killed
elif sys.argv[1] == "placing":
    folders._put = killed
else:
    folders._put = killed_between
build_index(*sys.argv[2:])
"""


@pytest.mark.slow
def test_an_index_whose_update_was_killed_is_there_for_a_search_and_the_next_update_leaves_nothing_behind(
    models: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    place = tmp_path / "places" / "index"
    build_index(tree, models[0], place)
    (tree / "new.py").write_text("def new(a):\n    return a\n")
    for moment in ("writing", "placing", "between"):
        command = [sys.executable, "-c", _KILLED, moment, str(tree), str(models[0]), str(place)]
        assert subprocess.run(command, timeout=240).returncode == -signal.SIGKILL
        assert len(os.listdir(place.parent)) > 1 and place.exists() == (moment != "between")
        index = Index.open(place)
        assert len(index.search(["parse the date"], index.embedder())[0]) == 5
    again = build_index(tree, models[0], place)
    assert (again.functions, again.computed, again.reused) == (61, 1, 60)
    assert os.listdir(place.parent) == ["index"]
