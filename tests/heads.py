"""Heads of Ray clusters as processes of their own: what a terminal connects to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servers import free_port, kill_tree


@dataclass(frozen=True)
class Head:
    """Where a head answers: `cluster` for nodes and drivers, `client` for Ray Client, `jobs` for jobs. Its session lies
    in `folder`/ray, where `RAY_TMPDIR=folder` has `auto` find it."""

    cluster: str
    client: str
    jobs: str
    folder: Path


@contextlib.contextmanager
def ray_head(
    log: Path,
    *,
    cpus: int,
    object_store: int,
    environment: Callable[[Path], Mapping[str, str]],
    dashboard: bool = False,
) -> Iterator[Head]:
    """A head that answers, ended with all its processes.

    Args:
      log: where its output goes.
      object_store: bytes.
      environment: what it is started with, given the folder for its files, whose path is short, as sockets want it.
      dashboard: with one, and so with a Jobs server.
    """
    cluster, client, jobs = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = [
            "--node-ip-address=127.0.0.1",
            f"--port={cluster}",
            f"--ray-client-server-port={client}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--num-cpus={cpus}",
            f"--object-store-memory={object_store}",
            f"--include-dashboard={str(dashboard).lower()}",
            f"--dashboard-port={jobs}",
            f"--dashboard-agent-listen-port={free_port()}",
            "--disable-usage-stats",
            f"--temp-dir={folder}/ray",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options],
                env=dict(environment(Path(folder))),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            end = time.monotonic() + 180
            while "This command will now block forever" not in (said := log.read_text(errors="replace")):
                assert process.poll() is None and time.monotonic() < end, said
                time.sleep(0.2)
            yield Head(f"127.0.0.1:{cluster}", f"ray://127.0.0.1:{client}", f"http://127.0.0.1:{jobs}", Path(folder))
        finally:
            kill_tree(process.pid)
