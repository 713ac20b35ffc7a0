"""The image's Dockerfile, without building it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from docker_files import DOCKER, ROOT, canonical, compose, is_pinned, pins, program, project
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

TEXT = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()


def instructions(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in INSTRUCTIONS if line.startswith(f"{word} ")]


def default_of(argument: str) -> str:
    (found,) = (line.partition("=")[2] for line in instructions("ARG") if line.startswith(f"{argument}="))
    return found


def extras() -> list[str]:
    """The project's extras that the image installs."""
    (found,) = re.findall(r'"\.\[([\w,]+)\]"', TEXT)
    return found.split(",")


def test_the_linter_finds_nothing() -> None:
    done = subprocess.run(
        [program("hadolint"), "--failure-threshold", "style", str(DOCKER / "Dockerfile")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_it_runs_as_a_numbered_user_who_is_not_root() -> None:
    final = TEXT.rpartition("AS final")[2]
    users = re.findall(r"^USER (\d+):(\d+)$", final, re.MULTILINE)
    assert users == [("1000", "1000")], "Kubernetes checks runAsNonRoot by number"
    assert "USER" not in final.rpartition("USER")[2]


def test_versions_stand_in_the_constraints_only() -> None:
    assert not re.search(r"[\w\]]==\d", TEXT)
    installs = re.findall(r"pip --python \S+ install (.*)", "\n".join(INSTRUCTIONS))
    assert len(installs) == 3
    torch, dependencies, own = installs
    assert "grep '^torch==' constraints.txt" in torch and "--no-deps" in torch
    assert "-c constraints.txt" in dependencies and "--only-binary :all:" in dependencies
    assert "--no-deps" in own


def test_all_that_the_image_installs_has_a_version_in_the_constraints() -> None:
    """Walks the requirements as far as they are installed here; building the image checks all of them."""
    wanted, seen = [Requirement(text) for text in project()["dependencies"]], set()
    optional = project()["optional-dependencies"]
    wanted += [Requirement(text) for extra in extras() for text in optional[extra]]
    while wanted:
        requirement = wanted.pop()
        key = (canonical(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        for line in map(Requirement, lines):
            if any(line.marker is None or line.marker.evaluate({"extra": extra}) for extra in ("", *key[1])):
                wanted.append(line)
    missing = {name for name, _ in seen} - pins().keys()
    # Python's own build parts, and what only other systems need.
    assert missing <= {"setuptools", "triton"}, f"expected a version in constraints.txt of {sorted(missing)}"


def test_its_extras_are_the_projects() -> None:
    assert set(extras()) <= project()["optional-dependencies"].keys()


def test_the_base_is_a_pinned_python_that_the_project_takes_and_an_argument() -> None:
    base = default_of("BASE_IMAGE")
    assert is_pinned(base)
    (version,) = re.findall(r"python:(\d+\.\d+)", base)
    assert version in SpecifierSet(project()["requires-python"])
    assert instructions("FROM") == [
        "${BASE_IMAGE} AS dependencies",
        "dependencies AS package",
        "${BASE_IMAGE} AS final",
    ]


def test_torch_is_the_cpu_build_unless_an_argument_says_otherwise() -> None:
    assert default_of("TORCH_INDEX").endswith("/cpu")


def test_no_secret_has_a_place_in_it() -> None:
    names = re.findall(r"(\w+)=", " ".join(instructions("ENV") + instructions("ARG")))
    assert "RAY_AUTH_MODE" in names
    assert not [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY", name)]


def test_ray_is_closed_unless_it_has_a_token() -> None:
    assert "RAY_AUTH_MODE=token" in " ".join(instructions("ENV"))


def test_what_it_copies_is_there_and_all_that_the_builder_is_given() -> None:
    """The list of what is given away names files one by one: a new secret beside them stays at home."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    given = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        part.rstrip("/").removeprefix("./")
        for line in instructions("COPY")
        if "--from" not in line
        for part in line.split()[:-1]
        if not part.startswith("--")
    }
    assert rules[0] == "*"
    assert copied == given
    assert all((ROOT / name).exists() for name in given)


@pytest.mark.parametrize(
    ("installed", "problem"),
    [
        ({"Some_Thing": "1.2", "torch": "2.0+cpu"}, None),
        ({"some.thing": "1.3"}, "some-thing==1.3"),
        ({"other": "1.2"}, "other==1.2"),
        ({"nvidia-cublas": "13.0", "triton": "3.9"}, None),
    ],
)
def test_a_version_without_a_pin_fails_the_build(
    installed: dict[str, str], problem: str | None, tmp_path: Path
) -> None:
    (tmp_path / "constraints.txt").write_text("# tested\nsome-thing==1.2\ntorch==2.0\n", encoding="utf-8")
    for name, version in installed.items():
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, DOCKER / "unpinned.py", tmp_path / "constraints.txt", tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == (1 if problem else 0)
    assert (problem or "") in done.stderr


def test_compose_builds_this_file() -> None:
    built = compose()["services"]["head"]["build"]
    assert (DOCKER / built["context"]).resolve() == ROOT
    assert (ROOT / built["dockerfile"]).resolve() == DOCKER / "Dockerfile"
