"""The small programs of the image: health checks and buckets."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from docker_files import DOCKER
from servers import S3, free_port


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers /NNN with the status NNN."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(*urls: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, DOCKER / "bin" / "http-ok", *urls], capture_output=True, text=True)


def test_a_service_is_healthy_when_all_its_addresses_answer(address: str) -> None:
    assert asked(f"{address}/200", f"{address}/204").returncode == 0


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_one_bad_answer_is_enough_to_be_ill(address: str, status: int) -> None:
    done = asked(f"{address}/200", f"{address}/{status}")
    assert done.returncode == 1
    assert f"{address}/{status}: HTTP Error {status}" in done.stderr


def test_nobody_there_is_ill() -> None:
    assert asked(f"http://127.0.0.1:{free_port()}/200").returncode == 1


def make(names: list[str], environment: Mapping[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, DOCKER / "bin" / "make-buckets", *names],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_buckets_are_made_once(s3_server: S3) -> None:
    names = [f"test-{secrets.token_hex(6)}" for _ in range(2)]
    assert make(names, s3_server.environment) == [f"{name}: made" for name in names]
    assert make(names, s3_server.environment) == [f"{name}: is there" for name in names]


def test_its_programs_can_be_executed() -> None:
    for path in (DOCKER / "bin").iterdir():
        assert os.access(path, os.X_OK) and path.read_text(encoding="utf-8").startswith("#!/opt/venv/bin/python")
