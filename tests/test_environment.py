"""Importing this package changes nothing of the process that does it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from softnce_ray.environment import unset, variables

# What libraries do when they are imported is theirs (MLflow sets a variable of its own, sympy a filter of warnings):
# they come first, and the rest is ours.
_IMPORT = """
import importlib, logging, os, pkgutil, signal, warnings

libraries = "torch sklearn ray.tune ray.autoscaler.sdk mlflow.pyfunc optuna alembic.script sqlalchemy"
libraries += " sentence_transformers"
for name in libraries.split():
    importlib.import_module(name)
import ray.tune.tune
import torch


def state():
    loggers = [logging.getLogger(name) for name in (None, *sorted(logging.root.manager.loggerDict))]
    return {
        **{f"variable {name}": value for name, value in os.environ.items()},
        **{f"signal {number}": str(signal.getsignal(number)) for number in signal.valid_signals()},
        **{f"logger {each.name}": (each.level, [*map(str, each.handlers)]) for each in loggers},
        "warnings": [str(each) for each in warnings.filters],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "directory": os.getcwd(),
        "umask": os.umask(0o22),
    }


before = state()
import softnce_ray

names = [each.name for each in pkgutil.walk_packages(softnce_ray.__path__, "softnce_ray.")]
for name in names:
    if name != "softnce_ray.__main__":
        importlib.import_module(name)
after = state()
known = {key: value for key, value in after.items() if key in before or not key.startswith("logger")}
print(len(names), {key: (before.get(key), value) for key, value in known.items() if before.get(key) != value})
"""


@pytest.mark.slow
def test_importing_every_module_changes_nothing_of_the_importer() -> None:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_", "MLFLOW_", "PG"))
    }
    done = subprocess.run([sys.executable, "-c", _IMPORT], env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, changed = done.stdout.split(maxsplit=1)
    assert int(modules) > 200
    assert changed == "{}\n"


def test_variables_are_put_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "before")
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ValueError, match="mine"), variables({"THERE": "other", "NOT_THERE": "new"}):
        assert (os.environ["THERE"], os.environ["NOT_THERE"]) == ("other", "new")
        raise ValueError("mine")
    assert os.environ["THERE"] == "before"
    assert "NOT_THERE" not in os.environ
    assert unset({"THERE": "other", "NOT_THERE": "new"}) == {"NOT_THERE": "new"}
