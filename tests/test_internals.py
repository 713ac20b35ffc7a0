"""What this package uses of the insides of others, which may change with any version: each use has its place here.

When a test fails, a library has changed: mend the module that is named, then raise the library's bound in
pyproject.toml.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import softnce_ray

ROOT = Path(softnce_ray.__file__).parent


@dataclass(frozen=True)
class Inside:
    """A name inside a library.

    Attributes:
      name: dotted, from the library on.
      place: the module that uses it.
      takes: parameters that it must have.
      says: what its source must have: that it reads what we replace, or has what we read.
    """

    name: str
    place: str
    takes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()

    @property
    def library(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.place}: {self.name}"


INSIDES = (
    # The schema of MLflow's database: which revisions there are, and how it is migrated.
    Inside("mlflow.store.db.utils._get_alembic_config", "tracking/schema.py", takes=("db_url",)),
    Inside("mlflow.store.db.utils._upgrade_db", "tracking/schema.py", takes=("engine",)),
    # The session: processes in groups of their own, the folder of its files, the address that `auto` means.
    Inside("ray._private.services.ConsolePopen", "study/cluster.py"),
    Inside("ray._private.services.start_ray_process", "study/cluster.py", says=("ConsolePopen(",)),
    Inside("ray._private.services.canonicalize_bootstrap_address", "study/cluster.py", takes=("addr",)),
    Inside("ray.init", "study/cluster.py", says=('kwargs.pop("_temp_dir"',)),
    # Tokens: what a cluster asks for, and that Ray reads mode and token again.
    Inside("ray._raylet.GcsClient", "study/tokens.py"),
    Inside("ray._raylet.Config.initialize", "study/tokens.py"),
    Inside("ray._raylet.AuthenticationTokenLoader.instance", "study/tokens.py"),
    Inside("ray._raylet.AuthenticationTokenLoader.reset_cache", "study/tokens.py"),
    Inside("ray._raylet.AuthenticationTokenLoader.has_token", "study/tokens.py"),
    Inside("ray._private.grpc_utils.init_grpc_channel", "study/tokens.py", takes=("address",)),
    Inside("ray.dashboard.modules.dashboard_sdk.get_auth_headers_if_auth_enabled", "study/jobs/client.py"),
    # Tune: which worker a trial gets, and which variables go to workers.
    Inside("ray.tune.tune.run", "study/tuning.py", says=("TuneController",)),
    Inside("ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE", "study/tuning.py"),
    Inside(
        "ray.tune.execution.class_cache._ActorClassCache.get",
        "study/tuning.py",
        takes=("trainable_cls",),
        says=("in ENV_VARS_TO_PROPAGATE",),
    ),
    Inside(
        "ray.tune.execution.tune_controller.TuneController",
        "study/tuning.py",
        says=("self._resetting_trials", "self._pending_trials", "self._trial_to_actor", "self._actor_manager"),
    ),
    Inside(
        "ray.tune.execution.tune_controller.TuneController._maybe_reuse_cached_actor",
        "study/tuning.py",
        takes=("trial",),
    ),
    Inside("ray.air.execution._internal.RayActorManager.is_actor_started", "study/tuning.py", takes=("tracked_actor",)),
    Inside("optuna.trial.FrozenTrial", "study/search.py", says=("self._trial_id",)),
    Inside(
        "mlflow.store.artifact.artifact_repository_registry.get_artifact_repository",
        "tracking/moved.py",
        takes=("artifact_uri",),
    ),
    Inside("mlflow.store.artifact.artifact_repo.ArtifactRepository", "tracking/moved.py", says=("self.artifact_uri",)),
    Inside(
        "mlflow.store.artifact.artifact_repo.ArtifactRepository.log_artifacts",
        "tracking/runs.py",
        takes=("local_dir", "artifact_path"),
    ),
    Inside("transformers.masking_utils.sdpa_mask", "encoders/attention.py"),
    Inside("transformers.integrations.sdpa_attention.sdpa_attention_forward", "encoders/attention.py"),
    Inside("torch._softmax_backward_data", "encoders/attention.py"),
    Inside("torch._foreach_norm", "optimisers.py"),
    Inside("torch._foreach_mul_", "optimisers.py"),
    Inside("torch.Tensor._values", "optimisers.py"),
    Inside("torch.Tensor._indices", "optimisers.py"),
    Inside("torch.Tensor._coalesced_", "optimisers.py"),
)


def _resolved(name: str) -> Any:
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:number]))
        except ModuleNotFoundError:
            continue
        for part in parts[number:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("inside", INSIDES, ids=str)
def test_what_is_used_of_the_inside_of_a_library_is_there(inside: Inside) -> None:
    changed = f"{inside.library} {version(inside.library)} has changed {inside.name}, which {inside.place} uses"
    try:
        found = _resolved(inside.name)
    except (AttributeError, ImportError) as error:
        raise AssertionError(f"{changed}: it is gone") from error
    if inside.takes:
        assert set(inside.takes) <= set(inspect.signature(found).parameters), f"{changed}: its parameters"
    for text in inside.says:
        assert text in inspect.getsource(found), f"{changed}: {text} is not in its source any more"


_INNER = ("ray.tune.tune", "ray.tune.execution", "ray.dashboard", "mlflow.store", "transformers.integrations",
          "transformers.masking_utils")  # fmt: skip
"""Modules without an underscore that their libraries do not document."""


def _uses(path: Path) -> set[str]:
    """Modules and attributes inside other libraries that a module uses."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        if isinstance(node, ast.AnnAssign | ast.Assign):
            own |= {
                each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name.startswith("_") and not name.startswith("__") and name not in own:
                found.add(name)
            case ast.keyword(arg=str(name)) if name.startswith("_"):
                found.add(name)
            case ast.ImportFrom(module=str(module), names=names, level=0) if not module.startswith("softnce_ray"):
                whole = [f"{module}.{each.name}" for each in names]
                found |= {each for each in whole if each.startswith(_INNER) or "._" in each}
            case ast.Import(names=names):
                found |= {each.name for each in names if each.name.startswith(_INNER) or "._" in each.name}
    return found - {"_exit", "__future__.annotations"}


def test_every_use_of_the_inside_of_a_library_is_told_here() -> None:
    untold = []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        told = " ".join(
            word for each in INSIDES if each.place == place for word in (each.name, *each.takes, *each.says)
        )
        untold += [f"{place}: {use}" for use in sorted(_uses(path)) if use not in told]
    assert untold == []


def test_libraries_whose_inside_is_used_have_an_upper_bound() -> None:
    """Ray's is the next minor version: it promises nothing of its inside from one to the next."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name not in {each.library for each in INSIDES}:
            continue
        major, minor = map(int, version(requirement.name).split(".")[:2])
        following = f"{major}.{minor + 1}" if requirement.name == "ray" else f"{major + 1}.0"
        assert requirement.specifier.contains(version(requirement.name)), requirement
        assert not requirement.specifier.contains(following), f"{requirement}: expected a bound below {following}"
