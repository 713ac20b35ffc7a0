"""Studies as jobs: what is checked before anything is sent, and a real cluster of two nodes that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import ray
import yaml
from hypothesis import given
from hypothesis import strategies as st
from servers import free_port, kill_tree

import softnce_ray
from softnce_ray.cli.jobs import _row
from softnce_ray.commands import command
from softnce_ray.store import Store
from softnce_ray.study import again
from softnce_ray.study.jobs import (
    Job,
    JobError,
    Jobs,
    follow,
    following,
    of_interest,
    past_checks,
    progress_of,
    submission,
)
from softnce_ray.study.jobs import client as jobs_client
from softnce_ray.study.jobs.client import address_of
from softnce_ray.study.jobs.following import Lines
from softnce_ray.study.problems import StudyError
from softnce_ray.tracking import load_results

from .launching import runs, scores

HEAD = "http://head.example:8265"
ON_CLUSTER = {"SOFTNCE_STORE": "/cluster/store"}
Plain = Callable[..., dict[str, Any]]


@pytest.fixture
def written(plain_study: Plain, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a study file with `changes`."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(plain_study(**changes), sort_keys=False))
        return path

    return write


# --- what is checked before anything is sent ---


def test_a_job_has_the_study_file_its_command_and_what_says_where_it_comes_from(written: Callable[..., Path]) -> None:
    path = written()
    made = submission(path, HEAD, ON_CLUSTER)
    assert (made.study, made.file, made.text) == ("tiny", "study.yaml", path.read_text())
    assert made.entrypoint == 'cd / && exec softnce-ray launch "$OLDPWD"/study.yaml'
    assert submission(path, HEAD, ON_CLUSTER, upgrade_store=True).entrypoint == f"{made.entrypoint} --upgrade-store"
    assert made.metadata["study"] == "tiny"
    assert made.metadata["softnce_ray"] == softnce_ray.__version__
    assert made.environment["SOFTNCE_STORE"] == "/cluster/store"


@pytest.mark.parametrize(("address", "verb"), [(HEAD, "submit"), ("ray://head:10001", "launch")])
def test_a_launch_that_was_sent_says_what_its_sender_types_to_go_on(
    address: str, verb: str, written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.at("/a b")
    with again.by(store, "tiny", "--address", "auto"):
        assert again.command() == "softnce-ray resume tiny --address auto --store '/a b'"
    for name, value in submission(written(), address, ON_CLUSTER, max_concurrent=2).environment.items():
        monkeypatch.setenv(name, value)
    options = f"--address {address} --store /cluster/store --max-concurrent 2"
    with again.by(store, "tiny"):
        assert again.command() == f"softnce-ray {verb} {written()} {options}"
    assert again.giving_up() == ("stopping the job" if verb == "submit" else "Ctrl-C")


def test_the_fingerprint_is_that_of_the_file_and_no_other(written: Callable[..., Path]) -> None:
    first = submission(written(), HEAD, ON_CLUSTER).metadata["file"]
    assert submission(written(), HEAD, ON_CLUSTER).metadata["file"] == first
    assert submission(written(question="Another?"), HEAD, ON_CLUSTER).metadata["file"] != first


def test_a_limit_of_trials_at_once_changes_that_of_the_file_and_nothing_else(written: Callable[..., Path]) -> None:
    path = written(resources={"cpus": 0.5, "max_concurrent": 7})
    sent = yaml.safe_load(submission(path, HEAD, ON_CLUSTER, max_concurrent=1).text)
    assert sent == {**yaml.safe_load(path.read_text()), "resources": {"cpus": 0.5, "max_concurrent": 1}}


def test_a_corpus_that_only_the_working_directory_has_is_refused_with_what_to_do(
    written: Callable[..., Path], tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_corpus.parent)
    path = written(corpus=tiny_corpus.name)
    with pytest.raises(StudyError, match=r"study.yaml:2: corpus: .*softnce-ray corpus copy tiny s3://") as caught:
        submission(path, HEAD, ON_CLUSTER)
    assert len(caught.value.problems) == 1


def test_all_that_is_wrong_with_the_file_and_the_environment_is_told_at_once(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    path = written(corpus="here", seeds=[1, 1], arms={"infonce": {"encoder": {"kind": "transformer", "model": "./m"}}})
    environment = {"SOFTNCE_STORE": "runs", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with pytest.raises(JobError) as caught:
        submission(path, HEAD, environment)
    for told in ("corpus copy here", "seeds: expected each once", "got './m'", "got 'runs'", "lies on this machine"):
        assert told in str(caught.value)


def test_a_corpus_that_this_machine_cannot_see_is_left_to_the_job(written: Callable[..., Path]) -> None:
    for corpus in ("/cluster/corpora/python", "file:///cluster/corpora/python"):
        made = submission(written(corpus=corpus), HEAD, ON_CLUSTER)
        assert any("the job will check it" in note and corpus in note for note in made.notes)
    with pytest.raises(StudyError, match="seeds") as caught:
        submission(written(corpus="/cluster/corpora/python", seeds=[1, 1]), HEAD, ON_CLUSTER)
    assert "/cluster" not in str(caught.value)


def test_a_corpus_that_this_machine_can_see_is_checked_here(written: Callable[..., Path]) -> None:
    with pytest.raises(StudyError, match="has no language 'cobol'"):
        submission(written(languages=["cobol"]), HEAD, ON_CLUSTER)


def test_credentials_in_the_corpus_address_are_refused_and_not_repeated(written: Callable[..., Path]) -> None:
    with pytest.raises(StudyError, match="without credentials") as caught:
        submission(written(corpus="s3://me:hunter2@bucket/corpus"), HEAD, ON_CLUSTER)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "refused"),
    [("./model", True), ("models/mini", True), ("a/b/c", True), ("~/mini", True), ("org/mini", False), ("/m", False)],
)
def test_a_model_in_a_folder_of_this_machine_is_refused(
    model: str, refused: bool, written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    arms = {"infonce": {}, "soft": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse", "model": model}}}
    with pytest.raises(StudyError, match=r"arms.soft.estimator.model: .*hub") if refused else contextlib.nullcontext():
        submission(written(arms=arms), HEAD, ON_CLUSTER)


def test_a_searched_model_is_looked_at_too(written: Callable[..., Path]) -> None:
    search = {"trials": 2, "space": {"estimator.model": {"choices": ["org/mini", "./mine"]}}}
    arms = {"infonce": {"loss": {"name": "soft_infonce"}, "estimator": {"name": "simcse"}}}
    with pytest.raises(StudyError, match=r"estimator\.model: .*got './mine'"):
        submission(written(arms=arms, search=search), HEAD, ON_CLUSTER)


def test_secrets_of_this_environment_are_never_sent(written: Callable[..., Path]) -> None:
    environment = {
        **ON_CLUSTER,
        "MLFLOW_TRACKING_URI": "postgresql://me:hunter2@db/mlflow",
        "SOFTNCE_STORAGE": "s3://bucket/x?secret_key=hunter2",
        "MLFLOW_TRACKING_PASSWORD": "hunter2",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "RAY_AUTH_TOKEN": "hunter2",
        "ANYTHING_ELSE": "hunter2",
    }
    made = submission(written(), HEAD, environment)
    assert "hunter2" not in repr(made)
    assert set(made.environment) == {"SOFTNCE_AGAIN", "SOFTNCE_STORE", "RAY_JOB_STOP_WAIT_TIME_S"}
    told = "\n".join(made.notes)
    for name in ("MLFLOW_TRACKING_URI", "SOFTNCE_STORAGE", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        assert name in told
    assert "RAY_AUTH_TOKEN" not in told  # the study's driver has the cluster's own


def test_what_says_where_the_cluster_finds_things_is_sent(written: Callable[..., Path]) -> None:
    told = {
        **ON_CLUSTER,
        "MLFLOW_TRACKING_URI": "http://mlflow.example:5000",
        "SOFTNCE_STORAGE": "s3://bucket/studies",
    }
    made = submission(written(), HEAD, told)
    assert {name: made.environment[name] for name in told} == told


@pytest.mark.parametrize(
    ("uri", "address", "sent"),
    [
        ("http://127.0.0.1:5000", "http://head:8265", False),
        ("http://localhost:5000", "http://head:8265", False),
        ("http://127.0.0.1:5000", "http://localhost:8265", True),
        ("http://mlflow:5000", "http://head:8265", True),
        ("postgresql://db.example/mlflow", "http://head:8265", True),
        ("sqlite:////shared/mlflow.db", "http://localhost:8265", False),
        ("/shared/mlruns", "http://localhost:8265", False),
    ],
)
def test_a_tracking_server_that_the_cluster_cannot_reach_is_refused(
    uri: str, address: str, sent: bool, written: Callable[..., Path]
) -> None:
    with contextlib.nullcontext() if sent else pytest.raises(JobError, match="MLFLOW_TRACKING_URI"):
        made = submission(written(), address, {**ON_CLUSTER, "MLFLOW_TRACKING_URI": uri})
        assert made.environment["MLFLOW_TRACKING_URI"] == uri


@pytest.mark.parametrize("missing", ["SOFTNCE_STORE", "MLFLOW_TRACKING_URI"])
def test_a_job_ends_with_the_reason_where_the_cluster_lacks_a_variable(
    missing: str, written: Callable[..., Path], tmp_path: Path
) -> None:
    secret = {"MLFLOW_TRACKING_URI": "http://me:hunter2@mlflow:5000"}
    made = submission(written(), HEAD, secret)
    there = {"SOFTNCE_STORE": "/s", "MLFLOW_TRACKING_URI": "http://m", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    launched = tmp_path / "softnce-ray"
    launched.write_text('#!/bin/sh\necho "$(pwd): $*"\n')
    launched.chmod(0o755)
    done = subprocess.run(made.entrypoint, shell=True, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"/: launch {tmp_path}/study.yaml\n")
    del there[missing]
    done = subprocess.run(made.entrypoint, shell=True, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{missing}: expected" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("given", "environment", "address"),
    [
        ("http://a:1", {"RAY_API_SERVER_ADDRESS": "http://b:2"}, "http://a:1"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://b:2/", "RAY_ADDRESS": "http://c:3"}, "http://b:2"),
        (None, {"RAY_ADDRESS": "https://c:3"}, "https://c:3"),
        ("http://head", {}, "http://head:8265"),
        ("https://host/ray/head", {}, "https://host/ray/head"),
        (None, {}, None),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, None),
        ("ray://head:10001", {}, None),
        ("head:8265", {}, None),
        ("http://head:port", {}, None),
    ],
)
def test_the_address_is_what_is_given_or_what_ray_s_own_commands_take(
    given: str | None, environment: Mapping[str, str], address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if address is None:
        with pytest.raises(JobError, match="http://HEAD:8265"):
            address_of(given)
    else:
        assert address_of(given) == address


# --- a server that is none, or another ---


class Answers(ThreadingHTTPServer):
    """An HTTP server that answers each path as told, and keeps what it was asked; None: never."""

    daemon_threads = True

    def __init__(self, answers: Mapping[str, tuple[int, Any] | None]) -> None:
        self.asked: list[str] = []
        self.over = threading.Event()
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.asked.append(self.path)
                answer = answers.get(self.path, (404, "none"))
                if answer is None:
                    told.over.wait()
                    return
                body = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Answers:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


VERSION = "/api/version"


def test_the_server_that_is_given_is_asked_whatever_ray_s_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = {VERSION: (200, {"ray_version": ray.__version__}), "/api/jobs/": (200, [])}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with Answers(ready) as given, Answers(ready) as other:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", other.uri)
        monkeypatch.setenv("RAY_ADDRESS", other.uri)
        assert Jobs(given.uri).all() == []
        assert "/api/jobs/" in given.asked
        assert other.asked == []
        assert os.environ["RAY_API_SERVER_ADDRESS"] == other.uri


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, "none"), "expected a Ray Jobs server"),
        ((200, ["no", "version"]), "expected a Ray Jobs server"),
        ((200, {"ray_version": "2.9.3"}), r"expected Ray 2\.60 or later .* got 2\.9\.3: update"),
        ((401, "Unauthorized: Missing authentication token"), "got no token: set RAY_AUTH_MODE=token"),
        ((403, "Forbidden: Invalid authentication token"), "a token that it refuses: set RAY_AUTH_MODE=token"),
        (None, "nobody answers"),
    ],
)
def test_a_server_that_runs_no_studies_is_told_from_one_that_does(
    answer: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.setattr(jobs_client, "_ANSWERING", 0.5)
    with Answers({VERSION: answer}) as server, pytest.raises(JobError, match=says) as caught:
        Jobs(server.uri)
    assert server.uri in str(caught.value)


def test_a_server_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    silent = {VERSION: (200, {"ray_version": ray.__version__}), "/api/jobs/": None}
    with Answers(silent) as server:
        jobs = Jobs(server.uri)
        monkeypatch.setattr(jobs_client, "_ANSWERING", 0.5)
        with pytest.raises(JobError, match="within"):
            jobs._ask("list its jobs", jobs._client.list_jobs, 0.5)


def test_a_machine_without_the_jobs_client_is_told_what_to_install(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    script = "import sys; sys.modules['aiohttp'] = None; from softnce_ray.cli import main; main()"
    with Answers({VERSION: (200, {"ray_version": ray.__version__})}) as server:
        command = [sys.executable, "-c", script, "status", "--address", server.uri]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=120)
    assert done.returncode == 2
    assert "pip install 'softnce-ray[cluster]'" in done.stderr
    assert done.stderr.count("\n") == 1


# --- what a job says ---


LOG = """\
2026-11-23 03:09:53,141\tINFO job_manager.py:581 -- Runtime env is setting up.
Running entrypoint for job tiny-20261123-1: exec softnce-ray launch ./tiny.yaml
[   2.1 s] note: disk: only 3.1 GB are free: delete something
[   2.8 s] tiny: 2 cells on 2 slots; preparing tokens and estimators
[  13.9 s] prepared infonce/python [1/2]
[  24.9 s] infonce/python confirm seed 1: epoch 1/2, loss 6.772, valid MRR 0.0689, 7,526 pairs/s
[  25.1 s] infonce/python confirm seed 1: finished, valid MRR 0.0849, test MRR 0.0917 [1/1,004]
[  25.2 s] soft/python confirm seed 1: epoch 1/2, loss 6.801, valid MRR 0.0687, 5,540 pairs/s
"""


def test_how_far_a_study_is_stands_in_its_lines() -> None:
    now = progress_of(LOG)
    assert (now.done, now.total) == (1, 1004)
    assert now.last.startswith("soft/python confirm seed 1: epoch 1/2")
    begun = progress_of("".join(LOG.splitlines(keepends=True)[:5]))
    assert (begun.done, begun.total, begun.last) == (None, None, "prepared infonce/python [1/2]")
    whole = progress_of("tiny: nothing to do: all 4 trials are there\nsee  softnce-ray report tiny\n")
    assert (whole.done, whole.total, whole.last) == (4, 4, "tiny: nothing to do: all 4 trials are there")
    assert progress_of("").last == ""


@pytest.mark.parametrize(
    ("state", "exit_code", "message", "said"),
    [
        ("FAILED", 2, "Job entrypoint command failed with exit code 2", "exit status 2"),
        ("FAILED", None, "runtime_env setup failed:\n no such file\n", "no such file"),
        ("SUCCEEDED", 0, "", ""),
    ],
)
def test_a_failed_job_says_why_where_its_log_is_not_read(
    state: str, exit_code: int | None, message: str, said: str
) -> None:
    job = Job("tiny-1", "tiny", state, 0.0, 60.0, exit_code, message, {})
    assert _row(job, progress_of("")) == ["tiny-1", "tiny", state, "1970-01-01T00:01:00Z", "", "", said]
    assert _row(job, progress_of("softnce-ray: no room\n"))[-1] == "softnce-ray: no room"


def _sent(name: str, state: str, started: float | None, ended: float | None, study: str = "tiny") -> Job:
    return Job(name, study, state, started, ended, None, "", {})


def test_of_a_study_the_jobs_are_told_of_that_run_or_met_and_the_latest() -> None:
    jobs = [
        _sent("old", "SUCCEEDED", 0, 10),
        _sent("first", "SUCCEEDED", 20, 90),
        _sent("second", "FAILED", 30, 31),  # both refused, since the first ran
        _sent("third", "FAILED", 40, 41),
        _sent("other", "RUNNING", 25, None, "other"),
        _sent("after", "STOPPED", 90, 95),
        _sent("before", "FAILED", 96, 97),
        _sent("last", "SUCCEEDED", 98, 99),
    ]
    assert of_interest(jobs) == {"first", "second", "third", "other", "last"}
    assert of_interest([_sent("runs", "RUNNING", 5, None), _sent("waits", "PENDING", None, None)]) == {"runs", "waits"}
    assert of_interest([]) == set()


def test_a_study_s_name_means_its_job_that_runs_before_one_that_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def details(name: str, state: str, started: int) -> dict[str, Any]:
        sent = {"submission_id": name, "status": state, "start_time": started, "type": "SUBMISSION", "entrypoint": "x"}
        return {**sent, "metadata": {"softnce_ray": "1", "study": "tiny"}}

    listed = [details("one", "SUCCEEDED", 1), details("two", "RUNNING", 2), details("three", "FAILED", 3)]
    ready = {VERSION: (200, {"ray_version": ray.__version__}), "/api/jobs/": (200, listed)}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with Answers(ready) as server:
        jobs = Jobs(server.uri)
        assert [jobs.job(name).id for name in ("tiny", "three", "one")] == ["two", "three", "one"]
        listed[1]["status"] = "SUCCEEDED"
        assert jobs.job("tiny").id == "three"


def test_a_launch_has_done_its_checks_when_it_shows_more_than_notes() -> None:
    assert [past_checks(line) for line in LOG.splitlines()[:5]] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("state", "exit_code", "status"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 130)],
)
def test_a_command_that_waited_ends_as_the_job_did(state: str, exit_code: int | None, status: int) -> None:
    assert Job("tiny-1", "tiny", state, 1.0, 2.0, exit_code, "", {}).status == status


@given(
    text=st.text("ab\n", max_size=60),
    connections=st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=4),
    last=st.lists(st.integers(1, 9), max_size=8),
)
def test_every_line_comes_once_however_often_a_connection_breaks(
    text: str, connections: list[list[int]], last: list[int]
) -> None:
    lines, found = Lines(), []
    for pieces in connections:  # each begins at the text's beginning and breaks somewhere
        position = 0
        for size in pieces:
            found += lines.take(text[position : position + size])
            position += size
        lines.again()
    position = 0
    for size in last:
        found += lines.take(text[position : position + size])
        position += size
    found += lines.take(text[position:]) + lines.end()
    assert found == text.splitlines()


class Broken:
    """A server whose connections give some text and then break, fall silent (None) or end."""

    shown = HEAD
    text = "one\ntwo\nthree\nfour"

    def __init__(self, *connections: tuple[int, type[Exception] | str | None], known: bool = True) -> None:
        self._connections, self._known = list(connections), known
        self.made = 0

    async def tail(self, job: str) -> AsyncGenerator[str]:
        length, then = self._connections[min(self.made, len(self._connections) - 1)]
        self.made += 1
        yield self.text[:length]
        if then is None:
            await asyncio.sleep(3600)
        elif not isinstance(then, str):
            raise then

    def job(self, name: str) -> Job:
        if not self._known:
            raise JobError("no such job")
        over = self.made >= len(self._connections)
        return Job(name, "tiny", "SUCCEEDED" if over else "RUNNING", 1.0, None, None, "", {})

    def log(self, job: str) -> str:
        return self.text


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_SILENCE", 0.2)
    monkeypatch.setattr(following, "_PAUSE", 0.0)


@pytest.mark.usefixtures("hurried")
def test_a_connection_that_breaks_or_falls_silent_is_made_again_and_nothing_comes_twice() -> None:
    server, lines, told = Broken((5, OSError), (9, None), (2, RuntimeError), (12, "end")), list[str](), list[str]()
    ended = follow(cast(Jobs, server), "job", lambda line: bool(lines.append(line)), trouble=told.append)  # type: ignore[func-returns-value]
    assert ended.state == "SUCCEEDED"
    assert lines == ["one", "two", "three", "four"]
    assert len(told) == 2  # silence is no trouble


@pytest.mark.usefixtures("hurried")
def test_following_ends_when_enough_was_seen_or_the_server_stays_away_or_forgets_the_job() -> None:
    assert follow(cast(Jobs, Broken((18, None))), "job", lambda line: line == "two").id == "job"
    with pytest.raises(JobError, match="may go on"):
        follow(cast(Jobs, Broken((0, OSError))), "job", lambda line: False, patience=0.0)
    with pytest.raises(JobError, match="no such job"):
        follow(cast(Jobs, Broken((0, "end"), (0, "end"), known=False)), "job", lambda line: False)


# --- a cluster ---


def _environment(**more: str) -> dict[str, str]:
    """Of a process that knows no cluster, store or server but those of `more`."""
    unknown = ("RAY_", "SOFTNCE_", "MLFLOW_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unknown)}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    here = str(Path(softnce_ray.__file__).parents[1])
    return {**kept, "PATH": path, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", **more}


class Cluster:
    """A head with a Jobs server and a worker node, one processor each, that ask for a token."""

    token = "a-token-that-is-long-enough-for-a-test"

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.gcs = free_port()
        self.environment = _environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=self.token)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._ray(
            *("--head", f"--port={self.gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.port}"),
            *(f"--temp-dir={self.folder}", f"--ray-client-server-port={free_port()}", "--disable-usage-stats"),
        )
        self._wait(lambda: self._get("/api/version"))
        self._ray(f"--address=127.0.0.1:{self.gcs}")
        self._wait(lambda: len(self._alive()) == 2)

    def stop(self) -> None:
        for process in reversed(self._processes):
            kill_tree(process.pid)
        for process in psutil.process_iter():  # agents are children of nobody when their node has died
            with contextlib.suppress(psutil.Error):
                if any(str(self.folder) in word for word in process.cmdline()):
                    process.kill()

    def run(self, *arguments: object, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `softnce-ray` against the cluster and expect an exit status."""
        command = [sys.executable, "-m", "softnce_ray", *map(str, arguments)]
        known = {**self.environment, "RAY_API_SERVER_ADDRESS": self.address, **more}
        # Python looks for the package in its working directory first.
        done = subprocess.run(command, env=known, cwd=self.folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def states(self) -> dict[str, list[str]]:
        """The columns of `status`, by job."""
        return {row[0]: row[1:] for row in (line.split("\t") for line in self.run("status").stdout.splitlines())}

    def until_said(self, job: str, text: str) -> None:
        self._wait(lambda: text in self.run("logs", job).stdout)

    def _ray(self, *options: str) -> None:
        common = (f"--dashboard-agent-listen-port={free_port()}", "--num-cpus=1", "--object-store-memory=80000000")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        with (self.folder / f"{len(self._processes)}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [*command, *common, *options],
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _alive(self) -> list[Any]:
        nodes = json.loads(self._get("/nodes?view=summary"))["data"]["summary"]
        return [node for node in nodes if node["raylet"].get("state") == "ALIVE"]

    def _get(self, path: str) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}"}
        with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers), timeout=10) as answer:
            return answer.read()

    def _wait(self, ready: Callable[[], Any], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, KeyError):
                if ready():
                    return
            logs = [log.read_text(errors="replace")[-2000:] for log in sorted(self.folder.glob("*.log"))]
            assert all(process.poll() is None for process in self._processes), logs
            assert time.monotonic() < end, logs
            time.sleep(0.5)


