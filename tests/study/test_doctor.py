"""The doctor: what hand-made facts mean, what a study takes, and what real nodes, disks and servers answer."""

from __future__ import annotations

import http.server
import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from softnce_ray.config import ArmConfig, BagEncoder, Resources, StudyConfig, TokenSettings, TransformerEncoder
from softnce_ray.config.study import StudyArm
from softnce_ray.corpus.store import Corpus
from softnce_ray.encoders import build_encoder
from softnce_ray.store import Store
from softnce_ray.study.cluster import LaunchError, session, trials_on
from softnce_ray.study.doctor import Finding, check_before_launch, examine, judging
from softnce_ray.study.doctor.asking import Node, ask
from softnce_ray.study.doctor.facts import NodeFacts, Questions, facts_here, probe
from softnce_ray.study.doctor.finding import size
from softnce_ray.study.doctor.needs import WORKER, Needs, needs, parameters
from softnce_ray.study.doctor.tracking import tracking

GB = 1_000_000_000
FACTS = NodeFacts(
    python="3.11.7",
    versions={"method": "2", "softnce-ray": "0.1.0", "ray": "2.60.0", "torch": "2.13.0+cpu", "mlflow": "3.17.2"},
    code="c0de",
    storage="",
    same_storage=True,
    disk=100 * GB,
    temporary=100 * GB,
    memory=16 * GB,
    memory_total=32 * GB,
    open_files=65536,
    clock=0.0,
    corpus="f" * 64,
)


def node(
    name: str = "10.0.0.1", cpus: float = 4, gpus: float = 0, facts: NodeFacts | None = FACTS, **more: Any
) -> Node:
    """A node whose facts differ from `FACTS` by what `more` names."""
    of_node = {key: more.pop(key) for key in ("silence", "clock_off", "answer_seen") if key in more}
    return Node(name, cpus, gpus, facts and replace(facts, **more), **of_node)


def levels(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.level) for each in findings]


def only(findings: list[Finding]) -> Finding:
    (each,) = findings
    return each


# --- what facts mean ---


def test_equal_nodes_are_well() -> None:
    nodes = [node("10.0.0.1"), node("10.0.0.2")]
    found = [
        *judging.answers(nodes),
        *judging.versions(FACTS, nodes),
        *judging.storage("/store", True, nodes),
        *judging.corpora("/corpus", "f" * 64, nodes),
        *judging.room(Resources(), nodes, {"CPU": 8}),
        *judging.disk(nodes),
        *judging.limits(nodes),
    ]
    assert {each.level for each in found} == {"ok"} and not any(each.remedy for each in found)
    assert found[0].text == "2 with 8 CPUs and 0 GPUs"


def test_another_version_of_torch_is_an_error_that_says_what_to_install() -> None:
    other = {**FACTS.versions, "torch": "2.12.1"}
    found = only(judging.versions(FACTS, [node(), node("10.0.0.2", versions=other)]))
    assert (found.level, found.text) == ("error", "10.0.0.2: torch 2.12.1, here 2.13.0+cpu")
    assert "torch==2.13.0+cpu" in found.remedy


def test_another_method_is_an_error_and_a_package_that_is_missing_too() -> None:
    other = {name: version for name, version in FACTS.versions.items() if name != "ray"} | {"method": "1"}
    found = only(judging.versions(FACTS, [node(versions=other)]))
    assert (found.level, found.text) == ("error", "10.0.0.1: method 1, here 2, ray none, here 2.60.0")
    assert "this softnce-ray" in found.remedy


@pytest.mark.parametrize(
    "difference",
    [
        {"versions": {**FACTS.versions, "torch": "2.13.0+cu130"}},
        {"versions": {**FACTS.versions, "mlflow": "3.16.0"}},
        {"code": "edited"},
    ],
    ids=["another build", "records only", "other source files"],
)
def test_what_hardly_hurts_is_a_warning(difference: dict[str, Any]) -> None:
    assert only(judging.versions(FACTS, [node(**difference)])).level == "warning"


def test_python_may_differ_in_its_last_number_only() -> None:
    assert only(judging.versions(FACTS, [node(python="3.11.9")])).level == "ok"
    assert only(judging.versions(FACTS, [node(python="3.12.7")])).level == "error"


