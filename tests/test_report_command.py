"""`softnce-ray report` in a process of its own, in every format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reported_study import make

from softnce_ray.store import Store
from softnce_ray.tracking import load_results


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Store:
    return make(tmp_path_factory.mktemp("command"), tiny_corpus, running=True)


def run(store: Store, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "softnce_ray", "report", "small", "--store", str(store.root), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_every_format_is_written_and_a_running_study_says_so(store: Store, tmp_path: Path) -> None:
    starts = {"html": "<!doctype html>", "latex": "%", "markdown": "## small", "json": "{"}
    for name, start in starts.items():
        out = tmp_path / f"report.{name}"
        done = run(store, "--format", name, "--out", out, "--versus-paper")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        text = out.read_text(encoding="utf-8")
        assert text.startswith(start) and text.endswith("\n") and not text.endswith("\n\n")
        assert "8 of 9 confirm trials finished, 1 trial running" in text
    assert "Gained most" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["counts"]["confirm"]["RUNNING"] == 1


@pytest.mark.slow
def test_a_corpus_elsewhere_is_named_and_what_cannot_be_written_is_one_line(store: Store, tmp_path: Path) -> None:
    page = run(store, "--format", "html", "--corpus", tmp_path / "nowhere")
    assert page.returncode == 2 and "expected a corpus folder at" in page.stderr
    (tmp_path / "file").touch()
    refused = run(store, "--format", "latex", "--out", tmp_path / "file" / "report.tex")
    assert refused.returncode == 2
    assert f"{tmp_path}/file is no folder: give another" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_the_folder_of_a_report_is_made(store: Store, tmp_path: Path) -> None:
    done = run(store, "--format", "markdown", "--out", tmp_path / "new dir" / "deep" / "a.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new dir" / "deep" / "a.md").read_text().startswith("## small")


@pytest.mark.slow
def test_a_file_of_the_user_s_is_only_replaced_when_asked(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("mine")
    refused = run(store, "--format", "markdown", "--out", tmp_path / "mine.md")
    assert refused.returncode == 2 and "exists already" in refused.stderr
    assert (tmp_path / "mine.md").read_text() == "mine"
    assert run(store, "--format", "markdown", "--out", tmp_path / "mine.md", "--overwrite").returncode == 0
    assert (tmp_path / "mine.md").read_text().startswith("## small")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.md"]


@pytest.mark.slow
def test_a_trial_whose_ranks_are_gone_is_named_on_stderr_beside_the_numbers_of_the_others(
    tmp_path: Path, tiny_corpus: Path
) -> None:
    store = make(tmp_path, tiny_corpus)
    lost = next(trial.run_id for trial in load_results(store, "small").trials if trial.phase == "confirm")
    (file,) = store.root.rglob(f"{lost}/**/reciprocal_ranks.parquet")
    file.unlink()
    done = run(store, "--format", "json")
    (problem,) = json.loads(done.stdout)["problems"]
    assert done.returncode == 0 and done.stderr.startswith("note: not in the table: ")
    assert problem["run_ids"] == [lost] and lost in done.stderr
    assert "No such artifact: 'reciprocal_ranks.parquet'" in done.stderr
