"""Writing formats: each is written and checked in one temporary folder, which then appears whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from softnce_ray.corpus.trained_on import TrainedOn
from softnce_ray.export import cards, onnx_graph
from softnce_ray.export.checking import LANGUAGE, TOLERANCE, Checked, Expected, check, measure, relative_differences
from softnce_ray.export.formats import FORMATS
from softnce_ray.export.fresh import Reader, in_a_fresh_process
from softnce_ray.export.record import INT8, check_replaceable, write_record
from softnce_ray.exported import EXPORT_SETTINGS
from softnce_ray.folders import appearing
from softnce_ray.model import ExportError, Model, load_export, settings_json


def write_formats(
    model: Model,
    target: Path,
    formats: Sequence[str],
    expected: Expected,
    card: Callable[..., str],
    *,
    int8: bool = False,
    replace: bool = False,
    read: Reader = in_a_fresh_process,
    finish: Callable[[Path], None] = lambda folder: None,
    say: Callable[[str], None] = lambda line: None,
    trained_on: TrainedOn | None = None,
) -> tuple[dict[str, Checked], dict[str, int]]:
    """Write and check formats; `target` appears when all have passed, with `replace` in the place of an earlier export,
    if there is nothing else in that. `finish` is then called with the MLflow folder,
    if there is one, and `target` vanishes again if that fails. Returns what the checks found, and the bytes of each
    format.

    `card` gets name, library, recipe, check and further sections of a format; `trained_on` is recorded.

    Raises:
      ExportError: see `export`.
    """
    checked: dict[str, Checked] = {}
    may_go = check_replaceable if replace else None

    def registered(folder: Path) -> None:
        if "mlflow" in formats:
            finish(places(folder, formats)["mlflow"])

    with _meanwhile(target), appearing(target, may_go=may_go, then=registered) as folder:
        where = places(folder, formats)
        for name, place in where.items():
            say(f"{name}: writing")
            place.mkdir(exist_ok=True)
            checked |= _write(model, name, place, expected, card, read, int8=int8 and name == "onnx", say=say)
        sizes = {name: _size(place) for name, place in where.items()}
        if INT8 in checked:
            sizes[INT8] = (where["onnx"] / onnx_graph.INT8_GRAPH).stat().st_size
            sizes["onnx"] -= sizes[INT8]
        write_record(folder, checked, sizes, trained_on)
    return checked, sizes


def _write(
    model: Model,
    name: str,
    place: Path,
    expected: Expected,
    card: Callable[..., str],
    read: Reader,
    *,
    int8: bool,
    say: Callable[[str], None],
) -> dict[str, Checked]:
    kind = FORMATS[name]
    kind.write(model, place)
    settings = place / EXPORT_SETTINGS
    settings.write_text(settings_json(model.config))
    for weights in place.rglob("*.safetensors"):  # its library makes them for the owner alone: as all files are made
        weights.chmod(stat.S_IMODE(settings.stat().st_mode))
    recipe = kind.recipe(model)
    say(f"{name}: reading it in a fresh process")
    checked = {name: check(expected, read, recipe, place, what=f"the {name} folder")}
    if kind.searchable:
        _check_our_own(expected, place)
    more = []
    if name == "onnx":
        more.append(cards.opset(onnx_graph.OPSET))
    if name == "mlflow":
        more.append(cards.served("path/to/this/folder"))
    if int8:
        say("onnx: measuring int8")
        onnx_graph.write_int8(model, place)
        checked[INT8] = measure(expected, read, onnx_graph.recipe(model, onnx_graph.INT8_GRAPH), place)
        more.append(cards.int8(checked[INT8], onnx_graph.INT8_GRAPH, onnx_graph.int8_method(model)))
    (place / "README.md").write_text(card(name, kind.library, recipe, checked[name], more), encoding="utf-8")
    return checked


def _check_our_own(expected: Expected, place: Path) -> None:
    """See that our own search reads the folder as it was trained."""
    difference = float(
        relative_differences(
            load_export(place).encode_codes(expected.jobs[0][0], LANGUAGE), expected.vectors[0], "the search"
        ).max()
    )
    if not difference <= TOLERANCE:
        raise ExportError(
            f"expected vectors within {TOLERANCE:g} of the trained ones from the search, got {difference:.3g}: "
            "nothing was written; please report this with the study file"
        )


@contextmanager
def _meanwhile(target: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        if error.filename != os.path.abspath(target):
            raise
        raise ExportError(
            f"expected to make {target}, got something that appeared there meanwhile: it was left alone; give another "
            "--to, or --overwrite to replace an earlier export"
        ) from error


def possible(formats: Sequence[str], model: Model) -> None:
    """Refuse formats that a model cannot have.

    Raises:
      ExportError: there are such.
    """
    for name in formats:
        if problem := FORMATS[name].problem(model):
            raise ExportError(problem)


def places(folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Where each format lies: in the folder itself, or of several in a folder of its name."""
    return {name: folder / name if len(formats) > 1 else folder for name in formats}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
