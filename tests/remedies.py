"""What messages tell users to type, taken from them and typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def printed(text: str) -> list[str]:
    """Return the commands that a message has between backticks."""
    return re.findall("`((?:softnce-ray|MLFLOW_TRACKING_URI=|mlflow|optuna|ray|cp|rm|mkdir)[^`]+)`", text)


def typed(command: str, cwd: Path, *, status: int = 0) -> str:
    """Type a command into a shell, and expect an exit status; returns what is printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SOFTNCE_", "MLFLOW_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def run_here(command: str, **blanks: object) -> None:
    """Run a command of this package in this process, as a shell would split it; `blanks` are what a message leaves to
    fill in. An error is raised as it is."""
    from softnce_ray.cli import app

    program, *words = shlex.split(command)
    assert program == "softnce-ray"
    app([str(blanks.get(word, word)) for word in words], standalone_mode=False)
