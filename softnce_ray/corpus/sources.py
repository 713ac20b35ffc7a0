"""Which files are mined, and to which package each belongs."""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path

from softnce_ray.corpus.archives import KINDS, is_archive, unpack_archive
from softnce_ray.corpus.languages import LANGUAGES, Language
from softnce_ray.corpus.package_facts import repositories_named, repositories_of
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
_PROJECT_MARKERS = (".git", ".hg", "pyproject.toml", "setup.py", "setup.cfg", "*.gemspec")
# Folders that show or measure a project and are no part of it. Python's environment has its own habits, and
# Java's packages have such names.
_ASIDE_FOLDERS = r"(?:^|/)(?:usr/share/doc|_?examples?{jsm}|samples?|demos?|docs?|tutorials?|bench(?:marks?|es)?)/"
_ASIDE: dict[str, re.Pattern[str]] = {
    "go": re.compile(_ASIDE_FOLDERS.format(jsm="")),
    "java": re.compile(r"(?:^|/)(?:usr/share/doc|samples?|demos?)/"),
    "javascript": re.compile(_ASIDE_FOLDERS.format(jsm=r"(?!/jsm/)")),  # three's addons are sources
    "php": re.compile(_ASIDE_FOLDERS.format(jsm="")),
    "ruby": re.compile(_ASIDE_FOLDERS.format(jsm="") + r"|(?:^|/)(?:features/(?:step_definitions|support)|dummy)/"),
}
# Projects within an archive or a folder of many: Go's import paths, Java's modules, the plugins of programs
# that ship those of others.
_HOSTS = r"(?:github\.com|gitlab\.com|bitbucket\.org|codeberg\.org|git\.sr\.ht|salsa\.debian\.org|golang\.org)"
_INNER_PROJECTS = (
    re.compile(rf"(?:^|/)gocode/src/({_HOSTS}/[^/]+/[^/]+|[^/]+/[^/]+)/"),
    re.compile(r"(?:^|[/._-])(?:src|sources?)\.(?:zip|jar)/([a-z]\w*\.[\w.]+)/"),
    re.compile(r"(?:^|/)(?:wp-content/(?:plugins|themes)|mediawiki/(?:extensions|skins)(?:-core)?)/([^/]+)/"),
)
_GEM = re.compile(r"(?:^|/)gems/([A-Za-z][\w.-]*?)-\d[^/]*/")
# Where JavaScript packages keep the same code once more, compiled for another kind of import; what is bundled
# is the language's `built_file`.
_BUILDS = frozenset(("amd", "commonjs", "es", "es5", "es6", "es2015", "esm", "modern"))
_AUTO_FILES = 10


@dataclass(frozen=True, slots=True)
class Source:
    """A file to mine: `path` is what the corpus shows, `file` is where the bytes are."""

    package: str
    path: str
    file: str


@dataclass(frozen=True)
class SourceSet:
    """Files to mine, sorted by (package, path), and how many files were passed over, by reason.

    `repositories` are those (`owner/name` on GitHub) that the metadata of a package names as its own.
    """

    sources: tuple[Source, ...]
    skipped: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    repositories: Mapping[str, frozenset[str]] = field(default_factory=dict)


def path_exclusion(path: str, language: Language) -> str | None:
    """Why a file at this relative path (with forward slashes) is not mined, or None."""
    folders = path.split("/")[:-1]
    if any(map(_VENDORED_FOLDER.fullmatch, folders)):
        return "vendored_file"
    if any(_TEST_FOLDER.fullmatch(folder) and folder not in language.package_folders for folder in folders):
        return "test_file"
    if language.test_file.search(path):
        return "test_file"
    if (aside := _ASIDE.get(language.name)) and aside.search(path):
        return "example_file"
    if _GENERATED_NAME.search(path) or (language.built_file is not None and language.built_file.search(path)):
        return "generated_file"
    return "minified_file" if ".min." in path else None


