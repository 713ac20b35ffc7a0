"""Hosts for tests: namespaces with addresses of their own, joined by a bridge, whose cables can be pulled.

A host has its own network, processes, mounts and name; it shares the disk with this machine but for the folders that
it is given as its own. Nothing of it has a name outside, and its first process lives as long as a pipe of this one is
open: whatever happens here, no process, mount, address or cable is left over.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from servers import kill_tree

BRIDGE = "10.99.0.254"
"""Address of the machine that holds the bridge, on which servers for all hosts may listen."""

_FIRST = """
set -e
hostname "$1"
mount -t tmpfs -o size=256m tmpfs /dev/shm
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$1" > /dev/shm/hosts
mount --bind /dev/shm/hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf
program=$2; shift 2
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
exec "$program" -S -c 'import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()'
"""
"""What a host's first process does. Its name stands for an address that no other host can reach, as Debian sets it up,
and no name server answers. In the end it waits for the pipe to close, and takes in orphans, which would stay as zombies
if nobody did."""


@functools.cache
def why_not() -> str:
    """Why there can be no hosts here; empty where there can."""
    missing = [name for name in ("ip", "nsenter", "unshare", "mount") if shutil.which(name) is None]
    if missing:
        return f"hosts need {', '.join(missing)} (Debian's packages iproute2 and util-linux)"
    if os.geteuid() != 0:
        return "hosts are made of namespaces, which only root may make"
    try:
        with network() as made:
            made.host("probe", "10.99.0.1")
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        return f"no namespaces can be made here: {error}"
    return ""


class Host:
    """A host, made by `Network.host`.

    Attributes:
      name, address: its own.
      pid: its first process, as this machine numbers it.
    """

    def __init__(self, name: str, address: str, own: Mapping[Path, Path]) -> None:
        self.name, self.address = name, address
        for theirs in own:
            theirs.mkdir(parents=True, exist_ok=True)
        mounts = [str(path) for theirs, ours in own.items() for path in (ours, theirs)]
        self._holder = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", _FIRST, "sh", name, sys.executable, *mounts),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline().strip() != "ready":
            said = self._holder.stderr.read().strip()
            self.stop()
            raise RuntimeError(f"host {name} did not start: {said}")
        (first,) = psutil.Process(self._holder.pid).children()
        self.pid = first.pid

    def command(self, *command: str) -> list[str]:
        """A command that runs another one on this host."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "--", *command]

    def start(self, *command: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Running:
        """Start a program on this host, with `environment` beside what this process has."""
        return Running(self.command(*command), {**os.environ, **(environment or {})}, cwd)

    def processes(self) -> list[psutil.Process]:
        """All that run on this host but its first."""
        try:
            space = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        except FileNotFoundError:
            return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if process.pid != self.pid and os.stat(f"/proc/{process.pid}/ns/pid").st_ino == space:
                    found.append(process)
        return found

    def stop(self) -> None:
        """End it with all its processes, as a power cut does."""
        kill_tree(self._holder.pid)
        self._holder.communicate()


class Network:
    """A bridge and the hosts on it; made by `network`."""

    def __init__(self) -> None:
        self.switch = Host("bridge", BRIDGE, {})
        self._hosts: list[Host] = []
        self._ip("link", "add", "bridge", "type", "bridge")
        self._ip("address", "add", f"{BRIDGE}/24", "dev", "bridge")
        for device in ("lo", "bridge"):
            self._ip("link", "set", device, "up")

    def host(self, name: str, address: str, own: Mapping[Path, Path] | None = None) -> Host:
        """A new host with a cable to the bridge.

        Args:
          name: what it calls itself; nobody else knows the name.
          address: in 10.99.0.0/24, of no host that runs.
          own: folders that it does not share with this machine, and what it sees there instead.
        """
        host = Host(name, address, own or {})
        self._hosts.append(host)
        port = _port(host)
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self._ip("link", "set", port, "master", "bridge", "up")
        for words in (
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", BRIDGE),
        ):
            _ip(host, *words)
        return host

    def cut(self, host: Host) -> None:
        """Pull the cable of a host, on the bridge's side: nobody is told."""
        self._ip("link", "set", _port(host), "down")

    def heal(self, host: Host) -> None:
        """Put the cable of a host back."""
        self._ip("link", "set", _port(host), "up")

    def stop(self) -> None:
        for host in (*self._hosts, self.switch):
            host.stop()

    def _ip(self, *words: str) -> None:
        _ip(self.switch, *words)


def _port(host: Host) -> str:
    return f"to{host.pid}"


def _ip(host: Host, *words: str) -> None:
    command = ["nsenter", "-t", str(host.pid), "-n", "ip", *words]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"ip {' '.join(words)} on {host.name}: {error.stderr.strip()}") from error


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A bridge without hosts; all are ended with it."""
    made = Network()
    try:
        yield made
    finally:
        made.stop()


class Running:
    """A program on a host, and the lines that it says on both its outputs."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def until(self, true_of: Callable[[list[str]], object], seconds: float) -> None:
        """Wait until something is true of the lines.

        Raises:
          AssertionError: it is not after `seconds`, or when the program has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or true_of(self.lines), seconds)
            assert true_of(self.lines), f"{'it ended' if self._ended else f'after {seconds:g} s'}:\n{self.said}"

    def wait(self, seconds: float) -> int:
        """The exit status.

        Raises:
          AssertionError: it has none after `seconds`.
        """
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.said}") from None
        self._reader.join(5.0)
        return status

    def kill(self) -> None:
        """SIGKILL to the program and all that come from it; of a program that has ended it does nothing."""
        kill_tree(self.process.pid)
        self.process.wait()


def eventually(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is true.

    Raises:
      AssertionError: it is not after `seconds`.
    """
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not after {seconds:g} s"
        time.sleep(0.1)