def test_a_node_that_does_not_answer_is_an_error() -> None:
    silent = node("10.0.0.9", facts=None, silence="no answer in 20 seconds")
    found = only(judging.answers([node(), silent]))
    assert (found.level, found.text) == ("error", "10.0.0.9: no answer in 20 seconds")
    lacking = node(facts=None, silence="ModuleNotFoundError: No module named 'softnce_ray'")
    assert "install" in only(judging.answers([lacking])).remedy
    assert only(judging.answers([])).level == "error"


@pytest.mark.parametrize(
    ("difference", "remedy"),
    [
        ({"storage": "cannot be written: Read-only file system"}, "permissions"),
        ({"storage": "cannot be written: No space left on device"}, "free disk space"),
        ({"storage": "is not there"}, "mount the same storage"),
        ({"same_storage": False}, "mount the same storage"),
        ({"answer_seen": False}, "mount the same storage"),
    ],
)
def test_storage_that_a_node_cannot_use_is_an_error_with_its_remedy(difference: dict[str, Any], remedy: str) -> None:
    found = only(judging.storage("/store", True, [node(), node("10.0.0.2", **difference)]))
    assert (found.check, found.level) == ("storage", "error")
    assert found.text.startswith("10.0.0.2: /store ") and remedy in found.remedy


def test_a_corpus_or_model_that_a_node_has_not_is_an_error() -> None:
    nodes = [node(), node("b", corpus="e" * 64), node("c", corpus=None, corpus_problem="nothing there"), node("d")]
    nodes[3] = node("d", missing=("/models/base",))
    found = judging.corpora("/corpus", "f" * 64, nodes)
    assert [each.text.split(":")[0] for each in found] == ["b", "c", "d"]
    assert levels(found) == [("corpus", "error"), ("corpus", "error"), ("models", "error")]


def test_a_trial_must_fit_on_one_node() -> None:
    assert trials_on([{"CPU": 1}, {"CPU": 1}], Resources(cpus=2)) == 0
    assert trials_on([{"CPU": 2}], Resources(cpus=0.1)) == 20
    assert trials_on([{"CPU": 8, "GPU": 1}], Resources(cpus=1, gpus=0.5)) == 2
    assert trials_on([{"CPU": 8, "memory": 10e9}], Resources(cpus=1, memory=4)) == 2
    found = only(judging.room(Resources(cpus=2), [node(cpus=1), node(cpus=1)], {"CPU": 2}))
    assert found.level == "error" and "2 of 1 CPUs" in found.text and "resources.cpus" in found.remedy
    assert only(judging.room(Resources(gpus=1), [node()], {"CPU": 4})).level == "error"


def test_workers_of_a_trial_may_lie_on_several_nodes() -> None:
    both = [{"CPU": 4, "GPU": 2}, {"CPU": 4, "GPU": 1}]
    assert trials_on(both, Resources(gpus=1, workers=3)) == 1
    assert trials_on(both, Resources(gpus=1, workers=4)) == 0
    assert trials_on(both, Resources(cpus=1, workers=2)) == 4
    found = judging.room(Resources(gpus=1, workers=3), [node(gpus=2), node("b", gpus=1)], {"CPU": 8, "GPU": 3})
    assert [(each.level, each.text.split(":")[0]) for each in found] == [
        ("warning", "the 3 workers of a trial lie on several nodes"),
    ]
    found = judging.room(Resources(workers=2), [node()], {"CPU": 4})
    assert "2 workers train each trial on CPUs" in only(found).text
    refused = only(judging.room(Resources(gpus=1, workers=3), [node(gpus=2)], {"CPU": 4, "GPU": 2}))
    assert "nodes with room for the 3 workers of a trial of 1 CPUs and 1 GPUs each" in refused.text


def test_memory_that_no_node_has_is_told_with_what_they_have() -> None:
    nodes = [replace(node(), memory=8e9), replace(node("b"), memory=4e9)]
    found = only(judging.room(Resources(memory=16), nodes, {"CPU": 8}))
    assert "a trial of 1 CPUs and 0 GPUs and 16 GB of memory, got " in found.text
    assert found.text.endswith("1 of 4 CPUs and 0 GPUs and 4 GB of memory, 1 of 4 CPUs and 0 GPUs and 8 GB of memory")


