"""Reading an exported folder by the recipe of its card: in a process of its own, or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from softnce_ray.export import reader
from softnce_ray.model import ExportError
from softnce_ray.temporary import temporary_folder

Job = tuple[Sequence[str], str] | tuple[Sequence[str], str, str]
"""Texts, and what they are: `query` or `code`; for an encoder that asks for it, their language as well."""

Reader = Callable[[str, Path, Sequence[Job]], list[np.ndarray]]
"""(recipe, folder, jobs) → (n, width) float32 vectors of each job's texts."""


def in_this_process(recipe: str, folder: Path, jobs: Sequence[Job]) -> list[np.ndarray]:
    return reader.read(recipe, str(folder), jobs)


def in_a_fresh_process(recipe: str, folder: Path, jobs: Sequence[Job]) -> list[np.ndarray]:
    """The vectors that a new Python process finds, which has only the folder and its recipe.

    Raises:
      ExportError: the process fails.
    """
    with temporary_folder() as work:
        places = [work / f"{number}.npy" for number in range(len(jobs))]
        request = {
            "recipe": recipe,
            "folder": str(folder),
            "jobs": [
                {"texts": list(job[0]), "what": job[1:], "out": str(place)}
                for job, place in zip(jobs, places, strict=True)
            ],
        }
        file = work / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", reader.__file__, str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # a folder that needs the network is not whole
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
            raise ExportError(
                f"expected the written {folder.name} to be read by a fresh process, got: {said[-1]}: nothing was "
                "written; please report this with the study file"
            )
        return [np.load(place, allow_pickle=False) for place in places]
