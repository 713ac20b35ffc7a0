"""Project, name, version, licence and repositories of packages, as they state them: fields of `archives.Unpacked`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softnce_ray import json_text

METADATA_FILES = ("package.json", "composer.json", "go.mod", "METADATA", "PKG-INFO")
"""Names of files that are kept of an archive beside its sources."""

_REPOSITORY = re.compile(r"github\.com[/:]+([\w-][\w.-]*)/([\w.-]+)")
_SHORT_REPOSITORY = re.compile(r"(?:github:)?([\w-][\w.-]*/[\w.-]+)")
_DEP5_LICENCE = re.compile(r"^License:[ \t]*(\S.*?)\s*$", re.MULTILINE)


def debian_facts(control: str) -> dict[str, str]:
    """What the control file of a Debian package says; empty where it names none."""
    fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*?)\s*$", control, re.MULTILINE))
    if not fields.get("Package"):
        return {}
    source = (fields.get("Source") or fields["Package"]).split(" ")[0]
    return {"project": source, "package": fields["Package"], "version": fields.get("Version", "")}


def dep5_licence(text: str) -> str:
    """The licence that most of a Debian package is under, by its machine-readable copyright file; may be empty."""
    for paragraph in re.split(r"\n\s*\n", text):
        match = _DEP5_LICENCE.search(paragraph)
        if match and re.search(r"^Files:\s*\*\s*$", paragraph, re.MULTILINE):
            return match.group(1)
    return ""


def npm_facts(target: Path) -> dict[str, str]:
    """What package.json says, when there is one at the top or in the one folder there."""
    tops = [each for each in target.iterdir() if not each.name.startswith(".")]
    for folder in (target, *(tops if len(tops) == 1 else ())):
        try:
            facts = json_text.load((folder / "package.json").read_text(encoding="utf-8-sig"))
            name, version, licence = facts["name"], facts.get("version", ""), facts.get("license", "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        project = _npm_repository(str(name), facts.get("repository"))
        licence = licence.get("type", "") if isinstance(licence, dict) else licence
        return {"project": str(project), "package": str(name), "version": str(version), "licence": str(licence)}
    return {}


def _npm_repository(name: str, repository: Any) -> str:
    """The project of an npm package: a scope, or a repository that holds the package in a folder, holds others."""
    said = repository if isinstance(repository, dict) else {"url": repository or ""}
    if not name.startswith("@") and not said.get("directory"):
        return name
    match = re.search(r"([\w.-]+)/([\w.-]+?)(?:\.git)?/?(?:#.*)?$", str(said.get("url", "")))
    return f"{match.group(1)}/{match.group(2)}" if match else name.split("/")[0]


def wheel_facts(target: Path) -> dict[str, str]:
    """What the metadata of an unpacked wheel says, when there is some."""
    for file in sorted(target.glob("*.dist-info/METADATA")):
        head = file.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*?)\s*$", head, re.MULTILINE))
        classifier = re.search(r"^Classifier: License :: (?:OSI Approved :: )?(.*?)\s*$", head, re.MULTILINE)
        licence = fields.get("License-Expression") or (classifier.group(1) if classifier else fields.get("License", ""))
        name = re.sub(r"[-_.]+", "-", fields.get("Name", "")).lower()
        if name:
            facts = {"project": name, "package": name, "version": fields.get("Version", "")}
            return {**facts, "licence": licence if len(licence) < 60 else ""}
    return {}


def repositories_named(text: str) -> frozenset[str]:
    """The repositories (`owner/name`) whose addresses on GitHub stand in a text."""
    found = (f"{owner}/{name.rstrip('.').removesuffix('.git')}" for owner, name in _REPOSITORY.findall(text))
    return frozenset(found)


def debian_repositories(control: str, copyright: str) -> frozenset[str]:
    """The repositories that a Debian package's control file and copyright file name as its home and source."""
    lines = re.findall(r"^(?:Homepage|Source|Upstream-Source):.*$", f"{control}\n{copyright}", re.MULTILINE)
    return repositories_named("\n".join(lines))


def gem_repositories(metadata: str) -> frozenset[str]:
    """The repositories that the metadata of a gem names as its home and source."""
    return repositories_named("\n".join(re.findall(r"^ *(?:homepage|\w+_uri):.*$", metadata, re.MULTILINE)))


def repositories_of(folder: Path) -> frozenset[str]:
    """The repositories that the metadata of the project in a folder, or in the one folder there, names as its own."""
    found: set[str] = set()
    tops = [each for each in folder.iterdir() if not each.name.startswith(".")] if folder.is_dir() else []
    for top in (folder, *(tops if len(tops) == 1 else ())):
        for pattern, read in _READ_REPOSITORIES.items():
            for file in top.glob(pattern):
                try:
                    found |= read(file.read_text(encoding="utf-8-sig", errors="replace"))
                except (OSError, ValueError, AttributeError):
                    continue
    return frozenset(found)


def _in_package_json(text: str) -> frozenset[str]:
    facts = json_text.load(text)
    said = facts.get("repository") or ""
    address = str(said.get("url", "")) if isinstance(said, dict) else str(said)
    short = _SHORT_REPOSITORY.fullmatch(address)
    return repositories_named(f"{address} {facts.get('homepage', '')}") | ({short.group(1)} if short else set())


def _in_composer_json(text: str) -> frozenset[str]:
    facts = json_text.load(text)
    name = str(facts.get("name", ""))
    named = repositories_named(json.dumps([facts.get("homepage"), facts.get("support")]))
    return named | ({name} if "/" in name else set())


def _in_wheel_metadata(text: str) -> frozenset[str]:
    head = text.split("\n\n")[0]
    return repositories_named("\n".join(re.findall(r"^(?:Home-page|Project-URL):.*$", head, re.MULTILINE)))


_READ_REPOSITORIES: dict[str, Callable[[str], frozenset[str]]] = {
    "package.json": _in_package_json,
    "composer.json": _in_composer_json,
    "go.mod": lambda text: repositories_named("\n".join(re.findall(r"^module .*$", text, re.MULTILINE))),
    "PKG-INFO": _in_wheel_metadata,
    "*.dist-info/METADATA": _in_wheel_metadata,
    "*.gemspec": lambda text: repositories_named("\n".join(re.findall(r".*(?:homepage|_uri).*", text))),
    ".git/config": lambda text: repositories_named("\n".join(re.findall(r"^\s*url = .*$", text, re.MULTILINE))),
}
