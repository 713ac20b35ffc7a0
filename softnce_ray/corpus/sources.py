"""Which files are mined, and to which package each belongs."""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from softnce_ray.corpus.languages import Language
from softnce_ray.corpus.pairs import CorpusError

STANDARD_LIBRARY = "python-standard-library"

_HIDDEN = re.compile(r"\.|__pycache__$")
_TEST_FOLDER = re.compile(r"(?:.*_)?_*(?:unit)?tests?_*|test[-_].*|testing|testdata|specs?|fixtures", re.IGNORECASE)
_VENDORED_FOLDER = re.compile(
    r"_?vendor(?:ed|s)?|_?third[-_]?party(?:_files)?|3rdparty|_?externs?|externals|node_modules|bower_components|"
    r"_bundled|site-packages|dist-packages",
    re.IGNORECASE,
)
_GENERATED_NAME = re.compile(r"(_pb2|_pb2_grpc|\.pb|\.g|\.generated|_generated)\.\w+$|(^|/)generated/", re.I)
_INSTALLED = ("site-packages", "dist-packages")
_PROJECT_MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to mine: `path` is what the corpus shows, `file` is where the bytes are."""

    package: str
    path: str
    file: str


@dataclass(frozen=True)
class SourceSet:
    """Files to mine, sorted by (package, path), and how many files were passed over, by reason."""

    sources: tuple[Source, ...]
    skipped: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def path_exclusion(path: str, language: Language) -> str | None:
    """Why a file at this relative path (with forward slashes) is not mined, or None."""
    folders = path.split("/")[:-1]
    if any(map(_VENDORED_FOLDER.fullmatch, folders)):
        return "vendored_file"
    if any(map(_TEST_FOLDER.fullmatch, folders)) or language.test_file.search(path):
        return "test_file"
    if _GENERATED_NAME.search(path):
        return "generated_file"
    return "minified_file" if ".min." in path else None


def _files_below(
    root: Path, language: Language, skipped: Counter[str], without: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """(relative path, file) of the language's files; those that are not mined are only counted."""
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not _HIDDEN.match(name) and name not in without]
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in files:
            if not name.endswith(language.suffixes):
                continue
            path = name if relative == "." else f"{relative}/{name}"
            if reason := path_exclusion(path, language):
                skipped[reason] += 1
            elif any("\ud800" <= character <= "\udfff" for character in path):
                skipped["name_not_utf8"] += 1
            else:
                yield path, os.path.join(folder, name)


def _sorted(sources: list[Source]) -> tuple[Source, ...]:
    return tuple(sorted(sources, key=lambda source: (source.package, source.path)))


@cache
def _distributions() -> dict[str, str]:
    """Top-level import name -> installed distribution, for names that one distribution alone provides."""
    return {top: names[0] for top, names in metadata.packages_distributions().items() if len(set(names)) == 1}


def python_environment(language: Language) -> SourceSet:
    """The sources of the running interpreter: the standard library and what is installed beside it.

    A package is an installed distribution, so that what is one project stays together (torch also installs
    functorch); a top-level name that several distributions share (a namespace package), or none is known to
    provide, is a package by itself. The standard library is one package, `python-standard-library`.
    """
    paths = sysconfig.get_paths()
    sources: list[Source] = []
    skipped: Counter[str] = Counter()
    for path, file in _files_below(Path(paths["stdlib"]), language, skipped, _INSTALLED):
        sources.append(Source(STANDARD_LIBRARY, path, file))
    for root in sorted({Path(paths["purelib"]).resolve(), Path(paths["platlib"]).resolve()}):
        if not root.is_dir():
            continue
        for path, file in _files_below(root, language, skipped):
            top = path.split("/")[0].removesuffix(".py")
            sources.append(Source(_distributions().get(top, top), path, file))
    return SourceSet(_sorted(sources), skipped)


def source_folder(folder: str | Path, language: Language) -> SourceSet:
    """The sources below a folder.

    A package is the first folder below it, for a folder of many projects; files directly in it belong to a
    package with the folder's own name. When the folder is itself one project (it has pyproject.toml,
    setup.py, setup.cfg or .git) everything in it is that one package; building then splits by file, and
    says so.

    Raises:
        CorpusError: the folder is missing, or no file below it can be mined.
    """
    root = Path(folder)
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing"
        raise CorpusError(f"expected a folder of sources at {root}, got {got}: correct the path")
    own_name = root.resolve().name or "sources"
    one_project = any((root / marker).exists() for marker in _PROJECT_MARKERS)
    skipped: Counter[str] = Counter()
    sources = []
    for path, file in _files_below(root, language, skipped):
        first, slash, _ = path.partition("/")
        sources.append(Source(first if slash and not one_project else own_name, path, file))
    if not sources:
        passed = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "none at all"
        raise CorpusError(
            f"expected {language.name} files ({', '.join(language.suffixes)}) below {root}, got none to mine "
            f"(passed over: {passed}): give a folder with {language.name} sources that are not only tests"
        )
    notes = (f"{own_name} is one project: all of its files are one package",) if one_project else ()
    return SourceSet(_sorted(sources), skipped, notes)
