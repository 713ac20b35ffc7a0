"""What the files of docker/ say, read once for the tests."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def program(name: str) -> str:
    """Path of a program beside this Python or on PATH; skips the test where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def pins() -> dict[str, str]:
    """Versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = (line.partition("==") for line in lines if "==" in line)
    return {canonical(name): version.strip() for name, _, version in named}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))


def settings(path: Path) -> dict[str, str]:
    """Names and values of an env file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    named = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in named}


def is_pinned(image: str) -> bool:
    """Whether an image is named with a tag that is a version: it begins with a digit and has a dot."""
    tag = image.rpartition("/")[2].partition(":")[2]
    return re.match(r"\d+\.\d+", tag) is not None


def values(node: Any, key: str) -> Iterator[Any]:
    """All values of a key, however deep."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values(value, key)
