"""The directions of imports: rooms know what lies below them, and each outer system has one door."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "softnce_ray"

# From the top. A module may import those of the rows below its own and those of its own row.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"api"},
    {"study"},
    {"export", "retrieval", "report", "selection", "tracking"},
    {"statistics"},
    {"preparation"},
    {"simcse"},
    {"training"},
    {"objective"},
    {"training_data", "judgements", "batching"},
    {
        "model",
        "checkpoint",
        "optimisers",
        "losses",
        "estimators",
        "bm25_formulas",
        "encoders",
        "graph_inputs",
        "evaluation",
        "diagnostics",
        "workers",
        "allocation",
        "determinism",
        "gradients",
        "hard_negatives",
    },
    {"corpus", "results", "store", "described"},
    {
        *("config", "folders", "temporary", "storage", "shared", "ranks_file", "distributions", "progress", "named"),
        *("yaml_text", "digests", "exported"),
    },
    {"databases"},
    {"errors", "environment", "plain_names", "uris", "commands", "encodings", "json_text", "terminal", "rich_console"}
    | {"files"},
]

# Within the floor that has several rooms, who may know whom.
BESIDE = {
    ("model", "encoders"),
    ("optimisers", "encoders"),
    ("encoders", "graph_inputs"),
    ("export", "tracking"),
    ("selection", "tracking"),
    ("export", "selection"),
    ("export", "report"),
    ("estimators", "bm25_formulas"),
    ("rich_console", "terminal"),
    ("storage", "folders"),
    ("storage", "temporary"),
    ("temporary", "folders"),
    ("shared", "storage"),
    ("shared", "folders"),
    ("digests", "folders"),
    ("shared", "digests"),
    ("distributions", "digests"),
    ("exported", "digests"),
    ("named", "digests"),
    ("named", "exported"),
}

DOORS = {
    "ray": ("study/",),
    "mlflow": ("tracking/",),
    "optuna": ("study/search.py", "study/samplers.py", "study/storage.py", "study/importances.py"),
    "typer": ("cli/",),
}

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names of what a module imports; with `top_level`, only what it imports when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if top_level and id(node) in late:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


KNOWN = {name_of(path) for path in MODULES}


def ours(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for name in imports(path, top_level=top_level):
        if name.split(".")[0] != "softnce_ray":
            continue
        while name not in KNOWN:
            name = name.rpartition(".")[0]
        found.add(name)
    return found


def test_every_module_has_its_floor() -> None:
    placed = [name for floor in FLOORS for name in floor]
    assert len(placed) == len(set(placed))
    assert {room(name) for name in KNOWN} - {""} <= set(placed)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    floors = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    own = room(name_of(path))
    for module in ours(path):
        other = room(module)
        if not own or not other or own == other:
            continue
        assert floors[own] <= floors[other], f"{own} imports {other}, which lies above it"
        if floors[own] == floors[other]:
            assert (own, other) in BESIDE, f"{own} imports {other}, which lies beside it"


@pytest.mark.parametrize("library", DOORS)
def test_each_outer_system_has_one_door(library: str) -> None:
    for path in MODULES:
        if any(name.split(".")[0] == library for name in imports(path)):
            where = str(path.relative_to(ROOT))
            assert where.startswith(DOORS[library]), f"{where} imports {library}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name_of(path): ours(path) - {"softnce_ray", name_of(path)} for path in MODULES}
    for package in ("corpus", "report", "study"):  # a package's __init__ only gathers what its modules offer
        graph.pop(f"softnce_ray.{package}", None)
    assert list(TopologicalSorter(graph).static_order())


def test_plans_and_records_know_no_ray_and_no_torch() -> None:
    for name in ("planner", "search", "display", "file"):
        libraries = {module.split(".")[0] for module in imports(ROOT / "study" / f"{name}.py")}
        assert not libraries & {"ray", "torch", "mlflow"}, name


def test_the_command_line_imports_nothing_heavy_when_it_starts() -> None:
    heavy = {"ray", "torch", "mlflow", "optuna", "transformers", "sentence_transformers", "scipy"}
    seen: set[str] = set()
    waiting = ["softnce_ray.cli"]
    paths = {name_of(path): path for path in MODULES}
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        libraries = {name.split(".")[0] for name in imports(paths[module], top_level=True)}
        assert not libraries & heavy, f"{module}, imported by the command line, imports {libraries & heavy}"
        waiting += ours(paths[module], top_level=True)
