"""Launches on a cluster that asks for a token: a real head, which knows one."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from heads import ray_head
from servers import free_port

from softnce_ray.study import OWN_TOKEN, tokens

pytestmark = pytest.mark.slow

TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of a head without processors, by kind."""

    def environment(home: Path) -> dict[str, str]:
        return _environment(home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)

    log = tmp_path_factory.mktemp("head") / "log"
    with ray_head(log, cpus=0, object_store=80_000_000, environment=environment) as started:
        yield asdict(started)


def _environment(home: Path, **more: str) -> dict[str, str]:
    """Without a token of this machine's user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SOFTNCE_", "MLFLOW_"))}
    return {**kept, "HOME": str(home), **more}


WRONG = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another-token-that-is-long-enough"}


@pytest.mark.parametrize(
    ("kind", "variables", "says"),
    [
        ("cluster", {}, "{address} asks for a token, got no token"),
        ("cluster", WRONG, "{address} asks for a token, got a token that it refuses"),
        ("cluster", {"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is token, and Ray finds none here"),
        ("client", {}, "{address} asks for a token, got no token"),
        ("client", WRONG, "{address} asks for a token, got a token that it refuses"),
        ("client", {"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is token, and Ray finds none here"),
    ],
)
def test_a_launch_on_a_cluster_that_refuses_its_token_says_so_and_what_to_set(
    kind: str,
    variables: dict[str, str],
    says: str,
    head: dict[str, str],
    plain_study: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    if kind == "client":
        pytest.importorskip("grpc", reason="Ray Client needs grpcio: pip install softnce-ray[cluster]")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plain_study(), sort_keys=False))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "softnce_ray", "launch", str(tmp_path / "study.yaml")),
            *("--store", str(tmp_path / "store"), "--address", head[kind]),
        ],
        env=_environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("softnce-ray: ")
    assert says.format(address=f"the cluster at {head[kind]}") in told
    assert told.endswith(": set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's")
    assert kind == "client" or len(done.stderr.splitlines()) == 1, done.stderr  # a client is told what is not sent
    assert TOKEN not in done.stderr


_ASK = """
import sys
from softnce_ray.study import tokens
print(tokens.is_refused(sys.argv[1].removeprefix("ray://"), client=sys.argv[1].startswith("ray://")))
"""


@pytest.mark.parametrize("kind", ["cluster", "client"])
def test_the_cluster_s_own_token_is_not_refused(kind: str, head: dict[str, str], tmp_path: Path) -> None:
    if kind == "client":
        pytest.importorskip("grpc", reason="Ray Client needs grpcio: pip install softnce-ray[cluster]")
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, head[kind]],
        env=_environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN),
        capture_output=True,
        text=True,
    )
    assert asked.stdout == "False\n", asked.stderr


def test_a_token_that_a_launch_made_for_itself_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", OWN_TOKEN)
    assert "got no token" in tokens.refusal("it")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert "got a token that it refuses" in tokens.refusal("it")
    assert "got no token" in tokens.refusal("it", none=True)


def test_what_is_no_cluster_refuses_no_token() -> None:
    assert not tokens.is_refused(f"127.0.0.1:{free_port()}", client=True)