class Cut:
    """A way to a server that can be cut: all its connections break, and new ones can be made."""

    def __init__(self, port: int) -> None:
        self._target, self._open = port, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    pytest.importorskip("opencensus", reason="the Jobs server needs ray[default]: pip install softnce-ray[cluster]")
    folder = Path(tempfile.mkdtemp(prefix="sj", dir="/tmp"))  # paths of sockets are short
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _study(plain_study: Plain, folder: Path, name: str, epochs: int, **changes: Any) -> Path:
    plain = plain_study(study=name, **changes)
    plain["defaults"]["training"]["epochs"] = epochs
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return path


def _results(store: Path, study: str) -> dict[Any, Any]:
    return scores(load_results(Store(store, f"sqlite:///{store}/mlflow.db"), study).trials)


def _closed_after(says: str, cluster: Cluster, study: Path, store: Path) -> str:
    """Submit and follow a study in a terminal that is closed once a line has this; returns what its group matched."""
    with subprocess.Popen(
        [sys.executable, "-m", "softnce_ray", "submit", str(study), "--store", str(store), "--follow"],
        env={**cluster.environment, "RAY_API_SERVER_ADDRESS": cluster.address},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as terminal:
        assert terminal.stderr is not None
        matched = next(found[1] for line in terminal.stderr if (found := re.search(says, line)))
        os.killpg(terminal.pid, signal.SIGKILL)
    return matched


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_study_whose_terminal_is_closed_at_once_ends_with_the_numbers_of_a_local_run(
    two_nodes: Cluster, plain_study: Plain, tmp_path: Path
) -> None:
    path = _study(plain_study, tmp_path, "closed", 3)
    job = _closed_after(r"was sent as job (\S+);", two_nodes, path, tmp_path / "cluster")
    way = Cut(two_nodes.port)
    followed = subprocess.Popen(
        [sys.executable, "-m", "softnce_ray", "logs", job, "--follow", "--address", way.address],
        env=two_nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert followed.stdout is not None
    first = [followed.stdout.readline() for _ in range(3)]
    way.cut()
    rest, told = followed.communicate(timeout=600)
    way.close()
    assert followed.returncode == 0, told
    assert "the connection is lost; the job goes on" in told
    assert "".join(first) + rest == two_nodes.run("logs", job).stdout
    assert two_nodes.states()[job][:2] == ["closed", "SUCCEEDED"]
    assert two_nodes.states()[job][3:5] == ["4", "4"]
    local = [sys.executable, "-m", "softnce_ray", "launch", str(path), "--store", str(tmp_path / "local")]
    subprocess.run(local, env=_environment(RAY_AUTH_MODE="disabled"), check=True, timeout=600)
    alone, there = (_results(tmp_path / name, "closed") for name in ("local", "cluster"))
    assert (len(alone), there) == (4, alone)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_studies_share_a_cluster_and_one_that_was_stopped_goes_on_to_the_same_numbers(
    two_nodes: Cluster, plain_study: Plain, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(softnce_ray.__file__).parent, other / "softnce_ray")
    (other / "softnce_ray-9.9.9.dist-info").mkdir()
    (other / "softnce_ray-9.9.9.dist-info" / "METADATA").write_text("Name: softnce-ray\nVersion: 9.9.9\n")
    limited = ("--max-concurrent", "1", "--store", tmp_path / "store")
    paths = {name: _study(plain_study, tmp_path, name, 150) for name in ("left", "right")}
    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(two_nodes.run, "submit", paths["left"], *limited, "--with-package", PYTHONPATH=str(other)),
            pool.submit(two_nodes.run, "submit", paths["right"], *limited),
        ]
        left, right = (each.result().stdout.strip() for each in started)
    for sent in started:
        assert "note: estimate: 4 trials to run, 1 at a time; about " in sent.result().stderr
    states = two_nodes.states()
    assert (states[left][1], states[right][1]) == ("RUNNING", "RUNNING")
    assert "2 cells on 1 slot;" in two_nodes.run("logs", "left").stdout
    again = two_nodes.run("submit", paths["right"], *limited, status=2)
    assert f"as job {right} (RUNNING)" in again.stderr

    two_nodes.until_said(right, ": epoch 20/150")
    (stop,) = re.findall("`softnce-ray (stop [^`]*)`", again.stderr)
    two_nodes.run(*shlex.split(stop), RAY_API_SERVER_ADDRESS="")
    assert two_nodes.states()[right][1] == "STOPPED"
    (printed,) = re.findall("go on with  softnce-ray (submit .*)", two_nodes.run("logs", right).stdout)
    store = Store(tmp_path / "store", f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")
    assert {run.info.status for run in runs(store, "study", "right")} == {"KILLED"}
    assert "RUNNING" not in {run.info.status for role in ("arm", "trial") for run in runs(store, role, "right")}
    assert len([run for run in runs(store, "trial", "right") if run.info.status == "FINISHED"]) < 4
    cut_off, epoch = re.findall(r"\] (\S+ confirm seed \d): epoch (\d+)/150", two_nodes.run("logs", right).stdout)[-1]
    more = two_nodes.run(*shlex.split(printed), "--follow", RAY_API_SERVER_ADDRESS="")
    assert more.stdout.strip() not in ("", right)
    after = re.findall(rf"{cut_off}: epoch (\d+)/150", more.stderr)
    assert not after or int(after[0]) >= int(epoch) - 1  # from its last checkpoint

    see = re.findall("see  softnce-ray (.*)", started[0].result().stderr)
    assert [words.partition(" ")[0] for words in see] == ["logs", "status", "stop"]
    for words in see:  # the first waits for its end
        two_nodes.run(*shlex.split(words), RAY_API_SERVER_ADDRESS="")
    gone = command("ray", "job", "delete", "--address", two_nodes.address, left)
    subprocess.run(["sh", "-c", gone], env=two_nodes.environment, check=True, timeout=120)
    assert left not in two_nodes.states()
    assert len(_results(store.root, "left")) == 4
    assert _results(store.root, "right") == _results(store.root, "left")
    tags = {name: runs(store, "study", name)[0].data.tags["version.softnce_ray"] for name in paths}
    assert tags == {"left": "9.9.9", "right": softnce_ray.__version__}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_second_job_of_a_study_that_runs_is_listed_with_its_reason_and_hides_nothing_of_the_first(
    two_nodes: Cluster, plain_study: Plain, tmp_path: Path
) -> None:
    path = _study(plain_study, tmp_path, "twice", 4000, seeds=[1], arms={"infonce": {}})
    first = two_nodes.run("submit", path, "--store", tmp_path / "store").stdout.strip()
    two_nodes.until_said(first, ": epoch 2/4000")
    second = f"{first}-more"  # as if it had been sent at the same time, before the first was known
    script = (
        "import sys; from pathlib import Path\n"
        "from softnce_ray.study.jobs import Jobs, sending\n"
        "made = sending.submission(sys.argv[1], sys.argv[2], {'SOFTNCE_STORE': sys.argv[3]})\n"
        "(folder := Path(sys.argv[4])).mkdir()\n"
        "environment = sending._runtime(made, folder)\n"
        "print(Jobs(sys.argv[2]).send(sys.argv[5], made.entrypoint, environment, made.metadata))\n"
    )
    arguments = [str(path), two_nodes.address, str(tmp_path / "store"), str(tmp_path / "sent"), second]
    sent = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=two_nodes.environment, capture_output=True, text=True
    )
    assert sent.stdout == "True\n", sent.stderr
    two_nodes.until_said(second, "is being run by another process")
    stopped = two_nodes.run("stop", "twice").stderr  # the first, which runs
    kept = re.findall(r"infonce/python confirm seed 1: stopped in the middle, epoch (\d+)/4000 is kept", stopped)
    assert len(kept) == 1, stopped
    assert "twice: 0 trials run, 0 were there already, 0 failed, 1 stopped in the middle" in stopped
    states = two_nodes.states()
    assert states[first][1] == "STOPPED"
    assert states[first][-1].startswith("interrupted: go on with  softnce-ray submit")
    assert states[second][1] == "FAILED"
    assert states[second][-1].startswith("softnce-ray: study twice is being run by another process with the store")
    epoch = _closed_after(r"seed 1: epoch (\d+)/400", two_nodes, path, tmp_path / "store")
    two_nodes.run("stop", "twice")
    assert int(epoch) == int(kept[0]) + 1


@pytest.mark.long
def test_a_job_that_fails_its_checks_is_told_as_a_failed_launch_is(
    two_nodes: Cluster, plain_study: Plain, tmp_path: Path
) -> None:
    path = _study(plain_study, tmp_path, "nowhere", 1, corpus="/nowhere/corpus")
    done = two_nodes.run("submit", path, "--store", tmp_path / "store", "--dry-run")
    assert f"--dry-run --calibrate --store {tmp_path / 'store'}` prints it now" in done.stderr
    done = two_nodes.run("submit", path, "--store", tmp_path / "store", status=2)
    assert "expected a corpus folder at /nowhere/corpus" in done.stderr
    assert done.stdout == ""
    assert [row[1] for row in two_nodes.states().values() if row[0] == "nowhere"] == ["FAILED"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RAY_AUTH_TOKEN": "another-token-that-is-long-enough"}, "got a token that it refuses: set RAY_AUTH_MODE"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/nowhere"}, "Ray finds none here: set RAY_AUTH_MODE"),
        ({"RAY_AUTH_MODE": "disabled"}, "got no token: set RAY_AUTH_MODE"),
    ],
)
def test_a_cluster_that_refuses_a_token_says_what_to_set(
    variables: dict[str, str], says: str, two_nodes: Cluster
) -> None:
    done = two_nodes.run("status", status=2, **variables)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert two_nodes.token not in done.stderr


@pytest.mark.long
def test_another_port_of_a_head_is_told_from_its_jobs_server(two_nodes: Cluster) -> None:
    done = two_nodes.run("status", "--address", f"http://127.0.0.1:{two_nodes.gcs}", status=2)
    assert "give --address http://HEAD:8265" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["submit", "status", "logs", "stop"])
def test_every_command_has_help_without_ray(command: str) -> None:
    script = "import sys; sys.modules['ray'] = None; from softnce_ray.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, command, "--help"], capture_output=True, text=True)
    assert "Usage" in done.stdout, done.stderr
