import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softnce_ray.cli import app
from softnce_ray.corpus import Corpus, CorpusError, Pair, build_corpus, mine_corpus, source_sets
from softnce_ray.corpus.package_facts import debian_repositories, repositories_of
from softnce_ray.corpus.published import Projects, codesearchnet
from softnce_ray.corpus.recipe import load_recipe

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "codesearchnet_repositories.json"
FUNCTION = '''def {name}(a, b):
    """{said} {name} of two numbers."""
    total = a + b
    return total + {number}
'''


@pytest.mark.parametrize(
    ("language", "package", "repositories", "project"),
    [
        ("python", "pylint", ["pylint-dev/pylint"], "PyCQA/pylint"),  # it moved
        ("python", "tensorflow-probability", ["tensorflow/probability"], "tensorflow/probability"),
        ("python", "tensorflow_probability", [], "tensorflow/probability"),
        ("python", "torchvision", ["pytorch/vision"], "pytorch/vision"),
        ("python", "av", ["PyAV-Org/PyAV"], "mikeboers/PyAV"),
        ("python", "librosa", [], "librosa/librosa"),
        ("go", "github.com/containers/image", [], "containers/image"),
        ("go", "github.com/Dgraph-io/Badger", [], "dgraph-io/badger"),
        ("go", "go.etcd.io/etcd", [], "etcd-io/etcd"),
        ("go", "k8s.io/test-infra", [], "kubernetes/test-infra"),
        ("ruby", "ruby-barby", [], "toretore/barby"),
        ("ruby", "ruby-net-ssh", [], "net-ssh/net-ssh"),
        ("ruby", "gitlab", [], "NARKOZ/gitlab"),
        ("javascript", "acornjs/acorn", [], "acornjs/acorn"),
        ("javascript", "next", ["vercel/next.js"], "zeit/next.js"),
        ("php", "crypt-gpg", ["pear/Crypt_GPG"], "pear/Crypt_GPG"),
        # Other projects of a name that anybody may give, or of another owner where the name has one.
        ("javascript", "mongodb", ["mongodb/node-mongodb-native"], None),
        ("php", "php-mail", ["pear/Mail"], None),
        ("php", "php-parser", ["nikic/PHP-Parser"], None),
        ("go", "github.com/pkg/errors", [], None),
        ("go", "github.com/etcd-io/raft", [], None),
        ("python", "django", ["django/django"], None),
        ("java", "pylint", ["PyCQA/pylint"], None),  # its Java is another matter
        ("python", "", [], None),
    ],
)
def test_a_package_is_known_by_its_repository_or_its_name(language, package, repositories, project):
    assert codesearchnet()[language].find(package, repositories) == project


@pytest.mark.parametrize(
    ("language", "path", "project"),
    [
        ("java", "usr/lib/src.zip/java.base/jdk/internal/org/objectweb/asm/ClassReader.java", "oblac/jodd"),
        ("java", "usr/lib/src.zip/java.base/java/lang/String.java", None),
        ("go", "gocode/src/example.org/mine/deps/github.com/etcd-io/etcd/raft/log.go", "etcd-io/etcd"),
        ("go", "gocode/src/github.com/pkg/errors/errors.go", None),
        ("python", "org/objectweb/asm/a.py", None),
    ],
)
def test_a_copy_in_another_package_is_known_by_its_path(language, path, project):
    assert codesearchnet()[language].find_copy(path) == project


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published lists")
def test_the_list_is_the_published_one():
    published = json.loads(PUBLISHED.read_text())
    assert set(codesearchnet()) == set(published)
    for language, splits in published.items():
        names = {name for of_split in splits.values() for name in of_split}
        projects = codesearchnet()[language]
        assert {projects.find(f"github.com/{name}") for name in names} == names


def test_the_recipe_names_no_project_of_the_list():
    for language, packages in load_recipe("six_languages").languages.items():
        projects = codesearchnet()[language]
        for package in packages:
            name = package.name.removeprefix("golang-github-").removeprefix("golang-").removesuffix("-dev")
            assert projects.find(name) is None, package


