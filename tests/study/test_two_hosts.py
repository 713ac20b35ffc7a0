"""Studies over two hosts with addresses of their own, one of which loses its network in the middle of an epoch."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hosts import BRIDGE, Host, Network, Running, eventually, network, why_not
from mlflow import MlflowClient
from planted import Planted, watched

from softnce_ray.store import Store
from softnce_ray.study.run import Launch
from softnce_ray.tracking.reading import load_results

from .launching import go, runs, scores

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

EPOCHS = 8
SLOW = {"kind": "transformer", "width": 128, "layers": 2, "heads": 2}
"""An encoder whose epoch takes so long that it is cut off in the middle of one."""
_PATIENCE = 300.0
"""Seconds after which something counts as hanging."""
_RAY = 6379
_S3 = 9000
_NOTICED = {  # a node that is silent for some five seconds is lost
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass(frozen=True)
class Cluster:
    """Ray's head and a node, each on a host with one processor; `s3` is an address at which both find an object
    store."""

    network: Network
    head: Host
    node: Host
    environment: Mapping[str, str]
    folder: Path
    s3: str

    def run(self, *options: str) -> Running:
        """Start softnce-ray on the head's host."""
        return self.head.start(sys.executable, "-m", "softnce_ray", *options, environment=self.environment)

    def launch(self, study: dict[str, Any], store: Store, program: Sequence[str] = ("-m", "softnce_ray")) -> Running:
        path = store.root.parent / "study.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        storage = ["--storage", store.storage] if store.storage else []
        where = ["--store", str(store.root), *storage, "--address", f"{self.head.address}:{_RAY}"]
        command = [sys.executable, *program, "launch", str(path), *where]
        return self.head.start(*command, environment=self.environment)

    def trials(self, host: Host) -> list[psutil.Process]:
        """Processes of trials on a host, those of workers beside the first too."""
        return [each for each in host.processes() if _title(each).startswith(("ray::ImplicitFunc", "ray::_Worker"))]

    def cut(self) -> None:
        self.network.cut(self.node)

    def heal(self) -> None:
        self.network.heal(self.node)

    def join(self) -> Running:
        """Start a node of Ray's on the second host."""
        return _ray(self.node, self.environment, "--address", f"{self.head.address}:{_RAY}")


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _reckons(process: psutil.Process) -> bool:
    """Whether a process has kept its processor busy for a moment."""
    before = process.cpu_times().user
    time.sleep(0.3)
    return process.cpu_times().user - before > 0.2


def _ray(host: Host, environment: Mapping[str, str], *options: str) -> Running:
    """A node of Ray's with one processor; returns when it has joined."""
    node = host.start(
        str(Path(sysconfig.get_path("scripts")) / "ray"),
        "start",
        "--block",
        f"--node-ip-address={host.address}",
        "--num-cpus=1",
        "--memory=2000000000",
        "--object-store-memory=80000000",
        "--disable-usage-stats",
        *options,
        environment=environment,
    )
    node.until(lambda lines: any("Ray runtime started" in line for line in lines), _PATIENCE)
    return node


@pytest.fixture
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def cluster(tmp_path: Path, planted: Planted) -> Iterator[Cluster]:
    """Two hosts that run nothing else and share the disk but for Ray's folder and the second's `elsewhere`."""
    if reason := why_not():
        pytest.skip(reason)
    s3 = f"http://{BRIDGE}:{_S3}"
    environment = {
        **planted.environment,
        "RAY_AUTH_MODE": "token",
        "OMP_NUM_THREADS": "1",
        "SOFTNCE_CACHE": "/tmp/ray/cache",
        "AWS_ENDPOINT_URL": s3,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **_NOTICED,
    }
    shared = tmp_path / "of the head alone"
    with network() as net:
        own = {name: tmp_path / name for name in ("head-ray", "node-ray", "nothing")}
        for folder in own.values():
            folder.mkdir()
        rays = Path("/tmp/ray")
        head = net.host("first", "10.99.0.1", {rays: own["head-ray"]})
        node = net.host("second", "10.99.0.2", {rays: own["node-ray"], shared: own["nothing"]})
        made = Cluster(net, head, node, environment, shared, s3)
        _ray(head, environment, "--head", f"--port={_RAY}", "--include-dashboard=false")
        made.join()
        yield made


