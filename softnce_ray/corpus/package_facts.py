"""What packages say of themselves: project, name, version and licence, by the fields of `archives.Unpacked`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

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
            facts = json.loads((folder / "package.json").read_text(encoding="utf-8-sig"))
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