def test_where_nodes_are_added_no_room_yet_is_no_error() -> None:
    growing = Resources(cpus=16, autoscale=True, max_concurrent=3)
    assert only(judging.room(growing, [node()], {"CPU": 4})).level == "ok"


def test_room_counts_nodes_and_not_their_sum() -> None:
    found = only(judging.room(Resources(cpus=2), [node(cpus=3), node(cpus=5), node(cpus=1)], {"CPU": 9}))
    assert found.text.startswith("3 trials at once")
    assert only(judging.room(Resources(max_concurrent=2), [node()], {"CPU": 4})).text.startswith("2 trials at once")


def test_threads_that_nobody_reserved_and_a_cluster_in_use_are_warnings(tiny_study) -> None:
    def found_of(**resources: Any) -> list[Finding]:
        return judging.reservations(tiny_study(resources=resources))

    assert only(found_of(threads=4)).level == "warning"
    assert found_of(threads=4, cpus=4) == []
    assert found_of(cpus=0.5) == []
    found = only(judging.room(Resources(cpus=2), [node()], {"CPU": 1}))
    assert found.level == "warning" and "in use" in found.text


def test_cuda_must_be_seen_by_torch() -> None:
    wanted, free = Resources(gpus=1), {"CPU": 4, "GPU": 1}
    assert only(judging.room(wanted, [node(gpus=1, cuda=1)], free)).level == "ok"
    assert only(judging.room(wanted, [node(gpus=1, cuda=0)], free)).level == "error"
    assert only(judging.room(wanted, [node(cuda=0), node(gpus=1, cuda=1)], free)).level == "ok"  # runs on the second


def test_gpus_that_only_bags_would_use_are_a_warning(tiny_study) -> None:
    study = tiny_study(resources={"gpus": 0.5})
    assert "every arm trains a bag of embeddings" in only(judging.reservations(study)).text
    mixed = {**study.arms, "network": StudyArm(encoder=TransformerEncoder())}
    assert judging.reservations(study.model_copy(update={"arms": mixed})) == []


def test_a_cluster_without_a_whole_cpu_cannot_prepare() -> None:
    found = only(judging.room(Resources(cpus=0.5), [node(cpus=0.5)], {"CPU": 0.5}))
    assert found.level == "error" and "--num-cpus" in found.remedy


NEED = Needs(memory=2 * GB, checkpoint=1 * GB, lasting=10 * GB)


def judged(need: Needs = NEED, *, cpus: float = 4, study: StudyConfig, **facts: Any) -> list[Finding]:
    return judging.sizes(study, need, [node(cpus=cpus, **facts)])


def test_memory_is_compared_with_all_trials_of_a_node(tiny_study: Callable[..., StudyConfig]) -> None:
    study = tiny_study()
    assert levels(judged(study=study, memory=8 * GB)) == [("sizes", "ok")]
    found = only(judged(study=study, memory=8 * GB - 1))
    assert (found.check, found.level) == ("memory", "warning") and "max_concurrent: 3" in found.remedy
    assert levels(judged(study=study, memory=2 * GB - 1)) == [("memory", "error")]
    assert levels(judged(study=study, memory=7 * GB, memory_total=8 * GB - 1)) == [("memory", "error")]
    fewer = tiny_study(resources={"max_concurrent": 1})
    assert levels(judged(study=fewer, memory=2 * GB)) == [("sizes", "ok")]


def test_disk_is_compared_with_two_checkpoints_of_each_trial(tiny_study: Callable[..., StudyConfig]) -> None:
    live = 8 * GB + 200_000_000  # 4 trials, 2 checkpoints of 1 GB each, and the databases
    study = tiny_study()
    assert levels(judged(study=study, disk=live + 10 * GB)) == [("sizes", "ok")]
    assert levels(judged(study=study, disk=live + 10 * GB - 1)) == [("disk", "warning")]
    assert levels(judged(study=study, disk=live - 1)) == [("disk", "error")]
    assert levels(judged(study=study, temporary=4 * GB - 1)) == [("disk", "error")]


