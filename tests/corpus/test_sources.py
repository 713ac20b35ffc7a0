import gzip
import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.sources import path_exclusion, source_folder, source_languages, source_sets


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def zipped(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, str]) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    path.write_bytes(gzip.compress(out.getvalue()))
    return path


def places(found, language: str) -> list[tuple[str, str]]:
    return [(source.package, source.path) for source in found[language].sources]


def test_several_folders_and_archives_give_the_sources_of_each_language(tmp_path):
    folder = write(tmp_path / "work", {"one/a.py": "x", "one/b.js": "x", "two/c.py": "x", "two/notes.txt": "x"})
    wheel = zipped(tmp_path / "three-1.0.zip", {"three/d.py": "x", "three/e.rb": "x"})
    other = tarred(tmp_path / "four-2.1.tgz", {"package/f.js": "x"})
    found = source_sets([folder, wheel, other], tmp_path / "cache", languages=["python", "javascript", "ruby"])
    assert places(found, "python") == [("one", "one/a.py"), ("three", "three/d.py"), ("two", "two/c.py")]
    assert places(found, "javascript") == [("four", "package/f.js"), ("one", "one/b.js")]
    assert places(found, "ruby") == [("three", "three/e.rb")]
    assert list(found) == ["python", "javascript", "ruby"]


def test_languages_are_found_by_the_files(tmp_path):
    files = {f"one/{number}.py": "x" for number in range(12)} | {f"two/{number}.go": "x" for number in range(10)}
    folder = write(tmp_path / "work", {**files, "two/a.rb": "x", "two/b_test.go": "x"})
    assert source_languages(folder) == {"python": 12, "go": 10, "ruby": 1}
    found = source_sets([folder], tmp_path / "cache")
    assert list(found) == ["python", "go"]
    assert found["go"].skipped == Counter(test_file=1)
    assert "ruby: 1 file(s) are too few to mine unasked" in found["go"].notes[0]


