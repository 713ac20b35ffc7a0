"""Models that settings name, by folder or by a hub's name: what can be said of them before they are loaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

EXPORT_SETTINGS = "softnce_ray.json"
"""The file that says of a folder that this system exported it."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def sentence_model_problem(model: str) -> str | None:
    """Why a name is no export of this system and no sentence-transformers model, as far as the disk tells, or None.

    What is on no disk and may be a hub's name is not looked up: loading it tells.
    """
    path = Path(model)
    if path.is_dir():
        if any((path / name).is_file() for name in (EXPORT_SETTINGS, "modules.json", "config.json")):
            return None
        inner = sorted(each.name for each in path.iterdir() if (each / "modules.json").is_file())
        got = (
            f"an export of several formats: its models are in {', '.join(inner)}"
            if inner
            else ("a folder that has no modules.json")
        )
    elif path.exists():
        got = "a file"
    elif _HUB_NAME.fullmatch(model):
        return None
    else:
        got = "nothing there"
    return (
        f"expected the folder of a model of sentence-transformers or of softnce-ray export, got {model!r}, {got}; give "
        "the path of such a folder, or a name that this machine can download"
    )


def model_content(model: str) -> str:
    """What a named model is: of a folder a hash of its files' names and bytes, hidden ones left out, so that it may
    be moved and not be changed; of a hub's model its name."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{name.as_posix()}\n{content}\n".encode())
    return digest.hexdigest()