def test_a_full_store_is_an_error_without_a_study_too() -> None:
    assert only(judging.disk([node(disk=100_000_000)])).level == "error"


def test_models_that_are_not_here_are_said_to_be_left_out(tiny_study: Callable[..., StudyConfig]) -> None:
    found = only(judged(replace(NEED, unknown=("org/model",)), study=tiny_study()))
    assert found.level == "warning" and "org/model" in found.text


def test_limits_that_bite_later_are_warnings() -> None:
    assert only(judging.limits([node(open_files=256)])).level == "warning"
    found = only(judging.limits([node(clock_off=-90.0), node(clock_off=4.0)]))
    assert found.level == "warning" and "90 s behind" in found.text


def test_sizes_are_told_in_units_that_people_use() -> None:
    assert [size(count) for count in (1_500, 2_500_000, 670_400_000, 8.2e9)] == [
        "2 kB",
        "2.5 MB",
        "670.4 MB",
        "8.2 GB",
    ]


# --- what a study takes ---


def numbers_in(arm: ArmConfig, vocabulary: int) -> int:
    return sum(parameter.numel() for parameter in build_encoder(arm, vocabulary).parameters())


@pytest.mark.parametrize(
    "encoder",
    [
        BagEncoder(width=24),
        TransformerEncoder(width=16, layers=3, heads=2),
        TransformerEncoder(width=32, layers=1, heads=4, pooling="pooler"),
    ],
    ids=["bag", "transformer", "with a pooler"],
)
def test_parameters_are_those_of_the_encoder_that_is_built(encoder: BagEncoder | TransformerEncoder) -> None:
    arm = ArmConfig(encoder=encoder, tokens=TokenSettings(vocabulary=500, query_length=20, code_length=40))
    assert parameters(arm) == numbers_in(arm, 500)


def test_parameters_of_a_named_model_are_counted_in_its_files(tmp_path: Path) -> None:
    small = ArmConfig(encoder=TransformerEncoder(width=16, layers=1), tokens=TokenSettings(vocabulary=300))
    encoder = build_encoder(small, 300)
    encoder.tower.model.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    named = ArmConfig(encoder=TransformerEncoder(model=str(tmp_path)))
    assert parameters(named) == numbers_in(small, 300)
    assert parameters(ArmConfig(encoder=TransformerEncoder(model="nobody/has-this-model"))) is None


def test_needs_of_a_study_add_up(tiny_study: Callable[..., StudyConfig], tiny_corpus: Path) -> None:
    manifest = Corpus.open(tiny_corpus).manifest
    counts = manifest.languages["python"].pairs
    need = needs(tiny_study(), manifest)
    numbers = 400 * (8 + 1)
    texts = counts["valid"] + counts["test"] + counts["codebase"]
    assert need.checkpoint == 16 * numbers
    assert need.memory == WORKER + 16 * numbers + 4 * (2 * texts * 8 + 8 * 16 * 16)
    # Two arms, two seeds and the copy of the best one; every text at its full length in two bytes a token.
    assert need.lasting == 2 * 3 * 4 * numbers + sum(counts.values()) * (64 + 256) * 2
    assert need.unknown == ()


def test_vectors_of_learned_estimators_are_counted_once(
    plain_study: Callable[..., dict[str, Any]], tiny_study: Callable[..., StudyConfig], tiny_corpus: Path
) -> None:
    manifest = Corpus.open(tiny_corpus).manifest
    soft = {"loss": {"name": "soft_infonce"}}
    arms: dict[str, Any] = {
        "infonce": {},
        "a": {**soft, "estimator": {"name": "bm25"}},
        "b": {**soft, "symmetric": True},
    }
    before = needs(tiny_study(arms={**arms, "b": {**arms["a"], "symmetric": True}}), manifest).lasting
    arms["a"] |= {"estimator": {"name": "trained"}}
    arms["b"] |= {"estimator": {"name": "trained", "temperature": 2.0}}
    after = needs(tiny_study(arms=arms), manifest).lasting
    vectors = 2 * 4 * 8 * manifest.languages["python"].pairs["train"]
    assert after - before == vectors
    arms["a"] |= {"hard_negatives": {"name": "trained"}}  # the same encoder again
    assert needs(tiny_study(arms=arms), manifest).lasting == after
    arms["a"] |= {"hard_negatives": {"name": "trained", "seed": 1}}
    assert needs(tiny_study(arms=arms), manifest).lasting == after + vectors


