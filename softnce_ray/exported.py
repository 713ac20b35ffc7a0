"""What the record of an export says of its files: their names and SHA-256."""

from __future__ import annotations

from pathlib import Path

from softnce_ray import json_text
from softnce_ray.digests import checksum_problem, sha256_of
from softnce_ray.files import read_file

EXPORT_SETTINGS = "softnce_ray.json"
"""The file that says of a folder that this system exported it."""

EXPORT_RECORD = "export.json"
"""The file that says of a folder which formats an export put there, what their checks found, which files it wrote,
with the SHA-256 of each, and what the model was trained on."""

_FOR_PEOPLE = "README.md"


def changed_export(folder: Path) -> str | None:
    """Return what of an exported model, or of one format of several, is not as its export wrote it; None: nothing.

    A folder without a record is nobody's export, and a record of an earlier version has no SHA-256: see `unchecked`.
    """
    try:
        found = _record(folder)
    except (OSError, ValueError) as error:
        return f"expected the record of an export in {folder}, got {error}: {_REMEDY}, or remove it"
    record, files = found or (folder, None)
    for name, expected in sorted((files or {}).items()):
        if name == _FOR_PEOPLE:
            continue
        try:
            digest = "" if (folder / name).is_dir() else sha256_of(folder / name)
        except OSError as error:
            got = "no file" if isinstance(error, FileNotFoundError) else error.strerror
        else:
            if digest == expected:
                continue
            got = "a folder" if not digest else f"another with SHA-256 {digest[:12]}"
        return (
            f"expected {name} of SHA-256 {expected[:12]} in {folder}, as it was exported, got {got}: it was changed or "
            f"damaged; {_REMEDY}, or remove {record} if the change is meant"
        )
    return None


def unchecked(folder: Path) -> str | None:
    """Return a note on an export whose record has no SHA-256 of its files, as those of earlier versions."""
    try:
        found = _record(folder)
    except (OSError, ValueError):
        return None
    if found is None or found[1] is not None:
        return None
    return f"{folder}: the export is of an earlier version, and whether its files have changed since is not known"


_REMEDY = "export the model again"


def _record(folder: Path) -> tuple[Path, dict[str, str] | None] | None:
    """The record of an export and its SHA-256 by names in the folder; None where there is no record of ours.

    Raises:
      OSError, ValueError: the folder is an export, and its record cannot be read or is not what an export writes.
    """
    folder = folder.absolute()
    for place, prefix in ((folder, ""), (folder.parent, f"{folder.name}/")):
        path = place / EXPORT_RECORD
        try:
            formats, files = _parsed(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError):
            if (folder / EXPORT_SETTINGS).is_file():
                raise
            continue  # another program's
        if not prefix or folder.name in formats:
            listed = (files or {}).items()
            own = {name.removeprefix(prefix): digest for name, digest in listed if name.startswith(prefix)}
            return path, None if files is None else own
    return None


def _parsed(path: Path) -> tuple[dict[str, object], dict[str, str] | None]:
    """What a record says of formats and files.

    Raises:
      OSError, ValueError: it cannot be read, or is not what an export writes.
    """
    try:
        content = json_text.load(read_file(path))
    except ValueError as error:
        raise ValueError(f"{EXPORT_RECORD} that is no JSON ({error})") from error
    if isinstance(content, dict) and isinstance(formats := content.get("formats"), dict):
        files = content.get("files")
        if files is None or (isinstance(files, dict) and all(isinstance(text, str) for text in files.values())):
            if problem := checksum_problem(content):
                raise ValueError(f"{EXPORT_RECORD} with {problem}")
            return formats, files
    raise ValueError(f"{EXPORT_RECORD} with other content than an export writes")