def test_a_language_with_few_files_is_mined_when_there_is_no_larger_one(tmp_path):
    found = source_sets([write(tmp_path / "work", {"one/a.go": "x", "one/b.go": "x"})], tmp_path / "cache")
    assert list(found) == ["go"]


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    empty = write(tmp_path / "empty", {"a.txt": "x"})
    text = write(tmp_path, {"b.txt": "x", "broken.zip": "x"})
    good = write(tmp_path / "good", {"one/a.py": "x"})
    with pytest.raises(CorpusError) as caught:
        source_sets([tmp_path / "none", text / "b.txt", good, text / "broken.zip", empty], tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "got nothing" in lines[0]
    assert "expected a folder or an archive" in lines[1]
    assert "fetch it again" in lines[2]
    assert "got none to mine" in lines[3]


def test_a_source_without_files_may_be_passed_over(tmp_path):
    empty = write(tmp_path / "empty", {"a.txt": "x"})
    good = write(tmp_path / "good", {"one/a.py": "x"})
    found = source_sets([empty, good], tmp_path / "cache", languages=["python"], strict=False)
    assert places(found, "python") == [("one", "one/a.py")]
    with pytest.raises(CorpusError, match="got none to mine"):
        source_sets([empty], tmp_path / "cache", strict=False)


def test_an_asked_language_without_a_file_is_an_error(tmp_path):
    good = write(tmp_path / "good", {"one/a.py": "x", "one/a_test.go": "x"})
    with pytest.raises(CorpusError, match=r"expected go files \(\.go\) .* \(passed over: 1 test_file\)"):
        source_sets([good], tmp_path / "cache", languages=["python", "go"])
    with pytest.raises(CorpusError, match=r"expected languages of python, .*, got cobol"):
        source_sets([good], tmp_path / "cache", languages=["cobol"])


def test_the_same_source_given_twice_counts_once(tmp_path):
    good = write(tmp_path / "good", {"one/a.py": "x"})
    archive = zipped(tmp_path / "two.zip", {"b.py": "x"})
    found = source_sets([good, archive, good, archive], tmp_path / "cache")
    assert places(found, "python") == [("one", "one/a.py"), ("two", "b.py")]


def test_equal_names_in_two_folders_are_two_projects(tmp_path):
    one = write(tmp_path / "one", {"src/a.py": "x", "lib/b.py": "x"})
    two = write(tmp_path / "two", {"src/a.py": "x"})
    found = source_sets([one, two], tmp_path / "cache")
    assert places(found, "python") == [("lib", "lib/b.py"), ("one/src", "src/a.py"), ("two/src", "src/a.py")]


def test_a_folder_of_archives_gives_each_as_a_project(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    zipped(folder / "one-1.0.zip", {"src/a.py": "x"})
    zipped(folder / "two-1.0.zip", {"src/a.py": "x"})
    found = source_sets([folder], tmp_path / "cache")
    assert places(found, "python") == [("one", "src/a.py"), ("two", "src/a.py")]


@pytest.mark.parametrize(
    "marker", [".git", "package.json", "go.mod", "composer.json", "Gemfile", "x.gemspec", "pom.xml", "build.gradle"]
)
def test_a_folder_with_a_marker_of_any_language_is_one_project(tmp_path, marker):
    write(tmp_path / "work", {"one/a.go": "x", "two/b.go": "x", marker: "{}"})
    found = source_folder(tmp_path / "work", LANGUAGES["go"])
    assert {source.package for source in found.sources} == {"work"}


@pytest.mark.parametrize(
    ("path", "language", "package"),
    [
        ("usr/share/gocode/src/github.com/me/thing/deep/a.go", "go", "github.com/me/thing"),
        ("usr/share/gocode/src/golang.org/x/net/html/a.go", "go", "golang.org/x/net"),
        ("usr/share/gocode/src/google.golang.org/grpc/a.go", "go", "google.golang.org/grpc"),
        ("usr/lib/jvm/lib/src.zip/java.base/java/lang/A.java", "java", "java.base"),
        ("usr/share/wordpress/wp-content/plugins/akismet/a.php", "php", "akismet"),
        ("usr/share/mediawiki/extensions-core/Cite/includes/A.php", "php", "Cite"),
        ("usr/share/mediawiki/includes/A.php", "php", "usr"),
        ("ruby/gems/active-thing-2.0.1/lib/a.rb", "ruby", "active-thing"),
        ("project/lib/a.rb", "ruby", "project"),
    ],
)
def test_the_project_of_a_file_in_a_folder(tmp_path, path, language, package):
    write(tmp_path / "root", {path: "x"})
    assert [each.package for each in source_folder(tmp_path / "root", LANGUAGES[language]).sources] == [package]


@pytest.mark.parametrize(
    ("path", "language", "reason"),
    [
        ("node_modules/a/b.js", "javascript", "vendored_file"),
        ("package/examples/a.js", "javascript", "example_file"),
        ("package/examples/jsm/a.js", "javascript", None),
        ("package/docs/a.js", "javascript", "example_file"),
        ("package/dist/a.js", "javascript", "generated_file"),
        ("vendor/github.com/a/b.go", "go", "vendored_file"),
        ("a/testdata/b.go", "go", "test_file"),
        ("a/_examples/b.go", "go", "example_file"),
        ("a/b.pb.go", "go", "generated_file"),
        ("spec/models/a.rb", "ruby", "test_file"),
        ("usr/share/doc/ruby-a/a.rb", "ruby", "example_file"),
        ("features/step_definitions/a.rb", "ruby", "example_file"),
        ("lib/features/a.rb", "ruby", None),
        ("src/test/java/org/A.java", "java", "test_file"),
        ("com/sun/docs/A.java", "java", None),
        ("vendor/monolog/a.php", "php", "vendored_file"),
        ("Tests/A.php", "php", "test_file"),
        ("lib/docs/a.py", "python", None),
    ],
)
def test_what_is_not_mined_goes_by_the_habits_of_the_language(path, language, reason):
    assert path_exclusion(path, LANGUAGES[language]) == reason


def test_of_the_builds_of_a_package_its_sources_are_mined(tmp_path):
    write(tmp_path, {"one/src/a.js": "x" * 50, "one/es5/a.js": "x" * 99, "one/esm/a.js": "x" * 60})
    found = source_folder(tmp_path, LANGUAGES["javascript"])
    assert [source.path for source in found.sources] == ["one/src/a.js"]
    assert found.skipped == Counter(built_file=2)


def test_a_package_that_has_only_builds_gives_the_largest(tmp_path):
    write(tmp_path, {"one/index.js": "x", "one/es5/a.js": "x" * 60, "one/esm/a.js": "x" * 70})
    found = source_folder(tmp_path, LANGUAGES["javascript"])
    assert [source.path for source in found.sources] == ["one/esm/a.js"]


def test_a_folder_named_spec_holds_tests_but_in_java_packages():
    assert path_exclusion("java.base/java/security/spec/KeySpec.java", LANGUAGES["java"]) is None
    assert path_exclusion("java.base/test/KeySpec.java", LANGUAGES["java"]) == "test_file"
    assert path_exclusion("lib/spec/helper.rb", LANGUAGES["ruby"]) == "test_file"