# --- what disks answer ---


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_good_folder_has_no_problem_and_keeps_nothing(tmp_path: Path) -> None:
    assert probe(tmp_path) == ""
    facts = facts_here(Questions(tmp_path, "token"), answer="answer")
    assert (facts.storage, facts.same_storage) == ("", False) and left_in(tmp_path) == []  # nobody asks any more
    (tmp_path / "token").write_text("token")
    assert facts_here(Questions(tmp_path, "token"), answer="answer").same_storage
    assert left_in(tmp_path) == ["answer", "token"]


def test_facts_say_what_is_missing(tmp_path: Path, tiny_corpus: Path) -> None:
    there = facts_here(Questions(tmp_path, "t", str(tiny_corpus), (str(tmp_path),)))
    assert (there.corpus, there.corpus_problem, there.missing) == (Corpus.open(tiny_corpus).fingerprint, "", ())
    gone = facts_here(Questions(tmp_path / "none", "t", str(tmp_path / "none"), (str(tmp_path / "none"),)))
    assert (gone.storage, gone.corpus, gone.missing) == ("is not there", None, (str(tmp_path / "none"),))
    assert "expected a corpus folder" in gone.corpus_problem


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a small file system with the options given."""
    made: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mount{len(made)}"
        folder.mkdir()
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"file systems cannot be mounted here: {error}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_can_only_be_read_is_found(tmp_path: Path, mounted: Callable[[str], Path]) -> None:
    folder = tmp_path
    if os.geteuid() == 0:  # whom permissions do not stop
        folder = mounted("size=64k,ro")
    else:
        folder.chmod(0o555)
    try:
        assert probe(folder).startswith("cannot be written: ")
    finally:
        if os.geteuid():
            folder.chmod(0o755)


def test_a_full_disk_is_found_and_stays_as_it_was(mounted: Callable[[str], Path]) -> None:
    folder = mounted("size=64k")
    with (folder / "much").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    found = facts_here(Questions(folder, "token"))
    assert found.storage == "cannot be written: No space left on device"
    assert found.disk == 0 and left_in(folder) == ["much"]


# --- what MLflow answers ---


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str], Finding]:
    """A function that says what is found at a tracking URI."""
    return lambda uri: only(tracking(Store(tmp_path / "store", uri)))


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """A function that starts a plain HTTP server that always answers alike, and returns its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_port_where_nobody_listens_is_told(at: Callable[[str], Finding]) -> None:
    found = at(f"http://user:secret@127.0.0.1:{refused_port()}")
    assert found.level == "error" and "refuses connections" in found.text and "start the server" in found.remedy
    assert "secret" not in found.text + found.remedy


