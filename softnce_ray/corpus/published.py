"""Projects that a published benchmark evaluates on: found again in packages by repository, by name and by path."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from softnce_ray.corpus.sources import SourceSet

PUBLISHED = "CodeSearchNet's valid or test split"

_BENCHMARKS = Path(__file__).parent / "benchmarks"
_NAMED = 5
_SHORT = 3
_AFFIXES = {
    "go": ("go", "golang"),
    "java": ("java",),
    "javascript": ("node", "js", "javascript"),
    "php": ("php",),
    "python": ("python", "python3"),
    "ruby": ("ruby", "gem"),
}
"""Parts that one name of a project has and another lacks, before or behind a hyphen."""
# Packages that other projects ship under the names of their own packages: Java's runtime has such copies.
_COPIES = {
    "java": {
        "com/google/common/": "google/guava",
        "com/google/inject/": "google/guice",
        "io/reactivex/": "ReactiveX/RxJava",
        "net/sf/cglib/": "cglib/cglib",
        "org/objectweb/asm/": "oblac/jodd",
    }
}


class Projects:
    """Projects of one language under the names of a benchmark, `owner/name` or a name alone.

    A package is one of them if its metadata names that repository, or if its name has an owner and is that. A name
    without an owner matches a project's name, whoever owns it: repositories move, and packages are copied. Names that
    anybody may give are not taken for a match.
    """

    def __init__(self, language: str, names: Iterable[str]) -> None:
        self._language = language
        self._whole: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for name in sorted(names):
            owned = _owned(name)
            if owned:
                self._whole.setdefault(owned, name)
                self._names.setdefault(_normal(owned), name)
            for spelling in self._spellings(owned.partition("/")[2] if owned else name):
                self._names.setdefault(spelling, name)

    def find(self, package: str, repositories: Collection[str] = ()) -> str | None:
        """The project that a package is, or None."""
        owned = _owned(package)
        for repository in (*([owned] if owned else ()), *sorted(map(str.lower, repositories))):
            if repository in self._whole:
                return self._whole[repository]
        if not package:
            return None
        if owned:
            return self._names.get(_normal(owned))
        for name in (package, *sorted(repositories)):
            for spelling in self._spellings(name.rpartition("/")[2]):
                if spelling in self._names:
                    return self._names[spelling]
        return None

    def find_copy(self, path: str) -> str | None:
        """The project whose copy the file at a path is: below `owner/name`, or below its own package."""
        for below, copied in _COPIES.get(self._language, {}).items():
            if below in path and copied.lower() in self._whole:
                return self._whole[copied.lower()]
        folders = path.lower().split("/")[:-1]
        for owner, name in pairwise(folders):
            if (project := self._whole.get(f"{owner}/{name}")) is not None:
                return project
        return None

    def _spellings(self, name: str) -> list[str]:
        """Normal forms of a name, with and without what says its language; none where anybody may give it."""
        bare = normal = _normal(name)
        for affix in _AFFIXES.get(self._language, ()):
            bare = bare.removeprefix(f"{affix}-").removesuffix(f"-{affix}")
        if len(bare) <= _SHORT or bare in _generic_names():
            return []
        return list(dict.fromkeys((normal, bare)))


def _normal(name: str) -> str:
    return re.sub(r"[-_./ ]+", "-", name.lower()).strip("-@")


@lru_cache(100_000)
def _owned(name: str) -> str | None:
    """`owner/name` in small letters of a name that has an owner: of a repository, a Go module or an npm package."""
    parts = name.lower().removeprefix("@").split("/")
    if len(parts) == 3 and "." in parts[0]:  # github.com/owner/name
        return "/".join(parts[1:])
    # What begins with a host, such as go.etcd.io/etcd, has a name alone.
    return "/".join(parts) if len(parts) == 2 and "." not in parts[0] else None


def _lines(name: str) -> list[str]:
    lines = (_BENCHMARKS / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


@cache
def _generic_names() -> frozenset[str]:
    return frozenset(" ".join(_lines("generic_names.txt")).split())


@cache
def codesearchnet() -> Mapping[str, Projects]:
    """The repositories of CodeSearchNet's validation and test splits, by language."""
    names: dict[str, list[str]] = {}
    for line in _lines("codesearchnet.txt"):
        if line.endswith(":"):
            of_language = names.setdefault(line.split()[0], [])
        else:
            of_language.append(line)
    return {language: Projects(language, found) for language, found in names.items()}


@dataclass(frozen=True)
class Parted:
    """Sources apart from those of known projects.

    `rest` has the files of no such project, `files` counts the others. `packages` says of each package that is such a
    project, or has files of one, which it is.
    """

    rest: SourceSet
    files: int
    packages: Mapping[str, str]


def part(found: SourceSet, projects: Projects) -> Parted:
    """Part a language's sources into those of known projects and the rest."""
    whole = {
        name: projects.find(name, found.repositories.get(name, frozenset()))
        for name in dict.fromkeys(source.package for source in found.sources)
    }
    packages: dict[str, str] = {}
    rest = []
    for source in found.sources:
        project = whole[source.package] or projects.find_copy(source.path)
        if project is None:
            rest.append(source)
        else:
            packages.setdefault(source.package, project)
    return Parted(replace(found, sources=tuple(rest)), len(found.sources) - len(rest), packages)


def describe(language: str, parted: Parted, where: str, *, kept: bool) -> str:
    """A note on packages that stand in `where`, for whoever makes the corpus."""
    named = ", ".join(
        package if package == project else f"{package} as {project}"
        for package, project in list(parted.packages.items())[:_NAMED]
    )
    more = ", …" if len(parted.packages) > _NAMED else ""
    what = f"{language}: {parted.files:,} files of {len(parted.packages)} package(s) stand in {where} ({named}{more})"
    if kept:
        return (
            f"{what} and are kept: do not measure there what is trained on this corpus, or leave them out with "
            "--leave-out-published-test"
        )
    return f"{what} and are left out"
