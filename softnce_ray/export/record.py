"""What an export says of its folder: which files it wrote. Only these are ever replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softnce_ray import json_text
from softnce_ray.corpus.trained_on import TrainedOn
from softnce_ray.digests import sha256_of, with_checksum
from softnce_ray.export.formats import FORMATS
from softnce_ray.exported import EXPORT_RECORD, EXPORT_SETTINGS
from softnce_ray.files import read_file
from softnce_ray.folders import contents, others
from softnce_ray.model import ExportError

if TYPE_CHECKING:
    from softnce_ray.export.checking import Checked

INT8 = "onnx (int8)"

_TOKENIZER = r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
_WEIGHTS = r"config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
_GRAPH = r"model\.onnx(\.data)?|model_int8\.onnx(\.data)?|tokenizer\.json"
_WITHOUT_LIST = {
    "hf": rf"{_WEIGHTS}|{_TOKENIZER}",
    "sentence-transformers": (
        rf"{_WEIGHTS}|{_TOKENIZER}|modules\.json|(config_sentence_transformers|sentence_bert_config)\.json"
        rf"|\d_(StaticEmbedding|Transformer|Pooling|Dense|Normalize)(/({_WEIGHTS}|{_TOKENIZER}))?"
    ),
    "onnx": _GRAPH,
    "mlflow": (
        r"MLmodel|conda\.yaml|python_env\.yaml|requirements\.txt|(serving_)?input_example\.json|served_model\.py"
        rf"|artifacts/encoder/({_GRAPH}|{re.escape(EXPORT_SETTINGS)}|sha256\.json)"
    ),
}
"""What the formats are made of, for exports from before there was a list."""


def write_record(
    folder: Path, checked: Mapping[str, Checked], sizes: Mapping[str, int], trained_on: TrainedOn | None = None
) -> None:
    """Put the record into a folder in which everything else is written."""
    formats = {name: {**asdict(each), "bytes": sizes[name]} for name, each in checked.items()}
    files = {name: _digest(folder / name) for name in contents(folder)}
    record: dict[str, Any] = {"formats": formats, "files": files}
    if trained_on is not None:
        record["trained_on"] = asdict(trained_on)
    (folder / EXPORT_RECORD).write_text(json.dumps(with_checksum(record), indent=1))


def check_replaceable(folder: Path) -> None:
    """See that a folder is an earlier export and nothing else, all of it as it was written.

    Raises:
      ExportError: it is not.
    """
    try:
        more = others(folder, _ours(folder))
    except OSError as error:
        raise ExportError(f"expected an earlier export at {folder}, got {error}: give another --to") from error
    if more:
        raise ExportError(
            f"expected nothing in {folder} that the earlier export did not write, got {more}: move that elsewhere, or "
            "give another --to"
        )


def _ours(folder: Path) -> Callable[[str], bool]:
    """Says of a name whether an export wrote it."""
    if not (folder / EXPORT_RECORD).is_file():
        if not (folder / EXPORT_SETTINGS).is_file():
            raise _not_ours(folder)
        return _pattern(list(FORMATS), in_folders=False)
    try:
        record: Any = json_text.load(read_file(folder / EXPORT_RECORD))
        formats, files = set(record["formats"]) - {INT8}, record.get("files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _not_ours(folder) from None
    if not formats or not formats <= FORMATS.keys() or not isinstance(files, dict | None):
        raise _not_ours(folder)
    if files is None:
        return _pattern(list(formats), in_folders=len(formats) > 1)
    return lambda name: name == EXPORT_RECORD or (name in files and files[name] == _digest(folder / name))


def _pattern(formats: list[str], *, in_folders: bool) -> Callable[[str], bool]:
    own = rf"README\.md|{re.escape(EXPORT_SETTINGS)}"
    parts = [(f"{name}/" if in_folders else "") + f"({_WITHOUT_LIST[name]}|{own})" for name in formats]
    known = re.compile("|".join([re.escape(EXPORT_RECORD), *parts]))
    return lambda name: known.fullmatch(name) is not None


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that is empty nothing."""
    return "" if path.is_dir() else sha256_of(path)


def _not_ours(folder: Path) -> ExportError:
    return ExportError(
        f"expected to replace {folder}, got something that is no export of ours there: give another --to"
    )
