"""Studies on a cluster whose autoscaler adds nodes for them: Ray's own, with nodes that are processes here."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hosts import Running
from ray.util import get_node_ip_address
from servers import free_port

from softnce_ray.store import Store
from softnce_ray.tracking.reading import load_results

from .launching import go, scores

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

_PATIENCE = 240.0
"""Seconds after which something counts as hanging."""
_LAUNCH = """
import sys
from softnce_ray.cli import main
from softnce_ray.study import cluster
cluster._JOINING, cluster._SCALING = 3.0, 120.0
sys.exit(main())
"""
"""The command line, with less patience for nodes that do not come."""


@dataclass(frozen=True)
class Growing:
    """A cluster of nobody but its head, which has no processors; an autoscaler may add two nodes with one each."""

    address: str
    environment: dict[str, str]
    head: Running

    def nodes(self) -> int:
        """How many it has, with its head."""
        return sum(each.name() == "raylet" for each in psutil.Process(self.head.process.pid).children(recursive=True))

    def launch(self, study: dict[str, Any], store: Store) -> Running:
        path = store.root.parent / "study.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        options = ["launch", str(path), "--store", str(store.root), "--address", self.address]
        return Running([sys.executable, "-c", _LAUNCH, *options], self.environment, None)


@pytest.fixture
def growing() -> Iterator[Growing]:
    """`ray.cluster_utils.AutoscalingCluster` does the same, but ends every Ray of the machine first, and reads a file
    that Ray's packages leave out."""
    folder = Path(tempfile.mkdtemp(prefix="grow"))  # short: names of sockets are limited
    address = f"{get_node_ip_address()}:{free_port()}"
    config: dict[str, Any] = {
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # all nodes have the same address
            "disable_node_updaters": True,  # nothing is installed on them
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": 80_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{
            f"{kind}_commands": []
            for kind in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        },
    }
    (folder / "autoscaling.json").write_text(json.dumps(config))
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = Running(
        [
            str(Path(sysconfig.get_path("scripts")) / "ray"),
            "start",
            "--head",
            "--block",
            f"--node-ip-address={address.rpartition(':')[0]}",
            f"--port={address.rpartition(':')[2]}",
            "--num-cpus=0",
            "--object-store-memory=80000000",
            "--include-dashboard=false",
            "--disable-usage-stats",
            f"--temp-dir={folder}",
            f"--autoscaling-config={folder / 'autoscaling.json'}",
        ],
        environment | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
        None,
    )
    try:
        head.until(lambda lines: any("Ray runtime started" in line for line in lines), _PATIENCE)
        yield Growing(address, environment, head)
    finally:
        head.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_study_that_nothing_has_room_for_waits_for_the_nodes_that_an_autoscaler_adds(
    growing, plain_study, store, tmp_path
) -> None:
    driver = growing.launch(plain_study(resources={"autoscale": True, "max_concurrent": 2}), store)
    assert driver.wait(_PATIENCE) == 0, driver.said
    assert "waiting 2 minutes at most for one that the autoscaler adds; Ctrl-C gives up" in driver.said
    assert "on 2 slots" in driver.said
    assert growing.nodes() == 3, driver.said
    here = go(plain_study(), Store.at(tmp_path / "here"))
    assert scores(load_results(store, "tiny").trials) == scores(here.results.trials)


def test_without_autoscaling_the_same_study_is_refused_in_a_line(growing, plain_study, store) -> None:
    driver = growing.launch(plain_study(resources={"max_concurrent": 2}), store)
    assert driver.wait(_PATIENCE) != 0
    assert "expected a node with room for a trial of 1 CPUs and 0 GPUs, got 1 of 0 CPUs and 0 GPUs" in driver.said
    assert "Traceback" not in driver.said
    assert growing.nodes() == 1