def gem(metadata: str) -> bytes:
    out = io.BytesIO()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        add(tar, "lib/a.rb", b"# A thing that is long enough\ndef a\n  b = 1\n  b\nend\n")
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, "metadata.gz", gzip.compress(metadata.encode()))
        add(tar, "data.tar.gz", inner.getvalue())
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("package.json", '{"name": "x", "repository": {"url": "git+https://github.com/Own/it.js.git"}}'),
        ("package.json", '{"name": "x", "repository": "github:Own/it.js", "dependencies": {"a": "github.com/b/c"}}'),
        ("composer.json", '{"name": "Own/it.js"}'),
        ("composer.json", '{"support": {"source": "https://github.com/Own/it.js/tree/1.0"}}'),
        ("go.mod", "module github.com/Own/it.js/v2\n\nrequire github.com/b/c v1.0.0\n"),
        ("x-1.0.dist-info/METADATA", "Name: x\nProject-URL: Source, https://github.com/Own/it.js\n\ngithub.com/b/c"),
        ("PKG-INFO", "Name: x\nHome-page: http://github.com/Own/it.js.\n"),
        ("x.gemspec", 's.homepage = "https://github.com/Own/it.js"\ns.summary = "as github.com/b/c"\n'),
        (".git/config", '[remote "origin"]\n\turl = git@github.com:Own/it.js.git\n'),
    ],
)
def test_a_project_names_its_repository_in_its_metadata(tmp_path, file, text):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert repositories_of(tmp_path) == {"Own/it.js"}
    (tmp_path / file).write_text("{[")
    assert repositories_of(tmp_path) == frozenset()


def test_debian_names_a_home_and_a_source():
    control = "Package: x\nHomepage: https://github.com/Own/it\nDescription: like github.com/b/c\n"
    assert debian_repositories(control, "Source: https://github.com/old/it/releases\n") == {"Own/it", "old/it"}


def test_a_gem_is_known_by_its_metadata(tmp_path):
    (tmp_path / "other-1.0.gem").write_bytes(gem("name: other\nhomepage: https://github.com/toretore/barby\n"))
    found = source_sets([tmp_path / "other-1.0.gem"], tmp_path / "cache", languages=["ruby"])["ruby"]
    assert found.repositories == {"other": {"toretore/barby"}}


@pytest.fixture
def projects(tmp_path) -> Path:
    """A folder of five projects, two of which are published: pylint by its name, `fork` by its metadata."""
    for number, name in enumerate(("pylint", "fork", "first", "second", "third")):
        folder = tmp_path / "projects" / name
        folder.mkdir(parents=True)
        said = [FUNCTION.format(name=f"{name}_{n}", said="Add", number=100 * number + n) for n in range(9)]
        (folder / "a.py").write_text("\n".join(said))
    (tmp_path / "projects" / "fork" / "PKG-INFO").write_text("Home-page: https://github.com/librosa/librosa\n")
    return tmp_path / "projects"


def mine(*options: str) -> str:
    done = CliRunner().invoke(app, ["corpus", "mine", "--valid", "1", "--test", "1", "--workers", "1", *options])
    assert done.exit_code == 0, done.output
    return done.stderr


def test_published_projects_are_left_out_or_named_and_counted(projects, tmp_path):
    given = ("--source", str(projects), "--cache", str(tmp_path / "cache"), "--out")
    noted = mine(*given, str(tmp_path / "kept"))
    said = "2 package(s) stand in CodeSearchNet's valid or test split (fork as librosa/librosa, pylint as PyCQA/pylint)"
    assert f"note: python: 2 files of {said} and are kept" in noted
    assert f"{said} and are left out" in mine(*given, str(tmp_path / "without"), "--leave-out-published-test")
    kept, without = (Corpus.open(tmp_path / name).manifest for name in ("kept", "without"))
    assert packages(kept) == {"pylint", "fork", "first", "second", "third"}
    assert packages(without) == {"first", "second", "third"}
    assert "in_published_test" not in kept.dropped["files"]
    assert without.dropped["files"]["in_published_test"] == 2
    assert without.recipe["in_published_test"] == {"python": {"fork": "librosa/librosa", "pylint": "PyCQA/pylint"}}


def packages(manifest) -> set[str]:
    return {name for of_split in manifest.languages["python"].packages.values() for name in of_split}