@pytest.fixture(scope="module")
def study(plain_study: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two trials, which take both hosts."""
    arm = {"encoder": SLOW, "training": {"epochs": EPOCHS, "batch_size": 16}}
    return plain_study(arms={"infonce": arm}, resources={"max_concurrent": 2})


@pytest.fixture(scope="module")
def undisturbed(study: dict[str, Any], empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The study on this machine alone."""
    return go(study, _store(empty_store, tmp_path_factory.mktemp("undisturbed")))


def _store(empty: Path, folder: Path, storage: str | None = None) -> Store:
    root = folder / "store"
    shutil.copytree(empty, root)
    return Store(root, f"sqlite:///{root}/mlflow.db", storage)


def _epochs(lines: list[str], seed: int) -> list[int]:
    """Epochs that the driver has told of a trial."""
    found = (re.search(rf"confirm seed {seed}: epoch (\d+)/", line) for line in lines)
    return [int(match[1]) for match in found if match]


def _train(*seeds: int) -> Callable[[list[str]], bool]:
    return lambda lines: all(len(_epochs(lines, seed)) >= 2 for seed in seeds)


def _again(lines: list[str]) -> list[str]:
    return [line for line in lines if line.endswith("its worker was killed or its node was lost: tried again")]


def _as_undisturbed(store: Store, driver: Running, undisturbed: Launch, attempts: list[str]) -> None:
    """Nothing of a study tells of what happened to it, but for the attempts of its trials."""
    assert driver.wait(_PATIENCE) == 0, driver.said
    assert "Traceback" not in driver.said
    assert scores(load_results(store, "tiny").trials) == scores(undisturbed.results.trials)
    client = MlflowClient(tracking_uri=store.tracking_uri)
    trials = runs(store, "trial")
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert sorted(run.data.tags["attempts"] for run in trials) == attempts
    for run in trials:
        points = client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in points] == list(range(1, EPOCHS + 1))


def test_a_study_over_two_hosts_outlives_the_loss_of_one(
    cluster, planted, study, undisturbed, empty_store, tmp_path
) -> None:
    """And none of the secrets in its environment comes up on a command line or in a file of either host."""
    store = _store(empty_store, tmp_path)
    with watched(planted.forms, tmp_path) as watch:
        driver = cluster.launch(study, store)
        driver.until(_train(1, 2), _PATIENCE)
        assert "on 2 slots" in driver.said
        assert [len(cluster.trials(host)) for host in (cluster.head, cluster.node)] == [1, 1], driver.said
        cluster.cut()
        _as_undisturbed(store, driver, undisturbed, ["1", "2"])
    assert watch.found == set()
    assert len(list(tmp_path.glob("*-ray/session_*/logs/runtime_env_agent.log"))) == 2
    assert not any(form in driver.said.encode() for form in planted.forms)
    assert len(_again(driver.lines)) == 1
    eventually(lambda: not cluster.trials(cluster.head), 30, "trials of the head's host end with the driver")


def test_what_a_host_does_that_was_given_up_and_comes_back_changes_nothing(
    cluster, study, undisturbed, empty_store, tmp_path
) -> None:
    store = _store(empty_store, tmp_path)
    driver = cluster.launch(study, store)
    driver.until(_train(1, 2), _PATIENCE)
    (old,) = cluster.trials(cluster.node)
    eventually(lambda: _reckons(old), 60, "a trial is in the middle of an epoch, not between two")
    old.send_signal(signal.SIGSTOP)
    cluster.cut()
    driver.until(_again, _PATIENCE)
    time.sleep(1.0)
    back = time.time()
    old.send_signal(signal.SIGCONT)

    def late() -> list[Path]:
        """What it still writes, for it has the disk: a checkpoint of an epoch that the next attempt makes itself."""
        found = store.ray("tiny").glob("*/*-1/checkpoint_*/checkpoint.safetensors")
        return [path for path in found if path.parents[1].name in first and path.stat().st_mtime > back]

    books = [json.loads(line) for line in _books(store)]
    assert sorted(each["number"] for each in books) == [1, 1, 2]
    (second,) = (each for each in books if each["number"] == 2)
    first = {Path(second["resume"]).parts[1]}
    eventually(late, 60, "a checkpoint of the old attempt")
    assert all(path.parent.name != Path(second["resume"]).name for path in late())
    cluster.heal()
    eventually(lambda: not cluster.trials(cluster.node), 60, "a node that was given up ends when it is back")
    _as_undisturbed(store, driver, undisturbed, ["1", "2"])


def _books(store: Store) -> list[str]:
    return [line for book in store.ray("tiny").glob("attempts/*") for line in book.read_text().splitlines()]


