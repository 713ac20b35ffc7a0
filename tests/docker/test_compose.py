"""compose.yaml, without an engine: against the specification's schema, and what it may let in."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
from docker_files import DOCKER, ROOT, compose, is_pinned, pins, program, project, settings

FILES = ["compose.yaml", "compose.gpu.yaml"]
ONE_SHOT = {"buckets", "client"}
OWN = {"head", "worker", "mlflow", "buckets", "client"}

SERVICES: dict[str, dict[str, Any]] = compose()["services"]
RUNNING = sorted(SERVICES.keys() - ONE_SHOT)


def variables() -> dict[str, set[str]]:
    """What each variable is used with: `?` when it must be set, else `-` and its default."""
    found: dict[str, set[str]] = {}
    for name in FILES:
        lines = (DOCKER / name).read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        for variable, rule in re.findall(r"\$\{(\w+)([^}]*)\}", text):
            found.setdefault(variable, set()).add("?" if rule.startswith(":?") else rule)
        assert not re.search(r"\$[A-Za-z_]", text), "variables are written with braces"
    return found


EXAMPLE = settings(DOCKER / ".env.example")


@pytest.mark.parametrize("name", FILES)
def test_it_follows_the_compose_specification(name: str) -> None:
    done = subprocess.run(
        [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DOCKER / name)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_example_has_every_variable_and_no_other() -> None:
    assert EXAMPLE.keys() == variables().keys()


def test_secrets_have_no_default_and_everything_else_has_the_examples() -> None:
    for name, used in variables().items():
        assert used == ({f":-{EXAMPLE[name]}"} if EXAMPLE[name] else {"?"}), name
    secret = re.compile("TOKEN|PASSWORD|SECRET|KEY")
    assert {name for name in EXAMPLE if secret.search(name)} == {name for name, value in EXAMPLE.items() if not value}


def test_no_secret_stands_in_the_file() -> None:
    secret = re.compile("TOKEN|PASSWORD|SECRET|KEY")
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            assert not secret.search(variable) or value.startswith("${"), f"{name}: {variable}"
        assert not secret.search(" ".join(service.get("command", []))), f"{name}: command lines are public"


def test_the_examples_command_fills_in_every_secret(tmp_path: Any) -> None:
    for needed in ("awk", "openssl", "sh"):
        program(needed)
    text = (DOCKER / ".env.example").read_text(encoding="utf-8")
    command = "\n".join(re.findall(r"^# {3}(.*)$", text, re.MULTILINE))
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / ".env.example").write_text(text, encoding="utf-8")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=30)
    made = tmp_path / "docker" / ".env"
    filled = settings(made)
    assert filled.keys() == EXAMPLE.keys()
    secrets = [filled[name] for name, value in EXAMPLE.items() if not value]
    assert len(set(secrets)) == len(secrets) == 6 and all(re.fullmatch("[0-9a-f]{48}", value) for value in secrets)
    assert {name: filled[name] for name, value in EXAMPLE.items() if value} == {
        name: value for name, value in EXAMPLE.items() if value
    }
    assert os.stat(made).st_mode & 0o077 == 0, "others on the machine must not read it"


def test_the_made_file_is_ignored_by_git_and_by_the_builder() -> None:
    assert "/.env" in (DOCKER / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines().count("*") == 1


def test_nothing_is_published_on_all_interfaces_and_only_what_asks_for_a_secret() -> None:
    published = {port for service in SERVICES.values() for port in service.get("ports", [])}
    assert published == {f"${{BIND_ADDRESS:-127.0.0.1}}:{port}:{port}" for port in (5000, 8265, 8333)}
    assert EXAMPLE["BIND_ADDRESS"] == "127.0.0.1"
    assert not [name for name, service in SERVICES.items() if service.get("network_mode") or "expose" in service]


def test_the_database_is_seen_by_mlflow_only() -> None:
    assert compose()["networks"]["database"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "database" in service["networks"]} == {"mlflow", "postgres"}
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_every_image_is_pinned_and_ours_is_this_version() -> None:
    assert EXAMPLE["IMAGE"] == f"softnce-ray:{project()['version']}"
    for name, service in SERVICES.items():
        if name in OWN:
            assert service["image"] == "${IMAGE:-" + EXAMPLE["IMAGE"] + "}"
        else:
            assert is_pinned(service["image"]), name


@pytest.mark.parametrize("name", RUNNING)
def test_a_service_is_watched_restarted_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_gains_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    if name in OWN:
        assert service["cap_drop"] == ["ALL"] and "user" not in service


def test_every_ray_node_wants_the_token() -> None:
    for name in ("head", "worker", "client"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_nodes_have_what_a_study_needs_under_the_same_names() -> None:
    needed = {
        "SOFTNCE_STORAGE",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
    head, worker = SERVICES["head"]["environment"], SERVICES["worker"]["environment"]
    assert needed <= worker.keys()
    assert worker.items() < head.items()
    assert head.keys() - worker.keys() == {"SOFTNCE_STORE"}
    assert f"store:{head['SOFTNCE_STORE']}" in SERVICES["head"]["volumes"]


def test_rays_shared_memory_holds_its_object_store() -> None:
    for name in ("head", "worker"):
        service = SERVICES[name]
        (size,) = (part.partition("=")[2] for part in service["command"] if part.startswith("--object-store-memory="))
        assert int(size) < int(service["shm_size"].removesuffix("m")) * 2**20


def test_mlflow_asks_for_a_password_and_for_its_name() -> None:
    service = SERVICES["mlflow"]
    assert "--app-name=basic-auth" in service["command"]
    (hosts,) = (part.partition("=")[2] for part in service["command"] if part.startswith("--allowed-hosts="))
    called = SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert called in hosts and "*" not in hosts.replace("localhost:*", "").replace("127.0.0.1:*", "")
    assert {"flask", "flask-wtf", "mlflow"} <= pins().keys()


def test_the_stores_inner_services_stay_on_its_loopback() -> None:
    command = SERVICES["s3"]["command"]
    assert "-ip.bind=127.0.0.1" in command and "-s3.ip.bind=0.0.0.0" in command
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert SERVICES["s3"]["environment"].keys() == keys, "without both it would let everybody in"
    assert all(SERVICES["s3"]["environment"][key] == SERVICES["head"]["environment"][key] for key in keys)


def test_both_buckets_are_made_before_they_are_used() -> None:
    made = SERVICES["buckets"]["command"][1:]
    used = [
        SERVICES["head"]["environment"]["SOFTNCE_STORAGE"],
        SERVICES["mlflow"]["environment"]["MLFLOW_ARTIFACTS_DESTINATION"],
    ]
    assert [address.removeprefix("s3://").partition("/")[0] for address in used] == made
    for name in ("head", "mlflow"):
        assert SERVICES[name]["depends_on"]["buckets"] == {"condition": "service_completed_successfully"}


def test_every_volume_is_named_and_used() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used - {".."} == compose()["volumes"].keys()


def test_the_gpu_file_only_adds_gpus() -> None:
    (worker,) = compose("compose.gpu.yaml")["services"].values()
    plain = SERVICES["worker"]["command"]
    assert [part for part in worker["command"] if not part.startswith("--num-gpus=")] == plain