def _files_below(
    root: Path, language: Language, skipped: Counter[str], without: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """(relative path, file) of the language's files; those that are not mined are only counted."""

    def unreadable(error: OSError) -> None:
        skipped["unreadable_folder"] += 1

    for folder, names, files in os.walk(root, onerror=unreadable):
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
    packages = {source.package for source in sources}
    return SourceSet(_sorted(sources), skipped, repositories={name: _installed_repositories(name) for name in packages})


def _installed_repositories(distribution: str) -> frozenset[str]:
    try:
        said = metadata.metadata(distribution)
    except metadata.PackageNotFoundError:
        return frozenset()
    return repositories_named("\n".join([*(said.get_all("Home-page") or ()), *(said.get_all("Project-URL") or ())]))


@dataclass(frozen=True, slots=True)
class _Root:
    """A folder to mine: a given one, or what was unpacked of an archive, which is one project."""

    given: str
    folder: Path
    name: str
    is_archive: bool
    is_project: bool
    repositories: frozenset[str] = frozenset()

    def repositories_of(self, packages: Collection[str]) -> dict[str, frozenset[str]]:
        """The repositories that the packages' metadata names, for those of which it can be said."""
        if not self.is_archive and not self.is_project:
            return {name: repositories_of(self.folder / name) for name in packages}
        # Of several projects in one archive its metadata is that of the one with its name.
        return {name: self.repositories for name in packages if len(packages) == 1 or name == self.name}

    def project(self, path: str) -> str:
        """The project that the file at a path below the folder belongs to."""
        for pattern in _INNER_PROJECTS:
            if match := pattern.search(path):
                return match.group(1)
        if self.is_archive or self.is_project:
            return self.name
        if match := _GEM.search(path):
            return match.group(1)
        first, slash, _ = path.partition("/")
        return first if slash else self.name


def _folder_root(folder: Path) -> _Root:
    # A project is one whichever of its languages is mined.
    markers = {*_PROJECT_MARKERS, *(name for language in LANGUAGES.values() for name in language.project_files)}
    is_project = any(True for marker in markers for _ in folder.glob(marker))
    named = repositories_of(folder) if is_project else frozenset[str]()
    name = folder.resolve().name or "sources"
    return _Root(str(folder), folder, name, is_archive=False, is_project=is_project, repositories=named)


def _sources_of(root: _Root, language: Language, skipped: Counter[str]) -> list[Source]:
    found = [Source(root.project(path), path, file) for path, file in _files_below(root.folder, language, skipped)]
    return _without_builds(found, skipped) if language.name == "javascript" else found


def _without_builds(sources: list[Source], skipped: Counter[str]) -> list[Source]:
    """Without what is compiled or bundled from the other files of the same package; of several builds, the
    largest."""
    packages: dict[str, dict[str, list[Source]]] = {}
    for source in sources:
        folders = source.path.split("/")[:-1]
        build = next((folder for folder in folders if folder.lower() in _BUILDS), "")
        packages.setdefault(source.package, {}).setdefault(build, []).append(source)
    kept: list[Source] = []
    for builds in packages.values():
        sizes = {build: sum(_size(source.file) for source in files) for build, files in builds.items()}
        largest = max(sizes, key=lambda build: (sizes[build], build))
        # A few files beside a build configure it, or only load it.
        taken = "" if 10 * sizes.get("", 0) >= sizes[largest] else largest
        for build, files in builds.items():
            if build == taken:
                kept += files
            else:
                skipped["built_file"] += len(files)
    return kept


def _size(file: str) -> int:
    try:
        return os.path.getsize(file)
    except OSError:
        return 0


def _nothing_to_mine(where: object, languages: Iterable[Language], skipped: Mapping[str, int]) -> str:
    known = list(languages)
    names = " or ".join(language.name for language in known)
    suffixes = ", ".join(suffix for language in known for suffix in language.suffixes)
    passed = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "none at all"
    return (
        f"expected {names} files ({suffixes}) below {where}, got none to mine (passed over: {passed}): "
        f"give a folder with {names} sources that are not only tests"
    )


def _one_project_note(root: _Root) -> str:
    return f"{root.name} is one project: all of its files are one package"


def source_folder(folder: str | Path, language: Language) -> SourceSet:
    """The sources below a folder.

    A package is the first folder below it, for a folder of many projects; files directly in it belong to a
    package with the folder's own name. When the folder is itself one project (it has .git, pyproject.toml,
    package.json, go.mod, composer.json, a Gemfile, pom.xml or another such file) everything in it is that
    one package; building then splits by file, and says so.

    Raises:
        CorpusError: the folder is missing, or no file below it can be mined.
    """
    path = Path(folder)
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing"
        raise CorpusError(f"expected a folder of sources at {path}, got {got}: correct the path")
    root = _folder_root(path)
    skipped: Counter[str] = Counter()
    sources = _sources_of(root, language, skipped)
    if not sources:
        raise CorpusError(_nothing_to_mine(path, [language], skipped))
    return SourceSet(
        _sorted(sources),
        skipped,
        (_one_project_note(root),) if root.is_project else (),
        root.repositories_of({source.package for source in sources}),
    )


def source_languages(folder: str | Path) -> dict[str, int]:
    """How many files of each known language could be mined below a folder, the most first; it may be empty."""
    root = _folder_root(Path(folder))
    counts = {name: len(_sources_of(root, language, Counter())) for name, language in LANGUAGES.items()}
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name)) if counts[name]}


