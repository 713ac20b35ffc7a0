"""The packages of a recipe, fetched with the ordinary clients into a cache."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softnce_ray.corpus.archives import is_whole
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.recipe import Package, load_recipe
from softnce_ray.corpus.sources import SourceSet, source_sets
from softnce_ray.digests import sha256_of
from softnce_ray.folders import lock_file

Progress = Callable[[int, int, str], None]

_RECORD = "fetched.json"
_SECONDS_BETWEEN_LOOKS = 0.5
_MAX_SECONDS = 3600.0
_ERROR_LINE = re.compile(r"^(?:E:|ERROR:|npm (?:error|ERR!))", re.IGNORECASE)


@dataclass(frozen=True)
class Fetched:
    """What a recipe gave: archives of each language, a row (spec, version, licence, size, sha256) of each package,
    and a line for each one that could not be had."""

    recipe: str
    paths: Mapping[str, tuple[Path, ...]]
    packages: Mapping[str, tuple[Mapping[str, Any], ...]]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Registry:
    """A client that downloads packages into the folder it runs in, many in one call."""

    program: str
    arguments: tuple[str, ...]
    file_pattern: Callable[[str], str]
    install: str

    def command(self, specs: Sequence[str]) -> list[str]:
        return [self.program, *self.arguments, *specs]


def _debian_file(spec: str) -> str:
    return f"{spec}_*.deb"


def _npm_file(spec: str) -> str:
    name, _, version = spec.rpartition("@")
    return f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def _pypi_file(spec: str) -> str:
    name, _, version = spec.partition("==")
    # Wheels are named with small letters by some tools and with capitals by others.
    letters = "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in re.sub(r"[-_.]+", "_", name).lower())
    return f"{letters.replace('_', '[._]')}-{version}-*.whl"


_REGISTRIES = {
    "debian": _Registry("apt-get", ("download", "-q"), _debian_file, "use Debian, and run 'apt-get update' once"),
    "npm": _Registry("npm", ("pack", "--ignore-scripts", "--loglevel=error"), _npm_file, "install Node.js with npm"),
    "pypi": _Registry(
        "pip",
        # Only sources are wanted of them: no dependency, no build, and never mind which Python they need.
        ("download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check"),
        _pypi_file,
        "install pip",
    ),
}


def fetch_recipe(
    name: str | Path,
    cache: str | Path,
    *,
    languages: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Have every package of a recipe below `cache`, fetching those that are not there whole.

    All packages of a registry are asked for in one call of its client, which must be installed; those that it
    says it cannot find are left out and the others asked for again. npm's and PyPI's versions are the
    recipe's; Debian's are those of the release that apt knows, and `Fetched.packages` says which came.
    `languages` None means all of the recipe's. `progress` is called with (packages there, packages wanted,
    what is being done).

    Raises:
        CorpusError: as `load_recipe`; a language is not in the recipe, or none of its packages could be had.
    """
    recipe = load_recipe(name)
    chosen = list(languages or recipe.languages)
    if unknown := [language for language in chosen if language not in recipe.languages]:
        known = ", ".join(recipe.languages)
        raise CorpusError(f"expected languages of {recipe.name}: {known}, got {', '.join(unknown)}: correct the name")
    wanted: dict[str, list[Package]] = {}
    for language in chosen:
        for package in recipe.languages[language]:
            of_registry = wanted.setdefault(package.registry, [])
            if package not in of_registry:
                of_registry.append(package)
    total = sum(map(len, wanted.values()))
    root = Path(cache)
    problems: list[str] = []
    there: dict[Package, Path] = {}
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            record = _Record(root)
            for registry, packages in wanted.items():
                fetcher = _Fetcher(registry, root, record, there, total, progress)
                problems += fetcher.fetch(packages)
    except OSError as error:
        raise CorpusError(f"expected to keep packages below {root}, got {error}: give another folder") from error
    paths = {name: tuple(there[each] for each in recipe.languages[name] if each in there) for name in chosen}
    if empty := [language for language in chosen if not paths[language]]:
        said = f"expected packages of {', '.join(empty)}, could have none of them: see above, then try again"
        raise CorpusError("\n".join([*problems, said]))
    rows = {
        language: tuple(
            {"package": each.spec, "licence": each.licence, **record.about(each)}
            for each in recipe.languages[language]
            if each in there
        )
        for language in chosen
    }
    return Fetched(recipe.name, paths, rows, tuple(problems))