def test_a_recipe_leaves_published_projects_out_unless_told(tmp_path):
    (tmp_path / "cache" / "pypi").mkdir(parents=True)
    rows = {}
    for name, home in (("first", ""), ("second", ""), ("third", ""), ("moved", "https://github.com/PyCQA/pylint")):
        wheel = tmp_path / "cache" / "pypi" / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as out:
            out.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\nProject-URL: Home, {home}\n")
            said = [FUNCTION.format(name=f"{name}_{n}", said="Add", number=n) for n in range(5)]
            out.writestr(f"{name}/a.py", "\n".join(said))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        file = str(wheel.relative_to(tmp_path / "cache"))
        rows[f"pypi:{name}==1.0"] = {"file": file, "version": "1.0", "bytes": wheel.stat().st_size, "sha256": digest}
    (tmp_path / "cache" / "fetched.json").write_text(json.dumps(rows))
    listed = ", ".join(f"{key.removeprefix('pypi:')}: MIT" for key in rows)
    (tmp_path / "own.yaml").write_text(f"languages: {{python: {{pypi: {{{listed}}}}}}}")
    asked = ["corpus", "recipe", str(tmp_path / "own.yaml"), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    for name, option in (("without", []), ("kept", ["--keep-published-test"])):
        done = CliRunner().invoke(app, [*asked, "--valid", "1", "--test", "1", "--out", str(tmp_path / name), *option])
        assert done.exit_code == 0, done.output
    found = [packages(Corpus.open(tmp_path / name).manifest) for name in ("without", "kept")]
    assert found == [{"first", "second", "third"}, {"first", "second", "third", "moved"}]


def test_a_corpus_is_mined_apart_from_what_it_is_measured_on(projects, tmp_path):
    """`second` is a package of its valid; first_0 stands in its test as it is, `long` nearly."""
    code = """def {name}(a, b):
    total = a + b
    return total + {number}
"""
    long = "\n".join(f"    value{n} = a * {n} + b" for n in range(30))
    other = [
        pair(code.format(name="first_0", number=200), "somebody/else"),
        pair(f"def long(a, b):\n{long}\n    return value3\n", "another/one"),
        pair(code.format(name="second_0", number=1), "who/second"),
        *(pair(f"def f{n}(a):\n    b{n} = a\n    return b{n}\n", "train") for n in range(40)),
    ]
    build_corpus({"train": other[3:], "test": other[:2], "valid": other[2:3]}, tmp_path / "benchmark")
    (projects / "third" / "b.py").write_text(
        f'def long(a, b):\n    """Make a long sum."""\n{long}\n    return value4\n'
    )
    sets = source_sets([projects], tmp_path / "cache", languages=["python"])
    made = mine_corpus(sets, tmp_path / "c", valid=1, test=1, workers=1, apart_from=Corpus.open(tmp_path / "benchmark"))
    assert made.dropped["files"] == {"in_apart_from": 1}
    assert made.recipe["in_apart_from"] == {"python": {"second": "who/second"}}
    assert made.dropped["pairs"]["repeats_apart_from"] == 2
    ruby = [Pair("Give it back", f"def f{n}(a)\n  b = a\n  b\nend", "ruby", f"p{n}", "a.rb", 1, "f") for n in range(30)]
    build_corpus(ruby, tmp_path / "ruby", valid=2, test=2)
    with pytest.raises(CorpusError, match="expected a language in common, got python in the sources and ruby in"):
        mine_corpus(sets, tmp_path / "d", valid=1, test=1, workers=1, apart_from=Corpus.open(tmp_path / "ruby"))
    assert "second" not in packages(made)
    opened = Corpus.open(tmp_path / "c")
    names = {
        name
        for split in ("train", "valid", "test")
        for name in opened.table("python", split, ["name"])["name"].to_pylist()
    }
    assert any(name.startswith("pylint_") for name in names)
    assert not names & {"first_0", "long"}


def pair(code: str, package: str) -> Pair:
    return Pair(f"Do what {code[4:9]} of {package} does", code, "python", package, "a.py", 1, "f")


def test_a_name_alone_is_compared_with_names_that_have_owners():
    projects = Projects("python", ["me/python-thing", "plain"])
    assert [projects.find(name) for name in ("thing", "you/thing", "me/python-thing", "Plain", "plainer")] == [
        "me/python-thing",
        None,
        "me/python-thing",
        "plain",
        None,
    ]