def test_hosts_that_share_nothing_but_an_object_store_give_what_one_gives(
    cluster, study, undisturbed, empty_store, tiny_corpus, tmp_path
) -> None:
    cluster.network.switch.start(
        sys.executable, "-m", "moto.server", "-H", BRIDGE, "-p", str(_S3), environment=cluster.environment
    )
    put = f"from urllib.request import *; urlopen(Request({cluster.s3 + '/bucket'!r}, method='PUT'), timeout=5)"
    eventually(lambda: cluster.head.start(sys.executable, "-c", put).wait(60) == 0, 60, "the object store answers")
    place = "s3://bucket/corpora/tiny"
    copied = cluster.run("corpus", "copy", str(tiny_corpus), place)
    assert copied.wait(_PATIENCE) == 0, copied.said
    store = _store(empty_store, cluster.folder, "s3://bucket/shared")
    driver = cluster.launch(study | {"corpus": place}, store)
    driver.until(_train(1, 2), _PATIENCE)
    assert [len(cluster.trials(host)) for host in (cluster.head, cluster.node)] == [1, 1], driver.said
    cluster.cut()
    driver.until(_again, _PATIENCE)
    cluster.heal()
    _as_undisturbed(store, driver, undisturbed, ["1", "2"])
    assert {path.name for path in store.ray("tiny").iterdir()} == {"lock"}
    assert not list((tmp_path / "nothing").iterdir())  # where the head's folder is, the node has written nothing
    assert list((tmp_path / "node-ray" / "cache").iterdir())


@pytest.fixture(scope="module")
def gang_study(study: dict[str, Any]) -> dict[str, Any]:
    """One trial of two workers, which takes both hosts."""
    return study | {"seeds": [1], "resources": {"workers": 2, "max_concurrent": 1}}


@pytest.fixture(scope="module")
def undisturbed_gang(gang_study: dict[str, Any], empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return go(gang_study, _store(empty_store, tmp_path_factory.mktemp("undisturbed")))


def test_a_trial_whose_workers_lie_on_two_hosts_goes_on_when_a_lost_one_is_replaced(
    cluster, gang_study, undisturbed_gang, empty_store, tmp_path
) -> None:
    store = _store(empty_store, tmp_path)
    driver = cluster.launch(gang_study, store)
    driver.until(_train(1), _PATIENCE)
    assert [len(cluster.trials(host)) for host in (cluster.head, cluster.node)] == [1, 1], driver.said
    cluster.cut()
    driver.until(_again, _PATIENCE)
    cluster.heal()
    eventually(lambda: not cluster.trials(cluster.node), 60, "a node that was given up ends when it is back")
    cluster.join()
    _as_undisturbed(store, driver, undisturbed_gang, ["2"])
    eventually(lambda: not cluster.trials(cluster.head) + cluster.trials(cluster.node), 30, "trials end")


_IMPATIENT = """
from softnce_ray.cli import main
from softnce_ray.study import cluster
cluster._RETURNING = 15.0
main()
"""
"""The command line, with less patience for nodes that do not come back."""


def test_a_trial_whose_workers_have_no_room_any_more_ends_the_launch_in_a_line_and_goes_on_later(
    cluster, gang_study, undisturbed_gang, empty_store, tmp_path
) -> None:
    store = _store(empty_store, tmp_path)
    driver = cluster.launch(gang_study, store, ("-c", _IMPATIENT))
    driver.until(_train(1), _PATIENCE)
    cluster.cut()
    assert driver.wait(_PATIENCE) == 2, driver.said
    assert "Traceback" not in driver.said
    said = "expected nodes with room for the 2 workers of a trial of 1 CPUs and 0 GPUs each, got 1 of 1 CPUs and 0 GPUs"
    assert f"note: {said}: waiting" in driver.said
    assert f"softnce-ray: {said}, and no node has joined; what was done is kept" in driver.said
    (run,) = runs(store, "trial")
    assert run.info.status == "KILLED"
    eventually(lambda: not cluster.trials(cluster.head), 30, "trials of the head's host end with the driver")
    cluster.heal()
    eventually(lambda: not cluster.trials(cluster.node), 60, "a node that was given up ends when it is back")
    cluster.join()
    # Whether an attempt was begun that nobody had room for depends on what is noticed first: the loss, or no room.
    again = str(len(_books(store)) + 1)
    assert again in ("2", "3")
    _as_undisturbed(store, cluster.launch(gang_study, store), undisturbed_gang, [again])
