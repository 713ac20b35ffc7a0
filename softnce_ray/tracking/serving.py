"""MLflow's own user interface on a store."""

from __future__ import annotations

import os
import socket
import sys

from softnce_ray.store import Store
from softnce_ray.terminal import to_stderr
from softnce_ray.tracking.connection import TrackingError, connect, without_password
from softnce_ray.tracking.moved import at_home


def serve(store: Store, *, host: str, port: int) -> None:
    """Become an MLflow server on the store's database; returns only by an error.

    Raises:
      TrackingError: the store has no database yet, or its runs are on a server already.
      StoreError: it was moved, and is written from its other place.
    """
    if store.artifact_root is None:
        raise TrackingError(
            f"the runs are on the MLflow server {without_password(store.tracking_uri)}: open it in a browser"
        )
    connect(store, must_exist=True)
    with at_home(store):  # the server reads what the database says, and makes new places from it
        pass
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TrackingError(
                f"expected a free port, got {host}:{port}: {error.strerror}: give another with --port"
            ) from error
    if host not in ("127.0.0.1", "localhost", "::1"):
        to_stderr(f"anyone who reaches {host}:{port} can read and change the runs")
    to_stderr(f"MLflow on {store.root}: http://{host}:{port} (Ctrl-C ends it; first start takes some 15 s)")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # its job runner would hold another gigabyte
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store.tracking_uri  # no option: all can read a command line
    options = ["--default-artifact-root", store.artifact_root, "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options, "--host", host, "--port", str(port)])