def fetched_sources(fetched: Fetched, cache: str | Path) -> dict[str, SourceSet]:
    """The sources of each language in what was fetched, unpacked below `cache`.

    Raises:
        CorpusError: an archive is broken, or a language has no file to mine.
    """
    return {
        language: source_sets(paths, cache, languages=[language], strict=False)[language]
        for language, paths in fetched.paths.items()
    }


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with lock_file(root / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Record:
    """What is in the cache, kept in a file so that a later call can trust it."""

    def __init__(self, root: Path) -> None:
        self.path = root / _RECORD
        self.root = root
        self.rows: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            rows = json.loads(self.path.read_text(encoding="utf-8"))
            self.rows = {key: row for key, row in rows.items() if isinstance(row, dict) and "file" in row}

    def _key(self, package: Package) -> str:
        return f"{package.registry}:{package.spec}"

    def path_of(self, package: Package) -> Path | None:
        """The package's file, when it is still what was fetched."""
        row = self.rows.get(self._key(package))
        if row is None:
            return None
        path = self.root / str(row["file"])
        if not path.is_file() or path.stat().st_size != row.get("bytes") or sha256_of(path) != row.get("sha256"):
            return None
        return path

    def about(self, package: Package) -> dict[str, Any]:
        return self.rows.get(self._key(package), {})

    def add(self, package: Package, path: Path) -> None:
        version = package.spec.removeprefix(package.name).lstrip("@=")
        if package.registry == "debian":
            version = path.name.split("_")[1].replace("%3a", ":")
        self.rows[self._key(package)] = {
            "file": str(path.relative_to(self.root)),
            "version": version,
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }

    def save(self) -> None:
        new = self.path.with_name(f".{self.path.name}")
        new.write_text(json.dumps(self.rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(new, self.path)


class _Fetcher:
    """One registry's packages: which are there, and calls of its client for the others."""

    def __init__(
        self,
        registry: str,
        root: Path,
        record: _Record,
        there: dict[Package, Path],
        total: int,
        progress: Progress | None,
    ) -> None:
        self.registry, self.client = registry, _REGISTRIES[registry]
        self.folder, self.record, self.there = root / registry, record, there
        self.total, self.progress = total, progress

    def _say(self, done: int, note: str) -> None:
        if self.progress is not None:
            self.progress(done, self.total, note)

    def fetch(self, packages: Sequence[Package]) -> list[str]:
        """Fill `there`; returns a line for each package, or for all of them, that could not be had."""
        missing = []
        for package in packages:
            if path := self.record.path_of(package):
                self.there[package] = path
            else:
                missing.append(package)
        self._say(len(self.there), f"{self.registry}: looking for {len(missing)}")
        if not missing:
            return []
        if shutil.which(self.client.program) is None:
            return [
                f"{self.registry}: expected the client {self.client.program}, got none on PATH, so {len(missing)} "
                f"package(s) are left out: {self.client.install}"
            ]
        self.folder.mkdir(parents=True, exist_ok=True)
        problems: list[str] = []
        tries = 0
        while missing:
            before = len(missing)
            said = self._call(missing)
            missing = [package for package in missing if package not in self.there]
            refused = [package for package in missing if _is_named(package, said)]
            for package in refused:
                line = next(line for line in said if _is_named(package, [line]))
                problems.append(f"{self.registry}: expected {package.spec}, got '{line}': it is left out")
            missing = [package for package in missing if package not in refused]
            if len(missing) < before:
                continue
            tries += 1
            if tries > 1:
                got = said[0] if said else "no word of it"
                names = ", ".join(package.spec for package in missing[:5]) + (", …" if len(missing) > 5 else "")
                problems.append(
                    f"{self.registry}: expected {len(missing)} package(s) ({names}), got '{got}': "
                    f"see that the network is there, and {self.client.install}"
                )
                break
        return problems

    def _call(self, packages: Sequence[Package]) -> list[str]:
        """One call of the client for all of `packages`; what came whole is kept. Returns its lines of errors."""
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "PIP_NO_INPUT": "1", "NO_UPDATE_NOTIFIER": "1"}
        with (
            tempfile.TemporaryDirectory(prefix=".fetching-", dir=self.folder, ignore_cleanup_errors=True) as name,
            tempfile.TemporaryFile() as errors,
        ):
            work = Path(name)
            work.chmod(0o755)  # apt fetches as another user where it can
            process = subprocess.Popen(
                self.client.command([package.spec for package in packages]),
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
            try:
                self._wait(process, work)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                self._keep(packages, work)
            errors.seek(0)
            text = errors.read().decode("utf-8", "replace")
        if process.returncode == 0:
            return []
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        said = [line for line in lines if _ERROR_LINE.match(line)] or lines[-1:]
        return [_without_addresses(line) for line in said] or [f"{self.client.program} ended with {process.returncode}"]

    def _wait(self, process: subprocess.Popen[bytes], work: Path) -> None:
        began = time.monotonic()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_BETWEEN_LOOKS)
            came = sum(1 for _ in work.iterdir())
            self._say(min(self.total, len(self.there) + came), f"{self.registry}: fetching")
            if time.monotonic() - began > _MAX_SECONDS:
                process.kill()

    def _keep(self, packages: Sequence[Package], work: Path) -> None:
        for package in packages:
            for path in sorted(work.glob(self.client.file_pattern(package.spec))):
                if package in self.there or not is_whole(path):
                    continue
                final = self.folder / path.name
                os.replace(path, final)
                self.record.add(package, final)
                self.there[package] = final
        self.record.save()
        self._say(len(self.there), f"{self.registry}: there")


def _is_named(package: Package, lines: Sequence[str]) -> bool:
    pattern = re.compile(rf"(?<![\w.+@/-]){re.escape(package.spec)}(?![A-Za-z0-9+-]|\.\w)")
    return any(pattern.search(line) for line in lines)


def _without_addresses(line: str) -> str:
    return re.sub(r"\w+://\S+", "(address)", line)
