"""Fail where a package is installed whose version a constraints file does not name.

usage: unpinned.py CONSTRAINTS SITE_PACKAGES
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

PINNED_BY_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(constraints: str) -> set[tuple[str, str]]:
    """Names, canonical, and versions of all lines `name==version`."""
    found = re.findall(r"^([\w.-]+)==([^\s;#]+)", constraints, re.MULTILINE)
    return {(canonical(name), version) for name, version in found}


def main(constraints: str, site_packages: str) -> None:
    pinned = pins(Path(constraints).read_text(encoding="utf-8"))
    installed = {
        (canonical(found.name), found.version.partition("+")[0])  # torch's build is not part of its pin
        for found in distributions(path=[site_packages])
    }
    missing = sorted(
        f"{name}=={version}" for name, version in installed - pinned if not PINNED_BY_TORCH.fullmatch(name)
    )
    if missing:
        sys.exit("expected every version in constraints.txt, got without one: " + ", ".join(missing))


main(*sys.argv[1:])
