"""Launches on a cluster that asks for a token: a real head, which knows one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from heads import Head, ray_head
from planted import Planted, watched
from servers import free_port

import softnce_ray
from softnce_ray.study import tokens

pytestmark = pytest.mark.slow

TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of a head without processors, by kind."""

    def environment(home: Path) -> dict[str, str]:
        return _environment(home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)

    log = tmp_path_factory.mktemp("head") / "log"
    with ray_head(log, cpus=0, object_store=80_000_000, environment=environment) as started:
        yield {"cluster": started.cluster, "client": started.client}


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


@pytest.mark.parametrize(
    ("mode", "token", "asks", "here", "outcome"),
    [
        # A cluster without tokens: a token that lies about here is no hindrance, one that is asked for is.
        (None, False, "none", False, "disabled"),
        (None, True, "none", False, "disabled"),
        (None, True, "none", True, "disabled"),
        ("disabled", True, "none", False, "disabled"),
        ("token", True, "none", False, "asks for no token, and RAY_AUTH_MODE=token is set here: unset it"),
        ("token", False, "none", False, "Ray finds none here"),
        # One with tokens: what runs on this machine gets ours unasked.
        ("token", True, "ours", False, "token"),
        ("TOKEN", True, "ours", False, "token"),
        ("token", True, "another", False, "got a token that it refuses"),
        ("token", False, "ours", False, "Ray finds none here"),
        ("disabled", True, "ours", True, "got no token"),
        (None, True, "ours", False, "got no token"),
        (None, True, "ours", True, "token"),
        (None, True, "another", True, "got a token that it refuses"),
        (None, False, "ours", True, "got no token"),
        # One that says nothing in time: what is wrong there, Ray tells.
        ("token", True, "silence", False, "token"),
        (None, True, "silence", False, "disabled"),
    ],
)
def test_driver_and_cluster_agree_on_a_mode_or_it_is_said_why_not(
    mode: str | None, token: bool, asks: str, here: bool, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cluster is what it would answer; `test_all_commands` has real ones."""

    def refused(place: str, modes: list[str], client: bool) -> dict[str, bool | None]:
        accepts = {"none": {"disabled", "token"}, "ours": {"token"}, "another": set(), "silence": None}[asks]
        return {each: None if accepts is None else each not in accepts for each in modes}

    monkeypatch.setattr(tokens, "_refused", refused)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("RAY_AUTH_MODE", mode), ("RAY_AUTH_TOKEN", TOKEN if token else None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with (
        contextlib.nullcontext()
        if outcome in ("token", "disabled")
        else pytest.raises(tokens.TokenError, match=outcome)
    ):
        assert tokens.agreed("10.0.0.1:6379", "the cluster", here=here) == outcome


def test_a_session_of_our_own_has_a_token_that_nobody_else_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (mode, token), (_, other) = tokens.of_our_own(), tokens.of_our_own()
    assert mode == "token" and token is not None and len(token) == 64 and token != other
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)  # a cluster's, without a word on the mode
    assert tokens.of_our_own()[1] not in (None, TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert tokens.of_our_own() == ("token", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert tokens.of_our_own() == ("disabled", None)


def test_what_is_no_cluster_refuses_no_token() -> None:
    assert tokens.agreed(f"127.0.0.1:{free_port()}", "it", client=True) == "disabled"


# --- real clusters, with and without tokens ---


@pytest.fixture(scope="module", params=["without tokens", "with tokens"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Head, Planted, dict[str, str]]]:
    """A head with one processor and a Jobs server, secrets in its environment, and what a terminal needs for it."""
    pytest.importorskip("opencensus", reason="the Jobs server needs ray[default]: pip install softnce-ray[cluster]")
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "keys").mkdir()
    planted = Planted(folder / "keys")
    mode = {"RAY_AUTH_MODE": "token"} if request.param == "with tokens" else {}
    known = {**planted.environment, **mode, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    known["PYTHONPATH"] = str(Path(softnce_ray.__file__).parents[1])
    if not mode:
        del known["RAY_AUTH_TOKEN"]

    def environment(home: Path) -> dict[str, str]:
        return _environment(home, **known)

    with ray_head(folder / "log", cpus=1, object_store=80_000_000, environment=environment, dashboard=True) as started:
        yield started, planted, _environment(folder, **known)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_all_commands_work_on_a_cluster_by_option_and_by_variable_and_tell_nobody_a_secret(
    cluster: tuple[Head, Planted, dict[str, str]], plain_study: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    head, planted, environment = cluster
    arms: dict[str, Any] = {"infonce": {}}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(plain_study(arms=arms, seeds=[1]), sort_keys=False))
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(plain_study(study="other", arms=arms, seeds=[1]), sort_keys=False))
    code = 'def f{0}(x):\n    """Add the number {0} to a value."""\n    y = x + {0}\n    return y\n'
    for number in range(60):
        (tmp_path / "source" / f"p{number % 6}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / f"p{number % 6}" / f"m{number}.py").write_text(code.format(number))
    store = ["--store", str(tmp_path / "store")]
    variable: dict[str, str | None]
    auto: dict[str, str | None]
    variable, auto = {"RAY_ADDRESS": head.cluster}, {"RAY_TMPDIR": str(head.folder)}
    unasked = {"RAY_AUTH_MODE": None}  # what runs on this machine gets the token all the same
    stray = {} if "RAY_AUTH_MODE" in environment else {"RAY_AUTH_TOKEN": TOKEN}  # of another cluster
    table: list[tuple[list[str], Mapping[str, str | None], str]] = [
        (["doctor", str(study), *store, "--address", head.cluster], unasked, "ok\tstudy"),
        (["launch", str(study), *store, "--address", head.cluster], {}, "tiny: 1 trials run"),
        (["extend", "tiny", "--seed", "2", *store], variable | stray, "tiny: 1 trials run"),
        (["extend", "tiny", "--seed", "3", *store, "--address", "auto"], auto | unasked | stray, "tiny: 1 trials run"),
        (["resume", "tiny", "--store", str(tmp_path / "anew"), "--address", head.cluster], {}, "tiny: 3 trials run"),
        (["corpus", "mine", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "mined"), "--valid", "5",
          "--test", "5", "--ray"], variable, ""),
        (["launch", str(other), "--store", str(tmp_path / "client"), "--address", head.client], {},
         "other: 1 trials run"),
        (["submit", str(other), "--store", str(tmp_path / "job"), "--address", head.jobs, "--follow"], {},
         "other: 1 trials run"),
    ]  # fmt: skip
    with watched(planted.forms, head.folder, tmp_path) as watch:
        for words, more, says in table:
            if words[0] == "resume":  # of a study that is known and was never run there
                shutil.copytree(tmp_path / "store" / "studies", tmp_path / "anew" / "studies")
            done = subprocess.run(
                [sys.executable, "-m", "softnce_ray", *words],
                env={name: value for name, value in {**environment, **more}.items() if value is not None},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=300,
            )
            told = done.stdout + done.stderr
            assert done.returncode == 0, (words, told)
            assert says in told, (words, told)
            assert not any(form in told.encode() for form in planted.forms)
    assert watch.found == set()
    assert {"runtime_env_agent.log", "raylet.out", "mlflow.db"} <= watch.files
    wrong = {"RAY_AUTH_MODE": "disabled" if "RAY_AUTH_MODE" in environment else "token", **stray}
    refused = subprocess.run(
        [sys.executable, "-m", "softnce_ray", "extend", "tiny", "--seed", "9", *store, "--address", head.cluster],
        env={**environment, **wrong},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert refused.returncode == 2
    assert ("asks for no token" if stray else "asks for a token, got no token") in refused.stderr
