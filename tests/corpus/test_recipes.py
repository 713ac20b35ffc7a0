import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest

from softnce_ray.corpus.fetching import fetch_recipe, fetched_sources
from softnce_ray.corpus.languages import LANGUAGES
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.recipe import load_recipe, recipe_names

RECIPE = """\
about: A small one.
languages:
  javascript:
    npm:
      left@1.0.0: MIT
      "@scope/right@2.1.0": null
  python:
    pypi:
      My-Thing==3.0: BSD-3-Clause
"""

# Stands for npm, pip and apt-get: it writes what it is asked for, and fails as they do.
CLIENT = """#!{python}
import io, json, os, sys, tarfile, zipfile
program = os.path.basename(sys.argv[0])
asked = [each for each in sys.argv[2:] if not each.startswith("-")]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([program, *sys.argv[1:]]) + "\\n")
missing = set(os.environ.get("MISSING", "").split())
if os.environ.get("DOWN"):
    sys.exit("npm error network request to http://registry.example/x failed: getaddrinfo")
bad = [each for each in asked if each in missing]
if bad:
    said = {{
        "npm": "npm error 404  '%s' is not in this registry.",
        "pip": "ERROR: No matching distribution found for %s",
        "apt-get": "E: Unable to locate package %s",
    }}
    sys.exit(said[program] % bad[0])
for number, spec in enumerate(asked):
    if program == "pip":
        name, _, version = spec.partition("==")
        with zipfile.ZipFile(f"{{name.replace('-', '_').lower()}}-{{version}}-py3-none-any.whl", "w") as out:
            out.writestr("a.py", "x = 1")
    else:
        name, _, version = spec.rpartition("@")
        path = f"{{name.lstrip('@').replace('/', '-')}}-{{version}}.tgz"
        with tarfile.open(path, "w:gz") as out:
            facts = json.dumps({{"name": name, "version": version}}).encode()
            for inner, data in (("package/package.json", facts), ("package/a.js", b"x" * 1000)):
                member = tarfile.TarInfo(inner)
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
        if os.environ.get("CUT") == spec:
            os.truncate(path, 60)
            sys.exit("npm error code EPIPE")
"""


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """A PATH with only the fake clients; gives the list of their calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("npm", "pip", "apt-get"):
        script = folder / name
        script.write_text(CLIENT.format(python=sys.executable))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    log = tmp_path / "calls"
    log.write_text("")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CALLS", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_each_registry_is_asked_once_for_all_of_its_packages(tmp_path, recipe, clients):
    seen = []
    fetched = fetch_recipe(recipe, tmp_path / "cache", progress=lambda *state: seen.append(state))
    assert names(fetched.paths["javascript"]) == ["left-1.0.0.tgz", "scope-right-2.1.0.tgz"]
    assert names(fetched.paths["python"]) == ["my_thing-3.0-py3-none-any.whl"]
    assert fetched.problems == ()
    calls = clients()
    assert [call[0] for call in calls] == ["npm", "pip"]
    assert calls[0][-2:] == ["left@1.0.0", "@scope/right@2.1.0"]
    assert seen[-1][:2] == (3, 3)
    row = fetched.packages["javascript"][0]
    assert (row["package"], row["licence"], row["version"]) == ("left@1.0.0", "MIT", "1.0.0")
    assert sorted(each.name for each in (tmp_path / "cache/npm").iterdir()) == names(fetched.paths["javascript"])


def test_what_is_there_is_not_fetched_again(tmp_path, recipe, clients):
    first = fetch_recipe(recipe, tmp_path / "cache")
    assert fetch_recipe(recipe, tmp_path / "cache") == first
    assert len(clients()) == 2
    left, right = first.paths["javascript"]
    left.unlink()
    right.write_bytes(right.read_bytes()[:-1] + b"!")  # equal size, other content
    assert fetch_recipe(recipe, tmp_path / "cache").paths == first.paths
    assert clients()[2:] == [["npm", *clients()[0][1:]]]


def test_only_the_asked_languages_are_fetched(tmp_path, recipe, clients):
    fetched = fetch_recipe(recipe, tmp_path / "cache", languages=["python"])
    assert list(fetched.paths) == ["python"]
    assert [call[0] for call in clients()] == ["pip"]
    with pytest.raises(CorpusError, match="got ruby"):
        fetch_recipe(recipe, tmp_path / "cache", languages=["ruby"])


def test_a_package_that_is_not_to_be_had_is_a_line_and_the_rest_comes(tmp_path, recipe, clients, monkeypatch):
    monkeypatch.setenv("MISSING", "left@1.0.0")
    fetched = fetch_recipe(recipe, tmp_path / "cache")
    assert names(fetched.paths["javascript"]) == ["scope-right-2.1.0.tgz"]
    assert fetched.problems == (
        "npm: expected left@1.0.0, got 'npm error 404 'left@1.0.0' is not in this registry.': it is left out",
    )
    assert [call[-1] for call in clients()[:2]] == ["@scope/right@2.1.0"] * 2


def test_a_language_without_any_package_is_an_error_with_the_reasons(tmp_path, recipe, clients, monkeypatch):
    monkeypatch.setenv("MISSING", "left@1.0.0 My-Thing==3.0")
    with pytest.raises(CorpusError) as caught:
        fetch_recipe(recipe, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("expected packages of python, could have none")
    # What came is kept for the next time.
    assert (tmp_path / "cache/npm/scope-right-2.1.0.tgz").exists()


def test_a_registry_that_is_not_reached_is_one_line_without_its_address(tmp_path, recipe, clients, monkeypatch):
    monkeypatch.setenv("DOWN", "1")
    with pytest.raises(CorpusError) as caught:
        fetch_recipe(recipe, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "expected 2 package(s) (left@1.0.0, @scope/right@2.1.0)" in lines[0]
    assert "example" not in lines[0]
    assert len(clients()) == 4


def test_a_client_that_is_missing_is_one_line(tmp_path, recipe, clients):
    (tmp_path / "bin/npm").unlink()
    fetched = fetch_recipe(recipe, tmp_path / "cache", languages=["python"])
    assert fetched.problems == ()
    with pytest.raises(CorpusError, match=r"npm: expected the client npm, got none on PATH, so 2 package\(s\)"):
        fetch_recipe(recipe, tmp_path / "cache")


def test_a_download_that_was_cut_short_is_not_taken_and_asked_for_again(tmp_path, recipe, clients, monkeypatch):
    monkeypatch.setenv("CUT", "@scope/right@2.1.0")
    fetched = fetch_recipe(recipe, tmp_path / "cache")
    assert names(fetched.paths["javascript"]) == ["left-1.0.0.tgz"]
    assert "@scope/right@2.1.0" in fetched.problems[0]
    monkeypatch.delenv("CUT")
    assert len(fetch_recipe(recipe, tmp_path / "cache").paths["javascript"]) == 2
    assert clients()[-1][-2:] == ["--loglevel=error", "@scope/right@2.1.0"]


def test_what_was_fetched_gives_sources(tmp_path, recipe, clients):
    fetched = fetch_recipe(recipe, tmp_path / "cache")
    found = fetched_sources(fetched, tmp_path / "cache")
    assert [(each.package, each.path) for each in found["javascript"].sources] == [
        ("@scope", "package/a.js"),
        ("left", "package/a.js"),
    ]
    assert [(each.package, each.path) for each in found["python"].sources] == [("my_thing", "a.py")]


def test_a_cache_that_is_no_folder_is_an_error(tmp_path, recipe, clients):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorpusError, match="give another folder"):
        fetch_recipe(recipe, tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected 'languages'"),
        ("languages: []", "expected 'languages'"),
        ("a: [", "expected a recipe in YAML"),
        ("languages: {cobol: {npm: {a@1: null}}}", "expected languages of"),
        ("languages: {ruby: {gems: {a: null}}}", "expected debian or npm or pypi"),
        ("languages: {python: {pypi: {numpy: null}}}", "expected name==version in pypi, got 'numpy'"),
        ("languages: {javascript: {npm: {lodash: MIT}}}", "expected name@version in npm"),
        ("languages: {ruby: {debian: {--help: null}}}", "expected a name in debian, got '--help'"),
        ("languages: {javascript: {npm: {../x@1.0: null}}}", "expected name@version"),
        ("[" * 99_999, "expected values at most 50 levels deep"),
        (
            "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9}]}}\n" for n in range(1, 12)),
            "expected at most 500,000 values, with those of aliases wherever they stand",
        ),
        ("wrong: 1\nlanguages: {ruby: {debian: {ruby-rack: null}}}", "got wrong"),
    ],
)
def test_a_recipe_that_is_written_wrongly_is_an_error(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(CorpusError, match=re.escape(said)):
        load_recipe(path)


@pytest.mark.parametrize("name", ["none", "../six_languages", "/etc/passwd"])
def test_a_recipe_that_is_not_there_is_an_error(name):
    with pytest.raises(CorpusError, match="expected a recipe of six_languages"):
        load_recipe(name)


def test_the_recipes_that_come_with_the_package_are_well_written():
    assert recipe_names() == ["six_languages"]
    for name in recipe_names():
        recipe = load_recipe(name)
        assert set(recipe.languages) == set(LANGUAGES)
        assert recipe.about
        packages = [package for packages in recipe.languages.values() for package in packages]
        assert len(packages) == len(set(packages))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
@pytest.mark.skipif(not os.environ.get("SOFTNCE_NETWORK"), reason="set SOFTNCE_NETWORK=1 to let it reach a registry")
def test_a_package_is_fetched_with_the_real_client(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("languages: {javascript: {npm: {lodash@4.17.21: MIT, no-such-thing-at-all-1@1.0.0: null}}}")
    fetched = fetch_recipe(path, tmp_path / "cache")
    assert names(fetched.paths["javascript"]) == ["lodash-4.17.21.tgz"]
    assert len(fetched.problems) == 1
    assert len(fetched_sources(fetched, tmp_path / "cache")["javascript"].sources) > 100
