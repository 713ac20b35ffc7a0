"""The command line as a user meets it: in processes of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from older import older_searches

import softnce_ray
from softnce_ray.cli.studies import count_text
from softnce_ray.results import StudyResults, TrialResult
from softnce_ray.study.run import Launch
from softnce_ray.study.storage import open_storage

ROOT = Path(softnce_ray.__file__).parents[1]


def run(*arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `softnce-ray` in `cwd`, with a store of its own there, and expect an exit status."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("SOFTNCE_STORE", "MLFLOW_TRACKING_URI")
    }
    command = [sys.executable, "-m", "softnce_ray", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    "command",
    [[], ["corpus"], ["corpus", "mine"], ["corpus", "import"], ["corpus", "plant"], ["corpus", "show"], ["launch"],
     ["resume"], ["extend"], ["sync"], ["doctor"], ["report"], ["best"], ["export"], ["index"],
     ["search"], ["evaluate"], ["ui"], ["schema"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_has_help(command: list[str], tmp_path: Path) -> None:
    assert "Usage" in run(*command, "--help", cwd=tmp_path).stdout


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys, softnce_ray.cli; heavy = {'torch', 'ray', 'mlflow', 'optuna', 'transformers', 'pyarrow', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["launch", "none.yaml"], "no such study file"),
        (["report", "none"], "launch a study first"),
        (["export", "none", "--to", "best"], "launch a study first"),
        (["ui"], "launch a study first"),
        (["best", "none"], "launch a study first"),
        (["resume", "none"], "there: none yet"),
        (["extend", "none", "--seed", "5"], "expected a study that was launched with the store"),
        (["extend", "none"], "expected something to add"),
        (["sync", "none"], "launch a study first"),
        (["search", "none", "--corpus", "none", "query"], "softnce-ray export"),
        (["corpus", "show", "none"], "softnce-ray corpus mine"),
        (["corpus", "mine", "--out", "c"], "--source"),
        (["corpus", "mine", "--out", "c", "--source", "none"], "none"),
        (["corpus", "mine", "--out", "c", "--source", ".", "--language", "cobol"], "python"),
        (["corpus", "import", "none", "--out", "c"], "none"),
        (["search", "none", "--corpus", "none", " "], "got an empty text"),
        (["corpus", "mine", "--source", str(ROOT / "softnce_ray" / "corpus"), "--out", "/proc/c"], "give another path"),
    ],
)
def test_a_user_s_error_is_a_line_and_status_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path, status=2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_printed_schema_accepts_the_studies_that_ship_and_refuses_a_misspelt_key(tmp_path: Path) -> None:
    schema = json.loads(run("schema", cwd=tmp_path).stdout)
    files = sorted((ROOT / "search_spaces").glob("*.yaml"))
    assert files
    for file in files:
        study = yaml.safe_load(file.read_text())
        jsonschema.validate(study, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**study, "sedes": [1]}, schema)


def test_dry_run_prints_the_trials_and_makes_nothing(tiny_corpus: Path, tmp_path: Path) -> None:
    study = {
        "study": "dry",
        "corpus": str(tiny_corpus),
        "languages": ["python"],
        "seeds": [1, 2],
        "arms": {"infonce": {}},
        "search": {"trials": 4, "space": {"temperature": {"low": 0.01, "high": 0.1}}},
    }
    (tmp_path / "dry.yaml").write_text(yaml.safe_dump(study))
    done = run("launch", "dry.yaml", "--dry-run", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "infonce\tpython\tsearch\t4 trials over temperature",
        "infonce\tpython\tconfirm\tseed 1",
        "infonce\tpython\tconfirm\tseed 2",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["dry.yaml"]


@pytest.mark.parametrize(
    ("failed", "ending"),
    [(0, "4 failed in earlier launches"), (1, "4 failed, 3 of them in earlier launches"), (4, "4 failed")],
)
def test_a_launch_names_trials_that_failed_in_earlier_ones(failed: int, ending: str) -> None:
    """58 trials ran and none failed in this launch; four that failed before were not tried again."""
    trials = [
        TrialResult(str(n), "infonce", "python", n, "search", "FAILED" if n < 4 else "FINISHED", str(n))
        for n in range(62)
    ]
    results = StudyResults("s", "", "infonce", ("infonce",), ("python",), (1,), "c", tuple(trials), "FINISHED")
    done = Launch(results, 58, 0, failed, False, (), ())
    assert count_text("s", done) == f"s: 58 trials run, 0 were there already, {ending}"


@pytest.mark.slow
def test_from_source_code_to_an_answer(tmp_path: Path) -> None:
    """The README's whole way, small: mine real code, launch, launch again, report, export, search."""
    library = Path(json.__file__).parents[1]
    for package in ("email", "json", "logging", "http", "urllib", "xml", "unittest", "concurrent", "asyncio", "ctypes"):
        shutil.copytree(library / package, tmp_path / "source" / package)
    mined = run("corpus", "mine", "--source", "source", "--out", "corpus", "--valid", 40, "--test", 40, cwd=tmp_path)
    assert "python: train" in mined.stdout
    study = {
        "study": "small",
        "corpus": "corpus",
        "languages": ["python"],
        "seeds": [1, 2],
        "defaults": {
            "encoder": {"kind": "bag", "width": 16},
            "tokens": {"vocabulary": 1000},
            "training": {"epochs": 2, "batch_size": 16},
        },
        "arms": {"infonce": {}, "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "bm25"}}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(study))
    launched = run("launch", "small.yaml", cwd=tmp_path)
    assert "4 trials run, 0 were there already, 0 failed" in launched.stdout
    assert "soft/python confirm seed 2: finished" in launched.stderr
    shutil.copy(older_searches(tmp_path), tmp_path / "softnce_runs")
    again = run("launch", "small.yaml", "--upgrade-store", cwd=tmp_path)
    assert "small: nothing to do: all 4 trials are there" in again.stdout
    assert open_storage(f"sqlite:///{tmp_path}/softnce_runs/optuna.db", to_read=True).get_all_studies() == []

    (see,) = re.findall("^see  softnce-ray (report .*?)  and  softnce-ray ui$", launched.stdout, re.MULTILINE)
    assert "2/2" in run(*shlex.split(see), cwd=tmp_path).stdout
    report = json.loads(run("report", "small", "--format", "json", cwd=tmp_path).stdout)
    assert [(row["arm"], row["seeds_done"]) for row in report["rows"]] == [("infonce", 2), ("soft", 2)]
    assert "| soft | python | 2/2 |" in run("report", "small", "--format", "markdown", cwd=tmp_path).stdout

    assert "valid MRR" in run("export", "small", "--to", "best", cwd=tmp_path).stdout
    run("export", "small", "--to", "best", cwd=tmp_path, status=2)
    found = run("search", "best", "--corpus", "corpus", "--top", 3, "parse a mail header", cwd=tmp_path).stdout
    assert found.splitlines()[0] == "# parse a mail header"
    assert len(found.splitlines()) == 4