def test_a_server_that_hangs_is_told(at: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softnce_ray.study.doctor.tracking._SECONDS", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "29")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        found = at(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert found.level == "error" and "does not answer in 1 seconds" in found.text
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "29"


@pytest.mark.parametrize(
    ("status", "body", "text", "remedy"),
    [
        (404, b"<html>", "is no MLflow server", "--tracking-uri"),
        (200, b"<html>", "is no MLflow server", "--tracking-uri"),
        (401, b"", "wants a login", "MLFLOW_TRACKING_USERNAME"),
        (403, b"", "refuses what was asked", "--allowed-hosts"),
        (500, b"", "fails now", "log"),
        (503, b"", "fails now", "log"),
    ],
)
def test_each_answer_has_its_remedy(
    at: Callable[[str], Finding],
    answering: Callable[[int, bytes], str],
    status: int,
    body: bytes,
    text: str,
    remedy: str,
) -> None:
    found = at(answering(status, body))
    assert found.level == "error" and text in found.text and remedy in found.remedy


def test_an_mlflow_server_with_no_experiment_is_well(
    at: Callable[[str], Finding], answering: Callable[[int, bytes], str]
) -> None:
    assert at(answering(200, json.dumps({"experiments": []}).encode())).level == "ok"


@pytest.mark.parametrize("uri", ["htp://server:5000", "/data/mlruns", "file:///data/mlruns"])
def test_a_wrong_scheme_is_told_with_those_that_are_possible(at: Callable[[str], Finding], uri: str) -> None:
    found = at(uri)
    assert found.level == "error" and "sqlite, postgresql" in found.text and "http://HOST:5000" in found.remedy


def test_a_host_that_nobody_knows_is_told(at: Callable[[str], Finding]) -> None:
    assert "no known host" in at("http://no-such-host.invalid:5000").text


def test_a_database_that_is_not_there_is_not_made(at: Callable[[str], Finding], tmp_path: Path) -> None:
    path = tmp_path / "store" / "mlflow.db"
    found = at(f"sqlite:///{path}")
    assert found.level == "ok" and "would be made" in found.text and not path.parent.exists()


def test_a_file_that_is_no_database_of_mlflow_is_an_error(at: Callable[[str], Finding], tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("no database at all, though it is long enough for one to be looked for" * 20)
    with sqlite3.connect(other) as base:
        base.execute("CREATE TABLE songs (name TEXT)")
    base.close()
    assert "not a database" in at(f"sqlite:///{text}").text
    assert "expected a database of MLflow's" in at(f"sqlite:///{other}").text
    assert left_in(tmp_path) == ["other.db", "text.db"]


def test_a_database_server_that_is_down_is_told_at_once(at: Callable[[str], Finding]) -> None:
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
    found = at(f"postgresql+psycopg://user:secret@127.0.0.1:{refused_port()}/runs")
    assert found.level == "error" and "cannot be reached" in found.text and "start the database" in found.remedy
    assert "secret" not in found.text + found.remedy


# --- what real nodes answer ---


def test_a_cluster_where_nobody_listens_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softnce_ray.study.cluster._STARTING", 0)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{refused_port()}")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found = examine(None, tmp_path / "store")
    assert levels(found) == [("ray", "error"), ("mlflow", "ok")]
    assert "Connection refused" in found[0].text and "correct RAY_ADDRESS" in found[0].remedy


@pytest.mark.parametrize(
    ("address", "example"),
    [("nohost", "which has no port: Ray's own would be nohost:6379"), ("ray://head", "would be ray://head:10001")],
)
def test_an_address_without_a_port_is_told_with_one(
    address: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found = examine(None, tmp_path / "store")[0]
    assert found.level == "error"
    assert f"expected auto, HOST:PORT or ray://HOST:PORT, got '{address}', " in f"{found.text}: {found.remedy}"
    assert example in f"{found.text}: {found.remedy}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head of 1 CPU, a node of 1 CPU, and one of 1 CPU and a GPU that is only claimed."""
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000},
    )
    made.add_node(num_cpus=1, object_store_memory=80_000_000)
    made.add_node(num_cpus=1, num_gpus=1, object_store_memory=80_000_000)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def asked(tmp_path: Path, tiny_corpus: Path) -> Questions:
    return Questions(tmp_path, "", str(tiny_corpus))


@pytest.mark.slow
@pytest.mark.long
def test_every_node_answers_even_where_all_cpus_are_taken(
    cluster: Cluster, asked: Questions, tiny_corpus: Path
) -> None:
    @ray.remote(num_cpus=1)
    def busy(file: str) -> None:
        while not Path(file).exists():
            time.sleep(0.1)

    stop = str(tiny_corpus.parent / "stop")
    tasks = [busy.remote(stop) for _ in range(3)]
    try:
        nodes = ask(asked, patience=120)
    finally:
        Path(stop).touch()
        ray.get(tasks)
        Path(stop).unlink()
    assert sorted((each.cpus, each.gpus) for each in nodes) == [(1, 0), (1, 0), (1, 1)]
    here = facts_here(asked)
    for each in nodes:
        assert each.facts is not None, each.silence
        assert (each.facts.same_storage, each.answer_seen, each.facts.storage) == (True, True, "")
        assert (each.facts.corpus, each.facts.versions) == (here.corpus, here.versions)
    assert left_in(Path(str(asked.folder))) == []