def source_sets(
    paths: Sequence[str | Path],
    cache: str | Path,
    *,
    languages: Sequence[str] | None = None,
    strict: bool = True,
) -> dict[str, SourceSet]:
    """The sources of each language in several folders and archives.

    Archives are unpacked below `cache`; a folder that is no project gives the archives directly in it, too.
    `languages` None takes those of which there are at least ten files, or else the one with the most, and a
    note names the others. A package is a project: a Debian package's source package, an npm package's name
    (the repository's where that holds several), a wheel's name, or else the archive's; Go's import path up
    to the repository, Java's module, a gem, a plugin of WordPress or MediaWiki; in a folder as with
    `source_folder`. Without `strict` a folder or archive that has nothing to mine is passed over.

    Raises:
        CorpusError: one line for each path that is missing, no folder and no archive, broken or (`strict`)
            without a file to mine; a language is unknown or has no file at all.
    """
    unknown = [name for name in languages or () if name not in LANGUAGES]
    if unknown:
        raise CorpusError(f"expected languages of {', '.join(LANGUAGES)}, got {', '.join(unknown)}: correct the name")
    if not paths:
        raise CorpusError("expected folders or archives of sources, got none: give some")
    asked = [LANGUAGES[name] for name in languages or LANGUAGES]
    problems: list[str] = []
    found: dict[str, list[Source]] = {language.name: [] for language in asked}
    skipped: dict[str, Counter[str]] = {language.name: Counter() for language in asked}
    notes: list[str] = []
    roots = _roots(paths, cache, problems)
    owners: dict[str, set[str]] = {}
    gathered: list[tuple[_Root, str, list[Source]]] = []
    for root in roots:
        passed: Counter[str] = Counter()
        number = 0
        for language in asked:
            reasons: Counter[str] = Counter()
            sources = _sources_of(root, language, reasons)
            gathered.append((root, language.name, sources))
            skipped[language.name] += reasons
            passed += reasons
            number += len(sources)
            if not root.is_archive:
                for package in {source.package for source in sources}:
                    owners.setdefault(package, set()).add(str(root.folder))
        if not number and strict:
            problems.append(_nothing_to_mine(root.given, asked, passed))
        elif number and root.is_project and not root.is_archive:
            notes.append(_one_project_note(root))
    if problems:
        raise CorpusError("\n".join(problems))
    repositories: dict[str, dict[str, frozenset[str]]] = {language.name: {} for language in asked}
    for root, name, sources in gathered:
        named = root.repositories_of({source.package for source in sources})
        for source in sources:
            own = named.get(source.package, frozenset())
            # Two folders that both have a folder "src" are two projects.
            if not root.is_archive and len(owners[source.package]) > 1 and source.package != root.name:
                source = replace(source, package=f"{root.name}/{source.package}")
            found[name].append(source)
            repositories[name][source.package] = repositories[name].get(source.package, frozenset()) | own
    counts = {name: len(sources) for name, sources in found.items() if sources}
    if languages is None:
        most = max(counts.values(), default=0)
        few = {name: count for name, count in counts.items() if count < min(_AUTO_FILES, most)}
        for name, count in few.items():
            notes.append(f"{name}: {count} file(s) are too few to mine unasked: name the language to mine it")
            del counts[name]
    else:
        missing = [_nothing_to_mine("the sources", [LANGUAGES[n]], skipped[n]) for n in languages if n not in counts]
        if missing:
            raise CorpusError("\n".join(missing))
    if not counts:
        raise CorpusError(_nothing_to_mine("the sources", asked, sum(skipped.values(), Counter())))
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: SourceSet(_sorted(found[name]), skipped[name], tuple(notes), repositories[name]) for name in order}


def _roots(paths: Sequence[str | Path], cache: str | Path, problems: list[str]) -> list[_Root]:
    """What to walk, each once; what cannot be is added to `problems`."""
    roots: dict[Path, _Root] = {}
    for given in paths:
        path = Path(given)
        archives = [path]
        if path.is_dir():
            root = _folder_root(path)
            archives = [] if root.is_project else sorted(each for each in path.iterdir() if is_archive(each))
            if not archives or any(each not in archives and not each.name.startswith(".") for each in path.iterdir()):
                roots.setdefault(path.resolve(), root)
        elif not path.exists():
            problems.append(f"expected a folder or an archive of sources at {path}, got nothing: correct the path")
            continue
        elif not is_archive(path):
            problems.append(f"expected a folder or an archive ({KINDS}) of sources, got {path}: give one of these")
            continue
        for archive in archives:
            try:
                unpacked = unpack_archive(archive, cache)
            except CorpusError as error:
                problems.append(str(error))
                continue
            named = frozenset(unpacked.repositories)
            root = _Root(str(archive), unpacked.folder, unpacked.project, True, True, named)
            roots.setdefault(unpacked.folder.resolve(), root)
    return list(roots.values())
