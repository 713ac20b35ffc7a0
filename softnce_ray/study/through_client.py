"""A launch through Ray Client (`ray://`): its driver runs on the cluster, for as long as this process is connected.

Tune's driver cannot run behind a client: what it records and decides would be copied to the cluster and back. So the
cluster runs the launch as a program of its own, whose lines come here, and whose signals come from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import ray

from softnce_ray.study.jobs.sending import STOPPING, Submission
from softnce_ray.temporary import temporary_folder

_LOOK = 0.5
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux' prctl


def launch_through_client(made: Submission, each: Callable[[str], None]) -> int:
    """Run a launch on the cluster that this process is connected to as a client; returns its exit status.

    Ctrl-C is passed on; the launch then stops at its last checkpoints. When the connection is lost, Ray ends it half a
    minute later, as it ends all that a client started; launching again goes on.

    Args:
      made: the study and its environment.
      each: takes every line that the launch prints.
    """
    actor: Any = ray.remote(_Driver)
    driver = actor.options(num_cpus=0).remote(made.entrypoint, made.file, made.text, made.environment)
    waiting: deque[str] = deque()
    while True:
        try:
            lines, status = ray.get(driver.news.remote())
            waiting.extend(lines)
            while waiting:
                each(waiting.popleft())
        except KeyboardInterrupt:  # while lines are printed, too
            ray.get(driver.interrupt.remote())
            continue
        if status is not None:
            return status


class _Driver:
    """An actor on the cluster that runs the launch."""

    def __init__(self, command: str, file: str, text: str, environment: dict[str, str]) -> None:
        self._held = contextlib.ExitStack()  # until this actor ends
        folder = self._held.enter_context(temporary_folder())
        (folder / file).write_text(text, encoding="utf-8")
        address = ray.get_runtime_context().gcs_address
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env={**os.environ, **environment, "RAY_ADDRESS": address},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._lock:
                self._lines.append(line.rstrip("\n"))

    def news(self) -> tuple[list[str], int | None]:
        """Lines since the last call, and the exit status when there will be no more."""
        self._reader.join(_LOOK)
        status = None
        if not self._reader.is_alive():
            status = self._process.wait(STOPPING)
            self._held.close()
        with self._lock:
            lines, self._lines = self._lines, []
        return lines, status

    def interrupt(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def _end_with_parent() -> None:
    """The launch does not outlive the actor, however that ends. Signals that Ray's workers block or ignore reach it."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