@pytest.mark.slow
@pytest.mark.long
def test_a_node_that_hangs_is_told_and_the_others_are_heard(cluster: Cluster, asked: Questions) -> None:
    victim = next(iter(cluster.worker_nodes))
    raylet = psutil.Process(victim.all_processes["raylet"][0].process.pid)
    raylet.suspend()
    try:
        nodes = ask(asked, patience=10)
    finally:
        raylet.resume()
    assert len([each for each in nodes if each.facts is None]) == 1
    assert only(judging.answers(nodes)).text.endswith("no answer in 10 seconds")
    time.sleep(1)  # for the late answer, which finds that nobody asks any more
    assert left_in(Path(str(asked.folder))) == []


@pytest.mark.slow
@pytest.mark.long
def test_nodes_that_only_together_have_enough_are_refused(
    cluster: Cluster, tiny_study: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match=r"trial of 2 CPUs .* got 2 of 1 CPUs and 0 GPUs, 1 of 1 CPUs and 1 GPUs"):
        session(Resources(cpus=2)).__enter__()
    with session(Resources(cpus=1)) as slots:
        assert slots == 3
    found = examine(tiny_study(resources={"cpus": 2}), tmp_path / "store", patience=120)
    assert {("resources", "error"), ("cost", "ok")} < set(levels(found))
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_launch_is_told_all_errors_at_once(
    cluster: Cluster, tiny_study: Callable[..., StudyConfig], tiny_corpus: Path, tmp_path: Path
) -> None:
    corpus, store = Corpus.open(tiny_corpus), Store.at(tmp_path / "store")
    assert check_before_launch(tiny_study(), store, corpus, patience=120) == []
    wrong = Store(store.root, f"http://127.0.0.1:{refused_port()}")
    with pytest.raises(LaunchError) as raised:
        check_before_launch(tiny_study(resources={"gpus": 1}), wrong, corpus, patience=120)
    checks = [line.split(":")[0] for line in str(raised.value).splitlines()]
    assert checks == ["resources", "mlflow"]  # the GPU is only claimed: torch sees none
    assert "torch sees 0 GPUs" in str(raised.value)


def doctor(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("SOFTNCE_STORE", "MLFLOW_TRACKING_URI")}
    return subprocess.run(
        [sys.executable, "-m", "softnce_ray", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env={**inherited, **environment},
    )


@pytest.mark.slow
@pytest.mark.long
def test_the_command_examines_the_cluster_of_the_environment(
    cluster: Cluster, plain_study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(plain_study(resources={"cpus": 2})))
    wrong = f"http://127.0.0.1:{refused_port()}"
    done = doctor("study.yaml", "--tracking-uri", wrong, folder=tmp_path, RAY_ADDRESS=cluster.address)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {4}, done.stdout + done.stderr
    assert [(level, check) for level, check, *_ in rows if level == "error"] == [
        ("error", "resources"),
        ("error", "mlflow"),
    ]
    assert ("ok", "nodes", "3 with 3 CPUs and 1 GPUs", "") in [tuple(row) for row in rows]
    assert done.returncode == 1
    assert left_in(tmp_path) == ["study.yaml"]


@pytest.mark.slow
@pytest.mark.long
def test_the_command_examines_this_machine_and_leaves_nothing(tmp_path: Path) -> None:
    temporary = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    before = set(Path("/tmp").glob("dr-*"))
    done = doctor(folder=tmp_path, **{key: temporary[key] for key in ("PATH",)})
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == [
        "nodes",
        "versions",
        "storage",
        "disk",
        "mlflow",
    ]
    assert "would be made" in done.stdout
    assert left_in(tmp_path) == [] and set(Path("/tmp").glob("dr-*")) <= before


@pytest.mark.slow
@pytest.mark.long
def test_mistakes_of_a_study_file_are_findings_beside_the_others(
    cluster: Cluster, plain_study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(plain_study(corpus=str(tmp_path / "none"), baseline="nobody")))
    found = examine(path, tmp_path / "store", patience=120)
    wrong = [each for each in found if each.level == "error"]
    assert {each.check for each in wrong} == {"study"} and len(wrong) == 2
    assert {"nodes", "versions", "storage", "disk", "mlflow"} <= {each.check for each in found if each.level == "ok"}
