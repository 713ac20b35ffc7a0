"""A store that is copied while its study runs: original and copy come to the same numbers, each in its own folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from softnce_ray.export import ExportError, export
from softnce_ray.results import MODEL_FOLDER
from softnce_ray.store import Store
from softnce_ray.study.run import resume
from softnce_ray.tracking import load_results

from .launching import SEARCH, Meddling, Said, go, runs, scores, statuses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_store_that_is_copied_while_it_is_written_goes_on_as_two(empty_store, two_arms, tmp_path: Path) -> None:
    """In folders whose names a URI would read otherwise."""
    place = tmp_path / "job%20a?b#c{d}"
    place.mkdir()
    store, copy = Store.at(place / "store"), Store.at(place / "copy%2F")
    shutil.copytree(empty_store, store.root)

    def copied() -> None:
        subprocess.run(["cp", "-a", str(store.root), str(copy.root)], check=True)

    study = two_arms()
    study["search"] = {**SEARCH, "early_stopping": None}
    said = Meddling("epoch soft 1", copied)
    whole = go(study, store, said)
    assert said.acted
    assert (whole.failed, whole.unsent) == (0, ())
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.root.rglob("*")}

    again = resume("tiny", store=copy, display=Said())
    assert again.ran > 0
    assert (again.failed, again.unsent, again.problems) == (0, (), ())
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.root.rglob("*")} == before
    assert scores(again.results.trials) == scores(whole.results.trials)

    shutil.rmtree(store.root)
    assert statuses(copy) == {"study": {"FINISHED"}, "arm": {"FINISHED"}, "trial": {"FINISHED"}}
    assert scores(load_results(copy, "tiny").trials) == scores(whole.results.trials)
    client = MlflowClient(copy.tracking_uri)
    for run in runs(copy, "trial"):
        assert run.info.artifact_uri.startswith(f"{copy.artifact_root}/tiny/")
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]
        assert steps == [1, 2]
    assert sum(bool(list(path.iterdir())) for path in copy.root.glob(f"artifacts/tiny/*/artifacts/{MODEL_FOLDER}")) >= 2
    export("tiny", place / "best", store=copy)  # which reads it in a process of its own
    with pytest.raises(ExportError, match=r"expected a path without %XX for mlflow, got .*job%20a.*MLflow would read"):
        export("tiny", place / "served", store=copy, formats=("mlflow",))
    assert sorted(path.name for path in place.iterdir()) == ["best", "copy%2F", "study.yaml"]
